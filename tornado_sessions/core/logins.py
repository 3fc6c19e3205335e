"""Stores new sessions, and limits how many a user who signs in may have."""

from __future__ import annotations

import asyncio
import random

from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.locks import StoreLocks
from tornado_sessions.core.records import Records
from tornado_sessions.core.retries import PATIENCE, Backoff
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.signing_in import SIGN_IN_STEP
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.store import Store
from tornado_sessions.core.users import Users
from tornado_sessions.core.writer import Writer
from tornado_sessions.errors import (
    BackendError,
    ConflictError,
    SessionError,
    SessionLimitError,
)
from tornado_sessions.storage.backend import UNKNOWN
from tornado_sessions.storage.vault import Saved

# How many seconds a login that might be refused because of another one in progress
# waits, at most, before it looks again.
_LIMIT_PAUSES = (0.005, 0.01, 0.02, 0.04, 0.0)


class Logins:
    """Inserts sessions. A login counts against ``limit``, None for no limit.

    With the ``policy`` "oldest" the oldest sign-in makes room for one more; with
    "refuse" the login fails.
    """

    def __init__(
        self,
        store: Store,
        rules: Rules,
        records: Records,
        writer: Writer,
        users: Users,
        limit: int | None,
        policy: str,
    ) -> None:
        self._store = store
        self._rules = rules
        self._records = records
        self._writer = writer
        self._users = users
        self.limit = limit
        self.policy = policy
        self._locks = StoreLocks()

    async def insert(self, state: SessionState, envelope: Envelope) -> Saved:
        """Stores ``envelope`` under a new token. Returns it, with the version.

        For a login, and for nothing else, it sees to it that the user has no more
        sessions than they may have. Parallel logins each store their state
        first and then look: whoever looks last sees all of them.
        """
        user, limit = envelope.user, self.limit
        if user is None or envelope.auth_time == state.base.auth_time:
            return await self._writer.insert(state, envelope)
        if state.refusal is not None:
            # The store is not asked for what is not stored.
            raise SessionError(state.refusal)
        if self._store.vault.ends_users and not self._store.vault.finds_by_user:
            # What has been ended may have been by a clock that is ahead of this one.
            since = envelope.auth_time or 0.0
            not_before = await self._store.vault.not_before(user, since)
            envelope.auth_time = max(since, not_before)
        if limit is None:
            return await self._writer.insert(state, envelope)
        # The record that the login takes the place of is the same session.
        former = state.base.id if state.base.user == user else ""
        async with self._locks.of(user):
            saved = await self._writer.insert(state, envelope)
            try:
                if self.policy == "refuse":
                    await self._refuse_if_too_many(user, envelope.id, former, limit)
                    return saved
                return await self._make_room(saved, envelope, former, limit)
            except SessionLimitError:
                # One that stayed would count for the next login, too.
                await self._store.delete(saved.token)
                raise
            except BaseException:
                self._store.delete_unsent_later(saved.token)
                raise

    async def _make_room(
        self,
        saved: Saved,
        envelope: Envelope,
        former: str,
        limit: int,
    ) -> Saved:
        """Ends the oldest sessions of a user, and never the one that was ``saved``.

        If this one is among the oldest, the clock is behind or another login came
        in between. Its sign-in is made the latest then, so that of two parallel
        logins only one can find the other to be older: its record has to be the
        version that was listed. Returns what is stored of it then.
        """
        user = envelope.user
        assert user is not None
        backoff = Backoff()
        while True:
            listed = (await self._users.look_up(user)).sessions
            listed.pop(former, None)
            live = self._users.live(listed)
            surplus = live[: max(0, len(live) - limit)]
            if not surplus:
                return saved
            if backoff.is_over:
                raise BackendError(
                    f"The login could not make room within {PATIENCE:.0f} s: new"
                    " sessions of the user kept coming. Try again."
                )
            if any(each.id == envelope.id for each in surplus):
                latest = live[-1].auth_time or 0.0
                later = await self._sign_in_later(saved, envelope, latest)
                if later is None:
                    return saved
                saved = later
                continue
            for each in surplus:
                await self._users.end_listed(user, listed[each.id], "limit")
            await backoff.wait()

    async def _sign_in_later(
        self, saved: Saved, envelope: Envelope, latest: float
    ) -> Saved | None:
        """Makes the sign-in later than ``latest``. Returns None if it has ended."""
        token = saved.token
        record = await self._store.load(token)
        if (
            record is None
            or self._records.read(token, record, self._rules.now()) is None
        ):
            return None
        before, envelope.auth_time = envelope.auth_time, latest + SIGN_IN_STEP
        try:
            return await self._writer.replace(token, envelope, record.version)
        except ConflictError:
            envelope.auth_time = before
            return Saved(token, UNKNOWN)

    async def _refuse_if_too_many(
        self, user: str, handle: str, former: str, limit: int
    ) -> None:
        """Raises `.SessionLimitError` if ``user`` has more than ``limit`` sessions.

        Of two logins in two processes that take the last place at once, each sees
        one too many. The newer one goes then, and the older one waits for that.
        """
        for pause in _LIMIT_PAUSES:
            listed = (await self._users.look_up(user)).sessions
            listed.pop(former, None)
            live = self._users.live(listed)
            if len(live) <= limit:
                return
            if handle not in {envelope.id for envelope in live[:limit]}:
                break
            await asyncio.sleep(random.uniform(pause / 2, pause))
        raise SessionLimitError(
            f"The user has {limit} session{'s' * (limit != 1)} already, as many as"
            " session_max_per_user allows. One of these sessions has to end first."
        )

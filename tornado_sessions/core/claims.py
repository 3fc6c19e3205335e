"""If two sessions of a user revoke each other, decides which one survives."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable

import msgspec

from tornado_sessions.core.codec import encode
from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.expiry import KEPT_AFTER_END, is_alive
from tornado_sessions.core.records import Found, Records
from tornado_sessions.core.retries import PATIENCE, Backoff
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.store import Store
from tornado_sessions.errors import (
    BackendError,
    ConflictError,
    SessionDataError,
    SessionGoneError,
)
from tornado_sessions.storage.backend import Record


class Claim:
    """The claim of one session of ``user`` to survive while the others are ended.

    While a request ends the others, the record of its own session has a mark. A
    change of the id copies the mark to the new record. If two sessions have marks,
    the one with the higher mark survives. The mark is stored before the others are
    listed. So a request either sees the mark of the other one, or finds that its own
    session has ended and cannot be marked.

    A login of this request has a higher mark than a session that was only loaded.
    """

    def __init__(
        self,
        store: Store,
        rules: Rules,
        records: Records,
        user: str,
        state: SessionState,
    ) -> None:
        self._store = store
        self._rules = rules
        self._records = records
        self._user = user
        self._state = state
        self._rank = int(state.has_signed_in)
        #: Whether `take` is done. The ``mark`` is empty if it could not be stored: the
        #: record is full, or the session is not among those that are ended.
        self.is_taken = False
        self.mark = ""

    async def handles(self) -> set[str]:
        """Returns all handles that the session has had in this request, and has now.

        Raises `.SessionGoneError` if it has ended.
        """
        handles = {self._state.handle(), self._state.base.id}
        found = await self._find()
        return handles if found is None else handles | {found[2].id}

    async def take(self, by_force: bool) -> bool:
        """Stores the mark. Returns False if the session has another request's mark.

        With ``by_force`` it replaces that mark. Raises `.SessionGoneError` if the
        session has ended.
        """
        mark = f"{self._rank}{secrets.token_urlsafe(6)}"

        async def take() -> bool:
            found = await self._find()
            if found is None or found[2].user != self._user:
                # The session is not among those that are ended.
                return True
            if found[2].claim and not by_force:
                return False
            try:
                await self._replace(found, mark)
            except SessionDataError:
                # The record is full. Without a mark the session never survives
                # another one that has a mark.
                return True
            self.mark = mark
            return True

        self.is_taken = await self._retry(take)
        return self.is_taken

    async def release(self) -> None:
        """Removes the mark. Raises `.SessionGoneError` if the session has ended."""

        async def release() -> bool:
            found = await self._find()
            if found is not None and found[2].claim == self.mark:
                await self._replace(found, "")
            return True

        if self.mark:
            await self._retry(release)

    async def _retry(self, attempt: Callable[[], Awaitable[bool]]) -> bool:
        backoff = Backoff()
        while True:
            try:
                return await attempt()
            except ConflictError as error:
                if backoff.is_over:
                    raise BackendError(
                        f"The session to keep could not be marked within {PATIENCE:.0f}"
                        " s: other requests kept changing it. Try again."
                    ) from error
            await backoff.wait()

    async def _find(self) -> Found | None:
        """Returns the record of the session. None if it is not stored yet.

        Raises `.SessionGoneError` if it has ended. One that expires during the request
        has not.
        """
        state = self._state
        if state.token is None:
            return None
        found = await self._records.last(
            self._store.vault.key_of(state.token), {state.base.user}
        )
        if found is not None and is_alive(
            found[2], self._rules, self._rules.now(), state.judged_at
        ):
            return found
        if state.signs_in:
            # The login begins a new session at its commit.
            return None
        raise SessionGoneError

    async def _replace(self, found: Found, mark: str) -> None:
        envelope: Envelope = msgspec.structs.replace(found[2], claim=mark)
        kept_until = envelope.expires + KEPT_AFTER_END
        record = Record(encode(envelope), expires=kept_until, user=envelope.user)
        await self._store.replace_found(record, found[1].version)
        # The request has loaded another version.
        self._state.stale = True

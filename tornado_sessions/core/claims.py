"""If two sessions of a user revoke each other, decides which one survives."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Collection

import msgspec

from tornado_sessions.core.codec import encode
from tornado_sessions.core.envelope import Envelope, Mark
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

#: A mark that was stored more than so many seconds ago is stale: the request that
#: has stored it has failed, or it is slow. Others need not wait for it.
STALE_AFTER = 5.0


class Claim:
    """The claim of one session of ``user`` to survive while the others are ended.

    While a request ends the others, the record of its own session has a mark. A
    change of the id copies the mark to the new record. If two sessions have marks,
    the one with the higher mark survives. The mark is stored before the others are
    listed. So a request either sees the mark of the other one, or finds that its own
    session has ended and cannot be marked.

    A request need not wait for a stale mark. It stores a higher one of its own and
    lists again. That is safe also where the other request is still at work: the record
    has another version now, so that request cannot end it before it has listed again,
    and then it finds the higher mark. So the clocks decide only who waits.
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
        # A login of this request goes before a session that was only loaded.
        self._precedence = int(state.has_signed_in), secrets.token_urlsafe(6)
        #: Whether `take` is done. The ``mark`` is None if it could not be stored: the
        #: record is full, or the session is not among those that are ended.
        self.is_taken = False
        self.mark: Mark | None = None

    def yields_to(self, others: Collection[Mark]) -> bool:
        """Whether a request with one of the marks ``others`` goes before this one."""
        fresh = [mark for mark in others if not self._is_stale(mark)]
        if self.is_taken and self.mark is None:
            return bool(fresh)
        return any((mark.rank, mark.nonce) > self._precedence for mark in fresh)

    def exceeds(self, others: Collection[Mark]) -> bool:
        """Whether the mark is higher than all ``others``.

        True if it could not be stored: then `yields_to` alone decides.
        """
        return self.mark is None or self.mark > max(others, default=())

    async def handles(self) -> set[str]:
        """Returns all handles that the session has had in this request, and has now.

        Raises `.SessionGoneError` if it has ended. If another request of the session
        has replaced the mark, it has to be taken again.
        """
        handles = {self._state.handle(), self._state.base.id}
        found = await self._find()
        if self.mark is not None and (found is None or found[2].claim != self.mark):
            self.mark, self.is_taken = None, False
        return handles if found is None else handles | {found[2].id}

    async def take(self, others: Collection[Mark], by_force: bool) -> bool:
        """Stores a mark that is higher than ``others``.

        Returns False if the session has the mark of another request. A stale one is
        replaced, and any with ``by_force``. Raises `.SessionGoneError` if the session
        has ended.
        """

        async def take() -> bool:
            found = await self._find()
            if found is None or found[2].user != self._user:
                # The session is not among those that are ended.
                return True
            former = found[2].claim
            if former not in (None, self.mark) and not (
                by_force or self._is_stale(former)
            ):
                return False
            lower = others if former is None else [*others, former]
            level = max((mark.level + 1 for mark in lower), default=0)
            mark = Mark(level, *self._precedence, int(self._rules.now()))
            # Before it is stored: after a timeout it may be stored all the same, and
            # has to be removed.
            self.mark = mark
            try:
                await self._replace(found, mark)
            except SessionDataError:
                # The record is full. Without a mark the session never survives
                # another one that has a mark.
                self.mark = None
            return True

        self.is_taken = await self._retry(take)
        return self.is_taken

    async def release(self) -> None:
        """Removes the mark. Raises `.SessionGoneError` if the session has ended."""

        async def release() -> bool:
            found = await self._find()
            if found is not None and found[2].claim == self.mark:
                await self._replace(found, None)
            return True

        if self.mark is not None:
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

    def _is_stale(self, mark: Mark) -> bool:
        return self._rules.now() - mark.time > STALE_AFTER

    async def _replace(self, found: Found, mark: Mark | None) -> None:
        envelope: Envelope = msgspec.structs.replace(found[2], claim=mark)
        kept_until = envelope.expires + KEPT_AFTER_END
        record = Record(encode(envelope), expires=kept_until, user=envelope.user)
        await self._store.replace_found(record, found[1].version)
        # The request has loaded another version.
        self._state.stale = True

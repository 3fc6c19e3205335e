"""Decides which of two sessions of a user lives that end each other."""

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
    """The claim of one session of ``user`` to stay while the others are ended.

    While a request ends the others, its mark is in the record of its own session,
    and in whatever that becomes. Of two that have marks, the higher one stays. The
    mark is stored before the others are listed. So of two requests each sees the
    mark of the other, or finds its own session ended before it was marked.

    A login of this very request outranks a session that was only loaded.
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
        #: Whether the session counts, with its mark. That is empty if there is no
        #: place for it.
        self.is_taken = False
        self.mark = ""

    async def handles(self) -> set[str]:
        """Returns the handles of the session, whatever its id is now.

        Raises `.SessionGoneError` if it has ended.
        """
        handles = {self._state.handle(), self._state.base.id}
        found = await self._find()
        return handles if found is None else handles | {found[2].id}

    async def take(self, by_force: bool) -> bool:
        """Stores the mark. Returns False if the session has that of another request.

        ``by_force`` replaces that one. Raises `.SessionGoneError` if the session has
        ended.
        """
        mark = f"{self._rank}{secrets.token_urlsafe(6)}"

        async def take() -> bool:
            found = await self._find()
            if found is None or found[2].user != self._user:
                # It is none of those that are ended.
                return True
            if found[2].claim and not by_force:
                return False
            try:
                await self._replace(found, mark)
            except SessionDataError:
                # The record has no room left. It gives way to every mark.
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
        """Returns the record of the session; None if it has none that counts.

        Raises `.SessionGoneError` if it has ended.
        """
        state = self._state
        if state.token is None:
            return None
        found = await self._records.last(
            self._store.vault.key_of(state.token), {state.base.user}
        )
        if found is not None and is_alive(found[2], self._rules, self._rules.now()):
            return found
        if state.signs_in:
            # It begins a fresh session at its commit.
            return None
        raise SessionGoneError

    async def _replace(self, found: Found, mark: str) -> None:
        envelope: Envelope = msgspec.structs.replace(found[2], claim=mark)
        kept_until = envelope.expires + KEPT_AFTER_END
        record = Record(encode(envelope), expires=kept_until, user=envelope.user)
        await self._store.replace_found(record, found[1].version)
        # The request has loaded another version.
        self._state.stale = True

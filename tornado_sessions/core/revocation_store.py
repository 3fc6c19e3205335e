"""Stores which sessions have ended, for a store that cannot list those of a user."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from time import monotonic

from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.expiry import CLOCK_SKEW
from tornado_sessions.core.handles import is_handle, line_of
from tornado_sessions.core.revocation_record import (
    EndedSession,
    RevocationRecord,
    encode_revocations,
    read_revocations,
)
from tornado_sessions.core.users import sign_in
from tornado_sessions.errors import BackendError, SessionGoneError
from tornado_sessions.storage.backend import Backend, Record
from tornado_sessions.storage.vault import HasEnded

_USER = b"tornado_sessions ended of user\0"
_VISITOR = b"tornado_sessions ended of visitor\0"

# For how many seconds a change is tried again while others change the same record,
# and the longest pause between two tries.
PATIENCE = 10.0
_LONGEST_PAUSE = 0.05


class _End:
    """Ends a session with all that it has become in one record.

    ``since`` is its sign-in; None if that is not known. After ``until`` every copy has
    expired; 0 if that is not known.
    """

    def __init__(
        self, handle: str, since: float | None, until: float, now: float
    ) -> None:
        self._handle = handle
        self._since = since
        self._until = until
        self._now = now
        #: The handle that the session had at the end, and why it has not been ended.
        self.last = handle
        self.why: HasEnded | None = None
        #: What is kept of the session if it goes on in another record.
        self.left: EndedSession | None = None

    def __call__(self, revoked: RevocationRecord) -> bool:
        last, since = revoked.last(self._handle, self._since)
        self.last, self.left = last, revoked.left(last)
        # An unknown sign-in may have been by a clock that is ahead.
        latest = self._now + CLOCK_SKEW
        self.why = revoked.why_ended(last, latest if since is None else since)
        if self.why is not None:
            return False
        revoked.forget(self._now)
        if since is None:
            revoked.add_unknown(last, latest)
        else:
            # Copies with other handles may have other timeouts.
            until = self._until if last == self._handle else 0.0
            revoked.add(last, EndedSession(since, until))
        return True


class RevocationStore:
    """Keeps in a backend which sessions have ended.

    Each user is there under a digest of the namespace and the name, and a session
    without a user under a digest of the line of its handles. A time before which
    sign-ins do not count is kept for good: a session may have been given any lifetime
    of its own.
    """

    def __init__(self, backend: Backend, namespace: str) -> None:
        self.backend = backend
        # Of one length, so that no other namespace and user come out the same.
        scope = hashlib.sha256(namespace.encode()).digest()
        self._users = _USER + scope
        self._visitors = _VISITOR + scope

    async def why_ended(self, session: Envelope) -> HasEnded | None:
        """Returns whether ``session`` has ended."""
        if session.user is None and not session.id:
            return None
        key = self._key_of(session)
        revoked = read_revocations(key, await self.backend.load(key))
        if revoked is None:
            return None
        return revoked.why_ended(session.id, sign_in(session)[0])

    async def end(
        self,
        session: Envelope,
        now: float,
        kept_until: float,
        successor: Envelope | None,
    ) -> HasEnded | None:
        """Ends ``session``, which is ``successor`` from now on, if that is given.

        Without it, ends what the session has become, also if that is another user's.
        After ``kept_until`` every copy has expired. Returns why there was nothing to
        end. Raises as `RevocationRecord.add` does.
        """
        key, handle, since = self._key_of(session), session.id, sign_in(session)[0]
        ended = EndedSession(since, kept_until)
        if successor is not None:
            return await self._move(key, handle, ended, successor, now)
        while True:
            end = _End(handle, since, kept_until, now)
            await self._change(key, end)
            if end.left is None:
                return end.why
            key, handle = bytes.fromhex(end.left.place), end.left.successor
            since, kept_until = end.left.next_since, 0.0

    async def end_handle(self, user: str, handle: str, now: float) -> str | None:
        """Ends the session of ``user`` with this handle, or what it has become.

        Returns the handle that it had at the end. Returns None if it has ended already
        or is another user's by now, and for what is no handle. Raises as
        `RevocationRecord.add_unknown` does.
        """
        if not is_handle(handle):
            return None
        end = _End(handle, None, 0.0, now)
        await self._change(self.key_of_user(user), end)
        return end.last if end.why is None else None

    async def _move(
        self,
        key: bytes,
        handle: str,
        ended: EndedSession,
        successor: Envelope,
        now: float,
    ) -> HasEnded | None:
        """Ends the session with this handle, which is ``successor`` from now on."""
        why: HasEnded | None = None
        place = self._key_of(successor)
        ended.successor, ended.next_since = successor.id, sign_in(successor)[0]
        ended.place = "" if place == key else place.hex()

        def move(revoked: RevocationRecord) -> bool:
            nonlocal why
            why = revoked.why_ended(handle, ended.since)
            if why is not None:
                return False
            revoked.forget(now)
            revoked.add(handle, ended)
            return True

        await self._change(key, move)
        return why

    async def not_before(self, user: str) -> float:
        """Returns the time before which sign-ins of ``user`` do not count, or zero."""
        key = self.key_of_user(user)
        revoked = read_revocations(key, await self.backend.load(key))
        return 0.0 if revoked is None else revoked.before

    async def begin(self, user: str, time: float) -> float:
        """Stores that sign-ins of ``user`` before ``time`` do not count.

        Unless something is kept of that user. Returns the time that counts.
        """
        before = time

        def begin(revoked: RevocationRecord) -> bool:
            nonlocal before
            if revoked.before:
                # Another login has been first.
                before = revoked.before
                return False
            before = revoked.before = time
            return True

        key = self.key_of_user(user)
        known = read_revocations(key, await self.backend.load(key))
        if known is not None:
            return known.before
        await self._change(key, begin)
        return before

    async def end_before(
        self, user: str, time: float, but: str | None, since: float
    ) -> float:
        """Ends the sessions of ``user`` whose sign-in was before ``time``.

        Except the one with the handle ``but``, whose sign-in was at ``since``. If that
        one has ended, raises `.SessionGoneError` and stores nothing. Returns the time
        that counts from now on.
        """
        before = 0.0

        def move(revoked: RevocationRecord) -> bool:
            nonlocal before
            spared = None
            if but is not None:
                last, signed_in = revoked.last(but, since)
                if revoked.why_ended(last, signed_in or 0.0) is not None:
                    raise SessionGoneError(
                        "The session to keep has been ended by another request, so"
                        " revoke_all() has ended no other. Whoever uses it has to sign"
                        " in again."
                    )
                spared = line_of(last)
            revoked.end_before(time, spared)
            before = revoked.before
            return True

        await self._change(self.key_of_user(user), move)
        return before

    async def _change(
        self, key: bytes, change: Callable[[RevocationRecord], bool]
    ) -> bool:
        """Stores what ``change`` makes of the record under ``key``.

        Unless it returns False, which is returned. It is called again after each
        conflict.
        """
        deadline, pause = monotonic() + PATIENCE, 0.001
        while True:
            stored = await self.backend.load(key)
            revoked = read_revocations(key, stored) or RevocationRecord(
                0.0, key=key[:16].hex()
            )
            if not change(revoked):
                return False
            record = Record(encode_revocations(revoked), expires=revoked.kept_until())
            if stored is None:
                version = await self.backend.insert(key, record)
            else:
                version = await self.backend.replace(key, record, stored.version)
            if version is not None:
                return True
            if monotonic() > deadline:
                raise BackendError(
                    f"A session could not be ended within {PATIENCE:.0f} s: others kept"
                    " ending sessions of the same user. Try again."
                )
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _key_of(self, session: Envelope) -> bytes:
        if session.user is not None:
            return self.key_of_user(session.user)
        return hashlib.sha256(self._visitors + line_of(session.id).encode()).digest()

    def key_of_user(self, user: str) -> bytes:
        return hashlib.sha256(self._users + user.encode()).digest()

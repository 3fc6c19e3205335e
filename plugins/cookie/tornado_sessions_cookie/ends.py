"""Stores which sessions of users have ended, in the backend ``not_before``."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from time import monotonic

import msgspec

from tornado_sessions import Backend, BackendError, Record, SessionGoneError
from tornado_sessions.storage.vault import fingerprint
from tornado_sessions_cookie.keys import joined

_USER_PURPOSE = b"tornado_sessions cookie not before"

# For how many seconds ``end_before`` tries again while others do the same for the
# same user, and the longest pause between two tries.
PATIENCE = 10.0
_LONGEST_PAUSE = 0.05


class End(msgspec.Struct):
    """What is kept of a user: which of their sessions are none any more."""

    #: Those with an earlier sign-in, in seconds since the epoch.
    before: float
    #: But the one with this handle.
    but: str | None = None
    #: The first half of the key: a record answers for its own.
    key: str = ""

    def has_ended(self, handle: str | None, since: float) -> bool:
        """Whether the session with this handle and this sign-in has ended."""
        return since < self.before and (handle is None or handle != self.but)


class Ends:
    """Keeps in a backend which sessions of users have ended.

    Each user is there under a digest of the namespace and the name. The records are
    for good: a session may have been given any lifetime of its own.
    """

    def __init__(self, backend: Backend, namespace: str) -> None:
        self.backend = backend
        self._context = joined([_USER_PURPOSE, namespace.encode()])

    async def get(self, user: str) -> End | None:
        """Returns what is kept of ``user``, if they ever ended their sessions."""
        key = self._key(user)
        return _read_end(key, await self.backend.load(key))

    async def put(self, user: str, end: End, since: float) -> float:
        """Stores ``end`` of ``user`` in place of what was stored before.

        ``since`` is the sign-in of the session that it spares. Returns the time that
        was stored.
        """
        key = self._key(user)
        end.key = key[:16].hex()
        deadline, pause = monotonic() + PATIENCE, 0.001
        while True:
            stored = await self.backend.load(key)
            other = _read_end(key, stored)
            if other is not None:
                if end.but is not None and other.has_ended(end.but, since):
                    raise SessionGoneError(
                        "The session to keep has been ended by another request, so"
                        " revoke_all() has ended no other. Whoever uses it has to sign"
                        " in again."
                    )
                # What has ended does not begin again, whatever the clock says.
                end.before = max(end.before, other.before)
            record = Record(_encode_end(end))
            if stored is None:
                version = await self.backend.insert(key, record)
            else:
                version = await self.backend.replace(key, record, stored.version)
            if version is not None:
                return end.before
            if monotonic() > deadline:
                raise BackendError(
                    "The sessions of the user could not be ended within"
                    f" {PATIENCE:.0f} s: others kept doing the same. Try again."
                )
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _key(self, user: str) -> bytes:
        return hashlib.sha256(self._context + user.encode()).digest()


_encode_end = msgspec.json.Encoder().encode
_decode_end = msgspec.json.Decoder(End).decode


def _read_end(key: bytes, record: Record | None) -> End | None:
    if record is None:
        return None
    # A decoder's error can hold what it could not decode, so none is kept.
    with contextlib.suppress(msgspec.DecodeError, ValueError, RecursionError):
        end = _decode_end(record.data)
        if end.key == key[:16].hex():
            return end
    raise BackendError(
        "What the store keeps of a user's ended sessions cannot be read. Something else"
        f" has written to it: see the record with the fingerprint {fingerprint(key)}."
    )

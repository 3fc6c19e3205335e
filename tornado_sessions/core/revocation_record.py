"""Defines the record of a user's sessions that have ended."""

from __future__ import annotations

import contextlib

import msgspec

from tornado_sessions.core.signing_in import SIGN_IN_STEP
from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Record
from tornado_sessions.storage.vault import HasEnded, fingerprint

#: How many sessions of a user are kept one by one. If there are more, all sessions end
#: whose sign-in is as old as the oldest of these.
MOST_HANDLES = 200


class EndedSession(msgspec.Struct, array_like=True):
    """What is kept of one session that has ended."""

    #: The sign-in, in seconds since the epoch.
    since: float
    #: When every copy of it has expired; 0 if that is not known.
    until: float
    #: The handle that it has now, and the key of the record for that; empty if the
    #: session has not only moved.
    successor: str = ""
    place: str = ""


class RevocationRecord(msgspec.Struct):
    """What is kept of a user, or of one visitor: which sessions have ended."""

    #: Those with an earlier sign-in, in seconds since the epoch.
    before: float
    #: But the one with this handle.
    but: str | None = None
    #: The first half of the key: a record answers for its own.
    key: str = ""
    #: And those with these handles.
    ended: dict[str, EndedSession] = {}

    def why_ended(self, handle: str, since: float) -> HasEnded | None:
        """Returns whether the session with this handle and this sign-in has ended."""
        if since < self.before and handle != self.but:
            return HasEnded.ENDED
        if handle not in self.ended:
            return None
        has_moved = self.ended[handle].successor
        return HasEnded.MOVED if has_moved else HasEnded.ENDED

    def newest(self, handle: str) -> str:
        """Returns the handle that the session has now, as far as it is known here."""
        while handle in self.ended and self.ended[handle].successor:
            handle = self.ended[handle].successor
        return handle

    def add(self, handle: str, ended: EndedSession) -> None:
        """Ends the session with this handle as well."""
        self.ended[handle] = ended
        if self.but == handle:
            self.but = ended.successor or None
        surplus = len(self.ended) - MOST_HANDLES
        if surplus > 0:
            oldest = sorted(each.since for each in self.ended.values())[surplus - 1]
            self.end_before(oldest + SIGN_IN_STEP, self.but)

    def end_before(self, time: float, but: str | None) -> None:
        """Ends the sessions with an earlier sign-in, except the one with that handle."""
        # What has ended does not begin again, whatever the clock says.
        self.before, self.but = max(time, self.before), but
        for handle, ended in [*self.ended.items()]:
            if ended.since < self.before:
                del self.ended[handle]

    def forget(self, now: float) -> None:
        """Drops the sessions of which every copy has expired."""
        for handle, ended in [*self.ended.items()]:
            if 0 < ended.until < now:
                del self.ended[handle]

    def kept_until(self) -> float:
        """Returns when nothing of it counts any more; zero for never."""
        times = [each.until for each in self.ended.values()]
        return 0.0 if self.before or not all(times) else max(times, default=0.0)


encode_revocations = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(RevocationRecord).decode


def read_revocations(key: bytes, record: Record | None) -> RevocationRecord | None:
    if record is None:
        return None
    # A decoder's error can hold what it could not decode, so none is kept.
    with contextlib.suppress(msgspec.DecodeError, ValueError, RecursionError):
        end = _decode(record.data)
        if end.key == key[:16].hex():
            return end
    raise BackendError(
        "What the store keeps of ended sessions cannot be read. Something else has"
        f" written to it: see the record with the fingerprint {fingerprint(key)}."
    )

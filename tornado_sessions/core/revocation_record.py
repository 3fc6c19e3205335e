"""Defines the record of a user's sessions that have ended."""

from __future__ import annotations

import contextlib

import msgspec

from tornado_sessions.core.handles import line_of
from tornado_sessions.core.signing_in import SIGN_IN_STEP
from tornado_sessions.errors import BackendError, SessionError
from tornado_sessions.storage.backend import Record
from tornado_sessions.storage.vault import HasEnded, fingerprint

#: How many sessions of each kind are kept one by one: those that have ended, those that
#: go on under another handle, and those of which only the handle is known.
MOST_SESSIONS = 200


class EndedSession(msgspec.Struct, array_like=True):
    """What is kept of one session that has ended, or has another handle."""

    #: The sign-in, in seconds since the epoch.
    since: float
    #: When every copy of it has expired; 0 if that is not known.
    until: float
    #: The handle that it has now; empty if it has ended.
    successor: str = ""
    #: The key of the record for that handle, if it is another record.
    place: str = ""
    #: The sign-in of the session with that handle.
    next_since: float = 0.0


class RevocationRecord(msgspec.Struct):
    """What is kept of a user, or of one visitor: which sessions have ended.

    A session is kept by the line of its handles. See `line_of`.
    """

    #: Those with an earlier sign-in, in seconds since the epoch.
    before: float
    #: But the one with this line.
    but: str | None = None
    #: The first half of the key: a record answers for its own.
    key: str = ""
    #: And those with these lines. Of a session that goes on in the same line, all
    #: handles but the last.
    ended: dict[str, EndedSession] = {}
    #: And those with these lines, of which nothing else is known. With each the latest
    #: time at which its user can have signed in.
    unknown: dict[str, float] = {}

    def why_ended(self, handle: str, since: float) -> HasEnded | None:
        """Returns whether the session with this handle and this sign-in has ended."""
        line = line_of(handle)
        ended = self.ended.get(line)
        if ended is not None and ended.successor != handle:
            return HasEnded.MOVED if ended.successor else HasEnded.ENDED
        if line in self.unknown or (since < self.before and line != self.but):
            return HasEnded.ENDED
        return None

    def last(self, handle: str, since: float | None) -> tuple[str, float | None]:
        """Returns the handle that the session has now, as far as it is known here.

        With it the sign-in of that session; None if it is not known. ``since`` is that
        of the session with the first handle.
        """
        while (ended := self.ended.get(line_of(handle))) is not None:
            since = ended.since
            if ended.place or not ended.successor:
                break
            if line_of(ended.successor) == line_of(handle):
                return ended.successor, since
            handle, since = ended.successor, ended.next_since
        return handle, since

    def left(self, handle: str) -> EndedSession | None:
        """Returns what is kept of a session that goes on in another record, or None."""
        ended = self.ended.get(line_of(handle))
        return ended if ended is not None and ended.place else None

    def add(self, handle: str, ended: EndedSession) -> None:
        """Ends the session with this handle as well.

        Raises `.SessionError` if it goes on under another handle, and 200 others do.
        """
        line = line_of(handle)
        known = self.ended.get(line)
        until = ended.until
        if known is not None:
            # Older copies of it may have other timeouts.
            until = max(known.until, until) if known.until and until else 0.0
        self.ended[line] = msgspec.structs.replace(ended, until=until)
        goes_on = [each for each in self.ended if self._goes_on(each)]
        if line in goes_on:
            if len(goes_on) > MOST_SESSIONS:
                raise SessionError(
                    f"The session cannot get another id: {MOST_SESSIONS} other sessions"
                    " of its user have got one, and the store keeps no more of them."
                    " End the others with revoke_all(user, keep=self.session)."
                )
            return
        if line == self.but:
            # What it has become is still spared.
            self.but = line_of(ended.successor) or None
        surplus = len(self.ended) - len(goes_on) - MOST_SESSIONS
        if surplus > 0:
            gone = self.ended.keys() - goes_on
            oldest = sorted(self.ended[each].since for each in gone)[surplus - 1]
            self.end_before(oldest + SIGN_IN_STEP, self.but)
            for each in self._earlier():
                del self.ended[each]

    def add_unknown(self, handle: str, latest: float) -> None:
        """Ends the session with this handle, whose sign-in was at ``latest`` at most.

        Raises `.SessionError` if as many are kept as may be.
        """
        if len(self.unknown) >= MOST_SESSIONS:
            raise SessionError(
                f"{MOST_SESSIONS} sessions of the user have been revoked by their"
                " handles since the last revoke_all(), and the store keeps no more"
                " of them. Call revoke_all(), which ends all sessions of the user."
            )
        line = line_of(handle)
        self.unknown[line] = latest
        if line == self.but:
            self.but = None

    def end_before(self, time: float, but: str | None) -> None:
        """Ends the sessions with an earlier sign-in, except the one with that line."""
        # What has ended does not begin again, whatever the clock says.
        self.before, self.but = max(time, self.before), but
        for line in self._earlier():
            # A destroy with a handle from before a login ends what came of it.
            if line_of(self.ended[line].successor) in ("", line):
                del self.ended[line]
        for line, latest in [*self.unknown.items()]:
            if latest < self.before:
                del self.unknown[line]

    def forget(self, now: float) -> None:
        """Drops the sessions of which every copy has expired."""
        for line, ended in [*self.ended.items()]:
            if 0 < ended.until < now:
                del self.ended[line]

    def kept_until(self) -> float:
        """Returns when nothing of it counts any more; zero for never."""
        times = [each.until for each in self.ended.values()]
        if self.before or self.unknown or not all(times):
            return 0.0
        return max(times, default=0.0)

    def _goes_on(self, line: str) -> bool:
        return line_of(self.ended[line].successor) == line

    def _earlier(self) -> list[str]:
        """Returns the lines that have ended by the time of their sign-in alone."""
        return [
            line
            for line, ended in self.ended.items()
            if ended.since < self.before and line != self.but
        ]


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

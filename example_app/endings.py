"""Remembers why sessions have ended, to say so at the next sign-in."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

from tornado_sessions import SessionEvent

#: How many ended sessions are remembered at most.
MOST = 10_000

_TEXTS = {
    "idle": "You were signed out because you had been away for a long time.",
    "lifetime": "You were signed out because your sign-in was too long ago.",
    "limit": "You were signed out here because you have signed in elsewhere.",
    "revoked": "You were signed out here from another of your devices.",
}


class Ending:
    """Why the session of one request has ended; empty if it has not."""

    text = ""


_watched: contextvars.ContextVar[Ending] = contextvars.ContextVar("ending")


class Endings:
    """Why the sessions of users have ended, by their fingerprints.

    The reason is shown only to a browser that still sends the id of the session that
    has ended. So nobody learns from it which names exist, or what they do. It is in
    the memory of this process, so each of several processes knows its own.
    """

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def __len__(self) -> int:
        """How many ended sessions are remembered."""
        return len(self._reasons)

    def listen(self, event: SessionEvent) -> None:
        """Is the ``session_listener`` of the shop."""
        mark = event.fingerprint
        if mark is None or event.name not in ("revoked", "expired", "refused"):
            return
        if event.user and event.name != "refused":
            reason = event.reason or "revoked"
            # One that was put out stays so when it expires.
            self._reasons.setdefault(mark, reason)
            if len(self._reasons) > MOST:
                del self._reasons[next(iter(self._reasons))]
        ending = _watched.get(None)
        if ending is not None and event.name != "revoked":
            ending.text = _TEXTS.get(self._reasons.get(mark, ""), "")

    @contextlib.contextmanager
    def watch(self) -> Iterator[Ending]:
        """Yields why the session ended that is loaded within the block."""
        ending = Ending()
        token = _watched.set(ending)
        try:
            yield ending
        finally:
            _watched.reset(token)

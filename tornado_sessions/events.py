"""Tells an application what becomes of its sessions."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

logger = logging.getLogger("tornado_sessions")


@dataclasses.dataclass(frozen=True)
class SessionEvent:
    """Something that became of a session, or of the store, for a listener.

    A session is named by a fingerprint, which is safe to log: it leads neither
    to the cookie nor into the store, and it changes when the id does.
    """

    #: What happened. To a session: "created", "regenerated", "destroyed",
    #: "expired", "revoked", "conflict". To a request: "refused", "superseded". To
    #: the store: "store_down" and "store_up".
    name: str
    #: When, in seconds since the epoch.
    time: float
    #: Of which session; None where there is none, or more than one.
    fingerprint: str | None = None
    #: Under which fingerprint a session that was regenerated went before.
    former: str | None = None
    #: Whose session it is; None for nobody's, and where that is not known.
    user: str | None = None
    #: Why, in a word or two; for "store_down" what the error says.
    reason: str | None = None


#: What the ``session_listener`` setting is.
Listener = Callable[[SessionEvent], object]


def tell(listener: Listener, event: SessionEvent) -> None:
    """Calls ``listener``; where it raises, a log line is all that comes of it."""
    try:
        listener(event)
    except Exception:
        logger.exception("The session_listener failed over the event %r.", event.name)

"""Defines the events that the listener of an application receives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class SessionEvent:
    """Something that happened to a session, to a request or to the store.

    The fingerprint identifies a session and is safe to log: neither the session
    id nor the key can be derived from it. It changes when the id changes.
    """

    #: What happened. To a session: "created", "regenerated", "destroyed",
    #: "edited", "expired", "revoked", "conflict". To a request: "refused", "superseded". To
    #: the store: "store_down" and "store_up". To a user: "new_device".
    name: str
    #: When, in seconds since the epoch.
    time: float
    #: The session; None if there is none, or more than one.
    fingerprint: str | None = None
    #: The previous fingerprint of a session that was regenerated.
    former: str | None = None
    #: The user of the session; None if there is none, or it is not known.
    user: str | None = None
    #: The reason, in a word or two; for "store_down" the message of the error.
    reason: str | None = None
    #: The handle of the session, `.Session.id`; None if it is not known, as for an id
    #: that the store does not have.
    handle: str | None = None
    #: The address and the header User-Agent of the request in which it happened, if
    #: the setting ``session_listener_requests`` is True. None outside of a request.
    address: str | None = None
    user_agent: str | None = None
    #: The name of the tenant that the session and the user belong to; None without
    #: the setting ``session_tenants``.
    tenant: str | None = None


#: The type of the ``session_listener`` setting.
Listener = Callable[[SessionEvent], object]

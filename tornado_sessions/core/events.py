"""Tells the listener of an application what becomes of its sessions."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from typing import Protocol

from tornado_sessions.core.rules import Rules
from tornado_sessions.events import Listener, SessionEvent
from tornado_sessions.logs import SEVERAL, LimitedLog


class Fingerprints(Protocol):
    """What names a session in a log; a `.Vault`."""

    def fingerprint(self, token: str) -> str: ...
    def fingerprint_found(self, key: bytes) -> str: ...
    def is_well_formed(self, token: str) -> bool: ...


#: How many characters of a User-Agent an event has at the most.
LONGEST_USER_AGENT = 500

# The address and the user agent of the request that the running code belongs to. Tasks
# that a request starts inherit it, and the timers of this library have empty contexts.
_request: contextvars.ContextVar[tuple[str | None, str | None]] = (
    contextvars.ContextVar("tornado_sessions_request", default=(None, None))
)


class Events:
    """Makes events for the listener. It costs one test where there is none."""

    def __init__(
        self,
        listener: Listener | None,
        rules: Rules,
        fingerprints: Callable[[], Fingerprints],
        logs: LimitedLog,
        has_requests: bool = False,
        tenant: str | None = None,
    ) -> None:
        self.listener = listener
        #: Whether events have the address and the user agent of the request.
        self.has_requests = has_requests
        self._rules = rules
        self._fingerprints = fingerprints
        self._logs = logs
        self._tenant = tenant

    def note_request(self, address: str | None, user_agent: str) -> None:
        """Notes from where the request comes that this task serves."""
        _request.set((address, user_agent[:LONGEST_USER_AGENT] or None))

    def tell(
        self,
        name: str,
        token: str | None = None,
        *,
        former: str | None = None,
        user: str | None = None,
        reason: str | None = None,
        handle: str = "",
    ) -> None:
        """Tells of something that happened to the session of ``token``."""
        if self.listener is None:
            return
        mark = self._fingerprints().fingerprint
        self._tell(
            name,
            None if token is None else mark(token),
            None if former is None else mark(former),
            user,
            reason,
            handle,
        )

    def tell_by_key(
        self,
        name: str,
        key: bytes,
        user: str | None,
        handle: str,
        reason: str | None = None,
    ) -> None:
        """Tells of something that happened to the session under ``key``."""
        if self.listener is None:
            return
        mark = self._fingerprints().fingerprint_found(key)
        self._tell(name, mark, None, user, reason, handle)

    def tell_unknown(self, token: str) -> None:
        """Tells that a request came with an id that the store does not know."""
        if self.listener is None:
            return
        known = self._fingerprints().is_well_formed(token)
        self.tell("refused", token, reason="unknown" if known else "malformed")

    def tell_unreadable(self, mark: str, reason: str) -> None:
        """Tells that the record of the session with that fingerprint is none."""
        if self.listener is not None:
            self._tell("refused", mark, None, None, reason, "")

    def _tell(
        self,
        name: str,
        mark: str | None,
        former: str | None,
        user: str | None,
        reason: str | None,
        handle: str,
    ) -> None:
        address, user_agent = _request.get() if self.has_requests else (None, None)
        event = SessionEvent(
            name=name,
            time=self._rules.now(),
            fingerprint=mark,
            former=former,
            user=user,
            reason=reason,
            handle=handle or None,
            address=address,
            user_agent=user_agent,
            tenant=self._tenant,
        )
        assert self.listener is not None
        try:
            self.listener(event)
        except Exception:  # noqa: BLE001 - it stops nothing
            self._logs.log(
                logging.ERROR,
                "The session_listener failed over the event %r.",
                name,
                most=SEVERAL,
                exc_info=True,
            )

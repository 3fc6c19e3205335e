"""Tells the listener of an application what becomes of its sessions."""

from __future__ import annotations

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


class Events:
    """Makes events for the listener. It costs one test where there is none."""

    def __init__(
        self,
        listener: Listener | None,
        rules: Rules,
        fingerprints: Callable[[], Fingerprints],
        logs: LimitedLog,
    ) -> None:
        self.listener = listener
        self._rules = rules
        self._fingerprints = fingerprints
        self._logs = logs

    def tell(
        self,
        name: str,
        token: str | None = None,
        *,
        former: str | None = None,
        user: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Tells of something that happened to the session of ``token``."""
        if self.listener is None:
            return
        mark = self._fingerprints().fingerprint
        self._tell(
            SessionEvent(
                name=name,
                time=self._rules.now(),
                fingerprint=None if token is None else mark(token),
                former=None if former is None else mark(former),
                user=user,
                reason=reason,
            )
        )

    def tell_ended(
        self, name: str, key: bytes, user: str | None, reason: str | None = None
    ) -> None:
        """Tells of something that happened to the session under ``key``."""
        if self.listener is None:
            return
        mark = self._fingerprints().fingerprint_found(key)
        self._tell(
            SessionEvent(name, self._rules.now(), mark, user=user, reason=reason)
        )

    def tell_unknown(self, token: str) -> None:
        """Tells that a request came with an id that the store does not know."""
        if self.listener is None:
            return
        known = self._fingerprints().is_well_formed(token)
        self.tell("refused", token, reason="unknown" if known else "malformed")

    def tell_unreadable(self, mark: str, reason: str) -> None:
        """Tells that the record of the session with that fingerprint is none."""
        if self.listener is not None:
            self._tell(SessionEvent("refused", self._rules.now(), mark, reason=reason))

    def _tell(self, event: SessionEvent) -> None:
        assert self.listener is not None
        try:
            self.listener(event)
        except Exception:  # noqa: BLE001 - it stops nothing
            self._logs.log(
                logging.ERROR,
                "The session_listener failed over the event %r.",
                event.name,
                most=SEVERAL,
                exc_info=True,
            )

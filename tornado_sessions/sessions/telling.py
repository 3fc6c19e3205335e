"""Tells a listener and the log what becomes of sessions and their store."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tornado_sessions.backend import Record
from tornado_sessions.errors import BackendError
from tornado_sessions.events import Listener, SessionEvent, tell
from tornado_sessions.logs import LimitedLog
from tornado_sessions.vault import Vault

T = TypeVar("T")

logger = logging.getLogger("tornado_sessions")


class TellingSessions:
    """Tells of events. Whoever does so asks first whether there is a listener."""

    def __init__(self, vault: Vault, listener: Listener | None) -> None:
        self.vault = vault
        self.listener = listener
        #: The clock, in seconds since the epoch. No other part reads one.
        self.now: Callable[[], float] = time.time
        # Which of "read" and "write" the store has failed at last.
        self._failing: set[str] = set()
        self._told: set[str] = set()
        #: For what a client can bring about as often as it likes.
        self.limited_log = LimitedLog(logger)

    def _tell_once(self, level: int, message: str, *args: object) -> None:
        """Logs ``message`` at its first time."""
        if message not in self._told:
            self._told.add(message)
            logger.log(level, message, *args)

    def _tell(
        self,
        name: str,
        token: str | None = None,
        *,
        former: str | None = None,
        user: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Tells the listener of an event; ask first whether there is one."""
        assert self.listener is not None
        mark = self.vault.fingerprint
        event = SessionEvent(
            name=name,
            time=self.now(),
            fingerprint=None if token is None else mark(token),
            former=None if former is None else mark(former),
            user=user,
            reason=reason,
        )
        tell(self.listener, event)

    def _tell_unknown(self, token: str) -> None:
        known = self.vault.is_well_formed(token)
        self._tell("refused", token, reason="unknown" if known else "malformed")

    def _tell_ended(
        self, name: str, key: bytes, user: str | None, reason: str | None = None
    ) -> None:
        """Tells that the session under ``key`` was "destroyed" or "revoked"."""
        assert self.listener is not None
        mark = self.vault.fingerprint_found(key)
        event = SessionEvent(name, self.now(), mark, user=user, reason=reason)
        tell(self.listener, event)

    # The store, as others of these layers call it.

    def _load(self, token: str) -> Awaitable[Record | None]:
        answer = self.vault.load(token)
        return answer if self.listener is None else self._noted("read", answer)

    def _save(self, token: str | None, record: Record) -> Awaitable[str]:
        answer = self.vault.save(token, record)
        return answer if self.listener is None else self._noted("write", answer)

    def _delete(self, token: str) -> Awaitable[None]:
        answer = self.vault.delete(token)
        return answer if self.listener is None else self._noted("write", answer)

    def _load_found(self, key: bytes) -> Awaitable[Record | None]:
        answer = self.vault.load_found(key)
        return answer if self.listener is None else self._noted("read", answer)

    def _replace(self, record: Record) -> Awaitable[None]:
        answer = self.vault.replace(record)
        return answer if self.listener is None else self._noted("write", answer)

    def _delete_found(self, key: bytes) -> Awaitable[None]:
        answer = self.vault.delete_found(key)
        return answer if self.listener is None else self._noted("write", answer)

    async def _noted(self, operation: str, answer: Awaitable[T]) -> T:
        """Answers what the store does, and tells when it fails and works again.

        One that can be read and not written to, as on a full disk, is down.
        """
        failing = self._failing
        try:
            answered = await answer
        except BackendError as error:
            if not failing:
                self._tell("store_down", reason=str(error))
            failing.add(operation)
            raise
        if operation in failing:
            failing.remove(operation)
            if not failing:
                self._tell("store_up")
        return answered

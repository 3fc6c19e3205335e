"""Stores the envelope of a session."""

from __future__ import annotations

from typing import Any

from tornado_sessions.core.cleanup import Cleanup
from tornado_sessions.core.codec import Envelope, encode
from tornado_sessions.core.expiry import KEPT_AFTER_END, expires_at
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.store import Store
from tornado_sessions.errors import SessionError
from tornado_sessions.storage.backend import Record


class Writer:
    """Writes records, and checks first whether that may be done."""

    def __init__(self, store: Store, rules: Rules, cleanup: Cleanup) -> None:
        self._store = store
        self._rules = rules
        self._cleanup = cleanup

    async def put(
        self,
        state: SessionState,
        token: str | None,
        envelope: Envelope,
        version: Any,  # noqa: ANN401
    ) -> str:
        """Stores ``envelope`` as seen now, and returns the client's token."""
        if state.refusal is not None:
            raise SessionError(state.refusal)
        if state.headers_sent and (token is None or not self._rules.revocable):
            state.require_cookie()
        if self._cleanup.timer is None:
            self._cleanup.begin()
        # To the millisecond: more digits would only take room in every record.
        envelope.seen = int(self._rules.now() * 1000) / 1000
        ends = expires_at(envelope, self._rules)
        if ends > envelope.seen:
            envelope.expires = ends
        else:
            # Its lifetime has passed while the request ran: nothing is extended.
            envelope.expires = min(envelope.expires, ends)
        kept_until = envelope.expires + KEPT_AFTER_END
        record = Record(encode(envelope), version, kept_until, envelope.user)
        return await self._store.save(token, record)

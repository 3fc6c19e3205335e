"""Stores the envelope of a session."""

from __future__ import annotations

from collections.abc import Awaitable

from tornado_sessions.core.cleanup import Cleanup
from tornado_sessions.core.codec import encode
from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.expiry import KEPT_AFTER_END, expires_at, seen_at
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.store import Store
from tornado_sessions.errors import SessionError
from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.vault import Saved


class Writer:
    """Writes records, and checks first whether that may be done."""

    def __init__(self, store: Store, rules: Rules, cleanup: Cleanup) -> None:
        self._store = store
        self._rules = rules
        self._cleanup = cleanup

    def insert(self, state: SessionState, envelope: Envelope) -> Awaitable[Saved]:
        """Stores ``envelope`` as seen now, under a new token. See `.Vault.insert`."""
        if state.refusal is not None:
            raise SessionError(state.refusal)
        if state.headers_sent:
            state.require_cookie()
        self._cleanup.begin()
        return self._store.insert(self._record(envelope, is_use=True))

    def replace(
        self, token: str, envelope: Envelope, version: Version, is_use: bool = True
    ) -> Awaitable[Saved]:
        """Stores ``envelope``, as seen now if ``is_use``. See `.Vault.replace`.

        If the store is not `.Vault.revocable`, the client gets a new token, and the
        caller has to see to it that this can be sent.
        """
        return self._store.replace(token, self._record(envelope, is_use), version)

    def _record(self, envelope: Envelope, is_use: bool) -> Record:
        """Returns the record to store. With ``is_use`` the idle timeout restarts."""
        rules = self._rules
        if is_use:
            envelope.seen = seen_at(envelope, rules.now())
        rules.latest = max(rules.latest, envelope.seen)
        ends = expires_at(envelope, rules)
        if ends > envelope.seen:
            envelope.expires = ends
        else:
            # Its lifetime has passed while the request ran: nothing is extended.
            envelope.expires = min(envelope.expires, ends)
        kept_until = envelope.expires + KEPT_AFTER_END
        return Record(encode(envelope), expires=kept_until, user=envelope.user)

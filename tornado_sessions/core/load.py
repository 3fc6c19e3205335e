"""Loads the session of a request."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

from tornado_sessions.core.cleanup import Cleanup
from tornado_sessions.core.commit import Commits
from tornado_sessions.core.events import Events
from tornado_sessions.core.expiry import is_alive, renewal_interval
from tornado_sessions.core.records import Records
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.sockets import Sockets
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.store import Store
from tornado_sessions.core.tasks import start_eagerly
from tornado_sessions.storage.outdated import OutdatedRecord

#: Up to how many different ids of one request are looked up.
MOST_IDS = 4


class Loader:
    """Loads sessions by the ids that requests bring."""

    def __init__(
        self,
        store: Store,
        rules: Rules,
        records: Records,
        commits: Commits,
        cleanup: Cleanup,
        sockets: Sockets,
        events: Events,
    ) -> None:
        self._store = store
        self._rules = rules
        self._records = records
        self._commits = commits
        self._cleanup = cleanup
        self._sockets = sockets
        self._events = events

    async def load(self, token: str | None) -> SessionState:
        """Returns the state of the session of ``token``. See `.Sessions.load`."""
        rules = self._rules
        if token is None:
            return SessionState(rules)
        if self._cleanup.begin():
            self._sockets.resume()
        record = await self._store.load(token)
        if record is None:
            self._events.tell_unknown(token)
            return SessionState(rules)
        now = rules.now()
        envelope = self._records.decode(token, record)
        if envelope is None:
            return SessionState(rules)
        if not is_alive(envelope, rules, now):
            state = SessionState(rules)
            state.not_alive = {token: envelope.user}
            if envelope.successor:
                self._events.tell(
                    "superseded", token, user=envelope.user, handle=envelope.id
                )
            else:
                self._records.tell_expired(token, envelope, now)
            return state
        rules.latest = max(rules.latest, envelope.seen)
        is_outdated = isinstance(record, OutdatedRecord)
        return SessionState(rules, envelope, token, record.version, is_outdated, now)

    async def load_one_of(self, tokens: Sequence[str]) -> SessionState:
        """Returns the state of the only token among ``tokens`` that is alive.

        Returns a new one if none is alive. If several are, or if there are more
        than four tokens, which are not looked up, nothing of it can be stored: it
        has a ``refusal``. Raises as `load` does.
        """
        if len(tokens) > MOST_IDS:
            return self._refused(
                f"The request came with more than {MOST_IDS} different session ids."
                " None was looked up, so nothing is stored and no session is ended."
                " The client is told to drop its cookie: it has to send the request"
                " again."
            )
        # All of them are waited for, so that no error is left behind.
        results = await asyncio.gather(
            *(start_eagerly(self.load(token)) for token in tokens),
            return_exceptions=True,
        )
        loaded = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            loaded.append(result)
        alive = {state.token: state for state in loaded if state.token is not None}
        not_alive: dict[str, str | None] = {}
        for each in loaded:
            not_alive |= each.not_alive
        if len(alive) < 2:
            state = next(iter(alive.values()), loaded[0])
            state.not_alive = not_alive
            return state
        refused = self._refused(
            f"The request came with {len(alive)} different session ids that are alive."
            " It is not known whose session this is, and nothing is stored. The client"
            " is told to drop its cookie: it has to send the request again."
        )
        refused.found = {token: state.base.user for token, state in alive.items()}
        refused.not_alive = not_alive
        return refused

    def _refused(self, reason: str) -> SessionState:
        state = SessionState(self._rules)
        state.refusal = reason
        return state

    async def touch(self, token: str) -> float:
        """Notes that the session of ``token`` is in use, if that is due.

        Returns when it is due again, in seconds since the epoch. For a session
        that is used without requests, as on a WebSocket. Raises `.BackendError` if
        the store fails.
        """
        state = await self.load(token)
        if state.token is None:
            self._sockets.end(token)
            return math.inf
        await self._commits.commit(state)
        interval = renewal_interval(state.base, self._rules)
        # Where that could not be stored, the next message is to try again, but not
        # each of a thousand.
        return max(state.current.seen + interval, self._rules.now() + min(interval, 1))

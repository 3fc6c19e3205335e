"""Notes in the store that a session is in use."""

from __future__ import annotations

import logging
import math

import msgspec

from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.expiry import expires_at, is_renewal_due, seen_at
from tornado_sessions.core.records import Records
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.writer import Writer
from tornado_sessions.errors import (
    BackendError,
    ConflictError,
    SessionDataError,
    SessionGoneError,
)
from tornado_sessions.logs import SEVERAL, LimitedLog
from tornado_sessions.storage.backend import UNKNOWN
from tornado_sessions.storage.vault import Saved


class Renewals:
    """Extends the idle timeout of sessions that are only read."""

    def __init__(
        self, rules: Rules, records: Records, writer: Writer, logs: LimitedLog
    ) -> None:
        self._rules = rules
        self._records = records
        self._writer = writer
        self._logs = logs

    async def renew(self, state: SessionState) -> None:
        """Extends the idle timeout after a pure read.

        Does nothing if the lifetime has passed. A renewal that fails is logged, and
        the next commit tries again; a response does not wait for a second one.
        """
        base, token = state.base, state.token
        assert token is not None
        now = self._rules.now()
        renewed = msgspec.structs.replace(base, seen=seen_at(base, now))
        if expires_at(renewed, self._rules) <= now or (
            state.headers_sent and not self._rules.revocable
        ):
            state.noted_at = math.inf
            return
        try:
            if state.stale:
                saved = await self._renew_newest(state, token, renewed)
            else:
                try:
                    saved = await self._writer.replace(
                        state, token, renewed, state.version
                    )
                except ConflictError:
                    if state.noted_at > -math.inf:
                        # Whoever was first has saved it after this request loaded it.
                        # For a quick request that is renewal enough.
                        state.noted_at = state.judged_at
                        if not state.needs_renewal:
                            return
                    saved = await self._renew_newest(state, token, renewed)
        except SessionGoneError:
            state.noted_at = math.inf
            if state.on_socket:
                raise
        except (BackendError, SessionDataError) as error:
            state.renewal_failed = True
            # Longer by a digit of a time, it may no longer fit where it is.
            self._logs.log(
                logging.WARNING,
                "A session could not be renewed: %s",
                str(error),
                most=SEVERAL,
            )
        else:
            state.settle(base, saved, renewed)

    async def _renew_newest(
        self, state: SessionState, token: str, renewed: Envelope
    ) -> Saved:
        """Extends the idle timeout of what others have saved, if that is due.

        Puts the times of the record into ``renewed``.
        """
        newest, version = await self._records.newest(state, token)
        saved = Saved(token, version)
        if is_renewal_due(newest, self._rules, self._rules.now()):
            # Whoever saves in between has renewed it.
            try:
                saved = await self._writer.replace(state, token, newest, version)
            except ConflictError:
                saved = Saved(token, UNKNOWN)
        renewed.seen, renewed.expires = newest.seen, newest.expires
        return saved

"""Notes in the store that a session is in use."""

from __future__ import annotations

import logging
import math

import msgspec

from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.expiry import expires_at, seen_at
from tornado_sessions.core.lane import Change
from tornado_sessions.core.lanes import FIRST, Lanes
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
from tornado_sessions.storage.vault import Saved


class Renewals:
    """Extends the idle timeout of sessions that are only read."""

    def __init__(
        self, rules: Rules, writer: Writer, lanes: Lanes, logs: LimitedLog
    ) -> None:
        self._rules = rules
        self._writer = writer
        self._lanes = lanes
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
        has_ended = expires_at(renewed, self._rules) <= now
        saved: Saved | None = None
        try:
            if self._rules.revocable:
                # Of one that has ended others may have extended the lifetime.
                saved = await self._store(state, token, renewed, has_ended)
            elif not (has_ended or state.headers_sent):
                saved = await self._writer.replace(token, renewed, state.version)
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
            if saved is not None:
                state.settle(base, saved, renewed)
            if state.needs_renewal:
                state.noted_at = math.inf

    async def _store(
        self, state: SessionState, token: str, renewed: Envelope, has_ended: bool
    ) -> Saved | None:
        """Stores ``renewed``, or what others have stored, if the use is due there.

        Returns None if others have stored it since the request began. Puts the times
        of the record into ``renewed``.
        """
        lanes = self._lanes
        lane = lanes.enter(token)
        place = FIRST
        if lane is None:
            place = lanes.next_place()
        elif not (state.stale or has_ended):
            try:
                saved = await self._writer.replace(token, renewed, state.version)
            except ConflictError:
                if state.noted_at > -math.inf:
                    # Whoever was first has saved it after this request loaded it.
                    # For a quick request that is renewal enough.
                    state.noted_at = state.judged_at
                    if not state.needs_renewal:
                        lanes.leave(lane)
                        return None
            except BaseException:
                lanes.leave(lane)
                raise
            else:
                lanes.leave(lane, renewed, saved.version)
                return saved
        change = Change(state, place, None)
        lanes.join(token, change)
        if lane is not None:
            lanes.leave(lane)
        stored = await change.future
        renewed.seen, renewed.expires = stored.envelope.seen, stored.envelope.expires
        return Saved(token, stored.version)

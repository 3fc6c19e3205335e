"""Gives sessions another id."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tornado_sessions.core.codec import decode, tombstone
from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.events import Events
from tornado_sessions.core.expiry import TOMBSTONE_LIFE, last_end
from tornado_sessions.core.lane import Lane
from tornado_sessions.core.lanes import Lanes
from tornado_sessions.core.logins import Logins
from tornado_sessions.core.records import Records
from tornado_sessions.core.retries import retry_conflicts
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.signing_in import applied
from tornado_sessions.core.sockets import Sockets
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.store import Store
from tornado_sessions.errors import ConflictError, SessionError, SessionGoneError
from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.vault import HasEnded, Saved

# Stores an envelope in place of one version of a record.
_Write = Callable[[SessionState, str, Envelope, Version], Awaitable[Saved]]


class Moves:
    """Moves sessions to fresh tokens."""

    def __init__(
        self,
        store: Store,
        rules: Rules,
        records: Records,
        logins: Logins,
        lanes: Lanes,
        sockets: Sockets,
        events: Events,
    ) -> None:
        self._store = store
        self._rules = rules
        self._records = records
        self._logins = logins
        self._lanes = lanes
        self._sockets = sockets
        self._events = events

    async def move_alone(
        self, state: SessionState, token: str, packed: Envelope, lane: Lane | None
    ) -> Saved:
        """Changes the id, while no other request saves the session here."""
        write, is_first = self.move, lane is not None
        if lane is None:
            lane = await self._lanes.turn(token, self._lanes.next_place())
        try:
            if is_first and not state.stale:
                try:
                    return await write(state, token, packed, state.version)
                except ConflictError:
                    self._events.tell(
                        "conflict", token, user=packed.user, handle=packed.id
                    )
            return await retry_conflicts(
                lambda: self.store_on_newest(state, token, packed, write, lane), lane
            )
        finally:
            # What is behind it finds the record replaced.
            self._lanes.leave(lane)

    async def store_on_newest(
        self,
        state: SessionState,
        token: str,
        packed: Envelope,
        write: _Write,
        lane: Lane | None = None,
    ) -> Saved:
        """Has ``write`` store the changes in ``packed`` on what the store has now."""
        if lane is None:
            newest, version = await self._records.newest(state, token)
        else:
            newest, version = await self._records.newest_in(lane, state)
        merged = applied(state, packed, newest)
        saved = await write(state, token, merged, version)
        packed.seen, packed.expires = merged.seen, merged.expires
        packed.auth_time = merged.auth_time
        return saved

    async def move(
        self,
        state: SessionState,
        token: str,
        envelope: Envelope,
        version: Version,
    ) -> Saved:
        """Stores ``envelope`` under a fresh token and ends the old record.

        That one is overwritten with a tombstone, which names the new one. So no
        other request saves to it, one that has ended it first is noticed, and who
        destroys or revokes it later ends the new one.
        """
        fresh = await self._logins.insert(state, envelope)
        if not self._rules.revocable:
            if self._rules.ends_copies:
                await self._end_moved(state, token, envelope, fresh.token)
            self._sockets.end(token)
            return fresh
        # It is listed with the user's sessions, and left out there: a store that is full
        # drops anonymous records first, and visitors must not displace this one.
        left = Record(
            tombstone(
                state.base.id, state.base.user, self._store.vault.key_of(fresh.token)
            ),
            expires=self._rules.now() + TOMBSTONE_LIFE,
            user=envelope.user,
        )
        try:
            await self._store.replace(token, left, version)
        except ConflictError:
            # The store works, so nobody finds the new record after this.
            await self._store.delete_unsent(fresh.token)
            raise
        except SessionError:
            self._store.delete_unsent_later(fresh.token)
            raise
        self._sockets.end(token)
        return fresh

    async def _end_moved(
        self, state: SessionState, former: str, envelope: Envelope, token: str
    ) -> None:
        """Ends the copies of ``former``, which is ``token`` from now on."""
        ended = await self.end_copies(former, token)
        if ended is None:
            return
        # Of two logins of one visitor each takes the values along.
        signs_in = envelope.auth_time != state.base.auth_time
        if (
            ended is HasEnded.MOVED
            and signs_in
            and state.base.user in (None, envelope.user)
        ):
            return
        raise SessionGoneError(
            "The session was ended elsewhere while this request gave it another id; what"
            " the request changed is not stored."
        )

    async def end_copies(
        self, token: str, successor: str | None = None
    ) -> HasEnded | None:
        """Ends the copies of ``token``, see `.Vault.end`."""
        now = self._rules.now()
        return await self._store.end(
            token, now, lambda data: last_end(decode(data), self._rules, now), successor
        )

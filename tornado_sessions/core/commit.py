"""Makes the store agree with a session: inserts, replaces, merges, moves, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any

import msgspec

from tornado_sessions.core.devices import Devices
from tornado_sessions.core.envelope import FORMAT, Envelope, same_content
from tornado_sessions.core.events import Events
from tornado_sessions.core.handles import next_handle
from tornado_sessions.core.inside import refuse_inside
from tornado_sessions.core.lane import Change, Lane
from tornado_sessions.core.lanes import FIRST, Lanes
from tornado_sessions.core.logins import Logins
from tornado_sessions.core.moves import Moves
from tornado_sessions.core.records import Records
from tornado_sessions.core.renewals import Renewals
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.signing_in import applied, move_sign_in
from tornado_sessions.core.sockets import Sockets
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.store import Store
from tornado_sessions.core.tasks import Tasks
from tornado_sessions.core.verbs import Ended
from tornado_sessions.core.writer import Writer
from tornado_sessions.errors import (
    ConflictError,
    SessionGoneError,
    SessionLimitError,
)
from tornado_sessions.storage.backend import Version
from tornado_sessions.storage.vault import Saved


class Commits:
    """Commits sessions to the store."""

    def __init__(
        self,
        store: Store,
        rules: Rules,
        records: Records,
        writer: Writer,
        logins: Logins,
        moves: Moves,
        renewals: Renewals,
        lanes: Lanes,
        sockets: Sockets,
        tasks: Tasks,
        events: Events,
        devices: Devices | None,
    ) -> None:
        self._store = store
        self._rules = rules
        self._records = records
        self._writer = writer
        self._logins = logins
        self._moves = moves
        self._renewals = renewals
        self._lanes = lanes
        self._sockets = sockets
        self._tasks = tasks
        self._events = events
        self._devices = devices

    async def commit(
        self,
        state: SessionState,
        packed: Envelope | None = None,
        generation: int = 0,
    ) -> None:
        """Makes the store agree with ``state``.

        ``packed`` is what ``state.pack()`` returned, where it was called already,
        and ``generation`` the state's at that time. Afterwards ``state.token`` is
        the id that the client must hold. Raises as `.Session.save` does; what
        failed is still to be done then.
        """
        refuse_inside(state)
        now = self._rules.now() if state.on_socket else 0.0
        lock = state.lock or state.commit_lock()
        if not lock.take():
            await lock.wait()
        with lock:
            if state.on_socket:
                state.judge(now)
            await self.commit_locked(state, packed, generation)

    def commit_locked(
        self, state: SessionState, packed: Envelope | None, generation: int
    ) -> Awaitable[None]:
        """Commits; the caller holds the lock of ``state``.

        A change of the id is shielded from cancellation: half of it would leave the
        client an id that has ended already.
        """
        work = self._commit(state, packed, generation)
        return self._shielded(work) if state.needs_new_id else work

    async def _shielded(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks.start(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise
        finally:
            # Its error refers to this frame: they would be a cycle.
            del task

    async def _commit(
        self, state: SessionState, packed: Envelope | None, generation: int
    ) -> None:
        if packed is None or state.generation != generation:
            # What was packed in another generation would undo what has been done since.
            packed = state.pack()
        while state.ended:
            # All of them at once: to look for the first one of a dict again and again
            # takes the longer the more have gone, and a client may send thousands.
            for token, ended in tuple(state.ended.items()):
                await self._destroy(token, ended)
                state.ended.pop(token, None)
        base, former, fresh = state.base, state.token, state.needs_new_id
        if not fresh and (
            packed is base
            # After a save in the same request it is another object.
            or (state.stale and same_content(packed, base))
        ):
            if state.on_socket and former and base.expires <= state.judged_at:
                # Unless another request has kept it alive, it has ended.
                await self._records.newest(state, former)
            if state.needs_renewal:
                await self._renewals.renew(state)
            return
        # A regenerate() from here on is for the next commit.
        state.needs_new_id = False
        state.is_moving = is_told = fresh or former is None
        if fresh and self._rules.ends_copies and packed.id == base.id:
            # The copies of the cookie end by their handle.
            state.set_fields(id=next_handle(base.id))
            packed = msgspec.structs.replace(packed, id=state.current.id)
        signed_in = packed.auth_time
        signs_in = signed_in != base.auth_time and signed_in is not None
        anew = False
        try:
            if former is None:
                saved = await self._logins.insert(state, packed)
            else:
                is_alone = state.is_transacting or not self._rules.revocable
                lane = None if is_alone else self._lanes.enter(former)
                try:
                    if lane is None or fresh or state.stale:
                        saved = await self._store_over(
                            state, former, packed, fresh, lane, is_alone
                        )
                    else:
                        # Without a coroutine of its own: it is what most commits do.
                        try:
                            saved = await self._writer.replace(
                                former, packed, state.version, state.extends
                            )
                        except ConflictError:
                            saved = await self._store_together(
                                state, former, packed, lane
                            )
                        except BaseException:
                            self._lanes.leave(lane)
                            raise
                        else:
                            self._lanes.leave(lane, packed, saved.version)
                except SessionGoneError:
                    if not signs_in:
                        raise
                    anew, saved = True, await self._begin_anew(state, former, packed)
        except SessionLimitError:
            self._events.tell(
                "refused", former, user=packed.user, reason="limit", handle=base.id
            )
            state.discard()
            raise
        except BaseException:
            state.needs_new_id = state.needs_new_id or fresh
            raise
        finally:
            state.is_moving = False
        if is_told:
            self._events.tell(
                "created" if former is None or anew else "regenerated",
                saved.token,
                former=None if anew else former,
                user=packed.user,
                reason="login" if signs_in else None,
                handle=packed.id,
            )
        if self._devices is not None and (signs_in or packed.label != base.label):
            # In the background: no login waits for it.
            self._tasks.start(self._devices.note(saved.token, packed))
        if signs_in:
            move_sign_in(state, signed_in, packed.auth_time)
        state.settle(base, saved, packed)

    async def _store_over(
        self,
        state: SessionState,
        former: str,
        packed: Envelope,
        fresh: bool,
        lane: Lane | None,
        is_alone: bool,
    ) -> Saved:
        """Stores ``packed`` in place of the record of ``former``; if ``fresh``, moved.

        The caller is the holder of ``lane``. ``is_alone`` if it needs none: a transaction
        has it already, and with a cookie each request has a record of its own.
        """
        if is_alone:
            return await self._store_beside(state, former, packed, fresh)
        if fresh:
            return await self._moves.move_alone(state, former, packed, lane)
        if lane is None:
            return await self._store_together(state, former, packed)
        try:
            newest, version = await self._records.newest(state, former)
            stored = applied(state, packed, newest)
            saved = await self._writer.replace(former, stored, version, state.extends)
        except ConflictError:
            return await self._store_together(state, former, packed, lane)
        except BaseException:
            self._lanes.leave(lane)
            raise
        self._lanes.leave(lane, stored, saved.version)
        packed.seen, packed.expires = stored.seen, stored.expires
        return saved

    async def _store_together(
        self,
        state: SessionState,
        token: str,
        packed: Envelope,
        lane: Lane | None = None,
    ) -> Saved:
        """Stores ``packed`` with what waits in the lane.

        A holder that has met another process leaves its ``lane``, and is the first.
        """
        place = self._lanes.next_place() if lane is None else FIRST
        change = Change(state, place, packed)
        self._lanes.join(token, change)
        if lane is not None:
            self._events.tell("conflict", token, user=packed.user, handle=packed.id)
            self._lanes.leave(lane)
        stored = await change.future
        packed.seen, packed.expires = stored.envelope.seen, stored.envelope.expires
        return Saved(token, stored.version)

    async def _store_beside(
        self, state: SessionState, former: str, packed: Envelope, fresh: bool
    ) -> Saved:
        """Stores ``packed``, or raises `.ConflictError`."""
        write = self._moves.move if fresh else self._replace
        base = state.base
        try:
            if state.stale:
                return await self._moves.store_on_newest(state, former, packed, write)
            return await write(state, former, packed, state.version)
        except ConflictError:
            if packed.auth_time != base.auth_time:
                # A login has to know whether it has gone.
                await self._records.newest(state, former)
            # The transaction runs its function again, on the newest values.
            raise

    async def _replace(
        self, state: SessionState, token: str, envelope: Envelope, version: Version
    ) -> Saved:
        if state.headers_sent and not self._rules.revocable:
            state.require_cookie()
        return await self._writer.replace(token, envelope, version, state.extends)

    async def _destroy(self, token: str, ended: Ended) -> None:
        """Ends the session of ``token``, or the one that it has become."""
        vault = self._store.vault
        if not self._rules.revocable:
            if await self._moves.end_copies(token) is None:
                self._events.tell(
                    "destroyed", token, user=ended.user, handle=ended.handle
                )
        elif vault.is_well_formed(token):
            done = await self._records.end(vault.key_of(token), ended.version)
            if done is not None:
                key, envelope = done
                user, handle = ended.user, ended.handle
                if envelope is not None:
                    # Its sockets may have been opened with the newer id.
                    user, handle = envelope.user, envelope.id
                    self._sockets.end(handle=handle)
                self._events.tell_by_key("destroyed", key, user, handle)
                await self._store.delete_found(key)
        self._sockets.end(token)

    async def _begin_anew(
        self, state: SessionState, former: str, packed: Envelope
    ) -> Saved:
        """Stores the login of a request whose session has gone meanwhile.

        The values come along if another request has moved the session to a new
        id, unless they are another user's; of one that has ended, only what this
        request has set.
        """
        state.require_headers("login()")
        base = state.base
        record = await self._store.load(former)
        now = self._rules.now()
        gone = None if record is None else self._records.decode(former, record)
        is_moved = gone is not None and bool(gone.successor)
        values = packed.values
        if not (is_moved and base.user in (None, packed.user)):
            blank = Envelope(now, now, 0.0, {}, format=FORMAT)
            values = applied(state, packed, blank).values
        # A revocation that has listed what this login had stored first, and has
        # removed, does not take the fresh session for the same.
        packed.id, packed.claim = state.draw_handle(), None
        fresh = msgspec.structs.replace(packed, created=now, values=values)
        saved = await self._logins.insert(state, fresh)
        packed.created, packed.auth_time = fresh.created, fresh.auth_time
        packed.seen, packed.expires = fresh.seen, fresh.expires
        return saved

"""Makes the store agree with a session: inserts, replaces, merges, moves, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from tornado_sessions.core.codec import decode, tombstone
from tornado_sessions.core.devices import Devices
from tornado_sessions.core.envelope import FORMAT, Envelope, keep_only, same_content
from tornado_sessions.core.events import Events
from tornado_sessions.core.expiry import TOMBSTONE_LIFE, last_end
from tornado_sessions.core.handles import next_handle
from tornado_sessions.core.inside import refuse_inside
from tornado_sessions.core.locks import StoreLocks
from tornado_sessions.core.logins import Logins
from tornado_sessions.core.merge import rebase
from tornado_sessions.core.records import Records
from tornado_sessions.core.renewals import Renewals
from tornado_sessions.core.retries import retry_conflicts
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.signing_in import move_sign_in
from tornado_sessions.core.sockets import Sockets
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.store import Store
from tornado_sessions.core.tasks import Tasks
from tornado_sessions.core.typed import migrated
from tornado_sessions.core.verbs import Ended
from tornado_sessions.core.writer import Writer
from tornado_sessions.errors import (
    ConflictError,
    SessionError,
    SessionGoneError,
    SessionLimitError,
)
from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.vault import HasEnded, Saved

# Stores an envelope in place of one version of a record.
_Write = Callable[[SessionState, str, Envelope, Version], Awaitable[Saved]]


class Commits:
    """Commits sessions to the store."""

    def __init__(
        self,
        store: Store,
        rules: Rules,
        records: Records,
        writer: Writer,
        logins: Logins,
        renewals: Renewals,
        locks: StoreLocks,
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
        self._renewals = renewals
        self._locks = locks
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
        now = self._rules.now()
        lock = state.commit_lock()
        if not lock.take():
            await lock.wait()
        with lock:
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
        state.is_moving = fresh or former is None
        if fresh and self._rules.ends_copies and packed.id == base.id:
            # The copies of the cookie end by their handle.
            state.set_fields(id=next_handle(base.id))
            packed = msgspec.structs.replace(packed, id=state.current.id)
        signed_in = packed.auth_time
        signs_in = signed_in not in (None, base.auth_time)
        anew = False
        try:
            if former is None:
                saved = await self._logins.insert(state, packed)
            else:
                write = self._move if fresh else self._writer.replace
                try:
                    saved = await self._store_over(state, former, packed, write)
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
        if fresh or former is None:
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
        move_sign_in(state, signed_in, packed.auth_time)
        state.settle(base, saved, packed)

    async def _store_over(
        self, state: SessionState, former: str, packed: Envelope, write: _Write
    ) -> Saved:
        """Stores ``packed`` in place of the record of ``former``."""
        base = state.base
        try:
            if state.stale:
                return await self._store_on_newest(state, former, packed, write)
            return await write(state, former, packed, state.version)
        except ConflictError:
            if state.is_transacting:
                if packed.auth_time != base.auth_time:
                    # A login has to know whether it has gone.
                    await self._records.newest(state, former)
                # It runs its function again, on the newest values.
                raise
        return await self._store_after_conflict(state, former, packed, write)

    async def _destroy(self, token: str, ended: Ended) -> None:
        """Ends the session of ``token``, or the one that it has become."""
        vault = self._store.vault
        if not self._rules.revocable:
            if await self._end_copies(token) is None:
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

    async def _end_copies(
        self, token: str, successor: str | None = None
    ) -> HasEnded | None:
        now = self._rules.now()
        return await self._store.end(
            token, now, lambda data: last_end(decode(data), self._rules, now), successor
        )

    async def _begin_anew(
        self, state: SessionState, former: str, packed: Envelope
    ) -> Saved:
        """Stores the login of a request whose session has gone meanwhile.

        The values come along if another request has moved the session to a new
        id, unless they are another user's; of one that has ended, only what this
        request has set.
        """
        state.require_headers("login()")
        base, now = state.base, self._rules.now()
        record = await self._store.load(former)
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

    async def _move(
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
        ended = await self._end_copies(former, token)
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

    async def _store_after_conflict(
        self, state: SessionState, token: str, packed: Envelope, write: _Write
    ) -> Saved:
        """Stores ``packed`` after another request has been first."""
        self._events.tell("conflict", token, user=packed.user, handle=packed.id)
        async with self._locks.of(token) as lock:
            return await retry_conflicts(
                lambda: self._store_on_newest(state, token, packed, write), lock
            )

    async def _store_on_newest(
        self, state: SessionState, token: str, packed: Envelope, write: _Write
    ) -> Saved:
        newest, version = await self._records.newest(state, token)
        merged = applied(state, packed, newest)
        saved = await write(state, token, merged, version)
        packed.seen, packed.expires = merged.seen, merged.expires
        packed.auth_time = merged.auth_time
        return saved


def applied(state: SessionState, mine: Envelope, newest: Envelope) -> Envelope:
    """Returns ``newest`` with what the request has changed since it loaded."""
    base, mine, newest = migrated(state, state.base, mine, newest)
    if mine.auth_time == base.auth_time:
        merged = rebase(base, mine, newest)
        if mine.id == base.id:
            return merged
        return msgspec.structs.replace(merged, id=mine.id)
    # A login: what another request has saved meanwhile comes along where the login
    # would have taken it along.
    keep = None if state.login is None else state.login.keep
    if keep is not None:
        base, newest = keep_only(base, keep), keep_only(newest, keep)
    merged = rebase(base, mine, newest)
    if mine.user == base.user:
        return msgspec.structs.replace(merged, id=mine.id)
    return msgspec.structs.replace(mine, values=merged.values)

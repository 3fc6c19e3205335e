"""Stores the commits of one session that wait in this process together."""

from __future__ import annotations

import asyncio
import time

import msgspec

from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.events import Events
from tornado_sessions.core.expiry import (
    expires_at,
    is_alive,
    is_renewal_due,
    seen_at,
)
from tornado_sessions.core.lane import (
    LONGEST_RUN,
    MOST_TOGETHER,
    Change,
    Lane,
    Member,
    Run,
    Stored,
    Turn,
)
from tornado_sessions.core.merge import reapplied
from tornado_sessions.core.records import Records, gone
from tornado_sessions.core.retries import LONGEST_PAUSE, Backoff, contested
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.typed import migrated
from tornado_sessions.core.writer import Writer
from tornado_sessions.errors import ConflictError, SessionDataError
from tornado_sessions.storage.backend import Version
from tornado_sessions.storage.copies import copy_error

#: For how many seconds changes are merged before they are stored.
LONGEST_MERGE = 0.005


class Combiner:
    """Merges the changes of those who wait in a lane, and stores them at once."""

    def __init__(
        self, records: Records, writer: Writer, rules: Rules, events: Events
    ) -> None:
        self._records = records
        self._writer = writer
        self._rules = rules
        self._events = events

    async def serve(self, lane: Lane) -> None:
        """Stores the changes of the first who wait, in their order, in one write.

        Each has its own outcome. Those whose caller has gone are left out.
        """
        is_loaded = lane.newest is None
        if is_loaded and not await self._load(lane):
            return
        assert lane.newest is not None
        envelope = await self._merged(lane, lane.newest, is_loaded)
        if not lane.batch:
            return
        if envelope is lane.newest:
            self._resolve(lane, envelope, lane.version)
            return
        try:
            saved = await self._writer.replace(
                lane.token,
                envelope,
                lane.version,
                is_use=any(member.is_use for member in lane.batch),
            )
        except ConflictError as error:
            await self._wait_for_others(lane, envelope, error)
        except SessionDataError as error:
            await self._divide(lane, error)
        except Exception as error:  # noqa: BLE001 - each caller raises it
            lane.forget()
            for number, member in enumerate(lane.batch):
                # An error of its own: a shared one would collect all tracebacks.
                member.fail(copy_error(error) if number else error)
            lane.batch = ()
        else:
            lane.note(envelope, saved.version)
            lane.most, lane.backoff = min(2 * lane.most, MOST_TOGETHER), None
            self._resolve(lane, envelope, saved.version)

    async def _load(self, lane: Lane) -> bool:
        """Loads what the store has. Returns False if nobody can be served with that."""
        waiting = tuple(lane.waiting or ())
        try:
            found = await self._records.load_newest(lane.token)
        except Exception as error:  # noqa: BLE001 - each caller raises it
            for number, member in enumerate(waiting):
                member.fail(copy_error(error) if number else error)
            return False
        if found is None:
            for member in lane.waiting or ():
                member.fail(gone())
            return False
        lane.note(*found)
        return True

    async def _merged(self, lane: Lane, newest: Envelope, is_loaded: bool) -> Envelope:
        """Returns ``newest`` with the changes of the first who wait: the batch."""
        batch: list[Member] = []
        lane.batch = batch
        waiting, envelope = lane.waiting or [], newest
        ends = time.perf_counter() + LONGEST_MERGE
        while waiting and len(batch) < lane.most and time.perf_counter() < ends:
            member, now = waiting[0], self._rules.now()
            if isinstance(member, Turn):
                break
            if member.future.done():
                del waiting[0]
                continue
            if not is_alive(newest, self._rules, now, member.judged_at):
                if not is_loaded:
                    # Another process may have kept it alive.
                    if not batch:
                        lane.forget()
                    break
                self._records.tell_dead(lane.token, newest, member.judged_at)
                member.fail(gone())
                continue
            del waiting[0]
            merged: Envelope | None = envelope
            if isinstance(member, Run):
                merged = await self._run(lane, member, envelope)
            elif isinstance(member, Change):
                merged = self._applied(member, envelope, newest)
            if merged is not None:
                envelope = merged
                batch.append(member)
        return envelope

    def _applied(
        self, change: Change, envelope: Envelope, newest: Envelope
    ) -> Envelope | None:
        """Returns ``envelope`` with a change; None if that has failed."""
        if change.mine is None:
            # Whatever is stored records the use as well.
            return self._renewed(newest) if envelope is newest else envelope
        try:
            return reapplied(
                *migrated(change.state, change.base, change.mine, envelope)
            )
        except Exception as error:  # noqa: BLE001 - the caller raises it
            change.fail(error)
            return None

    def _renewed(self, newest: Envelope) -> Envelope:
        """Returns another object if a use of the session now has to be stored."""
        now = self._rules.now()
        if not is_renewal_due(newest, self._rules, now):
            return newest
        renewed = msgspec.structs.replace(newest, seen=seen_at(newest, now))
        # If the lifetime has passed, nothing is extended.
        return renewed if expires_at(renewed, self._rules) > now else newest

    async def _run(self, lane: Lane, run: Run, envelope: Envelope) -> Envelope | None:
        """Has a transaction run on ``envelope``. Returns None if it is left out.

        A function that takes too long runs again later, alone.
        """
        with lane.aside():
            outcome = run.begin(envelope)
            timer = lane.loop.call_later(LONGEST_RUN, run.leave_out)
            try:
                return await outcome
            finally:
                timer.cancel()

    async def _wait_for_others(
        self, lane: Lane, envelope: Envelope, error: ConflictError
    ) -> None:
        """Puts the batch back, to be stored on what another process has stored."""
        lane.forget()
        self._events.tell(
            "conflict", lane.token, user=envelope.user, handle=envelope.id
        )
        for member in lane.batch:
            if member.is_overdue:
                member.fail(contested(error))
        self._put_back(lane)
        if lane.backoff is None:
            lane.backoff = Backoff(longest=LONGEST_PAUSE)
        with lane.aside():
            await lane.backoff.wait()

    async def _divide(self, lane: Lane, error: SessionDataError) -> None:
        """Puts the batch back, to be stored in parts. Nothing was sent to the store."""
        lane.most = max(1, len(lane.batch) // 2)
        if len(lane.batch) == 1:
            lane.batch[0].fail(error)
        self._put_back(lane)
        # Each try takes as long as to encode the session.
        await asyncio.sleep(0)

    def _put_back(self, lane: Lane) -> None:
        """Has the batch wait again, before all others."""
        assert lane.waiting is not None
        for member in lane.batch:
            if isinstance(member, Run):
                # It comes again by itself.
                member.fail(ConflictError("Its function has to run again."))
        lane.waiting[:0] = [each for each in lane.batch if not each.future.done()]
        lane.batch = ()

    def _resolve(self, lane: Lane, envelope: Envelope, version: Version) -> None:
        for member in lane.batch:
            if not member.future.done():
                member.future.set_result(Stored(envelope, version))
        lane.batch = ()

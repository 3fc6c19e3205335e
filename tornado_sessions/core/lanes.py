"""Who saves a session in this process, and who waits for that."""

from __future__ import annotations

import asyncio
import bisect
import contextvars
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.lane import Lane, Member, Turn
from tornado_sessions.core.tasks import Tasks
from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import UNKNOWN, Version
from tornado_sessions.storage.copies import copy_error

#: The place of a holder that has met another process: before all who wait for it.
FIRST = -1

# How many times a wait is checked within its limit while the store is not used.
_TICKS = 20


class Lanes:
    """The lanes of the sessions that are being saved.

    ``serve`` stores those who wait, see `.Combiner`. ``limit`` returns the timeout of
    the store, None for none.
    """

    def __init__(
        self,
        serve: Callable[[Lane], Coroutine[Any, Any, None]],
        tasks: Tasks,
        limit: Callable[[], float | None],
    ) -> None:
        self._serve = serve
        self._tasks = tasks
        self._limit = limit
        #: By their tokens.
        self.lanes: dict[str, Lane] = {}
        self._places = itertools.count()

    def next_place(self) -> int:
        """Returns the place of whoever comes now."""
        return next(self._places)

    def enter(self, token: str) -> Lane | None:
        """Makes the caller the holder of a lane. Returns None if there is one.

        Whoever has entered has to `leave`.
        """
        loop = asyncio.get_running_loop()
        lane = self.lanes.get(token)
        # One of another event loop belongs to the process that this is a fork of.
        if lane is not None and lane.loop is loop:
            return None
        lane = self.lanes[token] = Lane(token, loop)
        return lane

    def private(self, token: str) -> Lane:
        """Returns a lane for which nobody ever waits."""
        return Lane(token, asyncio.get_running_loop())

    def leave(
        self, lane: Lane, newest: Envelope | None = None, version: Version = UNKNOWN
    ) -> None:
        """Gives the lane to those who wait. ``newest`` is what the store has now."""
        if lane.waiting is not None:
            lane.note(newest, version)
            self._pass_on(lane)
        elif self.lanes.get(lane.token) is lane:
            del self.lanes[lane.token]

    def join(self, token: str, member: Member) -> None:
        """Adds a member to a lane that has a holder."""
        lane = self.lanes[token]
        if lane.waiting is None:
            lane.waiting = []
            if lane.is_running:
                lane.step_aside()
        member.joined = lane.time()
        bisect.insort(lane.waiting, member, key=_place)
        if lane.timer is None and (limit := self._limit()) is not None:
            lane.timer = lane.loop.call_later(limit, self._check, lane, limit)
        if lane.is_running and lane.run_timer is None:
            self._let_go_later(lane)

    async def turn(self, token: str, place: int) -> Lane:
        """Waits until the caller is the holder of the lane. See `enter`."""
        lane = self.enter(token)
        if lane is not None:
            return lane
        member = Turn(0.0, place)
        self.join(token, member)
        try:
            return await member.future
        except asyncio.CancelledError:
            given = member.future
            if given.done() and not given.cancelled() and given.exception() is None:
                # It was given the lane in the same iteration of the event loop.
                lane = given.result()
                self.leave(lane, lane.newest, lane.version)
            raise

    # No context manager: on the path of each transaction that would take too long.

    def begin_run(self, lane: Lane) -> None:
        """Notes that the holder runs a function.

        If others have waited for it for `Lane.longest_run` seconds, they get the lane,
        and the holder has lost it: `Lane.is_lost`.
        """
        lane.is_running = True
        if lane.waiting is not None:
            lane.step_aside()
            self._let_go_later(lane)

    def end_run(self, lane: Lane) -> None:
        """Notes that the function has ended."""
        lane.is_running = False
        lane.come_back()
        if lane.run_timer is not None:
            lane.run_timer.cancel()
            lane.run_timer = None

    def _let_go_later(self, lane: Lane) -> None:
        lane.run_timer = lane.loop.call_later(lane.longest_run, self._let_go, lane)

    def _let_go(self, lane: Lane) -> None:
        lane.run_timer = None
        if _first(lane) is None:
            return
        members, lane.waiting, lane.is_lost = lane.waiting, None, True
        self._end(lane)
        other = self.lanes[lane.token] = Lane(lane.token, lane.loop)
        for member in members or ():
            self.join(lane.token, member)
        self.leave(other)

    def _pass_on(self, lane: Lane) -> None:
        first = _first(lane)
        if first is None:
            self._end(lane)
        elif isinstance(first, Turn):
            assert lane.waiting is not None
            lane.waiting.remove(first)
            first.future.set_result(lane)
        else:
            # In no request's context, as it works for several.
            contextvars.Context().run(self._tasks.start, self._serve_all(lane))

    async def _serve_all(self, lane: Lane) -> None:
        """Serves those who wait, until nobody does or one needs the lane alone."""
        try:
            while not isinstance(_first(lane), (Turn, type(None))):
                await self._serve(lane)
        except BaseException as error:
            self._end(lane)
            for member in (*lane.batch, *(lane.waiting or ())):
                if isinstance(error, Exception):
                    member.fail(copy_error(error))
                else:
                    member.future.cancel()
            raise
        self._pass_on(lane)

    def _end(self, lane: Lane) -> None:
        if self.lanes.get(lane.token) is lane:
            del self.lanes[lane.token]
        if lane.timer is not None:
            lane.timer.cancel()

    def _check(self, lane: Lane, limit: float) -> None:
        """Fails those who have waited for too long."""
        lane.timer = None
        waits = [
            (lane.left(member, limit), member)
            for member in lane.waiting or ()
            if not member.future.done()
        ]
        for left, member in waits:
            if left <= 0:
                member.fail(
                    BackendError(
                        "The session was not saved: other requests of the same visitor"
                        " came first, and the store took too long for these. Check why"
                        " it is slow, or save less often."
                    )
                )
        if rest := [left for left, _ in waits if left > 0]:
            # While the store is not used, the time left does not get less.
            delay = max(min(rest), limit / _TICKS)
            lane.timer = lane.loop.call_later(delay, self._check, lane, limit)


def _first(lane: Lane) -> Member | None:
    """Returns the first one whose caller still waits."""
    waiting = lane.waiting or []
    while waiting and waiting[0].future.done():
        del waiting[0]
    return waiting[0] if waiting else None


def _place(member: Member) -> int:
    return member.place

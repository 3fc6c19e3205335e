"""Ends what takes too long, with one timer for all that wait.

For authors of backends, whose every operation has a time limit::

    class PigeonBackend(Backend):
        def __init__(self, *, timeout=2.0):
            self._deadlines = Deadlines(timeout)

        async def load(self, key):
            try:
                return await self._deadlines.run(self._loft.send(key))
            except asyncio.TimeoutError as error:
                raise BackendError("The pigeon did not come back.") from error

`asyncio.wait_for` starts a task for each call before Python 3.12, and even a
timer for each takes a good part of the time of a fast operation. `Deadlines.wait`
needs no task either, where a backend makes the future that its operation ends with.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import sys
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")

# How often in its time limit a future is looked at.
_TICKS = 20


class Deadlines:
    """Ends the futures that are not done within ``timeout`` seconds.

    It looks at them twenty times in that span, and ends one rather a
    twentieth too early than too late. It can be used in one loop after another.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        # Each with the time at which it is ended: a future that is ours with an
        # error, and one that others set by cancelling it.
        self._awaited: dict[asyncio.Future[Any], float] = {}
        self._running: dict[asyncio.Future[Any], float] = {}
        self._late: set[asyncio.Future[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, work: Awaitable[T]) -> T:
        """Answers what ``work`` answers, within the limit, and raises what it raises.

        It may be a coroutine, a task, or what ``run_in_executor`` answers. Where it
        takes too long it is cancelled, as far as it can be, and this raises
        `asyncio.TimeoutError`.
        """
        if type(work) is asyncio.Future:
            return await self._run(work)
        running = asyncio.ensure_future(work)
        try:
            return await self.outcome(running)
        finally:
            running.cancel()

    async def _run(self, running: asyncio.Future[T]) -> T:
        # Unlike a task, or what `asyncio.gather` answers, it ends as soon as it is
        # cancelled. So it is awaited itself, which saves a turn of the loop.
        cancellations = _cancellations()
        self._running[running] = self._limit(running)
        try:
            return await running
        except asyncio.CancelledError:
            if running not in self._late or _cancellations() > cancellations:
                raise
            raise asyncio.TimeoutError from None
        finally:
            self._running.pop(running, None)
            self._late.discard(running)

    async def outcome(self, running: asyncio.Future[T]) -> T:
        """Does as `run`, but cancels nothing: what takes too long goes on.

        ``running`` is a task, or a future that others set. Nobody need look at its
        error then.
        """
        ended: asyncio.Future[None] = running.get_loop().create_future()
        running.add_done_callback(functools.partial(_end, ended))
        self.add(ended)
        try:
            await ended
            return running.result()
        finally:
            self.discard(ended)

    async def wait(self, future: asyncio.Future[T]) -> T:
        """Answers what ``future`` answers, within the limit, and raises what it raises.

        For a future of your own: whoever sets it has to see first whether it is
        done, and for anything else there is `run`. Raises `asyncio.TimeoutError`
        where it takes too long, and `TypeError` for what is no future, or a task.
        """
        self.add(future)
        try:
            return await future
        finally:
            self.discard(future)

    def add(self, future: asyncio.Future[Any], deadline: float | None = None) -> None:
        """Sets `asyncio.TimeoutError` on ``future`` if it is not done in time.

        A ``deadline``, by the clock of its loop, takes the place of the limit,
        which counts from now. Give it to `discard` when it is done. Raises
        `TypeError` as `wait` does.
        """
        if not isinstance(future, asyncio.Future) or isinstance(future, asyncio.Task):
            raise TypeError(
                "Deadlines ends futures that a backend makes itself, not"
                f" {type(future).__name__}. Use: await deadlines.run(…)"
            )
        self._awaited[future] = self._limit(future, deadline)

    def discard(self, future: asyncio.Future[Any]) -> None:
        """Takes back what `add` was given; does nothing if that is gone."""
        self._awaited.pop(future, None)

    def _limit(
        self, future: asyncio.Future[Any], deadline: float | None = None
    ) -> float:
        """Answers the time at which ``future`` is ended, and sees to it."""
        loop = future.get_loop()
        if self._loop is not loop:
            self._watch(loop)
        return deadline or loop.time() + self.timeout

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        # What waited in another loop has gone with it.
        self._awaited.clear()
        self._running.clear()
        self._loop = loop
        # In no context: one tick follows another, and the first one's would be kept.
        context = contextvars.Context()
        loop.call_later(self.timeout / _TICKS, self._tick, loop, context=context)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            return
        if not self._awaited and not self._running:
            self._loop = None
            return
        # The next tick would be too late.
        due = loop.time() + self.timeout / _TICKS
        for future, deadline in self._awaited.items():
            if deadline <= due and not future.done():
                future.set_exception(asyncio.TimeoutError())
        for running, deadline in self._running.items():
            if deadline <= due and running.cancel():
                self._late.add(running)
        loop.call_later(self.timeout / _TICKS, self._tick, loop)


def _end(ended: asyncio.Future[None], running: asyncio.Future[Any]) -> None:
    if not running.cancelled():
        # Whoever waited may be gone, and then asyncio would log its error.
        running.exception()
    if not ended.done():
        ended.set_result(None)


def _cancellations() -> int:
    """Answers how often the running task has been cancelled.

    Python 3.10 does not count: there a cancellation that comes in the turn of the
    loop in which the time is over is taken for its end.
    """
    if sys.version_info < (3, 11):
        return 0
    task = asyncio.current_task()
    return task.cancelling() if task else 0

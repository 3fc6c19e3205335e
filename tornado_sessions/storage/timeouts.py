"""Enforces timeouts. One timer serves all pending operations.

For authors of backends, whose every operation has a time limit::

    class PigeonBackend(Backend):
        def __init__(self, *, timeout=2.0):
            self._timeouts = Timeouts(timeout)

        async def load(self, key):
            try:
                return await self._timeouts.run(self._loft.send(key))
            except asyncio.TimeoutError as error:
                raise BackendError("The pigeon did not come back.") from error

`.DriverBackend` does this already. `asyncio.wait_for` starts a task for each
call before Python 3.12, and a timer for each operation takes a good part of the
time of a fast one.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")

if sys.version_info >= (3, 11):
    _cancellations = asyncio.Task.cancelling
else:

    def _cancellations(task: asyncio.Task[Any]) -> int:
        # Python 3.10 does not count the cancellations of a task. There, a cancellation
        # that arrives together with the timeout is reported as the timeout.
        return 0


# How often in its time limit a pending operation is looked at.
_TICKS = 20


class _Pending:
    """One operation that runs, in the task that waits for it."""

    __slots__ = ("cancellations", "deadline", "expired", "task")

    def __init__(self, task: asyncio.Task[Any], deadline: float) -> None:
        self.task = task
        self.deadline = deadline
        self.expired = False
        self.cancellations = _cancellations(task)

    def was_only_timeout(self) -> bool:
        """Whether the timeout has cancelled the task, and nobody else."""
        return self.expired and _cancellations(self.task) <= self.cancellations + 1


class Timeouts:
    """Cancels operations that take longer than ``timeout`` seconds.

    Pending operations are checked twenty times in that span: an operation ends
    up to a twentieth of ``timeout`` early, and never late. An instance can be
    used in one event loop after another.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._pending: set[_Pending] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, work: Awaitable[T], deadline: float | None = None) -> T:
        """Returns the result of ``work``, or raises what it raises.

        ``work`` runs in the task that called, so it costs no task. If it takes
        too long it is cancelled, and this raises `asyncio.TimeoutError`. Pass
        `shielded` of a task to let it go on instead. A ``deadline``, in
        seconds by the clock of the event loop, replaces the limit that counts
        from now.
        """
        task = asyncio.current_task()
        if task is None:
            # A coroutine that somebody drives by hand, without a task.
            return await asyncio.ensure_future(self._run_in_task(work, deadline))
        loop = task.get_loop()
        if self._loop is not loop:
            self._watch(loop)
        pending = _Pending(task, deadline or loop.time() + self.timeout)
        self._pending.add(pending)
        try:
            return await work
        except asyncio.CancelledError:
            if not pending.was_only_timeout():
                raise
            raise asyncio.TimeoutError from None
        finally:
            self._pending.discard(pending)
            if pending.expired and sys.version_info >= (3, 11):
                task.uncancel()

    def is_expired(self) -> bool:
        """Whether the running task is being cancelled because a timeout expired."""
        task = asyncio.current_task()
        return any(
            pending.task is task and pending.was_only_timeout()
            for pending in self._pending
        )

    async def _run_in_task(self, work: Awaitable[T], deadline: float | None) -> T:
        return await self.run(work, deadline)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        # The pending operations of another event loop have ended with it.
        self._pending.clear()
        self._loop = loop
        # In an empty context: one tick schedules the next, so that of the first
        # request would be kept alive.
        context = contextvars.Context()
        loop.call_later(self.timeout / _TICKS, self._tick, loop, context=context)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not loop:
            return
        if not self._pending:
            self._loop = None
            return
        # The next tick would be too late.
        due = loop.time() + self.timeout / _TICKS
        for pending in self._pending:
            if pending.deadline <= due and not pending.expired:
                pending.expired = pending.task.cancel()
        loop.call_later(self.timeout / _TICKS, self._tick, loop)


async def shielded(task: asyncio.Task[T]) -> T:
    """Waits for ``task``, which goes on when the caller is cancelled.

    Its error is not logged if nobody waits for it any more. Some versions of
    `asyncio.shield` report such an error to the event loop, with a traceback whose
    frames hold what the driver was sent.
    """
    ended: asyncio.Future[None] = task.get_loop().create_future()

    def end(_: object) -> None:
        if not task.cancelled():
            # asyncio logs an error that was never looked at.
            task.exception()
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(end)
    await ended
    return task.result()

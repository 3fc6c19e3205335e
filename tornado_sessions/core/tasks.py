"""Tasks that belong to the sessions of an application, and not to a request."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


if sys.version_info >= (3, 12):

    def start_eagerly(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts a task that runs at once, until ``work`` suspends for the first time.

        The task is done when this returns if ``work`` never suspends: then nothing is
        scheduled. Before Python 3.12 the task is an ordinary one.
        """
        loop = asyncio.get_running_loop()
        return asyncio.Task(work, loop=loop, eager_start=True)

else:

    def start_eagerly(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts an ordinary task: there are no others before Python 3.12."""
        return asyncio.get_running_loop().create_task(work)


class Tasks:
    """The tasks that `.Sessions.close` waits for."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts a task eagerly, see `start_eagerly`."""
        task = start_eagerly(work)
        if task.done():
            # As in `_retrieve`, without a call.
            if not task.cancelled():
                task.exception()
        else:
            self._running.add(task)
            task.add_done_callback(self._end)
        return task

    async def wait(self) -> None:
        """Waits until no task of this event loop runs any more.

        Those of another one may belong to the process that this one is a fork of.
        """
        loop = asyncio.get_running_loop()
        while ours := [task for task in self._running if task.get_loop() is loop]:
            await asyncio.wait(ours)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        _retrieve(task)


def _retrieve(task: asyncio.Task[Any]) -> None:
    # Whoever waits for the task is told of its error. A client that has hung up is
    # no news.
    if not task.cancelled():
        task.exception()

"""A clock of the event loop that a test moves, so that nobody waits for a timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class LoopClock:
    """Puts the clock of the running event loop forward."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._time, self._ahead = loop.time, 0.0
        vars(loop)["time"] = lambda: self._time() + self._ahead
        # In debug mode the loop would take an advance for a slow callback.
        loop.slow_callback_duration = float("inf")

    async def advance(self, seconds: float) -> None:
        """Puts the clock forward, and runs the timers that are due then."""
        self._ahead += seconds
        await _iterate()

    async def outlast(self, work: Awaitable[T], seconds: float) -> T:
        """Returns the result of ``work``, which waits while so many seconds pass."""
        running = asyncio.ensure_future(work)
        await _iterate()
        await self.advance(seconds)
        return await running


async def _iterate() -> None:
    for _ in range(10):
        await asyncio.sleep(0)

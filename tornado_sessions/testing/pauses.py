"""Measures how long an operation blocks the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

_SCHEDULED = "/proc/thread-self/schedstat"

# A synchronous call blocks the event loop each time. A busy machine does not: the
# shortest of so many longest pauses counts.
_TRIES = 5

#: How many seconds a pause of the event loop may take, on a machine that is busy.
#: The library itself keeps to 10 ms (behaviour 70).
LONGEST_PAUSE = 0.015


async def longest_pause(
    operation: Callable[[], Awaitable[object]],
    *,
    prepare: Callable[[], Awaitable[object]] | None = None,
) -> float:
    """Returns for how many seconds ``operation`` blocks the event loop at most.

    It runs up to five times, each time after ``prepare``, until no pause is longer
    than `LONGEST_PAUSE`. Time for which other processes had the processor does not
    count, where the system tells it.
    """
    loop = asyncio.get_running_loop()
    debug, shortest = loop.get_debug(), float("inf")
    for _ in range(_TRIES):
        if prepare is not None:
            await prepare()
        # To trace each task takes time that is nobody's fault.
        loop.set_debug(False)
        try:
            shortest = min(shortest, await _longest_pause_of(operation()))
        finally:
            loop.set_debug(debug)
        if shortest < LONGEST_PAUSE:
            break
    return shortest


async def _longest_pause_of(work: Awaitable[object]) -> float:
    running = asyncio.ensure_future(work)
    longest, last = 0.0, _own_time()
    while not running.done():
        await asyncio.sleep(0.001)
        now = _own_time()
        longest, last = max(longest, now - last - 0.001), now
    await running
    return longest


def _own_time() -> float:
    """Returns the time in seconds, without that for which others had the processor."""
    waited = 0
    with contextlib.suppress(OSError), open(_SCHEDULED, encoding="ascii") as scheduled:
        # For how many nanoseconds this thread could run, and did not.
        waited = int(scheduled.read().split()[1])
    return time.perf_counter() - waited / 1e9

"""The longest stall of the event loop while half of all sessions expire."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence

from benchmarks.results import Row
from benchmarks.scale.filling import ENDS_WITHIN, FIRST_END, opened

#: How many sessions there are, by the store; the others remove them by themselves.
_COUNTS = {"memory": 1_000_000, "sqlite": 100_000}

_QUICK = 10_000

# A request that is served beside comes every millisecond.
_TICK = 0.001

# How many seconds the event loop is watched at rest.
_REST = 2.0


class Stalls:
    """How late the event loop is while it is watched, in seconds."""

    def __init__(self) -> None:
        #: Whatever the reason: also while other processes have the core.
        self.late = 0.0
        #: By what this process itself has worked meanwhile, in all of its threads.
        self.blocked = 0.0

    @contextlib.asynccontextmanager
    async def watch(self) -> AsyncIterator[None]:
        self._begin()
        # It is to wait for a tick already when something begins.
        await asyncio.sleep(2 * _TICK)
        try:
            yield
            await asyncio.sleep(2 * _TICK)
        finally:
            self._timer.cancel()

    def _begin(self) -> None:
        # Not a task that sleeps, which is woken only in the iteration after the one
        # in which its time has come.
        self._timer = asyncio.get_running_loop().call_later(_TICK, self._tick)
        self._began, self._worked = time.perf_counter(), time.process_time()

    def _tick(self) -> None:
        late = time.perf_counter() - self._began - _TICK
        worked = time.process_time() - self._worked
        self.late = max(self.late, late)
        self.blocked = max(self.blocked, min(late, worked))
        self._begin()


def measure(
    stores: Sequence[str], quick: bool, count: int = 0, rest: float = _REST
) -> Iterator[Row]:
    """Yields a row for each store whose expired sessions this process removes."""
    for url in stores:
        name = url.partition(":")[0]
        if name in _COUNTS:
            wanted = count or (_QUICK if quick else _COUNTS[name])
            yield asyncio.run(_measure(url, wanted, rest))


async def _measure(url: str, count: int, seconds: float) -> Row:
    rest, stalls = Stalls(), Stalls()
    async with opened(url) as filling:
        await filling.fill(count, known=1)
        async with rest.watch():
            await asyncio.sleep(seconds)
        half = filling.began + FIRST_END + ENDS_WITHIN / 2
        filling.sessions.now = lambda: half
        async with stalls.watch():
            purged = await filling.sessions.purge()
        assert 0 < purged < count
    return {
        "what": "expiry",
        "store": filling.name,
        "sessions": count,
        "expired": purged,
        "stall_ms": round(1e3 * stalls.blocked, 2),
        # That at rest is the machine's own.
        "late_ms": round(1e3 * stalls.late, 2),
        "late_at_rest_ms": round(1e3 * rest.late, 2),
    }

"""How long operations take that are in progress at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

#: As many as the load of the other benchmarks has connections.
AT_ONCE = 32


async def mean_us(
    operation: Callable[[T], Awaitable[object]],
    arguments: Iterable[T],
    at_once: int = AT_ONCE,
) -> float:
    """Returns how many µs each takes if so many are in progress at once."""
    arguments = list(arguments)
    pending = iter(arguments)

    async def work() -> None:
        for argument in pending:
            await operation(argument)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return round(1e6 * (time.perf_counter() - began) / len(arguments), 1)

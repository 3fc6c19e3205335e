"""What an operation takes, and how much room a session, by how many there are."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence

from benchmarks.results import Row
from benchmarks.scale.filling import Filling, opened, user_of
from benchmarks.scale.timing import mean_us
from benchmarks.values import change
from tornado_sessions import Session

# Of fewer sessions the bytes are those of the process and of the server themselves.
_WEIGHED = 10_000

_OPERATIONS = 3000
_FINDS = 1000
_EXPIRED = 5000


def measure(
    stores: Sequence[str], quick: bool, counts: Sequence[int] = ()
) -> Iterator[Row]:
    """Yields a row for each store and number of sessions."""
    counts = counts or [10**n for n in range(3, 5 if quick else 7)]
    for url in stores:
        yield from asyncio.run(_measure(url, counts))


async def _measure(url: str, counts: Sequence[int]) -> list[Row]:
    rows = []
    async with opened(url) as filling:
        empty = await filling.store.size()
        for count in counts:
            if not await filling.fill(count):
                break
            size = await filling.store.size()
            room = round((size - empty) / count) if count >= _WEIGHED else None
            rows.append(
                {
                    "what": "size",
                    "store": filling.name,
                    "sessions": count,
                    **await _operations(filling),
                    "bytes": room,
                }
            )
    return rows


async def _operations(filling: Filling) -> Row:
    """Returns the µs that each operation takes."""
    sessions, loaded = filling.sessions, list[Session]()

    async def load(token: str) -> None:
        session = await sessions.load(token)
        assert not session.is_new
        loaded.append(session)

    async def save(session: Session) -> None:
        change(session)
        await session.save()

    async def find(user: str) -> None:
        assert await sessions.of_user(user)

    tokens = random.sample(filling.tokens, min(_OPERATIONS, len(filling.tokens)))
    row: Row = {
        "load_us": await mean_us(load, tokens),
        "save_us": await mean_us(save, loaded),
        "find_us": None,
        "purge_us": None,
    }
    if filling.backend.finds_by_user:
        numbers = [random.randrange(filling.count) for _ in range(_FINDS)]
        row["find_us"] = await mean_us(find, map(user_of, numbers))
    if filling.purges:
        await filling.expire(min(_EXPIRED, filling.count))
        row["purge_us"] = await _purge(filling)
    return row


async def _purge(filling: Filling) -> float:
    """Returns the µs for each session that has expired."""
    began = time.perf_counter()
    purged = await filling.sessions.purge()
    return round(1e6 * (time.perf_counter() - began) / purged, 1)

"""How many writes of the store many reads of one session cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

from benchmarks.results import Row
from benchmarks.scale.filling import opened
from benchmarks.values import VALUES
from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.testing import start_session

READS = 10_000


def measure(stores: Sequence[str], quick: bool, reads: int = READS) -> Iterator[Row]:
    """Yields a row for each store; if it is to be quick, for the first one."""
    for url in stores[: 1 if quick else None]:
        yield asyncio.run(_measure(url, reads))


async def _measure(url: str, reads: int) -> Row:
    """Reads a session again and again, until its idle timeout has passed once."""
    writes = 0
    async with opened(url) as filling:
        sessions, replace = filling.sessions, filling.backend.replace

        async def count(key: bytes, record: Record, version: Version) -> Version | None:
            nonlocal writes
            writes += 1
            return await replace(key, record, version)

        token = (await start_session(filling.app, "ada", **VALUES)).expose_token()
        filling.backend.replace = count  # type: ignore[method-assign]
        began, now = time.time(), 0.0
        sessions.now = lambda: began + now
        for number in range(1, reads + 1):
            now = sessions.settings.idle_timeout * number / reads
            session = await sessions.load(token)
            assert session["key5"] == VALUES["key5"]
            # What a handler does that has only read: it is stored if that is due.
            await session.save()
    return {"what": "renewals", "store": filling.name, "reads": reads, "writes": writes}

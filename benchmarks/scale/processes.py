"""Requests per second of several processes that share a port and a store.

The kernel spreads the connections over the processes (``SO_REUSEPORT``). The processes
are not bound to a core, and the load needs one: on a machine of two cores it takes part
of theirs, so that the second process adds less than the first, and four share with the
load what two have.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.load import Load, server
from benchmarks.results import Row

PROCESSES = (1, 2, 4)

#: Their sessions are in one process, or in no store at all.
NOT_SHARED = ("memory", "cookie")


def measure(stores: Sequence[str], quick: bool) -> Iterator[Row]:
    """Yields a row for each store that can be shared, and each number of processes.

    ``stores`` are URLs of backends. SQLite gets a file of its own for each round.
    """
    load = Load(rounds=1 if quick else 3, seconds=1)
    for url in stores:
        if _name(url) not in NOT_SHARED:
            for count in PROCESSES:
                yield _row(load, url, count)


def _row(load: Load, url: str, count: int) -> Row:
    reads, writes = [], []
    for _ in range(load.rounds):
        with serve(url, count) as ready:
            urls, cookies = ready["urls"], ready["cookies"]
            # The first second of a process is not like those that follow.
            load.run(urls["write"], cookies)
            reads.append(load.run(urls["read"], cookies).per_second)
            writes.append(load.run(urls["write"], cookies).per_second)
    return {
        "what": "processes",
        "store": _name(url),
        "processes": count,
        "reads_per_s": round(statistics.median(reads)),
        "writes_per_s": round(statistics.median(writes)),
    }


@contextmanager
def serve(url: str, count: int) -> Iterator[dict[str, Any]]:
    """Runs so many processes on one port, and yields what the first has printed."""
    with ExitStack() as stack:
        if _name(url) == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            url = f"sqlite:///{folder}/sessions.db"
        command = [sys.executable, "-m", "benchmarks.scale.process_server", url]
        first = stack.enter_context(server([*command, "0"], pinned=False))
        for _ in range(count - 1):
            other = [*command, str(first["port"])]
            stack.enter_context(server(other, pinned=False))
        yield first


def _name(url: str) -> str:
    return url.partition(":")[0]

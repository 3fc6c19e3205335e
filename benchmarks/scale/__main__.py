"""Prints what many sessions, processes and WebSockets cost.

Memory and SQLite need no server; the others are measured where they run:
``python -m servers python -m benchmarks.scale``. What is put there is removed again.
memcached is emptied, and may take four gigabytes from then on.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.results import Row
from benchmarks.scale import expiry, processes, renewals, sizes, websockets

#: How many bytes a session in memory may take if there are a million.
BYTES = 600

#: For how many ms the event loop may be blocked while half of the sessions expire.
STALL_MS = 5.0

#: The parts, in the order in which they run.
PARTS: dict[str, Callable[[Sequence[str], bool], Iterator[Row]]] = {
    "sizes": sizes.measure,
    "expiry": expiry.measure,
    "renewals": renewals.measure,
    "processes": processes.measure,
    "websockets": lambda stores, quick: websockets.measure(quick),
}

_SERVERS = ("MEMCACHED", "MONGODB", "MYSQL", "POSTGRESQL", "REDIS")


def missed(rows: Iterable[Row]) -> Iterator[str]:
    """Yields the goals that are missed, each with the figure."""
    for row in rows:
        is_weighed = row["what"] == "size" and row["sessions"] >= 1_000_000
        if is_weighed and row["store"] == "memory" and row["bytes"] > BYTES:
            yield f"{row['bytes']} bytes for a session in memory, of {BYTES}"
        if row["what"] == "expiry" and row["stall_ms"] > STALL_MS:
            yield f"a stall of {row['stall_ms']} ms with {row['store']}, of {STALL_MS}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--stores", default="", help="such as memory,redis")
    parser.add_argument("--results", type=Path, help="a file of JSON to write them to")
    arguments = parser.parse_args()
    wanted = arguments.stores.split(",") if arguments.stores else None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        stores = [
            url
            for url in ("memory:", f"sqlite:///{folder}/scale.db", *_servers())
            if wanted is None or url.partition(":")[0] in wanted
        ]
        for name, measure in PARTS.items():
            if arguments.only in (None, name):
                for row in measure(stores, results.is_quick()):
                    rows.append(row)
                    print(_line(row), flush=True)
    if arguments.results is not None:
        results.write("scale", rows, arguments.results)
    goals = list(missed(rows))
    for goal in goals:
        print(f"missed: {goal}")
    if goals:
        raise SystemExit(f"{len(goals)} goals missed")


def _servers() -> list[str]:
    """Returns the URLs of the stores that ``python -m servers`` has started."""
    urls = [os.environ.get(f"SESSIONS_TEST_{name}_URL", "") for name in _SERVERS]
    return [url for url in urls if url]


def _line(row: Row) -> str:
    figures = [
        f"{name} {'-' if value is None else f'{value:,}'}"
        for name, value in row.items()
        if name not in ("what", "store")
    ]
    return f"{row['what']:<12}{row.get('store', ''):<12}{'  '.join(figures)}"


if __name__ == "__main__":
    main()

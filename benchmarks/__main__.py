"""Prints what a session adds to a request.

As a multiple of what the same adds that is done by hand: with the store's driver and
JSON, and none of our promises. Then a write and a transaction of one session by all
connections ("hot"), as a multiple of those of many sessions. A request that does not
use its session is compared with the bare handler.

Memory, cookie and SQLite need no server; the others are measured where they run:
``python -m servers python -m benchmarks``.

Server and load have a core each. Every measurement of a route is paired with
one of the bare handler in the same process, right beside it, and the median of
the pairs counts. Each pair has a process of its own: by how its hashes fall,
one process is up to a fifth slower in the same handler than the next. Only
ratios carry over to another machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: By the store: how many times what is added by hand a read and a write may add.
GOALS = {
    "memory": (1.3, 1.5),
    "cookie": (1.0, 0.9),
    "sqlite": (0.9, 1.0),
    "memcached": (0.85, 0.85),
    "mongodb": (0.6, 1.05),
    "mysql": (0.7, 0.7),
    "postgresql": (0.5, 0.6),
    "redis": (0.5, 0.6),
}

#: How much longer than the bare handler one may take that does not use its session.
UNTOUCHED = 0.03

#: How many times what a write adds to a request of its own session it may add if all
#: connections write one session.
HOT = 1.1

_CONNECTIONS = 32

# Each request takes the next session, so that no two of them meet in one.
_SCRIPT = """
local cookies = {%s}
local n = 0
request = function()
  n = n %% #cookies + 1
  return wrk.format("GET", nil, {Cookie = cookies[n]})
end
"""


class Bench:
    """Measures routes, and counts the goals that are missed."""

    def __init__(self, folder: Path, rounds: int, seconds: int) -> None:
        self.folder = folder
        self.rounds = rounds
        self.seconds = seconds
        self.missed = 0

    def untouched(self, backend: str) -> None:
        """Measures a handler that does not use its session, and prints it."""
        bare, ours = self._medians(backend, [("bare", None), ("untouched", None)])
        self._print(backend, "untouched", ours - bare, bare, UNTOUCHED)

    def by_hand(self, backend: str, route: str, goal: float) -> None:
        """Measures a route against the same that is done by hand, and prints it."""
        bare, floor, ours = self._medians(
            backend,
            [
                ("bare", "cookies"),
                (f"floor/{route}", "floor_cookies"),
                (route, "cookies"),
            ],
        )
        self._print(backend, route, ours - bare, floor - bare, goal)

    def hot(self, backend: str, route: str) -> None:
        """Measures a route of one session against that of many, and prints it."""
        bare, own, hot = self._medians(
            backend,
            [("bare", "cookies"), (route, "cookies"), (route, "hot_cookies")],
        )
        self._print(backend, f"{route} hot", hot - bare, own - bare, HOT)

    def _print(
        self, backend: str, route: str, added: float, other: float, goal: float
    ) -> None:
        """Prints the µs that are added, as a multiple of others."""
        multiple = added / other
        self.missed += multiple > goal
        print(
            f"{_name(backend):<12}{route:<14}{multiple:>6.2f}  at most {goal:.2f}"
            f"{added:>8.1f} µs added, of {other:.1f}",
            flush=True,
        )

    def _medians(
        self,
        backend: str,
        routes: list[tuple[str, str | None]],
    ) -> list[float]:
        """Returns the µs per request of each route, in proportion to the first.

        The first is its median; the others are the medians of their ratios to
        the first in the same round, times that.
        """
        rounds = [self._round(backend, routes) for _ in range(self.rounds)]
        base = statistics.median(times[0] for times in rounds)
        return [
            base * statistics.median(times[n] / times[0] for times in rounds)
            for n in range(len(routes))
        ]

    def _round(self, backend: str, routes: list[tuple[str, str | None]]) -> list[float]:
        with _server(backend) as ready:
            # The first second of a process is not like those that follow.
            self._microseconds(ready, *routes[0])
            times = {
                each: self._microseconds(ready, *each)
                for each in random.sample(routes, len(routes))
            }
        return [times[each] for each in routes]

    def _microseconds(
        self, ready: dict[str, Any], route: str, cookies: str | None
    ) -> float:
        url = ready["urls"][route]
        command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{self.seconds}s", url]
        if cookies is not None:
            script = self.folder / "cookies.lua"
            values = map(json.dumps, ready[cookies])
            script.write_text(_SCRIPT % ",".join(values))
            command[1:1] = ["-s", str(script)]
        output = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=lambda: _pin(1),
        ).stdout
        found = re.search(r"Requests/sec:\s+([\d.]+)", output)
        if found is None or "Non-2xx" in output:
            raise SystemExit(f"{url} answered errors:\n{output}")
        return 1e6 / float(found[1])


@contextmanager
def _server(backend: str) -> Iterator[dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", backend],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: _pin(0),  # noqa: PLW1509 - no threads here
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def _pin(core: int) -> None:
    """Binds this process to one of the cores it may use."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})


def _servers() -> list[str]:
    """Returns the URLs of the stores that ``python -m servers`` has started."""
    names = ("MEMCACHED", "MONGODB", "MYSQL", "POSTGRESQL", "REDIS")
    urls = [os.environ.get(f"SESSIONS_TEST_{name}_URL", "") for name in names]
    return [url for url in urls if url]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--only", default="", help="such as memory or write")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("The load comes from wrk: apt-get install wrk")

    backends = ["memory:", "cookie:", "sqlite:///bench.db", *_servers()]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.rounds, arguments.seconds)
        if _is_in(arguments.only, "memory untouched"):
            bench.untouched("memory:")
        for backend in backends:
            for route, goal in zip(
                ("read", "write"), GOALS[_name(backend)], strict=True
            ):
                if _is_in(arguments.only, f"{_name(backend)} {route}"):
                    bench.by_hand(backend, route, goal)
        for backend in backends:
            # A cookie is the client's own: nobody else writes it.
            for route in () if _name(backend) == "cookie" else ("write", "transact"):
                if _is_in(arguments.only, f"{_name(backend)} {route} hot"):
                    bench.hot(backend, route)
    if bench.missed:
        raise SystemExit(f"{bench.missed} goals missed")


def _is_in(only: str, row: str) -> bool:
    return only in row


def _name(backend: str) -> str:
    return backend.partition(":")[0]


if __name__ == "__main__":
    main()

"""Prints what a session adds to a request.

Memory, cookie and SQLite as a ratio to a bare Tornado handler, beside what the
same adds that is done by hand, with JSON and none of our promises; memcached,
MongoDB, MySQL, PostgreSQL and Redis as a multiple of that. Those five need servers:
``python -m servers python -m benchmarks``. Then a write and a transaction of one
session by all connections ("hot"), as a multiple of those of many sessions.

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

#: What a route is to reach at least, as a ratio to the bare handler.
RATIOS = {
    ("memory:", "untouched"): 0.97,
    ("memory:", "read"): 0.86,
    ("memory:", "write"): 0.80,
    ("cookie:", "read"): 0.82,
    ("cookie:", "write"): 0.70,
    ("sqlite:///bench.db", "read"): 0.70,
    ("sqlite:///bench.db", "write"): 0.58,
}

#: How many times what the raw driver adds it may add at most, where a server is.
MULTIPLE = 1.25

#: How many times what a write adds to a request of its own session it may add if all
#: connections write one session.
HOT = 1.1

_CONNECTIONS = 16
_HOT_CONNECTIONS = 32

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

    def ratio(self, backend: str, route: str, goal: float) -> None:
        """Measures a route against the bare handler, and prints it."""
        cookies = None if route == "untouched" else "cookies"
        routes = [("bare", cookies), (route, cookies)]
        if cookies is not None:
            routes.append((f"floor/{route}", "floor_cookies"))
        bare, ours, *floor = self._medians(backend, routes)
        self.missed += bare / ours < goal
        by_hand = "".join(
            f" (by hand {bare / each:.2f}, {each - bare:.1f} µs)" for each in floor
        )
        print(
            f"{backend:<22}{route:<12}{bare / ours:>6.2f}  at least {goal:.2f}"
            f"{ours - bare:>9.1f} µs added{by_hand}"
        )

    def multiple(self, backend: str, route: str) -> None:
        """Measures a route against the raw driver, and prints it."""
        bare, floor, ours = self._medians(
            backend,
            [
                ("bare", "cookies"),
                (f"floor/{route}", "floor_cookies"),
                (route, "cookies"),
            ],
        )
        multiple = (ours - bare) / (floor - bare)
        self.missed += multiple > MULTIPLE
        print(
            f"{backend.partition(':')[0]:<22}{route:<12}{multiple:>6.2f}"
            f"  at most {MULTIPLE:.2f}{ours - bare:>9.1f} µs added"
            f" ({floor - bare:.1f} by the driver)"
        )

    def hot(self, backend: str, route: str) -> None:
        """Measures a route of one session against that of many, and prints it."""
        bare, own, hot = self._medians(
            backend,
            [("bare", "cookies"), (route, "cookies"), (route, "hot_cookies")],
            _HOT_CONNECTIONS,
        )
        multiple = (hot - bare) / (own - bare)
        self.missed += multiple > HOT
        print(
            f"{backend.partition(':')[0]:<22}{route + ' hot':<12}{multiple:>6.2f}"
            f"  at most {HOT:.2f}{hot - bare:>9.1f} µs added"
            f" ({own - bare:.1f} by many sessions)"
        )

    def _medians(
        self,
        backend: str,
        routes: list[tuple[str, str | None]],
        connections: int = _CONNECTIONS,
    ) -> list[float]:
        """Returns the µs per request of each route, in proportion to the first.

        The first is its median; the others are the medians of their ratios to
        the first in the same round, times that.
        """
        rounds = [self._round(backend, routes, connections) for _ in range(self.rounds)]
        base = statistics.median(times[0] for times in rounds)
        return [
            base * statistics.median(times[n] / times[0] for times in rounds)
            for n in range(len(routes))
        ]

    def _round(
        self, backend: str, routes: list[tuple[str, str | None]], connections: int
    ) -> list[float]:
        with _server(backend) as ready:
            # The first second of a process is not like those that follow.
            self._microseconds(ready, *routes[0], connections)
            times = {
                each: self._microseconds(ready, *each, connections)
                for each in random.sample(routes, len(routes))
            }
        return [times[each] for each in routes]

    def _microseconds(
        self, ready: dict[str, Any], route: str, cookies: str | None, connections: int
    ) -> float:
        url = ready["urls"][route]
        command = ["wrk", "-t1", f"-c{connections}", f"-d{self.seconds}s", url]
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

    ratios = {key: goal for key, goal in RATIOS.items() if _is_in(arguments.only, key)}
    multiples = [
        (backend, route)
        for backend in _servers()
        for route in ("read", "write")
        if _is_in(arguments.only, (backend, route))
    ]
    hot = [
        (backend, route)
        for backend in ("memory:", "sqlite:///bench.db", *_servers())
        for route in ("write", "transact")
        if _is_in(arguments.only, (backend, route, "hot"))
    ]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.rounds, arguments.seconds)
        for (backend, route), goal in ratios.items():
            bench.ratio(backend, route, goal)
        for backend, route in multiples:
            bench.multiple(backend, route)
        for backend, route in hot:
            bench.hot(backend, route)
    goals = len(ratios) + len(multiples) + len(hot)
    print(f"{bench.missed} of {goals} goals missed")


def _is_in(wanted: str, key: tuple[str, ...]) -> bool:
    return wanted in " ".join(key)


if __name__ == "__main__":
    main()

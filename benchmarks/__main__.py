"""Prints what a session adds to a request.

As a multiple of what the same adds that is done by hand: with the store's driver and
JSON, and none of our promises. Then a write and a transaction of one session by all
connections ("hot"), as a multiple of those of many sessions. A request that does not
use its session is compared with the bare handler.

Memory, cookie and SQLite need no server; the others are measured where they run:
``python -m servers python -m benchmarks``.

Server and load have a core each. Every measurement of a route is paired with
one of the bare handler in the same process, right beside it, and the median of
the pairs counts. Only ratios carry over to another machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.load import Load, Route, server

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


class Bench:
    """Measures routes, and keeps the results."""

    def __init__(self, load: Load) -> None:
        self.rows: list[results.Row] = []
        self._load = load

    @property
    def missed(self) -> int:
        """How many goals are missed."""
        return sum(row["multiple"] > row["goal"] for row in self.rows)

    def untouched(self, backend: str) -> None:
        """Measures a handler that does not use its session."""
        bare, ours = self._medians(backend, Route("bare"), Route("untouched"))
        self._note(backend, "untouched", bare, ours - bare, bare, UNTOUCHED)

    def by_hand(self, backend: str, route: str, goal: float) -> None:
        """Measures a route against the same that is done by hand."""
        bare, floor, ours = self._medians(
            backend,
            Route("bare", "cookies"),
            Route(f"floor/{route}", "floor_cookies"),
            Route(route, "cookies"),
        )
        self._note(backend, route, bare, ours - bare, floor - bare, goal)

    def hot(self, backend: str, route: str) -> None:
        """Measures a route of one session against that of many."""
        bare, own, hot = self._medians(
            backend,
            Route("bare", "cookies"),
            Route(route, "cookies"),
            Route(route, "hot_cookies"),
        )
        self._note(backend, f"{route} hot", bare, hot - bare, own - bare, HOT)

    def _medians(self, backend: str, *routes: Route) -> list[float]:
        def serve() -> AbstractContextManager[dict[str, Any]]:
            return server([sys.executable, "-m", "benchmarks.server", backend])

        return self._load.medians(serve, routes)

    def _note(
        self,
        backend: str,
        route: str,
        bare: float,
        added: float,
        other: float,
        goal: float,
    ) -> None:
        """Keeps and prints the µs that are added, as a multiple of others."""
        multiple = added / other
        self.rows.append(
            {
                "store": _name(backend),
                "route": route,
                "bare_us": round(bare, 1),
                "added_us": round(added, 1),
                "other_us": round(other, 1),
                "multiple": round(multiple, 3),
                "goal": goal,
            }
        )
        print(
            f"{_name(backend):<12}{route:<14}{multiple:>6.2f}  at most {goal:.2f}"
            f"{added:>8.1f} µs added, of {other:.1f}",
            flush=True,
        )


def _servers() -> list[str]:
    """Returns the URLs of the stores that ``python -m servers`` has started."""
    names = ("MEMCACHED", "MONGODB", "MYSQL", "POSTGRESQL", "REDIS")
    urls = [os.environ.get(f"SESSIONS_TEST_{name}_URL", "") for name in names]
    return [url for url in urls if url]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1 if results.is_quick() else 7)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--only", default="", help="such as memory or write")
    parser.add_argument("--results", type=Path, help="a file of JSON to write them to")
    arguments = parser.parse_args()
    backends = ["memory:", "cookie:", "sqlite:///bench.db", *_servers()]
    bench = Bench(Load(arguments.rounds, arguments.seconds))

    def is_wanted(backend: str, route: str) -> bool:
        return arguments.only in f"{_name(backend)} {route}"

    if is_wanted("memory:", "untouched"):
        bench.untouched("memory:")
    for backend in backends:
        goals: Sequence[float] = GOALS[_name(backend)]
        for route, goal in zip(("read", "write"), goals, strict=True):
            if is_wanted(backend, route):
                bench.by_hand(backend, route, goal)
    # Both would take more than the two minutes that are promised.
    hot = ("write",) if results.is_quick() else ("write", "transact")
    for backend in backends:
        # A cookie is the client's own: nobody else writes it.
        for route in () if _name(backend) == "cookie" else hot:
            if is_wanted(backend, f"{route} hot"):
                bench.hot(backend, route)
    if arguments.results is not None:
        results.write("path", bench.rows, arguments.results)
    if bench.missed:
        raise SystemExit(f"{bench.missed} goals missed")


def _name(backend: str) -> str:
    return backend.partition(":")[0]


if __name__ == "__main__":
    main()

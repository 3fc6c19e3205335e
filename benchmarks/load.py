"""A server on one core, and the load that wrk makes on the other."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

CONNECTIONS = 32

# Each request takes the next cookie, so that no two of them meet in one session.
_SCRIPT = """
local cookies = {%s}
local n = 0
request = function()
  n = n %% #cookies + 1
  return wrk.format("GET", nil, {Cookie = cookies[n]})
end
"""


class Route(NamedTuple):
    """A route that is measured, and the list of cookies that its requests bring.

    Both are names of what the server has printed when it was ready.
    """

    url: str
    cookies: str | None = None


class Load:
    """Measures the routes of a server."""

    def __init__(self, rounds: int, seconds: int) -> None:
        if shutil.which("wrk") is None:
            raise SystemExit("The load comes from wrk: apt-get install wrk")
        self.rounds = rounds
        self.seconds = seconds

    def medians(
        self,
        serve: Callable[[], AbstractContextManager[dict[str, Any]]],
        routes: Sequence[Route],
    ) -> list[float]:
        """Returns the µs per request of each route, in proportion to the first.

        The first is its median; the others are the medians of their ratios to
        the first in the same round, times that. Each round has a process of its own,
        from ``serve``: by how its hashes fall, one process is up to a fifth slower in
        the same handler than the next.
        """
        rounds = [self._round(serve, routes) for _ in range(self.rounds)]
        base = statistics.median(times[0] for times in rounds)
        return [
            base * statistics.median(times[n] / times[0] for times in rounds)
            for n in range(len(routes))
        ]

    def _round(
        self,
        serve: Callable[[], AbstractContextManager[dict[str, Any]]],
        routes: Sequence[Route],
    ) -> list[float]:
        with serve() as ready:
            # The first second of a process is not like those that follow.
            self._microseconds(ready, routes[0])
            times = {
                route: self._microseconds(ready, route)
                for route in random.sample(routes, len(routes))
            }
        return [times[route] for route in routes]

    def _microseconds(self, ready: dict[str, Any], route: Route) -> float:
        url = ready["urls"][route.url]
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{self.seconds}s", url]
        with tempfile.TemporaryDirectory() as folder:
            if route.cookies is not None:
                script = Path(folder, "cookies.lua")
                values = map(json.dumps, ready[route.cookies])
                script.write_text(_SCRIPT % ",".join(values))
                command[1:1] = ["-s", str(script)]
            output = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=True,
                preexec_fn=lambda: pin(1),
            ).stdout
        found = re.search(r"Requests/sec:\s+([\d.]+)", output)
        if found is None or "Non-2xx" in output:
            raise SystemExit(f"{url} answered errors:\n{output}")
        return 1e6 / float(found[1])


@contextmanager
def server(command: Sequence[str], **options: Any) -> Iterator[dict[str, Any]]:
    """Runs a server on a core of its own, and yields what it prints when it is ready.

    That is one line of JSON, with "urls" and lists of cookies.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: pin(0),  # noqa: PLW1509 - no threads here
        **options,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(command)} has ended before it was ready")
        yield json.loads(line)
    finally:
        process.terminate()
        process.wait()


def pin(core: int) -> None:
    """Binds this process to one of the cores it may use."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})

"""A server on one core, and the load that wrk makes on the other."""

from __future__ import annotations

import json
import math
import os
import random
import re
import select
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from servers.programs import ServerUnavailableError, find

CONNECTIONS = 32

# How many seconds a server has to start, and how many to stop.
_START = 60.0
_STOP = 10.0

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


class Requests(NamedTuple):
    """What a server has answered under load."""

    answered: int
    per_second: float


class BrokenError(Exception):
    """Raised when a server cannot be measured: it does not start, or answers errors."""


class Load:
    """Measures the routes of a server.

    Installs wrk, which makes the load, if it is missing.
    """

    def __init__(self, rounds: int, seconds: float) -> None:
        try:
            self._wrk = find("wrk")
        except ServerUnavailableError as error:
            raise SystemExit(str(error)) from error
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
        cookies = ready[route.cookies] if route.cookies is not None else ()
        return 1e6 / self.run(ready["urls"][route.url], cookies).per_second

    def run(
        self, url: str, cookies: Sequence[str] = (), seconds: float = 0
    ) -> Requests:
        """Loads a URL, for as long as a route is measured or for so many seconds.

        Raises `BrokenError` if it answers errors.
        """
        seconds = seconds or self.seconds
        # It takes whole seconds. Interrupted, it says how many it has run.
        whole = f"-d{math.ceil(seconds) + 1}s"
        command = [self._wrk, "-t1", f"-c{CONNECTIONS}", whole, url]
        with tempfile.TemporaryDirectory() as folder:
            if cookies:
                script = Path(folder, "cookies.lua")
                script.write_text(_SCRIPT % ",".join(map(json.dumps, cookies)))
                command[1:1] = ["-s", str(script)]
            wrk = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                preexec_fn=lambda: pin(1),  # noqa: PLW1509 - no threads here
            )
            try:
                wrk.wait(seconds)
            except subprocess.TimeoutExpired:
                wrk.send_signal(signal.SIGINT)
            output = wrk.communicate()[0]
        count = re.search(r"(\d+) requests in ", output)
        rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
        if count is not None and not int(count[1]) and seconds < 1:
            # On a busy machine wrk itself takes a while to begin.
            return self.run(url, cookies, 1)
        if count is None or rate is None or "Non-2xx" in output or not int(count[1]):
            errors = re.search("Non-2xx.*|Socket errors.*|unable .*", output)
            raise BrokenError(f"{url}: {errors[0] if errors else output!r}")
        return Requests(int(count[1]), float(rate[1]))


@contextmanager
def server(
    command: Sequence[str], *, pinned: bool = True, **options: Any
) -> Iterator[dict[str, Any]]:
    """Runs a server on a core of its own, and yields what it prints when it is ready.

    That is one line of JSON, with "urls" and lists of cookies. Its process id is added
    as "pid". Raises `BrokenError` if it ends before. To this and to any other that the
    body raises, the last line is added that the server has written to standard error.
    If it is not ``pinned``, it may use all cores.
    """
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # There are no threads here.
            preexec_fn=(lambda: pin(0)) if pinned else None,  # noqa: PLW1509
            **options,
        )
        assert process.stdout is not None
        try:
            yield {"pid": process.pid, **_wait(process.stdout)}
        except BrokenError as error:
            last = _last_line(log)
            raise BrokenError(f"{last} ({error})" if last else str(error)) from error
        finally:
            process.terminate()
            try:
                process.wait(_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


def _wait(output: IO[str]) -> dict[str, Any]:
    if not select.select([output], [], [], _START)[0]:
        raise BrokenError(f"It is not ready after {_START:.0f} seconds.")
    line = output.readline()
    if not line:
        raise BrokenError("It has ended before it was ready.")
    ready: dict[str, Any] = json.loads(line)
    return ready


def _last_line(log: IO[str]) -> str:
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    return lines[-1] if lines else ""


def pin(core: int) -> None:
    """Binds this process to one of the cores it may use."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[core % len(cores)]})

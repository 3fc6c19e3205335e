"""Prints what a session adds to a request, as a ratio to a bare Tornado handler.

Server and load have a core each. Every measurement of a route is paired with
one of the bare handler in the same process, right before it; the median of the
pairs counts. Only ratios carry over to another machine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: What each route is to reach at least, as a ratio to the bare handler.
GOALS = {
    ("memory:", "untouched"): 0.97,
    ("memory:", "read"): 0.86,
    ("memory:", "write"): 0.80,
    ("cookie:", "read"): 0.82,
    ("cookie:", "write"): 0.70,
    ("sqlite:///bench.db", "read"): 0.70,
    ("sqlite:///bench.db", "write"): 0.58,
}

_CONNECTIONS = 16

# Each request takes the next session, so that no two of them meet in one.
_SCRIPT = """
local cookies = {%s}
local n = 0
request = function()
  n = n %% #cookies + 1
  return wrk.format("GET", nil, {Cookie = cookies[n]})
end
"""


@contextmanager
def _server(backends: list[str]) -> Iterator[dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", *backends],
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


def _requests_per_second(url: str, script: str | None, seconds: float) -> float:
    command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{seconds}s", url]
    if script:
        command[1:1] = ["-s", script]
    output = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: _pin(1),
    ).stdout
    if "Non-2xx" in output:
        raise SystemExit(f"{url} answered errors:\n{output}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert found is not None, output
    return float(found[1])


def _measure(
    port: int, route: str, script: str | None, rounds: int, seconds: float
) -> tuple[float, float]:
    """Answers the ratio to the bare handler and the µs added, medians."""
    ratios, added = [], []
    for _ in range(rounds):
        base = f"http://127.0.0.1:{port}"
        bare = _requests_per_second(f"{base}/bare", script, seconds)
        rate = _requests_per_second(f"{base}/{route}", script, seconds)
        ratios.append(rate / bare)
        added.append(1e6 / rate - 1e6 / bare)
    return statistics.median(ratios), statistics.median(added)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--only", default="", help="such as memory or write")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("The load comes from wrk: apt-get install wrk")
    goals = {
        key: goal for key, goal in GOALS.items() if arguments.only in " ".join(key)
    }
    missed = 0
    with (
        _server(sorted({backend for backend, _ in goals})) as ready,
        tempfile.TemporaryDirectory() as folder,
    ):
        print(f"{'backend':<22}{'route':<12}{'ratio':>6}{'goal':>6}{'added':>10}")
        for (backend, route), goal in goals.items():
            script = None
            if route != "untouched":
                script = os.path.join(folder, "cookies.lua")
                with open(script, "w") as file:
                    cookies = ",".join(map(json.dumps, ready[backend]["cookies"]))
                    file.write(_SCRIPT % cookies)
            ratio, added = _measure(
                ready[backend]["port"],
                route,
                script,
                arguments.rounds,
                arguments.seconds,
            )
            missed += ratio < goal
            print(f"{backend:<22}{route:<12}{ratio:>6.2f}{goal:>6.2f}{added:>7.1f} µs")
    print(f"{missed} of {len(goals)} goals missed")


if __name__ == "__main__":
    main()

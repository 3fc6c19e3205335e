"""Runs a command with servers for it: ``python -m servers COMMAND…``."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable

from servers.processes import Memcached, MongoDB, Server
from servers.programs import (
    ServerUnavailableError,
    find_chromedriver,
    find_chromium,
)

SERVERS: dict[str, type[Server]] = {
    "SESSIONS_TEST_MEMCACHED_URL": Memcached,
    "SESSIONS_TEST_MONGODB_URL": MongoDB,
}

PROGRAMS: dict[str, Callable[[], str]] = {
    "SESSIONS_TEST_CHROMIUM": find_chromium,
    "SESSIONS_TEST_CHROMEDRIVER": find_chromedriver,
}


def main(command: list[str]) -> int:
    """Runs ``command`` while the servers are up, and returns its exit code.

    A server or browser whose variable is set already is not started or searched
    for. Those that are not available are named at the end. If ``CI`` is set, this
    is a failure.
    """
    missing = []
    with contextlib.ExitStack() as running:
        for variable, make in SERVERS.items():
            if os.environ.get(variable):
                continue
            try:
                server = running.enter_context(make())
            except ServerUnavailableError as error:
                missing.append(f"Nothing was tested on {variable}: {error}")
            else:
                os.environ[variable] = server.url
        for variable, find in PROGRAMS.items():
            try:
                os.environ[variable] = find()
            except ServerUnavailableError as error:  # noqa: PERF203
                missing.append(f"Nothing was tested on {variable}: {error}")
        code = subprocess.call(command)
    for line in missing:
        print(line, file=sys.stderr)
    return code or int(bool(missing) and bool(os.environ.get("CI")))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m servers COMMAND…")
    # An interrupt goes to the command. When it has ended, the servers are stopped.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))

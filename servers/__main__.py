"""Runs a command with servers for it: ``python -m servers COMMAND…``."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable

from servers.mariadb import MariaDB
from servers.memcached import Memcached
from servers.mongodb import MongoDB
from servers.postgresql import PgBouncer, PostgreSQL
from servers.processes import Server
from servers.programs import ServerUnavailableError, find, install_missing
from servers.redis import Redis, Valkey

#: The servers and programs, and the environment variables that name them.
VARIABLES = {
    "memcached": "SESSIONS_TEST_MEMCACHED_URL",
    "mongodb": "SESSIONS_TEST_MONGODB_URL",
    "redis": "SESSIONS_TEST_REDIS_URL",
    "valkey": "SESSIONS_TEST_VALKEY_URL",
    "postgresql": "SESSIONS_TEST_POSTGRESQL_URL",
    "pgbouncer": "SESSIONS_TEST_PGBOUNCER_URL",
    "mysql": "SESSIONS_TEST_MYSQL_URL",
    "chromium": "SESSIONS_TEST_CHROMIUM",
    "chromedriver": "SESSIONS_TEST_CHROMEDRIVER",
}

PROGRAMS = ("chromium", "chromedriver")

#: Names those of `VARIABLES` that are wanted; if it is empty, all are.
CHOICE = "SESSIONS_TEST_SERVERS"


def main(command: list[str]) -> int:
    """Runs ``command`` while the servers are up, and returns its exit code.

    A server or browser whose variable is set already is not started or searched
    for. Those that are not available are named at the end. If ``CI`` is set, this
    is a failure.
    """
    chosen = _chosen()
    wanted = [name for name in chosen if not os.environ.get(VARIABLES[name])]
    install_missing(wanted)
    with contextlib.ExitStack() as running:
        urls, missing = _start(wanted, running)
        os.environ.update(urls)
        code = subprocess.call(command)
    for name, reason in missing.items():
        print(f"Nothing was tested on {VARIABLES[name]}: {reason}", file=sys.stderr)
    left_out = [
        name
        for name, variable in VARIABLES.items()
        if name not in chosen and not os.environ.get(variable)
    ]
    if left_out:
        print(
            f"Nothing was tested on what {CHOICE} leaves out: {', '.join(left_out)}",
            file=sys.stderr,
        )
    return code or int(bool(missing or left_out) and bool(os.environ.get("CI")))


def _chosen() -> list[str]:
    """Returns the names in `CHOICE`, and of the servers that those need."""
    named = os.environ.get(CHOICE, "").replace(",", " ").split()
    for name in named:
        if name not in VARIABLES:
            raise SystemExit(
                f"{CHOICE} has no server named {name!r}. Choose from:"
                f" {', '.join(VARIABLES)}"
            )
    if "pgbouncer" in named:
        named.append("postgresql")
    return [name for name in VARIABLES if name in named or not named]


def _start(
    names: Iterable[str], running: contextlib.ExitStack
) -> tuple[dict[str, str], dict[str, str]]:
    """Starts servers, which ``running`` stops, and finds programs.

    Returns the variables that name them, and why others are missing.
    """
    variables, missing = {}, {}
    servers = {name: server for name, server in _servers().items() if name in names}
    for name in names:
        try:
            if name in PROGRAMS:
                variables[VARIABLES[name]] = find(name)
            else:
                servers[name].install()
        except ServerUnavailableError as error:  # noqa: PERF203
            missing[name] = str(error)
    # Should this be interrupted, it waits until each is up and can be stopped.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        starts = {}
        for name, server in servers.items():
            if name not in missing:
                running.callback(server.stop)
                starts[name] = pool.submit(server.start)
    for name, start in starts.items():
        try:
            start.result()
        except ServerUnavailableError as error:  # noqa: PERF203
            missing[name] = str(error)
        else:
            variables[VARIABLES[name]] = servers[name].url
    return variables, missing


def _servers() -> dict[str, Server]:
    postgresql = PostgreSQL()
    behind = os.environ.get(VARIABLES["postgresql"]) or postgresql.url
    return {
        "memcached": Memcached(),
        "mongodb": MongoDB(),
        "redis": Redis(),
        "valkey": Valkey(),
        "postgresql": postgresql,
        "pgbouncer": PgBouncer(behind),
        "mysql": MariaDB(),
    }


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m servers COMMAND…")
    # An interrupt goes to the command. When it has ended, the servers are stopped.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))

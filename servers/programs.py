"""Finds programs of servers, browser and peers, and installs those that are missing."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

#: Where programs are kept that no package manager installs.
FOLDER = Path(__file__).parent.parent / ".servers"

#: Where Debian keeps what is written in Go, as GOPATH says it.
GO_FOLDER = Path("/usr/share/gocode")

# What an ordinary user's PATH leaves out.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin")

# The packages bring services of their own, on the standard ports. They must not
# be started: the tests start what they need.
_APT_GET = """\
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\\nexit 101\\n' >$policy
    chmod 755 $policy
fi
apt-get --yes --quiet -o DPkg::Lock::Timeout=300 "$@"
"""


class ServerUnavailableError(Exception):
    """Raised when a program is missing and cannot be installed."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A program of Debian.

    ``packages`` have it, under one of ``names``. ``variable`` names another one.
    """

    packages: tuple[str, ...]
    names: tuple[str, ...]
    variable: str = ""

    def find(self) -> str | None:
        """Returns the path of the program, or None if it is not installed."""
        return os.environ.get(self.variable) or _which(self.names)


class PostgreSQLProgram(Program):
    """The ``postgres`` of PostgreSQL 13 or newer."""

    def find(self) -> str | None:
        # Debian keeps several versions side by side, none of them on PATH.
        debian = map(str, Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        paths = [_which(self.names) or "", *sorted(debian, key=_major, reverse=True)]
        return next((path for path in paths if path and _major(path) >= 13), None)


class GoPackage(Program):
    """The source text of a package for Go."""

    def find(self) -> str | None:
        paths = (GO_FOLDER / "src" / name for name in self.names)
        return next((str(path) for path in paths if path.exists()), None)


# The package mariadb-server has a service besides, which nobody needs here.
_MARIADB = ("mariadb-server-core", "mariadb-client-core")

DEBIAN = {
    "memcached": Program(("memcached",), ("memcached",)),
    "redis": Program(("redis-server",), ("redis-server",)),
    "postgresql": PostgreSQLProgram(("postgresql",), ("postgres",)),
    "pgbouncer": Program(("pgbouncer",), ("pgbouncer",)),
    "mysql": Program(_MARIADB, ("mariadbd",)),
    "mariadb-install-db": Program(_MARIADB, ("mariadb-install-db",)),
    "chromium": Program(
        ("chromium",),
        ("chromium", "chromium-browser", "google-chrome"),
        "SESSIONS_TEST_CHROMIUM",
    ),
    "chromedriver": Program(
        ("chromium-driver",), ("chromedriver",), "SESSIONS_TEST_CHROMEDRIVER"
    ),
    "wrk": Program(("wrk",), ("wrk",)),
    "node": Program(("nodejs", "npm"), ("node",)),
    "npm": Program(("nodejs", "npm"), ("npm",)),
    "go": Program(("golang-go",), ("go",)),
    "redistore": GoPackage(
        ("golang-github-boj-redistore-dev",), ("github.com/boj/redistore",)
    ),
}


def find(name: str) -> str:
    """Returns the path of a program of `DEBIAN`, and installs it if it is missing.

    Raises `ServerUnavailableError` if it cannot be installed.
    """
    program = DEBIAN[name]
    found = program.find()
    if found is None:
        with one_at_a_time():
            found = program.find()
            if found is None:
                _install(program.packages)
                found = program.find()
    if found is None:
        package, missing = program.packages[0], program.names[0]
        raise ServerUnavailableError(
            f"{package} is installed, and yet {missing} is not on PATH. Put it there."
        )
    return found


def install_missing(names: Iterable[str]) -> None:
    """Installs those of the named programs that are missing, all in one go.

    If that fails, `find` tries each of them by itself and says what is wrong.
    """
    with one_at_a_time():
        packages = [
            package
            for name in names
            if name in DEBIAN and DEBIAN[name].find() is None
            for package in DEBIAN[name].packages
        ]
        if packages:
            with contextlib.suppress(ServerUnavailableError):
                _install(packages)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Has other test runs on this machine wait until a program is installed."""
    FOLDER.mkdir(exist_ok=True)
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(command: list[str], otherwise: str) -> None:
    """Runs a command to its end, even when this process is told to stop.

    Raises `ServerUnavailableError`, which begins with ``otherwise``, if it fails.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Ctrl-C would leave packages behind that are half installed.
            start_new_session=True,
        )
    except OSError as error:
        raise ServerUnavailableError(f"{otherwise} ({error})") from error
    try:
        output, _ = process.communicate()
    except BaseException:
        process.communicate()
        raise
    if process.returncode != 0:
        last = (output.strip().splitlines() or ["nothing"])[-1]
        raise ServerUnavailableError(f"{otherwise} ({command[0]} says: {last})")


def _which(names: Iterable[str]) -> str | None:
    path = os.pathsep.join([os.environ.get("PATH", ""), *_SYSTEM_FOLDERS])
    found = (shutil.which(name, path=path) for name in names)
    return next(filter(None, found), None)


@functools.cache
def _major(postgres: str) -> int:
    """Returns the major version of a ``postgres``; 0 if it does not say one."""
    ran = subprocess.run(
        [postgres, "--version"], capture_output=True, text=True, check=False
    )
    version = re.search(r" (\d+)", ran.stdout)
    return int(version[1]) if version else 0


def _install(packages: Iterable[str]) -> None:
    named = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise ServerUnavailableError(
            f"{named} is not installed, and there is no apt-get to install it with."
        )
    otherwise = (
        f"{named} is not installed, and cannot be."
        f" Install it with: apt-get install {named}"
    )
    try:
        _apt_get(["install", *packages], otherwise)
    except ServerUnavailableError:
        _update()
        _apt_get(["install", *packages], otherwise)


@functools.cache
def _update() -> None:
    """Updates the list of packages, once: a new machine has none, an old one an old."""
    with contextlib.suppress(ServerUnavailableError):
        _apt_get(["update"], "There is no new list of packages.")


def _apt_get(arguments: list[str], otherwise: str) -> None:
    sudo = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    run([*sudo, "/bin/sh", "-c", _APT_GET, "apt-get", *arguments], otherwise)

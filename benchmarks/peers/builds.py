"""Installs the peers that are not written in Python, into the folder .peers."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from servers.programs import (
    GO_FOLDER,
    ServerUnavailableError,
    find,
    one_at_a_time,
    run,
)

SOURCES = Path(__file__).parent

#: Where they are installed.
FOLDER = Path(__file__).parents[2] / ".peers"

# What the driver of MongoDB asks for.
_OLDEST_NODE = (20, 19)

_GO_PACKAGES = ("golang-github-boj-redistore-dev", "golang-github-gorilla-sessions-dev")

# Without a network its row is broken after two minutes, and not after a quarter of an hour.
_NPM_OPTIONS = [
    *["--loglevel=error", "--no-package-lock", "--no-audit", "--no-fund"],
    *["--fetch-timeout=60000", "--fetch-retries=1"],
]


@functools.cache
def node() -> list[str]:
    """Returns the command of the peers for Node.js, but for their name.

    Raises `ServerUnavailableError` if they are not installed and cannot be.
    """
    program = find("node")
    _check_version(program)
    modules = _install_packages(find("npm")) / "node_modules"
    return [
        *["env", "NODE_ENV=production", f"NODE_PATH={modules}"],
        *[program, "--expose-gc", str(SOURCES / "node" / "server.js")],
    ]


@functools.cache
def go() -> list[str]:
    """Returns the command of the peers in Go, but for their name.

    Raises `ServerUnavailableError` if they cannot be compiled.
    """
    environment = ["env", "GO111MODULE=off", f"GOPATH={GO_FOLDER}"]
    find("redistore")
    server = str(FOLDER / "go" / "server")
    source = str(SOURCES / "go" / "main.go")
    build = [*environment, find("go"), "build", "-o", server, source]
    with one_at_a_time():
        run(build, "The peers in Go cannot be compiled.")
    return [server]


def node_versions() -> dict[str, str]:
    """Returns the versions of Node.js and of the packages that are installed."""
    ran = subprocess.run(
        [find("node"), "--version"], capture_output=True, text=True, check=True
    )
    modules = FOLDER / "node" / "node_modules"
    wanted = json.loads((SOURCES / "node" / "package.json").read_text())
    names = [*wanted["dependencies"], *wanted["optionalDependencies"]]
    manifests = [modules / name / "package.json" for name in names]
    # Their drivers have the names of those for Python.
    packages = {
        f"{manifest.parent.name} for Node.js": json.loads(manifest.read_text())[
            "version"
        ]
        for manifest in manifests
        if manifest.exists()
    }
    return {"node": ran.stdout.strip().removeprefix("v"), **packages}


def go_versions() -> dict[str, str]:
    """Returns the versions of Go and of Debian's packages that are compiled."""
    find("redistore")
    go = subprocess.run(
        [find("go"), "version"], capture_output=True, text=True, check=True
    )
    packages = subprocess.run(
        ["dpkg-query", "--show", "-f", r"${Package} ${Version}\n", *_GO_PACKAGES],
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        "go": go.stdout.split()[2].removeprefix("go"),
        **dict(line.split() for line in packages.stdout.splitlines()),
    }


def _check_version(program: str) -> None:
    ran = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=False
    )
    found = re.match(r"v(\d+)\.(\d+)", ran.stdout)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST_NODE:
        raise ServerUnavailableError(
            f"Node.js is {ran.stdout.strip() or 'broken'}, and"
            f" {'.'.join(map(str, _OLDEST_NODE))} or newer is needed."
        )


def _install_packages(npm: str) -> Path:
    """Returns the folder with the packages, which are installed anew if others are."""
    manifest = SOURCES / "node" / "package.json"
    folder = FOLDER / "node"
    installed = folder / "package.json"
    with one_at_a_time():
        if not installed.exists() or installed.read_text() != manifest.read_text():
            shutil.rmtree(folder, ignore_errors=True)
            FOLDER.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
                whole = Path(scratch) / "whole"
                whole.mkdir()
                shutil.copy(manifest, whole)
                install = [npm, "install", "--prefix", str(whole), *_NPM_OPTIONS]
                run(install, "The peers for Node.js cannot be installed.")
                # All at once, so that what is half there is never taken for whole.
                whole.rename(folder)
    return folder

"""How the programs of the peers are installed and run."""

from __future__ import annotations

import abc
import dataclasses
import functools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.builds import FOLDER
from servers.programs import one_at_a_time, run

# Where it is, and so when it has to be installed anew.
_INSTALLED = "installed.json"


class Program(abc.ABC):
    """What serves a peer."""

    @abc.abstractmethod
    def command(self) -> list[str]:
        """Returns the command but for the URL of the store, and installs what it needs.

        Raises `ServerUnavailableError` if that is not possible.
        """

    def versions(self) -> dict[str, str]:
        """Returns the versions of what is installed, by its name."""
        return {}


@dataclasses.dataclass(frozen=True)
class Python(Program):
    """A module of `benchmarks.peers.python`.

    It runs in an environment of its own in the folder .peers, made with the interpreter
    that runs this. If it requires nothing, it runs in the environment of this.
    """

    module: str
    requirements: tuple[str, ...] = ()

    def command(self) -> list[str]:
        python = str(_environment(self.requirements)) if self.requirements else None
        module = f"benchmarks.peers.python.{self.module}"
        return [python or sys.executable, "-m", module]

    def versions(self) -> dict[str, str]:
        if not self.requirements:
            return {}
        ran = subprocess.run(
            [
                *[str(_environment(self.requirements)), "-m", "pip", "list"],
                *["--format=json", "--disable-pip-version-check"],
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        installed = {
            package["name"].lower(): package["version"]
            for package in json.loads(ran.stdout)
        }
        return {name: installed[name] for name in map(_name, self.requirements)}


@dataclasses.dataclass(frozen=True)
class Built(Program):
    """A program of another language, which serves several peers by their names."""

    build: Callable[[], list[str]]
    name: str
    find_versions: Callable[[], dict[str, str]]

    def command(self) -> list[str]:
        return [*self.build(), self.name]

    def versions(self) -> dict[str, str]:
        return self.find_versions()


@functools.cache
def _environment(requirements: tuple[str, ...]) -> Path:
    """Returns the interpreter of the environment for these requirements.

    It is made if it is missing, or was made for others or by another Python.
    """
    wanted = json.dumps([sys.version, *requirements])
    folder = FOLDER / f"python-{_name(requirements[0])}"
    python = folder / "bin" / "python"
    installed = folder / _INSTALLED
    with one_at_a_time():
        if not installed.exists() or installed.read_text() != wanted:
            otherwise = f"{requirements[0]} cannot be installed."
            shutil.rmtree(folder, ignore_errors=True)
            run([sys.executable, "-m", "venv", str(folder)], otherwise)
            pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
            run([*pip, "--quiet", *requirements], otherwise)
            # Last, so that what is half there is never taken for whole.
            installed.write_text(wanted)
    return python


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return found[0].lower()

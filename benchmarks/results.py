"""The results of all benchmarks, in one file of JSON.

``docs/speed.json`` has a section for each command, with the machine and the versions
that it was measured with. A command replaces its own section and leaves the others.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent.parent / "docs" / "speed.json"

#: One measurement: what was measured, and its figures. The names of figures end in
#: their unit, such as ``added_us``.
Row = dict[str, Any]


def write(section: str, rows: Iterable[Row], path: Path, **versions: str) -> None:
    """Replaces a section of the file. ``versions`` are those of programs."""
    results = read(path) if path.exists() else {}
    results[section] = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": _machine(),
        "versions": {**our_versions(), **versions},
        "rows": list(rows),
    }
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def is_quick() -> bool:
    """Whether ``QUICK=1`` asks for two minutes, at the price of what chance adds."""
    return os.environ.get("QUICK", "") not in ("", "0")


def read(path: Path = FILE) -> dict[str, Any]:
    """Returns all sections, by name."""
    results: dict[str, Any] = json.loads(path.read_text())
    return results


def _machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if "model name" in line)
    return next(names, platform.processor())


def our_versions() -> dict[str, str]:
    """Returns the versions of Python, Tornado and the drivers."""
    names = (
        "aiomcache aiosqlite asyncmy asyncpg cryptography motor msgspec pymongo redis"
        " tornado"
    )
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names.split()},
    }

"""Stores that are filled: what is known of each, and those that need no server."""

from __future__ import annotations

import gc
import os
import secrets
import sqlite3
from pathlib import Path


class Store:
    """An empty store of its own, on the server or at the path of ``url``."""

    #: What makes it one of its own: options of its URL.
    options = ""

    def __init__(self, url: str) -> None:
        # Its table, or whatever the store calls that.
        self.place = f"scale_{secrets.token_hex(4)}"
        self.server = url
        options = self.options.format(place=self.place)
        self.url = f"{url}{'&' if '?' in url else '?'}{options}" if options else url

    async def size(self) -> int:
        """Returns how many bytes it takes."""
        raise NotImplementedError

    async def clear(self) -> None:
        """Removes all that was stored."""


class Memory(Store):
    options = "max_records=10000000&max_memory=100000000000"

    async def size(self) -> int:
        gc.collect()
        return _resident()


class SQLite(Store):
    @property
    def _files(self) -> list[Path]:
        path = self.server.removeprefix("sqlite:///")
        return [Path(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")]

    async def size(self) -> int:
        if not _size(self._files[0]):
            return 0
        connection = sqlite3.connect(self._files[0])
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return sum(map(_size, self._files))

    async def clear(self) -> None:
        for file in self._files:
            file.unlink(missing_ok=True)


def _resident() -> int:
    """Returns the bytes of memory that this process takes."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0

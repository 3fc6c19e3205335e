"""Who may sign in: names and hashes of passwords, in a file of their own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

_TABLE = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY,
    salt BLOB NOT NULL,
    hash BLOB NOT NULL
)
"""


#: How many passwords are hashed at once, and how many more wait. A hash takes
#: some 16 MiB and a tenth of a second.
AT_ONCE = 2
WAITING = 16

T = TypeVar("T")


class BusyError(Exception):
    """Raised when too many passwords wait to be hashed."""


class Accounts:
    """The accounts in the SQLite file ``path``, which is created if there is none.

    A good password hash is slow on purpose, so it is computed in a thread, and
    the file is read and written there: either would block the event loop. The queue
    for these threads is bounded. If it is full, `create` and `check` raise
    `BusyError` at once, so a flood of passwords fills neither the memory nor the
    queue.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(AT_ONCE)
        self._places = threading.Semaphore(AT_ONCE + WAITING)
        # Other users of this machine must not read the hashes.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with self._open() as database:
            database.execute(_TABLE)

    async def create(self, name: str, password: str) -> bool:
        """Creates an account. Returns whether ``password`` is that of ``name``.

        Returns False if the name exists with another password, and True if a user
        signs up again with the right one.
        """
        return await self.run(self._create, name, password)

    async def check(self, name: str, password: str) -> bool:
        """Whether ``password`` is that of the account ``name``."""
        return await self.run(self._check, name, password)

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Runs a function in one of the threads; raises `BusyError` if it can't."""
        if not self._places.acquire(blocking=False):
            raise BusyError
        future = self._threads.submit(function, *args)
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)

    def _create(self, name: str, password: str) -> bool:
        # One hash in each case, so that the time reveals nothing.
        row = self._find(name)
        salt, stored = row or (secrets.token_bytes(16), b"")
        computed = _hash(password, salt)
        if row is not None:
            return hmac.compare_digest(computed, stored)
        try:
            with self._open() as database:
                database.execute(
                    "INSERT INTO accounts VALUES (?, ?, ?)", (name, salt, computed)
                )
        except sqlite3.IntegrityError:
            # Somebody has taken the name meanwhile: most likely a double click.
            return self._check(name, password)
        return True

    def _check(self, name: str, password: str) -> bool:
        # An unknown name takes as long as a known one, and so gives nothing away.
        salt, stored = self._find(name) or (secrets.token_bytes(16), b"")
        return hmac.compare_digest(_hash(password, salt), stored)

    def _find(self, name: str) -> tuple[bytes, bytes] | None:
        """Returns the salt and the hash of an account, or None."""
        with self._open() as database:
            row: tuple[bytes, bytes] | None = database.execute(
                "SELECT salt, hash FROM accounts WHERE name = ?", [name]
            ).fetchone()
        return row

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Opens the file for one transaction."""
        with contextlib.closing(sqlite3.connect(self._path)) as database, database:
            yield database


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=5)

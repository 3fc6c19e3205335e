"""Who may sign in: names and hashes of passwords, in a file of their own."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import sqlite3
from collections.abc import Iterator

from tornado.ioloop import IOLoop

_TABLE = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY,
    salt BLOB NOT NULL,
    hash BLOB NOT NULL
)
"""


class Accounts:
    """The accounts in the SQLite file ``path``, which is made if there is none.

    A good password hash is slow on purpose, so it is computed in a thread, and
    so is the file read and written there: on the event loop either would keep
    every other visitor waiting. A real application also slows down whoever
    guesses.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        # Nobody else on this machine is to see the hashes.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        with self._open() as database:
            database.execute(_TABLE)

    async def create(self, name: str, password: str) -> bool:
        """Makes an account; answers False if there is one of that name."""
        return await IOLoop.current().run_in_executor(
            None, self._create, name, password
        )

    async def check(self, name: str, password: str) -> bool:
        """Whether ``password`` is that of the account ``name``."""
        return await IOLoop.current().run_in_executor(None, self._check, name, password)

    def _create(self, name: str, password: str) -> bool:
        salt = secrets.token_bytes(16)
        row = (name, salt, _hash(password, salt))
        try:
            with self._open() as database:
                database.execute("INSERT INTO accounts VALUES (?, ?, ?)", row)
        except sqlite3.IntegrityError:
            return False
        return True

    def _check(self, name: str, password: str) -> bool:
        with self._open() as database:
            row = database.execute(
                "SELECT salt, hash FROM accounts WHERE name = ?", [name]
            ).fetchone()
        # An unknown name takes as long as a known one, and so gives nothing away.
        salt, stored = row or (secrets.token_bytes(16), b"")
        return hmac.compare_digest(_hash(password, salt), stored)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Opens the file for one transaction."""
        with contextlib.closing(sqlite3.connect(self._path)) as database, database:
            yield database


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=5)

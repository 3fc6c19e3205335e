"""Opens the file with the sessions. This is what runs in the thread of a connection."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.batches import NothingAppliedError
from tornado_sessions_sqlite.place import BESIDE, check_directories, check_owners
from tornado_sessions_sqlite.table import Table

logger = logging.getLogger("tornado_sessions")

# How many seconds SQLite itself waits for a lock. After that the statement waits
# outside of the thread, and the statements behind it are executed meanwhile.
_BUSY_TIMEOUT = 0.02


#: What is executed, and its parameters.
Statement = tuple[str, Sequence[object]]


class MovedError(sqlite3.Error):
    """The file is no longer at its path, so the statement was not executed."""


class Database(sqlite3.Connection):
    """A connection that executes nothing once its file is no longer at its path.

    In WAL mode SQLite would go on with a file that nobody else can open.
    """

    path: str
    #: None until the file is set up.
    file: tuple[int, int] | None = None

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        if self.file is not None and _file_at(self.path) != self.file:
            raise MovedError
        return super().execute(*arguments)


def execute_together(
    database: sqlite3.Connection, statements: Sequence[Statement]
) -> list[int]:
    """Executes statements in one transaction. Returns how many rows each has changed.

    Raises `.NothingAppliedError` if one of them fails. An error of the commit is
    raised as it is: the outcome is then unknown, unless the database is locked.
    """
    database.execute("BEGIN IMMEDIATE")
    try:
        # With a cursor: the place of the file has been checked. It is closed here, as
        # the traceback of an error would take it to another thread: there Python 3.10
        # damages the heap if the connection is closed at the same time.
        with contextlib.closing(database.cursor()) as cursor:
            counts = [
                cursor.execute(sql, parameters).rowcount
                for sql, parameters in statements
            ]
    except Exception as error:
        database.rollback()
        raise NothingAppliedError from error
    try:
        database.commit()
    except sqlite3.Error:
        # Where it is locked, the transaction is still open.
        database.rollback()
        raise
    return counts


def fetch_all(
    database: sqlite3.Connection, sql: str, parameters: Sequence[object]
) -> list[Any]:
    """Returns all rows of a query. Its cursor is closed as in `execute_together`."""
    with contextlib.closing(database.execute(sql, parameters)) as cursor:
        return cursor.fetchall()


class SessionFile:
    """The file at ``path``, which has the sessions in ``table``."""

    def __init__(self, path: str, table: Table, synchronous: str) -> None:
        self.path = path
        self.table = table
        self.synchronous = synchronous
        # The device of its directory, once the file was there.
        self._device: int | None = None
        self._warned: set[str] = set()
        self._warning = threading.Lock()

    def open_to_read(self) -> Database:
        """Opens the file as `open_to_write` does. The connection cannot write."""
        return self._open(reads_only=True)

    def open_to_write(self) -> Database:
        """Opens the file. Creates it and the table where they are missing.

        Raises `.BackendError` if the file must not be used, and `sqlite3.Error` or
        `OSError` if it cannot be opened.
        """
        return self._open(reads_only=False)

    def _open(self, reads_only: bool) -> Database:
        for directory in check_directories(self.path):
            self._warn(
                f"Other users may replace the session database {self.path!r} or the"
                f" files beside it, as they may write the directory {directory!r}"
                f" (mode {os.stat(directory).st_mode & 0o7777:o}). Unless that is"
                " meant, run: chmod go-w on that directory."
            )
        self._create_if_missing()
        # Checked when it exists, as another user may have been faster.
        check_owners(self.path)
        file = _file_at(self.path)
        database = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT, isolation_level=None, factory=Database
        )
        try:
            self._set_up(database)
            if reads_only:
                database.execute("PRAGMA query_only = ON")
            self._check_mode()
        except BaseException:
            database.close()
            raise
        database.path, database.file = self.path, file
        return database

    def _create_if_missing(self) -> None:
        """Creates an empty file if there is none, and nothing speaks against it."""
        # Where the path is a link, the file is created that it leads to.
        real = os.path.realpath(self.path)
        device = os.stat(os.path.dirname(real)).st_dev
        beside = [real + suffix for suffix in BESIDE if os.path.exists(real + suffix)]
        # After what is beside it, which another process may have just created with it.
        if not os.path.exists(real):
            self._check_may_create(device, beside)
        self._device = device
        # Only if there is no file: closing a file that SQLite has open releases its
        # locks, as POSIX has it. The files beside it get its mode.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(real, os.O_CREAT | os.O_EXCL, 0o600))

    def _check_may_create(self, device: int, beside: list[str]) -> None:
        missing = f"The session database {self.path!r} cannot be used: it is missing,"
        if self._device not in (None, device):
            # Sessions that end in a new file would be alive in the old one again.
            raise BackendError(
                f"{missing} and its directory is on another disk than it was. Mount the"
                " disk of the sessions again, or restart the process to begin with a new"
                " file."
            )
        if beside:
            raise BackendError(
                f"{missing} but {beside[0]!r} of an earlier file is there, which would"
                " damage a new one. Stop all processes that use it. Then put the file"
                f" back, or remove {beside[0]!r} as well."
            )

    def _set_up(self, database: Database) -> None:
        [(pages,)] = database.execute("PRAGMA page_count").fetchall()
        if not pages:
            # An empty file is used by nothing else. It keeps this mode.
            database.execute("PRAGMA journal_mode = WAL")
        [(mode,)] = database.execute("PRAGMA journal_mode").fetchall()
        # Without WAL a loss of power may damage the file unless SQLite flushes the
        # disk, and the file may hold more than sessions.
        synchronous = self.synchronous if mode == "wal" else "full"
        database.execute(f"PRAGMA synchronous = {synchronous}")
        # Some builds leave deleted data in the file until its space is needed.
        database.execute("PRAGMA secure_delete = ON")
        for index in self.table.set_up(database, self.path):
            self._warn(
                f"The session database {self.path!r} has something else under the name"
                f" {index!r}, so the table {self.table.name!r} lacks that index and is"
                " searched slowly. Rename that, or name another table with the option"
                " 'table'."
            )

    def _check_mode(self) -> None:
        mode = os.stat(self.path).st_mode & 0o777
        if mode & 0o077:
            self._warn(
                f"The session database {self.path!r} is open to other users (mode"
                f" {mode:03o}). Unless that is meant, run: chmod 600 on it and on its"
                " -wal and -shm files."
            )

    def _warn(self, text: str) -> None:
        """Logs a warning, once."""
        with self._warning:
            if text in self._warned:
                return
            self._warned.add(text)
        logger.warning("%s", text)


def _file_at(path: str) -> tuple[int, int] | None:
    """Returns the device and the inode of the file at ``path``, or None."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino

"""Keeps sessions in an SQLite file."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import logging
import os
import random
import sqlite3
import threading
import time
import types
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Mapping
from typing import Any, TypeVar
from urllib.parse import unquote

import aiosqlite

from tornado_sessions.backend import Backend, Record
from tornado_sessions.deadlines import Deadlines
from tornado_sessions.errors import BackendError, ConflictError
from tornado_sessions.options import read_options, split_url
from tornado_sessions_sqlite.place import check_directories, check_owners
from tornado_sessions_sqlite.table import Table

__all__ = ["SQLiteBackend"]

logger = logging.getLogger("tornado_sessions")

T = TypeVar("T")

# How many records one purge removes: milliseconds of the writing thread.
_BATCH = 500

# How many records `find` reads at a time.
_PAGE = 100

# How many seconds SQLite itself waits for a lock. Beyond that the statement
# waits outside of the thread, so that one that finds the file locked does not
# hold up those behind it for the whole of their time limit.
_BUSY_TIMEOUT = 0.02

# What to do about an error, by a word of SQLite's own text. There is no error
# code on Python 3.10.
_ADVICE = {
    "locked": "Another connection holds it, perhaps an open sqlite3 shell; end that,"
    " or raise the option 'timeout'.",
    "readonly": "Let this process write the file and its directory.",
    "Permission": "Let this process write its directory.",
    "full": "Make room on its disk; what is stored can still be read.",
    "No space": "Make room on its disk.",
    "not a database": "Check the path, or move the file away.",
    "malformed": "Move the file away and restore it from a backup.",
    "unable to open": "Check that it is a file, and that this process may read"
    " and write it and its directory.",
    "disk I/O": "Check the disk and the file system that it is on.",
    "No such file": "Create its directory.",
    "constraint failed": "Somebody has changed the table: drop that constraint or that"
    " index, or name another table with the option 'table'.",
}


class SQLiteBackend(Backend):
    """Keeps sessions in the SQLite file at ``path``.

    Several processes of one machine can use the same file. Operations run in
    two threads, one that reads and one that writes, so a read never waits for
    a write. Each ends within ``timeout`` seconds.

    With ``synchronous="normal"`` a stored session survives the death of the
    process; with ``"full"`` it survives the loss of power as well, at the cost
    of a flush of the disk with every write.

    The file is created when it is first used, readable by its owner alone. Its
    directory has to be there. It may be the file of an application: the sessions
    are in the table ``table``, and nothing else of the file is changed. A file that
    another user could have made or could replace is refused.
    """

    durable = True
    shared = True
    lists_users = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout: float = 2.0,
        synchronous: str = "normal",
        table: str = "sessions",
        max_bytes: int = 65_536,
    ) -> None:
        path = os.fspath(path)
        if path in ("", ":memory:") or "\0" in path:
            raise ValueError(
                "The session backend 'sqlite' needs the path of a file, as in"
                " 'sqlite:///sessions.db'. To keep sessions in memory, use the backend"
                " 'memory'."
            )
        if not 0 < timeout < float("inf"):
            raise ValueError(
                "The option 'timeout' must be a finite number of seconds above 0."
            )
        if synchronous not in ("normal", "full"):
            raise ValueError("The option 'synchronous' must be 'normal' or 'full'.")
        if max_bytes < 1:
            raise ValueError("The option 'max_bytes' must be a number above 0.")
        # Now, as the process may change its directory before the first use.
        self.path = os.path.abspath(path)
        self.timeout = timeout
        self.synchronous = synchronous
        self.table = table
        self.max_bytes: int = max_bytes
        self._table = Table(table)
        self._warned: set[str] = set()
        self._start()

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> SQLiteBackend:
        """Makes the backend of ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.

        Options follow a question mark: ``timeout``, ``synchronous``,
        ``table`` and ``max_bytes``, as the constructor takes them. Raises `ValueError` for
        anything else.
        """
        parts = split_url(url)
        if parts is None or parts.netloc or parts.fragment or parts.path[:1] != "/":
            raise ValueError(
                "The session backend 'sqlite' needs the path of a file and no host:"
                " 'sqlite:///relative.db' with three slashes, or"
                " 'sqlite:////absolute.db' with four. A '#' in it is written '%23'."
            )
        options = read_options("sqlite", parts.query, _OPTIONS)
        return cls(unquote(parts.path[1:], errors="surrogateescape"), **options)

    async def load(self, key: bytes) -> Record | None:
        self._check_process()
        rows = await self._reader.run(_ROWS, self._table.load, key)
        # The version carries what the indexes hold as well, see save().
        return Record(rows[0][0], rows[0][1:]) if rows else None

    async def save(self, key: bytes, record: Record) -> None:
        self.check_size(record)
        data, expires, user = record.data, record.expires, record.user
        minute = expires // 60 if expires else None
        if record.version is None:
            stored = await self._write(
                self._table.insert, key, data, expires, minute, user
            )
        else:
            version, *indexed = record.version
            if indexed == [minute, user]:
                # Most saves of a busy session: they leave the indexes alone,
                # which halves what is written.
                stored = await self._write(
                    self._table.replace, data, expires, key, version
                )
            else:
                stored = await self._write(
                    self._table.replace_indexed,
                    data,
                    expires,
                    minute,
                    user,
                    key,
                    version,
                )
        if not stored:
            raise ConflictError("Another version of the record is stored, or none.")

    async def delete(self, key: bytes) -> None:
        await self._write(self._table.delete, key)

    async def purge(self, now: float) -> int:
        return await self._write(self._table.purge, now // 60, now, _BATCH)

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        self._check_process()
        last = 0
        # In pages: a read that stays open would keep the write-ahead log growing.
        while rows := await self._reader.run(
            _ROWS, self._table.find, user, last, _PAGE
        ):
            for row in rows:
                yield row[1], Record(row[2], row[3:])
            last = rows[-1][0]

    async def close(self) -> None:
        """Waits for what is under way and closes the file; another use opens it."""
        # The writer last, as the last one moves the write-ahead log into the file.
        if self._process == os.getpid():
            await self._reader.close()
            await self._writer.close()

    async def _write(self, sql: str, *parameters: object) -> int:
        """Executes a statement and answers how many records it wrote."""
        self._check_process()
        cursor = await self._writer.run(_CURSOR, sql, *parameters)
        written: int = cursor.rowcount
        return written

    def _check_process(self) -> None:
        if self._process == os.getpid():
            return
        # SQLite takes its locks to be held, though they stay with the parent. A
        # file opened here now would lose writes as soon as the parent closes it.
        if self._reader.is_open or self._writer.is_open:
            raise BackendError(
                f"The session database {self.path!r} was in use when process"
                f" {self._process} forked, so it cannot be used in the child. Use"
                " the sessions after the fork only, or close them before it."
            )
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        connect, path, timeout = self._connect, self.path, self.timeout
        self._reader = _Lane(functools.partial(connect, True), path, timeout)
        self._writer = _Lane(functools.partial(connect, False), path, timeout)

    # What follows runs in the thread of a lane.

    def _connect(self, reading: bool) -> sqlite3.Connection:
        self._check_directories()
        # Only where there is none: to open and close a file that SQLite has open
        # drops its locks, as POSIX has it. The log and the shared memory beside
        # it get the mode of the file.
        with contextlib.suppress(FileExistsError):
            # Of a link, the file that it leads to.
            real = os.path.realpath(self.path)
            os.close(os.open(real, os.O_CREAT | os.O_EXCL, 0o600))
        # Now, as another user may have been faster.
        check_owners(self.path)
        file = _file_at(self.path)
        database = sqlite3.connect(
            self.path, timeout=_BUSY_TIMEOUT, isolation_level=None, factory=_Database
        )
        try:
            self._prepare(database)
            if reading:
                database.execute("PRAGMA query_only = ON")
        except BaseException:
            database.close()
            raise
        self._check_mode()
        database.path, database.file = self.path, file
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        [(pages,)] = database.execute("PRAGMA page_count").fetchall()
        if not pages:
            # An empty file is ours alone. The mode stays with the file.
            database.execute("PRAGMA journal_mode = WAL")
        # Settings of this connection, and not of the file.
        [(mode,)] = database.execute("PRAGMA journal_mode").fetchall()
        # Without WAL a file may be damaged by a loss of power where SQLite does
        # not flush the disk, and it may hold more than sessions.
        synchronous = self.synchronous if mode == "wal" else "full"
        database.execute(f"PRAGMA synchronous = {synchronous}")
        # Some builds leave what is deleted in the file until its place is needed.
        database.execute("PRAGMA secure_delete = ON")
        for index in self._table.set_up(database, self.path):
            self._warn(
                f"The session database {self.path!r} has something else under the name"
                f" {index!r}, so the table {self.table!r} lacks that index and is"
                " searched slowly. Rename that, or name another table with the option"
                " 'table'."
            )

    def _check_directories(self) -> None:
        for directory in check_directories(self.path):
            self._warn(
                f"Other users may replace the session database {self.path!r} or the"
                f" files beside it, as they may write the directory {directory!r}"
                f" (mode {os.stat(directory).st_mode & 0o7777:o}). Unless that is"
                " meant, run: chmod go-w on that directory."
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
        # Both lanes may connect at once: of two threads one adds it.
        with _warning:
            if text in self._warned:
                return
            self._warned.add(text)
        logger.warning("%s", text)


_warning = threading.Lock()


class _Database(sqlite3.Connection):
    """A connection that executes nothing once its file is not at its path any more.

    In WAL mode SQLite would go on with a file that nobody else can open.
    """

    path: str
    #: Known once it is prepared.
    file: tuple[int, int] | None = None

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        if self.file is not None and _file_at(self.path) != self.file:
            raise _MovedError
        return super().execute(*arguments)


class _MovedError(sqlite3.Error):
    """Raised where nothing was executed, as the file is no longer at its path."""


def _file_at(path: str) -> tuple[int, int] | None:
    """Answers which file is at ``path``, if there is one."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


_OPTIONS = {"timeout": float, "synchronous": str, "table": str, "max_bytes": int}


class _Parameters(tuple[object, ...]):
    """What a statement is given, out of sight of the driver's log.

    aiosqlite logs the repr of whatever it executes at DEBUG.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} parameters>"


_Call = Callable[[aiosqlite.Connection, str, _Parameters], Any]

# One hop to the thread each.
_ROWS: _Call = aiosqlite.Connection.execute_fetchall
_CURSOR: _Call = aiosqlite.Connection.execute


# The threads of connections that were dropped, each busy with its last statement.
_leaving: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@atexit.register
def _see_off() -> None:
    """Waits a second for the threads that are about to end.

    One whose loop has gone has nobody to answer and tells so on stderr. The
    interpreter aborts where a thread is still writing there at its own end.
    """
    deadline = time.monotonic() + 1
    for thread in list(_leaving):
        thread.join(max(0, deadline - time.monotonic()))


class _Lane:
    """One connection with its thread: opened when it is first used.

    One that fails or hangs is dropped and the next operation opens another.

    A cancelled operation leaves its connection as good as it was: aiosqlite
    gives each answer to a future of its own, so none can reach another
    request, and every operation is one statement that commits itself, so
    nothing stays half done. The statement itself may still run.
    """

    def __init__(
        self, connect: Callable[[], sqlite3.Connection], path: str, timeout: float
    ) -> None:
        self._connect = connect
        self._path = path
        self._timeout = timeout
        self._connection: aiosqlite.Connection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._deadlines = Deadlines(timeout)
        # What tells that a connection which was dropped has closed.
        self._dropped: set[asyncio.Future[Any]] = set()
        self._under_way = 0
        self._idle: asyncio.Event | None = None

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, or about to be."""
        return self._connection is not None or self._opening is not None

    async def run(self, call: _Call, sql: str, *parameters: object) -> Any:  # noqa: ANN401
        """Executes one statement, at one hop to the thread, and answers its outcome.

        ``call`` is the method of aiosqlite: `_ROWS` or `_CURSOR`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        connection = locked = None
        self._under_way += 1
        try:
            while True:
                while (connection := self._connection) is None:
                    await self._open(deadline)
                try:
                    statement = call(connection, sql, _Parameters(parameters))
                    return await self._answer(statement, deadline)
                except sqlite3.OperationalError as error:
                    await _pause_if_locked(error, deadline)
                    locked = error
                except _MovedError as moved:
                    await self._drop(connection, moved)
        except (sqlite3.Error, OSError, asyncio.TimeoutError) as failure:
            # Whoever has found it locked once waits for that and nothing else.
            cause = locked or failure
            await self._drop(connection, cause)
            raise BackendError(self._explain(cause)) from cause
        finally:
            self._under_way -= 1
            if self._idle is not None and not self._under_way:
                self._idle.set()
                self._idle = None

    async def close(self) -> None:
        """Closes the connection when what is under way there has ended."""
        if self._under_way:
            self._idle = self._idle or asyncio.Event()
            # Nothing takes longer, and what comes later opens another connection.
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._idle.wait(), self._timeout)
        if (opening := self._opening_here()) is not None:
            # Whoever wanted it open was cancelled.
            await asyncio.wait([opening], timeout=self._timeout)
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._close(connection)
        loop = asyncio.get_running_loop()
        if dropped := [each for each in self._dropped if each.get_loop() is loop]:
            # Else their threads would tell a loop that has gone.
            await asyncio.wait(dropped, timeout=self._timeout)

    async def _close(self, connection: aiosqlite.Connection) -> None:
        closing = asyncio.ensure_future(connection.close())
        await asyncio.wait([closing], timeout=self._timeout)
        if not closing.done():
            # What still runs there is nobody's any more. Not before, as SQLite
            # would then not move the write-ahead log into the file.
            await connection.interrupt()
            await asyncio.wait([closing], timeout=self._timeout)

    # aiosqlite awaits one future for each statement.

    @types.coroutine
    def _answer(
        self, statement: Coroutine[Any, Any, T], deadline: float
    ) -> Generator[Any, None, T]:
        future: asyncio.Future[T] = statement.send(None)
        self._deadlines.add(future, deadline)
        try:
            yield future
            return future.result()
        finally:
            self._deadlines.discard(future)
            statement.close()

    async def _open(self, deadline: float) -> None:
        """Opens the connection, once for all who wait for it."""
        loop = asyncio.get_running_loop()
        opening = self._opening_here()
        if opening is None:
            opening = self._opening = loop.create_task(self._connect_in_thread())
            opening.add_done_callback(_forget_error)
        await asyncio.wait_for(asyncio.shield(opening), deadline - loop.time())

    def _opening_here(self) -> asyncio.Task[None] | None:
        """Answers the opening that is under way, unless its loop has gone."""
        task = self._opening
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            return None
        return task

    async def _connect_in_thread(self) -> None:
        deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            while self._connection is None:
                connection = aiosqlite.Connection(self._connect, 64)
                # Else a process that ends without close() waits for the thread,
                # for ever. There is no public name for it.
                connection._thread.daemon = True
                try:
                    self._connection = await connection
                except sqlite3.OperationalError as error:
                    # Several processes that create one file at once.
                    await _pause_if_locked(error, deadline)
        finally:
            self._opening = None

    async def _drop(
        self, connection: aiosqlite.Connection | None, error: Exception
    ) -> None:
        """Lets the next operation open another connection, if this one is broken."""
        if connection is None or connection is not self._connection:
            return
        if _is_locked(error):
            return
        self._connection = None
        if isinstance(error, _MovedError):
            logger.warning(
                "The session database %r was removed or replaced while it was in use."
                " The sessions are now those of the file that is there, which is made"
                " if there is none.",
                self._path,
            )
        if isinstance(error, asyncio.TimeoutError):
            await connection.interrupt()
        # It closes in its thread, after the operations that it has been given.
        if (stopped := connection.stop()) is not None:
            self._dropped.add(stopped)
            stopped.add_done_callback(self._dropped.discard)
        _leaving.add(connection._thread)

    def _explain(self, error: Exception) -> str:
        if isinstance(error, asyncio.TimeoutError):
            return (
                f"The session database {self._path!r} did not answer within"
                f" {self._timeout:g} seconds. Check the disk that it is on, and whether"
                " another connection holds it, perhaps an open sqlite3 shell; or raise"
                " the option 'timeout'."
            )
        text = str(error.strerror if isinstance(error, OSError) else error)
        advice = (advice for word, advice in _ADVICE.items() if word in text)
        return " ".join(
            [f"The session database {self._path!r} failed: {text}.", *advice]
        )


def _forget_error(task: asyncio.Task[None]) -> None:
    """Has asyncio not log the error where nobody waits for it any more."""
    if not task.cancelled():
        task.exception()


async def _pause_if_locked(error: sqlite3.OperationalError, deadline: float) -> None:
    """Waits a moment for the lock of another; raises ``error`` if that is no use."""
    if not _is_locked(error) or asyncio.get_running_loop().time() >= deadline:
        raise error
    await asyncio.sleep(random.uniform(0.001, 0.02))


def _is_locked(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)

"""Keeps sessions in an SQLite file."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import unquote

from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.batches import NothingAppliedError
from tornado_sessions.storage.driver import DriverBackend
from tornado_sessions.storage.operations import Write
from tornado_sessions.storage.options import split_url
from tornado_sessions.storage.versions import new_version
from tornado_sessions_sqlite.database import MovedError, SessionFile, Statement
from tornado_sessions_sqlite.lanes import Lane, Lanes, Parameters, Statements, open_lane
from tornado_sessions_sqlite.table import Table

__all__ = ["SQLiteBackend"]

logger = logging.getLogger("tornado_sessions")

# How many records one purge removes: milliseconds of the writing thread.
_BATCH = 500

# How many records `find` reads at a time.
_PAGE = 100

# Errors after which the connection is as good as before, by a word of their text.
# Where the disk is full or over its quota, another one could not be opened: reads
# go on with the one that there is.
_PASSING = ("locked", "full", "disk I/O")


class SQLiteBackend(DriverBackend[Lanes]):
    """Keeps sessions in the SQLite file at ``path``.

    Several processes of one machine can use the same file. Operations run in
    two threads, one that reads and one that writes, so a read never waits for
    a write. Each ends within ``timeout`` seconds.

    With ``synchronous="normal"`` a stored session survives the death of the
    process. With ``"full"`` it survives the loss of power as well, at the cost
    of a flush of the disk with every write.

    The file is created when it is first used, readable by its owner alone. Its
    directory must exist. It may be the file of an application: the sessions
    are in the table ``table``, and nothing else of the file is changed. A file that
    another user could have made or could replace is refused.

    The other ``options`` are ``timeout`` and ``max_bytes``, as `.DriverBackend`
    takes them.
    """

    durable = True
    shared = True
    finds_by_user = finds_all = True

    store = "The session database"
    errors = (sqlite3.Error,)
    # By a word of SQLite's text: Python 3.10 has no error codes.
    advice: ClassVar[Mapping[int | str, str]] = {
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
        "constraint failed": "Somebody has changed the table: drop that constraint or"
        " that index, or name another table with the option 'table'.",
    }
    timeout_advice = (
        "Check the disk that it is on, and whether another connection holds it, perhaps"
        " an open sqlite3 shell; or raise the option 'timeout'."
    )
    options: ClassVar[Mapping[str, type]] = {"synchronous": str, "table": str}
    # Each connection executes one batch at a time.
    batches_at_once = 1
    # SQLite in the child would believe that it holds the locks, which stay with the
    # parent. A file that the child opens loses writes when the parent closes its own.
    opens_after_fork = False
    # The threads deliver each result to the event loop that asked for it.
    opens_per_loop = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: str = "normal",
        table: str = "sessions",
        **options: Any,
    ) -> None:
        path = os.fspath(path)
        if path in ("", ":memory:") or "\0" in path:
            raise ValueError(
                "The session backend 'sqlite' needs the path of a file, as in"
                " 'sqlite:///sessions.db'. To keep sessions in memory, use the backend"
                " 'memory'."
            )
        if synchronous not in ("normal", "full"):
            raise ValueError("The option 'synchronous' must be 'normal' or 'full'.")
        # Now, as the process may change its directory before the first use.
        self.path = os.path.abspath(path)
        super().__init__(self.path, **options)
        self.synchronous = synchronous
        self.table = table
        self._table = Table(table)
        self._file = SessionFile(self.path, self._table, synchronous)
        # Each is done when a connection that was dropped is closed.
        self._dropped: set[asyncio.Future[Any]] = set()

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> SQLiteBackend:
        """Makes the backend of ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.

        Options follow a question mark: ``synchronous``, ``table``, ``timeout`` and
        ``max_bytes``, as the constructor takes them. Raises `ValueError` for
        anything else.
        """
        parts = split_url(url)
        if parts is None or parts.netloc or parts.fragment or parts.path[:1] != "/":
            raise ValueError(
                "The session backend 'sqlite' needs the path of a file and no host:"
                " 'sqlite:///relative.db' with three slashes, or"
                " 'sqlite:////absolute.db' with four. A '#' in it is written '%23'."
            )
        path = unquote(parts.path[1:], errors="surrogateescape")
        return cls(path, **cls.read_options("sqlite", parts.query))

    async def load_from(self, lanes: Lanes, key: bytes) -> Record | None:
        for row in await self._read(lanes, self._table.load, key):
            return Record(row[0], row[1:4])
        return None

    async def load_many(
        self, lanes: Lanes, keys: Sequence[bytes]
    ) -> Sequence[Record | None]:
        sql = self._table.load_many(len(keys))
        try:
            rows = await self._read(lanes, sql, *keys)
        except sqlite3.Error as error:
            # A damaged page is that of one record.
            raise NothingAppliedError from error
        # The version includes the indexed columns, see _prepare().
        records = {row[4]: Record(row[0], row[1:4]) for row in rows}
        return [records.get(key) for key in keys]

    async def insert_into(
        self, lanes: Lanes, key: bytes, record: Record
    ) -> Version | None:
        return await self._write(lanes, Write(key, record))

    async def replace_in(
        self, lanes: Lanes, key: bytes, record: Record, version: Version
    ) -> Version | None:
        return await self._write(lanes, Write(key, record, version))

    async def delete_from(self, lanes: Lanes, key: bytes) -> None:
        await self._write(lanes, Write(key))

    async def write_many(
        self, lanes: Lanes, writes: Sequence[Write]
    ) -> Sequence[Version | None]:
        prepared = [self._prepare(write) for write in writes]
        statements = Statements([statement for statement, _ in prepared])
        counts = await self._execute(lanes, Lane.execute_together, statements)
        return [
            version if count else None
            for count, (_, version) in zip(counts, prepared, strict=True)
        ]

    async def purge_in(self, lanes: Lanes, now: float) -> int:
        values = Parameters((now // 60, now, _BATCH))
        cursor = await self._execute(lanes, Lane.execute, self._table.purge, values)
        return int(cursor.rowcount)

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        last = 0
        # In pages: a read that stays open would keep the write-ahead log growing.
        while rows := await self.run(self._read, self._table.find, user, last, _PAGE):
            for row in rows:
                yield row[1], Record(row[2], row[3:])
            last = rows[-1][0]

    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        last = 0
        while rows := await self.run(self._read, self._table.find_all, last, _PAGE):
            for row in rows:
                if row[5] is not None:
                    yield row[1], Record(row[2], row[3:], user=row[5])
            last = rows[-1][0]

    async def _read(
        self, lanes: Lanes, sql: str, *values: object
    ) -> Sequence[tuple[Any, ...]]:
        """Executes one statement, with one hop to the thread. Returns all rows."""
        rows: Sequence[tuple[Any, ...]] = await self._execute(
            lanes, Lane.fetch_all, sql, Parameters(values)
        )
        return rows

    async def _write(self, lanes: Lanes, write: Write) -> Version | None:
        (sql, values), version = self._prepare(write)
        cursor = await self._execute(lanes, Lane.execute, sql, Parameters(values))
        return version if cursor.rowcount else None

    def _prepare(self, write: Write) -> tuple[Statement, Version | None]:
        """Returns the statement of a write, and the version that it stores."""
        key, record, version = write
        if record is None:
            return (self._table.delete, (key,)), None
        data, expires, user = record.data, record.expires, record.user
        # As it is indexed: None if there is none.
        minute = expires // 60 if expires else None
        number = new_version()
        stored = number, minute, user
        values: tuple[object, ...]
        if version is None:
            sql = self._table.insert
            values = key, number, data, expires, minute, user
        elif version[1:] == stored[1:]:
            # Most writes of a busy session: they leave the indexes alone, which halves
            # what is written.
            sql = self._table.replace
            values = number, data, expires, key, version[0]
        else:
            sql = self._table.replace_indexed
            values = number, data, expires, minute, user, key, version[0]
        return (sql, values), stored

    async def _execute(
        self,
        lanes: Lanes,
        method: Callable[..., Awaitable[Any]],
        *arguments: object,
    ) -> Any:  # noqa: ANN401
        """Calls ``method`` of the connection that reads or the one that writes.

        It is called again while another connection holds the lock, until the timeout,
        and if the file was no longer at its path.
        """
        while True:
            is_read = method is Lane.fetch_all
            lane = lanes.reader if is_read else lanes.writer
            try:
                try:
                    # If not, it was closed while this one waited for a batch before.
                    if not lane.is_leaving:
                        return await method(lane, *arguments)
                except MovedError:
                    self._drop_moved(lanes)
                except sqlite3.OperationalError as error:
                    await lane.pause_if_locked(error)
                lanes = await self.connection()
            except asyncio.CancelledError:
                if self.has_timed_out() and self._lock_of(lanes) is None:
                    await lane.interrupt()
                raise

    def _lock_of(self, lanes: Lanes) -> sqlite3.OperationalError | None:
        """Returns the error of the lock that an operation waits for which times out."""
        return lanes.lock_within(self.timeout / 2)

    def _drop_moved(self, lanes: Lanes) -> None:
        if self.drop(lanes):
            logger.warning(
                "The session database %r was removed or replaced while it was in use."
                " The sessions are now those of the file that is there, which is made"
                " if there is none.",
                self.path,
            )

    async def connect(self) -> Lanes:
        reader = await open_lane(self._file.open_to_read)
        try:
            writer = await open_lane(self._file.open_to_write)
        except BaseException:
            self._close_later(reader)
            raise
        return Lanes(reader, writer)

    def is_broken(self, lanes: Lanes, error: BaseException) -> bool:
        if isinstance(error, asyncio.CancelledError):
            return False
        if isinstance(error, asyncio.TimeoutError) and self._lock_of(lanes):
            return False
        return not any(word in str(error) for word in _PASSING)

    def explain(self, error: Exception, lanes: Lanes | None) -> str:
        if lanes is not None and self.is_timeout(error):
            error = self._lock_of(lanes) or error
        return super().explain(error, lanes)

    def dropped(self, lanes: Lanes) -> None:
        for lane in lanes:
            self._close_later(lane)

    def _close_later(self, lane: Lane) -> None:
        closed = lane.leave()
        self._dropped.add(closed)
        closed.add_done_callback(self._dropped.discard)

    async def disconnect(self, lanes: Lanes) -> None:
        # One after the other: the last one moves the write-ahead log into the file.
        for lane in lanes:
            await lane.close_within(self.timeout / 2)

    async def close(self) -> None:
        """Closes the file. It opens again at the next use.

        The operations in progress have ``timeout`` seconds to end.
        """
        await super().close()
        loop = asyncio.get_running_loop()
        if dropped := [each for each in self._dropped if each.get_loop() is loop]:
            # Otherwise their threads would deliver to a loop that is closed.
            await asyncio.wait(dropped, timeout=self.timeout)

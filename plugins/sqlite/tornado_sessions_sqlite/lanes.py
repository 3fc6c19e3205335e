"""Connections to the file, each with a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import aiosqlite

from tornado_sessions.storage.timeouts import shielded
from tornado_sessions_sqlite.database import Statement, execute_together, fetch_all

# After how many steps of SQLite's virtual machine a statement asks whether its
# connection has been interrupted. What the backend executes takes far fewer, except
# for a purge.
_STEPS = 100_000


class Parameters(tuple[object, ...]):
    """The parameters of a statement, with a repr that does not show them.

    aiosqlite logs what it executes at DEBUG.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} parameters>"


class Statements(tuple[Statement, ...]):
    """Statements with their parameters, which the repr does not show either."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} statements>"


class Lane(aiosqlite.Connection):
    """A connection whose thread does not keep the process alive.

    A cancelled operation does no harm to it: aiosqlite has a future for each result,
    so no result reaches another operation, and what it executes in one call is a
    transaction of its own. That may still be executed.
    """

    def __init__(self, open_database: Callable[[], sqlite3.Connection]) -> None:
        def open_interruptible() -> sqlite3.Connection:
            database = open_database()
            database.set_progress_handler(lambda: self._is_interrupted, _STEPS)
            return database

        super().__init__(open_interruptible, iter_chunk_size=64)
        # Otherwise a process that ends without close() waits for the thread forever.
        # aiosqlite has no public name for its thread.
        self._thread.daemon = True
        self._is_interrupted = False
        #: Whether it closes when its statements have been executed.
        self.is_leaving = False
        # When the lock of the file was last held by another connection, by the
        # monotonic clock, and the error that said so.
        self._lock: tuple[float, sqlite3.OperationalError] | None = None

    async def open(self) -> None:
        """Opens the connection. A cancellation waits until it can be closed."""
        opening = asyncio.ensure_future(self._connect_in_thread())
        try:
            await shielded(opening)
        except asyncio.CancelledError:
            # The thread opens the file all the same. aiosqlite would lose it.
            await asyncio.wait([opening])
            if opening.exception() is None:
                await self.leave()
            raise

    async def _connect_in_thread(self) -> None:
        await self

    async def execute_together(self, statements: Statements) -> list[int]:
        """Executes ``statements`` in one transaction, with one hop to the thread.

        See `.database.execute_together`.
        """
        # aiosqlite has no public name for a call in its thread.
        call: Callable[..., Awaitable[list[int]]] = self._execute
        return await call(execute_together, self._conn, statements)

    async def fetch_all(self, sql: str, parameters: Parameters) -> list[Any]:
        """Returns all rows of a query."""
        call: Callable[..., Awaitable[list[Any]]] = self._execute
        return await call(fetch_all, self._conn, sql, parameters)

    async def pause_if_locked(self, error: sqlite3.OperationalError) -> None:
        """As `pause_if_locked`. Notes the lock for `lock_within`."""
        if _is_lock(error):
            self._lock = time.monotonic(), error
        await pause_if_locked(error)

    def lock_within(self, seconds: float) -> sqlite3.OperationalError | None:
        """Returns the error of a lock that was held in the last ``seconds``."""
        if self._lock is None or time.monotonic() - self._lock[0] > seconds:
            return None
        return self._lock[1]

    def leave(self) -> asyncio.Future[Any]:
        """Closes the connection when its statements have been executed.

        Returns the future that is done when the connection is closed.
        """
        self.is_leaving = True
        _leaving.add(self._thread)
        closed = self.stop()
        assert closed is not None, "There is an event loop."
        return closed

    async def close_within(self, seconds: float) -> None:
        """Closes the connection. Interrupts the last statement at half of the time."""
        closed = self.leave()
        await asyncio.wait([closed], timeout=seconds / 2)
        if not closed.done():
            await self.interrupt()
            await asyncio.wait([closed], timeout=seconds / 2)

    async def interrupt(self) -> None:
        """Interrupts the statement that is being executed, if there is one.

        Once only: the next statement may be that of an operation that is in time. From
        then on the connection ends by itself each statement that takes long: the one
        to interrupt may not have begun.
        """
        if self._is_interrupted:
            return
        self._is_interrupted = True
        # The connection may be closed by now: `ValueError` is raised by aiosqlite.
        with contextlib.suppress(ValueError, sqlite3.ProgrammingError):
            await super().interrupt()


class Lanes(NamedTuple):
    """A connection that reads and one that writes: a read waits for no write."""

    reader: Lane
    writer: Lane

    def lock_within(self, seconds: float) -> sqlite3.OperationalError | None:
        """Returns the error of a lock that was held in the last ``seconds``."""
        return self.writer.lock_within(seconds) or self.reader.lock_within(seconds)


async def open_lane(open_database: Callable[[], sqlite3.Connection]) -> Lane:
    """Opens a connection, and tries again while others hold the lock of the file."""
    while True:
        lane = Lane(open_database)
        try:
            await lane.open()
        except sqlite3.OperationalError as error:
            # Such as several processes that create one file at once.
            await pause_if_locked(error)
        else:
            return lane


async def pause_if_locked(error: sqlite3.OperationalError) -> None:
    """Waits a moment for the lock of another connection. Raises any other ``error``."""
    if not _is_lock(error):
        raise error
    await asyncio.sleep(random.uniform(0.001, 0.02))


def _is_lock(error: sqlite3.OperationalError) -> bool:
    return "locked" in str(error)


# The threads of connections that are about to be closed.
_leaving: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@atexit.register
def _wait_for_threads() -> None:
    """Waits up to a second for the threads that are about to end.

    A thread whose event loop is closed cannot deliver its result and writes a
    traceback to stderr. The interpreter aborts if it ends in the middle of that.
    """
    deadline = time.monotonic() + 1
    for thread in list(_leaving):
        thread.join(max(0, deadline - time.monotonic()))

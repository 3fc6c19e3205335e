"""Connections of our own, or of a pool of the application; how statements run."""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from tornado_sessions_postgresql.errors import breaks_connection

T = TypeVar("T")

_Work = Callable[[Any], Awaitable[T]]


class Connections(abc.ABC):
    """Executes each statement on a connection that is free.

    A connection whose statement was cancelled is closed. That, and the cancellation
    of the statement on the server, is done in the background within ``timeout``.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        #: Connections that are being closed.
        self._closing: set[asyncio.Future[None]] = set()

    async def fetch(self, sql: str, *values: object) -> list[Any]:
        """Executes one statement and returns its rows."""
        rows: list[Any] = await self._run(lambda each: each.fetch(sql, *values))
        return rows

    async def execute(self, sql: str) -> None:
        """Executes several statements as one transaction."""
        await self._run(lambda each: each.execute(sql))

    @abc.abstractmethod
    async def _run(self, work: _Work[T]) -> T:
        """Does ``work`` with a free connection."""

    async def close(self) -> None:
        """Waits for the connections that are being closed."""
        if self._closing:
            await asyncio.wait(self._closing, timeout=self.timeout)

    def _begin(self, closing: Awaitable[None]) -> None:
        task = asyncio.ensure_future(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class OwnConnections(Connections):
    """``size`` connections, each opened with ``connect`` at its first use."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        size: int,
        timeout: float,
    ) -> None:
        super().__init__(timeout)
        self._connect = connect
        self._is_closed = False
        # The one that was used last comes first. None is not open yet.
        self._free: asyncio.LifoQueue[asyncpg.Connection | None]
        self._free = asyncio.LifoQueue()
        for _ in range(size):
            self._free.put_nowait(None)

    async def _run(self, work: _Work[T]) -> T:
        connection = await self._free.get()
        try:
            if connection is None or connection.is_closed():
                connection = None
                connection = await self._connect()
            return await work(connection)
        except BaseException as error:
            if connection is not None and breaks_connection(error):
                self._begin(_close(connection, self.timeout))
                connection = None
            raise
        finally:
            self._free.put_nowait(connection)
            if self._is_closed:
                self._close_free()

    async def close(self) -> None:
        """Closes the connections. One that is in use is closed after its operation."""
        self._is_closed = True
        self._close_free()
        await super().close()

    def _close_free(self) -> None:
        free = [self._free.get_nowait() for _ in range(self._free.qsize())]
        for connection in free:
            if connection is not None:
                self._begin(_close(connection, self.timeout))
            self._free.put_nowait(None)


class PoolConnections(Connections):
    """The connections of a pool that belongs to the application."""

    def __init__(self, pool: asyncpg.Pool, timeout: float) -> None:
        super().__init__(timeout)
        self._pool = pool

    async def _run(self, work: _Work[T]) -> T:
        connection = await self._pool.acquire()
        try:
            result = await work(connection)
        except BaseException as error:
            # To wait for the server here could outlast the timeout.
            self._begin(self._release(connection, breaks_connection(error)))
            raise
        await self._pool.release(connection)
        return result

    async def _release(self, connection: Any, is_broken: bool) -> None:  # noqa: ANN401
        if is_broken:
            await _close(connection, self.timeout)
        with contextlib.suppress(*_FAILURES):
            await self._pool.release(connection, timeout=self.timeout)


_FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncio.TimeoutError,
    OSError,
)


async def _close(connection: Any, timeout: float) -> None:  # noqa: ANN401
    # If the server does not answer, the driver closes the socket all the same.
    with contextlib.suppress(*_FAILURES):
        await connection.close(timeout=timeout)

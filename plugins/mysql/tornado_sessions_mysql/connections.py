"""The connections of one process, and how statements run on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncmy

from tornado_sessions_mysql.errors import DEADLOCK, LOCKED, breaks_connection, code_of

T = TypeVar("T")


class Connection:
    """A connection of the driver, with the statements that are prepared on it.

    The values of a prepared statement are sent as they are. In a statement as a text
    the driver would have to escape each byte, which takes milliseconds for 64 KiB.
    """

    def __init__(self, driver: Any) -> None:  # noqa: ANN401 - it is not typed
        self._driver = driver
        self._prepared: dict[str, Any] = {}

    async def fetch(self, sql: str, *values: object) -> Sequence[Any]:
        """Executes one statement and returns its rows."""
        rows: Sequence[Any] = (await self._execute(sql, values)).rows
        return rows

    async def execute(self, sql: str, *values: object) -> int:
        """Executes one statement and returns how many rows it matched."""
        matched: int = (await self._execute(sql, values)).affected_rows
        return matched

    async def _execute(self, sql: str, values: tuple[object, ...]) -> Any:  # noqa: ANN401
        statement = self._prepared.get(sql)
        if statement is None:
            statement = self._prepared[sql] = await self._driver.prepare(sql)
        return await statement.execute(values)

    def is_closed(self) -> bool:
        """Whether it is closed at either end, as far as the driver knows."""
        # `connected` does not know that the server has closed it, such as for
        # `wait_timeout`.
        return not self._driver.connected or self._driver._stream_broken

    def is_in_transaction(self) -> bool:
        """Whether the last statement without an error has left it in one."""
        inside: bool = self._driver.get_transaction_status()
        return inside

    def close(self) -> None:
        """Closes it at once. The server rolls back its transaction."""
        self._driver.close()

    async def quit(self) -> None:
        """Closes it, and lets the server know."""
        await self._driver.ensure_closed()


class Connections:
    """``size`` connections, each opened with ``connect`` at its first use.

    ``has_timed_out`` says whether a cancellation is that of a timeout.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        size: int,
        has_timed_out: Callable[[], bool],
    ) -> None:
        self._connect = connect
        self._has_timed_out = has_timed_out
        self._is_closed = False
        # The one that was used last comes first. None is not open yet.
        self._free: asyncio.LifoQueue[Connection | None] = asyncio.LifoQueue()
        for _ in range(size):
            self._free.put_nowait(None)

    async def fetch(self, sql: str, *values: object) -> Sequence[Any]:
        """Executes one statement and returns its rows."""
        return await self.run(lambda each: each.fetch(sql, *values))

    async def execute(self, sql: str, *values: object) -> int:
        """Executes one statement and returns how many rows it matched."""
        return await self.run(lambda each: each.execute(sql, *values))

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Does ``work``, and again where the server has rolled it back.

        That is after a deadlock, and after each second that it waits for the locks of
        others: they may be held for long, and others use the connection meanwhile.
        """
        locked = None
        try:
            while True:
                try:
                    return await self._run_once(work)
                except asyncmy.MySQLError as error:  # noqa: PERF203
                    if code_of(error) == LOCKED:
                        locked = error
                    elif code_of(error) != DEADLOCK:
                        raise
        except asyncio.CancelledError:
            if locked is None or not self._has_timed_out():
                raise
            raise locked from None

    async def _run_once(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        connection = await self._free.get()
        try:
            if connection is None or connection.is_closed():
                connection = None
                connection = await self._connect()
            return await work(connection)
        except BaseException as error:
            if connection is not None and (
                breaks_connection(error) or connection.is_in_transaction()
            ):
                connection.close()
                connection = None
            raise
        finally:
            if self._is_closed and connection is not None:
                connection.close()
                connection = None
            self._free.put_nowait(connection)

    def drop(self) -> None:
        """Closes all at once, those in use at the end of their operations."""
        for connection in self._take_free():
            connection.close()

    async def close(self) -> None:
        """Closes all as `drop` does, and lets the server know."""
        for connection in self._take_free():
            try:
                await connection.quit()
            finally:
                connection.close()

    def _take_free(self) -> list[Connection]:
        self._is_closed = True
        taken = []
        with contextlib.suppress(asyncio.QueueEmpty):
            while True:
                taken.append(self._free.get_nowait())
        for _ in taken:
            # For an operation that still waits: its timeout ends it.
            self._free.put_nowait(None)
        return [connection for connection in taken if connection is not None]

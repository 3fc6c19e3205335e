"""Connections to one server or to a cluster, and how commands are sent on them."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

from redis.asyncio import RedisCluster
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from tornado_sessions_redis.scripts import Script


class Connection(abc.ABC):
    """Several connections, at most ``most`` to each server."""

    #: Whether two keys may be on two servers.
    is_cluster: ClassVar[bool]

    def __init__(self, most: int) -> None:
        # The driver raises an error when there are too many, and its pool that waits
        # loses a wakeup where a waiting operation is cancelled.
        self._limit = asyncio.Semaphore(most)

    @abc.abstractmethod
    async def ask(self, *command: bytes | str | int) -> Any:  # noqa: ANN401
        """Sends a command, once, and returns the reply."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Closes what is open."""

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        *arguments: bytes | str | int,
    ) -> Any:  # noqa: ANN401
        """Runs a script, and returns the reply."""
        try:
            return await self.ask(
                "EVALSHA", script.digest, len(keys), *keys, *arguments
            )
        except NoScriptError:
            # The server was restarted, or is another one. It has not run anything.
            return await self.ask("EVAL", script.text, len(keys), *keys, *arguments)


class Pool(Connection):
    """Connections to one server, each of which has one command in progress.

    The driver's own pools cost as much time as the command itself, and older ones do
    not notice what the server has closed. ``make`` returns a new connection of the
    driver, and ``close`` closes what else there is.
    """

    is_cluster = False

    def __init__(
        self,
        most: int,
        make: Callable[[], Any],
        close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(most)
        self._make = make
        self._close = close
        self._all: list[Any] = []
        # The one that was used last is the next to be used.
        self._idle: list[Any] = []
        self._is_closed = False

    async def ask(self, *command: bytes | str | int) -> Any:  # noqa: ANN401
        async with self._limit:
            connection = self._take()
            try:
                if connection.is_stale():
                    await connection.disconnect(nowait=True)
                if not connection.is_connected:
                    await connection.connect()
                await connection.send_packed_command(connection.pack_command(*command))
                return await connection.read_response()
            except ReadOnlyError:
                # The name now leads to another server, or the Sentinels name one.
                await self._disconnect(connection, *self._idle)
                raise
            except ResponseError:
                raise
            except BaseException:
                # A reply may still come, and must not be taken for another's.
                await connection.disconnect(nowait=True)
                raise
            finally:
                if self._is_closed:
                    await connection.disconnect(nowait=True)
                self._idle.append(connection)

    async def close(self) -> None:
        self._is_closed = True
        # Connections in use as well: their operations have had their time.
        await self._disconnect(*self._all)
        if self._close is not None:
            await self._close()

    def _take(self) -> Any:  # noqa: ANN401
        if self._idle:
            return self._idle.pop()
        connection = self._make()
        self._all.append(connection)
        return connection

    async def _disconnect(self, *connections: Any) -> None:
        for connection in connections:
            await connection.disconnect(nowait=True)


class Cluster(Connection):
    """The driver's client of a cluster, which knows where each key is."""

    is_cluster = True

    def __init__(self, most: int, client: RedisCluster) -> None:
        super().__init__(most)
        self._client: Any = client

    async def ask(self, *command: bytes | str | int) -> Any:  # noqa: ANN401
        async with self._limit:
            return await self._client.execute_command(*command)

    async def close(self) -> None:
        await self._client.aclose()

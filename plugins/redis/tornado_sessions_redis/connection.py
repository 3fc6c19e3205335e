"""Connections to one server, and how commands are sent on them."""

from __future__ import annotations

import abc
import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from tornado_sessions_redis.errors import ERRORS
from tornado_sessions_redis.scripts import with_text

Command = tuple[bytes | str | int, ...]


class Connection(abc.ABC):
    """Several connections of the driver, to one server or to those of a cluster."""

    #: Whether two keys may be on two servers.
    is_cluster: ClassVar[bool]

    async def ask(self, *command: bytes | str | int) -> Any:  # noqa: ANN401
        """Sends a command, once, and returns the reply. Raises what the driver raises."""
        try:
            return await self._ask(command)
        except NoScriptError:
            # The server was restarted, or is another one. It has not run anything.
            return await self._ask(with_text(command))

    async def ask_many(self, commands: Sequence[Command]) -> list[Any]:
        """Sends commands together, and returns their replies.

        The error of one is its reply. Raises what the driver raises before the first.
        """
        replies = await self._ask_many(commands)
        places = [
            place
            for place, reply in enumerate(replies)
            if isinstance(reply, NoScriptError)
        ]
        if places:
            texts = [with_text(commands[place]) for place in places]
            try:
                again = await self._ask_many(texts)
            except ERRORS as error:
                again = copies(error, len(texts))
            for place, reply in zip(places, again, strict=True):
                replies[place] = reply
        return replies

    @abc.abstractmethod
    async def get(self, keys: Sequence[bytes]) -> list[Any]:
        """Returns the values of keys. The error of one is its value."""

    async def ask_everywhere(self, *command: bytes | str | int) -> list[Any]:
        """Sends a command to each server, and returns their replies."""
        return [await server.ask(*command) for server in await self.servers()]

    @abc.abstractmethod
    async def servers(self) -> list[Pool]:
        """Returns the connections to each server that has keys."""

    @abc.abstractmethod
    async def survey(self) -> dict[Pool, list[bytes]]:
        """Returns each server that has keys, and what says which keys those are.

        Raises `.MovedKeysError` if some are on none of them, or are being moved.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Closes what is open."""

    @abc.abstractmethod
    async def _ask(self, command: Command) -> Any:  # noqa: ANN401
        pass

    @abc.abstractmethod
    async def _ask_many(self, commands: Sequence[Command]) -> list[Any]:
        pass


class Pool(Connection):
    """At most ``most`` connections to one server.

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
        # The driver raises an error when there are too many.
        self._limit = asyncio.Semaphore(most)
        self._make = make
        self._close = close
        self._all: list[Any] = []
        # The one that was used last is the next to be used.
        self._idle: list[Any] = []
        self._in_progress = 0
        self._is_closed = False
        self._ended = asyncio.Event()

    async def get(self, keys: Sequence[bytes]) -> list[Any]:
        values: list[Any] = await self.ask("MGET", *keys)
        return values

    async def servers(self) -> list[Pool]:
        return [self]

    async def survey(self) -> dict[Pool, list[bytes]]:
        return {self: []}

    async def leave(self) -> None:
        """Has idle connections opened again, as the server is not a primary any more.

        The name may now lead to another server, or the Sentinels name one.
        """
        await _disconnect(self._idle)

    async def close(self) -> None:
        self._is_closed = True
        try:
            # Connections in use as well: their operations have had their time.
            await _disconnect(self._all)
            while self._in_progress:
                self._ended.clear()
                await self._ended.wait()
        finally:
            if self._close is not None:
                await self._close()

    async def _ask(self, command: Command) -> Any:  # noqa: ANN401
        (reply,) = await self._exchange((command,))
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _ask_many(self, commands: Sequence[Command]) -> list[Any]:
        return await self._exchange(commands)

    async def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Sends commands on one connection, and returns their replies."""
        replies: list[Any] = []
        async with self._limit:
            if self._is_closed:
                raise RedisConnectionError("The session backend was closed")
            self._in_progress += 1
            if self._idle:
                connection = self._idle.pop()
            else:
                connection = self._make()
                self._all.append(connection)
            try:
                if connection.is_stale():
                    await connection.disconnect(nowait=True)
                if not connection.is_connected:
                    await connection.connect()
                packed = connection.pack_commands(commands)
                await connection.send_packed_command(packed)
                while len(replies) < len(commands):
                    try:
                        replies.append(await connection.read_response())
                    except ResponseError as error:  # noqa: PERF203
                        replies.append(error)
                        if isinstance(error, ReadOnlyError):
                            await self.leave()
            except ERRORS as error:
                await connection.disconnect(nowait=True)
                if not replies:
                    raise
                replies += copies(error, len(commands) - len(replies))
            except BaseException:
                # A reply may still come, and must not be taken for another's.
                await connection.disconnect(nowait=True)
                raise
            finally:
                if self._is_closed or any(
                    isinstance(reply, ReadOnlyError) for reply in replies
                ):
                    await connection.disconnect(nowait=True)
                self._idle.append(connection)
                self._in_progress -= 1
                self._ended.set()
        return replies


def copies(error: Exception, number: int) -> list[Exception]:
    """Returns errors that as many callers can raise: a shared one collects tracebacks."""
    return [copy.copy(error) for _ in range(number)]


async def _disconnect(connections: Sequence[Any]) -> None:
    for connection in connections:
        await connection.disconnect(nowait=True)

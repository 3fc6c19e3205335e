"""Keeps sessions in memcached: on one server, or spread over several."""

from __future__ import annotations

import asyncio
import collections
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import aiomcache
from aiomcache.pool import Connection

from tornado_sessions.backend import Backend, Record
from tornado_sessions.errors import BackendError, ConflictError

__all__ = ["MemcachedBackend"]

T = TypeVar("T")

# As memcached has it (protocol.txt): what is longer than thirty days is a date,
# and a date is 32 bits with a sign.
_LONGEST_SPAN = 30 * 86_400
_LAST_DATE = 2**31 - 1

# By how many seconds a server's clock may be ahead of ours, as in the core.
_CLOCK_SKEW = 300

# The longest key that memcached takes, and the digits of ours.
_KEY_LENGTH = 250
_DIGITS = 64

# What memcached takes at most by default is 1 MiB with the key and some 60 bytes
# of its own. This leaves room for the longest key.
_MAX_BYTES = 1_048_576 - 1024

# A prime, so that to multiply with any number below it spreads keys evenly.
_PRIME = 2**61 - 1

# How often in its time limit an operation is looked at.
_TICKS = 20

_match_server = re.compile(
    r"(?P<host>\[[0-9a-z:.%_-]+\]|[a-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?", re.IGNORECASE
).fullmatch

_visible = re.compile(r"[!-~]*").fullmatch


class MemcachedBackend(Backend):
    """Keeps sessions in memcached, at ``servers`` such as ``"10.0.0.1:11211"``.

    Of several servers each keeps a share of the sessions. While one is down its
    share cannot be used, and the others' goes on; to add or to remove one moves
    no session between the others.

    Each operation ends within ``timeout`` seconds. To each server there are at
    most ``pool_size`` connections. Keys begin with ``prefix``. Servers that
    were started with a larger ``-I`` can be given a larger ``max_bytes``.
    """

    durable = False
    shared = True
    lists_users = False
    immediate = False

    def __init__(
        self,
        *servers: str,
        timeout: float = 2.0,
        prefix: str = "session:",
        pool_size: int = 4,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        self.servers = [_host_and_port(server) for server in servers]
        if not servers or len(set(self.servers)) < len(servers):
            raise ValueError(
                "The session backend 'memcached' needs a server, and each only once,"
                " as in 'memcached://10.0.0.1:11211,10.0.0.2:11211'."
            )
        if not 0 < timeout < float("inf"):
            raise ValueError(
                f"The option 'timeout' must be a number of seconds above 0, not"
                f" {timeout!r}."
            )
        if not _visible(prefix) or len(prefix) > _KEY_LENGTH - _DIGITS:
            raise ValueError(
                f"The option 'prefix' must be at most {_KEY_LENGTH - _DIGITS} visible"
                f" ASCII characters, not {prefix!r}."
            )
        for name, value in {"pool_size": pool_size, "max_bytes": max_bytes}.items():
            if value < 1:
                raise ValueError(
                    f"The option {name!r} must be a number above 0, not {value!r}."
                )
        self.timeout = timeout
        self.prefix = prefix
        self.pool_size = pool_size
        self.max_bytes: int = max_bytes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pools: list[_Pool] = []

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> MemcachedBackend:
        """Makes the backend of ``memcached://host:11211``, or of ``…//a,b,c``.

        Options follow a question mark: ``timeout``, ``prefix``, ``pool_size``
        and ``max_bytes``, as the constructor takes them. Raises `ValueError`
        for anything else.
        """
        # Not by urlsplit, which knows of one host only.
        servers, _, query = url.partition("://")[2].partition("?")
        if "@" in servers:
            raise ValueError(
                "The session backend 'memcached' takes no user and no password."
                " Protect the server by the network that it listens on."
            )
        options: dict[str, Any] = {}
        for name, text in parse_qsl(query, keep_blank_values=True):
            if name not in _OPTIONS:
                raise ValueError(
                    f"The session backend 'memcached' has no option {name!r}. Its"
                    f" options are {', '.join(map(repr, _OPTIONS))}."
                )
            try:
                options[name] = _OPTIONS[name](text)
            except ValueError as error:
                raise ValueError(
                    f"The option {name!r} must be a number, not {text!r}."
                ) from error
        return cls(*servers.removesuffix("/").split(","), **options)

    async def load(self, key: bytes) -> Record | None:
        pool = self._pool_of(key)
        data, version = await pool.run(aiomcache.Client.gets, self._name(key))
        if data is None:
            return None
        if not version:
            # The driver leaves a version of 0 out of its next command, and the
            # server then takes what is in the session for a command.
            raise BackendError(
                f"memcached at {pool.address} keeps no versions. Start it without -C."
            )
        return Record(data, version)

    async def save(self, key: bytes, record: Record) -> None:
        self.check_size(record)
        pool, name, exptime = self._pool_of(key), self._name(key), _exptime(record)
        data, version = record.data, record.version
        if version is None:
            stored = await pool.run(aiomcache.Client.add, name, data, exptime)
        else:
            stored = await pool.run(aiomcache.Client.cas, name, data, version, exptime)
        if not stored:
            raise ConflictError("Another version of the record is stored, or none.")

    async def delete(self, key: bytes) -> None:
        await self._pool_of(key).run(aiomcache.Client.delete, self._name(key))

    async def close(self) -> None:
        """Closes the connections; another use opens new ones."""
        if self._loop is not asyncio.get_running_loop():
            return
        self._loop = None
        for pool in self._pools:
            pool.close()
        # The loop closes the sockets in its next turn.
        await asyncio.sleep(0)

    def _name(self, key: bytes) -> bytes:
        return (self.prefix + key.hex()).encode()

    def _pool_of(self, key: bytes) -> _Pool:
        """Answers the pool of the server that keeps ``key``.

        That is the one with the highest score of this key (rendezvous hashing),
        so that the order of servers does not matter, nor what others there are.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # The first use; or another process, whose connections stay its own.
            self._loop = loop
            self._pools = [
                _Pool(loop, host, port, self.timeout, self.pool_size)
                for host, port in self.servers
            ]
        if len(self._pools) == 1:
            return self._pools[0]
        # A key is a digest, so any eight bytes of it do.
        number = int.from_bytes(key[:8], "big")
        return max(self._pools, key=lambda pool: number * pool.factor % _PRIME)


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "timeout": float,
    "prefix": str,
    "pool_size": int,
    "max_bytes": int,
}


class _Pool:
    """The connections to one server, opened when they are needed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        host: str,
        port: int,
        timeout: float,
        size: int,
    ) -> None:
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        digest = hashlib.sha256(self.address.encode()).digest()
        self.factor = int.from_bytes(digest[:8], "big") % _PRIME
        self._loop = loop
        self._timeout = timeout
        self._free = [_Connection(host, port) for _ in range(size)]
        self._waiting: collections.deque[asyncio.Future[_Connection]] = (
            collections.deque()
        )
        # Each with the time at which its operation is given up.
        self._in_use: dict[_Connection, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def run(self, command: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Answers what ``command``, a method of aiomcache's client, answers.

        Raises `.BackendError` for whatever it raises, and where it takes too long.
        """
        deadline = self._loop.time() + self._timeout
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout / _TICKS, self._tick)
        try:
            connection = self._free.pop() if self._free else await self._wait()
            self._in_use[connection] = deadline
            try:
                if not connection.is_open():
                    await connection.open(deadline - self._loop.time())
                return await command(connection.client, *arguments)
            except BaseException:
                # An answer may be still to come, and is nobody else's.
                connection.close()
                raise
            finally:
                del self._in_use[connection]
                self._give(connection)
        except Exception as error:
            raise BackendError(self._explain(error)) from error

    def close(self) -> None:
        """Closes the connections: those in use when they are given back."""
        self._closed = True
        for connection in self._free:
            connection.close()

    async def _wait(self) -> _Connection:
        """Answers the next connection that is given back.

        That is in time: those that have them now must give them back before.
        """
        waiter: asyncio.Future[_Connection] = self._loop.create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                # It was given in the same turn of the loop.
                self._give(waiter.result())
            raise

    def _give(self, connection: _Connection) -> None:
        """Hands the connection to whoever has waited longest."""
        if self._closed:
            connection.close()
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._free.append(connection)

    # asyncio.wait_for starts a task for each call before Python 3.12. So all
    # operations of a pool share one timer, which ends those that are due.

    def _tick(self) -> None:
        self._timer = None
        if not self._in_use:
            return
        # The next tick would be too late.
        due = self._loop.time() + self._timeout / _TICKS
        for connection, deadline in self._in_use.items():
            if deadline <= due:
                connection.fail(asyncio.TimeoutError())
        self._timer = self._loop.call_later(self._timeout / _TICKS, self._tick)

    def _explain(self, error: Exception) -> str:
        if isinstance(error, asyncio.TimeoutError):
            return (
                f"memcached at {self.address} did not answer within"
                f" {self._timeout:g} seconds. Check the server and the network, or"
                " raise the option 'timeout'."
            )
        if isinstance(error, EOFError):
            return f"memcached at {self.address} closed the connection."
        if isinstance(error, OSError):
            return f"memcached at {self.address} cannot be reached: {error}."
        return f"memcached at {self.address} failed: {error}."


class _Connection:
    """One connection, which an aiomcache client of its own takes for its pool.

    The driver's pool would hand a connection whose operation was cancelled, the
    answer still to come, to the next operation.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._streams: Connection | None = None
        self.client = aiomcache.Client(host, port)
        # There is no public name for it.
        self.client._pool = self  # type: ignore[assignment]

    def is_open(self) -> bool:
        """Tells whether it can be used, as far as can be known."""
        if self._streams is None:
            return False
        reader, writer = self._streams
        return not (reader.at_eof() or reader.exception() or writer.is_closing())

    async def open(self, timeout: float) -> None:
        self.close()
        loop = asyncio.get_running_loop()
        reader = _Reader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await asyncio.wait_for(
            loop.create_connection(lambda: protocol, self._host, self._port), timeout
        )
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._streams = Connection(reader, writer)

    def fail(self, error: Exception) -> None:
        """Ends the operation under way with ``error``."""
        if self._streams is not None:
            self._streams.reader.set_exception(error)
            self.close()

    def close(self) -> None:
        if self._streams is not None:
            # Nothing that is still to be sent is sent.
            self._streams.writer.transport.abort()

    # What the client asks of a pool.

    async def acquire(self) -> Connection:
        assert self._streams is not None
        return self._streams

    def release(self, streams: Connection) -> None:
        pass


class _Reader(asyncio.StreamReader):
    async def readline(self) -> bytes:
        # Not an empty line at the end: the driver would go on reading it for
        # ever, and never let the loop have its turn.
        return await self.readuntil(b"\n")


def _host_and_port(server: str) -> tuple[str, int]:
    matched = _match_server(server)
    if matched is None or not 0 < int(matched["port"] or 11211) < 65_536:
        raise ValueError(
            f"The session backend 'memcached' cannot use the server {server!r}. Name"
            " a host and a port, as in 'memcached://10.0.0.1:11211' or"
            " 'memcached://[::1]:11211'; separate several by commas."
        )
    return matched["host"].lower().strip("[]"), int(matched["port"] or 11211)


def _exptime(record: Record) -> int:
    """Answers when memcached may forget the record, never too early.

    A span while that can be said: it is right whatever the server's clock says,
    which memcached reads only when it starts.
    """
    if not record.expires:
        return 0
    # One second more to round up, and one as memcached's clock ticks in seconds.
    span = max(int(record.expires - time.time()), 0) + 2
    if span <= _LONGEST_SPAN:
        return span
    date = int(record.expires) + 1 + _CLOCK_SKEW
    # 0 is never: what memory is wanted for is forgotten all the same.
    return date if date <= _LAST_DATE else 0

"""Keeps sessions in memcached: on one server, or spread over several."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, TypeVar
from urllib.parse import unquote

import aiomcache

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import UNKNOWN, Backend, Record, Version
from tornado_sessions.storage.driver import DriverBackend
from tornado_sessions.storage.pools import PoolBackend
from tornado_sessions_memcached.exchange import ReplyError, SharedConnection

__all__ = ["MemcachedBackend", "MemcachedPool"]

T = TypeVar("T")

# protocol.txt of memcached: more than thirty days are a date, and a date is a
# signed integer of 32 bits.
_LONGEST_SPAN = 30 * 86_400
_LAST_DATE = 2**31 - 1

# By how many seconds a server's clock may be ahead of ours, as in the core.
_CLOCK_SKEW = 300

# The longest key that memcached takes, and the digits of ours.
_KEY_LENGTH = 250
_DIGITS = 64

# Multiplication by any number below a prime spreads keys evenly.
_PRIME = 2**61 - 1

_match_server = re.compile(
    r"(?P<host>\[[0-9a-z:.%_-]+\]|[a-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?", re.IGNORECASE
).fullmatch

_prefix = re.compile(r"(?<![^&])prefix=[^&]*")

_visible = re.compile(r"[!-~]*").fullmatch


class MemcachedBackend(DriverBackend[SharedConnection]):
    """Keeps sessions in one memcached, at ``server`` such as ``"10.0.0.1:11211"``.

    All operations of a process share one connection. Keys begin with ``prefix``.
    ``max_bytes`` can be as much as 1,047,552, or more where the server was started
    with a larger ``-I``. For several servers see `MemcachedPool`.
    """

    durable = False
    store = "memcached"
    errors = (aiomcache.ClientException, ReplyError, EOFError)
    advice: ClassVar[Mapping[int | str, str]] = {
        "unreachable": "Check that it runs there, and that no firewall is in between."
    }
    options: ClassVar[Mapping[str, type]] = {"prefix": str}
    # memcached removes expired records itself.
    purge = Backend.purge

    def __init__(
        self,
        server: str,
        *,
        prefix: str = "session:",
        timeout: float = 2.0,
        max_bytes: int = 65_536,
    ) -> None:
        self.host, self.port = _host_and_port(server)
        host = f"[{self.host}]" if ":" in self.host else self.host
        super().__init__(f"{host}:{self.port}", timeout=timeout, max_bytes=max_bytes)
        if not _visible(prefix) or len(prefix) > _KEY_LENGTH - _DIGITS:
            raise ValueError(
                f"The option 'prefix' must be at most {_KEY_LENGTH - _DIGITS} visible"
                " ASCII characters."
            )
        self.prefix = prefix

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> Backend:
        """Returns the backend of ``memcached://host:11211``.

        For ``memcached://a,b,c`` that is a `MemcachedPool`. The options of the
        constructor follow a question mark.
        """
        # Not with urlsplit, which takes only one host.
        servers, _, query = url.partition("://")[2].partition("?")
        names = servers.removesuffix("/").split(",")
        # A prefix may contain an '@', and a password a question mark.
        is_good = all(map(_match_server, names))
        if "@" in unquote(_prefix.sub("", query) if is_good else url):
            raise ValueError(
                "The session backend 'memcached' takes no user and no password."
                " Protect the server by the network that it listens on."
            )
        options = cls.read_options("memcached", query)
        backends = [cls(name, **options) for name in names]
        return backends[0] if len(backends) == 1 else MemcachedPool(*backends)

    async def connect(self) -> SharedConnection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            SharedConnection, self.host, self.port
        )
        return connection

    async def disconnect(self, connection: SharedConnection) -> None:
        connection.retire()
        # The event loop closes the socket in its next iteration.
        await asyncio.sleep(0)

    def is_closed(self, connection: SharedConnection) -> bool:
        return connection.is_retired or connection.transport.is_closing()

    async def load_from(
        self, connection: SharedConnection, key: bytes
    ) -> Record | None:
        data, version = await connection.client.gets(self._name(key))
        if data is None:
            return None
        if not version:
            # The driver leaves a version of 0 out of its next command, and the
            # server then takes the data of the session for commands.
            raise BackendError(
                f"memcached {self.address!r} keeps no versions. Start it without -C."
            )
        return Record(data, version)

    async def insert_into(
        self, connection: SharedConnection, key: bytes, record: Record
    ) -> Version | None:
        # memcached reports no version but to a load.
        is_new = await connection.client.add(
            self._name(key), record.data, _exptime(record)
        )
        return UNKNOWN if is_new else None

    async def replace_in(
        self,
        connection: SharedConnection,
        key: bytes,
        record: Record,
        version: Version,
    ) -> Version | None:
        is_that = await connection.client.cas(
            self._name(key), record.data, version, _exptime(record)
        )
        return UNKNOWN if is_that else None

    async def delete_from(self, connection: SharedConnection, key: bytes) -> None:
        await connection.client.delete(self._name(key))

    async def ping(self) -> None:
        await self.run(_ask_version)

    def code_of(self, error: Exception) -> str | None:
        return "unreachable" if isinstance(error, OSError) else None

    def _name(self, key: bytes) -> bytes:
        return (self.prefix + key.hex()).encode()


class MemcachedPool(PoolBackend):
    """Spreads sessions over several servers.

    Each server keeps a share of them. While it is down, its share cannot be used,
    and new sessions go to the others. Adding or removing a server moves no session
    between the others. Raises `ValueError` for a server that is there twice.
    """

    durable = False

    def __init__(self, *servers: MemcachedBackend) -> None:
        self.servers = servers
        self._by_factor = {_factor(server.address): server for server in servers}
        if not servers or len(self._by_factor) < len(servers):
            raise ValueError(
                "The session backend 'memcached' needs a server, and each only once,"
                " as in 'memcached://10.0.0.1:11211,10.0.0.2:11211'."
            )
        self.max_bytes = min(server.max_bytes for server in servers)
        self.timeout = max(server.timeout for server in servers)
        # When the last failure of a server is forgotten. Any success forgets it.
        self._suspects: dict[MemcachedBackend, float] = {}

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> Backend:
        return MemcachedBackend.from_url(url, settings)

    async def load(self, key: bytes) -> Record | None:
        return await self._run(self._server_of(key), MemcachedBackend.load, key)

    async def insert(self, key: bytes, record: Record) -> Version | None:
        server = self._server_of(key)
        return await self._run(server, MemcachedBackend.insert, key, record)

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        server = self._server_of(key)
        return await self._run(server, MemcachedBackend.replace, key, record, version)

    async def delete(self, key: bytes) -> None:
        await self._run(self._server_of(key), MemcachedBackend.delete, key)

    async def ping(self) -> None:
        """Asks all servers at once. Raises `.BackendError` if none answers.

        While one does, its sessions go on and new ones are stored there.
        """
        pings = (self._run(server, MemcachedBackend.ping) for server in self.servers)
        outcomes = await asyncio.gather(*pings, return_exceptions=True)
        failures = [each for each in outcomes if isinstance(each, BaseException)]
        if len(failures) == len(outcomes):
            raise failures[0]

    def is_down(self, key: bytes) -> bool:
        """Whether the server of ``key`` has just failed, and another has not.

        "Just" is within its timeout. After that it gets new sessions again.
        """
        return self._is_suspect(self._server_of(key)) and not all(
            map(self._is_suspect, self.servers)
        )

    async def close(self) -> None:
        for server in self.servers:
            await server.close()

    def _server_of(self, key: bytes) -> MemcachedBackend:
        """Returns the server that has the highest score of ``key``.

        This is rendezvous hashing: neither the order of the servers nor the other
        servers matter.
        """
        # A key is a digest, so any eight bytes of it do.
        number = int.from_bytes(key[:8], "big")
        best = max(self._by_factor, key=lambda factor: number * factor % _PRIME)
        return self._by_factor[best]

    async def _run(
        self,
        server: MemcachedBackend,
        operation: Callable[..., Awaitable[T]],
        *arguments: object,
    ) -> T:
        if server in self._suspects:
            # One operation tries the server. New sessions wait for its outcome.
            self._suspect(server)
        try:
            result = await operation(server, *arguments)
        except BackendError:
            self._suspect(server)
            raise
        self._suspects.pop(server, None)
        return result

    def _suspect(self, server: MemcachedBackend) -> None:
        now = asyncio.get_running_loop().time()
        self._suspects[server] = now + server.timeout

    def _is_suspect(self, server: MemcachedBackend) -> bool:
        return self._suspects.get(server, 0.0) > asyncio.get_running_loop().time()


def _factor(address: str) -> int:
    digest = hashlib.sha256(address.encode()).digest()
    return int.from_bytes(digest[:8], "big") % _PRIME


async def _ask_version(connection: SharedConnection) -> None:
    await connection.client.version()


def _host_and_port(server: str) -> tuple[str, int]:
    matched = _match_server(server)
    if matched is None or not 0 < int(matched["port"] or 11211) < 65_536:
        raise ValueError(
            "The session backend 'memcached' needs servers, each with a host and a"
            " port, as in 'memcached://10.0.0.1:11211' or 'memcached://[::1]:11211'."
            " Separate several by commas."
        )
    return matched["host"].lower().strip("[]"), int(matched["port"] or 11211)


def _exptime(record: Record) -> int:
    """Returns when memcached may forget the record, never too early.

    It is a span where memcached takes one. A date depends on the clock of the
    server, which memcached reads only when it starts.
    """
    if not record.expires:
        return 0
    # One second to round up, and one because memcached's clock ticks in seconds.
    span = max(int(record.expires - time.time()), 0) + 2
    if span <= _LONGEST_SPAN:
        return span
    date = int(record.expires) + 1 + _CLOCK_SKEW
    # 0 is never. memcached still evicts the record when it needs the memory.
    return date if date <= _LAST_DATE else 0

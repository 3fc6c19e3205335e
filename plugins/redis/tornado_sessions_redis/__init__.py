"""Keeps sessions in Redis or Valkey: on one server, with Sentinel, or in a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from redis.exceptions import TimeoutError as RedisTimeoutError

from tornado_sessions.storage.backend import Backend, Record, Version
from tornado_sessions.storage.driver import DriverBackend
from tornado_sessions.storage.operations import Write
from tornado_sessions_redis.checks import warn_of_losses
from tornado_sessions_redis.connecting import make_connection
from tornado_sessions_redis.connection import Connection
from tornado_sessions_redis.errors import (
    ADVICE,
    ERRORS,
    MovedKeysError,
    code_of,
    describe,
    without_keys,
)
from tornado_sessions_redis.layout import (
    Keys,
    encode_user,
    unpack,
    unpack_with_user,
    user_of,
)
from tornado_sessions_redis.listing import Listing
from tornado_sessions_redis.scripts import DELIST, call
from tornado_sessions_redis.urls import check_options, read_url
from tornado_sessions_redis.writes import write_all

__all__ = ["RedisBackend"]

# How many records `find` and `find_all` read at a time.
_PAGE = 100


class RedisBackend(DriverBackend[Connection]):
    """Keeps sessions in Redis or Valkey.

    ``url`` is ``redis://host:6379/0``, ``rediss://…`` for an encrypted connection,
    ``redis+unix:///path``, ``redis+sentinel://host1,host2/name`` or
    ``redis+cluster://host1,host2``. Keys begin with ``prefix``. A process opens at
    most ``max_connections`` to each server, under the name ``client_name``. ``db`` is
    the number of the database, where the URL does not have it. The options that begin
    with ``ssl_`` are the driver's.
    """

    finds_by_user = finds_all = True
    store = "Redis"
    errors = ERRORS
    advice = ADVICE
    options: ClassVar[Mapping[str, type]] = {
        "prefix": str,
        "db": int,
        "client_name": str,
        "max_connections": int,
        "sentinel_username": str,
        "sentinel_password": str,
        "ssl_ca_certs": str,
        "ssl_certfile": str,
        "ssl_keyfile": str,
        "ssl_cert_reqs": str,
        "ssl_check_hostname": bool,
    }
    # Redis removes expired records itself.
    purge = Backend.purge

    def __init__(
        self,
        url: str = "redis://localhost",
        *,
        prefix: str = "session:",
        db: int | None = None,
        max_connections: int = 10,
        timeout: float = 2.0,
        max_bytes: int = 65_536,
        **options: str | bool,
    ) -> None:
        if unknown := options.keys() - self.options.keys():
            raise TypeError(f"RedisBackend has no option named {min(unknown)!r}.")
        target = read_url(url, db)
        check_options(target, options)
        super().__init__(target.address, timeout=timeout, max_bytes=max_bytes)
        if max_connections < 1:
            raise ValueError("The option 'max_connections' must be a number above 0.")
        self.prefix = prefix
        self.max_connections = max_connections
        self._keys = Keys(prefix)
        self._target = target
        self._options = options
        self._is_checked = False

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> RedisBackend:
        """Returns the backend of ``redis://host:6379/0`` and the like.

        The options of the constructor follow a question mark. Raises `ValueError` for
        what it cannot use.
        """
        if url in ("redis", "redis:", "redis://"):
            url = "redis://localhost"
        address, _, query = url.partition("?")
        if "@" in query:
            raise ValueError(
                "The URL of the session backend 'redis' has an '@' after its '?'. Escape"
                " the user and the password with urllib.parse.quote(password, safe='')."
            )
        return cls(address, **cls.read_options("redis", query))

    async def connect(self) -> Connection:
        connection = make_connection(
            self._target, self.max_connections, self.timeout, self._options
        )
        try:
            if not self._is_checked:
                await warn_of_losses(connection, self.address)
                self._is_checked = True
        except BaseException:
            await connection.close()
            raise
        return connection

    async def disconnect(self, connection: Connection) -> None:
        await connection.close()

    async def load_from(self, connection: Connection, key: bytes) -> Record | None:
        value = await connection.ask("GET", self._keys.of(key))
        return None if value is None else unpack(value)

    async def insert_into(
        self, connection: Connection, key: bytes, record: Record
    ) -> Version | None:
        return await self._write(connection, Write(key, record))

    async def replace_in(
        self, connection: Connection, key: bytes, record: Record, version: Version
    ) -> Version | None:
        return await self._write(connection, Write(key, record, version))

    async def delete_from(self, connection: Connection, key: bytes) -> None:
        await self._write(connection, Write(key))

    async def load_many(
        self, connection: Connection, keys: Sequence[bytes]
    ) -> Sequence[Record | Exception | None]:
        values = await connection.get([self._keys.of(key) for key in keys])
        return [
            unpack(value) if isinstance(value, bytes) else value for value in values
        ]

    async def write_many(
        self, connection: Connection, writes: Sequence[Write]
    ) -> Sequence[Version | Exception | None]:
        return await write_all(connection, self._keys, writes)

    async def _write(self, connection: Connection, write: Write) -> Version | None:
        (outcome,) = await write_all(connection, self._keys, (write,))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def find_in(
        self, connection: Connection, user: str
    ) -> AsyncIterator[list[tuple[bytes, Record]]]:
        name = encode_user(user)
        users, seen, cursor = self._keys.of_user(name), set[bytes](), 0
        while True:
            # Members, each with its score. A member may come twice.
            cursor, found = await connection.ask("ZSCAN", users, cursor, "COUNT", _PAGE)
            fresh = [member for member in found[::2] if member not in seen]
            seen.update(fresh)
            for start in range(0, len(fresh), _PAGE):
                page = fresh[start : start + _PAGE]
                yield await self._load_page(connection, name, page)
            if not int(cursor):
                return

    async def _load_page(
        self, connection: Connection, user: bytes, members: list[bytes]
    ) -> list[tuple[bytes, Record]]:
        keys = [self._keys.of_member(member) for member in members]
        values = await _load_all(connection, keys)
        gone = [place for place, value in enumerate(values) if value is None]
        if gone and not connection.is_cluster:
            # Evicted, or lost in a failover. In a cluster one of them might just be
            # stored.
            await connection.ask(
                *call(
                    DELIST,
                    [self._keys.of_user(user), *(keys[place] for place in gone)],
                    *(members[place] for place in gone),
                )
            )
        return [
            (bytes.fromhex(member.decode()), unpack(value))
            for member, value in zip(members, values, strict=True)
            if value is not None and user_of(value) == user
        ]

    async def find_all_in(
        self, connection: Connection
    ) -> AsyncIterator[list[tuple[bytes, Record]]]:
        before = await connection.survey()
        for server in before:
            listing = Listing(server, self._keys)
            while not listing.has_ended():
                keys = await listing.read()
                if not keys:
                    yield []
                for start in range(0, len(keys), _PAGE):
                    page = keys[start : start + _PAGE]
                    values = await _load_all(connection, map(self._keys.of, page))
                    yield [
                        (key, record)
                        for key, value in zip(page, values, strict=True)
                        if value is not None
                        and (record := unpack_with_user(value)) is not None
                    ]
        if await connection.survey() != before:
            raise MovedKeysError(
                "The nodes of the cluster have exchanged keys while they were listed"
            )

    # What is said of errors.

    def is_timeout(self, error: Exception) -> bool:
        return super().is_timeout(error) or isinstance(error, RedisTimeoutError)

    def code_of(self, error: Exception) -> str | None:
        return code_of(error)

    def describe(self, error: Exception) -> str:
        return describe(error)

    def cause_of(self, error: Exception) -> Exception:
        return without_keys(error)


async def _load_all(connection: Connection, keys: Iterable[bytes]) -> list[Any]:
    values = await connection.get([*keys])
    for value in values:
        if isinstance(value, Exception):
            raise value
    return values

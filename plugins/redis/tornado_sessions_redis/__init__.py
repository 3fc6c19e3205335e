"""Keeps sessions in Redis or Valkey: on one server, with Sentinel, or in a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from redis.exceptions import TimeoutError as RedisTimeoutError

from tornado_sessions.storage.backend import Backend, Record, Version
from tornado_sessions.storage.driver import DriverBackend
from tornado_sessions.storage.versions import new_version
from tornado_sessions_redis.checks import warn_of_losses
from tornado_sessions_redis.connecting import make_connection
from tornado_sessions_redis.connection import Connection
from tornado_sessions_redis.errors import (
    ADVICE,
    ERRORS,
    code_of,
    describe,
    without_keys,
)
from tornado_sessions_redis.layout import (
    encode_user,
    encode_version,
    milliseconds,
    pack,
    unpack,
    user_of,
)
from tornado_sessions_redis.scripts import DELIST, ENLIST, INSERT, REPLACE
from tornado_sessions_redis.urls import check_options, read_url

__all__ = ["RedisBackend"]

# How many records `find` reads at a time.
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

    finds_by_user = True
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
        max_connections: int = 50,
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
        value = await connection.ask("GET", self._name(key))
        return None if value is None else unpack(value)

    async def insert_into(
        self, connection: Connection, key: bytes, record: Record
    ) -> Version | None:
        version, expires = new_version(), milliseconds(record.expires)
        name, value = self._name(key), pack(record, version)
        if record.user is not None:
            users = self._set_of(encode_user(record.user))
            member, score = key.hex(), "" if expires is None else expires
            if not connection.is_cluster:
                keys = (name, users)
                done = await connection.run(INSERT, keys, value, score, member)
                return version if done else None
            await connection.run(ENLIST, (users,), member, score)
        until = () if expires is None else ("PXAT", expires)
        done = await connection.ask("SET", name, value, "NX", *until)
        return version if done else None

    async def replace_in(
        self, connection: Connection, key: bytes, record: Record, version: Version
    ) -> Version | None:
        new, expires = new_version(), milliseconds(record.expires)
        keys, member = [self._name(key)], key.hex()
        score = "" if expires is None else expires
        if record.user is not None:
            users = self._set_of(encode_user(record.user))
            if connection.is_cluster:
                # It is on another server. The user in the record decides: a member
                # without a record does no harm, and a record must not be missing.
                await connection.run(ENLIST, (users,), member, score)
            else:
                keys.append(users)
        left = await connection.run(
            REPLACE, keys, pack(record, new), score, member, encode_version(version)
        )
        if left is None:
            return None
        if left:
            await connection.ask("ZREM", self._set_of(left), member)
        return new

    async def delete_from(self, connection: Connection, key: bytes) -> None:
        value = await connection.ask("GETDEL", self._name(key))
        user = None if value is None else user_of(value)
        if user is not None:
            await connection.ask("ZREM", self._set_of(user), key.hex())

    async def find_in(
        self, connection: Connection, user: str
    ) -> AsyncIterator[list[tuple[bytes, Record]]]:
        name = encode_user(user)
        users, seen, cursor = self._set_of(name), set[bytes](), 0
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
        keys = [self.prefix.encode() + member for member in members]
        if connection.is_cluster:
            values = [await connection.ask("GET", key) for key in keys]
        else:
            values = await connection.ask("MGET", *keys)
            gone = [i for i, value in enumerate(values) if value is None]
            if gone:
                # Evicted, or lost in a failover. In a cluster one of them might just
                # be stored.
                await connection.run(
                    DELIST,
                    [self._set_of(user), *(keys[i] for i in gone)],
                    *(members[i] for i in gone),
                )
        return [
            (bytes.fromhex(member.decode()), unpack(value))
            for member, value in zip(members, values, strict=True)
            if value is not None and user_of(value) == user
        ]

    # What is said of errors.

    def is_timeout(self, error: Exception) -> bool:
        return super().is_timeout(error) or isinstance(error, RedisTimeoutError)

    def code_of(self, error: Exception) -> str | None:
        return code_of(error)

    def describe(self, error: Exception) -> str:
        return describe(error)

    def cause_of(self, error: Exception) -> Exception:
        return without_keys(error)

    def _name(self, key: bytes) -> bytes:
        return (self.prefix + key.hex()).encode()

    def _set_of(self, user: bytes) -> bytes:
        return self.prefix.encode() + b"user:" + user

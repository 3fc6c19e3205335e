"""Keeps sessions in MySQL or MariaDB."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, ClassVar

import asyncmy
from asyncmy.constants import CLIENT

from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.driver import DriverBackend
from tornado_sessions.storage.operations import Write
from tornado_sessions_mysql.connections import Connection, Connections
from tornado_sessions_mysql.errors import (
    ADVICE,
    NO_TABLE,
    code_of,
    describe,
    protocol_errors,
    without_values,
)
from tornado_sessions_mysql.rows import insert, replace, write_many
from tornado_sessions_mysql.table import Table, padded
from tornado_sessions_mysql.urls import make_ssl_context, read_url

__all__ = ["MySQLBackend"]

# How many records one purge removes.
_BATCH = 500

# How many records `find` reads at a time.
_PAGE = 100

# How many connections there are: for two batches of loads and two of writes. Each is
# opened when it is needed, so with little traffic there is one.
_CONNECTIONS = 4

# In seconds. The operation that needs a connection has a timeout, which includes this.
_LONGEST_CONNECT = 31_536_000

# No packet of the protocol has more than 1 GiB.
_MOST_BYTES = 1_000_000_000

# A longer value than a column takes is refused, and not cut. A second is the shortest
# wait for a lock that MySQL takes. In a transaction each statement sees what others have
# stored, and rows that are not there are not locked.
_SESSION = """\
SET SESSION sql_mode = 'STRICT_ALL_TABLES', innodb_lock_wait_timeout = 1,
    lock_wait_timeout = 1;
SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"""


class MySQLBackend(DriverBackend[Connections]):
    """Keeps sessions in a table of MySQL or MariaDB.

    ``url`` is ``mysql://user:password@host:port/database``. With ``unix_socket``, a
    path, the host and the port are not used.

    The sessions are in the table ``table``, which is created at first use if the
    user may do that.

    ``ssl_mode`` is ``"disabled"``, ``"required"``, ``"verify_ca"`` or
    ``"verify_identity"``, as for MySQL's own clients. ``ssl_ca`` is a file of
    certificates to trust, in place of those of the system. ``ssl_cert`` and ``ssl_key``
    are those of this client.

    The other ``options`` are ``timeout`` and ``max_bytes``, as `.DriverBackend`
    takes them.
    """

    finds_by_user = finds_all = True
    store = "MySQL"
    errors = (asyncmy.MySQLError,)
    advice = ADVICE
    timeout_advice = (
        "Check that it runs and can be reached, and whether another transaction holds a"
        " lock, perhaps that of an open mysql shell; or raise the option 'timeout'."
    )
    options: ClassVar[Mapping[str, type]] = {
        "table": str,
        "unix_socket": str,
        "ssl_mode": str,
        "ssl_ca": str,
        "ssl_cert": str,
        "ssl_key": str,
    }

    def __init__(
        self,
        url: str,
        *,
        table: str = "sessions",
        unix_socket: str | None = None,
        ssl_mode: str | None = None,
        ssl_ca: str | None = None,
        ssl_cert: str | None = None,
        ssl_key: str | None = None,
        **options: Any,
    ) -> None:
        self._target = target = read_url(url)
        place = unix_socket or f"{target.host}:{target.port}"
        super().__init__(f"{place}/{target.database}", **options)
        if self.max_bytes > _MOST_BYTES:
            raise ValueError(f"The option 'max_bytes' must be at most {_MOST_BYTES}.")
        self.table = table
        self.unix_socket = unix_socket
        self._ssl = make_ssl_context(ssl_mode, ssl_ca, ssl_cert, ssl_key)
        self._table = Table(table)

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> MySQLBackend:
        """Returns the backend of ``mysql://user:password@host:port/database``.

        The options after the question mark are those of the constructor. Raises
        `ValueError` for anything else.
        """
        address, _, query = url.partition("?")
        return cls(address, **cls.read_options("mysql", query))

    async def connect(self) -> Connections:
        connections = Connections(self._open, _CONNECTIONS, self.has_timed_out)
        try:
            await self._table.set_up(connections, self.address, self.max_bytes)
        except BaseException:
            connections.drop()
            raise
        return connections

    async def _open(self) -> Connection:
        target = self._target
        connect: Any = asyncmy.connect
        with protocol_errors():
            driver = await connect(
                host=target.host,
                port=target.port,
                unix_socket=self.unix_socket,
                user=target.user,
                password=target.password,
                database=target.database,
                autocommit=True,
                # Rows that are equal before and after an update count as well.
                client_flag=CLIENT.FOUND_ROWS,
                ssl=self._ssl,
                init_command=_SESSION,
                connect_timeout=_LONGEST_CONNECT,
            )
        return Connection(driver)

    async def disconnect(self, connections: Connections) -> None:
        await connections.close()

    async def load_from(self, connections: Connections, key: bytes) -> Record | None:
        rows = await connections.fetch(self._table.load, key)
        return Record(*rows[0]) if rows else None

    async def insert_into(
        self, connections: Connections, key: bytes, record: Record
    ) -> Version | None:
        return await insert(connections, self._table, key, record)

    async def replace_in(
        self, connections: Connections, key: bytes, record: Record, version: Version
    ) -> Version | None:
        return await replace(connections, self._table, key, record, version)

    async def delete_from(self, connections: Connections, key: bytes) -> None:
        await connections.execute(self._table.delete, key)

    async def load_many(
        self, connections: Connections, keys: Sequence[bytes]
    ) -> list[Record | Exception | None]:
        sql = self._table.load_many(len(keys))
        rows = await connections.fetch(sql, *padded(keys, keys[0]))
        records = {row[0]: Record(row[1], row[2]) for row in rows}
        return [records.get(key) for key in keys]

    async def write_many(
        self, connections: Connections, writes: Sequence[Write]
    ) -> list[Version | Exception | None]:
        return await write_many(connections, self._table, writes)

    async def purge_in(self, connections: Connections, now: float) -> int:
        values = now // 60, now, _BATCH
        return await connections.execute(self._table.purge, *values)

    async def find_in(
        self, connections: Connections, user: str
    ) -> AsyncIterator[list[tuple[bytes, Record]]]:
        name, last = user.encode(), b""
        digest = sha256(name).digest()
        while rows := await connections.fetch(
            self._table.find, digest, name, last, _PAGE
        ):
            yield [(row[0], Record(row[1], row[2])) for row in rows]
            last = rows[-1][0]

    async def find_all_in(
        self, connections: Connections
    ) -> AsyncIterator[list[tuple[bytes, Record]]]:
        last = b""
        while rows := await connections.fetch(self._table.find_all, last, _PAGE):
            yield [
                (row[0], Record(row[1], row[2], user=row[3].decode()))
                for row in rows
                if row[3] is not None
            ]
            last = rows[-1][0]

    # What is said of errors, and done about them.

    def is_broken(self, connections: Connections, error: BaseException) -> bool:
        # The table is then created by the next operation.
        return code_of(error) == NO_TABLE

    def dropped(self, connections: Connections) -> None:
        connections.drop()

    def code_of(self, error: Exception) -> int | str | None:
        return code_of(error)

    def describe(self, error: Exception) -> str:
        return describe(error)

    def cause_of(self, error: Exception) -> Exception:
        return without_values(error)

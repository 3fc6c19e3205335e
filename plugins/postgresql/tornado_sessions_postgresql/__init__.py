"""Keeps sessions in PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

import asyncpg

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.driver import COMMON_OPTIONS, DriverBackend
from tornado_sessions.storage.operations import Write
from tornado_sessions.storage.timeouts import Timeouts
from tornado_sessions.storage.versions import new_version
from tornado_sessions_postgresql.batches import columns, load_many, write_many
from tornado_sessions_postgresql.connections import (
    Connections,
    OwnConnections,
    PoolConnections,
)
from tornado_sessions_postgresql.errors import (
    ADVICE,
    ROLLED_BACK,
    code_of,
    describe,
    without_values,
)
from tornado_sessions_postgresql.table import Table
from tornado_sessions_postgresql.urls import Target, read_url, split_options

__all__ = ["PostgreSQLBackend"]

T = TypeVar("T")
P = ParamSpec("P")

# How many records one purge removes.
_BATCH = 500

# How many records `find` reads at a time.
_PAGE = 100

# How many connections there are. One would do for little traffic; more than two
# gain nothing.
_CONNECTIONS = 2

# What is set for each connection of our own.
_PARAMETERS = {
    # In milliseconds: after that others use the connection, see `run`.
    "lock_timeout": "50",
    "default_transaction_isolation": "read committed",
    # A plan is made once for each statement. While the table is small, PostgreSQL
    # would read all of it, and go on with that when it has grown.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}


class PostgreSQLBackend(DriverBackend[Connections]):
    """Keeps sessions in a table of PostgreSQL.

    ``url`` is PostgreSQL's own, ``postgresql://user:password@host/database``.
    Instead of a URL a ``pool`` of asyncpg can be passed. It is not closed here.
    Behind a pooler in transaction mode ``statement_cache_size`` must be 0.

    The sessions are in the table ``table``, which is created at first use if the
    user may do that.

    The other ``options`` are ``timeout`` and ``max_bytes``, as `.DriverBackend`
    takes them.
    """

    finds_by_user = finds_all = True
    store = "PostgreSQL"
    errors = (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    )
    advice = ADVICE
    timeout_advice = (
        "Check that it runs and can be reached, and whether another transaction holds a"
        " lock, perhaps that of an open psql shell; or raise the option 'timeout'."
    )
    largest_batch = 64
    options: ClassVar[Mapping[str, type]] = {
        "table": str,
        "statement_cache_size": int,
    }

    def __init__(
        self,
        url: str | None = None,
        *,
        pool: asyncpg.Pool | None = None,
        table: str = "sessions",
        statement_cache_size: int = 100,
        **options: Any,
    ) -> None:
        if (url is None) == (pool is None):
            raise ValueError("PostgreSQLBackend takes either a url or a pool.")
        if statement_cache_size < 0:
            raise ValueError("The option 'statement_cache_size' must not be below 0.")
        target = Target("the application's pool", "any")
        if url is not None:
            target = read_url(url, {**self.options, **COMMON_OPTIONS})
        super().__init__(target.address, **options)
        self.url = url
        self.table = table
        self.statement_cache_size = statement_cache_size
        self._pool = pool
        self._target = target
        self._table = Table(table)
        self._retries = Timeouts(self.timeout)
        self._dropped: set[asyncio.Task[None]] = set()

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> PostgreSQLBackend:
        """Returns the backend of ``postgresql://user:password@host/database``.

        Of the options after the question mark ``table``, ``statement_cache_size``,
        ``timeout`` and ``max_bytes`` are those of the constructor. All others are the
        driver's. Raises `ValueError` for what neither can use.
        """
        if url in ("postgresql", "postgresql:"):
            url = "postgresql://"
        url, query = split_options(url, {**cls.options, **COMMON_OPTIONS})
        return cls(url, **cls.read_options("postgresql", query))

    async def connect(self) -> Connections:
        connections: Connections
        if self._pool is None:
            connections = OwnConnections(self._open, _CONNECTIONS, self.timeout / 2)
        else:
            connections = PoolConnections(self._pool, self.timeout / 2)
        try:
            await self._table.set_up(connections, self.address)
        except BaseException:
            self.dropped(connections)
            raise
        return connections

    async def _open(self) -> asyncpg.Connection:
        return await asyncpg.connect(
            self.url,
            # The operation that needs it has a timeout, which includes this.
            timeout=None,
            statement_cache_size=self.statement_cache_size,
            target_session_attrs=self._target.attributes,
            # A pooler refuses them, or leaves them to whoever is next.
            server_settings=_PARAMETERS if self.statement_cache_size else None,
        )

    async def run(
        self,
        operation: Callable[Concatenate[Connections, P], Awaitable[T]],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> T:
        # What the server has rolled back because of another transaction is done again.
        # The wait for a lock is out here, so that it holds up nobody else.
        deadline = asyncio.get_running_loop().time() + self.timeout
        try:
            return await super().run(operation, *arguments, **keywords)
        except BackendError as error:
            if not isinstance(error.__cause__, ROLLED_BACK):
                raise
            failure = error
        again = self._run_again(operation, *arguments, **keywords)
        with contextlib.suppress(asyncio.TimeoutError):
            return await self._retries.run(again, deadline)
        raise failure

    async def _run_again(
        self,
        operation: Callable[Concatenate[Connections, P], Awaitable[T]],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> T:
        while True:
            await asyncio.sleep(random.uniform(0.001, 0.02))
            try:
                return await super().run(operation, *arguments, **keywords)
            except BackendError as error:
                if not isinstance(error.__cause__, ROLLED_BACK):
                    raise

    async def disconnect(self, connections: Connections) -> None:
        await connections.close()

    async def load_from(self, connections: Connections, key: bytes) -> Record | None:
        rows = await connections.fetch(self._table.load, key)
        return Record(*rows[0]) if rows else None

    async def insert_into(
        self, connections: Connections, key: bytes, record: Record
    ) -> Version | None:
        version = new_version()
        rows = await connections.fetch(
            self._table.insert, key, version, *columns(record)
        )
        return version if rows else None

    async def replace_in(
        self, connections: Connections, key: bytes, record: Record, version: Version
    ) -> Version | None:
        new = new_version()
        rows = await connections.fetch(
            self._table.replace, key, version, new, *columns(record)
        )
        return new if rows else None

    async def delete_from(self, connections: Connections, key: bytes) -> None:
        await connections.fetch(self._table.delete, key)

    async def load_many(
        self, connections: Connections, keys: Sequence[bytes]
    ) -> Sequence[Record | Exception | None]:
        return await load_many(connections, self.table, keys)

    async def write_many(
        self, connections: Connections, writes: Sequence[Write]
    ) -> Sequence[Version | Exception | None]:
        return await write_many(connections, self.table, writes)

    async def purge_in(self, connections: Connections, now: float) -> int:
        sql = self._table.purge
        return len(await connections.fetch(sql, now // 60, now, _BATCH))

    async def find_in(
        self, connections: Connections, user: str
    ) -> AsyncIterator[list[tuple[bytes, Record]]]:
        last = b""
        while rows := await connections.fetch(
            self._table.find, user.encode(), last, _PAGE
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
        return isinstance(error, asyncpg.UndefinedTableError)

    def dropped(self, connections: Connections) -> None:
        closing = asyncio.ensure_future(connections.close())
        self._dropped.add(closing)
        closing.add_done_callback(self._dropped.discard)

    async def close(self) -> None:
        await super().close()
        loop = asyncio.get_running_loop()
        if dropped := [task for task in self._dropped if task.get_loop() is loop]:
            await asyncio.wait(dropped, timeout=self.timeout)

    def code_of(self, error: Exception) -> str | None:
        return code_of(error)

    def describe(self, error: Exception) -> str:
        return describe(error)

    def cause_of(self, error: Exception) -> Exception:
        return without_values(error)

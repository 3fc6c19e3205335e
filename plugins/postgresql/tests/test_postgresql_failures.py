"""What the PostgreSQL backend does when the server or a pooler fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import unittest
from collections.abc import AsyncIterator, Awaitable, Iterable

import asyncpg
from tornado_sessions_postgresql import PostgreSQLBackend

from servers import PgBouncer, PostgreSQL
from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Backend, Record
from tornado_sessions.testing.timers import LoopClock

SERVER = os.environ.get("SESSIONS_TEST_POSTGRESQL_URL", "")
POOLER = os.environ.get("SESSIONS_TEST_PGBOUNCER_URL", "")

# Test runs may share a server.
TABLE = f"sessions_failures_{os.getpid()}"

needs_server = unittest.skipUnless(SERVER, "SESSIONS_TEST_POSTGRESQL_URL is not set")
needs_pooler = unittest.skipUnless(POOLER, "SESSIONS_TEST_PGBOUNCER_URL is not set")


class Facts(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.shell = await asyncpg.connect(SERVER)
        self.addAsyncCleanup(self._drop)
        self.key, self.other = sorted(secrets.token_bytes(32) for _ in range(2))

    async def _drop(self) -> None:
        await self.shell.execute(f"DROP TABLE IF EXISTS {TABLE}")
        await self.shell.close()

    def open(self, url: str = SERVER, **options: object) -> PostgreSQLBackend:
        options = {"table": TABLE, "timeout": 20, **options}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        backend = PostgreSQLBackend.from_url(f"{url}?{query}", {})
        self.addAsyncCleanup(backend.close)
        return backend

    @contextlib.asynccontextmanager
    async def locked(self, *keys: bytes) -> AsyncIterator[None]:
        """Locks rows, as an open psql shell does."""
        async with self.shell.transaction():
            await self.shell.fetch(
                f"SELECT FROM {TABLE} WHERE key = ANY($1) FOR UPDATE", keys
            )
            yield


@needs_server
class KilledTest(unittest.IsolatedAsyncioTestCase):
    """A server that is killed while many write."""

    async def test_no_acknowledged_write_is_lost(self) -> None:
        """Behaviours 27, 66: nor is one stored twice."""
        server = PostgreSQL()
        self.addCleanup(server.stop)
        await asyncio.to_thread(server.start)
        backend = PostgreSQLBackend(server.url, timeout=20)
        self.addAsyncCleanup(backend.close)
        visitors = [_Visitor(backend) for _ in range(30)]
        load = [asyncio.ensure_future(visitor.count()) for visitor in visitors]
        for again in range(2):
            await _all(visitor.stored(5) for visitor in visitors)
            if again:
                # In the middle of a batch.
                server.pause()
                await asyncio.sleep(0.05)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await _all(visitor.stored(5) for visitor in visitors)
        for visitor in visitors:
            visitor.goes_on = False
        await _all(load)

        for visitor in visitors:
            record = await backend.load(visitor.key)
            assert record is not None
            self.assertGreaterEqual(int(record.data), visitor.acknowledged)
            self.assertLessEqual(int(record.data), visitor.tried)


@needs_pooler
class PoolerTest(Facts):
    """pgbouncer in transaction mode."""

    async def test_without_the_option_the_error_names_it(self) -> None:
        """With connections of our own, and with a pool of the application."""
        with self.assertRaises(BackendError) as failed:
            await self.open(POOLER).ping()
        self.assertRegex(
            str(failed.exception),
            r"unsupported startup parameter: \w+ \(SQLSTATE 08P01\)\. Behind a pooler such"
            r" as pgbouncer add the option 'statement_cache_size=0' to the URL\. A pool"
            r" of the application needs it as an argument of create_pool\(\)\.$",
        )

        pool = await asyncpg.create_pool(POOLER, min_size=5)
        self.addCleanup(pool.terminate)
        backend = PostgreSQLBackend(pool=pool, table=TABLE, timeout=20)
        self.addAsyncCleanup(backend.close)
        with self.assertRaisesRegex(
            BackendError, "prepared statement .*'statement_cache_size=0'"
        ):
            for _ in range(20):
                await backend.ping()
                # Next time the pooler chooses another connection of the server.
                await self._occupy_connection()

    async def _occupy_connection(self) -> None:
        other = await asyncpg.connect(POOLER, statement_cache_size=0)
        self.addCleanup(other.terminate)
        await other.execute("BEGIN")

    async def test_with_the_option_nothing_fails(self) -> None:
        """Of many operations by several backends."""
        backends = [self.open(POOLER, statement_cache_size=0) for _ in range(5)]

        async def use(backend: Backend, key: bytes) -> None:
            version = await backend.insert(key, Record(key, user="ann", expires=1.0))
            for _ in range(3):
                version = await backend.replace(key, Record(key, user="ann"), version)
                self.assertIsNotNone(version)
                record = await backend.load(key)
                assert record is not None
                self.assertEqual(record.data, key)
            await backend.delete(key)

        await asyncio.gather(
            *(
                use(each, secrets.token_bytes(32))
                for each in backends
                for _ in range(50)
            )
        )
        self.assertEqual([found async for found in backends[0].find("ann")], [])

    async def test_a_timeout_ends_the_wait_for_a_lock(self) -> None:
        """There the server sets no limit, and the statement does not go on."""
        clock, watch = LoopClock(), await asyncpg.connect(SERVER)
        self.addAsyncCleanup(watch.close)

        async def is_waiting() -> bool:
            count: int = await watch.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND query LIKE '%' || $1 || '%'",
                TABLE,
            )
            return count > 0

        backend = self.open(POOLER, statement_cache_size=0)
        version = await backend.insert(self.key, Record(b"one"))
        async with self.locked(self.key):
            write = asyncio.ensure_future(
                backend.replace(self.key, Record(b"two"), version)
            )
            while not await is_waiting():
                pass
            await clock.advance(20)
            with self.assertRaisesRegex(BackendError, "perhaps that of an open psql"):
                await write
            while await is_waiting():
                pass
        record = await backend.load(self.key)
        assert record is not None
        self.assertEqual(record.data, b"one")

    async def test_a_pooler_may_be_restarted(self) -> None:
        """Behaviour 66: no request fails once it answers."""
        pooler = PgBouncer(SERVER)
        self.addCleanup(pooler.stop)
        await asyncio.to_thread(pooler.start)
        backend = self.open(pooler.url, statement_cache_size=0)
        await asyncio.gather(*(backend.ping() for _ in range(20)))

        await asyncio.to_thread(pooler.kill)
        with self.assertRaises(BackendError):
            await backend.ping()
        await asyncio.to_thread(pooler.start)

        await asyncio.gather(*(backend.ping() for _ in range(20)))


class _Visitor:
    """Counts in a session of its own, as fast as it can."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.key = secrets.token_bytes(32)
        self.goes_on = True
        #: What is known to be stored, and what may be stored.
        self.acknowledged = self.tried = 0
        self._counted = asyncio.Condition()

    async def count(self) -> None:
        while not await self._try(self.backend.insert(self.key, Record(b"0"))):
            pass
        while self.goes_on:
            with contextlib.suppress(BackendError):
                await self._count_once()

    async def _count_once(self) -> None:
        record = await self.backend.load(self.key)
        assert record is not None
        assert int(record.data) >= self.acknowledged
        self.tried = int(record.data) + 1
        data = Record(b"%d" % self.tried)
        stored = await self.backend.replace(self.key, data, record.version)
        assert stored is not None, "Nobody else writes it."
        async with self._counted:
            self.acknowledged = self.tried
            self._counted.notify_all()

    async def _try(self, write: Awaitable[object]) -> bool:
        with contextlib.suppress(BackendError):
            await write
            return True
        return False

    async def stored(self, times: int) -> None:
        """Waits until so many further writes were acknowledged."""
        goal = self.acknowledged + times
        async with self._counted:
            await self._counted.wait_for(lambda: self.acknowledged >= goal)


async def _all(work: Iterable[Awaitable[object]]) -> None:
    await asyncio.wait_for(asyncio.gather(*work), 60)


if __name__ == "__main__":
    unittest.main()

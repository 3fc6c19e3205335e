"""What the PostgreSQL backend does when the server, a lock or a pooler fails."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import secrets
import unittest
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from typing import Any

import asyncpg
from tornado_sessions_postgresql import PostgreSQLBackend

from servers import PgBouncer, PostgreSQL
from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Backend, Record

SERVER = os.environ.get("SESSIONS_TEST_POSTGRESQL_URL", "")
POOLER = os.environ.get("SESSIONS_TEST_PGBOUNCER_URL", "")

# Test runs may share a server.
TABLE = f"sessions_failures_{os.getpid()}"

ADDRESS = SERVER.rpartition("@")[2]

LOCKED = (
    f"PostgreSQL '{ADDRESS}' failed: canceling statement due to lock timeout (SQLSTATE"
    " 55P03). Another transaction holds a lock, perhaps that of an open psql shell; end"
    " it, or raise the option 'timeout'."
)

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
        options = {"table": TABLE, **options}
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
class LockTest(Facts):
    async def test_a_locked_row_fails_a_write_when_its_time_is_over(self) -> None:
        """Behaviour 80: the error says that there is a lock."""
        backend = self.open(timeout=0.3)
        version = await backend.insert(self.key, Record(b"one"))
        async with self.locked(self.key):
            for write in (
                lambda: backend.replace(self.key, Record(b"two"), version),
                lambda: backend.delete(self.key),
            ):
                with self.assertRaises(BackendError) as failed:
                    await write()
                self.assertEqual(str(failed.exception), LOCKED)

            record = await backend.load(self.key)
        assert record is not None
        self.assertEqual(record.data, b"one")

    async def test_a_locked_table_fails_a_load_when_its_time_is_over(self) -> None:
        """And so does the first operation of all, which looks at the table."""
        backend = self.open(timeout=0.3)
        await backend.ping()
        async with self.shell.transaction():
            await self.shell.execute(f"LOCK TABLE {TABLE}")
            for each in (backend, self.open(timeout=0.3)):
                with self.assertRaises(BackendError) as failed:
                    await each.load(self.key)
                self.assertEqual(str(failed.exception), LOCKED)

    async def test_a_write_waits_for_a_lock(self) -> None:
        """It is done when the lock is gone, alone and in a batch."""
        backend = self.open(timeout=30)
        keys = [self.key, self.other, *(secrets.token_bytes(32) for _ in range(8))]
        for waiting in (1, 10):
            versions = [await backend.insert(key, Record(b"one")) for key in keys]
            async with self.locked(self.key, self.other):
                writes = [
                    asyncio.ensure_future(backend.replace(key, Record(b"two"), version))
                    for key, version in zip(keys[:waiting], versions, strict=False)
                ]
                await self._until_somebody_waits(writes)
            stored = await asyncio.gather(*writes)
            self.assertNotIn(None, stored)
            await asyncio.gather(*map(backend.delete, keys))

    async def _until_somebody_waits(self, writes: Iterable[Awaitable[object]]) -> None:
        blocked = 0
        while not blocked:
            [(blocked,)] = await self.shell.fetch(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND pid <> pg_backend_pid() AND query LIKE '%' || $1 || '%'",
                TABLE,
            )

    async def test_locked_rows_hold_up_nobody_else(self) -> None:
        """Behaviour 80: there are more of them than the backend has connections."""
        backend = self.open(timeout=30)
        locked = sorted(secrets.token_bytes(32) for _ in range(8))
        versions = [await backend.insert(key, Record(b"one")) for key in locked]
        async with self.locked(*locked):
            waiting = [
                asyncio.ensure_future(backend.replace(key, Record(b"two"), version))
                for key, version in zip(locked, versions, strict=True)
            ]
            for _ in range(20):
                for size in (1, 10):
                    keys = [secrets.token_bytes(32) for _ in range(size)]
                    work = (self._use(backend, key) for key in keys)
                    await asyncio.wait_for(asyncio.gather(*work), 20)
            self.assertFalse(any(write.done() for write in waiting))
        self.assertNotIn(None, await asyncio.gather(*waiting))

    async def _use(self, backend: Backend, key: bytes) -> None:
        version = await backend.insert(key, Record(b"one"))
        self.assertIsNotNone(await backend.replace(key, Record(b"two"), version))
        record = await backend.load(key)
        assert record is not None
        self.assertEqual(record.data, b"two")
        await backend.delete(key)

    async def test_a_conflict_beside_a_locked_row_is_told_at_once(self) -> None:
        """In one batch: the one is a conflict, the other waits."""
        backend = self.open(timeout=30)
        one = await backend.insert(self.key, Record(b"one"))
        two = await backend.insert(self.other, Record(b"one"))
        await backend.replace(self.other, Record(b"newer"), two)
        async with self.locked(self.key):
            waiting = asyncio.ensure_future(
                backend.replace(self.key, Record(b"two"), one)
            )
            self.assertIsNone(await backend.replace(self.other, Record(b"two"), two))
            self.assertFalse(waiting.done())
        self.assertIsNotNone(await waiting)

    async def test_two_transactions_in_opposite_order_never_deadlock(self) -> None:
        """A batch waits for no lock, so no transaction waits for it."""
        backend = self.open(timeout=30)
        keys = [self.key, self.other]
        versions = [await backend.insert(key, Record(b"one")) for key in keys]
        async with self.locked(self.other):
            writes = [
                asyncio.ensure_future(backend.replace(key, Record(b"two"), version))
                for key, version in zip(keys, versions, strict=True)
            ]
            self.assertIsNotNone(await writes[0])
            # It has the second and wants the first.
            await asyncio.wait_for(
                self.shell.execute(
                    f"UPDATE {TABLE} SET expires = 0 WHERE key = $1", self.key
                ),
                20,
            )
        self.assertIsNotNone(await writes[1])

    async def test_what_the_server_rolls_back_is_done_again(self) -> None:
        """At a deadlock or a failure to serialize, once, alone and in a batch."""
        backend = self.open(timeout=30)
        await backend.ping()
        await self.shell.execute(
            f"CREATE SEQUENCE {TABLE}_tries OWNED BY {TABLE}.key;"
            f"CREATE FUNCTION pg_temp.fail() RETURNS trigger LANGUAGE plpgsql AS $$"
            f" BEGIN IF nextval('{TABLE}_tries') % 3 = 1 THEN"
            " RAISE EXCEPTION USING ERRCODE = TG_ARGV[0]; END IF; RETURN NEW; END $$"
        )
        for code in ("40P01", "40001", "55P03"):
            with self.subTest(code):
                await self.shell.execute(
                    f"CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON {TABLE}"
                    f" FOR EACH ROW EXECUTE FUNCTION pg_temp.fail('{code}')"
                )
                for size in (1, 5):
                    keys = [secrets.token_bytes(32) for _ in range(size)]
                    stored = await asyncio.gather(
                        *(backend.insert(key, Record(b"one")) for key in keys)
                    )
                    self.assertNotIn(None, stored)

    async def test_a_write_that_the_server_refuses_fails_alone(self) -> None:
        """Those beside it in a batch are stored."""
        backend = self.open()
        await backend.ping()
        await self.shell.execute(
            f"ALTER TABLE {TABLE} ADD CONSTRAINT no_bob CHECK (\"user\" <> 'bob')"
        )
        users = ["ann", "bob", "eve"]

        stored = await asyncio.gather(
            *(
                backend.insert(secrets.token_bytes(32), Record(b"one", user=user))
                for user in users
            ),
            return_exceptions=True,
        )

        self.assertEqual(
            str(stored.pop(1)),
            f"PostgreSQL '{ADDRESS}' failed: The constraint 'no_bob' refuses the session"
            " (SQLSTATE 23514). It is not ours: drop it, or name another table with the"
            " option 'table'.",
        )
        self.assertEqual([type(version) for version in stored], [int, int])

    async def test_a_purge_leaves_a_locked_row_alone(self) -> None:
        """Behaviour 65: it waits for nobody. The next one removes it."""
        backend = self.open(timeout=30)
        for key in (self.key, self.other):
            await backend.insert(key, Record(b"one", expires=1.0))
        async with self.locked(self.key):
            self.assertEqual(await backend.purge(1000.0), 1)
        self.assertEqual(await backend.purge(1000.0), 1)


@needs_server
class ConnectionTest(Facts):
    async def test_there_are_two_connections_at_the_most(self) -> None:
        """However many operations there are at once."""
        name = secrets.token_hex(8)
        backend = self.open(application_name=name)
        keys = [secrets.token_bytes(32) for _ in range(200)]

        await asyncio.gather(*(backend.insert(key, Record(key)) for key in keys))
        await asyncio.gather(*map(backend.load, keys))

        self.assertEqual(await self._connections(name), 2)
        await backend.close()
        while await self._connections(name):
            # The server takes a moment.
            pass

    async def _connections(self, name: str, condition: str = "true") -> int:
        count: int = await self.shell.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            f" WHERE application_name = $1 AND {condition}",
            name,
        )
        return count

    async def test_a_cancelled_statement_is_cancelled_on_the_server(self) -> None:
        """Behaviour 68: it does not go on there, and its connection is closed."""
        name = secrets.token_hex(8)
        backend = self.open(application_name=name, timeout=30)
        await backend.ping()
        waiting = asyncio.ensure_future(backend.run(_sleep))
        sleeps = "state = 'active' AND query LIKE '%pg_sleep%'"
        while not await self._connections(name, sleeps):
            pass

        waiting.cancel()
        await asyncio.wait([waiting])

        self.assertTrue(waiting.cancelled())
        while await self._connections(name, sleeps):
            pass
        await backend.ping()

    async def test_a_connection_that_the_server_has_closed_is_not_used(self) -> None:
        """Behaviour 66: no request fails for it."""
        name = secrets.token_hex(8)
        backend = self.open(application_name=name)
        for _ in range(5):
            await asyncio.gather(backend.ping(), backend.purge(1.0))
            await self.shell.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = $1",
                name,
            )
            while await self._connections(name):
                pass
            await asyncio.sleep(0.01)

    async def test_a_server_of_several_that_accepts_writes_is_used(self) -> None:
        """The URL names a server that is down as well."""
        url = SERVER.replace("@", "@127.0.0.1:1,")
        backend = self.open(url)

        self.assertIsNotNone(await backend.insert(self.key, Record(b"one")))

    async def test_users_who_look_alike_are_several(self) -> None:
        """Behaviour 46: whatever is in their names, and however long they are."""
        backend = self.open()
        users = ["ada", "Ada", "ada ", "a\0da", 1000 * "\N{FOX FACE}", 2000 * "x"]
        keys = {user: secrets.token_bytes(32) for user in users}
        for user, key in keys.items():
            await backend.insert(key, Record(b"one", user=user))

        for user, key in keys.items():
            self.assertEqual([found async for found, _ in backend.find(user)], [key])

    async def test_neither_messages_nor_logs_show_keys_or_data(self) -> None:
        """Behaviour 8: PostgreSQL repeats them in the details of its errors."""
        backend = self.open()
        record = Record(b"hunter2", user="hunter2", expires=4e9)
        with _debug_log() as log:
            await backend.insert(self.key, record)
            await self.shell.execute(
                f"ALTER TABLE {TABLE} ADD CONSTRAINT short CHECK (length(data) < 7)"
                " NOT VALID"
            )
            keys = (self.other, secrets.token_bytes(32))
            together = (backend.insert(key, record) for key in keys)
            errors = [
                *await asyncio.gather(*together, return_exceptions=True),
                *await asyncio.gather(
                    backend.insert(self.other, record), return_exceptions=True
                ),
            ]
        shown = log.getvalue()
        for error in errors:
            assert isinstance(error, BackendError)
            shown += _all_of(error)
        for secret in ("hunter2", b"hunter2".hex(), self.other.hex(), repr(self.other)):
            self.assertNotIn(secret, shown)

    async def test_a_wrong_password_is_said_to_be_one(self) -> None:
        """The message names the user, and not the password."""
        user, _, _ = SERVER.partition("://")[2].partition(":")
        backend = self.open(f"postgresql://{user}:hunter2@{ADDRESS}")

        with self.assertRaises(BackendError) as failed:
            await backend.ping()

        self.assertEqual(
            str(failed.exception),
            f"PostgreSQL '{ADDRESS}' failed: password authentication failed for user"
            f' "{user}" (SQLSTATE 28P01). Check the user, the password and the database'
            " of the URL.",
        )
        self.assertNotIn("hunter2", _all_of(failed.exception))

    async def test_a_parameter_that_the_server_does_not_have_is_told(self) -> None:
        """It names it, and says where it comes from."""
        backend = self.open(options="-c%20no.such%3D1%20-c%20nothing%3D1")

        with self.assertRaises(BackendError) as failed:
            await backend.ping()

        self.assertEqual(
            str(failed.exception),
            f"PostgreSQL '{ADDRESS}' failed: unrecognized configuration parameter"
            ' "nothing" (SQLSTATE 42704). Check the options of the URL.',
        )


@needs_server
class PoolTest(Facts):
    async def asyncSetUp(self) -> None:
        await super().asyncSetUp()
        self.pool = await asyncpg.create_pool(SERVER, min_size=1, max_size=3)
        self.addCleanup(self.pool.terminate)

    def open_with_pool(self, **options: Any) -> PostgreSQLBackend:
        backend = PostgreSQLBackend(pool=self.pool, table=TABLE, **options)
        self.addAsyncCleanup(backend.close)
        return backend

    async def test_a_pool_of_the_application_is_used_and_not_closed(self) -> None:
        """It may have other work."""
        backend = self.open_with_pool()
        keys = [secrets.token_bytes(32) for _ in range(20)]
        await asyncio.gather(*(backend.insert(key, Record(key)) for key in keys))
        await backend.close()

        self.assertEqual(await self.pool.fetchval("SELECT 1"), 1)
        for key in keys:
            record = await backend.load(key)
            assert record is not None
            self.assertEqual(record.data, key)

    async def test_a_cancelled_operation_gives_its_connection_back(self) -> None:
        """Behaviour 68: more often than there are connections."""
        backend = self.open_with_pool(timeout=30)
        await backend.ping()
        for _ in range(10):
            waiting = asyncio.ensure_future(backend.run(_sleep))
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait([waiting])

        await asyncio.wait_for(
            asyncio.gather(*(self.pool.fetchval("SELECT 1") for _ in range(3))), 20
        )
        await backend.ping()

    async def test_an_error_leaves_the_connection_to_the_pool(self) -> None:
        """It is as good as before."""
        backend = self.open_with_pool()
        await backend.ping()
        for _ in range(10):
            with self.assertRaises(BackendError):
                await backend.run(_fail)
        await backend.close()

        self.assertEqual(self.pool.get_idle_size(), self.pool.get_size())

    async def test_a_pool_that_is_in_use_fails_an_operation_in_time(self) -> None:
        """Behaviour 80: others have all its connections."""
        backend = self.open_with_pool(timeout=0.2)
        connections = [await self.pool.acquire() for _ in range(3)]

        with self.assertRaises(BackendError) as failed:
            await backend.ping()

        self.assertEqual(
            str(failed.exception),
            'PostgreSQL "the application\'s pool" did not answer within 0.2 seconds.'
            " Check that it runs and can be reached, and whether another transaction"
            " holds a lock, perhaps that of an open psql shell; or raise the option"
            " 'timeout'.",
        )
        for connection in connections:
            await self.pool.release(connection)
        await backend.ping()


@needs_server
class KilledTest(unittest.IsolatedAsyncioTestCase):
    """A server that is killed while many write."""

    async def test_no_acknowledged_write_is_lost(self) -> None:
        """Behaviours 27, 66: nor is one stored twice."""
        server = PostgreSQL()
        self.addCleanup(server.stop)
        await asyncio.to_thread(server.start)
        backend = PostgreSQLBackend(server.url)
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
        backend = PostgreSQLBackend(pool=pool, table=TABLE)
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
        backend = self.open(POOLER, statement_cache_size=0, timeout=0.3)
        version = await backend.insert(self.key, Record(b"one"))
        async with self.locked(self.key):
            with self.assertRaisesRegex(BackendError, "perhaps that of an open psql"):
                await backend.replace(self.key, Record(b"two"), version)
            while await self.shell.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND query LIKE '%' || $1 || '%'",
                TABLE,
            ):
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


async def _sleep(connections: Any) -> None:  # noqa: ANN401
    await connections.fetch("SELECT pg_sleep(60)")


async def _fail(connections: Any) -> None:  # noqa: ANN401
    await connections.fetch("SELECT 1 / 0")


@contextlib.contextmanager
def _debug_log() -> Iterator[io.StringIO]:
    """Collects what anybody logs, at DEBUG."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def _all_of(error: BaseException | None) -> str:
    """Returns all that a log would show of an error, and what it has besides."""
    text = ""
    while error is not None:
        text += f"{error!r} {error} {vars(error)}\n"
        error = error.__cause__ or error.__context__
    return text


if __name__ == "__main__":
    unittest.main()

"""What the PostgreSQL backend does when others hold locks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import unittest
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import asyncpg
from tornado_sessions_postgresql import PostgreSQLBackend

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Backend, Record
from tornado_sessions.testing.timers import LoopClock

SERVER = os.environ.get("SESSIONS_TEST_POSTGRESQL_URL", "")

# Test runs may share a server.
TABLE = f"sessions_locks_{os.getpid()}"

#: Of the backends, in seconds. The clock is put forward by it.
TIMEOUT = 20

ADDRESS = SERVER.rpartition("@")[2]

LOCKED = (
    f"PostgreSQL '{ADDRESS}' failed: canceling statement due to lock timeout (SQLSTATE"
    " 55P03). Another transaction holds a lock, perhaps that of an open psql shell; end"
    " it, or raise the option 'timeout'."
)

needs_server = unittest.skipUnless(SERVER, "SESSIONS_TEST_POSTGRESQL_URL is not set")


class Facts(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.clock = LoopClock()
        self.shell = await asyncpg.connect(SERVER)
        self.addAsyncCleanup(self._drop)
        # In a transaction the shell would see the same activity again and again.
        self.watch = await asyncpg.connect(SERVER)
        self.addAsyncCleanup(self.watch.close)
        self.key, self.other = sorted(secrets.token_bytes(32) for _ in range(2))

    async def _drop(self) -> None:
        await self.shell.execute(f"DROP TABLE IF EXISTS {TABLE}")
        await self.shell.close()

    def open(self, url: str = SERVER, **options: object) -> PostgreSQLBackend:
        options = {
            "table": TABLE,
            "timeout": TIMEOUT,
            "application_name": TABLE,
            **options,
        }
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
        backend = self.open()
        version = await backend.insert(self.key, Record(b"one"))
        async with self.locked(self.key):
            for write in (
                backend.replace(self.key, Record(b"two"), version),
                backend.delete(self.key),
            ):
                self.assertEqual(await self._error_of(write), LOCKED)

            record = await backend.load(self.key)
        assert record is not None
        self.assertEqual(record.data, b"one")

    async def test_a_locked_table_fails_a_load_when_its_time_is_over(self) -> None:
        """And so does the first operation of all, which looks at the table."""
        backend = self.open()
        await backend.ping()
        async with self.shell.transaction():
            await self.shell.execute(f"LOCK TABLE {TABLE}")
            for each in (backend, self.open()):
                self.assertEqual(await self._error_of(each.load(self.key)), LOCKED)

    async def _error_of(self, work: Coroutine[Any, Any, object]) -> str:
        """Returns the error of what waits for a lock until its time is over."""
        waiting = asyncio.ensure_future(work)
        for _ in range(2):
            waits: set[tuple[object, ...]] = set()
            # The server ends each wait soon, and the next one begins, whose own time
            # is not over when that of the first is.
            while len(waits) < 2:
                waits.update(map(tuple, await self._waits()))
            await self.clock.advance(TIMEOUT / 2)
        with self.assertRaises(BackendError) as failed:
            await waiting
        return str(failed.exception)

    async def _waits(self) -> list[Any]:
        """Returns which backends of the tests wait for a lock, and since when."""
        rows: list[Any] = await self.watch.fetch(
            "SELECT pid, query_start FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND application_name = $1",
            TABLE,
        )
        return rows

    async def test_a_write_waits_for_a_lock(self) -> None:
        """It is done when the lock is gone, alone and in a batch."""
        backend = self.open()
        keys = [self.key, self.other, *(secrets.token_bytes(32) for _ in range(8))]
        for waiting in (1, 10):
            versions = [await backend.insert(key, Record(b"one")) for key in keys]
            async with self.locked(self.key, self.other):
                writes = [
                    asyncio.ensure_future(backend.replace(key, Record(b"two"), version))
                    for key, version in zip(keys[:waiting], versions, strict=False)
                ]
                while not await self._waits():
                    pass
            stored = await asyncio.gather(*writes)
            self.assertNotIn(None, stored)
            await asyncio.gather(*map(backend.delete, keys))

    async def test_locked_rows_hold_up_nobody_else(self) -> None:
        """Behaviour 80: there are more of them than the backend has connections."""
        backend = self.open(timeout=120)
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
                    await asyncio.wait_for(asyncio.gather(*work), 60)
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
        backend = self.open()
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
        backend = self.open()
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
        backend = self.open()
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
        backend = self.open()
        for key in (self.key, self.other):
            await backend.insert(key, Record(b"one", expires=1.0))
        async with self.locked(self.key):
            self.assertEqual(await backend.purge(1000.0), 1)
        self.assertEqual(await backend.purge(1000.0), 1)


if __name__ == "__main__":
    unittest.main()

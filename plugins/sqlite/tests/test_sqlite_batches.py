"""What the SQLite backend does with the operations that begin together."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import unittest
from collections.abc import Iterator

import pytest
from tornado_sessions_sqlite import SQLiteBackend
from tornado_sessions_sqlite.database import execute_together, fetch_all

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.batches import NothingAppliedError
from tornado_sessions.testing.timers import LoopClock

KEYS = [bytes([number]) * 32 for number in range(5)]

_LOCKED = (
    "failed: database is locked. Another connection holds it, perhaps an open sqlite3"
    " shell; end that, or raise the option 'timeout'."
)


class _Case(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = pathlib.Path(directory.name).resolve() / "sessions.db"

    def open(self) -> SQLiteBackend:
        backend = SQLiteBackend(self.path, timeout=20)
        self.addAsyncCleanup(backend.close)
        return backend

    async def store(self, backend: SQLiteBackend) -> list[Version]:
        """Stores a record under each of `KEYS`. Returns the versions."""
        return await asyncio.gather(
            *(backend.insert(key, Record(b"old")) for key in KEYS)
        )

    async def replace(
        self, backend: SQLiteBackend, versions: list[Version]
    ) -> list[Version | BaseException | None]:
        """Replaces them all together. Returns the outcomes."""
        return await asyncio.gather(
            *(
                backend.replace(key, Record(b"new"), version)
                for key, version in zip(KEYS, versions, strict=True)
            ),
            return_exceptions=True,
        )

    async def loaded(self, backend: SQLiteBackend) -> list[bytes | None]:
        records = await asyncio.gather(*map(backend.load, KEYS))
        return [None if record is None else record.data for record in records]

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """Another connection to the same file, that commits each statement."""
        database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        with contextlib.closing(database):
            yield database


class TransactionTest(_Case):
    async def test_writes_that_begin_together_are_one_transaction(self) -> None:
        """And loads are one statement."""
        backend = self.open()
        versions = await self.store(backend)
        lanes = await backend.connection()
        read: list[str] = []
        written: list[str] = []
        await lanes.reader.set_trace_callback(read.append)
        await lanes.writer.set_trace_callback(written.append)

        await asyncio.gather(
            self.replace(backend, versions),
            backend.insert(b"6" * 32, Record(b"")),
            backend.delete(b"7" * 32),
        )
        await self.loaded(backend)

        self.assertEqual(
            [statement.split()[0] for statement in written],
            ["BEGIN", *["UPDATE"] * 5, "INSERT", "DELETE", "COMMIT"],
        )
        self.assertEqual([statement.split()[0] for statement in read], ["SELECT"])

    async def test_a_write_that_fails_fails_alone(self) -> None:
        """Behaviour 30: the others of its batch are stored."""
        backend = self.open()
        versions = await self.store(backend)
        with self.database() as database:
            database.execute(
                "CREATE TRIGGER refuse BEFORE UPDATE ON sessions"
                f" WHEN OLD.key = x'{KEYS[2].hex()}'"
                " BEGIN SELECT raise(ABORT, 'constraint failed: not this one'); END"
            )

        outcomes = await self.replace(backend, versions)

        self.assertIn("constraint failed: not this one", str(outcomes.pop(2)))
        self.assertEqual({type(outcome) for outcome in outcomes}, {tuple})
        self.assertEqual(
            await self.loaded(backend), [b"new", b"new", b"old", b"new", b"new"]
        )

    async def test_a_load_that_fails_fails_alone(self) -> None:
        """Behaviour 30: the others of its batch are loaded."""
        backend = self.open()
        await self.store(backend)
        with self.database() as database:
            database.execute(
                "UPDATE sessions SET user = CAST(x'ff' AS TEXT) WHERE key = ?",
                (KEYS[2],),
            )

        loads = map(backend.load, KEYS)
        found = await asyncio.gather(*loads, return_exceptions=True)

        self.assertIsInstance(found.pop(2), BackendError)
        self.assertEqual({type(record) for record in found}, {Record})

    async def test_a_commit_that_fails_is_told_to_all_and_not_repeated(self) -> None:
        """Behaviour 30: in general, its outcome is unknown."""
        backend = self.open()
        versions = await self.store(backend)
        writer = (await backend.connection()).writer
        with self.database() as database:
            database.executescript(
                """
                CREATE TABLE parent (id INTEGER PRIMARY KEY);
                CREATE TABLE child (
                    id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED
                );
                CREATE TRIGGER orphan AFTER UPDATE ON sessions
                    BEGIN INSERT INTO child VALUES (1); END;
                """
            )
        await writer.execute("PRAGMA foreign_keys = ON")
        executed: list[str] = []
        await writer.set_trace_callback(executed.append)

        outcomes = await self.replace(backend, versions)

        for outcome in outcomes:
            self.assertIsInstance(outcome, BackendError)
            self.assertIn("FOREIGN KEY constraint failed", str(outcome))
        self.assertEqual(executed.count("COMMIT"), 1)
        self.assertEqual(await self.loaded(backend), [b"old"] * 5)
        # No transaction is left open.
        await backend.delete(KEYS[0])
        self.assertIsNone(await backend.load(KEYS[0]))


class LockTest(_Case):
    async def test_a_batch_waits_for_the_lock_of_another(self) -> None:
        """Behaviour 69: as a lone write does."""
        backend = self.open()
        versions = await self.store(backend)
        with self.database() as database:
            database.execute("BEGIN IMMEDIATE")
            writes = asyncio.ensure_future(self.replace(backend, versions))
            await asyncio.wait([writes], timeout=0.1)
            self.assertFalse(writes.done())
            self.assertEqual(await self.loaded(backend), [b"old"] * 5)
            database.execute("COMMIT")

        self.assertEqual({type(outcome) for outcome in await writes}, {tuple})
        self.assertEqual(await self.loaded(backend), [b"new"] * 5)

    async def test_a_lock_beyond_the_timeout_is_told_to_each_of_a_batch(self) -> None:
        """Behaviours 66, 69: and to those behind it; then it goes on."""
        backend, clock = self.open(), LoopClock()
        versions = await self.store(backend)
        connection = await backend.connection()
        with self.database() as database:
            database.execute("BEGIN IMMEDIATE")
            groups = asyncio.gather(
                self.replace(backend, versions), self.replace(backend, versions)
            )
            while not connection.lock_within(60):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await clock.advance(20)
            outcomes = [outcome for group in await groups for outcome in group]

        for outcome in outcomes:
            self.assertIsInstance(outcome, BackendError)
            self.assertIn(_LOCKED, str(outcome))
        self.assertIs(await backend.connection(), connection)
        await self.replace(backend, versions)
        self.assertEqual(await self.loaded(backend), [b"new"] * 5)

    async def test_a_commit_waits_for_a_read_of_another(self) -> None:
        """Behaviour 69: in a file that is not in WAL mode, a read holds up the commit."""
        with self.database() as database:
            database.execute("CREATE TABLE other (id)")
        backend = self.open()
        versions = await self.store(backend)
        with self.database() as database:
            database.execute("BEGIN")
            database.execute("SELECT * FROM sessions").fetchall()
            writes = asyncio.ensure_future(self.replace(backend, versions))
            await asyncio.wait([writes], timeout=0.1)
            self.assertFalse(writes.done())
            database.execute("COMMIT")

        self.assertEqual({type(outcome) for outcome in await writes}, {tuple})
        self.assertEqual(await self.loaded(backend), [b"new"] * 5)


class ConnectionTest(_Case):
    async def test_a_batch_goes_to_the_file_that_is_there(self) -> None:
        """Behaviour 66: where another one has been removed."""
        backend = self.open()
        for _ in range(2):
            await self.store(backend)
            for path in self.path.parent.iterdir():
                path.unlink()

            with self.assertLogs("tornado_sessions", "WARNING"):
                versions = await self.store(backend)

            self.assertNotIn(None, versions)
            self.assertEqual(await self.loaded(backend), [b"old"] * 5)
            for path in self.path.parent.iterdir():
                path.unlink()
            with self.assertLogs("tornado_sessions", "WARNING"):
                self.assertEqual(await self.loaded(backend), [None] * 5)

    async def test_a_batch_that_hangs_is_interrupted(self) -> None:
        """Behaviour 66: nothing of it is stored, and the next one is."""
        backend, started = self.open(), threading.Event()
        versions = await self.store(backend)
        writer = (await backend.connection()).writer
        await writer.set_trace_callback(
            lambda sql: started.set() if KEYS[3].hex() in sql else None
        )
        with self.database() as database:
            database.executescript(
                f"""
                CREATE VIEW endless AS WITH RECURSIVE n(i) AS
                    (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n;
                CREATE TRIGGER hang BEFORE UPDATE ON sessions
                    WHEN OLD.key = x'{KEYS[3].hex()}'
                    BEGIN SELECT max(i) FROM endless; END;
                """
            )
            replacing = asyncio.ensure_future(self.replace(backend, versions))
            await asyncio.to_thread(started.wait)
            await LoopClock().advance(20)
            for outcome in await replacing:
                self.assertIn("did not answer within 20 seconds", str(outcome))
            # It has been interrupted, or this would wait for the lock.
            database.execute("DROP TRIGGER hang")

        self.assertEqual(await self.loaded(backend), [b"old"] * 5)
        self.assertNotIn(None, await self.replace(backend, versions))
        self.assertEqual(await self.loaded(backend), [b"new"] * 5)

    def test_no_error_takes_an_open_cursor_out_of_its_thread(self) -> None:
        """Python 3.10 damages the heap if the connection is closed meanwhile."""
        database = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(database.close)
        database.create_function("fail", 1, lambda n: 1 / n)
        failing = "SELECT fail(n) FROM (SELECT 1 AS n UNION ALL SELECT 0)"
        for work in (
            lambda: fetch_all(database, failing, ()),
            lambda: execute_together(database, [("SELECT fail(0)", ())]),
        ):
            # Not with assertRaises(), which clears the frames.
            with pytest.raises((sqlite3.Error, NothingAppliedError)) as failed:
                work()
            frame = failed.traceback[-1].frame
            with self.assertRaisesRegex(sqlite3.ProgrammingError, "closed"):
                frame.f_locals["cursor"].fetchone()

    def test_of_a_batch_that_does_not_fit_each_is_told(self) -> None:
        """Behaviour 69: what is told to be stored is stored, and reads go on."""
        script = f"""
            import asyncio, os, resource
            from tornado_sessions import BackendError, Record
            from tornado_sessions_sqlite import SQLiteBackend

            async def fill():
                backend = SQLiteBackend({str(self.path)!r}, timeout=20)
                await backend.insert(bytes(32), Record(b"one"))
                connection = await backend.connection()
                resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1))
                keys = [os.urandom(32) for _ in range(40)]
                outcomes = await asyncio.gather(
                    *(backend.insert(key, Record(bytes(10_000))) for key in keys),
                    return_exceptions=True,
                )
                failed = [key for key, outcome in zip(keys, outcomes)
                          if isinstance(outcome, BackendError)]
                print({{str(each) for each in outcomes if type(each) is BackendError}})
                print(len(failed) > 10)
                found = await asyncio.gather(*map(backend.load, keys))
                print([key for key, each in zip(keys, found) if each is None] == failed)
                print(await backend.connection() is connection)
                resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
                await asyncio.gather(
                    *(backend.insert(key, Record(bytes(10_000))) for key in failed)
                )
                found = await asyncio.gather(*map(backend.load, keys))
                print(None in found)
                await backend.close()

            asyncio.run(fill())
        """
        told, *facts = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        ).stdout.splitlines()

        self.assertIn("disk I/O error. Check the disk and the file system", told)
        self.assertEqual(facts, ["True", "True", "True", "False"])


if __name__ == "__main__":
    unittest.main()

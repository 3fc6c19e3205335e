"""What the SQLite backend does in a file that holds other tables as well."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pathlib
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import unittest
from collections.abc import Iterator
from typing import Any

from tornado_sessions_sqlite import SQLiteBackend

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Backend, Record
from tornado_sessions.testing import BackendContract
from tornado_sessions.testing.timers import LoopClock

# What an application may have in its file.
_APPLICATION = """
PRAGMA user_version = 7;
PRAGMA application_id = 1234;
CREATE TABLE customers (key BLOB PRIMARY KEY, user TEXT, expires REAL);
CREATE INDEX customers_user ON customers (user);
INSERT INTO customers VALUES (x'01', 'ann', 1);
"""


class _File:
    """A file with an application's tables, in a directory of its own."""

    def __init__(self, case: unittest.TestCase, mode: str = "delete") -> None:
        directory = tempfile.TemporaryDirectory()
        case.addCleanup(directory.cleanup)
        self.path = pathlib.Path(directory.name).resolve() / "application.db"
        self.path.touch(0o600)
        self.execute(f"PRAGMA journal_mode = {mode};{_APPLICATION}")

    @contextlib.contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """Another connection, that commits each statement."""
        database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        with contextlib.closing(database):
            yield database

    def execute(self, script: str) -> None:
        with self.open() as database:
            database.executescript(script)

    def schema(self) -> dict[str, str]:
        """What is in the file, and how it was created."""
        with self.open() as database:
            return dict(database.execute("SELECT name, sql FROM sqlite_master"))

    def pragma(self, name: str) -> object:
        with self.open() as database:
            [(value,)] = database.execute(f"PRAGMA {name}").fetchall()
        return value


class DeleteModeContractTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends, in an application's file without WAL."""

    def setUp(self) -> None:
        self.file = _File(self)
        self.addCleanup(self._check_mode)

    def make_backend(self) -> Backend:
        return SQLiteBackend(self.file.path, timeout=20)

    def _check_mode(self) -> None:
        self.assertEqual(self.file.pragma("journal_mode"), "delete")


class WALModeContractTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends, in an application's file with WAL."""

    def setUp(self) -> None:
        self.file = _File(self, "wal")

    def make_backend(self) -> Backend:
        return SQLiteBackend(self.file.path, timeout=20, table="order")


class _Case(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.file = _File(self)
        self.path = self.file.path

    def open(self, *, timeout: float = 20, **options: Any) -> SQLiteBackend:
        backend = SQLiteBackend(self.path, timeout=timeout, **options)
        self.addAsyncCleanup(backend.close)
        return backend


class SharingTest(_Case):
    async def test_nothing_else_of_the_file_is_changed(self) -> None:
        """Behaviour 87: neither its tables nor what it says of itself."""
        for mode in ("delete", "truncate", "persist", "wal"):
            self.file = _File(self, mode)
            self.path = self.file.path
            kept = ("user_version", "application_id", "auto_vacuum", "page_size")
            schema_before = self.file.schema()
            before = (schema_before, *map(self.file.pragma, kept))
            stored = self.file.pragma("journal_mode")

            backend = self.open()
            await _use(backend)
            await backend.purge(2)
            await backend.close()

            with self.subTest(mode):
                schema = self.file.schema()
                ours = {
                    "sessions",
                    "sqlite_autoindex_sessions_1",
                    "sessions_expires",
                    "sessions_user",
                }
                self.assertEqual(schema.keys() - schema_before.keys(), ours)
                rest = {name: schema[name] for name in schema.keys() - ours}
                self.assertEqual((rest, *map(self.file.pragma, kept)), before)
                self.assertEqual(self.file.pragma("journal_mode"), stored)
                with self.file.open() as database:
                    rows = database.execute("SELECT * FROM customers").fetchall()
                self.assertEqual(rows, [(b"\x01", "ann", 1.0)])

    async def test_an_empty_file_gets_wal(self) -> None:
        """Behaviours 69, 87: whoever has made it, it holds nothing else."""
        self.path.unlink()
        self.path.touch(0o600)

        await _use(self.open())

        self.assertEqual(self.file.pragma("journal_mode"), "wal")
        self.assertEqual(self.file.pragma("user_version"), 0)

    async def test_a_file_that_an_application_has_begun_keeps_its_mode(self) -> None:
        """Behaviour 87: though it has no tables yet."""
        self.path.unlink()
        self.path.touch(0o600)
        self.file.execute("PRAGMA user_version = 1")

        await _use(self.open())

        self.assertEqual(self.file.pragma("journal_mode"), "delete")
        self.assertEqual(self.file.pragma("user_version"), 1)

    async def test_without_wal_each_write_is_flushed(self) -> None:
        """A loss of power must not damage what is the application's; 2 is FULL."""
        backend = self.open(synchronous="normal")
        await _use(backend)

        writer = (await backend.connection()).writer
        [(synchronous,)] = await writer.execute_fetchall("PRAGMA synchronous")
        self.assertEqual(synchronous, 2)

    async def test_two_tables_in_one_file_know_nothing_of_each_other(self) -> None:
        """Behaviour 87: loads, saves, deletes, purges and users are per table."""
        for mode in ("delete", "wal"):
            with self.subTest(mode):
                self.file = _File(self, mode)
                self.path = self.file.path
                one, two = self.open(table="one"), self.open(table="two")
                key, other = secrets.token_bytes(32), secrets.token_bytes(32)

                await asyncio.gather(
                    one.insert(key, Record(b"one", expires=100, user="ann")),
                    two.insert(key, Record(b"two", expires=100, user="ann")),
                    one.insert(other, Record(b"one", expires=1e10, user="bob")),
                )

                self.assertEqual([each async for each, _ in one.find("ann")], [key])
                self.assertEqual([each async for each, _ in two.find("bob")], [])
                self.assertEqual(await one.purge(200), 1)
                self.assertIsNone(await one.load(key))
                record = await two.load(key)
                assert record is not None
                self.assertEqual(record.data, b"two")
                await one.delete(key)
                self.assertIsNotNone(await two.load(key))

    async def test_each_table_has_its_indexes(self) -> None:
        """Behaviour 70: no search of one table reads all of it."""
        await asyncio.gather(_use(self.open(table="one")), _use(self.open(table="Two")))

        with self.file.open() as database:
            for table in ("one", "Two"):
                for search, index in {
                    "user = 'ann'": "user",
                    "expires_minute <= 1": "expires",
                }.items():
                    plan = database.execute(
                        f'EXPLAIN QUERY PLAN SELECT * FROM "{table}" WHERE {search}'
                    ).fetchall()
                    self.assertIn(f"USING INDEX {table}_{index}", plan[0][3])

    async def test_a_read_of_the_application_holds_up_saves_alone(self) -> None:
        """Behaviour 69: without WAL a save waits until it has ended."""
        backend = self.open()
        key = await _use(backend)
        with self.file.open() as database:
            database.execute("BEGIN")
            database.execute("SELECT * FROM customers").fetchall()
            save = asyncio.create_task(_use(backend))
            await asyncio.wait([save], timeout=0.1)
            self.assertFalse(save.done())
            database.execute("COMMIT")
            await save

        self.assertIsNotNone(await backend.load(key))

    async def test_a_write_of_the_application_holds_up_all(self) -> None:
        """Behaviours 66, 69: within the time limit, and then it goes on."""
        backend, patient = self.open(), self.open(timeout=60)
        key = await _use(backend)
        await patient.load(key)
        connection = await backend.connection()
        with self.file.open() as database:
            database.execute("BEGIN EXCLUSIVE")
            waiting = asyncio.create_task(patient.load(key))
            load = asyncio.create_task(backend.load(key))
            while not connection.lock_within(60):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await LoopClock().advance(20)
            with self.assertRaisesRegex(BackendError, "failed: database is locked"):
                await load
            self.assertFalse(waiting.done())
            database.execute("COMMIT")
            self.assertIsNotNone(await waiting)

        self.assertIsNotNone(await backend.load(key))

    def test_processes_that_start_at_once_lose_nothing(self) -> None:
        """Behaviours 69, 87: four create the table together and count in one record."""
        script = f"""
            import asyncio
            from tornado_sessions.storage.backend import Record
            from tornado_sessions_sqlite import SQLiteBackend

            async def count():
                backend = SQLiteBackend({str(self.path)!r}, timeout=60)
                for _ in range(20):
                    while True:
                        key, stored = bytes(32), await backend.load(bytes(32))
                        if stored is None:
                            done = await backend.insert(key, Record(b"1"))
                        else:
                            count = Record(b"%d" % (int(stored.data) + 1))
                            done = await backend.replace(key, count, stored.version)
                        if done is not None:
                            break
                await backend.close()

            asyncio.run(count())
        """
        counters = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(script)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stderr=subprocess.PIPE,
            )
            for _ in range(4)
        ]
        for counter in counters:
            _, errors = counter.communicate(timeout=120)
            self.assertEqual(errors, b"")

        with self.file.open() as database:
            [(counted,)] = database.execute("SELECT data FROM sessions").fetchall()
        self.assertEqual(counted, b"80")


class TakenTest(_Case):
    async def test_a_table_that_is_not_ours_is_refused(self) -> None:
        """Behaviour 87: before anything is written; another name works."""
        for create, kind in {
            "CREATE TABLE sessions (id)": "a table",
            # As tornado_sessions has it, but for what says so.
            "CREATE TABLE Sessions (key BLOB PRIMARY KEY, version INTEGER NOT NULL,"
            " data BLOB NOT NULL, expires REAL NOT NULL, expires_minute INTEGER,"
            " user TEXT)": "a table",
            "CREATE VIEW sessions AS SELECT * FROM customers": "a view",
            "CREATE INDEX sessions ON customers (expires)": "an index",
        }.items():
            with self.subTest(create):
                self.file = _File(self)
                self.path = self.file.path
                self.file.execute(create)
                before, backend = self.path.read_bytes(), self.open()

                for operation in (backend.load, backend.delete):
                    with self.assertRaises(BackendError) as refused:
                        await operation(bytes(32))
                    self.assertEqual(
                        str(refused.exception),
                        f"The session database {str(self.path)!r} has {kind} 'sessions'"
                        " that is not ours. Name another table with the option"
                        " 'table', such as '?table=web_sessions' in the URL.",
                    )

                self.assertEqual(self.path.read_bytes(), before)
                self.assertEqual(os.listdir(self.path.parent), [self.path.name])
                await _use(self.open(table="web_sessions"))

    async def test_a_newer_schema_is_left_alone(self) -> None:
        """Behaviour 32: the error says what to do, and the file is as it was."""
        backend = self.open()
        await _use(backend)
        await backend.close()
        with self.file.open() as database:
            database.execute("PRAGMA writable_schema = ON")
            database.execute(
                "UPDATE sqlite_master SET sql = replace(sql, 'schema 1', 'schema 2')"
            )
        before = self.path.read_bytes()

        with self.assertRaises(BackendError) as refused:
            await self.open().load(bytes(32))

        self.assertEqual(
            str(refused.exception),
            f"The table 'sessions' of the session database {str(self.path)!r} has the"
            " schema 2, and this release knows 1. Upgrade tornado-sessions-sqlite, or"
            " name another table with the option 'table'.",
        )
        self.assertEqual(self.path.read_bytes(), before)

    async def test_a_table_that_was_copied_by_sql_is_ours(self) -> None:
        """A dump that is read in again is as good as the file."""
        backend, key = self.open(), secrets.token_bytes(32)
        await backend.insert(key, Record(b"one"))
        await backend.close()
        with self.file.open() as database:
            dump = "\n".join(database.iterdump())
        self.path.unlink()
        self.path.touch(0o600)
        self.file.execute(dump)

        with self.assertNoLogs("tornado_sessions"):
            self.assertIsNotNone(await self.open().load(key))

    async def test_an_index_that_is_not_ours_is_told_once(self) -> None:
        """Behaviour 88: the table works, and the other index is made."""
        for create in (
            "CREATE INDEX Sessions_User ON customers (expires)",
            "CREATE TABLE sessions_user (id)",
        ):
            with self.subTest(create):
                self.file = _File(self)
                self.path = self.file.path
                self.file.execute(create)
                backend = self.open()

                with self.assertLogs("tornado_sessions", logging.WARNING) as logs:
                    await _use(backend)
                    await backend.close()
                    await _use(backend)

                [record] = logs.records
                self.assertEqual(
                    record.getMessage(),
                    f"The session database {str(self.path)!r} has something else under"
                    " the name 'sessions_user', so the table 'sessions' lacks that"
                    " index and is searched slowly. Rename that, or name another table"
                    " with the option 'table'.",
                )
                self.assertIn("sessions_expires", self.file.schema())

    async def test_a_trigger_of_the_same_name_is_in_nobodys_way(self) -> None:
        """SQLite gives triggers names of their own."""
        self.file.execute(
            "CREATE TRIGGER sessions AFTER DELETE ON customers BEGIN SELECT 1; END"
        )

        await _use(self.open())

    async def test_a_unique_index_on_the_table_is_told(self) -> None:
        """Behaviour 88: what stands in the way is named, and no value with it."""
        backend = self.open()
        await backend.insert(bytes(32), Record(b"", expires=0, user="ann"))
        self.file.execute("CREATE UNIQUE INDEX one_each ON sessions (user)")

        with self.assertRaises(BackendError) as failed:
            await backend.insert(bytes([1]) * 32, Record(b"", expires=0, user="ann"))

        self.assertEqual(
            str(failed.exception),
            f"The session database {str(self.path)!r} failed: UNIQUE constraint failed:"
            " sessions.user. Somebody has changed the table: drop that constraint or"
            " that index, or name another table with the option 'table'.",
        )
        self.assertIsNone(
            await backend.insert(bytes(32), Record(b"", expires=0, user="ann"))
        )


async def _use(backend: Backend) -> bytes:
    """Stores a record, loads it, and returns its key."""
    key = secrets.token_bytes(32)
    await backend.insert(key, Record(b"one", expires=1e10, user=secrets.token_hex(8)))
    assert await backend.load(key) is not None
    return key


if __name__ == "__main__":
    unittest.main()

"""What the SQLite backend does beyond the contract of all backends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import logging
import os
import pathlib
import secrets
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import aiosqlite
from tornado_sessions_sqlite import SQLiteBackend

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Backend, Record
from tornado_sessions.testing import BackendContract
from tornado_sessions.testing.records import new_key
from tornado_sessions.testing.timers import LoopClock

T = TypeVar("T")

# A statement that runs for ever, though every other one works.
_HANG_IN_DELETE = """
CREATE VIEW endless AS
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n;
CREATE TRIGGER hang BEFORE DELETE ON sessions
    BEGIN SELECT max(i) FROM endless; END;
"""


class SQLiteBackendTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends."""

    def setUp(self) -> None:
        self.path = _new_directory(self) / "sessions.db"

    def make_backend(self) -> Backend:
        # The contract is about answers; a slow disk is no reason to fail.
        return SQLiteBackend(self.path, timeout=20)


class _Case(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.directory = _new_directory(self)
        self.path = self.directory / "sessions.db"

    def open(
        self, *, timeout: float = 20, synchronous: str = "normal"
    ) -> SQLiteBackend:
        backend = SQLiteBackend(self.path, timeout=timeout, synchronous=synchronous)
        self.addAsyncCleanup(backend.close)
        return backend

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """Another connection to the same file, that commits each statement."""
        database = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        with contextlib.closing(database):
            yield database

    def assert_threads_end(self, before: set[threading.Thread]) -> None:
        """No thread is left but those ``before``."""
        for thread in set(threading.enumerate()) - before:
            _assert_ends(self, thread)


class FileTest(_Case):
    async def test_making_a_backend_creates_nothing(self) -> None:
        """A constructor does no I/O."""
        self.open()

        self.assertEqual(os.listdir(self.directory), [])

    async def test_files_are_for_their_owner_alone(self) -> None:
        """Behaviour 69: the database, its log and its shared memory have mode 0600."""
        umask = os.umask(0)
        self.addCleanup(os.umask, umask)
        backend = self.open()

        await _insert(backend)

        modes = {
            entry.name: entry.stat().st_mode & 0o777
            for entry in self.directory.iterdir()
        }
        names = ["sessions.db", "sessions.db-shm", "sessions.db-wal"]
        self.assertEqual(modes, dict.fromkeys(names, 0o600))

    async def test_a_file_that_others_can_read_is_told_once(self) -> None:
        """It may be meant, so its mode stays as it is."""
        self.path.touch()
        self.path.chmod(0o644)
        backend = self.open()

        with self.assertLogs("tornado_sessions", "WARNING") as logs:
            key = await _insert(backend)
            await backend.load(key)
            await backend.close()
            await backend.load(key)

        self.assertEqual(len(logs.records), 1)
        self.assertIn(
            f"{str(self.path)!r} is open to other users (mode 644)",
            logs.records[0].getMessage(),
        )
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o644)

    async def test_the_file_is_in_wal_mode(self) -> None:
        """Behaviour 69: so a write does not stop the reads."""
        await _insert(self.open())

        with self.database() as database:
            [(mode,)] = database.execute("PRAGMA journal_mode").fetchall()
        self.assertEqual(mode, "wal")

    async def test_connections_have_a_busy_timeout(self) -> None:
        """Behaviour 69: SQLite itself waits for a short lock."""
        backend = self.open()
        key = await _insert(backend)
        await backend.load(key)

        for lane in await backend.connection():
            [(milliseconds,)] = await _pragma(lane, "busy_timeout")
            self.assertEqual(milliseconds, 20)

    async def test_synchronous_is_what_was_asked_for(self) -> None:
        """1 is NORMAL and 2 is FULL, in SQLite's own numbers."""
        for name, number in {"normal": 1, "full": 2}.items():
            with self.subTest(name):
                backend = self.open(synchronous=name)
                await _insert(backend)

                [(synchronous,)] = await _pragma(
                    (await backend.connection()).writer, "synchronous"
                )
                self.assertEqual(synchronous, number)

    async def test_what_is_deleted_is_overwritten(self) -> None:
        """Whatever SQLite was built with; also once all of it has left the log."""
        backend, key = self.open(), new_key()
        await backend.insert(key, Record(b"a secret of ann's"))
        [(secure_delete,)] = await _pragma(
            (await backend.connection()).writer, "secure_delete"
        )
        await backend.delete(key)
        await backend.close()

        self.assertEqual(secure_delete, 1)
        self.assertNotIn(b"a secret of ann's", self.path.read_bytes())

    async def test_the_reading_connection_cannot_write(self) -> None:
        """Behaviour 69: nothing that only reads can hold the lock of a writer."""
        backend = self.open()
        await backend.load(new_key())

        [(query_only,)] = await _pragma(
            (await backend.connection()).reader, "query_only"
        )
        self.assertEqual(query_only, 1)

    async def test_the_schema_can_be_read(self) -> None:
        """What the README tells of the table is what the table is."""
        backend, key = self.open(), new_key()
        await backend.insert(key, Record(b"data", expires=1_800_000_000.5, user="ann"))

        with self.database() as database:
            [row] = database.execute(
                "SELECT key, data, expires, expires_minute, user FROM sessions"
            )
        self.assertEqual(row, (key, b"data", 1_800_000_000.5, 30_000_000, "ann"))

    async def test_records_survive_a_restart(self) -> None:
        """What one backend stored the next one answers."""
        backend = self.open()
        key = await _insert(backend, b"one")
        await backend.close()

        self.assertEqual(await _data(self.open(), key), b"one")

    async def test_closing_leaves_one_file_and_no_thread(self) -> None:
        """The log is moved into the database, and the threads end."""
        threads = set(threading.enumerate())
        backend = self.open()
        await backend.load(await _insert(backend))
        for thread in set(threading.enumerate()) - threads:
            self.addCleanup(_assert_ends, self, thread)

        await backend.close()

        self.assertEqual(os.listdir(self.directory), ["sessions.db"])

    async def test_closing_waits_for_what_is_under_way(self) -> None:
        """Behaviour 65: also for what waits for the lock of another."""
        threads = set(threading.enumerate())
        backend, key = self.open(), new_key()
        await _insert(backend)
        with self.database() as database:
            database.execute("BEGIN IMMEDIATE")
            save = asyncio.create_task(backend.insert(key, Record(b"one")))
            await asyncio.sleep(0)
            closings = [asyncio.create_task(backend.close()) for _ in range(2)]
            ended, _ = await asyncio.wait([save, *closings], timeout=0.1)
            self.assertEqual(ended, set())
            database.execute("COMMIT")
            await asyncio.gather(save, *closings)

        self.assert_threads_end(threads)
        self.assertEqual(await _data(self.open(), key), b"one")

    async def test_closing_does_not_wait_for_what_comes_later(self) -> None:
        """A socket or a task that is never done keeps no process from its end."""
        backend, ended = self.open(timeout=0.5), asyncio.Event()

        async def go_on() -> None:
            while not ended.is_set():
                # On a busy machine some are not in time.
                with contextlib.suppress(BackendError):
                    await backend.load(new_key())

        others = [asyncio.create_task(go_on()) for _ in range(10)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(backend.close())
        await asyncio.wait([closing], timeout=30)

        self.assertTrue(closing.done())
        ended.set()
        await asyncio.gather(closing, *others)

    async def test_a_closed_backend_opens_again(self) -> None:
        """To close is to let go of the file, not to end."""
        backend = self.open()
        key = await _insert(backend, b"one")
        await backend.close()

        self.assertEqual(await _data(backend, key), b"one")

    async def test_closing_while_a_cancelled_use_opens_leaves_nothing(self) -> None:
        """The connection that it began to open is closed."""
        threads = set(threading.enumerate())
        backend = self.open()
        load = asyncio.create_task(backend.load(new_key()))
        await asyncio.sleep(0)
        load.cancel()
        await asyncio.wait([load])

        await backend.close()

        self.assert_threads_end(threads)

    async def test_a_connection_that_is_cancelled_while_it_opens_is_closed(
        self,
    ) -> None:
        """Behaviour 68: the thread opens the file all the same."""
        for turns in (1, 2, 3):
            threads = set(threading.enumerate())
            connecting = asyncio.ensure_future(self.open().connect())
            for _ in range(turns):
                await asyncio.sleep(0)
            connecting.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await connecting

            self.assert_threads_end(threads)

    async def test_a_connection_is_closed_if_the_other_cannot_be_opened(self) -> None:
        """Something replaces the file between the two."""
        path, threads = self.path, set(threading.enumerate())

        class Replacing(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                path.rename(path.with_suffix(".old"))
                path.mkdir()

        path.touch()
        path.chmod(0o644)
        logger, handler = logging.getLogger("tornado_sessions"), Replacing()
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)

        with self.assertRaises(BackendError):
            await self.open().load(new_key())

        self.assert_threads_end(threads)

    async def test_a_failure_to_open_is_not_told_twice(self) -> None:
        """Behaviour 34: nor by asyncio, where whoever wanted it open was cancelled."""
        backend = SQLiteBackend(self.path / "missing" / "sessions.db")
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: told.append(context)
        )
        load = asyncio.create_task(backend.load(new_key()))
        await asyncio.sleep(0)
        load.cancel()
        await asyncio.wait([load])

        await backend.close()
        # Its traceback leads to what was opening.
        del load
        gc.collect()

        self.assertEqual(told, [])


class ExpiryTest(_Case):
    async def test_a_purge_removes_five_hundred_at_most(self) -> None:
        """Behaviours 65, 70: the writing thread is never busy with it for long."""
        backend = self.open()
        await _insert(backend)
        with self.database() as database:
            database.execute(
                "INSERT INTO sessions"
                " WITH RECURSIVE n(i) AS"
                " (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)"
                " SELECT randomblob(32), random(), x'', 100, 1, NULL FROM n"
            )

        counts = [await backend.purge(200) for _ in range(4)]

        self.assertEqual(counts, [500, 500, 200, 0])

    async def test_the_second_counts_and_not_the_minute(self) -> None:
        """Behaviour 65: the index is by the minute, what is removed is not."""
        backend = self.open()
        keys = [await _insert(backend, expires=expires) for expires in (61, 100, 119)]

        self.assertEqual(await backend.purge(100), 2)
        self.assertEqual([await _has(backend, key) for key in keys], [0, 0, 1])

    async def test_a_save_pushes_the_expiry_forward(self) -> None:
        """Behaviour 65: within the same minute, where no index changes, and beyond."""
        for expires in (119.0, 1000.0):
            with self.subTest(expires=expires):
                backend = self.open()
                key = await _insert(backend, expires=100)
                loaded = await backend.load(key)
                assert loaded is not None
                await backend.replace(key, Record(b"", expires=expires), loaded.version)

                self.assertEqual(await backend.purge(expires - 1), 0)
                self.assertEqual(await backend.purge(expires), 1)

    async def test_without_an_expiry_a_record_stays(self) -> None:
        """Behaviour 65: 0, which a record has by default, is no time."""
        backend = self.open()
        key = await _insert(backend, expires=0)

        self.assertEqual(await backend.purge(time.time() * 2), 0)
        self.assertTrue(await _has(backend, key))

    async def test_sessions_of_a_user_come_in_pages(self) -> None:
        """Behaviour 46: more than one page, and a write in between."""
        backend = self.open()
        keys = [await _insert(backend, user="ann") for _ in range(250)]
        await _insert(backend, user="bob")
        found = []

        async for key, _ in backend.find("ann"):
            found.append(key)
            await backend.delete(key)

        self.assertEqual(sorted(found), sorted(keys))


class FailureTest(_Case):
    async def test_a_file_that_is_no_database_is_left_alone(self) -> None:
        """Behaviour 66: it works as soon as the file is out of the way."""
        self.path.write_bytes(b"To whom it may concern: this is a letter.\n" * 100)
        self.path.chmod(0o600)
        before, backend = self.path.read_bytes(), self.open()

        await self._assert_fails(
            backend, "file is not a database. Check the path, or move the file away."
        )

        self.assertEqual(self.path.read_bytes(), before)
        self.path.unlink()
        await _insert(backend)

    async def test_a_missing_directory_is_told(self) -> None:
        """Behaviour 66: it works as soon as the directory is there."""
        self.path = self.directory / "data" / "sessions.db"
        backend = self.open()

        await self._assert_fails(
            backend, "No such file or directory. Create its directory."
        )

        self.path.parent.mkdir()
        await _insert(backend)

    async def test_a_directory_in_its_place_is_told(self) -> None:
        """Behaviour 66: it works as soon as the directory is out of the way."""
        self.path.mkdir()
        backend = self.open()

        await self._assert_fails(
            backend, "unable to open database file. Check that it is a file"
        )

        self.path.rmdir()
        await _insert(backend)

    async def test_a_directory_that_cannot_be_written_is_told(self) -> None:
        """Behaviour 66: as an ordinary user, whoever runs the tests."""
        self.directory.chmod(0o755 if os.getuid() == 0 else 0o555)
        script = f"""
            async def fail():
                try:
                    await SQLiteBackend({str(self.path)!r}, timeout=20).load(bytes(32))
                except BackendError as error:
                    print(error)

            asyncio.run(asyncio.sleep(0))
            if os.getuid() == 0:
                os.setuid(65534)
            asyncio.run(fail())
        """

        told = _run_python(script)

        self.assertIn(
            f"The session database {str(self.path)!r} failed: Permission denied."
            " Let this process write its directory.",
            told,
        )

    async def test_a_file_that_cannot_be_written_is_told(self) -> None:
        """Behaviour 66: as an ordinary user, whoever runs the tests."""
        await _insert(self.open())
        for path in self.directory.iterdir():
            path.chmod(0o444)
        self.directory.chmod(0o755)
        script = f"""
            async def fail():
                try:
                    await SQLiteBackend({str(self.path)!r}, timeout=20).delete(bytes(32))
                except BackendError as error:
                    print(error)

            asyncio.run(asyncio.sleep(0))
            if os.getuid() == 0:
                os.setuid(65534)
            asyncio.run(fail())
        """

        told = _run_python(script)

        self.assertIn(
            "attempt to write a readonly database. Let this process write the file"
            " and its directory.",
            told,
        )

    async def test_a_damaged_file_is_told_and_can_be_replaced(self) -> None:
        """Behaviour 66: a connection that failed is not used again."""
        backend = self.open()
        key = await _insert(backend, bytes(60_000))
        await backend.close()
        good = self.path.read_bytes()
        self.path.write_bytes(good[:4096] + b"\xff" * (len(good) - 4096))

        await self._assert_fails(
            backend,
            "database disk image is malformed. Move the file away and restore it from"
            " a backup.",
            key,
        )

        self.path.write_bytes(good)
        self.assertEqual(await _data(backend, key), bytes(60_000))

    async def test_a_file_that_was_removed_is_made_anew(self) -> None:
        """What is acknowledged from then on is where others find it."""
        backend = self.open()
        old = await _insert(backend)
        self.assertTrue(await _has(backend, old))
        for path in self.path.parent.iterdir():
            path.unlink()

        with self.assertLogs("tornado_sessions", "WARNING") as logged:
            new = await _insert(backend)
            self.assertFalse(await _has(backend, old))

        self.assertEqual(len(logged.output), 1)
        self.assertIn("was removed or replaced while it was in use", logged.output[0])
        self.assertTrue(await _has(self.open(), new))

    async def test_no_file_is_made_beside_the_log_of_an_earlier_one(self) -> None:
        """Behaviour 69: SQLite would apply the log to the new file, and damage it."""
        backend = self.open()
        await _insert(backend)
        self.path.unlink()

        with self.assertLogs("tornado_sessions", "WARNING"):
            for suffix in ("-wal", "-shm"):
                beside = f"{self.path}{suffix}"
                await self._assert_refused(
                    backend,
                    f"it is missing, but {beside!r} of an earlier file is there, which"
                    " would damage a new one. Stop all processes that use it. Then put"
                    f" the file back, or remove {beside!r} as well.",
                )
                self.assertFalse(self.path.exists())
                os.unlink(beside)

        self.assertTrue(await _has(backend, await _insert(backend)))

    async def test_no_file_is_made_where_a_disk_was_unmounted(self) -> None:
        """Behaviour 66: sessions that have ended would be alive again on that disk."""
        other = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.addCleanup(other.cleanup)
        if os.stat(other.name).st_dev == os.stat(self.directory).st_dev:
            self.skipTest("both directories are on one device")
        mounted, directory = self.directory / "data", self.directory / "disk"
        mounted.mkdir()
        self.path = mounted / "sessions.db"
        backend = self.open()
        key = await _insert(backend)
        # What "umount" leaves is an empty directory of another device.
        mounted.rename(directory)
        mounted.symlink_to(other.name)

        with self.assertLogs("tornado_sessions", "WARNING"):
            await self._assert_refused(
                backend,
                "it is missing, and its directory is on another disk than it was. Mount"
                " the disk of the sessions again, or restart the process to begin with"
                " a new file.",
            )
        self.assertEqual(os.listdir(other.name), [])
        mounted.unlink()
        directory.rename(mounted)
        self.assertTrue(await _has(backend, key))

    async def _assert_refused(self, backend: SQLiteBackend, told: str) -> None:
        for _ in range(2):
            with self.assertRaises(BackendError) as caught:
                await backend.load(new_key())
            self.assertEqual(
                str(caught.exception),
                f"The session database {str(self.path)!r} cannot be used: {told}",
            )

    async def test_closing_waits_for_a_connection_that_was_dropped(self) -> None:
        """Otherwise its thread would deliver a result to a loop that is closed."""
        backend, started = self.open(), threading.Event()
        writer = (await backend.connection()).writer

        def pause() -> None:
            started.set()
            threading.Event().wait(0.3)

        await writer.create_function("pause", 0, pause)
        pausing = asyncio.ensure_future(writer.execute("SELECT pause()"))
        await asyncio.to_thread(started.wait)
        for path in self.path.parent.iterdir():
            path.unlink()
        with self.assertLogs("tornado_sessions"):
            self.assertFalse(await _has(backend, new_key()))
        await backend.close()

        self.assertTrue(pausing.done())
        with self.assertRaisesRegex(ValueError, "no active connection"):
            _ = writer.in_transaction

    async def test_a_file_that_was_replaced_is_read(self) -> None:
        """A backup may take the place of the file, and of those beside it."""
        backend = self.open()
        old = await _insert(backend)
        await backend.close()
        backup = self.path.read_bytes()
        new = await _insert(backend)
        self.assertTrue(await _has(backend, new))
        for path in self.path.parent.iterdir():
            path.rename(f"{path}.old")
        self.path.write_bytes(backup)

        with self.assertLogs("tornado_sessions", "WARNING"):
            self.assertFalse(await _has(backend, new))

        self.assertTrue(await _has(backend, old))

    async def test_a_directory_that_was_removed_is_told(self) -> None:
        """Behaviour 66: no restart is needed when it is there again."""
        backend = self.open()
        await _insert(backend)
        shutil.rmtree(self.path.parent)

        with self.assertLogs("tornado_sessions", "WARNING"):
            await self._assert_fails(
                backend, "No such file or directory. Create its directory."
            )

        self.path.parent.mkdir()
        self.assertTrue(await _has(backend, await _insert(backend)))

    async def test_reads_go_on_while_another_writes(self) -> None:
        """Behaviour 69: a writer holds up writers alone."""
        backend = self.open()
        key = await _insert(backend, b"one")
        with self.database() as database:
            database.execute("BEGIN IMMEDIATE")
            save = asyncio.create_task(_insert(backend))

            for _ in range(100):
                self.assertEqual(await _data(backend, key), b"one")

            self.assertFalse(save.done())
            database.execute("COMMIT")
            self.assertTrue(await _has(backend, await save))

    async def test_a_first_use_waits_for_the_lock_of_another(self) -> None:
        """Behaviour 69: a file that another process is just creating."""
        backend = self.open()
        with self.database() as database:
            database.execute("BEGIN EXCLUSIVE")
            load = asyncio.create_task(backend.load(new_key()))
            await asyncio.wait([load], timeout=0.1)
            self.assertFalse(load.done())
            database.execute("COMMIT")

            self.assertIsNone(await load)

    async def test_a_lock_beyond_the_time_limit_is_told_as_one(self) -> None:
        """Behaviours 66, 69: all that wait are told, and then it goes on."""
        backend, clock = self.open(), LoopClock()
        key = await _insert(backend)
        connection = await backend.connection()
        with self.database() as database:
            database.execute("BEGIN IMMEDIATE")
            deletes = [asyncio.create_task(backend.delete(key)) for _ in range(5)]
            while not connection.lock_within(60):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await clock.advance(20)
            outcomes = await asyncio.gather(*deletes, return_exceptions=True)

        for outcome in outcomes:
            self.assertIsInstance(outcome, BackendError)
            self.assertIn(
                "failed: database is locked. Another connection holds it, perhaps an"
                " open sqlite3 shell; end that, or raise the option 'timeout'.",
                str(outcome),
            )
        self.assertIs(await backend.connection(), connection)
        await backend.delete(key)
        self.assertFalse(await _has(backend, key))

    async def test_a_first_use_of_a_locked_file_is_told(self) -> None:
        """Behaviour 66: what can't be opened in time is an error as well."""
        backend = self.open()
        with self.database() as database:
            database.execute("BEGIN EXCLUSIVE")
            with self.assertRaises(BackendError):
                await LoopClock().outlast(backend.load(new_key()), 20)

        self.assertIsNone(await backend.load(new_key()))

    async def test_a_statement_that_hangs_is_given_up(self) -> None:
        """Behaviour 66: within the time limit, and the next one is answered."""
        backend, clock = self.open(), LoopClock()
        key = await _insert(backend)
        with self.database() as database:
            database.executescript(_HANG_IN_DELETE)
            delete = await _begin(backend, backend.delete(key))
            await clock.advance(20)
            with self.assertRaises(BackendError) as caught:
                await delete
            self.assertRegex(
                str(caught.exception),
                r"\AThe session database '.*' did not answer within 20 seconds\. Check"
                " the disk that it is on, and whether another connection holds it,"
                " perhaps an open sqlite3 shell; or raise the option 'timeout'\\.\\Z",
            )
            # It has been broken off, or this would wait for the lock.
            database.execute("DROP TRIGGER hang")

        await backend.delete(key)
        self.assertFalse(await _has(backend, key))

    async def test_a_connection_is_interrupted_once(self) -> None:
        """Two statements time out at once: the next one must not be interrupted."""
        backend = self.open()
        started, interrupted = threading.Event(), threading.Event()

        def wait() -> bool:
            started.set()
            return interrupted.wait(30)

        writer = (await backend.connection()).writer
        await writer.interrupt()
        await writer.create_function("wait", 0, wait)
        waiting = asyncio.ensure_future(writer.execute_fetchall("SELECT wait()"))
        await asyncio.to_thread(started.wait)

        await writer.interrupt()
        interrupted.set()

        self.assertEqual(list(await waiting), [(True,)])

    async def test_a_statement_that_begins_after_the_interruption_does_not_hang(
        self,
    ) -> None:
        """It may be the one that was to be interrupted, not begun in time."""
        writer = (await self.open().connection()).writer
        await writer.interrupt()

        with self.assertRaisesRegex(sqlite3.OperationalError, "interrupted"):
            await writer.execute_fetchall(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
                " SELECT max(i) FROM n"
            )

    async def test_a_hanging_statement_does_not_hold_up_the_end(self) -> None:
        """What a cancelled operation left behind is broken off by close()."""
        threads = set(threading.enumerate())
        backend = self.open()
        key = await _insert(backend)
        with self.database() as database:
            database.executescript(_HANG_IN_DELETE)
        delete = await _begin(backend, backend.delete(key))
        delete.cancel()
        await asyncio.wait([delete])
        writer = (await backend.connection()).writer

        closing = asyncio.create_task(backend.close())
        while not writer.is_leaving:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await LoopClock().advance(10)
        await closing

        self.assert_threads_end(threads)
        self.assertTrue(await _has(backend, key))

    async def test_a_disk_that_is_full_stops_writes_alone(self) -> None:
        """Behaviour 69: on a real file system of 256 KiB."""
        if not _mount(self.directory, "size=256k"):
            self.skipTest("This user cannot mount a small tmpfs.")
        self.addCleanup(_unmount, self.directory)
        backend = self.open()
        key = await _insert(backend, b"one")
        connection = await backend.connection()

        with self.assertRaises(BackendError) as caught:
            while True:
                await _insert(backend, bytes(10_000))

        self.assertIn(
            "database or disk is full. Make room on its disk; what is stored can"
            " still be read.",
            str(caught.exception),
        )
        self.assertIsInstance(caught.exception.__cause__, sqlite3.Error)
        for _ in range(10):
            self.assertEqual(await _data(backend, key), b"one")
        # Another one could not be opened.
        self.assertIs(await backend.connection(), connection)
        self.assertTrue(_mount(self.directory, "remount,size=4m"))
        await _insert(backend, bytes(10_000))

    def test_a_file_that_may_not_grow_stops_writes_alone(self) -> None:
        """Behaviour 69: where the system refuses a write, reads go on."""
        script = f"""
            async def fill():
                backend = SQLiteBackend({str(self.path)!r}, timeout=20)
                await backend.insert(bytes(32), Record(b"one"))
                connection = await backend.connection()
                resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1))
                try:
                    while True:
                        await backend.insert(os.urandom(32), Record(bytes(10_000)))
                except BackendError as error:
                    print(error)
                print((await backend.load(bytes(32))).data)
                print(await backend.connection() is connection)
                resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
                await backend.insert(b"1" * 32, Record(b"two"))
                print((await backend.load(b"1" * 32)).data)
                await backend.close()

            asyncio.run(fill())
        """

        told, *loaded = _run_python(script).splitlines()

        self.assertIn("disk I/O error. Check the disk and the file system", told)
        self.assertEqual(loaded, ["b'one'", "True", "b'two'"])

    async def _assert_fails(
        self, backend: Backend, told: str, key: bytes | None = None
    ) -> None:
        """Every operation fails, with a message and with the driver's error."""
        key = key or new_key()
        for operation in (backend.load(key), backend.delete(key), backend.ping()):
            with self.assertRaises(BackendError) as caught:
                await operation
            self.assertIn(
                f"The session database {str(self.path)!r}", str(caught.exception)
            )
            self.assertIn(told, str(caught.exception))


class SilenceTest(_Case):
    async def test_the_log_shows_neither_keys_nor_data(self) -> None:
        """Behaviour 8: at DEBUG either, the driver's log and asyncio's included."""
        handler = _Everything()
        root, level = logging.getLogger(), logging.getLogger().level
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        self.addCleanup(root.setLevel, level)
        self.addCleanup(root.removeHandler, handler)
        asyncio.get_running_loop().set_debug(True)
        backend, key, data = self.open(), new_key(), secrets.token_bytes(32)
        user = secrets.token_hex(16)

        await backend.insert(key, Record(data, expires=100, user=user))
        self.assertIsNone(
            await backend.insert(key, Record(data, expires=100, user=user))
        )
        loaded = await backend.load(key)
        assert loaded is not None
        await backend.replace(key, Record(data, expires=100, user=user), loaded.version)
        self.assertEqual([key async for key, _ in backend.find(user)], [key])
        # In batches.
        keys = [key, new_key(), new_key()]
        record = Record(data, user=user)
        await asyncio.gather(*(backend.insert(key, record) for key in keys))
        await asyncio.gather(*map(backend.load, keys))
        await backend.purge(50)
        with self.database() as database:
            database.execute("DROP TABLE sessions")
        with self.assertRaises(BackendError) as caught:
            await backend.delete(key)
        await backend.close()

        shown = "\n".join([*handler.lines, repr(caught.exception), repr(loaded)])
        # The driver's log is there, and says what is executed and what fails.
        self.assertIn("SELECT data", shown)
        self.assertIn("<1 parameters>", shown)
        self.assertIn("<3 parameters>", shown)
        self.assertIn("execute_together", shown)
        self.assertIn("returning exception no such table", shown)
        for secret in (*keys, data, user.encode()):
            for form in (
                repr(secret)[2:-1],
                secret.hex(),
                secret.hex().upper(),
                base64.b64encode(secret).decode().rstrip("="),
                base64.urlsafe_b64encode(secret).decode().rstrip("="),
            ):
                self.assertNotIn(form, shown)


class CancellationTest(_Case):
    async def test_after_a_thousand_cancellations_answers_are_right(self) -> None:
        """Behaviour 68: no answer reaches another request."""
        backend = self.open()
        keys = [new_key() for _ in range(50)]
        for key in keys:
            await backend.insert(key, Record(key))

        for turn in range(1000):
            load = asyncio.create_task(backend.load(keys[turn % 50]))
            # It is cancelled before it begins, in the thread, or when answered.
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            load.cancel()
            other = keys[(turn + 1) % 50]
            self.assertEqual(await _data(backend, other), other)

        # It waits for no operation any more.
        await asyncio.wait_for(backend.close(), 10)


class ProcessTest(_Case):
    def test_several_event_loops_may_use_it_in_turn(self) -> None:
        """The file stays open in between, and nothing is bound to a loop."""
        backend = SQLiteBackend(self.path, timeout=20)
        key = asyncio.run(_insert(backend, b"one"))

        async def load_many() -> list[bytes]:
            return await asyncio.gather(*(_data(backend, key) for _ in range(20)))

        for _ in range(2):
            self.assertEqual(asyncio.run(load_many()), [b"one"] * 20)
        asyncio.run(backend.close())

    def test_event_loops_may_take_turns(self) -> None:
        """What watches the time limit in one loop leaves the other alone."""
        backend = SQLiteBackend(self.path, timeout=20)
        first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
        key = first.run_until_complete(_insert(backend, b"one"))

        async def load() -> None:
            self.assertEqual(await _data(backend, key), b"one")
            # Until the timer of the timeouts has ended.
            await LoopClock().advance(20)

        for loop in (second, first, second):
            loop.run_until_complete(load())

        first.run_until_complete(backend.close())
        first.close()
        second.close()

    def test_a_loop_that_ended_in_the_middle_harms_no_other(self) -> None:
        """Behaviour 66: the time limit holds in the next loop as well."""
        script = f"""
            from tornado_sessions.testing.timers import LoopClock

            backend = SQLiteBackend({str(self.path)!r}, timeout=20)
            other = sqlite3.connect(
                {str(self.path)!r}, timeout=30, isolation_level=None
            )

            async def delete():
                await backend.delete(bytes(32))

            async def fail():
                try:
                    await LoopClock().outlast(delete(), 20)
                except BackendError as error:
                    print(error)

            asyncio.run(backend.insert(bytes(32), Record(b"one")))
            other.executescript({_HANG_IN_DELETE!r})
            loop = asyncio.new_event_loop()
            task = loop.create_task(delete())
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            asyncio.run(fail())
            other.execute("DROP TRIGGER hang")
            asyncio.run(delete())
            print("ok")
        """
        told, end = _run_python(script).splitlines()

        self.assertIn("did not answer within 20 seconds", told)
        self.assertEqual(end, "ok")

    def test_a_process_waits_for_the_thread_of_a_dropped_connection(self) -> None:
        """It has its say before the interpreter takes everything down."""
        script = f"""
            import threading, time
            from tornado_sessions.testing.timers import LoopClock

            def tell(failure):
                time.sleep(0.1)
                print(failure.exc_value, flush=True)

            async def fail():
                try:
                    await LoopClock().outlast(backend.delete(bytes(32)), 20)
                except BackendError:
                    pass

            threading.excepthook = tell
            backend = SQLiteBackend({str(self.path)!r}, timeout=20)
            asyncio.run(backend.insert(bytes(32), Record(b"one")))
            other = sqlite3.connect({str(self.path)!r}, isolation_level=None)
            other.executescript({_HANG_IN_DELETE!r})
            loop = asyncio.new_event_loop()
            task = loop.create_task(backend.delete(bytes(32)))
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            asyncio.run(fail())
        """
        printed = _run_python(script)

        # The thread of the other connection as well, if the loop is closed before it.
        self.assertRegex(printed, r"\A(Event loop is closed\n*)+\Z")

    def test_processes_that_start_at_once_lose_nothing(self) -> None:
        """Behaviour 69: four create the file together and count in one record."""
        script = f"""
            async def count():
                backend = SQLiteBackend({str(self.path)!r}, timeout=20)
                for _ in range(50):
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

            print("ready", flush=True)
            input()
            asyncio.run(count())
        """
        counters = [_start_python(script) for _ in range(4)]
        for counter in counters:
            assert counter.stdout is not None
            counter.stdout.readline()
        for counter in counters:
            _, errors = counter.communicate("go\n", timeout=60)
            self.assertEqual(errors, "")

        counted = asyncio.run(
            _data_and_close(SQLiteBackend(self.path, timeout=20), bytes(32))
        )
        self.assertEqual(counted, b"200")

    def test_after_200_kills_every_acknowledged_write_is_there(self) -> None:
        """Behaviours 27, 69: SIGKILL in the middle of writing, four at a time."""
        # The processes fork from one that has imported everything and used
        # nothing. Each counts in a record of its own and tells each count that
        # is stored.
        script = f"""
            async def count(key, tell):
                backend = SQLiteBackend({str(self.path)!r}, timeout=20)
                await backend.insert(key, Record(b"0"))
                for number in range(1, 1_000_000):
                    version = (await backend.load(key)).version
                    await backend.replace(key, Record(b"%d" % number), version)
                    os.write(tell, b"%d\\n" % number)

            def start():
                key = os.urandom(32)
                heard, tell = os.pipe()
                child = os.fork()
                if not child:
                    os.close(heard)
                    asyncio.run(count(key, tell))
                os.close(tell)
                return child, key, open(heard)

            for turn in range(50):
                children = [start() for _ in range(4)]
                for child, key, heard in children:
                    for _ in range(1 + os.urandom(1)[0] % 16):
                        number = heard.readline()
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    # What it had told before it died.
                    *_, number = number, *heard
                    heard.close()
                    print(key.hex(), number.strip(), flush=True)
        """
        acknowledged = [line.split() for line in _run_python(script).splitlines()]
        self.assertEqual(len(acknowledged), 200)

        with self.database() as database:
            for key, number in acknowledged:
                [(data,)] = database.execute(
                    "SELECT data FROM sessions WHERE key = ?", (bytes.fromhex(key),)
                )
                # It may have been killed before it could tell the last one.
                self.assertIn(int(data) - int(number), (0, 1))
            [(check,)] = database.execute("PRAGMA integrity_check").fetchall()
            self.assertEqual(check, "ok")

    def test_it_is_opened_after_a_fork(self) -> None:
        """Behaviour 67: made before it, used after it, in parent and child."""
        script = f"""
            backend = SQLiteBackend({str(self.path)!r}, timeout=20)
            child = os.fork()
            key = bytes([bool(child)]) * 32

            async def use():
                await backend.insert(key, Record(key))
                assert (await backend.load(key)).data == key
                await backend.close()

            asyncio.run(use())
            if child:
                assert os.waitpid(child, 0)[1] == 0
                print("ok")
        """
        self.assertEqual(_run_python(script), "ok\n")
        for key in (bytes(32), bytes([1]) * 32):
            data = asyncio.run(
                _data_and_close(SQLiteBackend(self.path, timeout=20), key)
            )
            self.assertEqual(data, key)

    def test_it_refuses_to_work_in_the_child_of_a_user(self) -> None:
        """Behaviour 67: SQLite would lose writes; the parent is not disturbed."""
        script = f"""
            backend = SQLiteBackend({str(self.path)!r}, timeout=20)
            asyncio.run(backend.insert(bytes(32), Record(b"one")))
            child = os.fork()

            async def refuse():
                for use in (backend.load(bytes(32)), backend.delete(bytes(32))):
                    try:
                        await use
                    except BackendError as error:
                        print(error, flush=True)
                await backend.close()

            async def go_on():
                assert (await backend.load(bytes(32))).data == b"one"
                await backend.close()

            if not child:
                asyncio.run(refuse())
            else:
                assert os.waitpid(child, 0)[1] == 0
                asyncio.run(go_on())
                print("ok")
        """
        *refused, end = _run_python(script).splitlines()

        self.assertEqual(len(refused), 2)
        for told in refused:
            self.assertIn("was in use when the process forked", told)
            self.assertIn("Use the sessions after the fork only", told)
        self.assertEqual(end, "ok")

    def test_it_may_be_closed_and_used_again_after_a_fork(self) -> None:
        """Behaviour 67: what the error advises does work."""
        script = f"""
            backend = SQLiteBackend({str(self.path)!r}, timeout=20)

            async def use():
                await backend.insert(os.urandom(32), Record(b"one"))
                await backend.close()

            asyncio.run(use())
            child = os.fork()
            asyncio.run(use())
            if child:
                assert os.waitpid(child, 0)[1] == 0
                print("ok")
        """
        self.assertEqual(_run_python(script), "ok\n")

    def test_a_process_that_never_closes_ends(self) -> None:
        """The threads of the driver do not keep it alive."""
        script = f"""
            backend = SQLiteBackend({str(self.path)!r}, timeout=20)
            asyncio.run(backend.insert(bytes(32), Record(b"one")))
            asyncio.run(backend.load(bytes(32)))
            print("ok")
        """
        self.assertEqual(_run_python(script), "ok\n")


class _Everything(logging.Handler):
    """Keeps each line that is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def _new_directory(case: unittest.TestCase) -> pathlib.Path:
    directory = tempfile.TemporaryDirectory()
    case.addCleanup(directory.cleanup)
    return pathlib.Path(directory.name).resolve()


async def _begin(
    backend: SQLiteBackend, work: Coroutine[Any, Any, T]
) -> asyncio.Task[T]:
    """Returns the task of ``work``, whose write is being executed by then."""
    writer, executed = (await backend.connection()).writer, list[str]()
    await writer.set_trace_callback(executed.append)
    task = asyncio.create_task(work)
    while not executed:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return task


async def _insert(
    backend: Backend,
    data: bytes = b"",
    *,
    expires: float = 1e10,
    user: str | None = None,
) -> bytes:
    key = new_key()
    await backend.insert(key, Record(data, expires=expires, user=user))
    return key


async def _has(backend: Backend, key: bytes) -> bool:
    return await backend.load(key) is not None


async def _data(backend: Backend, key: bytes) -> bytes:
    record = await backend.load(key)
    assert record is not None, "The record is not in the store."
    return record.data


async def _data_and_close(backend: Backend, key: bytes) -> bytes:
    try:
        return await _data(backend, key)
    finally:
        await backend.close()


async def _pragma(connection: aiosqlite.Connection, name: str) -> list[Any]:
    return list(await connection.execute_fetchall(f"PRAGMA {name}"))


def _mount(directory: pathlib.Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
    mounted = subprocess.run(command, check=False, stderr=subprocess.DEVNULL)
    return mounted.returncode == 0


def _unmount(directory: pathlib.Path) -> None:
    subprocess.run(["umount", "-l", str(directory)], check=True)


def _assert_ends(case: unittest.TestCase, thread: threading.Thread) -> None:
    thread.join(10)
    case.assertFalse(thread.is_alive())


def _start_python(script: str) -> subprocess.Popen[str]:
    """Starts a script in a Python of its own that finds what this one finds."""
    head = """
        import asyncio, os, resource, signal, sqlite3
        from tornado_sessions.storage.backend import Record
        from tornado_sessions.errors import BackendError
        from tornado_sessions_sqlite import SQLiteBackend
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run_python(script: str) -> str:
    """Runs a script to its end and answers what it printed."""
    process = _start_python(script)
    try:
        printed, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return printed


if __name__ == "__main__":
    unittest.main()

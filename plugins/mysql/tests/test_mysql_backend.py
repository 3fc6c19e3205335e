"""What the MySQL backend does beyond the contract of all backends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import asyncmy
from tornado.testing import AsyncHTTPTestCase
from tornado_sessions_mysql import MySQLBackend
from tornado_sessions_mysql.connections import Connection, Connections

from servers import MariaDB
from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Backend, Record
from tornado_sessions.testing import BackendContract, HandlerContract, OutageContract
from tornado_sessions.testing.timers import LoopClock

SERVER = os.environ.get("SESSIONS_TEST_MYSQL_URL", "")

# Test runs may share a server.
TABLE = f"sessions_{os.getpid()}"

needs_server = unittest.skipUnless(SERVER, "SESSIONS_TEST_MYSQL_URL is not set")

# Connections besides the one that asks.
_OTHERS = (
    "SELECT id FROM information_schema.processlist"
    " WHERE id != CONNECTION_ID() AND command != 'Daemon'"
)

if TYPE_CHECKING:
    _Case = unittest.IsolatedAsyncioTestCase
else:
    _Case = object


def tearDownModule() -> None:
    async def drop() -> None:
        async with _shell() as shell:
            rows = await shell.rows(f"SHOW TABLES LIKE '{TABLE}%'")
            for (name,) in rows:
                await shell.run(f"DROP TABLE `{name}`")

    if SERVER:
        asyncio.run(drop())


@needs_server
class MySQLContractTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends."""

    def make_backend(self) -> Backend:
        return _backend()


@needs_server
class MySQLHandlerTest(HandlerContract, AsyncHTTPTestCase):
    """The contract over HTTP."""

    def make_session_backend(self) -> Backend:
        return _backend()


@needs_server
class MySQLOutageTest(OutageContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends whose store fails."""

    def make_server(self) -> MariaDB:
        return MariaDB()

    def make_backend(self, port: int, timeout: float) -> Backend:
        login, _, _ = MariaDB().url.rpartition("@")
        return MySQLBackend(f"{login}@127.0.0.1:{port}/sessions", timeout=timeout)


class Shell:
    """Somebody else who uses the database."""

    def __init__(self, connection: Any) -> None:  # noqa: ANN401 - it is not typed
        self._connection = connection

    async def run(self, sql: str) -> None:
        """Executes one statement."""
        await self._connection.query(sql)

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Executes one statement and returns its rows."""
        async with self._connection.cursor() as cursor:
            await cursor.execute(sql)
            return list(await cursor.fetchall())


async def _connect(server: str = "") -> Any:  # noqa: ANN401
    parts = urlsplit(server or SERVER)
    connect: Any = asyncmy.connect
    return await connect(
        host=parts.hostname,
        port=parts.port,
        user=parts.username,
        password=unquote(parts.password or ""),
        database=parts.path[1:],
        autocommit=True,
    )


@contextlib.asynccontextmanager
async def _shell(server: str = "") -> AsyncIterator[Shell]:
    connection = await _connect(server)
    shell = Shell(connection)
    try:
        # Whatever the server does with others that are idle.
        await shell.run("SET SESSION wait_timeout = 600")
        yield shell
    finally:
        await connection.ensure_closed()


class BackendTests(_Case):
    """Has backends that it closes, and tables of its own."""

    def open(self, server: str = "", **options: object) -> MySQLBackend:
        backend = _backend(server or SERVER, **options)
        self.addAsyncCleanup(backend.close)
        return backend

    def new_table(self) -> str:
        return f"{TABLE}_{secrets.token_hex(4)}"

    async def fails(self, backend: Backend, key: bytes) -> BackendError:
        """Returns the error of a load."""
        with self.assertRaises(BackendError) as caught:
            await backend.load(key)
        return caught.exception


@needs_server
class TableTest(BackendTests, unittest.IsolatedAsyncioTestCase):
    """What is stored, and how the table is created and checked."""

    async def test_a_record_is_one_row(self) -> None:
        """The README says how it looks, so that others can read it."""
        backend, key = self.open(), _new_key()

        version = await backend.insert(key, Record(b"data", expires=4e9 + 1, user="a"))

        async with _shell() as shell:
            rows = await shell.rows(
                "SELECT version, data, expires, expires_minute, user, user_digest"
                f" FROM `{TABLE}` WHERE `key` = 0x{key.hex()}"
            )
        digest = hashlib.sha256(b"a").digest()
        self.assertEqual(rows, [(version, b"data", 4e9 + 1, 4e9 // 60, b"a", digest)])

    async def test_a_record_without_expiry_and_user_has_neither(self) -> None:
        """Neither index finds it."""
        backend, key = self.open(), _new_key()

        await backend.insert(key, Record(b"data"))

        async with _shell() as shell:
            rows = await shell.rows(
                "SELECT expires, expires_minute, user, user_digest"
                f" FROM `{TABLE}` WHERE `key` = 0x{key.hex()}"
            )
        self.assertEqual(rows, [(0.0, None, None, None)])

    async def test_every_byte_of_a_user_counts(self) -> None:
        """Behaviour 46: a collation would take some of these for one."""
        backend = self.open()
        base = secrets.token_hex(8)
        long = base + "🍎" * 1000
        users = [base + end for end in ("a", "A", "a ", "á", "a\0", "a\0b", "🍎")]
        users += [long, long + "a", long + "b", "x" + long]
        keys = {user: _new_key() for user in users}
        for user, key in keys.items():
            await backend.insert(key, Record(b"one", user=user))

        for user, key in keys.items():
            found = [found async for found, _ in backend.find(user)]
            self.assertEqual(found, [key], repr(user[16:20]))

    async def test_several_processes_create_one_table(self) -> None:
        """Whoever comes second uses that of the first."""
        table = self.new_table()
        backends = [self.open(table=table) for _ in range(8)]

        loaded = await asyncio.gather(*(each.load(_new_key()) for each in backends))

        self.assertEqual(loaded, [None] * 8)

    async def test_the_statement_of_the_readme_creates_the_table(self) -> None:
        """A user who may not create it can use it."""
        readme = Path(__file__).parent.parent / "README.md"
        [statement] = [
            block
            for block in readme.read_text().split("```sql\n")
            if block.startswith("CREATE")
        ]
        table = self.new_table()
        statement = statement.partition("```")[0].replace("`sessions", f"`{table}")
        async with _shell() as shell:
            await shell.run(statement)
            await shell.run(
                f"CREATE USER IF NOT EXISTS '{TABLE}'@'127.0.0.1' IDENTIFIED BY 'pässword'"
            )
            self.addAsyncCleanup(_run, f"DROP USER '{TABLE}'@'127.0.0.1'")
            await shell.run(
                "GRANT SELECT, INSERT, UPDATE, DELETE"
                f" ON `{table}` TO '{TABLE}'@'127.0.0.1'"
            )
            created = await shell.rows(f"SHOW CREATE TABLE `{table}`")
        place = SERVER.rpartition("@")[2]
        server = f"mysql://{TABLE}:p%C3%A4ssword@{place}"
        backend, key = self.open(server, table=table), _new_key()

        await backend.insert(key, Record(b"one"))
        self.assertEqual(await backend.purge(time.time()), 0)

        other, by_plugin = self.open(server, table=f"{table}_2"), self.new_table()
        error = await self.fails(other, key)
        self.assertIn("Let an administrator run the SQL in the README", str(error))
        await self.open(table=by_plugin).ping()
        async with _shell() as shell:
            [(_, ours)] = await shell.rows(f"SHOW CREATE TABLE `{by_plugin}`")
        self.assertEqual(ours.replace(by_plugin, table), created[0][1])

    async def test_a_table_that_is_dropped_is_created_again(self) -> None:
        """One operation fails."""
        table = self.new_table()
        backend, key = self.open(table=table), _new_key()
        await backend.insert(key, Record(b"one"))
        await _run(f"DROP TABLE `{table}`")

        error = await self.fails(backend, key)

        self.assertIn("The next request creates it.", str(error))
        self.assertIsNone(await backend.load(key))

    async def test_a_table_that_is_not_ours_is_refused(self) -> None:
        """Behaviour 88: nothing is written to it."""
        table = self.new_table()
        await _run(f"CREATE TABLE `{table}` (a INT)")

        error = await self.fails(self.open(table=table), _new_key())

        self.assertIn(
            f" has a table {table!r} that is not ours. Name another table with the"
            " option 'table', such as '?table=web_sessions' in the URL.",
            str(error),
        )

    async def test_a_view_is_refused(self) -> None:
        """Behaviour 88: whatever it shows."""
        table = self.new_table()
        await _run(f"CREATE VIEW `{table}` AS SELECT 1")
        self.addAsyncCleanup(_run, f"DROP VIEW `{table}`")

        error = await self.fails(self.open(table=table), _new_key())

        self.assertIn(f" has a view {table!r} that is not ours.", str(error))

    async def test_a_table_of_a_newer_release_is_refused(self) -> None:
        """This one does not know what is in it."""
        table = self.new_table()
        await _run(
            f"CREATE TABLE `{table}` (a INT) COMMENT 'tornado_sessions, schema 2'"
        )

        error = await self.fails(self.open(table=table), _new_key())

        self.assertIn(
            "has the schema 2, and this release knows 1. Upgrade tornado-sessions-mysql,"
            " or name another table with the option 'table'.",
            str(error),
        )

    async def test_a_table_without_transactions_is_refused(self) -> None:
        """A crash of the server would damage it."""
        table = self.new_table()
        await self.open(table=table).ping()
        await _run(f"ALTER TABLE `{table}` ENGINE=MyISAM")

        error = await self.fails(self.open(table=table), _new_key())

        self.assertIn(
            "has the engine 'MyISAM', which has no transactions. Run: ALTER TABLE"
            f" `{table}` ENGINE=InnoDB",
            str(error),
        )

    async def test_a_missing_index_is_told_once(self) -> None:
        """Behaviour 88: with the statement that creates it."""
        table = self.new_table()
        await self.open(table=table).ping()
        for column, index, consequence in (
            ("expires_minute", "expires", "what has expired is found slowly"),
            ("user_digest", "user", "the sessions of a user are found slowly"),
        ):
            await _run(f"ALTER TABLE `{table}` DROP INDEX `{table}_{index}`")
            backend = self.open(table=table)

            with _warnings() as told:
                await backend.ping()
                await backend.close()
                await backend.ping()

            add = f"ALTER TABLE `{table}` ADD INDEX ({column})"
            message = (
                f"The table {table!r} of MySQL {backend.address!r} has no index on"
                f" {column!r}, so {consequence}. Run: {add}"
            )
            self.assertEqual(told, [message])
            await _run(add)
        with _warnings() as told:
            await self.open(table=table).ping()
        self.assertEqual(told, [])

    async def test_a_unique_index_that_is_not_ours_is_named(self) -> None:
        """Behaviours 8, 88: it is no conflict, and the error shows no value."""
        table, user = self.new_table(), secrets.token_hex(8)
        backend, key = self.open(table=table), _new_key()
        await backend.insert(key, Record(b"one", user=user))
        await _run(f"ALTER TABLE `{table}` ADD UNIQUE one_each (user(100))")

        with self.assertRaises(BackendError) as caught:
            await backend.insert(_new_key(), Record(b"two", user=user))

        self.assertIn(
            "The index 'one_each' refuses the session (error 1062). It is not ours: drop"
            " it, or name another table with the option 'table'.",
            str(caught.exception),
        )
        self.assertNotIn(user, f"{caught.exception} {caught.exception.__cause__!r}")

    async def test_the_text_of_a_trigger_is_not_repeated(self) -> None:
        """Behaviour 8: it may hold whatever is in the row."""
        table = self.new_table()
        backend = self.open(table=table)
        await backend.ping()
        await _run(
            f"CREATE TRIGGER `{table}` BEFORE INSERT ON `{table}` FOR EACH ROW"
            " SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'hunter2'"
        )

        with self.assertRaises(BackendError) as caught:
            await backend.insert(_new_key(), Record(b"one"))

        self.assertTrue(
            str(caught.exception).endswith("OperationalError (error 1644).")
        )
        self.assertNotIn("hunter2", repr(caught.exception.__cause__))


@needs_server
class LockTest(BackendTests, unittest.IsolatedAsyncioTestCase):
    """What others lock."""

    async def asyncSetUp(self) -> None:
        self.table = self.new_table()
        self.backend = self.open(table=self.table)
        self.keys = [_new_key() for _ in range(5)]
        for key in self.keys:
            await self.backend.insert(key, Record(b"one", expires=1.0))

    async def test_a_lock_is_told_as_the_reason(self) -> None:
        """It is the shell's row, or its whole table."""
        clock = LoopClock()
        async with _shell() as shell, _shell() as watch:
            for lock, unlock in (
                (f"{self._lock(self.keys[0])}", "ROLLBACK"),
                (f"LOCK TABLES `{self.table}` WRITE", "UNLOCK TABLES"),
            ):
                await shell.run("START TRANSACTION")
                await shell.run(lock)

                deleting = asyncio.ensure_future(self.backend.delete(self.keys[0]))
                tries: set[tuple[object, ...]] = set()
                # The server gives up each second.
                while len(tries) < 2:
                    tries.update(await watch.rows(self._tries))
                    await asyncio.sleep(0.01)
                await clock.advance(20)
                with self.assertRaises(BackendError) as caught:
                    await deleting

                self.assertIn(
                    "Lock wait timeout exceeded; try restarting transaction (error 1205)."
                    " Another transaction holds a lock, perhaps an open mysql shell; end"
                    " that, or raise the option 'timeout'.",
                    str(caught.exception),
                )
                await shell.run(unlock)
            await self.backend.delete(self.keys[0])

    async def test_a_write_waits_for_a_lock_until_its_timeout(self) -> None:
        """The server gives up each second."""
        backend = self.open(table=self.table, timeout=30)
        async with _shell() as shell, _shell() as watch:
            await shell.run("START TRANSACTION")
            await shell.run(self._lock(self.keys[0]))
            deleting = asyncio.ensure_future(backend.delete(self.keys[0]))
            before = await _lock_timeouts(watch)
            await _until(lambda: _lock_timeouts(watch), above=before)
            await shell.run("ROLLBACK")

            await deleting

        self.assertIsNone(await backend.load(self.keys[0]))

    async def test_reads_do_not_wait_for_the_lock_of_a_row(self) -> None:
        """They see what was stored last."""
        async with _shell() as shell:
            await shell.run("START TRANSACTION")
            await shell.run(self._lock(self.keys[0]))

            self.assertIsNotNone(await self.backend.load(self.keys[0]))

    async def test_a_purge_leaves_what_others_have_locked(self) -> None:
        """Behaviour 65: it waits for nobody, however few rows there are."""
        async with _shell() as shell:
            await shell.run("START TRANSACTION")
            await shell.run(self._lock(self.keys[2]))

            self.assertEqual(await self.backend.purge(time.time()), 4)

            await shell.run("ROLLBACK")
        self.assertEqual(await self.backend.purge(time.time()), 1)

    async def test_a_lock_holds_up_none_of_those_beside_it(self) -> None:
        """Behaviour 80: writes that leave together have each its own outcome."""
        backend = self.backend
        records = await asyncio.gather(*map(backend.load, self.keys))
        versions = [record and record.version for record in records]
        async with _shell() as shell:
            await shell.run("START TRANSACTION")
            await shell.run(self._lock(self.keys[2]))

            replaced = await asyncio.gather(
                *(
                    backend.replace(key, Record(b"two"), version)
                    for key, version in zip(self.keys, versions, strict=True)
                ),
                return_exceptions=True,
            )
            deleted = await asyncio.gather(
                *map(backend.delete, self.keys), return_exceptions=True
            )

            await shell.run("ROLLBACK")
        for outcomes in (replaced, deleted):
            self.assertIsInstance(outcomes.pop(2), BackendError)
            self.assertFalse([each for each in outcomes if isinstance(each, Exception)])
        self.assertNotIn(None, replaced)
        loaded = await asyncio.gather(*map(backend.load, self.keys))
        self.assertEqual(
            [record and record.data for record in loaded],
            [None, None, b"one", None, None],
        )

    async def test_a_write_that_is_refused_leaves_those_beside_it(self) -> None:
        """Behaviour 88: nor is a transaction left open."""
        backend = self.backend
        records = await asyncio.gather(*map(backend.load, self.keys))
        versions = [record and record.version for record in records]
        await _run(
            f"ALTER TABLE `{self.table}` ADD CONSTRAINT few CHECK (length(data) < 9)"
        )
        data = [b"two", b"two", b"too long a text", b"two", b"two"]

        replaced = await asyncio.gather(
            *(
                backend.replace(key, Record(each), version)
                for key, version, each in zip(self.keys, versions, data, strict=True)
            ),
            *(backend.insert(_new_key(), Record(each)) for each in data),
            return_exceptions=True,
        )

        for refused in (replaced.pop(7), replaced.pop(2)):
            self.assertIn("CONSTRAINT `few` failed", str(refused))
        self.assertFalse([each for each in replaced if not isinstance(each, int)])
        await asyncio.gather(*map(backend.delete, self.keys[:2]))
        async with _shell() as shell:
            rows = await shell.rows(f"SELECT data FROM `{self.table}` ORDER BY 1")
        self.assertEqual([row[0] for row in rows], [b"one", *[b"two"] * 6])

    async def test_a_statement_that_loses_a_deadlock_is_executed_again(self) -> None:
        """Nothing of it was applied, so the caller need not know."""
        backend = self.open(table=self.table, timeout=30)
        await _run(f"CREATE TABLE `{self.table}_2` (a INT PRIMARY KEY, b INT)")
        await _run(f"INSERT INTO `{self.table}_2` SELECT seq, 0 FROM seq_1_to_100")
        await _run(
            f"CREATE TRIGGER `{self.table}` BEFORE UPDATE ON `{self.table}` FOR EACH ROW"
            f" UPDATE `{self.table}_2` SET b = b + 1 WHERE a = 1"
        )
        record = await backend.load(self.keys[0])
        assert record is not None
        async with _shell() as shell, _shell() as watch:
            # It changes more rows, so the server rolls the other one back.
            await shell.run("START TRANSACTION")
            await shell.run(f"UPDATE `{self.table}_2` SET b = 1")
            saving = asyncio.ensure_future(
                backend.replace(self.keys[0], Record(b"two"), record.version)
            )
            await _until(lambda: _waits(watch))
            before = await _deadlocks(watch)
            await shell.run(self._lock(self.keys[0]))
            self.assertEqual(await _deadlocks(watch), before + 1)
            await shell.run("COMMIT")

        self.assertIsNotNone(await saving)
        loaded = await backend.load(self.keys[0])
        assert loaded is not None
        self.assertEqual(loaded.data, b"two")

    @property
    def _tries(self) -> str:
        return (
            "SELECT query_id FROM information_schema.processlist"
            f" WHERE info LIKE '%{self.table}%' AND id != CONNECTION_ID()"
        )

    def _lock(self, key: bytes) -> str:
        return f"SELECT 1 FROM `{self.table}` WHERE `key` = 0x{key.hex()} FOR UPDATE"


@needs_server
class ConnectionTest(BackendTests, unittest.IsolatedAsyncioTestCase):
    """How the connections are opened, replaced and closed."""

    async def test_whoever_uses_dropped_connections_closes_its_own(self) -> None:
        """Nobody else would."""
        opened = []

        async def connect() -> Connection:
            opened.append(Connection(await _connect()))
            return opened[-1]

        connections = Connections(connect, 2, lambda: False)
        self.assertEqual(await connections.fetch("SELECT 1"), ((1,),))
        running = asyncio.ensure_future(connections.fetch("SELECT SLEEP(0.2)"))
        await asyncio.sleep(0)

        connections.drop()

        await running
        self.assertEqual(await connections.fetch("SELECT 2"), ((2,),))
        self.assertEqual([each.is_closed() for each in opened], [True, True])

    async def test_a_wrong_password_is_said_to_be_one(self) -> None:
        """Behaviour 8: and is not repeated, nor logged."""
        backend = self.open(SERVER.replace(urlsplit(SERVER).password or "", "hunter2"))

        with self.assertLogs(level=logging.DEBUG) as logs:
            logging.getLogger().debug("at least one")
            error = await self.fails(backend, _new_key())

        self.assertIn("Access denied for user", str(error))
        self.assertIn(
            "Check the user, the password and the database of the URL", str(error)
        )
        self.assertNotIn("hunter2", f"{error} {error.__cause__!r} {logs.output}")

    async def test_a_server_that_is_down_is_named(self) -> None:
        """With what to check."""
        backend = self.open("mysql://u:p@127.0.0.1:1/shop")

        error = await self.fails(backend, _new_key())

        self.assertIn("MySQL '127.0.0.1:1/shop' failed: Can't connect", str(error))
        self.assertIn("Check that it runs, and the host", str(error))

    async def test_a_server_of_another_kind_is_told(self) -> None:
        """Whatever the driver makes of its greeting."""
        greetings = [b"", b"\0", b"hello", b"\x0a10.11\0", b"\x0ax\0" + bytes(60)]

        async def greet(_: object, writer: asyncio.StreamWriter) -> None:
            greeting = greetings[-1]
            writer.write(len(greeting).to_bytes(3, "little") + b"\0" + greeting)
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        backend = self.open(f"mysql://u:p@127.0.0.1:{port}/shop")
        while greetings:
            error = await self.fails(backend, _new_key())
            self.assertIn(
                "The server does not speak MySQL's protocol (error 2007). Check the host"
                " and the port of the URL.",
                str(error),
            )
            greetings.pop()
        server.close()


class OwnServerTests(BackendTests):
    """Tests that change a server, which is one of their own."""

    options: tuple[str, ...] = ()
    server: MariaDB

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = MariaDB(*cls.options)
        cls.addClassCleanup(cls.server.stop)
        cls.server.start()


@needs_server
class LimitTest(OwnServerTests, unittest.IsolatedAsyncioTestCase):
    """A server that closes idle connections soon, and takes short packets."""

    options = ("--wait-timeout=1", "--max-allowed-packet=32768", "--sql-mode=")

    async def test_what_is_too_long_for_a_column_is_refused(self) -> None:
        """Behaviour 63: with the mode of this server it would be cut."""
        backend, key = (
            self.open(self.server.url, table="short", max_bytes=500),
            _new_key(),
        )
        await backend.ping()
        async with _shell(self.server.url) as shell:
            await shell.run("ALTER TABLE short MODIFY data TINYBLOB NOT NULL")

        with self.assertRaisesRegex(BackendError, "Data too long for column 'data'"):
            await backend.insert(key, Record(bytes(300)))

        self.assertIsNone(await backend.load(key))

    async def test_a_connection_that_the_server_has_closed_is_replaced(self) -> None:
        """Behaviour 66: no request fails on it."""
        backend, key = self.open(self.server.url, timeout=30), _new_key()
        await backend.insert(key, Record(b"one"))
        await asyncio.gather(*(backend.load(key) for _ in range(20)))
        async with _shell(self.server.url) as shell:
            for (number,) in await shell.rows(_OTHERS):
                await shell.run(f"KILL {number}")
            await _until(lambda: _are_gone(shell, _OTHERS))

        loaded = await asyncio.gather(*(backend.load(key) for _ in range(20)))

        self.assertTrue(all(loaded))

    async def test_idle_connections_are_replaced(self) -> None:
        """Behaviour 66: the server closes them after a second."""
        backend, key = self.open(self.server.url, timeout=30), _new_key()
        await backend.insert(key, Record(b"one"))
        await asyncio.gather(*(backend.load(key) for _ in range(20)))
        async with _shell(self.server.url) as shell:
            await _until(lambda: _are_gone(shell, _OTHERS))

        loaded = await asyncio.gather(*(backend.load(key) for _ in range(20)))

        self.assertTrue(all(loaded))

    async def test_packets_that_are_too_short_are_told(self) -> None:
        """When it connects, and with the session that does not fit."""
        backend = self.open(self.server.url)

        with _warnings() as told:
            await backend.ping()
        with self.assertRaises(BackendError) as caught:
            await backend.insert(_new_key(), Record(bytes(60_000)))

        message = (
            f"MySQL {backend.address!r} takes packets of 32768 bytes, which is too"
            " few for a session of 65536. Raise max_allowed_packet on the server, or"
            " lower the option 'max_bytes'."
        )
        self.assertEqual(told, [message])
        self.assertIsNotNone(caught.exception.__cause__)
        with _warnings() as told:
            await self.open(self.server.url, max_bytes=20_000).ping()
        self.assertEqual(told, [])

    async def test_writes_together_may_be_longer_than_a_packet(self) -> None:
        """Behaviour 63: they are sent one by one."""
        backend, keys = self.open(self.server.url, timeout=30), _new_keys(6)

        written = await asyncio.gather(
            *(backend.insert(key, Record(key * 300)) for key in keys)
        )

        self.assertNotIn(None, written)
        loaded = await asyncio.gather(*map(backend.load, keys))
        self.assertEqual(
            [record and record.data for record in loaded], [key * 300 for key in keys]
        )

    async def test_a_server_that_is_read_only_is_told(self) -> None:
        """As a replica is. What is stored can be read."""
        backend, key = self.open(self.server.url), _new_key()
        await backend.insert(key, Record(b"one"))
        async with _shell(self.server.url) as shell:
            await shell.run("CREATE USER reader@127.0.0.1 IDENTIFIED BY 'x'")
            await shell.run("GRANT ALL ON sessions.* TO reader@127.0.0.1")
            await shell.run("SET GLOBAL read_only = 1")
            place = self.server.url.rpartition("@")[2]
            reader = self.open(f"mysql://reader:x@{place}")

            self.assertIsNotNone(await reader.load(key))
            with self.assertRaisesRegex(BackendError, "Name the primary in the URL"):
                await reader.delete(key)

            await shell.run("SET GLOBAL read_only = 0")


@needs_server
class TLSTest(OwnServerTests, unittest.IsolatedAsyncioTestCase):
    """A server with a certificate of its own."""

    certificate: Path

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        os.chmod(folder.name, 0o755)
        cls.certificate = Path(folder.name, "certificate.pem")
        key = Path(folder.name, "key.pem")
        command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost"
        command += " -addext subjectAltName=IP:127.0.0.1"
        subprocess.run(
            [*command.split(), "-keyout", key, "-out", cls.certificate],
            check=True,
            capture_output=True,
        )
        key.chmod(0o644)
        cls.options = (
            f"--ssl-cert={cls.certificate}",
            f"--ssl-key={key}",
            f"--ssl-ca={cls.certificate}",
            "--require-secure-transport=ON",
        )
        super().setUpClass()

    async def test_a_certificate_is_checked(self) -> None:
        """With that of the authority, the connection is encrypted."""
        key, data = _new_key(), secrets.token_bytes(65_000)
        for options in (
            {"ssl_ca": self.certificate},
            {"ssl_ca": self.certificate, "ssl_mode": "verify_ca"},
            {"ssl_mode": "required"},
        ):
            with self.subTest(options=options):
                backend = self.open(self.server.url, timeout=30, **options)
                await backend.delete(key)
                await backend.insert(key, Record(data))

                record = await backend.load(key)
                assert record is not None
                self.assertTrue(record.data == data)

    async def test_a_certificate_that_nobody_vouches_for_is_refused(self) -> None:
        """The error says that this is the reason."""
        backend = self.open(self.server.url, ssl_mode="verify_identity")

        error = await self.fails(backend, _new_key())

        self.assertIn("CERTIFICATE_VERIFY_FAILED", str(error))
        self.assertIn("TLS options of the URL", str(error))

    async def test_a_server_that_wants_tls_says_so(self) -> None:
        """Where the URL has no option for it."""
        error = await self.fails(self.open(self.server.url), _new_key())

        self.assertIn("whether the server requires TLS", str(error))


@needs_server
class ProcessTest(BackendTests, unittest.IsolatedAsyncioTestCase):
    """Another process with the same table."""

    async def test_what_a_killed_process_was_told_is_stored(self) -> None:
        """Behaviour 27: and it holds no lock any more."""
        program = """
            import asyncio, secrets, sys
            from tornado_sessions_mysql import MySQLBackend
            from tornado_sessions.storage.backend import Record

            async def main():
                backend = MySQLBackend.from_url(sys.argv[1], {})
                await asyncio.gather(*(write(backend) for _ in range(8)))

            async def write(backend):
                while True:
                    key = secrets.token_bytes(32)
                    await backend.insert(key, Record(b"one"))
                    print(key.hex(), flush=True)

            asyncio.run(main())
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            textwrap.dedent(program),
            f"{SERVER}?table={TABLE}&timeout=30",
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        told = [await process.stdout.readline() for _ in range(300)]
        process.kill()
        told += (await process.stdout.read()).split(b"\n")[:-1]
        await process.wait()

        backend = self.open(timeout=30)
        for line in told:
            key = bytes.fromhex(line.decode())
            self.assertIsNotNone(await backend.load(key))
            await backend.delete(key)


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collects what is logged as a warning."""
    logger, told = logging.getLogger("tornado_sessions"), []
    handler = logging.Handler(logging.WARNING)
    # A subclass for one line would say no more.
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)


async def _run(sql: str) -> None:
    async with _shell() as shell:
        await shell.run(sql)


async def _until(look: Callable[[], Awaitable[int]], above: int = 0) -> None:
    """Waits until ``look`` returns more than ``above``."""
    for _ in range(1500):
        if await look() > above:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("It does not come.")


async def _are_gone(shell: Shell, rows: str) -> bool:
    return not await shell.rows(rows)


async def _status(shell: Shell, name: str) -> int:
    rows = await shell.rows(f"SHOW GLOBAL STATUS LIKE '{name}'")
    return int(rows[0][1])


async def _deadlocks(shell: Shell) -> int:
    return await _status(shell, "Innodb_deadlocks")


async def _lock_timeouts(shell: Shell) -> int:
    rows = await shell.rows(
        "SELECT count FROM information_schema.innodb_metrics"
        " WHERE name = 'lock_timeouts'"
    )
    return int(rows[0][0])


async def _waits(shell: Shell) -> int:
    return await _status(shell, "Innodb_row_lock_current_waits")


def _new_key() -> bytes:
    return secrets.token_bytes(32)


def _new_keys(count: int) -> list[bytes]:
    return [_new_key() for _ in range(count)]


def _backend(server: str = SERVER, **options: object) -> MySQLBackend:
    # Hundreds of operations at once take long on a busy machine.
    options = {"table": TABLE, "timeout": 20, **options}
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return MySQLBackend.from_url(f"{server}?{query}", {})


if __name__ == "__main__":
    unittest.main()

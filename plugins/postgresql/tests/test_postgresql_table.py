"""The table of the PostgreSQL backend, and what is in its place."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import unittest
from pathlib import Path
from typing import Any

import asyncpg
from tornado_sessions_postgresql import PostgreSQLBackend

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Record

SERVER = os.environ.get("SESSIONS_TEST_POSTGRESQL_URL", "")
README = Path(__file__).parent.parent / "README.md"


@unittest.skipUnless(SERVER, "SESSIONS_TEST_POSTGRESQL_URL is not set")
class TableTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        # Test runs may share a server.
        self.schema = f"test_{secrets.token_hex(8)}"
        self.administrator = await asyncpg.connect(
            SERVER, server_settings={"search_path": self.schema}
        )
        await self.execute(f"CREATE SCHEMA {self.schema}")
        self.addAsyncCleanup(self._drop)
        self.address = f"{SERVER.rpartition('@')[2]}"

    async def _drop(self) -> None:
        await self.execute(f"DROP SCHEMA {self.schema} CASCADE")
        await self.execute(f"DROP ROLE IF EXISTS {self.schema}")
        await self.administrator.close()

    def open(self, server: str = SERVER, **options: object) -> PostgreSQLBackend:
        options = {"search_path": self.schema, "timeout": 20, **options}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        backend = PostgreSQLBackend.from_url(f"{server}?{query}", {})
        self.addAsyncCleanup(backend.close)
        return backend

    async def execute(self, sql: str) -> None:
        await self.administrator.execute(sql)

    async def fetch(self, sql: str, *values: object) -> list[Any]:
        rows: list[Any] = await self.administrator.fetch(sql, *values)
        return rows

    # What is stored.

    async def test_a_record_is_one_row(self) -> None:
        """The README says how it looks, so that others can read it."""
        key = secrets.token_bytes(32)

        version = await self.open().insert(key, Record(b"data", None, 4e9, "ann"))

        [row] = await self.fetch("SELECT * FROM sessions")
        self.assertEqual(
            dict(row),
            {
                "key": key,
                "version": version,
                "data": b"data",
                "expires": 4e9,
                "expires_minute": 4e9 // 60,
                "user": b"ann",
            },
        )

    async def test_a_record_without_expiry_and_user_is_in_neither_index(self) -> None:
        """It stays for good."""
        await self.open().insert(secrets.token_bytes(32), Record(b"data"))

        [row] = await self.fetch('SELECT expires, expires_minute, "user" FROM sessions')
        self.assertEqual(tuple(row), (0.0, None, None))

    async def test_most_saves_leave_the_indexes_alone(self) -> None:
        """A save within the same minute is a heap-only update."""
        backend, key = self.open(), secrets.token_bytes(32)
        version = await backend.insert(key, Record(b"data", None, 6e9, "ann"))
        for second in range(10):
            record = Record(b"data", None, 6e9 + second, "ann")
            version = await backend.replace(key, record, version)
        await backend.close()

        updated = (0, 0)
        while updated[0] < 10:
            # The server counts when a connection has ended.
            [updated] = await self.fetch(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
                " WHERE relid = 'sessions'::regclass"
            )
        self.assertEqual(tuple(updated), (10, 10))

    async def test_an_administrator_can_create_what_the_readme_shows(self) -> None:
        """A user who may create nothing can use it, with four rights."""
        [sql] = re.findall(
            r"```sql\n(CREATE TABLE.*?)```", README.read_text(), re.DOTALL
        )
        await self.execute(sql)
        url = await self._create_user()
        backend, key = self.open(url), secrets.token_bytes(32)

        with self.assertNoLogs("tornado_sessions", logging.WARNING):
            version = await backend.insert(key, Record(b"one", None, 4e9, "ann"))
            await backend.replace(key, Record(b"two", None, 4e9, "ann"), version)
            found = [key async for key, _ in backend.find("ann")]
            self.assertEqual(await backend.purge(5e9), 1)
            await backend.delete(key)
        self.assertEqual(found, [key])

    async def test_the_readme_shows_what_the_backend_creates(self) -> None:
        """Column for column, and index for index."""
        [sql] = re.findall(
            r"```sql\n(CREATE TABLE.*?)```", README.read_text(), re.DOTALL
        )
        await self.open().ping()
        created = await self._definition()
        await self.execute("DROP TABLE sessions")

        await self.execute(sql)

        self.assertEqual(await self._definition(), created)

    async def _definition(self) -> list[tuple[object, ...]]:
        rows = await self.fetch(
            "SELECT column_name, data_type, is_nullable FROM"
            " information_schema.columns WHERE table_schema = $1"
            " UNION ALL SELECT indexdef, '', '' FROM pg_indexes WHERE schemaname = $1"
            " UNION ALL SELECT obj_description('sessions'::regclass, 'pg_class'),"
            " reloptions::text, '' FROM pg_class WHERE oid = 'sessions'::regclass",
            self.schema,
        )
        return sorted(tuple(row) for row in rows)

    async def test_a_user_who_may_not_create_the_table_is_told_what_to_do(self) -> None:
        """The error says what an administrator has to run."""
        backend = self.open(await self._create_user())

        self.assertEqual(
            await self._failure(backend),
            f"PostgreSQL '{self.address}' failed: permission denied for schema"
            f" {self.schema} (SQLSTATE 42501). Let an administrator run the SQL in the"
            " README of tornado-sessions-postgresql, and grant this user SELECT, INSERT,"
            " UPDATE and DELETE on the table.",
        )

    async def _create_user(self) -> str:
        """Creates a user who may create nothing, and returns the URL."""
        password = secrets.token_hex(16)
        await self.execute(f"CREATE ROLE {self.schema} LOGIN PASSWORD '{password}'")
        await self.execute(f"GRANT USAGE ON SCHEMA {self.schema} TO {self.schema}")
        await self.execute(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA"
            f" {self.schema} TO {self.schema}"
        )
        return f"postgresql://{self.schema}:{password}@{self.address}"

    # What somebody else has in our place.

    async def test_a_table_of_somebody_else_is_refused(self) -> None:
        """Behaviour 87: before anything is written."""
        for create, kind in (
            ("CREATE TABLE sessions (key bytea)", "a table"),
            ("CREATE VIEW sessions AS SELECT 1", "a view"),
            ("CREATE MATERIALIZED VIEW sessions AS SELECT 1", "a materialized view"),
            ("CREATE SEQUENCE sessions", "a sequence"),
            ("CREATE TABLE t (a int); CREATE INDEX sessions ON t (a)", "an index"),
            ("CREATE TYPE sessions AS (a int)", "a type"),
        ):
            with self.subTest(kind):
                await self.execute(create)

                self.assertEqual(
                    await self._failure(self.open()),
                    f"PostgreSQL '{self.address}' has {kind} 'sessions' that is not"
                    " ours. Name another table with the option 'table', such as"
                    " '?table=web_sessions' in the URL.",
                )
                await self.execute(f"DROP {kind.split(' ', 1)[1]} sessions")

    async def test_a_type_of_the_same_name_is_told(self) -> None:
        """Each table has a type of its name."""
        await self.execute("CREATE TYPE sessions AS ENUM ('a')")

        self.assertEqual(
            await self._failure(self.open()),
            f"PostgreSQL '{self.address}' failed: type \"sessions\" already exists"
            " (SQLSTATE 42710). Name another table with the option 'table'.",
        )

    async def test_a_table_of_a_later_release_is_refused(self) -> None:
        """It may have columns that this release would not keep."""
        await self.open().ping()
        await self.execute("COMMENT ON TABLE sessions IS 'tornado_sessions, schema 22'")

        self.assertEqual(
            await self._failure(self.open()),
            f"The table 'sessions' of PostgreSQL '{self.address}' has the schema 22, and"
            " this release knows 1. Upgrade tornado-sessions-postgresql, or name another"
            " table with the option 'table'.",
        )

    async def test_a_name_of_an_index_that_is_taken_is_told_once(self) -> None:
        """Behaviour 88: the rest is created."""
        await self.execute("CREATE SEQUENCE sessions_user")
        backend = self.open()

        with self.assertLogs("tornado_sessions", logging.WARNING) as log:
            await backend.ping()

        [record] = log.records
        self.assertEqual(
            record.getMessage(),
            f"PostgreSQL '{self.address}' has something else under the name"
            " 'sessions_user', so the table 'sessions' lacks that index and the sessions"
            " of a user are found slowly. Rename that, or name another table with the"
            " option 'table'.",
        )
        await backend.insert(secrets.token_bytes(32), Record(b"data", user="ann"))
        self.assertEqual(len([found async for found in backend.find("ann")]), 1)

    async def test_a_missing_index_is_told_once(self) -> None:
        """Behaviour 88: with what creates it. One under another name will do."""
        await self.open().ping()
        await self.execute("ALTER INDEX sessions_user RENAME TO mine")
        await self.execute("DROP INDEX sessions_expires")
        backend = self.open()

        with self.assertLogs("tornado_sessions", logging.WARNING) as log:
            for _ in range(2):
                await backend.ping()
                await backend.close()

        [record] = log.records
        told, _, sql = record.getMessage().partition(" Run: ")
        self.assertEqual(
            told,
            f"The table 'sessions' of PostgreSQL '{self.address}' has no index on"
            " 'expires_minute', so what has expired is found slowly.",
        )
        await self.execute(sql)
        with self.assertNoLogs("tornado_sessions", logging.WARNING):
            await self.open().ping()

    async def test_a_constraint_that_is_not_ours_is_named(self) -> None:
        """Behaviour 88: it is no conflict of keys, and no value comes with it."""
        backend, key = self.open(), secrets.token_bytes(32)
        await backend.insert(key, Record(b"data", user="hunter2"))
        await self.execute('CREATE UNIQUE INDEX one_each ON sessions ("user")')

        with self.assertRaises(BackendError) as failed:
            await backend.insert(secrets.token_bytes(32), Record(b"", user="hunter2"))

        self.assertEqual(
            str(failed.exception),
            f"PostgreSQL '{self.address}' failed: The constraint 'one_each' refuses the"
            " session (SQLSTATE 23505). It is not ours: drop it, or name another table"
            " with the option 'table'.",
        )
        self.assertIsNone(await backend.insert(key, Record(b"data", user="ann")))

    async def test_a_table_that_is_dropped_is_created_again(self) -> None:
        """One operation fails, and says that the next one will do it."""
        backend = self.open()
        await backend.ping()
        await self.execute("DROP TABLE sessions")

        self.assertEqual(
            await self._failure(backend),
            f"PostgreSQL '{self.address}' failed: relation \"sessions\" does not exist"
            " (SQLSTATE 42P01). The next request creates it.",
        )
        await backend.ping()

    async def test_many_processes_create_one_table(self) -> None:
        """At their first use, all at once."""
        backends = [self.open() for _ in range(10)]

        await asyncio.gather(*(backend.ping() for backend in backends))

    async def _failure(self, backend: PostgreSQLBackend) -> str:
        with self.assertRaises(BackendError) as failed:
            await backend.insert(secrets.token_bytes(32), Record(b"data"))
        return str(failed.exception)


if __name__ == "__main__":
    unittest.main()

"""The connections of the PostgreSQL backend, and what is said of them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import secrets
import unittest
from collections.abc import Iterator
from typing import Any
from unittest import mock

import asyncpg
from tornado_sessions_postgresql import PostgreSQLBackend

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Record
from tornado_sessions.testing.timers import LoopClock

SERVER = os.environ.get("SESSIONS_TEST_POSTGRESQL_URL", "")

# Test runs may share a server.
TABLE = f"sessions_connections_{os.getpid()}"

ADDRESS = SERVER.rpartition("@")[2]

needs_server = unittest.skipUnless(SERVER, "SESSIONS_TEST_POSTGRESQL_URL is not set")


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
        await self._until_none(name)

    async def _connections(self, name: str, condition: str = "true") -> int:
        count: int = await self.shell.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            f" WHERE application_name = $1 AND {condition}",
            name,
        )
        return count

    async def _until_none(self, name: str, condition: str = "true") -> None:
        """Waits until the server has closed such connections, which takes a moment."""

        async def wait() -> None:
            while await self._connections(name, condition):
                pass

        await asyncio.wait_for(wait(), 20)

    async def test_a_cancelled_statement_is_cancelled_on_the_server(self) -> None:
        """Behaviour 68: it does not go on there, and its connection is closed."""
        name = secrets.token_hex(8)
        backend = self.open(application_name=name)
        await backend.ping()
        waiting = asyncio.ensure_future(backend.run(_sleep))
        sleeps = "state = 'active' AND query LIKE '%pg_sleep%'"
        while not await self._connections(name, sleeps):
            pass

        waiting.cancel()
        await asyncio.wait([waiting])

        self.assertTrue(waiting.cancelled())
        await self._until_none(name, "query LIKE '%pg_sleep%'")
        await backend.ping()

    async def test_a_connection_that_the_server_has_closed_is_not_used(self) -> None:
        """Behaviour 66: no request fails for it."""
        name = secrets.token_hex(8)
        backend = self.open(application_name=name)
        connect, opened = asyncpg.connect, []

        async def connect_and_note(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            opened.append(await connect(*arguments, **options))
            return opened[-1]

        with mock.patch("asyncpg.connect", connect_and_note):
            for _ in range(5):
                await asyncio.gather(backend.ping(), backend.purge(1.0))
                await self.shell.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = $1",
                    name,
                )
                while not all(each.is_closed() for each in opened):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        self.assertGreaterEqual(len(opened), 5)

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
            together = await asyncio.gather(
                backend.insert(self.other, record),
                backend.insert(secrets.token_bytes(32), record),
                return_exceptions=True,
            )
            with self.assertRaises(BackendError) as alone:
                await backend.insert(self.other, record)
        shown = log.getvalue()
        for error in (*together, alone.exception):
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

    async def test_a_server_that_is_not_there_is_said_to_be_missing(self) -> None:
        """The message says what to check, on the machine and in the URL."""
        advice = r"\. Check that it runs, and the host and the port of the URL\.$"
        for host in ("127.0.0.1:1", "[::1]:1", "localhost:1", "no-such-host.invalid"):
            backend = self.open(f"postgresql://u:hunter2@{host}/shop")
            with self.subTest(host), self.assertRaisesRegex(BackendError, advice):
                await backend.ping()

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

    def open_with_pool(self) -> PostgreSQLBackend:
        backend = PostgreSQLBackend(pool=self.pool, table=TABLE, timeout=20)
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
        backend = self.open_with_pool()
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
        backend = self.open_with_pool()
        connections = [await self.pool.acquire() for _ in range(3)]

        with self.assertRaises(BackendError) as failed:
            await LoopClock().outlast(backend.ping(), 20)

        self.assertEqual(
            str(failed.exception),
            'PostgreSQL "the application\'s pool" did not answer within 20 seconds.'
            " Check that it runs and can be reached, and whether another transaction"
            " holds a lock, perhaps that of an open psql shell; or raise the option"
            " 'timeout'.",
        )
        for connection in connections:
            await self.pool.release(connection)
        await backend.ping()


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

"""What the PostgreSQL backend does beyond the contract of all backends."""

from __future__ import annotations

import asyncio
import os
import unittest

import asyncpg
from tornado.testing import AsyncHTTPTestCase
from tornado_sessions_postgresql import PostgreSQLBackend

from servers import PostgreSQL
from tornado_sessions.storage.backend import Backend
from tornado_sessions.testing import BackendContract, HandlerContract, OutageContract

SERVER = os.environ.get("SESSIONS_TEST_POSTGRESQL_URL", "")

# Test runs may share a server.
TABLE = f"sessions_{os.getpid()}"

needs_server = unittest.skipUnless(SERVER, "SESSIONS_TEST_POSTGRESQL_URL is not set")


def tearDownModule() -> None:
    if SERVER:
        asyncio.run(_drop())


async def _drop() -> None:
    connection = await asyncpg.connect(SERVER)
    await connection.execute(f"DROP TABLE IF EXISTS {TABLE}")
    await connection.close()


@needs_server
class PostgreSQLContractTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends."""

    def make_backend(self) -> Backend:
        return _backend()


@needs_server
class PostgreSQLHandlerTest(HandlerContract, AsyncHTTPTestCase):
    """The contract over HTTP."""

    def make_session_backend(self) -> Backend:
        return _backend()


@needs_server
class PostgreSQLOutageTest(OutageContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends whose store fails."""

    def make_server(self) -> PostgreSQL:
        return PostgreSQL()

    def make_backend(self, port: int, timeout: float) -> Backend:
        login, _, _ = PostgreSQL().url.rpartition("@")
        return PostgreSQLBackend(f"{login}@127.0.0.1:{port}/postgres", timeout=timeout)


def _backend(server: str = SERVER, **options: object) -> PostgreSQLBackend:
    # Hundreds of operations at once take long on a busy machine.
    options = {"table": TABLE, "timeout": 20, **options}
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return PostgreSQLBackend.from_url(f"{server}?{query}", {})


if __name__ == "__main__":
    unittest.main()

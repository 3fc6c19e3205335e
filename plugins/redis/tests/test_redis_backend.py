"""The contracts of all backends, on Redis and on Valkey."""

from __future__ import annotations

import os
import secrets
import unittest

from tornado.testing import AsyncHTTPTestCase
from tornado_sessions_redis import RedisBackend

from servers import Redis, Valkey
from tornado_sessions import Backend
from tornado_sessions.testing import BackendContract, HandlerContract, OutageContract

REDIS = os.environ.get("SESSIONS_TEST_REDIS_URL", "")
VALKEY = os.environ.get("SESSIONS_TEST_VALKEY_URL", "")
# Test runs may share a server.
PREFIX = f"test-{os.getpid()}-{secrets.token_hex(4)}:"

needs_redis = unittest.skipUnless(REDIS, "SESSIONS_TEST_REDIS_URL is not set.")
needs_valkey = unittest.skipUnless(VALKEY, "SESSIONS_TEST_VALKEY_URL is not set.")


@needs_redis
class RedisContractTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends, on Redis."""

    def make_backend(self) -> Backend:
        # Hundreds of operations at once take long on a busy machine.
        return RedisBackend(REDIS, prefix=PREFIX, timeout=20)


@needs_valkey
class ValkeyContractTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends, on Valkey."""

    def make_backend(self) -> Backend:
        return RedisBackend(VALKEY, prefix=PREFIX, timeout=20)


@needs_redis
class RedisHandlerTest(HandlerContract, AsyncHTTPTestCase):
    """The contract over HTTP."""

    def make_session_backend(self) -> Backend:
        return RedisBackend(REDIS, prefix=PREFIX, timeout=20)


@needs_redis
class RedisOutageTest(OutageContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends whose store fails."""

    def make_server(self) -> Redis:
        return Redis()

    def make_backend(self, port: int, timeout: float) -> Backend:
        url = f"redis://:{Redis.password}@127.0.0.1:{port}"
        return RedisBackend(url, timeout=timeout)


@needs_valkey
class ValkeyOutageTest(RedisOutageTest):
    """The contract of all backends whose store fails, on Valkey."""

    def make_server(self) -> Valkey:
        return Valkey()

"""Runs the contract over HTTP on every backend that is installed and needs no server."""

from __future__ import annotations

import tempfile
import unittest
from importlib.metadata import entry_points

from tornado.testing import AsyncHTTPTestCase
from tornado_sessions_memory import MemoryBackend

from tornado_sessions import Backend, Vault
from tornado_sessions.storage.registry import GROUP
from tornado_sessions.testing import FaultyVault, HandlerContract

URLS = {
    "cookie": "cookie",
    "memory": "memory",
    # The contracts are about answers; a busy machine is no reason to fail.
    "sqlite": "sqlite:///{directory}/sessions.db?timeout=20",
}
NEED_A_SERVER = {
    *("memcached", "mongodb", "mongodb+srv", "mysql", "postgresql"),
    *("redis", "redis+cluster", "redis+sentinel", "redis+unix"),
    *("rediss", "rediss+cluster", "rediss+sentinel"),
}
INSTALLED = {point.name for point in entry_points(group=GROUP)}


class InstalledBackend(unittest.TestCase):
    """Opens a backend by its URL, as an application does."""

    name: str

    def setUp(self) -> None:
        if self.name not in INSTALLED:
            self.skipTest(f"the backend {self.name!r} is not installed")
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name
        self.url = URLS[self.name].format(directory=self.directory)
        super().setUp()

    def make_session_backend(self) -> str | Backend | Vault:
        return self.url


class CookieHandlerTest(InstalledBackend, HandlerContract, AsyncHTTPTestCase):
    name = "cookie"


class EndingCookieHandlerTest(InstalledBackend, HandlerContract, AsyncHTTPTestCase):
    """Ends the sessions of a user with what a store keeps of them."""

    name = "cookie"

    def make_session_backend(self) -> str:
        return f"cookie:?not_before=sqlite:///{self.directory}/ends.db?timeout=20"


class MemoryHandlerTest(InstalledBackend, HandlerContract, AsyncHTTPTestCase):
    name = "memory"


class SQLiteHandlerTest(InstalledBackend, HandlerContract, AsyncHTTPTestCase):
    name = "sqlite"


class SuspendingHandlerTest(HandlerContract, AsyncHTTPTestCase):
    """Takes the way of a task with a backend that would need none."""

    def make_session_backend(self) -> str | Backend | Vault:
        return FaultyVault(Vault(MemoryBackend()), suspends=True)


class InstalledBackendsTest(unittest.TestCase):
    def test_every_installed_backend_is_tested(self) -> None:
        """What is installed has a URL here, or the tests of its own."""
        self.assertLessEqual(INSTALLED, URLS.keys() | NEED_A_SERVER)

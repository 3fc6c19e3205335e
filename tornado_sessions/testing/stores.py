"""Helpers for tests of a backend whose store fails: servers, calls and errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import unittest
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from tornado_sessions.errors import BackendError, SessionError
from tornado_sessions.storage.backend import Backend
from tornado_sessions.testing.records import make_record, new_key

T = TypeVar("T")

if TYPE_CHECKING:
    _Case = unittest.IsolatedAsyncioTestCase
else:
    _Case = object


#: The timeout in tests of a store that does not reply, in seconds.
SHORT = 0.5


class StoreServer(Protocol):
    """A server of the store, on loopback. Each test has one of its own."""

    #: Where it listens on 127.0.0.1. It keeps its port when it starts again.
    port: int

    def start(self) -> None:
        """Starts the server and returns when it accepts connections."""

    def kill(self) -> None:
        """Kills the server as SIGKILL does. What is on its disk stays."""

    def pause(self) -> None:
        """Stops the server as SIGSTOP does: it keeps connections, and hangs."""

    def resume(self) -> None:
        """Continues a server that was paused."""

    def stop(self) -> None:
        """Ends the server, in whatever state it is, and removes its data."""


class StoreTests(_Case):
    """Tests of a `.Backend` whose store fails."""

    #: How many seconds a test waits for what has to come, on a busy machine. It is
    #: the timeout of a backend as well, unless a test is about the timeout.
    patience = 30.0

    def make_backend(self, port: int, timeout: float) -> Backend:
        """Returns a new backend of the store at ``127.0.0.1:port``.

        Each of its operations has ``timeout`` seconds. The test closes it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define make_backend(port, timeout), and return"
            " a new backend from it."
        )

    def make_server(self) -> StoreServer | None:
        """Returns a server that is not running. The test starts and stops it."""
        return None

    def setUp(self) -> None:
        super().setUp()
        #: What was logged, at all levels.
        self.logged: list[str] = []
        handler = logging.Handler(logging.DEBUG)
        # A subclass for one line would say no more.
        handler.emit = self._note  # type: ignore[method-assign]
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        self.addCleanup(root.setLevel, level)
        self.addCleanup(root.removeHandler, handler)

    def _note(self, record: logging.LogRecord) -> None:
        self.logged.append(f"{record.getMessage()} {record.exc_info or ''}")

    def start_server(self) -> StoreServer:
        server = self.make_server()
        if server is None:
            self.skipTest(f"{type(self).__name__} has no make_server().")
        self.addCleanup(server.stop)
        server.start()
        return server

    def open_backend(self, port: int, timeout: float | None = None) -> Backend:
        backend = self.make_backend(port, timeout or self.patience)
        self.addAsyncCleanup(backend.close)
        return backend

    async def until_good(self, backend: Backend) -> None:
        """Waits until the backend stores and loads."""

        async def use() -> None:
            key = new_key()
            await backend.insert(key, make_record(b"one"))
            self.assertEqual(await data_of(backend, key), b"one")
            await backend.delete(key)

        await answered(use, self.patience)

    async def caught(self, work: Awaitable[object]) -> BaseException | None:
        """Returns the error that ``work`` raises within its time."""
        try:
            await asyncio.wait_for(asyncio.ensure_future(work), self.patience)
        except asyncio.TimeoutError as error:
            raise AssertionError("An operation has no timeout.") from error
        except Exception as error:  # noqa: BLE001 - the caller looks at it
            return error
        return None

    def assert_is_failure(self, error: BaseException | None) -> None:
        self.assertIsInstance(error, BackendError, "The error was swallowed or let by.")
        assert error is not None
        self.assertIsNotNone(error.__cause__, "The driver's error is not the cause.")
        self.assertNotIsInstance(error.__cause__, SessionError)


def operations_of(
    backend: Backend, key: bytes | None = None, data: bytes = b"one"
) -> dict[str, Callable[[], Awaitable[object]]]:
    """Returns a call of each operation, by its name."""
    key = key or new_key()
    operations: dict[str, Callable[[], Awaitable[object]]] = {
        "load": lambda: backend.load(key),
        "insert": lambda: backend.insert(key, make_record(data)),
        "delete": lambda: backend.delete(key),
        "ping": backend.ping,
    }
    if backend.finds_by_user:
        operations["find"] = lambda: _find(backend)
    if type(backend).purge is not Backend.purge:
        operations["purge"] = lambda: backend.purge(time.time())
    return operations


async def _find(backend: Backend) -> None:
    async for _ in backend.find("ada"):
        pass


async def fails(work: Awaitable[object]) -> None:
    """Awaits ``work``, which may fail."""
    with contextlib.suppress(BackendError):
        await work


async def answered(operation: Callable[[], Awaitable[T]], patience: float = 30.0) -> T:
    """Returns the result of ``operation``, which is called until it does not fail.

    On a busy machine one with a short timeout may not be in time.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return await operation()
        except BackendError as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"It does not come back: {error}") from error
        await asyncio.sleep(0.02)


async def data_of(backend: Backend, key: bytes) -> bytes | None:
    record = await backend.load(key)
    return None if record is None else record.data

"""How a backend behaves while its store fails, as tests that any author can run.

A whole test module, for `unittest` and for pytest::

    import unittest

    from pigeon_sessions import PigeonBackend
    from pigeon_tests import PigeonServer
    from tornado_sessions.testing import OutageContract


    class PigeonOutageTest(OutageContract, unittest.IsolatedAsyncioTestCase):
        def make_server(self) -> PigeonServer:
            return PigeonServer()

        def make_backend(self, port: int, timeout: float) -> PigeonBackend:
            return PigeonBackend(f"127.0.0.1:{port}", timeout=timeout)

The first half of the tests needs no server: there the backend meets a port that
is closed, or at one that never replies. Without `~OutageContract.make_server` the
second half is skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import socket
import threading
import time
import unittest
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tornado_sessions.errors import BackendError, SessionError
from tornado_sessions.storage.backend import Backend, Record, Version
from tornado_sessions.testing.pauses import LONGEST_PAUSE, longest_pause
from tornado_sessions.testing.proxies import Listener, LossyProxy

if TYPE_CHECKING:
    _Case = unittest.IsolatedAsyncioTestCase
else:
    _Case = object

# The timeout in tests of a store that does not reply.
_SHORT = 0.5

_descriptors = Path("/proc/self/fd")
_LISTS_DESCRIPTORS = _descriptors.exists()


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


class OutageContract(_Case):
    """Tests a `.Backend` whose store fails.

    Beside it goes `unittest.IsolatedAsyncioTestCase`. What the backend logs is
    read at all levels: neither a key nor data may be among it.
    """

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
        self._log: list[str] = []
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
        self._log.append(f"{record.getMessage()} {record.exc_info or ''}")

    # Without a server.

    async def test_a_store_that_is_down_fails_every_operation(self) -> None:
        """Behaviour 66: with the driver's error as the cause, and no secret in it."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            await self._assert_all_fail(closed.getsockname()[1])

    async def test_a_store_that_never_answers_fails_every_operation(self) -> None:
        """Behaviour 66: each within its timeout."""
        with Listener() as listener:
            await self._assert_all_fail(listener.port)

    async def test_a_store_that_hangs_up_fails_every_operation(self) -> None:
        """Behaviour 66: each connection is closed as soon as it is there."""
        with Listener(answer=b"") as listener:
            await self._assert_all_fail(listener.port)

    async def test_a_server_of_another_kind_fails_every_operation(self) -> None:
        """Behaviour 66: its replies are not in the driver's protocol."""
        with Listener(answer=b"HTTP/1.1 400 Bad Request\r\n\r\n") as listener:
            await self._assert_all_fail(listener.port)

    async def test_a_constructor_connects_to_nothing(self) -> None:
        """Behaviour 67: the backend connects at its first use."""
        with Listener() as listener:
            backend = self.make_backend(listener.port, _SHORT)
            self.addAsyncCleanup(backend.close)
            await asyncio.sleep(0.05)

            self.assertEqual(listener.accepted, 0)

    async def test_the_event_loop_goes_on_while_it_connects(self) -> None:
        """Behaviour 70: neither connecting nor waiting for a reply blocks it."""
        # Not what it takes to log everything.
        logging.getLogger().setLevel(logging.WARNING)
        with Listener() as listener:

            async def fail() -> None:
                backend = self._open(listener.port, _SHORT)
                operations = _operations(backend).values()
                await asyncio.gather(*(_fails(operation()) for operation in operations))

            self.assertLess(await longest_pause(fail), LONGEST_PAUSE)

    async def test_a_cancelled_operation_is_cancelled(self) -> None:
        """Behaviour 68: a cancellation is not turned into an error."""
        with Listener() as listener:
            for name in ("load", "insert", "delete"):
                with self.subTest(operation=name):
                    backend = self.make_backend(listener.port, _SHORT)
                    self.addAsyncCleanup(backend.close)
                    running = asyncio.ensure_future(_operations(backend)[name]())
                    await asyncio.sleep(_SHORT / 10)
                    running.cancel()

                    with self.assertRaises(asyncio.CancelledError):
                        await asyncio.wait_for(running, self.patience)

    async def test_closing_does_not_wait_for_a_store_that_hangs(self) -> None:
        """A server that stops cannot wait for ever."""
        with Listener() as listener:
            backend = self.make_backend(listener.port, _SHORT)
            await _fails(backend.load(_new_key()))

            await asyncio.wait_for(backend.close(), self.patience)

    # With a server.

    async def test_a_store_is_used_as_soon_as_it_is_up(self) -> None:
        """Behaviour 66: it was down at the start, and nothing has to be restarted."""
        server = self._server()
        server.kill()
        backend = self._open(server.port, _SHORT)
        await _fails(backend.load(_new_key()))

        server.start()

        await self._until_good(backend)

    async def test_a_store_that_is_killed_fails_what_is_in_progress(self) -> None:
        """Behaviour 66: and is used again when it is back."""
        server = self._server()
        backend = self._open(server.port, 4 * _SHORT)
        await self._until_good(backend)
        server.pause()
        running = [
            asyncio.ensure_future(self._caught(operation()))
            for _ in range(5)
            for operation in _operations(backend).values()
        ]
        await asyncio.sleep(_SHORT / 10)

        server.kill()

        for error in await asyncio.gather(*running):
            self._assert_is_failure(error)
        server.start()
        await self._until_good(backend)

    async def test_a_store_that_hangs_fails_what_is_in_progress(self) -> None:
        """Behaviour 66: within the timeout, and is used again when it goes on."""
        server = self._server()
        backend = self._open(server.port, _SHORT)
        keys = [_new_key() for _ in range(20)]
        await self._until_good(backend)
        for key in keys:
            await backend.insert(key, Record(key, expires=_later()))
        server.pause()
        running = [self._caught(backend.load(key)) for key in keys]

        for error in await asyncio.wait_for(asyncio.gather(*running), self.patience):
            self._assert_is_failure(error)
        server.resume()

        await self._until_good(backend)
        # A late reply must not be taken as the reply to another request.
        for key in reversed(keys):
            self.assertEqual(await _data(backend, key), key)

    async def test_no_operation_fails_once_a_restarted_store_answers(self) -> None:
        """Behaviour 66: an idle connection of before is not used."""
        server = self._server()
        backend = self._open(server.port)
        keys = [_new_key() for _ in range(20)]
        await self._until_good(backend)
        await asyncio.gather(*(backend.load(key) for key in keys))

        server.kill()
        server.start()
        await self._until_good(self._open(server.port))

        await asyncio.gather(*(backend.load(key) for key in keys))

    async def test_a_write_whose_reply_is_lost_is_not_repeated(self) -> None:
        """Behaviour 30: its outcome is unknown, and it is never a conflict.

        A driver that sends it again meets its own first write.
        """
        server = self._server()
        key = _new_key()
        with LossyProxy(server.port) as proxy:
            backend = self._open(proxy.port)
            await self._until_good(backend)
            await backend.insert(key, Record(b"old", expires=_later()))
            record = await backend.load(key)
            assert record is not None
            new, version = Record(b"new", expires=_later()), record.version
            writes: tuple[Callable[[], Awaitable[Version | None]], ...] = (
                lambda: backend.insert(_new_key(), new),
                lambda: backend.replace(key, new, version),
            )
            for write in writes:
                proxy.lose_replies()
                try:
                    stored = await asyncio.wait_for(write(), self.patience)
                except BackendError as error:
                    self._assert_is_failure(error)
                else:
                    self.assertIsNotNone(stored, "The write met itself.")

    async def test_an_acknowledged_write_survives_a_killed_server(self) -> None:
        """Behaviour 27: where the backend declares that it is durable."""
        server = self._server()
        backend = self._open(server.port)
        if not backend.durable:
            self.skipTest(f"{type(backend).__name__} does not declare durable.")
        await self._until_good(backend)
        key = _new_key()
        await backend.insert(key, Record(b"one", expires=_later()))

        server.kill()
        server.start()
        await self._until_good(backend)

        self.assertEqual(await _data(backend, key), b"one")

    async def test_cancelled_operations_mix_up_no_answers(self) -> None:
        """Behaviour 68: 1,000 cancellations, and no reply to another request."""
        asyncio.get_running_loop().set_debug(False)
        server = self._server()
        backend = self._open(server.port)
        await self._until_good(backend)
        keys = [_new_key() for _ in range(50)]
        for key in keys:
            await backend.insert(key, Record(key, expires=_later()))
        chance = random.Random(68)

        async def load_and_cancel(key: bytes) -> None:
            running = asyncio.ensure_future(backend.load(key))
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            running.cancel()
            [record] = await asyncio.gather(running, return_exceptions=True)
            if isinstance(record, Record):
                self.assertEqual(record.data, key)

        for _ in range(20):
            await asyncio.gather(*map(load_and_cancel, keys))

        for key in keys:
            self.assertEqual(await _data(backend, key), key)

    async def test_closing_leaves_nothing_open(self) -> None:
        """Neither a socket nor a thread, after many first uses at once."""
        if not _LISTS_DESCRIPTORS:
            self.skipTest("This system does not list the descriptors of a process.")
        server = self._server()
        await self._use_and_close(server.port)
        # A driver may keep for good the threads that it looks up names with.
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.05) for _ in range(40)))
        # What was closed takes a moment.
        await asyncio.sleep(0.1)
        open_before, threads_before = _open_sockets(), threading.active_count()

        await self._use_and_close(server.port)

        for _ in range(500):
            if (
                _open_sockets() <= open_before
                and threading.active_count() <= threads_before
            ):
                break
            await asyncio.sleep(0.01)
        self.assertLessEqual(_open_sockets(), open_before)
        self.assertLessEqual(threading.active_count(), threads_before)

    # Helpers.

    def _server(self) -> StoreServer:
        server = self.make_server()
        if server is None:
            self.skipTest(f"{type(self).__name__} has no make_server().")
        self.addCleanup(server.stop)
        server.start()
        return server

    def _open(self, port: int, timeout: float | None = None) -> Backend:
        backend = self.make_backend(port, timeout or self.patience)
        self.addAsyncCleanup(backend.close)
        return backend

    async def _use_and_close(self, port: int) -> None:
        backend = self.make_backend(port, self.patience)
        await asyncio.gather(*(backend.load(_new_key()) for _ in range(20)))
        await backend.close()

    async def _until_good(self, backend: Backend) -> None:
        """Waits until the backend stores and loads."""
        deadline = time.monotonic() + self.patience
        while True:
            key = _new_key()
            try:
                await backend.insert(key, Record(b"one", expires=_later()))
                self.assertEqual(await _data(backend, key), b"one")
                await backend.delete(key)
                break
            except BackendError as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"It does not come back: {error}") from error
            await asyncio.sleep(0.02)

    async def _caught(self, work: Awaitable[object]) -> BaseException | None:
        """Returns the error that ``work`` raises within its time."""
        try:
            await asyncio.wait_for(asyncio.ensure_future(work), self.patience)
        except asyncio.TimeoutError as error:
            raise AssertionError("An operation has no timeout.") from error
        except Exception as error:  # noqa: BLE001 - the caller looks at it
            return error
        return None

    def _assert_is_failure(self, error: BaseException | None) -> None:
        self.assertIsInstance(error, BackendError, "The error was swallowed or let by.")
        assert error is not None
        self.assertIsNotNone(error.__cause__, "The driver's error is not the cause.")
        self.assertNotIsInstance(error.__cause__, SessionError)

    async def _assert_all_fail(self, port: int) -> None:
        backend = self._open(port, _SHORT)
        key, data = _new_key(), secrets.token_hex(16).encode()
        for name, operation in _operations(backend, key, data).items():
            with self.subTest(operation=name):
                error = await self._caught(operation())
                self._assert_is_failure(error)
                said = "".join([*_messages(error), *self._log])
                for secret in (key.hex(), str(key)[2:-1], data.decode(), data.hex()):
                    self.assertNotIn(secret, said)


def _operations(
    backend: Backend, key: bytes | None = None, data: bytes = b"one"
) -> dict[str, Callable[[], Awaitable[object]]]:
    """Returns a call of each operation, by its name."""
    key = key or _new_key()
    operations: dict[str, Callable[[], Awaitable[object]]] = {
        "load": lambda: backend.load(key),
        "insert": lambda: backend.insert(key, Record(data, expires=_later())),
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


async def _fails(work: Awaitable[object]) -> None:
    with contextlib.suppress(BackendError):
        await work


async def _data(backend: Backend, key: bytes) -> bytes | None:
    record = await backend.load(key)
    return None if record is None else record.data


def _open_sockets() -> int:
    count = 0
    for descriptor in os.listdir(_descriptors):
        with contextlib.suppress(OSError):
            count += os.readlink(_descriptors / descriptor).startswith("socket:")
    return count


def _new_key() -> bytes:
    return secrets.token_bytes(32)


def _later() -> float:
    return time.time() + 3600


def _messages(error: BaseException | None) -> Iterator[str]:
    """Yields the message of an error, and those of its causes."""
    while error is not None:
        yield f"{error!r} {error} "
        error = error.__cause__ or error.__context__

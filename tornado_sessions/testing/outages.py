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
import functools
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.testing.proxies import LossyProxy
from tornado_sessions.testing.records import make_record, new_key, new_keys
from tornado_sessions.testing.stores import (
    SHORT,
    answered,
    data_of,
    fails,
    operations_of,
)
from tornado_sessions.testing.unreachable import UnreachableContract

_descriptors = Path("/proc/self/fd")
_LISTS_DESCRIPTORS = _descriptors.exists()


class OutageContract(UnreachableContract):
    """Tests a `.Backend` whose store fails.

    Beside it goes `unittest.IsolatedAsyncioTestCase`. What the backend logs is
    read at all levels: neither a key nor data may be among it.
    """

    async def test_a_store_is_used_as_soon_as_it_is_up(self) -> None:
        """Behaviour 66: it was down at the start, and nothing has to be restarted."""
        server = self.start_server()
        server.kill()
        backend = self.open_backend(server.port, SHORT)
        await fails(backend.load(new_key()))

        server.start()

        await self.until_good(backend)

    async def test_a_store_that_is_killed_fails_what_is_in_progress(self) -> None:
        """Behaviour 66: and is used again when it is back."""
        server = self.start_server()
        backend = self.open_backend(server.port, 4 * SHORT)
        await self.until_good(backend)
        server.pause()
        running = [
            asyncio.ensure_future(self.caught(operation()))
            for _ in range(5)
            for operation in operations_of(backend).values()
        ]
        await asyncio.sleep(SHORT / 10)

        server.kill()

        for error in await asyncio.gather(*running):
            self.assert_is_failure(error)
        server.start()
        await self.until_good(backend)

    async def test_a_store_that_hangs_fails_what_is_in_progress(self) -> None:
        """Behaviour 66: within the timeout, and is used again when it goes on."""
        server = self.start_server()
        backend = self.open_backend(server.port, SHORT)
        keys = [new_key() for _ in range(20)]
        patient = self.open_backend(server.port)
        for key in keys:
            await patient.insert(key, make_record(key))
        await self.until_good(backend)
        server.pause()
        running = [self.caught(backend.load(key)) for key in keys]

        for error in await asyncio.wait_for(asyncio.gather(*running), self.patience):
            self.assert_is_failure(error)
        server.resume()

        await self.until_good(backend)
        # A late reply must not be taken as the reply to another request.
        for key in reversed(keys):
            load = functools.partial(data_of, backend, key)
            data = await answered(load, self.patience)
            self.assertEqual(data, key)

    async def test_no_operation_fails_once_a_restarted_store_answers(self) -> None:
        """Behaviour 66: an idle connection of before is not used."""
        server = self.start_server()
        backend = self.open_backend(server.port)
        keys = [new_key() for _ in range(20)]
        await self.until_good(backend)
        await asyncio.gather(*(backend.load(key) for key in keys))

        server.kill()
        server.start()
        await self.until_good(self.open_backend(server.port))

        await asyncio.gather(*(backend.load(key) for key in keys))

    async def test_a_write_whose_reply_is_lost_is_not_repeated(self) -> None:
        """Behaviour 30: its outcome is unknown, and it is never a conflict.

        A driver that sends it again meets its own first write.
        """
        server = self.start_server()
        key = new_key()
        with LossyProxy(server.port) as proxy:
            backend = self.open_backend(proxy.port, 20 * SHORT)
            await self.until_good(backend)
            await backend.insert(key, make_record(b"old"))
            record = await backend.load(key)
            assert record is not None
            new, version = make_record(b"new"), record.version
            writes: tuple[Callable[[], Awaitable[Version | None]], ...] = (
                lambda: backend.insert(new_key(), new),
                lambda: backend.replace(key, new, version),
            )
            for write in writes:
                proxy.lose_replies()
                try:
                    stored = await asyncio.wait_for(write(), self.patience)
                except BackendError as error:
                    self.assert_is_failure(error)
                else:
                    self.assertIsNotNone(stored, "The write met itself.")

    async def test_a_batch_whose_reply_is_lost_is_not_repeated(self) -> None:
        """Behaviour 30: of the writes that began together none is told of a conflict."""
        server = self.start_server()
        with LossyProxy(server.port) as proxy:
            backend = self.open_backend(proxy.port, 20 * SHORT)
            await self.until_good(backend)
            # Twice: its connections are open then.
            for _ in range(2):
                keys = new_keys(5)
                record = make_record(b"old")
                await asyncio.gather(*(backend.insert(key, record) for key in keys))
                records = await asyncio.gather(*map(backend.load, keys))
            new = make_record(b"new")
            proxy.lose_replies()

            outcomes = await asyncio.wait_for(
                asyncio.gather(
                    *(
                        backend.replace(key, new, record.version)
                        for key, record in zip(keys, records, strict=True)
                        if record is not None
                    ),
                    *(backend.insert(new_key(), new) for _ in range(5)),
                    return_exceptions=True,
                ),
                self.patience,
            )

            self.assertEqual(len(outcomes), 10)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    self.assert_is_failure(outcome)
                else:
                    self.assertIsNotNone(outcome, "The write met itself.")

    async def test_an_acknowledged_write_survives_a_killed_server(self) -> None:
        """Behaviour 27: where the backend declares that it is durable."""
        server = self.start_server()
        backend = self.open_backend(server.port)
        if not backend.durable:
            self.skipTest(f"{type(backend).__name__} does not declare durable.")
        await self.until_good(backend)
        key = new_key()
        await backend.insert(key, make_record(b"one"))

        server.kill()
        server.start()
        await self.until_good(backend)

        self.assertEqual(await data_of(backend, key), b"one")

    async def test_cancelled_operations_mix_up_no_answers(self) -> None:
        """Behaviour 68: 1,000 cancellations, and no reply to another request."""
        asyncio.get_running_loop().set_debug(False)
        server = self.start_server()
        backend = self.open_backend(server.port)
        await self.until_good(backend)
        keys = [new_key() for _ in range(50)]
        for key in keys:
            await backend.insert(key, make_record(key))
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
            self.assertEqual(await data_of(backend, key), key)

    async def test_closing_leaves_nothing_open(self) -> None:
        """Neither a socket nor a thread, after many first uses at once."""
        if not _LISTS_DESCRIPTORS:
            self.skipTest("This system does not list the descriptors of a process.")
        server = self.start_server()
        await self.use_and_close(server.port)
        # A driver may keep for good the threads that it looks up names with.
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.05) for _ in range(40)))
        # What was closed takes a moment.
        await asyncio.sleep(0.1)
        open_before, threads_before = _open_sockets(), threading.active_count()

        await self.use_and_close(server.port)

        for _ in range(500):
            if (
                _open_sockets() <= open_before
                and threading.active_count() <= threads_before
            ):
                break
            await asyncio.sleep(0.01)
        self.assertLessEqual(_open_sockets(), open_before)
        self.assertLessEqual(threading.active_count(), threads_before)

    async def use_and_close(self, port: int) -> None:
        backend = self.make_backend(port, self.patience)
        await asyncio.gather(*(backend.load(new_key()) for _ in range(20)))
        await backend.close()


def _open_sockets() -> int:
    count = 0
    for descriptor in os.listdir(_descriptors):
        with contextlib.suppress(OSError):
            count += os.readlink(_descriptors / descriptor).startswith("socket:")
    return count

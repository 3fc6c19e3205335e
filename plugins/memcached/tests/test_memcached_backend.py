"""What the memcached backend does beyond the contracts, on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
import struct
import time
import unittest
from collections.abc import Awaitable, Callable
from typing import Any

from tornado.testing import AsyncHTTPTestCase
from tornado_sessions_memcached import MemcachedBackend

from servers import Memcached
from tornado_sessions import (
    Backend,
    BackendError,
    Record,
)
from tornado_sessions.testing import BackendContract, HandlerContract, OutageContract
from tornado_sessions.testing.records import (
    load_record,
    make_record,
    new_key,
    replace_record,
)
from tornado_sessions.testing.stores import data_of
from tornado_sessions.testing.timers import LoopClock

URL = os.environ.get("SESSIONS_TEST_MEMCACHED_URL", "")

needs_memcached = unittest.skipUnless(URL, "SESSIONS_TEST_MEMCACHED_URL is not set.")

DAY = 86_400


@needs_memcached
class MemcachedBackendTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends."""

    def make_backend(self) -> Backend:
        # Hundreds of operations at once take long on a busy machine.
        return MemcachedBackend.from_url(f"{URL}?timeout=20", {})


@needs_memcached
class MemcachedHandlerTest(HandlerContract, AsyncHTTPTestCase):
    """The contract of all applications."""

    def make_session_backend(self) -> str:
        return f"{URL}?timeout=20"


@needs_memcached
class MemcachedOutageTest(OutageContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends whose store fails."""

    def make_server(self) -> Memcached:
        return Memcached()

    def make_backend(self, port: int, timeout: float) -> Backend:
        return MemcachedBackend(f"127.0.0.1:{port}", timeout=timeout)


@needs_memcached
class StoredTest(unittest.IsolatedAsyncioTestCase):
    """What is in the server is what the README says."""

    def setUp(self) -> None:
        self.server = Memcached().start_for(self)
        self.backend = MemcachedBackend.from_url(f"{self.server.url}?timeout=20", {})
        self.addAsyncCleanup(self.backend.close)

    async def test_a_key_is_the_prefix_and_hexadecimal_digits(self) -> None:
        """The value is the record's data and nothing else."""
        key = new_key()
        await self.backend.insert(key, make_record(b"data"))

        self.assertEqual(
            self.server.ask(f"get session:{key.hex()}"),
            [f"VALUE session:{key.hex()} 0 4", "data", "END"],
        )

    async def test_flags_of_somebody_else_are_nothing_to_us(self) -> None:
        """Behaviour 32: what is in a record is for the core to judge, not 503."""
        key = new_key()
        self.server.ask(f"set session:{key.hex()} 16 0 4\r\ndata", 1)

        self.assertEqual(await data_of(self.backend, key), b"data")

    async def test_different_prefixes_never_meet(self) -> None:
        """Two applications on one server each have their own."""
        url = f"{self.server.url}?prefix=other:&timeout=20"
        other = MemcachedBackend.from_url(url, {})
        self.addAsyncCleanup(other.close)
        key = new_key()
        await self.backend.insert(key, make_record(b"ours"))

        self.assertIsNone(await other.load(key))
        await other.delete(key)
        await other.insert(key, make_record(b"other"))

        self.assertEqual(await data_of(self.backend, key), b"ours")

    async def test_the_longest_prefix_and_the_largest_record_fit(self) -> None:
        """Behaviour 63: what the options allow is what memcached takes."""
        prefix = 186 * "x"
        url = f"{self.server.url}?prefix={prefix}&max_bytes=1047552&timeout=20"
        backend = MemcachedBackend.from_url(url, {})
        self.addAsyncCleanup(backend.close)
        key, data = new_key(), bytes(1_047_552)
        await backend.insert(key, make_record(b"small"))

        await replace_record(backend, key, data)

        self.assertEqual(await data_of(backend, key), data)

    async def test_max_bytes_can_be_raised_with_the_server(self) -> None:
        """Behaviour 63: a server with a larger ``-I`` takes larger records."""
        server = Memcached("-I", "3m").start_for(self)
        url = f"{server.url}?max_bytes=3000000&timeout=20"
        backend = MemcachedBackend.from_url(url, {})
        self.addAsyncCleanup(backend.close)
        key, data = new_key(), bytes(3_000_000)

        await backend.insert(key, make_record(data))

        self.assertEqual(await data_of(backend, key), data)

    async def test_no_lifetime_ends_a_record_too_early(self) -> None:
        """Behaviour 52: below and above thirty days, and after 2038."""
        for days in (0.001, 1, 29.999, 30, 30.001, 31, 400):
            with self.subTest(days=days):
                key, expires = new_key(), time.time() + days * DAY
                await self.backend.insert(key, Record(b"data", expires=expires))

                remaining = self._seconds_left(key)
                self.assertGreaterEqual(time.time() + remaining, expires)
                self.assertLess(time.time() + remaining, expires + 310)

    async def test_what_memcached_cannot_say_is_kept_for_ever(self) -> None:
        """Behaviour 52: its dates end in 2038, and 0 means that nothing expires."""
        for expires in (0.0, 2.0**31 + 1, time.time() + 40 * 365 * DAY):
            with self.subTest(expires=expires):
                key = new_key()
                await self.backend.insert(key, Record(b"data", expires=expires))

                self.assertEqual(self._seconds_left(key), -1)

    async def test_a_replacement_moves_the_expiry(self) -> None:
        """Behaviour 52: that of the newest record counts, either way."""
        key = new_key()
        await self.backend.insert(key, make_record(b"data", expires_in=60))
        for seconds in (40 * DAY, 600):
            await replace_record(self.backend, key, b"data", expires_in=seconds)
            self.assertAlmostEqual(self._seconds_left(key), seconds, delta=310)

    async def test_what_has_expired_is_forgotten_soon(self) -> None:
        """An expiry in the past is no error, and no record for ever."""
        key = new_key()

        await self.backend.insert(key, make_record(b"data", expires_in=-DAY))

        self.assertLessEqual(self._seconds_left(key), 2)

    def _seconds_left(self, key: bytes) -> int:
        """Answers for how long memcached keeps a record; -1 for ever."""
        [answer] = self.server.ask(f"mg session:{key.hex()} t", lines=1)
        return int(answer.removeprefix("HD t"))


@needs_memcached
class RefusedTest(unittest.IsolatedAsyncioTestCase):
    """What a server refuses, or would lose."""

    async def test_the_old_record_stays_where_the_server_takes_less(self) -> None:
        """Behaviour 63: memcached drops it at a ``set`` only, which is never sent."""
        server = Memcached("-I", "512k").start_for(self)
        backend = self._backend(server, max_bytes=600_000)
        key = new_key()
        await backend.insert(key, make_record(b"old"))

        with self.assertRaisesRegex(BackendError, "object too large for cache"):
            await replace_record(backend, key, bytes(600_000))

        self.assertEqual(await data_of(backend, key), b"old")

    async def test_a_full_server_that_may_not_evict_is_an_error(self) -> None:
        """With ``-M`` nothing is lost for what is new, and what is stored is read."""
        backend = self._backend(Memcached("-M", "-m", "8").start_for(self))
        kept = new_key()
        await backend.insert(kept, make_record(b"kept"))

        with self.assertRaisesRegex(BackendError, "out of memory"):
            for _ in range(1000):
                await backend.insert(new_key(), make_record(bytes(65_000)))

        self.assertEqual(await data_of(backend, kept), b"kept")

    async def test_a_server_without_versions_is_refused(self) -> None:
        """It would take the data of a session for commands."""
        backend = self._backend(Memcached("-C").start_for(self))
        key = new_key()
        await backend.insert(key, make_record(b"flush_all\r\n"))

        with self.assertRaisesRegex(BackendError, "keeps no versions.*without -C"):
            await backend.load(key)

    async def test_what_a_server_refuses_disturbs_no_other(self) -> None:
        """An error to one save is no answer to those that go with it."""
        server = Memcached("-I", "512k").start_for(self)
        backend = self._backend(server, max_bytes=600_000)
        keys = [new_key() for _ in range(20)]
        await asyncio.gather(*(backend.insert(key, make_record(key)) for key in keys))

        too_large = backend.insert(new_key(), make_record(bytes(600_000)))
        loads = (data_of(backend, key) for key in keys)
        error, *loaded = await asyncio.gather(too_large, *loads, return_exceptions=True)

        self.assertIsInstance(error, BackendError)
        self.assertEqual(loaded, keys)

    def _backend(self, server: Memcached, **options: Any) -> Backend:
        backend = MemcachedBackend(f"127.0.0.1:{server.port}", timeout=20, **options)
        self.addAsyncCleanup(backend.close)
        return backend


class AnswerTest(unittest.IsolatedAsyncioTestCase):
    """Behaviours 33, 68: an answer that does not fit reaches nobody."""

    async def test_what_is_no_memcached_is_an_error(self) -> None:
        """Whatever answers there, it is said what and where."""
        backend = await self._answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        for operation in _operations(backend):
            with self.assertRaisesRegex(
                BackendError,
                f"'{self.address}' failed: it answered 'HTTP/1.1 400 Bad Request'.",
            ):
                await operation()

    async def test_a_record_of_another_key_is_refused(self) -> None:
        """Behaviour 33: to a load it is no answer, nor None, and no error shows it."""
        key = new_key().hex().encode()
        backend = await self._answering(
            b"VALUE session:%b 0 7 5\r\nhunter2\r\nEND\r\n" % key
        )

        for operation in _operations(backend):
            with self.assertRaises(BackendError) as caught:
                await operation()
            message = f"{caught.exception} {caught.exception.__cause__!r}"
            self.assertIn("failed: it answered a record that was not asked", message)
            self.assertNotIn(key.decode(), message)
            self.assertNotIn("hunter2", message)

    async def test_an_answer_to_another_kind_of_command_is_refused(self) -> None:
        """Behaviour 68: that to a save would make a load say that nothing is there."""
        for asked, answer in (
            ("load", b"STORED\r\n"),
            ("load", b"NOT_FOUND\r\n"),
            ("load", b"SERVER_ERROR out of memory\r\n"),
            ("save", b"END\r\n"),
            ("save", b"DELETED\r\n"),
            ("save", b"ERROR\r\n"),
            ("save", b"CLIENT_ERROR bad data chunk\r\n"),
            ("save", b"STORED\n"),
            ("delete", b"STORED\r\n"),
            ("delete", b"END\r\n"),
            ("ping", b"STORED\r\n"),
            ("ping", b"ERROR\r\n"),
        ):
            with self.subTest(asked=asked, answer=answer):
                backend = await self._answering(answer)
                load, save, _, delete, ping = _operations(backend)
                operation = {
                    "load": load,
                    "save": save,
                    "delete": delete,
                    "ping": ping,
                }[asked]
                told = answer.decode().split()[0]
                for _ in range(2):
                    with self.assertRaisesRegex(BackendError, f"it answered '{told}"):
                        await operation()
                self.assertEqual(self.connections, 2)

    async def test_an_answer_that_repeats_the_key_is_not_repeated(self) -> None:
        """Behaviour 8: as Redis does, which takes the command for one of its own."""
        backend = await self._answering(
            b"-ERR unknown command 'gets', with args beginning with: '{key}'\r\n"
        )
        key = new_key()

        with self.assertRaisesRegex(
            BackendError, "it answered .-ERR unknown command 'gets', .*'session:…'"
        ) as caught:
            await backend.load(key)

        shown = f"{caught.exception} {caught.exception.__cause__!r}"
        self.assertNotIn(key.hex()[:16], shown)

    async def test_a_long_answer_is_cut(self) -> None:
        """A line of a log stays one, whoever answers there."""
        backend = await self._answering(b"oh " * 600 + b"\r\n")

        with self.assertRaises(BackendError) as caught:
            await backend.load(new_key())

        self.assertLess(len(str(caught.exception)), 300)

    async def test_all_behind_an_answer_that_does_not_fit_fail(self) -> None:
        """Behaviour 68: theirs may be shifted as well; the next ones are good."""
        backend = await self._answering(b"STORED\r\nEND\r\nEND\r\nEND\r\n")
        loads = (backend.load(new_key()) for _ in range(4))

        for error in await asyncio.gather(*loads, return_exceptions=True):
            self.assertIsInstance(error, BackendError)

        self.answer = b"END\r\n"
        self.assertIsNone(await backend.load(new_key()))

    async def test_an_answer_too_many_ends_the_connection(self) -> None:
        """Behaviour 68: it is no answer to the next command."""
        backend = await self._answering(b"END\r\nEND\r\n")

        with self.assertNoLogs():
            for _ in range(3):
                self.assertIsNone(await backend.load(new_key()))

        self.assertEqual(self.connections, 3)

    async def test_the_connection_of_an_operation_that_took_too_long_is_left(
        self,
    ) -> None:
        """Behaviours 66, 68: what may still come there is nobody's."""
        backend = await self._answering(b"")
        load = asyncio.ensure_future(backend.load(new_key()))
        await self.asked.wait()
        await LoopClock().advance(60)
        with self.assertRaisesRegex(BackendError, "did not answer"):
            await load

        self.answer = b"END\r\n"
        self.assertIsNone(await backend.load(new_key()))

        self.assertEqual(self.connections, 2)

    async def test_an_answer_that_is_malformed_is_refused(self) -> None:
        """A length that is none or wrong, and a line that does not end."""
        for answer in (
            b"VALUE\r\nEND\r\n",
            b"VALUE key 0\r\nEND\r\n",
            b"VALUE key 0 many 5\r\nEND\r\n",
            b"VALUE key 0 -20 5\r\n" + bytes(100) + b"\r\nEND\r\n",
            b"VALUE {key} 0 2 5\r\nlonger\r\nEND\r\n",
            b"VALUE {key} 0 4 5\r\ntwo\r\nEND\r\nEND\r\n",
            b"x" * 3000,
        ):
            with self.subTest(answer=answer[:30]):
                backend = await self._answering(answer)
                with self.assertRaisesRegex(BackendError, "failed: it answered"):
                    await backend.load(new_key())

    async def _answering(self, answer: bytes) -> MemcachedBackend:
        """Answers a backend on a server that has one answer to every command."""
        self.answer, self.connections = answer, 0
        self.asked = asyncio.Event()

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            self.connections += 1
            with contextlib.suppress(ConnectionError):
                while line := await reader.readline():
                    self.asked.set()
                    # A command; the data of a record are one word.
                    words = line.split()
                    if words == [b"version"]:
                        writer.write(self.answer)
                    elif len(words) > 1:
                        writer.write(self.answer.replace(b"{key}", words[1]))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.addCleanup(server.close)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        backend = MemcachedBackend(self.address, timeout=60)
        self.addAsyncCleanup(backend.close)
        return backend


@needs_memcached
class NetworkTest(unittest.IsolatedAsyncioTestCase):
    """Behaviour 68: a network that cuts answers into pieces, and connections off."""

    async def asyncSetUp(self) -> None:
        # To trace each task would take most of the time.
        asyncio.get_running_loop().set_debug(False)
        self.chance = random.Random(68)
        self.server = Memcached().start_for(self)
        proxy = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.addCleanup(proxy.close)
        self.connections: list[asyncio.Future[Any]] = []
        self.addAsyncCleanup(self._wait_for_the_end)
        port = proxy.sockets[0].getsockname()[1]
        self.backend = MemcachedBackend(f"127.0.0.1:{port}", timeout=60)
        self.addAsyncCleanup(self.backend.close)
        self.pieces = self.cut_off = self.cancelled = 0

    async def test_no_answer_is_taken_for_another_and_no_update_is_lost(self) -> None:
        """Behaviours 33, 68: with cancellations, and data that look like answers."""
        keys = [new_key() for _ in range(20)]
        stored: dict[bytes, set[int]] = {key: set() for key in keys}

        async def count(key: bytes) -> None:
            least = max(stored[key], default=0)
            record = await self.backend.load(key)
            number = 0
            if record is not None:
                name, text, _ = record.data.split(b"|")
                number = int(text)
                self.assertEqual(name, key.hex().encode())
            self.assertGreaterEqual(number, least)
            number += 1
            ends = b"\r\nEND\r\nSTORED\r\n" * self.chance.randrange(100)
            data = b"%b|%d|%b" % (key.hex().encode(), number, ends)
            if record is None:
                version = await self.backend.insert(key, make_record(data))
            else:
                version = await self.backend.replace(
                    key, make_record(data), record.version
                )
            if version is None:
                return
            self.assertNotIn(number, stored[key])
            stored[key].add(number)

        async def count_often() -> None:
            for _ in range(100):
                task = asyncio.ensure_future(count(self.chance.choice(keys)))
                if self.chance.random() < 0.1:
                    for _ in range(self.chance.randrange(20)):
                        await asyncio.sleep(0)
                    task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    self.cancelled += 1
                except BackendError:
                    pass

        while self.cut_off < 5 or self.cancelled < 50:
            await asyncio.gather(*(count_often() for _ in range(20)))

        self.assertGreater(sum(map(len, stored.values())), 500)

    async def _connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        server = await asyncio.open_connection("127.0.0.1", self.server.port)
        ends = [writer, server[1]]
        both_ways = asyncio.gather(
            self._pass_on(reader, server[1], ends),
            self._pass_on(server[0], writer, ends),
        )
        self.connections.append(both_ways)

    async def _wait_for_the_end(self) -> None:
        for connection in self.connections:
            await connection

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ends: list[asyncio.StreamWriter],
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(self.chance.choice((1, 10, 100, 65_536))):
                self.pieces += 1
                if self.pieces % 500 == 0:
                    self.cut_off += 1
                    break
                writer.write(data)
                await writer.drain()
        for end in ends:
            end.transport.abort()


@needs_memcached
class FaultTest(unittest.IsolatedAsyncioTestCase):
    """Behaviour 66: a server that is down, dies, hangs, cuts connections."""

    def setUp(self) -> None:
        self.server = Memcached().start_for(self)
        # More than any machine is busy for; where the limit is the point, see _hurry.
        self.backend = MemcachedBackend.from_url(f"{self.server.url}?timeout=60", {})
        self.addAsyncCleanup(self.backend.close)
        self.address = f"127.0.0.1:{self.server.port}"

    async def test_an_error_says_which_server_is_down(self) -> None:
        """Behaviour 66: and the driver's error says why."""
        self.server.kill()

        for operation in _operations(self.backend):
            with self.assertRaisesRegex(
                BackendError, f"'{self.address}' failed: .* Check that it runs there"
            ) as caught:
                await operation()
            self.assertIsInstance(caught.exception.__cause__, ConnectionRefusedError)

    async def test_an_error_says_which_server_hangs(self) -> None:
        """Behaviour 66: and for how long it was waited for."""
        backend = self._hurry()
        await _until_good(backend)
        self.server.pause()
        waiting = [operation() for operation in _operations(backend)]

        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, BackendError)
            self.assertIn(
                f"'{self.address}' did not answer within 0.5 seconds", str(error)
            )
            self.assertIsInstance(error.__cause__, asyncio.TimeoutError)

    async def test_a_server_that_hangs_after_a_rest_fails_requests_in_time(
        self,
    ) -> None:
        """Behaviour 66: nobody looks at the time while there is nothing to do."""
        backend = self._hurry()
        await _until_good(backend)
        # Longer than the time is looked at when all is done.
        await asyncio.sleep(0.1)
        self.server.pause()

        with self.assertRaisesRegex(BackendError, "did not answer within 0.5"):
            await backend.load(new_key())

    async def test_a_server_that_takes_no_connection_fails_requests_in_time(
        self,
    ) -> None:
        """Behaviour 66: to connect counts as well."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            address = listener.getsockname()
            # As many as wait to be accepted; who comes now is not even answered.
            with socket.create_connection(address):
                backend = MemcachedBackend(f"127.0.0.1:{address[1]}", timeout=0.5)
                loads = (backend.load(new_key()) for _ in range(10))
                errors = await asyncio.gather(*loads, return_exceptions=True)

        for error in errors:
            assert isinstance(error, BackendError)
            self.assertIn("did not answer within 0.5 seconds", str(error))

    async def test_a_save_that_the_server_does_not_read_fails_in_time(self) -> None:
        """Behaviour 66: also where the record is more than the network holds."""
        backend = self._hurry("&max_bytes=20000000")
        self.server.pause()

        with self.assertRaisesRegex(BackendError, "did not answer within 0.5"):
            await backend.insert(new_key(), make_record(bytes(20_000_000)))

    async def test_an_answer_that_is_cut_is_an_error(self) -> None:
        """Behaviour 66: wherever it is cut, and however the connection ends."""
        wire = await _Wire.before(self.server)
        self.addAsyncCleanup(wire.close)
        backend = MemcachedBackend(wire.address, timeout=60)
        self.addAsyncCleanup(backend.close)
        for length in (0, 1, 7, 80, 90):
            for reset in (False, True):
                with self.subTest(length=length, reset=reset):
                    key = new_key()
                    await backend.insert(key, make_record(bytes(100)))
                    version = (await load_record(backend, key)).version
                    wire.cut_after, wire.reset = length, reset
                    if length > 7:
                        with self.assertRaises(BackendError):
                            await backend.load(key)
                    else:
                        for operation in (
                            backend.load(key),
                            backend.replace(key, make_record(b"new"), version),
                            backend.insert(new_key(), make_record(b"new")),
                            backend.delete(key),
                        ):
                            with self.assertRaises(BackendError):
                                await operation
                    wire.cut_after = None
                    await backend.load(key)

    async def test_a_connection_that_ends_fails_all_that_share_it(self) -> None:
        """Behaviour 66: at once, whoever of them was cancelled, and it is said how."""
        wire = await _Wire.before(self.server)
        self.addAsyncCleanup(wire.close)
        for reset, cause in ((False, EOFError), (True, ConnectionResetError)):
            with self.subTest(reset=reset):
                backend = MemcachedBackend(wire.address, timeout=60)
                self.addAsyncCleanup(backend.close)
                wire.cut_after, wire.reset = None, reset
                await backend.load(new_key())
                wire.cut_after = 0
                loads = [
                    asyncio.ensure_future(backend.load(new_key())) for _ in range(5)
                ]
                await asyncio.sleep(0)
                loads[0].cancel()

                cancelled, *errors = await asyncio.gather(
                    *loads, return_exceptions=True
                )

                self.assertIsInstance(cancelled, asyncio.CancelledError)
                for error in errors:
                    assert isinstance(error, BackendError)
                    self.assertIsInstance(error.__cause__, cause)

    async def test_a_save_that_failed_may_have_been_stored(self) -> None:
        """Nobody knows, so nothing is said but that it failed."""
        wire = await _Wire.before(self.server)
        self.addAsyncCleanup(wire.close)
        backend = MemcachedBackend(wire.address, timeout=60)
        self.addAsyncCleanup(backend.close)
        key = new_key()
        wire.cut_after = 0

        with self.assertRaises(BackendError):
            await backend.insert(key, make_record(b"stored"))

        self.assertEqual(await data_of(self.backend, key), b"stored")

    def _hurry(self, options: str = "") -> Backend:
        """Answers a backend with a limit that a busy machine may miss, too."""
        url = f"{self.server.url}?timeout=0.5{options}"
        backend = MemcachedBackend.from_url(url, {})
        self.addAsyncCleanup(backend.close)
        return backend


@needs_memcached
class CancelledTest(unittest.IsolatedAsyncioTestCase):
    """Behaviour 68: operations that nobody waits for any more."""

    def setUp(self) -> None:
        self.server = Memcached().start_for(self)
        # Records are of up to 256 KB, which the socket does not take at once.
        url = f"{self.server.url}?timeout=60&max_bytes=262144"
        self.backend = MemcachedBackend.from_url(url, {})
        # With the one that asks.
        self.at_rest = self.server.statistic("curr_connections")
        self.addAsyncCleanup(self.backend.close)

    async def test_the_connection_of_a_cancelled_operation_is_closed(self) -> None:
        """Behaviour 68: its answer comes to nobody, and the next one has another."""
        await self.backend.load(new_key())
        opened = self.server.statistic("total_connections")
        for operation in _operations(self.backend):
            self.server.pause()
            task = asyncio.ensure_future(operation())
            # Until it waits for the answer.
            await asyncio.sleep(0)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            self.server.resume()
            self.assertIsNone(await self.backend.load(new_key()))

        # Five were opened anew, and one by the second question.
        self.assertEqual(self.server.statistic("total_connections"), opened + 5 + 1)
        await self._assert_one_is_open()

    async def test_who_shares_the_connection_of_a_cancelled_operation_is_served(
        self,
    ) -> None:
        """Behaviour 68: each of the others gets its own record, before it is closed."""
        keys = [new_key() for _ in range(30)]
        for key in keys:
            await self.backend.insert(key, make_record(key))
        self.server.pause()
        loads = [asyncio.ensure_future(self.backend.load(key)) for key in keys]
        await asyncio.sleep(0)
        for load in loads[::3]:
            load.cancel()
        await asyncio.wait(loads[::3])
        # On a new connection.
        loads += [asyncio.ensure_future(self.backend.load(key)) for key in keys]
        self.server.resume()

        records = await asyncio.gather(*loads, return_exceptions=True)

        for number, (key, record) in enumerate(zip(2 * keys, records, strict=True)):
            if number < 30 and number % 3 == 0:
                self.assertIsInstance(record, asyncio.CancelledError)
            else:
                assert isinstance(record, Record)
                self.assertEqual(record.data, key)
        await self._assert_one_is_open()

    async def test_all_operations_share_one_connection(self) -> None:
        """However many are under way, and however large what they carry."""
        await self.backend.load(new_key())
        opened = self.server.statistic("total_connections")
        keys = [new_key() for _ in range(100)]
        data = {key: key * random.randrange(1, 8_000) for key in keys}

        await asyncio.gather(
            *(self.backend.insert(k, make_record(data[k])) for k in keys)
        )
        loaded = await asyncio.gather(*(data_of(self.backend, key) for key in keys))

        self.assertEqual(loaded, list(data.values()))
        # The one that asks.
        self.assertEqual(self.server.statistic("total_connections"), opened + 1)

    async def test_closing_ends_a_connection_attempt_that_nobody_waits_for(
        self,
    ) -> None:
        """Behaviour 68: the next operation would have used its connection."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            address = listener.getsockname()
            # As many as wait to be accepted; who comes now is not even answered.
            with socket.create_connection(address):
                before = os.listdir("/proc/self/fd")
                backend = MemcachedBackend(f"127.0.0.1:{address[1]}", timeout=0.5)
                load = asyncio.ensure_future(backend.load(new_key()))
                await asyncio.wait([load], timeout=0.05)
                load.cancel()
                await asyncio.wait([load])

                await backend.close()

                self.assertEqual(os.listdir("/proc/self/fd"), before)

    async def test_closing_leaves_no_connection_behind(self) -> None:
        """Those in use are closed as soon as they are not."""
        before = os.listdir("/proc/self/fd")
        loads = [asyncio.ensure_future(self.backend.load(new_key())) for _ in range(20)]
        await asyncio.wait(loads, return_when=asyncio.FIRST_COMPLETED)

        await self.backend.close()
        await asyncio.gather(*loads)
        # The loop closes a socket in its next turn.
        await asyncio.sleep(0)

        self.assertEqual(os.listdir("/proc/self/fd"), before)

    async def _assert_one_is_open(self) -> None:
        """Waits until the server has noticed that no other one is."""

        for _ in range(1000):
            # Ours, and the one that asks; whatever else the server counts.
            if self.server.statistic("curr_connections") <= self.at_rest + 1:
                return
            await asyncio.sleep(0.01)
        self.fail("More than one connection is open.")


@needs_memcached
class ProcessTest(unittest.TestCase):
    def test_nothing_secret_is_logged(self) -> None:
        """Behaviour 8: neither keys nor data, with everything logged that can be."""
        key = new_key()

        async def use() -> None:
            backend = MemcachedBackend.from_url(f"{URL}?timeout=20", {})
            await backend.insert(key, make_record(b"hunter2"))
            await replace_record(backend, key, b"hunter2")
            assert await backend.insert(key, make_record(b"hunter2")) is None
            await backend.delete(key)
            await backend.close()

        with self.assertLogs(level=logging.DEBUG) as logs:
            asyncio.run(use(), debug=True)

        for secret in (key.hex(), "hunter2"):
            self.assertNotIn(secret, "\n".join(logs.output))


class _Wire:
    """Stands before a real server and cuts its answers on command."""

    address: str
    _listener: asyncio.Server

    def __init__(self, server: Memcached) -> None:
        self._port = server.port
        #: After how many bytes an answer is cut; None for no cut.
        self.cut_after: int | None = None
        #: Whether the connection is then reset, or closed in good order.
        self.reset = False

    @classmethod
    async def before(cls, server: Memcached) -> _Wire:
        wire = cls(server)
        wire._listener = await asyncio.start_server(wire._serve, "127.0.0.1", 0)
        wire.address = f"127.0.0.1:{wire._listener.sockets[0].getsockname()[1]}"
        return wire

    async def close(self) -> None:
        self._listener.close()
        await self._listener.wait_closed()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        answers, commands = await asyncio.open_connection("127.0.0.1", self._port)
        answering = asyncio.ensure_future(self._answer(answers, writer))
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                commands.write(data)
        commands.close()
        await answering

    async def _answer(
        self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while (data := await answers.read(65_536)) and self.cut_after is None:
            writer.write(data)
        writer.write(data[: self.cut_after])
        if self.reset:
            # Not to linger at all: a reset instead of an end.
            linger = struct.pack("ii", 1, 0)
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()


async def _until_good(backend: Backend) -> None:
    """Uses a backend until an operation is in time."""
    while True:
        with contextlib.suppress(BackendError):
            await backend.insert(new_key(), make_record(b"good"))
            return


def _operations(backend: Backend) -> list[Callable[[], Awaitable[object]]]:
    """Answers everything that a backend can be asked, each with a key of its own."""
    return [
        lambda: backend.load(new_key()),
        lambda: backend.insert(new_key(), make_record(b"new")),
        lambda: backend.replace(new_key(), make_record(b"replaced"), 1),
        lambda: backend.delete(new_key()),
        backend.ping,
    ]

"""What the memcached backend does beyond the contracts, on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
import socket
import struct
import time
import unittest
from collections.abc import Awaitable, Callable
from typing import Any

import tornado.web
from tornado.httpclient import HTTPResponse
from tornado.testing import AsyncHTTPTestCase, gen_test
from tornado_sessions_memcached import MemcachedBackend, MemcachedPool

from servers import Memcached
from tornado_sessions import (
    Backend,
    BackendError,
    Record,
    SessionMixin,
    Sessions,
    Vault,
)
from tornado_sessions.testing import BackendContract, HandlerContract, OutageContract

URL = os.environ.get("SESSIONS_TEST_MEMCACHED_URL", "")

needs_memcached = unittest.skipUnless(URL, "SESSIONS_TEST_MEMCACHED_URL is not set.")

DAY = 86_400


@needs_memcached
class MemcachedBackendTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends."""

    def make_backend(self) -> Backend:
        return MemcachedBackend.from_url(URL, {})


@needs_memcached
class MemcachedHandlerTest(HandlerContract, AsyncHTTPTestCase):
    """The contract of all applications."""

    def make_session_backend(self) -> str:
        return URL


@needs_memcached
class MemcachedOutageTest(OutageContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends whose store fails."""

    def make_server(self) -> Memcached:
        return Memcached()

    def make_backend(self, port: int, timeout: float) -> Backend:
        return MemcachedBackend(f"127.0.0.1:{port}", timeout=timeout)


class UrlTest(unittest.TestCase):
    def test_a_url_names_a_server(self) -> None:
        """The port is memcached's own where there is none."""
        for url, server in {
            "memcached://10.0.0.1:11212": ("10.0.0.1", 11212),
            "memcached://Cache-1.example.com": ("cache-1.example.com", 11211),
            "memcached://localhost/": ("localhost", 11211),
            "memcached://[::1]:11212": ("::1", 11212),
            "memcached://[fe80::1%eth0]": ("fe80::1%eth0", 11211),
        }.items():
            with self.subTest(url):
                backend = _one(url)
                self.assertEqual((backend.host, backend.port), server)

    def test_commas_separate_the_servers_of_a_pool(self) -> None:
        """Names and addresses of all kinds may stand together."""
        url = "memcached://a:1,10.0.0.1,[::1]:2?max_bytes=1000"
        for kind in (MemcachedBackend, MemcachedPool):
            pool = kind.from_url(url, {})

            assert isinstance(pool, MemcachedPool)
            addresses = [server.address for server in pool.servers]
            self.assertEqual(addresses, ["a:1", "10.0.0.1:11211", "[::1]:2"])
            self.assertEqual(pool.max_bytes, 1000)

    def test_options_have_defaults(self) -> None:
        """Two seconds, and what fits into memcached's mebibyte."""
        backend = _one("memcached://a")

        self.assertEqual(backend.timeout, 2.0)
        self.assertEqual(backend.prefix, "session:")
        self.assertEqual(backend.max_bytes, 65_536)

    def test_options_follow_a_question_mark(self) -> None:
        """They are those of the constructor."""
        backend = _one("memcached://a?timeout=0.5&prefix=shop/&max_bytes=1000")

        self.assertEqual(backend.timeout, 0.5)
        self.assertEqual(backend.prefix, "shop/")
        self.assertEqual(backend.max_bytes, 1000)

    def test_an_unknown_option_is_refused(self) -> None:
        """The error lists what there is, and names the closest."""
        self._assert_refused(
            "memcached://a?tiemout=1",
            "Did you mean 'timeout'? Its options are 'prefix', 'timeout', 'max_bytes'.",
        )

    def test_values_that_make_no_sense_are_refused(self) -> None:
        """Behaviour 89: the error names the option, and does not repeat the value."""
        for option, told in {
            "timeout=soon": "'timeout' must be a number.",
            "timeout=0": "'timeout' must be a finite number of seconds above 0.",
            "timeout=nan": "'timeout' must be a finite number of seconds above 0.",
            "timeout=inf": "'timeout' must be a finite number of seconds above 0.",
            "prefix=a%20b": "'prefix' must be at most 186 visible ASCII characters.",
            "prefix=a%0d%0a": "'prefix' must be at most 186 visible ASCII characters.",
            "prefix=%c3%a9": "'prefix' must be at most 186 visible ASCII characters.",
            "prefix=" + 187 * "x": "'prefix' must be at most 186",
            "max_bytes=many": "'max_bytes' must be a whole number.",
            "max_bytes=0": "'max_bytes' must be a number above 0.",
        }.items():
            with self.subTest(option):
                self._assert_refused(f"memcached://a?{option}", told)

    def test_what_is_no_server_is_refused(self) -> None:
        """Behaviour 89: the error says how one is written, and repeats nothing.

        Where the host was forgotten, a password stands for the port.
        """
        for server in (
            *("", ":1", "a:0", "a:65536", "a b", "a/1", "::1", "[::1"),
            *("me:hunter2", "me:11,hunter 2"),
        ):
            with self.subTest(server):
                message = self._assert_refused(
                    f"memcached://{server}", "needs servers, each with a host and a"
                )
                self.assertNotIn("hunter", message)

    def test_a_prefix_may_have_an_at_sign(self) -> None:
        """It is no sign of a password where the server is one."""
        self.assertEqual(_one("memcached://a?prefix=b@c:").prefix, "b@c:")

    def test_a_missing_server_is_refused(self) -> None:
        """Also between two others."""
        self._assert_refused("memcached://a,,b", "needs servers, each with a host")
        self._assert_refused("memcached", "as in 'memcached://10.0.0.1:11211'")

    def test_a_server_that_is_named_twice_is_refused(self) -> None:
        """However it is written: half of its connections would be in vain."""
        self._assert_refused("memcached://a,A:11211", "each only once")

    def test_a_pool_without_servers_is_refused(self) -> None:
        """A URL always names one, be it the empty name."""
        with self.assertRaisesRegex(ValueError, "needs a server"):
            MemcachedPool()

    def test_a_password_is_refused_and_not_repeated(self) -> None:
        """Behaviours 8, 89: memcached is protected otherwise."""
        for url in (
            "memcached://me:hunter2@a",
            "memcached://me:hunter2%40a",
            "memcached://me:why?hunter2@a",
            "memcached://me:why?hunter2=2@a",
            "memcached://me:why?timeout=hunter2@a",
            "memcached://me:why?timeout=hunter2%40a",
            "memcached://me:why?max_bytes=1&prefix=hunter2@a",
        ):
            with self.subTest(url):
                message = self._assert_refused(url, "no password")

                self.assertNotIn("hunter2", message)

    def _assert_refused(self, url: str, told: str) -> str:
        with self.assertRaises(ValueError) as caught:
            MemcachedBackend.from_url(url, {})
        self.assertIn(told, str(caught.exception))
        return str(caught.exception)


@needs_memcached
class StoredTest(unittest.IsolatedAsyncioTestCase):
    """What is in the server is what the README says."""

    def setUp(self) -> None:
        self.server = _start(self)
        self.backend = MemcachedBackend.from_url(self.server.url, {})
        self.addAsyncCleanup(self.backend.close)

    async def test_a_key_is_the_prefix_and_hexadecimal_digits(self) -> None:
        """The value is the record's data and nothing else."""
        key = _new_key()
        await self.backend.insert(key, _record(b"data"))

        self.assertEqual(
            _ask(self.server, f"get session:{key.hex()}"),
            [f"VALUE session:{key.hex()} 0 4", "data", "END"],
        )

    async def test_flags_of_somebody_else_are_nothing_to_us(self) -> None:
        """Behaviour 32: what is in a record is for the core to judge, not 503."""
        key = _new_key()
        _ask(self.server, f"set session:{key.hex()} 16 0 4\r\ndata", 1)

        self.assertEqual(await _data(self.backend, key), b"data")

    async def test_different_prefixes_never_meet(self) -> None:
        """Two applications on one server each have their own."""
        other = MemcachedBackend.from_url(f"{self.server.url}?prefix=other:", {})
        self.addAsyncCleanup(other.close)
        key = _new_key()
        await self.backend.insert(key, _record(b"ours"))

        self.assertIsNone(await other.load(key))
        await other.delete(key)
        await other.insert(key, _record(b"other"))

        self.assertEqual(await _data(self.backend, key), b"ours")

    async def test_the_longest_prefix_and_the_largest_record_fit(self) -> None:
        """Behaviour 63: what the options allow is what memcached takes."""
        prefix = 186 * "x"
        url = f"{self.server.url}?prefix={prefix}&max_bytes=1047552"
        backend = MemcachedBackend.from_url(url, {})
        self.addAsyncCleanup(backend.close)
        key, data = _new_key(), bytes(1_047_552)
        await backend.insert(key, _record(b"small"))

        await _replace(backend, key, data)

        self.assertEqual(await _data(backend, key), data)

    async def test_max_bytes_can_be_raised_with_the_server(self) -> None:
        """Behaviour 63: a server with a larger ``-I`` takes larger records."""
        server = _start(self, "-I", "3m")
        backend = MemcachedBackend.from_url(f"{server.url}?max_bytes=3000000", {})
        self.addAsyncCleanup(backend.close)
        key, data = _new_key(), bytes(3_000_000)

        await backend.insert(key, _record(data))

        self.assertEqual(await _data(backend, key), data)

    async def test_no_lifetime_ends_a_record_too_early(self) -> None:
        """Behaviour 52: below and above thirty days, and after 2038."""
        for days in (0.001, 1, 29.999, 30, 30.001, 31, 400):
            with self.subTest(days=days):
                key, expires = _new_key(), time.time() + days * DAY
                await self.backend.insert(key, Record(b"data", expires=expires))

                remaining = self._seconds_left(key)
                self.assertGreaterEqual(time.time() + remaining, expires)
                self.assertLess(time.time() + remaining, expires + 310)

    async def test_what_memcached_cannot_say_is_kept_for_ever(self) -> None:
        """Behaviour 52: its dates end in 2038, and 0 means that nothing expires."""
        for expires in (0.0, 2.0**31 + 1, time.time() + 40 * 365 * DAY):
            with self.subTest(expires=expires):
                key = _new_key()
                await self.backend.insert(key, Record(b"data", expires=expires))

                self.assertEqual(self._seconds_left(key), -1)

    async def test_a_replacement_moves_the_expiry(self) -> None:
        """Behaviour 52: that of the newest record counts, either way."""
        key = _new_key()
        await self.backend.insert(key, _record(b"data", expires_in=60))
        for seconds in (40 * DAY, 600):
            await _replace(self.backend, key, b"data", expires_in=seconds)
            self.assertAlmostEqual(self._seconds_left(key), seconds, delta=310)

    async def test_what_has_expired_is_forgotten_soon(self) -> None:
        """An expiry in the past is no error, and no record for ever."""
        key = _new_key()

        await self.backend.insert(key, _record(b"data", expires_in=-DAY))

        self.assertLessEqual(self._seconds_left(key), 2)

    def _seconds_left(self, key: bytes) -> int:
        """Answers for how long memcached keeps a record; -1 for ever."""
        [answer] = _ask(self.server, f"mg session:{key.hex()} t", lines=1)
        return int(answer.removeprefix("HD t"))


@needs_memcached
class RefusedTest(unittest.IsolatedAsyncioTestCase):
    """What a server refuses, or would lose."""

    async def test_the_old_record_stays_where_the_server_takes_less(self) -> None:
        """Behaviour 63: memcached drops it at a ``set`` only, which is never sent."""
        backend = self._backend(_start(self, "-I", "512k"), "?max_bytes=600000")
        key = _new_key()
        await backend.insert(key, _record(b"old"))

        with self.assertRaisesRegex(BackendError, "object too large for cache"):
            await _replace(backend, key, bytes(600_000))

        self.assertEqual(await _data(backend, key), b"old")

    async def test_a_full_server_that_may_not_evict_is_an_error(self) -> None:
        """With ``-M`` nothing is lost for what is new, and what is stored is read."""
        backend = self._backend(_start(self, "-M", "-m", "8"))
        kept = _new_key()
        await backend.insert(kept, _record(b"kept"))

        with self.assertRaisesRegex(BackendError, "out of memory"):
            for _ in range(1000):
                await backend.insert(_new_key(), _record(bytes(65_000)))

        self.assertEqual(await _data(backend, kept), b"kept")

    async def test_a_server_without_versions_is_refused(self) -> None:
        """It would take the data of a session for commands."""
        backend = self._backend(_start(self, "-C"))
        key = _new_key()
        await backend.insert(key, _record(b"flush_all\r\n"))

        with self.assertRaisesRegex(BackendError, "keeps no versions.*without -C"):
            await backend.load(key)

    async def test_what_a_server_refuses_disturbs_no_other(self) -> None:
        """An error to one save is no answer to those that go with it."""
        backend = self._backend(_start(self, "-I", "512k"), "?max_bytes=600000")
        keys = [_new_key() for _ in range(20)]
        await asyncio.gather(*(backend.insert(key, _record(key)) for key in keys))

        too_large = backend.insert(_new_key(), _record(bytes(600_000)))
        loads = (_data(backend, key) for key in keys)
        error, *loaded = await asyncio.gather(too_large, *loads, return_exceptions=True)

        self.assertIsInstance(error, BackendError)
        self.assertEqual(loaded, keys)

    def _backend(self, server: Memcached, options: str = "") -> Backend:
        backend = MemcachedBackend.from_url(server.url + options, {})
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
        key = _new_key().hex().encode()
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
        key = _new_key()

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
            await backend.load(_new_key())

        self.assertLess(len(str(caught.exception)), 300)

    async def test_all_behind_an_answer_that_does_not_fit_fail(self) -> None:
        """Behaviour 68: theirs may be shifted as well; the next ones are good."""
        backend = await self._answering(b"STORED\r\nEND\r\nEND\r\nEND\r\n")
        loads = (backend.load(_new_key()) for _ in range(4))

        for error in await asyncio.gather(*loads, return_exceptions=True):
            self.assertIsInstance(error, BackendError)

        self.answer = b"END\r\n"
        self.assertIsNone(await backend.load(_new_key()))

    async def test_an_answer_too_many_ends_the_connection(self) -> None:
        """Behaviour 68: it is no answer to the next command."""
        backend = await self._answering(b"END\r\nEND\r\n")

        with self.assertNoLogs():
            for _ in range(3):
                self.assertIsNone(await backend.load(_new_key()))

        self.assertEqual(self.connections, 3)

    async def test_the_connection_of_an_operation_that_took_too_long_is_left(
        self,
    ) -> None:
        """Behaviours 66, 68: what may still come there is nobody's."""
        backend = await self._answering(b"", timeout=1.0)
        with self.assertRaisesRegex(BackendError, "did not answer"):
            await backend.load(_new_key())

        self.answer = b"END\r\n"
        self.assertIsNone(await backend.load(_new_key()))

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
                    await backend.load(_new_key())

    async def _answering(self, answer: bytes, timeout: float = 60) -> MemcachedBackend:
        """Answers a backend on a server that has one answer to every command."""
        self.answer, self.connections = answer, 0

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            self.connections += 1
            with contextlib.suppress(ConnectionError):
                while line := await reader.readline():
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
        backend = MemcachedBackend(self.address, timeout=timeout)
        self.addAsyncCleanup(backend.close)
        return backend


@needs_memcached
class NetworkTest(unittest.IsolatedAsyncioTestCase):
    """Behaviour 68: a network that cuts answers into pieces, and connections off."""

    async def asyncSetUp(self) -> None:
        # To trace each task would take most of the time.
        asyncio.get_running_loop().set_debug(False)
        self.chance = random.Random(68)
        self.server = _start(self)
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
        keys = [_new_key() for _ in range(20)]
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
                version = await self.backend.insert(key, _record(data))
            else:
                version = await self.backend.replace(key, _record(data), record.version)
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
        self.server = _start(self)
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
            await backend.load(_new_key())

    async def test_a_server_that_takes_no_connection_fails_requests_in_time(
        self,
    ) -> None:
        """Behaviour 66: to connect counts as well."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
            address = listener.getsockname()
            # As many as wait to be accepted; who comes now is not even answered.
            with socket.create_connection(address):
                backend = MemcachedBackend(f"127.0.0.1:{address[1]}", timeout=0.5)
                loads = (backend.load(_new_key()) for _ in range(10))
                errors = await asyncio.gather(*loads, return_exceptions=True)

        for error in errors:
            assert isinstance(error, BackendError)
            self.assertIn("did not answer within 0.5 seconds", str(error))

    async def test_a_save_that_the_server_does_not_read_fails_in_time(self) -> None:
        """Behaviour 66: also where the record is more than the network holds."""
        backend = self._hurry("&max_bytes=20000000")
        self.server.pause()

        with self.assertRaisesRegex(BackendError, "did not answer within 0.5"):
            await backend.insert(_new_key(), _record(bytes(20_000_000)))

    async def test_an_answer_that_is_cut_is_an_error(self) -> None:
        """Behaviour 66: wherever it is cut, and however the connection ends."""
        wire = await _Wire.before(self.server)
        self.addAsyncCleanup(wire.close)
        backend = MemcachedBackend(wire.address)
        self.addAsyncCleanup(backend.close)
        for length in (0, 1, 7, 80, 90):
            for reset in (False, True):
                with self.subTest(length=length, reset=reset):
                    key = _new_key()
                    await backend.insert(key, _record(bytes(100)))
                    version = (await _load(backend, key)).version
                    wire.cut_after, wire.reset = length, reset
                    if length > 7:
                        with self.assertRaises(BackendError):
                            await backend.load(key)
                    else:
                        for operation in (
                            backend.load(key),
                            backend.replace(key, _record(b"new"), version),
                            backend.insert(_new_key(), _record(b"new")),
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
                await backend.load(_new_key())
                wire.cut_after = 0
                loads = [
                    asyncio.ensure_future(backend.load(_new_key())) for _ in range(5)
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
        backend = MemcachedBackend(wire.address)
        self.addAsyncCleanup(backend.close)
        key = _new_key()
        wire.cut_after = 0

        with self.assertRaises(BackendError):
            await backend.insert(key, _record(b"stored"))

        self.assertEqual(await _data(self.backend, key), b"stored")

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
        self.server = _start(self)
        # Records are of up to 256 KB, which the socket does not take at once.
        url = f"{self.server.url}?timeout=60&max_bytes=262144"
        self.backend = MemcachedBackend.from_url(url, {})
        # With the one that asks.
        self.at_rest = self._statistic("curr_connections")
        self.addAsyncCleanup(self.backend.close)

    async def test_the_connection_of_a_cancelled_operation_is_closed(self) -> None:
        """Behaviour 68: its answer comes to nobody, and the next one has another."""
        await self.backend.load(_new_key())
        opened = self._statistic("total_connections")
        for operation in _operations(self.backend):
            self.server.pause()
            task = asyncio.ensure_future(operation())
            # Until it waits for the answer.
            await asyncio.sleep(0)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            self.server.resume()
            self.assertIsNone(await self.backend.load(_new_key()))

        # Five were opened anew, and one by the second question.
        self.assertEqual(self._statistic("total_connections"), opened + 5 + 1)
        await self._assert_one_is_open()

    async def test_who_shares_the_connection_of_a_cancelled_operation_is_served(
        self,
    ) -> None:
        """Behaviour 68: each of the others gets its own record, before it is closed."""
        keys = [_new_key() for _ in range(30)]
        for key in keys:
            await self.backend.insert(key, _record(key))
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
        await self.backend.load(_new_key())
        opened = self._statistic("total_connections")
        keys = [_new_key() for _ in range(100)]
        data = {key: key * random.randrange(1, 8_000) for key in keys}

        await asyncio.gather(*(self.backend.insert(k, _record(data[k])) for k in keys))
        loaded = await asyncio.gather(*(_data(self.backend, key) for key in keys))

        self.assertEqual(loaded, list(data.values()))
        # The one that asks.
        self.assertEqual(self._statistic("total_connections"), opened + 1)

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
                load = asyncio.ensure_future(backend.load(_new_key()))
                await asyncio.wait([load], timeout=0.05)
                load.cancel()
                await asyncio.wait([load])

                await backend.close()

                self.assertEqual(os.listdir("/proc/self/fd"), before)

    async def test_closing_leaves_no_connection_behind(self) -> None:
        """Those in use are closed as soon as they are not."""
        before = os.listdir("/proc/self/fd")
        loads = [
            asyncio.ensure_future(self.backend.load(_new_key())) for _ in range(20)
        ]
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
            if self._statistic("curr_connections") <= self.at_rest + 1:
                return
            await asyncio.sleep(0.01)
        self.fail("More than one connection is open.")

    def _statistic(self, name: str) -> int:
        return _statistic(self.server, name)


@needs_memcached
class ProcessTest(unittest.TestCase):
    def test_nothing_secret_is_logged(self) -> None:
        """Behaviour 8: neither keys nor data, with everything logged that can be."""
        key = _new_key()

        async def use() -> None:
            backend = MemcachedBackend.from_url(URL, {})
            await backend.insert(key, _record(b"hunter2"))
            await _replace(backend, key, b"hunter2")
            assert await backend.insert(key, _record(b"hunter2")) is None
            await backend.delete(key)
            await backend.close()

        with self.assertLogs(level=logging.DEBUG) as logs:
            asyncio.run(use(), debug=True)

        for secret in (key.hex(), "hunter2"):
            self.assertNotIn(secret, "\n".join(logs.output))


@needs_memcached
class PoolTest(unittest.IsolatedAsyncioTestCase):
    """How sessions are spread over several servers."""

    def setUp(self) -> None:
        self.servers = [_start(self) for _ in range(3)]

    async def test_each_server_keeps_its_share(self) -> None:
        """Of 900 sessions on three servers each has some 300."""
        await self._fill(self._backend(*self.servers), 900)

        shares = [_statistic(server, "curr_items") for server in self.servers]
        self.assertEqual(sum(shares), 900)
        # Seven standard deviations.
        self.assertGreater(min(shares), 200)
        self.assertLess(max(shares), 400)

    async def test_the_order_of_the_servers_does_not_matter(self) -> None:
        """Two processes whose settings differ in it find the same sessions."""
        keys = await self._fill(self._backend(*self.servers), 50)
        other = self._backend(*reversed(self.servers))

        for key in keys:
            self.assertEqual(await _data(other, key), key)

    async def test_a_server_less_loses_its_share_and_no_other(self) -> None:
        """No session moves between the servers that stay."""
        keys = await self._fill(self._backend(*self.servers), 300)
        lost = _statistic(self.servers[1], "curr_items")
        fewer = self._backend(self.servers[0], self.servers[2])

        found = [key for key in keys if await fewer.load(key) is not None]

        self.assertEqual(len(found), 300 - lost)

    async def test_a_server_that_is_down_fails_its_share_and_no_other(self) -> None:
        """Behaviour 66: the error names it."""
        backend = self._backend(*self.servers)
        keys = await self._fill(backend, 100)
        lost = _statistic(self.servers[1], "curr_items")
        self.servers[1].kill()

        loads = (backend.load(key) for key in keys)
        answers = await asyncio.gather(*loads, return_exceptions=True)

        failed = [answer for answer in answers if not isinstance(answer, Record)]
        self.assertEqual(len(failed), lost)
        for error in failed:
            self.assertIsInstance(error, BackendError)
            self.assertIn(f"127.0.0.1:{self.servers[1].port}", str(error))

    async def test_new_sessions_avoid_a_server_that_is_down(self) -> None:
        """Behaviour 66: nobody who comes new is turned away, at once or later."""
        backend = self._backend(*self.servers)
        vault = Vault(backend)
        self.servers[1].kill()

        tokens = await asyncio.gather(*(_begin(vault) for _ in range(30)))
        tokens += [await _begin(vault) for _ in range(30)]

        for token in tokens:
            self.assertIsNotNone(await vault.load(token))

    async def test_new_sessions_avoid_a_server_that_hangs(self) -> None:
        """Behaviour 66: the first ones wait for the time limit, and no others do."""
        backend = self._backend(*self.servers, timeout=2)
        vault = Vault(backend)
        up, hanging = [
            await self._key_on(server, backend) for server in self.servers[:2]
        ]
        self.servers[1].pause()

        await asyncio.gather(*(_begin(vault) for _ in range(30)))

        self.assertTrue(backend.is_down(hanging))
        self.assertFalse(backend.is_down(up))

    async def test_a_server_that_is_back_gets_new_sessions_again(self) -> None:
        """Behaviour 66: as soon as one operation there was good."""
        backend = self._backend(*self.servers, timeout=60)
        key = await self._key_on(self.servers[1], backend)
        self.servers[1].kill()
        with self.assertRaises(BackendError):
            await backend.load(key)
        self.assertTrue(backend.is_down(key))
        self.servers[1].start()

        await backend.load(key)

        self.assertFalse(backend.is_down(key))

    async def test_a_server_that_failed_is_tried_again_after_the_limit(self) -> None:
        """Behaviour 66: also where no session is there that would ask for it."""
        backend = self._backend(*self.servers, timeout=1)
        key = await self._key_on(self.servers[1], backend)
        self.servers[1].kill()
        with self.assertRaises(BackendError):
            await backend.load(key)

        await asyncio.sleep(1.1)
        self.assertFalse(backend.is_down(key))

        # While the first is on its way there, the others still go elsewhere.
        trying = asyncio.ensure_future(backend.load(key))
        await asyncio.sleep(0)
        self.assertTrue(backend.is_down(key))
        await asyncio.wait([trying])
        self.assertIsInstance(trying.exception(), BackendError)

    async def test_no_server_is_avoided_where_none_is_better(self) -> None:
        """Behaviour 66: the error then tells at once what is wrong."""
        for servers in (self.servers, self.servers[:1]):
            backend = self._backend(*servers, timeout=60)
            keys = [await self._key_on(server, backend) for server in servers]
            for server, key in zip(servers, keys, strict=True):
                server.kill()
                with self.assertRaises(BackendError):
                    await backend.load(key)

            self.assertFalse(any(backend.is_down(key) for key in keys))
            with self.assertRaisesRegex(BackendError, "Check that it runs there"):
                await _begin(Vault(backend))
            for server in servers:
                server.start()

    async def test_a_ping_fails_where_no_server_answers(self) -> None:
        """Behaviour 90: while one does, new sessions go there."""
        backend = self._backend(*self.servers, timeout=60)
        for server in self.servers:
            await backend.ping()
            server.kill()

        with self.assertRaisesRegex(BackendError, "Check that it runs there"):
            await backend.ping()

        self.servers[2].start()
        await backend.ping()

    async def test_a_ping_finds_out_which_servers_are_down(self) -> None:
        """Behaviours 66, 90: it asks all of them, and new sessions avoid those."""
        backend = self._backend(*self.servers, timeout=60)
        keys = [await self._key_on(server, backend) for server in self.servers]
        self.servers[1].kill()

        await backend.ping()

        self.assertEqual([backend.is_down(key) for key in keys], [False, True, False])

    async def _key_on(self, server: Memcached, backend: Backend) -> bytes:
        """Returns a key that is not in use, of those that ``server`` keeps."""
        while True:
            key = _new_key()
            before = _statistic(server, "get_misses")
            await backend.load(key)
            if _statistic(server, "get_misses") > before:
                return key

    def _backend(self, *servers: Memcached, timeout: float = 2.0) -> MemcachedPool:
        hosts = (f"127.0.0.1:{server.port}" for server in servers)
        backend = MemcachedPool(*(MemcachedBackend(h, timeout=timeout) for h in hosts))
        self.addAsyncCleanup(backend.close)
        return backend

    async def _fill(self, backend: Backend, count: int) -> list[bytes]:
        keys = [_new_key() for _ in range(count)]
        await asyncio.gather(*(backend.insert(key, _record(key)) for key in keys))
        return keys


class CountHandler(SessionMixin):
    def get(self) -> None:
        self.session["n"] = self.session.get("n", 0) + 1
        self.write(str(self.session["n"]))


@needs_memcached
class PoolOverHTTPTest(AsyncHTTPTestCase):
    """A pool of three under an application, and one of them is killed."""

    def setUp(self) -> None:
        self.servers = [_start(self) for _ in range(3)]
        super().setUp()

    def tearDown(self) -> None:
        self.io_loop.run_sync(Sessions.of(self._app).close)
        super().tearDown()

    def get_app(self) -> tornado.web.Application:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return tornado.web.Application(
            [("/", CountHandler)],
            session_backend=f"memcached://{hosts}",
            log_function=lambda handler: None,
        )

    @gen_test(timeout=60)
    async def test_one_of_three_is_killed_and_comes_back(self) -> None:
        """Behaviours 30, 66: 503 for its sessions, and no one else notices."""
        cookies = [await self._new_visitor() for _ in range(40)]
        theirs, others = await self._divide(cookies)
        self.assertTrue(theirs)
        self.assertTrue(others)

        self.servers[0].kill()
        with self.assertLogs("tornado_sessions"):
            for cookie in theirs:
                response = await self._visit(cookie)
                self.assertEqual(response.code, 503)
                self.assertIn("Retry-After", response.headers)
                self.assertNotIn("Set-Cookie", response.headers)
        for cookie in others:
            response = await self._visit(cookie)
            self.assertEqual((response.code, response.body), (200, b"3"))
        meanwhile = [await self._new_visitor() for _ in range(40)]
        for cookie in meanwhile:
            response = await self._visit(cookie)
            self.assertEqual((response.code, response.body), (200, b"2"))

        self.servers[0].start()
        for cookie in others:
            response = await self._visit(cookie)
            self.assertEqual((response.code, response.body), (200, b"4"))
        for cookie in theirs:
            # What it kept is lost; it begins anew, under another cookie.
            response = await self._visit(cookie)
            self.assertEqual((response.code, response.body), (200, b"1"))
            self.assertIn("Set-Cookie", response.headers)
        newcomers = [await self._new_visitor() for _ in range(40)]
        self.assertTrue((await self._divide(newcomers))[0])

    async def _new_visitor(self) -> str:
        response = await self._visit("")
        self.assertEqual((response.code, response.body), (200, b"1"))
        return response.headers["Set-Cookie"].partition(";")[0]

    async def _divide(self, cookies: list[str]) -> tuple[list[str], list[str]]:
        """Has each visitor come once: those of the first server, and the others."""
        theirs: list[str] = []
        others: list[str] = []
        for cookie in cookies:
            before = _statistic(self.servers[0], "cas_hits")
            response = await self._visit(cookie)
            self.assertEqual((response.code, response.body), (200, b"2"))
            used = _statistic(self.servers[0], "cas_hits") > before
            (theirs if used else others).append(cookie)
        return theirs, others

    async def _visit(self, cookie: str) -> HTTPResponse:
        return await self.http_client.fetch(
            self.get_url("/"), headers={"Cookie": cookie}, raise_error=False
        )


def _one(url: str) -> MemcachedBackend:
    backend = MemcachedBackend.from_url(url, {})
    assert isinstance(backend, MemcachedBackend)
    return backend


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


def _start(case: unittest.TestCase, *options: str) -> Memcached:
    """Starts a server that the test may kill."""
    server = Memcached(*options)
    case.addCleanup(server.stop)
    server.start()
    return server


def _ask(server: Memcached, command: str, lines: int | None = None) -> list[str]:
    """Answers so many lines, or all up to END, that a server says to a command."""
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        connection.sendall(command.encode() + b"\r\n")
        answer: list[str] = []
        with connection.makefile(newline="\r\n") as file:
            while len(answer) != lines and answer[-1:] != ["END"]:
                answer.append(file.readline().removesuffix("\r\n"))
        return answer


def _statistic(server: Memcached, name: str) -> int:
    values = dict(line.split(" ")[1:3] for line in _ask(server, "stats")[:-1])
    return int(values[name])


def _new_key() -> bytes:
    return secrets.token_bytes(32)


def _record(data: bytes, *, expires_in: float = 3600) -> Record:
    return Record(data, expires=time.time() + expires_in)


async def _load(backend: Backend, key: bytes) -> Record:
    record = await backend.load(key)
    assert record is not None, "The record is not in the store."
    return record


async def _until_good(backend: Backend) -> None:
    """Uses a backend until an operation is in time."""
    while True:
        with contextlib.suppress(BackendError):
            await backend.insert(_new_key(), _record(b"good"))
            return


async def _begin(vault: Vault) -> str:
    """Stores a new session and answers its token."""
    return (await vault.insert(Record(b"new"))).token


async def _data(backend: Backend, key: bytes) -> bytes:
    return (await _load(backend, key)).data


async def _replace(
    backend: Backend, key: bytes, data: bytes, *, expires_in: float = 3600
) -> None:
    version = (await _load(backend, key)).version
    await backend.replace(key, _record(data, expires_in=expires_in), version)


def _operations(backend: Backend) -> list[Callable[[], Awaitable[object]]]:
    """Answers everything that a backend can be asked, each with a key of its own."""
    return [
        lambda: backend.load(_new_key()),
        lambda: backend.insert(_new_key(), _record(b"new")),
        lambda: backend.replace(_new_key(), _record(b"replaced"), 1),
        lambda: backend.delete(_new_key()),
        backend.ping,
    ]

"""What a pool of memcached servers does when one of them is down."""

from __future__ import annotations

import asyncio
import os
import unittest

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
from tornado_sessions.testing.records import (
    make_record,
    new_key,
)
from tornado_sessions.testing.stores import data_of
from tornado_sessions.testing.timers import LoopClock

needs_memcached = unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_MEMCACHED_URL"),
    "SESSIONS_TEST_MEMCACHED_URL is not set.",
)


@needs_memcached
class PoolTest(unittest.IsolatedAsyncioTestCase):
    """How sessions are spread over several servers."""

    def setUp(self) -> None:
        self.servers = [Memcached().start_for(self) for _ in range(3)]

    async def test_each_server_keeps_its_share(self) -> None:
        """Of 900 sessions on three servers each has some 300."""
        await self._fill(self._backend(*self.servers), 900)

        shares = [server.statistic("curr_items") for server in self.servers]
        self.assertEqual(sum(shares), 900)
        # Seven standard deviations.
        self.assertGreater(min(shares), 200)
        self.assertLess(max(shares), 400)

    async def test_the_order_of_the_servers_does_not_matter(self) -> None:
        """Two processes whose settings differ in it find the same sessions."""
        keys = await self._fill(self._backend(*self.servers), 50)
        other = self._backend(*reversed(self.servers))

        for key in keys:
            self.assertEqual(await data_of(other, key), key)

    async def test_a_server_less_loses_its_share_and_no_other(self) -> None:
        """No session moves between the servers that stay."""
        keys = await self._fill(self._backend(*self.servers), 300)
        lost = self.servers[1].statistic("curr_items")
        fewer = self._backend(self.servers[0], self.servers[2])

        found = [key for key in keys if await fewer.load(key) is not None]

        self.assertEqual(len(found), 300 - lost)

    async def test_a_server_that_is_down_fails_its_share_and_no_other(self) -> None:
        """Behaviour 66: the error names it."""
        backend = self._backend(*self.servers)
        keys = await self._fill(backend, 100)
        lost = self.servers[1].statistic("curr_items")
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
        backend = self._backend(*self.servers, timeout=5)
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
        backend = self._backend(*self.servers)
        key = await self._key_on(self.servers[1], backend)
        self.servers[1].kill()
        with self.assertRaises(BackendError):
            await backend.load(key)

        await LoopClock().advance(20)
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
            key = new_key()
            before = server.statistic("get_misses")
            await backend.load(key)
            if server.statistic("get_misses") > before:
                return key

    def _backend(self, *servers: Memcached, timeout: float = 20.0) -> MemcachedPool:
        hosts = (f"127.0.0.1:{server.port}" for server in servers)
        backend = MemcachedPool(*(MemcachedBackend(h, timeout=timeout) for h in hosts))
        self.addAsyncCleanup(backend.close)
        return backend

    async def _fill(self, backend: Backend, count: int) -> list[bytes]:
        keys = [new_key() for _ in range(count)]
        await asyncio.gather(*(backend.insert(key, make_record(key)) for key in keys))
        return keys


class CountHandler(SessionMixin):
    def get(self) -> None:
        self.session["n"] = self.session.get("n", 0) + 1
        self.write(str(self.session["n"]))


@needs_memcached
class PoolOverHTTPTest(AsyncHTTPTestCase):
    """A pool of three under an application, and one of them is killed."""

    def setUp(self) -> None:
        self.servers = [Memcached().start_for(self) for _ in range(3)]
        super().setUp()

    def tearDown(self) -> None:
        self.io_loop.run_sync(Sessions.of(self._app).close)
        super().tearDown()

    def get_app(self) -> tornado.web.Application:
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return tornado.web.Application(
            [("/", CountHandler)],
            session_backend=f"memcached://{hosts}?timeout=20",
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
            before = self.servers[0].statistic("cas_hits")
            response = await self._visit(cookie)
            self.assertEqual((response.code, response.body), (200, b"2"))
            used = self.servers[0].statistic("cas_hits") > before
            (theirs if used else others).append(cookie)
        return theirs, others

    async def _visit(self, cookie: str) -> HTTPResponse:
        return await self.http_client.fetch(
            self.get_url("/"),
            headers={"Cookie": cookie},
            raise_error=False,
            request_timeout=30,
        )


async def _begin(vault: Vault) -> str:
    """Stores a new session and answers its token."""
    return (await vault.insert(Record(b"new"))).token

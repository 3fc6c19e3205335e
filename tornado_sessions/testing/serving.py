"""Tests over HTTP that Tornado works as it does without sessions."""

from __future__ import annotations

import gc
from urllib.parse import urlsplit

import tornado.web
from tornado.httpclient import HTTPResponse
from tornado.iostream import IOStream
from tornado.tcpclient import TCPClient
from tornado.testing import gen_test

from tornado_sessions.testing.applications import (
    Act,
    look,
    put,
)
from tornado_sessions.testing.visitors import Visitor, VisitorTests
from tornado_sessions.testing.ways import stream, values_of


class ServingContract(VisitorTests):
    """Tests of responses and connections, as a client sees them."""

    def test_responses_are_as_without_a_session(self) -> None:
        """Behaviour 34: status, ETag, Content-Length and body are the same."""

        def write(handler: tornado.web.RequestHandler) -> None:
            handler.write("The same body.")

        known = self.visitor()
        known.does(put(a=0))
        for method in ("GET", "HEAD"):
            plain = self.visitor().does(write, path="/plain", method=method)
            for visitor, acts in (
                (self.visitor(), (look, write)),
                (self.visitor(), (put(a=1), write)),
                (known, (look, write)),
            ):
                response = visitor.does(*acts, method=method)
                self.assertEqual(_outside(response), _outside(plain))
                again = visitor.does(
                    *acts,
                    method=method,
                    headers={"If-None-Match": plain.headers["Etag"]},
                )
                self.assertEqual(again.code, 304)
                self.assertEqual(again.body, b"")

    @gen_test(timeout=30)
    async def test_a_connection_is_kept_alive(self) -> None:
        """Behaviour 34: a second request on it is answered, too."""
        ada = self.visitor()
        connection = await self.connect()
        for _ in range(2):
            await connection.write(_raw_request(ada, put(a=1)))
            head = await connection.read_until(b"\r\n\r\n")
            self.assertTrue(head.startswith(b"HTTP/1.1 200 OK"), head)
            self.assertIn(b"Set-Cookie: session=", head)
            self.assertIn(b"Content-Length: 0", head)
        connection.close()

    @gen_test(timeout=30)
    async def test_what_a_client_wrote_that_hung_up_is_saved(self) -> None:
        """Behaviour 34: and no error of ours is left unretrieved."""
        self.require_revocable()
        ada = self.visitor()
        await ada.send(put(a=1))
        vault = self.watch(suspends=True)
        for act in (look, stream):
            gate = self.hold(vault)
            connection = await self.connect()
            await connection.write(_raw_request(ada, put(b=act.__name__), act))
            await gate.reached.wait()
            connection.close()
            # By the next answer the server has noticed.
            await self.visitor().send(path="/plain")
            gate.set()
            while (await values_of(ada)).get("b") != act.__name__:
                pass
        gc.collect()  # So that asyncio tells of what nobody asked for.

    async def connect(self) -> IOStream:
        """Opens a connection to the site."""
        address = urlsplit(self.site.url)
        assert address.hostname is not None
        assert address.port is not None
        return await TCPClient().connect(address.hostname, address.port)


def _raw_request(visitor: Visitor, *acts: Act) -> bytes:
    headers = {"Host": urlsplit(visitor.site.url).netloc} | visitor.headers(*acts)
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode()


def _outside(response: HTTPResponse) -> tuple[object, ...]:
    """Returns what a client sees of a response, without the session's headers."""
    headers = response.headers
    names = ("Etag", "Content-Length", "Content-Type", "Connection")
    return (response.code, response.body, [headers.get(name) for name in names])

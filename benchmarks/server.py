"""The server that is measured: for each backend a port, with a bare handler beside.

Prints one line of JSON when it is ready: the ports and the cookies of sessions
that hold some 300 bytes each.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import tempfile

import tornado.httpclient
import tornado.httpserver
import tornado.netutil
import tornado.web

from tornado_sessions import SessionMixin, Sessions

SESSIONS = 64
VALUES = {f"key{n}": "v" * 15 for n in range(10)}

_counter = itertools.count()


class BareHandler(tornado.web.RequestHandler):
    def get(self) -> None:
        self.write("hello")


class UntouchedHandler(SessionMixin):
    def get(self) -> None:
        self.write("hello")


class ReadHandler(SessionMixin):
    def get(self) -> None:
        self.write(self.session["key5"])


class WriteHandler(SessionMixin):
    def get(self) -> None:
        # Of one length always, and never the value of before.
        self.session["count"] = 1_000_000 + next(_counter)
        self.write("hello")


class FillHandler(SessionMixin):
    def get(self) -> None:
        self.session.update(VALUES)


def make_app(backend: str) -> tornado.web.Application:
    handlers = [
        ("/bare", BareHandler),
        ("/untouched", UntouchedHandler),
        ("/read", ReadHandler),
        ("/write", WriteHandler),
        ("/fill", FillHandler),
    ]
    return tornado.web.Application(
        handlers,  # type: ignore[arg-type]
        cookie_secret="a secret of at least thirty-two bytes",
        session_backend=backend,
        log_function=lambda handler: None,
    )


async def _cookies(port: int) -> list[str]:
    client = tornado.httpclient.AsyncHTTPClient()
    cookies = []
    for _ in range(SESSIONS):
        response = await client.fetch(f"http://127.0.0.1:{port}/fill")
        cookies.append(response.headers["Set-Cookie"].partition(";")[0])
    return cookies


async def _main(backends: list[str]) -> None:
    ready = {}
    for backend in backends:
        app = make_app(backend)
        Sessions.of(app)
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        tornado.httpserver.HTTPServer(app).add_sockets(sockets)
        port = sockets[0].getsockname()[1]
        ready[backend] = {"port": port, "cookies": await _cookies(port)}
    print(json.dumps(ready), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        asyncio.run(_main(sys.argv[1:]))

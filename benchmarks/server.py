"""The server that is measured: one backend, with a bare handler beside.

Prints one line of JSON when it is ready: its URL, and the cookies of sessions
that hold some 300 bytes each.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from typing import Any

import tornado.httpclient
import tornado.httpserver
import tornado.netutil
import tornado.web

from benchmarks import floors
from tornado_sessions import SessionMixin, Sessions

SESSIONS = 64

FLOORS = {
    "cookie": floors.cookie,
    "memcached": floors.memcached,
    "memory": floors.memory,
    "mongodb": floors.mongodb,
    "sqlite": floors.sqlite,
}


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
        floors.change(self.session)
        self.write("hello")


class FillHandler(SessionMixin):
    def get(self) -> None:
        self.session.update(floors.VALUES)


def make_app(backend: str) -> tornado.web.Application:
    handlers: list[Any] = [
        ("/bare", BareHandler),
        ("/untouched", UntouchedHandler),
        ("/read", ReadHandler),
        ("/write", WriteHandler),
        ("/fill", FillHandler),
    ]
    handlers += FLOORS[backend.partition(":")[0]](backend)
    return tornado.web.Application(
        handlers,
        cookie_secret="a secret of at least thirty-two bytes",
        session_backend=backend,
        # As a server behind https does, it need not look for a proxy first.
        session_cookie_kwargs={"secure": False},
        log_function=lambda handler: None,
    )


async def _cookies(url: str) -> list[str]:
    client = tornado.httpclient.AsyncHTTPClient()
    responses = [await client.fetch(url) for _ in range(SESSIONS)]
    return [response.headers["Set-Cookie"].partition(";")[0] for response in responses]


async def _main(backend: str) -> None:
    app = make_app(backend)
    Sessions.of(app)
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    tornado.httpserver.HTTPServer(app).add_sockets(sockets)
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    ready = {
        "url": url,
        "cookies": await _cookies(f"{url}/fill"),
        "floor_cookies": await _cookies(f"{url}/floor/fill"),
    }
    print(json.dumps(ready), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        asyncio.run(_main(sys.argv[1]))

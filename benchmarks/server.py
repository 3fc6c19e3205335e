"""The server that is measured: one backend, with a bare handler beside.

Each route is an application with a port of its own, and all of them share the
store: in one application, those further down the list would pay for those before.
Prints one line of JSON when it is ready: the URL of each, and the cookies of
sessions that hold some 300 bytes each.
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
from benchmarks.values import VALUES, change
from tornado_sessions import SessionMixin, Sessions
from tornado_sessions.storage.registry import open_backend

SESSIONS = 64

FLOORS = {
    "cookie": floors.cookie,
    "memcached": floors.memcached,
    "memory": floors.memory,
    "mongodb": floors.mongodb,
    "mysql": floors.mysql,
    "postgresql": floors.postgresql,
    "redis": floors.redis,
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
        change(self.session)
        self.write("hello")


class TransactHandler(SessionMixin):
    async def get(self) -> None:
        await self.session.transact(change)
        self.write("hello")


class FillHandler(SessionMixin):
    def get(self) -> None:
        self.session.update(VALUES)


def make_apps(backend: str) -> dict[str, tornado.web.Application]:
    """Returns an application for each route, by its name."""
    handlers: dict[str, type[tornado.web.RequestHandler]] = {
        "bare": BareHandler,
        "untouched": UntouchedHandler,
        "read": ReadHandler,
        "write": WriteHandler,
        "transact": TransactHandler,
        "fill": FillHandler,
        **FLOORS[backend.partition(":")[0]](backend),
    }
    settings: dict[str, Any] = {
        "cookie_secret": "a secret of at least thirty-two bytes",
        # As a server behind https does, it need not look for a proxy first.
        "session_cookie_kwargs": {"secure": False},
        "log_function": lambda handler: None,
    }
    settings["session_backend"] = open_backend(backend, settings)
    return {
        name: tornado.web.Application([("/", handler)], **settings)
        for name, handler in handlers.items()
    }


async def _cookies(url: str) -> list[str]:
    client = tornado.httpclient.AsyncHTTPClient()
    responses = [await client.fetch(url) for _ in range(SESSIONS)]
    return [response.headers["Set-Cookie"].partition(";")[0] for response in responses]


async def _main(backend: str) -> None:
    urls = {}
    for name, app in make_apps(backend).items():
        Sessions.of(app)
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        tornado.httpserver.HTTPServer(app).add_sockets(sockets)
        urls[name] = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/"
    cookies = await _cookies(urls["fill"])
    ready = {
        "urls": urls,
        "cookies": cookies,
        # All connections write one session.
        "hot_cookies": cookies[:1],
        "floor_cookies": await _cookies(urls["floor/fill"]),
    }
    print(json.dumps(ready), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        asyncio.run(_main(sys.argv[1]))

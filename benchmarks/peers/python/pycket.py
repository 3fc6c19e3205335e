"""pycket, which loads or saves the whole session for each value."""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import Any
from urllib.parse import urlsplit

import tornado.web
from pycket.session import SessionManager, SessionMixin

from benchmarks.peers.python.on_tornado import serve
from benchmarks.peers.python.serving import PAUSE, redis_options
from benchmarks.values import VALUES, VALUES_4K, number


class Handler(tornado.web.RequestHandler, SessionMixin):
    pass


class UntouchedHandler(Handler):
    def get(self) -> None:
        self.write("hello")


class FillHandler(Handler):
    values = VALUES

    def get(self) -> None:
        # In the first request each value that is set begins another session, so all
        # of them are stored at once.
        session_id = str(uuid.uuid4())
        self.set_signed_cookie(SessionManager.SESSION_ID_NAME, session_id)
        self.session.driver.set(session_id, self.values)
        self.write("hello")


class Fill4KHandler(FillHandler):
    values = VALUES_4K


class ReadHandler(Handler):
    def get(self) -> None:
        self.write(self.session.get("key5"))


class WriteHandler(Handler):
    def get(self) -> None:
        self.session.set("count", number())
        self.write("hello")


class CounterHandler(Handler):
    async def get(self) -> None:
        n = self.session.get("n", 0)
        await asyncio.sleep(PAUSE)
        self.session.set("n", n + 1)
        self.write("hello")


class KeysHandler(Handler):
    async def get(self) -> None:
        value = self.session.get("key5")
        await asyncio.sleep(PAUSE)
        self.session.set(self.get_query_argument("key"), 1)
        self.write(value)


class ValuesHandler(Handler):
    def get(self) -> None:
        self.write({key: self.session.get(key) for key in self.session.keys()})  # noqa: SIM118


def main(url: str) -> None:
    engine = url.partition(":")[0]
    storage: dict[str, Any] = (
        redis_options(url)
        if engine == "redis"
        else {"servers": (urlsplit(url).netloc,)}
    )
    settings = {"engine": engine, "storage": storage}
    handlers = {
        "untouched": UntouchedHandler,
        "fill": FillHandler,
        "read": ReadHandler,
        "write": WriteHandler,
        "fill_4k": Fill4KHandler,
        "write_4k": WriteHandler,
        "counter": CounterHandler,
        "keys": KeysHandler,
        "values": ValuesHandler,
    }
    serve(handlers, pycket=settings)


if __name__ == "__main__":
    main(sys.argv[1])

"""torndsession, whose handler saves the session when the response has been sent."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from torndsession.sessionhandler import SessionBaseHandler

from benchmarks.peers.python.on_tornado import CollectHandler, Handlers, serve
from benchmarks.peers.python.serving import PAUSE, redis_options
from benchmarks.values import VALUES, VALUES_4K, number


class UntouchedHandler(SessionBaseHandler):
    def get(self) -> None:
        self.write("hello")


class FillHandler(SessionBaseHandler):
    values = VALUES

    def get(self) -> None:
        for key, value in self.values.items():
            # A copy, as a request would bring it: in memory the value itself is kept.
            self.session[key] = "".join(value)
        self.write("hello")


class Fill4KHandler(FillHandler):
    values = VALUES_4K


class ReadHandler(SessionBaseHandler):
    def get(self) -> None:
        self.write(self.session["key5"])


class WriteHandler(SessionBaseHandler):
    def get(self) -> None:
        self.session["count"] = number()
        self.write("hello")


class CounterHandler(SessionBaseHandler):
    async def get(self) -> None:
        n = self.session.get("n", 0)
        await asyncio.sleep(PAUSE)
        self.session["n"] = n + 1
        self.write("hello")


class KeysHandler(SessionBaseHandler):
    async def get(self) -> None:
        value = self.session["key5"]
        await asyncio.sleep(PAUSE)
        self.session[self.get_query_argument("key")] = 1
        self.write(value)


class ValuesHandler(SessionBaseHandler):
    def get(self) -> None:
        # Its own is the time when the session expires.
        keys = [key for key in self.session if not key.startswith("__")]
        self.write({key: self.session.get(key) for key in keys})


class Host:
    """What all applications keep their sessions in."""


def main(url: str) -> None:
    drivers: dict[str, dict[str, Any]] = {
        "memory": {"host": Host()},
        "redis": redis_options(url),
        "memcached": redis_options(url),
    }
    driver = url.partition(":")[0]
    settings = drivers[driver]
    if driver == "memcached":
        del settings["password"]
    handlers: Handlers = {
        "untouched": UntouchedHandler,
        "fill": FillHandler,
        "read": ReadHandler,
        "write": WriteHandler,
        "fill_4k": Fill4KHandler,
        "write_4k": WriteHandler,
        "counter": CounterHandler,
        "keys": KeysHandler,
        "values": ValuesHandler,
        **({"collect": CollectHandler} if driver == "memory" else {}),
    }
    serve(handlers, session={"driver": driver, "driver_settings": settings})


if __name__ == "__main__":
    main(sys.argv[1])

"""tornado_sessions, with the backend of the URL."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from benchmarks.peers.python.on_tornado import CollectHandler, serve
from benchmarks.peers.python.serving import PAUSE, SECRET
from benchmarks.values import VALUES, VALUES_4K, change
from tornado_sessions import Session, SessionMixin, Sessions
from tornado_sessions.storage.registry import open_backend


class UntouchedHandler(SessionMixin):
    def get(self) -> None:
        self.write("hello")


class FillHandler(SessionMixin):
    values = VALUES

    def get(self) -> None:
        self.session.update(self.values)
        self.write("hello")


class Fill4KHandler(FillHandler):
    values = VALUES_4K


class ReadHandler(SessionMixin):
    def get(self) -> None:
        self.write(self.session["key5"])


class WriteHandler(SessionMixin):
    def get(self) -> None:
        change(self.session)
        self.write("hello")


class CounterHandler(SessionMixin):
    async def get(self) -> None:
        await self.session.transact(self.count)
        self.write("hello")

    @staticmethod
    async def count(session: Session[Any]) -> None:
        n = session.get("n", 0)
        await asyncio.sleep(PAUSE)
        session["n"] = n + 1


class KeysHandler(SessionMixin):
    async def get(self) -> None:
        value = self.session["key5"]
        await asyncio.sleep(PAUSE)
        self.session[self.get_query_argument("key")] = 1
        self.write(value)


class ValuesHandler(SessionMixin):
    def get(self) -> None:
        self.write(dict(self.session))


def main(url: str) -> None:
    handlers = {
        "untouched": UntouchedHandler,
        "fill": FillHandler,
        "read": ReadHandler,
        "write": WriteHandler,
        "counter": CounterHandler,
        "keys": KeysHandler,
        "values": ValuesHandler,
        "fill_4k": Fill4KHandler,
        "write_4k": WriteHandler,
        "collect": CollectHandler,
    }
    if url == "cookie":
        del handlers["fill_4k"], handlers["write_4k"]
    if url != "memory":
        del handlers["collect"]
    settings: dict[str, Any] = {
        "cookie_secret": SECRET,
        "session_cookie_kwargs": {"secure": False},
    }
    backend = open_backend(url if ":" in url else f"{url}:", settings)
    # All applications share it.
    serve(handlers, Sessions.of, session_backend=backend, **settings)


if __name__ == "__main__":
    main(sys.argv[1])

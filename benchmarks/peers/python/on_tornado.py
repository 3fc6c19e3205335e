"""Serves handlers of Tornado."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import tornado.httpserver
import tornado.web

from benchmarks.peers.python.serving import SECRET, announce, collect, listen


class BareHandler(tornado.web.RequestHandler):
    def get(self) -> None:
        self.write("hello")


class CollectHandler(tornado.web.RequestHandler):
    def get(self) -> None:
        self.write(collect())


Handlers = Mapping[str, type[tornado.web.RequestHandler]]
Prepare = Callable[[tornado.web.Application], object]


def serve(
    handlers: Handlers, prepare: Prepare = lambda application: None, **settings: Any
) -> None:
    """Serves each handler on a port of its own, and a bare one, until SIGTERM.

    ``prepare`` is called with each application.
    """
    asyncio.run(_serve(handlers, prepare, settings))


async def _serve(
    handlers: Handlers, prepare: Prepare, settings: dict[str, Any]
) -> None:
    settings = {
        "cookie_secret": SECRET,
        "log_function": lambda handler: None,
        **settings,
    }
    urls = {}
    for route, handler in {"bare": BareHandler, **handlers}.items():
        application = tornado.web.Application([("/", handler)], **settings)
        prepare(application)
        listener, urls[route] = listen()
        tornado.httpserver.HTTPServer(application).add_sockets([listener])
    announce(urls)
    await asyncio.Event().wait()

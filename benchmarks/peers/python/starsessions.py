"""starsessions, whose handlers load the session themselves."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import redis.asyncio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starsessions import InMemoryStore, SessionMiddleware, load_session
from starsessions.stores.redis import RedisStore

from benchmarks.peers.python.on_uvicorn import serve
from benchmarks.peers.python.serving import PAUSE, collect
from benchmarks.values import VALUES, VALUES_4K, change


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


def filling(values: dict[str, str]) -> Callable[[Request], Any]:
    async def fill(request: Request) -> Response:
        await load_session(request)
        request.session.update(values)
        return PlainTextResponse("hello")

    return fill


async def read(request: Request) -> Response:
    await load_session(request)
    return PlainTextResponse(request.session["key5"])


async def write(request: Request) -> Response:
    await load_session(request)
    change(request.session)
    return PlainTextResponse("hello")


async def counter(request: Request) -> Response:
    await load_session(request)
    n = request.session.get("n", 0)
    await asyncio.sleep(PAUSE)
    request.session["n"] = n + 1
    return PlainTextResponse("hello")


async def keys(request: Request) -> Response:
    await load_session(request)
    value = request.session["key5"]
    await asyncio.sleep(PAUSE)
    request.session[request.query_params["key"]] = 1
    return PlainTextResponse(value)


async def values(request: Request) -> Response:
    await load_session(request)
    return JSONResponse(dict(request.session))


async def collect_garbage(request: Request) -> Response:
    return PlainTextResponse(collect())


def application(handler: Callable[..., Any], *middleware: Middleware) -> Starlette:
    return Starlette(routes=[Route("/", handler)], middleware=middleware)


def main(url: str) -> None:
    is_memory = url == "memory"
    handlers: dict[str, Callable[..., Any]] = {
        "untouched": hello,
        "fill": filling(VALUES),
        "read": read,
        "write": write,
        "fill_4k": filling(VALUES_4K),
        "write_4k": write,
        "counter": counter,
        "keys": keys,
        "values": values,
        **({"collect": collect_garbage} if is_memory else {}),
    }
    store = (
        InMemoryStore()
        if is_memory
        else RedisStore(connection=redis.asyncio.from_url(url))
    )
    middleware = Middleware(SessionMiddleware, store=store, cookie_https_only=False)
    applications = {
        route: application(handler, middleware) for route, handler in handlers.items()
    }
    serve({"bare": application(hello), **applications})


if __name__ == "__main__":
    main(sys.argv[1])

"""Starlette's own sessions, which are in a signed cookie."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from benchmarks.peers.python.on_uvicorn import serve
from benchmarks.peers.python.serving import PAUSE, SECRET
from benchmarks.values import VALUES, change


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def fill(request: Request) -> Response:
    request.session.update(VALUES)
    return PlainTextResponse("hello")


async def read(request: Request) -> Response:
    return PlainTextResponse(request.session["key5"])


async def write(request: Request) -> Response:
    change(request.session)
    return PlainTextResponse("hello")


async def counter(request: Request) -> Response:
    n = request.session.get("n", 0)
    await asyncio.sleep(PAUSE)
    request.session["n"] = n + 1
    return PlainTextResponse("hello")


async def keys(request: Request) -> Response:
    value = request.session["key5"]
    await asyncio.sleep(PAUSE)
    request.session[request.query_params["key"]] = 1
    return PlainTextResponse(value)


async def values(request: Request) -> Response:
    return JSONResponse(dict(request.session))


def application(handler: Callable[..., Any], *middleware: Middleware) -> Starlette:
    return Starlette(routes=[Route("/", handler)], middleware=middleware)


def main() -> None:
    handlers = {
        "untouched": hello,
        "fill": fill,
        "read": read,
        "write": write,
        "counter": counter,
        "keys": keys,
        "values": values,
    }
    middleware = Middleware(SessionMiddleware, secret_key=SECRET)
    applications = {
        route: application(handler, middleware) for route, handler in handlers.items()
    }
    serve({"bare": application(hello), **applications})


if __name__ == "__main__":
    main()

"""aiohttp-session, with its encrypted cookie, Redis or memcached."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import aiomcache
import redis.asyncio
import uvloop
from aiohttp import web
from aiohttp_session import AbstractStorage, get_session, setup
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from aiohttp_session.memcached_storage import MemcachedStorage
from aiohttp_session.redis_storage import RedisStorage

from benchmarks.peers.python.serving import PAUSE, SECRET, announce, listen
from benchmarks.values import VALUES, VALUES_4K, change

Handler = Callable[[web.Request], Awaitable[web.Response]]


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello")


def filling(values: dict[str, str]) -> Handler:
    async def fill(request: web.Request) -> web.Response:
        (await get_session(request)).update(values)
        return web.Response(text="hello")

    return fill


async def read(request: web.Request) -> web.Response:
    return web.Response(text=(await get_session(request))["key5"])


async def write(request: web.Request) -> web.Response:
    change(await get_session(request))
    return web.Response(text="hello")


async def counter(request: web.Request) -> web.Response:
    session = await get_session(request)
    n = session.get("n", 0)
    await asyncio.sleep(PAUSE)
    session["n"] = n + 1
    return web.Response(text="hello")


async def keys(request: web.Request) -> web.Response:
    session = await get_session(request)
    value = session["key5"]
    await asyncio.sleep(PAUSE)
    session[request.query["key"]] = 1
    return web.Response(text=value)


async def values(request: web.Request) -> web.Response:
    return web.json_response(dict(await get_session(request)))


def make_storage(url: str) -> AbstractStorage:
    if url == "cookie":
        return EncryptedCookieStorage(hashlib.sha256(SECRET.encode()).digest())
    if url.startswith("redis:"):
        return RedisStorage(redis.asyncio.from_url(url))
    address = urlsplit(url)
    return MemcachedStorage(
        aiomcache.Client(address.hostname or "", address.port or 0, pool_size=16)
    )


async def serve(handler: Handler, storage: AbstractStorage | None) -> str:
    application = web.Application()
    if storage is not None:
        setup(application, storage)
    application.router.add_get("/", handler)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    listener, url = listen()
    await web.SockSite(runner, listener).start()
    return url


async def main(url: str) -> None:
    storage = make_storage(url)
    handlers: dict[str, Handler] = {
        "untouched": hello,
        "fill": filling(VALUES),
        "read": read,
        "write": write,
        "counter": counter,
        "keys": keys,
        "values": values,
    }
    if url != "cookie":
        handlers |= {"fill_4k": filling(VALUES_4K), "write_4k": write}
    urls: dict[str, Any] = {"bare": await serve(hello, None)}
    for route, handler in handlers.items():
        urls[route] = await serve(handler, storage)
    announce(urls)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))

"""Litestar's own sessions, in its stores for memory and Redis."""

# No annotations from the future: Litestar reads those of handlers.

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from litestar import Litestar, MediaType, Request, get
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.memory import MemoryStore
from litestar.stores.redis import RedisStore

from benchmarks.peers.python.on_uvicorn import serve
from benchmarks.peers.python.serving import PAUSE, collect
from benchmarks.values import VALUES, VALUES_4K, change


async def hello() -> str:
    return "hello"


def filling(values: dict[str, str]) -> Callable[..., Any]:
    async def fill(request: Request) -> str:
        request.session.update(values)
        return "hello"

    return fill


async def read(request: Request) -> str:
    value: str = request.session["key5"]
    return value


async def write(request: Request) -> str:
    change(request.session)
    return "hello"


async def counter(request: Request) -> str:
    n = request.session.get("n", 0)
    await asyncio.sleep(PAUSE)
    request.session["n"] = n + 1
    return "hello"


async def keys(request: Request, key: str) -> str:
    value: str = request.session["key5"]
    await asyncio.sleep(PAUSE)
    request.session[key] = 1
    return value


async def values(request: Request) -> dict[str, Any]:
    return dict(request.session)


async def collect_garbage() -> str:
    return collect()


def application(handler: Callable[..., Any], **options: Any) -> Litestar:
    media_type = MediaType.JSON if handler is values else MediaType.TEXT
    route = get("/", media_type=media_type)(handler)
    return Litestar([route], openapi_config=None, **options)


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
    store = MemoryStore() if is_memory else RedisStore.with_client(url)
    middleware = ServerSideSessionConfig().middleware
    applications = {
        route: application(handler, middleware=[middleware], stores={"sessions": store})
        for route, handler in handlers.items()
    }
    serve({"bare": application(hello), **applications})


if __name__ == "__main__":
    main(sys.argv[1])

"""One of the processes that share a port and a store.

Prints one line of JSON when it is ready: the port, and the URLs. The first process,
which is given no port, also stores the sessions and prints their cookies.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import tornado.httpserver
import tornado.netutil
from tornado.web import Application

from benchmarks.server import SESSIONS, ReadHandler, WriteHandler
from benchmarks.values import VALUES
from tornado_sessions.testing import headers_of, start_session


def make_app(backend: str) -> Application:
    """Returns the application that each process runs."""
    return Application(
        [("/read", ReadHandler), ("/write", WriteHandler)],
        session_backend=backend,
        # All processes sign with the same one.
        cookie_secret="a secret of at least thirty-two bytes",
        session_cookie_kwargs={"secure": False},
        log_function=lambda handler: None,
    )


async def _cookies(app: Application) -> list[str]:
    sessions = [await start_session(app, **VALUES) for _ in range(SESSIONS)]
    return [headers_of(app, session, https=False)["Cookie"] for session in sessions]


async def _main(backend: str, port: int) -> None:
    app = make_app(backend)
    sockets = tornado.netutil.bind_sockets(port, "127.0.0.1", reuse_port=True)
    tornado.httpserver.HTTPServer(app).add_sockets(sockets)
    bound = sockets[0].getsockname()[1]
    ready: dict[str, Any] = {
        "port": bound,
        "urls": {
            name: f"http://127.0.0.1:{bound}/{name}" for name in ("read", "write")
        },
    }
    if not port:
        ready["cookies"] = await _cookies(app)
    print(json.dumps(ready), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))

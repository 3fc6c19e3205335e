"""The server of the WebSockets that are measured, with and without a session.

Prints one line of JSON when it is ready: the port, and the cookies of the sessions.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from pathlib import Path

import tornado.httpserver
import tornado.netutil
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler

from benchmarks.values import VALUES
from tornado_sessions import SessionMixin, Sessions
from tornado_sessions.testing import headers_of, start_session

USER = "ada"


class BareSocket(WebSocketHandler):
    """A WebSocket of Tornado."""


class SessionSocket(SessionMixin, WebSocketHandler):
    """A WebSocket of a user who is signed in."""

    async def get(self) -> None:
        if self.session.user is None:
            raise HTTPError(403)
        await super().get()


class MemoryHandler(RequestHandler):
    """Responds with the bytes that the process has in memory."""

    def get(self) -> None:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.write(str(pages * os.sysconf("SC_PAGE_SIZE")))


class RevokeHandler(RequestHandler):
    """Revokes all sessions of the user, and responds when it was called.

    The clock is that of all processes of the machine.
    """

    async def get(self) -> None:
        called = time.monotonic()
        await Sessions.of(self.application).revoke_all(USER)
        self.write(str(called))


def make_app() -> Application:
    """Returns the application."""
    return Application(
        [
            ("/bare", BareSocket),
            ("/session", SessionSocket),
            ("/memory", MemoryHandler),
            ("/revoke", RevokeHandler),
        ],
        session_backend="memory:",
        cookie_secret="a secret of at least thirty-two bytes",
        session_cookie_kwargs={"secure": False},
        log_function=lambda handler: None,
    )


async def _main(sessions: int) -> None:
    app = make_app()
    cookies = [
        headers_of(app, await start_session(app, USER, **VALUES), https=False)["Cookie"]
        for _ in range(sessions)
    ]
    sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
    tornado.httpserver.HTTPServer(app).add_sockets(sockets)
    ready = {"port": sockets[0].getsockname()[1], "cookies": cookies}
    print(json.dumps(ready), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))

"""Common code of the tests of `SessionMixin` on WebSockets."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

from tornado.httpclient import HTTPRequest
from tornado.web import Application
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketHandler,
    websocket_connect,
)

from tests.sites import Visited
from tornado_sessions import (
    SessionMixin,
)


class Site(Visited):
    """An application of sockets, and one visitor of it."""

    def __init__(self, app: Application, url: str) -> None:
        super().__init__(app)
        self.base_url = url.replace("http", "ws")
        self._sockets: list[WebSocketClientConnection] = []

    async def connect(
        self, handler: type[WebSocketHandler], **headers: str
    ) -> WebSocketClientConnection:
        self.app.add_handlers(".*", [("/socket", handler)])
        if self.token is not None:
            headers["Cookie"] = f"session={self.token}"
        request = HTTPRequest(
            self.base_url + "/socket", headers=headers, request_timeout=30
        )
        socket = await websocket_connect(request)
        self._sockets.append(socket)
        return socket

    async def close(self) -> None:
        for socket in self._sockets:
            protocol = socket.protocol
            socket.close()
            if protocol is None or cast(Any, protocol).stream.closed():
                continue
            while await cast(Any, socket.read_message()) is not None:
                pass


async def ask(socket: WebSocketClientConnection, message: str = "") -> Any:  # noqa: ANN401
    """Returns the reply of the socket to ``message``."""
    await socket.write_message(message)
    answer = await asyncio.wait_for(cast(Any, socket.read_message()), 30)
    return answer and json.loads(answer)


class Socket(SessionMixin, WebSocketHandler):
    """Replies with the values that the session had when the socket was opened."""

    def open(self, *args: str, **kwargs: str) -> None:
        self.opened = dict(self.session)

    def on_message(self, message: str | bytes) -> Any:  # noqa: ANN401
        return self.write_message({"opened": self.opened, "now": dict(self.session)})


class Closing(Socket):
    """Records when it was closed, and how often its session has ended."""

    def open(self, *args: str, **kwargs: str) -> None:
        super().open()
        self.settings["opened"] = self
        self.settings.setdefault("closed", asyncio.Event())

    def on_session_end(self) -> None:
        self.settings["ends"] = self.settings.get("ends", 0) + 1
        super().on_session_end()

    def on_close(self) -> None:
        self.settings["closed"].set()


async def closed(socket: WebSocketClientConnection) -> int | None:
    """Waits for the end, and answers its code."""
    assert await asyncio.wait_for(cast(Any, socket.read_message()), 30) is None
    return socket.close_code

"""Has all open tabs of a visitor show the same cart."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections import defaultdict

from tornado.ioloop import IOLoop
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from example_app.base import BaseHandler
from example_app.cart import Cart
from tornado_sessions import SessionMixin, SessionStatusHandler

#: Tells the script of a page that there is no session to watch.
NO_SESSION = 4000


class Tabs:
    """The open tabs of the visitors of this process.

    A cart may be changed in one process while a tab is connected to another one. So
    each process has an inbox, and notifies all of them. Create this before the fork.
    """

    def __init__(self, processes: int = 1) -> None:
        self._inboxes = [
            socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            for _ in range(processes)
        ]
        for end in itertools.chain(*self._inboxes):
            end.setblocking(False)
        self._tabs: defaultdict[str, set[TabHandler]] = defaultdict(set)

    def listen(self, process: int = 0) -> None:
        """Begins to hear what is told, as the process of that number."""
        inbox, _ = self._inboxes[process]
        asyncio.get_running_loop().add_reader(inbox, self._hear, inbox)

    def tell(self, session_id: str) -> None:
        """Notifies every open tab of a session of a change."""
        for _, outbox in self._inboxes:
            # What a process is too busy to hear, or no longer there for, its tabs
            # find out with the next news: they do not hear what it is, but ask.
            with contextlib.suppress(OSError):
                outbox.send(session_id.encode())

    def add(self, session_id: str, tab: TabHandler) -> None:
        self._tabs[session_id].add(tab)

    def remove(self, session_id: str, tab: TabHandler) -> None:
        self._tabs[session_id].discard(tab)
        if not self._tabs[session_id]:
            del self._tabs[session_id]

    def close(self) -> None:
        for end in itertools.chain(*self._inboxes):
            asyncio.get_running_loop().remove_reader(end)
            end.close()

    def _hear(self, inbox: socket.socket) -> None:
        session_id = inbox.recv(1024).decode()
        for tab in self._tabs.get(session_id, ()):
            IOLoop.current().add_callback(tab.tell)


class TabHandler(SessionMixin, WebSocketHandler):
    """The line to one open tab.

    It says no more than that there is news, and the page asks what: with the
    newest cookie, which may be another one than this line was opened with.
    """

    session_id: str | None = None

    def set_default_headers(self) -> None:
        # For a request without the handshake of a WebSocket.
        self.set_header("X-Content-Type-Options", "nosniff")

    async def open(self) -> None:
        if self.session.is_new:
            self.close(NO_SESSION)
            return
        self.session_id = self.session.id
        self.settings["tabs"].add(self.session_id, self)
        # Something may have changed since the page was made.
        await self.tell()

    def on_message(self, message: str | bytes) -> None:
        """Pages have nothing to say."""

    def on_close(self) -> None:
        if self.session_id is not None:
            self.settings["tabs"].remove(self.session_id, self)

    async def tell(self) -> None:
        # A tab that is just being closed need not know.
        with contextlib.suppress(WebSocketClosedError):
            await self.write_message("news")


class NewsHandler(BaseHandler):
    """Returns what a page shows of its visitor.

    The script asks for it by itself, so it is no use of the session.
    """

    session_extends = False

    def get(self) -> None:
        self.write(
            {"user": self.current_user, "quantity": Cart.of(self.session).quantity}
        )


class StatusHandler(BaseHandler, SessionStatusHandler):
    """Tells the script when the session ends, and extends it after a click."""

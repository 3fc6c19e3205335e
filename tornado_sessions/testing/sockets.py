"""Tests over WebSockets that a session is loaded, and that sockets are closed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from tornado_sessions.session import Session
from tornado_sessions.testing.applications import (
    Act,
    Site,
    destroy,
    login,
    put,
    regenerate,
    save,
)
from tornado_sessions.testing.visitors import Visitor, VisitorTests

#: The ``session_socket_interval`` of tests that wait for a check of the store.
SOON = 0.05


def values(handler: Any) -> dict[str, Any]:  # noqa: ANN401
    """Returns the values of the session."""
    return dict(handler.session)


async def _first_check(site: Site) -> None:
    """Waits until the open sockets were checked, which is done within a second.

    The next check of a ``site`` with a long ``session_socket_interval`` is far away.
    """
    schedule, loop = site.sessions.sockets.schedule, asyncio.get_running_loop()
    while (due := schedule.next()) is None or due < loop.time() + 60:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


class SocketContract(VisitorTests):
    """Tests of a session on a WebSocket."""

    def setUp(self) -> None:
        self._sockets: list[WebSocketClientConnection] = []
        super().setUp()

    def tearDown(self) -> None:
        for socket in self._sockets:
            socket.close()
            self.complete(self.reads(socket))
        super().tearDown()

    def opens(self, visitor: Visitor, *acts: Act) -> WebSocketClientConnection:
        """Opens a socket with the cookie that ``visitor`` has now.

        ``acts`` are done before the handshake.
        """
        request = HTTPRequest(
            visitor.site.url.replace("http", "ws") + "/socket",
            headers=visitor.headers(*acts),
            request_timeout=30,
        )

        async def connect() -> WebSocketClientConnection:
            return await websocket_connect(request)

        socket = self.complete(connect())
        self._sockets.append(socket)
        return socket

    def reads(
        self, socket: WebSocketClientConnection
    ) -> Coroutine[Any, Any, str | bytes | None]:
        async def read() -> str | bytes | None:
            return await socket.read_message()

        return read()

    def says(self, socket: WebSocketClientConnection, *acts: Act) -> Any:  # noqa: ANN401
        """Runs ``acts`` in the socket's handler, and returns the result of the last one."""
        name = str(len(self.acts))
        self.acts[name] = acts
        socket.write_message(name)
        answer = self.complete(self.reads(socket))
        assert answer is not None, "The socket was closed."
        return json.loads(answer)

    def assert_closed_1008(self, socket: WebSocketClientConnection) -> None:
        """Waits until the server has closed the socket, and reads why."""
        self._sockets.remove(socket)
        self.addCleanup(socket.close)
        self.assertIsNone(self.complete(self.reads(socket)))
        self.assertEqual(socket.close_code, 1008)
        self.assertEqual(socket.close_reason, "The session has ended.")

    def serve_soon(self) -> Site:
        return self.serve(session_socket_interval=SOON)

    def test_a_socket_has_the_session_of_its_handshake(self) -> None:
        """Behaviour 72: and a bare handshake creates nothing."""
        vault = self.watch()
        self.assertEqual(self.says(self.opens(self.visitor()), values), {})
        self.assertEqual(vault.calls, [])
        ada = self.visitor()
        ada.does(put(a=1))
        self.assertEqual(self.says(self.opens(ada), values), {"a": 1})

    def test_a_socket_saves_what_it_changes(self) -> None:
        """Behaviours 36, 37, 72: beside what requests change meanwhile."""
        self.require_revocable()

        def count(session: Session) -> int:
            session["n"] = session.get("n", 0) + 1
            return int(session["n"])

        ada = self.visitor()
        ada.does(put(a=1))
        socket = self.opens(ada)
        ada.does(put(n=5))
        self.assertIsNone(self.says(socket, put(b=2), save))
        answer = self.says(socket, lambda handler: handler.session.transact(count))
        self.assertEqual(answer, 6)
        self.assertEqual(ada.sees(), {"a": 1, "b": 2, "n": 6})

    def test_a_save_without_a_change_is_no_error(self) -> None:
        """Behaviours 30, 72: also where it would renew, and cannot send the cookie."""
        ada = self.visitor()
        ada.does(put(a=1))
        self.time += self.sessions.rules.idle_timeout / 2
        socket = self.opens(ada)
        self.assertIsNone(self.says(socket, values, save))
        self.assertEqual(self.says(socket, values), {"a": 1})

    def test_a_socket_cannot_begin_a_session(self) -> None:
        """Behaviour 72: no cookie can be sent any more."""
        socket = self.opens(self.visitor())
        self.assertEqual(self.says(socket, put(a=1), save), "SessionError")

    def test_a_handshake_refuses_another_id_that_was_not_saved(self) -> None:
        """Behaviours 72, 76: the session stays as it was, under its own id."""
        for act in (login("ada"), regenerate):
            ada = self.visitor()
            ada.does(put(a=1))
            with self.assertRaises(HTTPClientError) as caught:
                self.opens(ada, put(b=2), act)
            self.assertEqual(caught.exception.code, 500)
            self.assertEqual(ada.sees(), {"a": 1})
            self.assertIsNone(ada.asks(lambda handler: handler.session.user))
        with self.assertRaises(HTTPClientError) as caught:
            self.opens(self.visitor(), login("ada"))
        self.assertEqual(caught.exception.code, 500)

    def test_a_handshake_refuses_a_logout_that_was_not_saved(self) -> None:
        """Behaviours 44, 72: the session ends, and its cookie with it."""
        ada = self.visitor()
        ada.does(put(a=1))
        with self.assertRaises(HTTPClientError) as caught:
            self.opens(ada, destroy)

        self.assertEqual(caught.exception.code, 500)
        if self.ends_copies:
            self.assertEqual(ada.sees(), {})

    def test_a_handshake_sends_the_cookie_of_what_was_saved(self) -> None:
        """Behaviour 72: and the socket has that session."""
        begun = self.visitor()
        begun.does(put(a=1))
        for ada, a in ((begun, 1), (self.visitor(), None)):
            socket = self.opens(ada, login("ada"), save)
            assert socket.headers is not None
            ada.cookie = socket.headers["Set-Cookie"].partition(";")[0]
            self.assertEqual(ada.asks(lambda handler: handler.session.user), "ada")
            self.assertEqual(self.says(socket, values).get("a"), a)

    def test_a_socket_without_a_session_stays_open(self) -> None:
        """Behaviour 72: also when another socket is closed."""
        ada = self.visitor()
        ada.does(put(a=1))
        leaving, staying = self.opens(ada), self.opens(self.visitor())
        ada.does(destroy)
        self.assert_closed_1008(leaving)
        self.assertEqual(self.says(staying, values), {})

    def test_a_session_that_ends_closes_its_sockets(self) -> None:
        """Behaviours 44, 72: all of them, and no others; 1008 says why."""
        for act in (destroy, regenerate, login("ada")):
            ada, eve = self.visitor(), self.visitor()
            ada.does(put(a=1))
            eve.does(put(a=2))
            one, two, other = self.opens(ada), self.opens(ada), self.opens(eve)
            ada.does(act)
            self.assert_closed_1008(one)
            self.assert_closed_1008(two)
            self.assertEqual(self.says(other, values), {"a": 2})

    def test_a_socket_can_be_opened_again_after_login(self) -> None:
        """Behaviour 72: the handshake goes with the cookie of now."""
        ada = self.visitor()
        ada.does(put(a=1))
        socket = self.opens(ada)
        ada.does(login("ada"))
        self.assert_closed_1008(socket)
        user = self.says(self.opens(ada), lambda handler: handler.session.user)
        self.assertEqual(user, "ada")

    def test_a_session_that_ends_in_another_process_closes_its_sockets(self) -> None:
        """Behaviours 44, 72: within ``session_socket_interval``."""
        elsewhere = self.serve_another_process()
        for act in (destroy, regenerate, login("ada")):
            ada = self.visitor(self.serve_soon())
            ada.does(put(a=1))
            socket = self.opens(ada)
            ada.copy(elsewhere).does(act)
            self.assert_closed_1008(socket)

    def test_a_session_that_expires_closes_its_sockets(self) -> None:
        """Behaviours 47, 72: nobody has to do anything for it."""
        site = self.serve_soon()
        ada = self.visitor(site)
        ada.does(put(a=1))
        socket = self.opens(ada)
        self.time += site.sessions.rules.idle_timeout + 1
        self.assert_closed_1008(socket)

    def test_a_message_after_the_end_saves_nothing(self) -> None:
        """Behaviours 39, 47, 72: each message is judged by itself."""
        self.require_revocable()
        site = self.serve(session_socket_interval=3600)
        ada = self.visitor(site)
        ada.does(put(a=1))
        socket = self.opens(ada)
        self.complete(_first_check(site))
        self.time += site.sessions.rules.idle_timeout
        for act in (
            save,
            lambda handler: handler.session.reload(),
            lambda handler: handler.session.transact(len),
        ):
            for change in ({}, {"b": 2}):
                answer = self.says(socket, put(**change), act)
                self.assertEqual(answer, "SessionGoneError")
        self.assertEqual(ada.sees(), {})

    def test_a_store_that_is_down_closes_no_socket(self) -> None:
        """Behaviours 30, 72: nobody is put out by accident."""
        site = self.serve_soon()
        ada = self.visitor(site)
        ada.does(put(a=1))
        socket = self.opens(ada)
        vault = self.watch(site)
        vault.failing = {"load"}
        for _ in range(2):
            gate = self.hold(vault)
            self.complete(gate.reached.wait())
            gate.set()
        vault.gate = None
        self.assertEqual(self.says(socket, values), {"a": 1})

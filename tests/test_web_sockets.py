"""Tests of `SessionMixin` beside `tornado.websocket.WebSocketHandler`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import Application
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketHandler,
    websocket_connect,
)
from tornado_sessions_memory import MemoryBackend

from tornado_sessions import (
    BackendError,
    Session,
    SessionError,
    SessionGoneError,
    SessionMixin,
    Sessions,
)
from tornado_sessions.testing.faults import FaultyVault

pytestmark = pytest.mark.gen_test


class Site:
    """An application of sockets, and one visitor of it."""

    def __init__(self, app: Application, url: str) -> None:
        self.app = app
        self.sessions = Sessions.of(app)
        self.vault = cast(FaultyVault, self.sessions.vault)
        self.base_url = url.replace("http", "ws")
        self.token: str | None = None
        self._sockets: list[WebSocketClientConnection] = []

    async def connect(
        self, handler: type[WebSocketHandler], **headers: str
    ) -> WebSocketClientConnection:
        self.app.add_handlers(".*", [("/socket", handler)])
        if self.token is not None:
            headers["Cookie"] = f"session={self.token}"
        request = HTTPRequest(
            self.base_url + "/socket", headers=headers, request_timeout=3
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

    async def begin(self, **values: Any) -> str:
        """Stores a session of ``values`` for the visitor."""
        session = await Sessions(self.vault.inner).load(None)
        session.update(values)
        await session.save()
        assert session.token is not None
        self.token = session.token
        return session.token

    async def stored(self) -> dict[str, Any] | None:
        """Answers what the store has for the visitor; None for no session."""
        session = await Sessions(self.vault.inner).load(self.token)
        return None if session.is_new else dict(session)


@pytest.fixture(params=["immediate", "suspending"])
def app(request: pytest.FixtureRequest) -> Application:
    app = Application(session_backend=MemoryBackend())
    sessions = Sessions.of(app)
    sessions.vault = FaultyVault(sessions.vault, suspends=request.param == "suspending")
    return app


@pytest.fixture
def site(
    app: Application, io_loop: IOLoop, http_server: HTTPServer, base_url: str
) -> Iterator[Site]:
    site = Site(app, base_url)
    yield site
    io_loop.run_sync(site.close, timeout=3)


@pytest.fixture(autouse=True)
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Takes parts of the messages that a test expects at ERROR; no others come."""
    expected: list[str] = []
    yield expected
    logged = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelno >= logging.ERROR and record.name != "tornado.access"
    ]
    assert len(logged) == len(expected), logged
    for part, message in zip(expected, logged, strict=True):
        assert part in message


async def ask(socket: WebSocketClientConnection, message: str = "") -> Any:  # noqa: ANN401
    """Answers what the socket answers to ``message``."""
    await socket.write_message(message)
    answer = await asyncio.wait_for(cast(Any, socket.read_message()), 3)
    return answer and json.loads(answer)


class Socket(SessionMixin, WebSocketHandler):
    """Answers the values that it had when it was opened."""

    def open(self, *args: str, **kwargs: str) -> None:
        self.opened = dict(self.session)

    def on_message(self, message: str | bytes) -> Any:  # noqa: ANN401
        return self.write_message({"opened": self.opened, "now": dict(self.session)})


async def test_the_session_is_there_in_open_and_on_message(site: Site) -> None:
    """Behaviour 72: as it was at the handshake."""
    await site.begin(a=1)
    socket = await site.connect(Socket)

    assert await ask(socket) == {"opened": {"a": 1}, "now": {"a": 1}}


async def test_a_bare_handshake_creates_nothing(site: Site) -> None:
    """Behaviour 72: no record, no cookie."""
    socket = await site.connect(Socket)

    assert await ask(socket) == {"opened": {}, "now": {}}
    assert socket.headers is not None
    assert "Set-Cookie" not in socket.headers
    assert site.vault.calls == []


async def test_a_change_before_the_handshake_waits_for_the_first_save(
    site: Site,
) -> None:
    """Behaviours 27, 72: the 101 is not held back."""

    class Handler(Socket):
        async def prepare(self) -> None:
            await super().prepare()
            self.session["before"] = 1

        async def on_message(self, message: str | bytes) -> None:
            self.session["after"] = 2
            await self.session.save()
            await self.write_message("{}")

    await site.begin(a=1)
    socket = await site.connect(Handler)

    assert await site.stored() == {"a": 1}
    await ask(socket)
    assert await site.stored() == {"a": 1, "before": 1, "after": 2}
    assert site.vault.calls.count("save") == 1


async def test_a_save_before_the_handshake_sends_the_cookie(site: Site) -> None:
    """Behaviour 72: the way to begin a session on a socket."""

    class Handler(Socket):
        async def prepare(self) -> None:
            await super().prepare()
            self.session["before"] = 1
            await self.session.save()

    socket = await site.connect(Handler)

    assert socket.headers is not None
    site.token = socket.headers["Set-Cookie"].partition(";")[0].partition("=")[2]
    assert await site.stored() == {"before": 1}


@pytest.mark.parametrize("when", ["prepare", "open", "on_message"])
async def test_a_session_that_begins_on_a_socket_is_refused(
    site: Site, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 72: no cookie can be sent any more."""

    class Handler(SessionMixin, WebSocketHandler):
        async def prepare(self) -> None:
            await super().prepare()
            if when == "prepare":
                self.session["a"] = 1

        async def write_and_save(self) -> None:
            self.session["a"] = 1
            await self.session.save()

        async def open(self, *args: str, **kwargs: str) -> None:
            if when == "open":
                with pytest.raises(SessionError, match="has no session yet"):
                    await self.write_and_save()

        async def on_message(self, message: str | bytes) -> None:
            try:
                await self.write_and_save()
            except SessionError as error:
                await self.write_message(json.dumps(str(error)))
            else:
                await self.write_message(json.dumps("saved"))

    socket = await site.connect(Handler)
    answer = await ask(socket)

    assert answer is not None
    assert "has no session yet" in answer
    assert site.vault.calls == []
    warnings = [r for r in caplog.records if "WebSocket handshake" in r.message]
    assert len(warnings) == (when == "prepare")


async def test_transact_works_on_a_socket(site: Site) -> None:
    """Behaviours 37, 72: and sees what others have written since."""

    class Handler(SessionMixin, WebSocketHandler):
        async def on_message(self, message: str | bytes) -> None:
            def add(session: Session) -> int:
                session["n"] += 1
                return cast(int, session["n"])

            await self.write_message(json.dumps(await self.session.transact(add)))

    await site.begin(n=0)
    one, two = await site.connect(Handler), await site.connect(Handler)

    assert [await ask(socket) for socket in (one, two, one)] == [1, 2, 3]
    assert await site.stored() == {"n": 3}


async def test_a_save_beside_a_transaction_does_not_undo_it(site: Site) -> None:
    """Behaviours 37, 72: two tasks of one socket share one session."""

    class Handler(SessionMixin, WebSocketHandler):
        async def on_message(self, message: str | bytes) -> None:
            async def add(session: Session) -> None:
                await asyncio.sleep(0)
                session["n"] += 1

            await asyncio.gather(self.session.transact(add), self.session.save())
            await self.write_message("{}")

    await site.begin(n=0)
    socket = await site.connect(Handler)
    for _ in range(3):
        await ask(socket)

    assert await site.stored() == {"n": 3}


@pytest.mark.parametrize("verb", ["save", "transact", "reload"])
async def test_a_session_that_ends_elsewhere_is_noticed(site: Site, verb: str) -> None:
    """Behaviours 39, 72: by whatever asks the store next."""

    class Handler(SessionMixin, WebSocketHandler):
        async def on_message(self, message: str | bytes) -> None:
            self.session["a"] = 2
            arguments = [lambda session: None] if verb == "transact" else []
            try:
                await getattr(self.session, verb)(*arguments)
            except SessionGoneError:
                await self.write_message('"gone"')

    token = await site.begin(a=1)
    socket = await site.connect(Handler)
    await site.vault.inner.delete(token)

    assert await ask(socket) == "gone"
    assert await site.stored() is None


async def test_destroy_on_a_socket_ends_the_record(site: Site) -> None:
    """Behaviours 42, 72: with save(); the cookie is worth nothing from then on."""

    class Handler(SessionMixin, WebSocketHandler):
        async def on_message(self, message: str | bytes) -> None:
            self.session.destroy()
            await self.session.save()
            await self.write_message("{}")

    await site.begin(a=1)
    await ask(await site.connect(Handler))

    assert await site.stored() is None


async def test_a_failed_save_can_be_tried_again(site: Site) -> None:
    """Behaviours 30, 72: the change is still to be saved."""

    class Handler(SessionMixin, WebSocketHandler):
        async def on_message(self, message: str | bytes) -> None:
            self.session["a"] = 2
            try:
                await self.session.save()
            except BackendError:
                await self.write_message('"down"')
            else:
                await self.write_message('"saved"')

    await site.begin(a=1)
    socket = await site.connect(Handler)
    site.vault.failing = {"save"}

    assert await ask(socket) == "down"
    assert await site.stored() == {"a": 1}
    site.vault.failing = set()
    assert await ask(socket) == "saved"
    assert await site.stored() == {"a": 2}


async def test_a_refused_handshake_is_a_response_like_any_other(site: Site) -> None:
    """Behaviour 27: a 403 is saved before it leaves."""

    class Handler(Socket):
        async def prepare(self) -> None:
            await super().prepare()
            self.session["refused"] = 1

    await site.begin(a=1)
    with pytest.raises(HTTPClientError, match="403"):
        await site.connect(Handler, Origin="http://elsewhere.example")

    assert await site.stored() == {"a": 1, "refused": 1}


async def test_a_handshake_without_the_store_is_answered_503(
    site: Site, errors: list[str]
) -> None:
    """Behaviours 30, 72: the socket is not opened."""
    await site.begin(a=1)
    site.vault.failing = {"load"}
    with pytest.raises(HTTPClientError, match="503"):
        await site.connect(Socket)
    errors.append("Uncaught exception GET /socket")

"""Tests of `SessionMixin` beside `tornado.websocket.WebSocketHandler`."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.simple_httpclient import HTTPStreamClosedError
from tornado.web import Application
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketHandler,
    websocket_connect,
)

from tests.sites import Visited
from tornado_sessions import (
    BackendError,
    Session,
    SessionError,
    SessionGoneError,
    SessionMixin,
)
from tornado_sessions.core.sockets import Sockets
from tornado_sessions.core.values import state_of

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]


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


@pytest.fixture
def site(
    app: Application, io_loop: IOLoop, http_server: HTTPServer, base_url: str
) -> Iterator[Site]:
    site = Site(app, base_url)
    yield site
    io_loop.run_sync(site.close, timeout=3)


async def ask(socket: WebSocketClientConnection, message: str = "") -> Any:  # noqa: ANN401
    """Returns the reply of the socket to ``message``."""
    await socket.write_message(message)
    answer = await asyncio.wait_for(cast(Any, socket.read_message()), 3)
    return answer and json.loads(answer)


class Socket(SessionMixin, WebSocketHandler):
    """Replies with the values that the session had when the socket was opened."""

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


async def test_a_handshake_that_looks_creates_nothing(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviours 13, 72: and there is nothing to warn of."""

    class Handler(Socket):
        async def prepare(self) -> None:
            await super().prepare()
            self.session.get("a")

    socket = await site.connect(Handler)

    assert await ask(socket) == {"opened": {}, "now": {}}
    assert site.vault.calls == []
    assert "WebSocket handshake" not in caplog.text


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


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("verb", ["login", "regenerate"])
async def test_another_id_that_is_not_saved_before_the_handshake_is_refused(
    site: Site,
    errors: list[str],
    caplog: pytest.LogCaptureFixture,
    verb: str,
    begun: bool,
) -> None:
    """Behaviours 72, 76: the session stays as it was, under its own id."""

    class Handler(Socket):
        async def get(self, *args: Any, **kwargs: Any) -> None:
            if verb == "login":
                self.session.login("ada")
            else:
                self.session.regenerate()
            await super().get(*args, **kwargs)

    token = await site.begin(a=1) if begun else None
    if verb == "regenerate" and not begun:
        # There is no id yet, so none to be replaced.
        await site.connect(Handler)
        return
    with pytest.raises(HTTPClientError) as caught:
        await site.connect(Handler)

    assert caught.value.code == 500
    assert caught.value.response is not None
    assert "Set-Cookie" not in caught.value.response.headers
    if begun:
        stored = await site.sessions.load(token)
        assert (dict(stored), stored.user) == ({"a": 1}, None)
    assert "save" not in site.vault.calls
    assert (
        "login() and regenerate() give the session another id, and it was not saved"
        " before the WebSocket handshake: no cookie can be sent after that. The"
        " handshake is refused, and the session stays as it was. Call 'await"
        " self.session.save()' before 'await super().get()'." in caplog.text
    )
    errors.append("Uncaught exception")


@pytest.mark.parametrize("begun", [True, False])
async def test_a_login_that_is_saved_before_the_handshake_holds(
    site: Site, begun: bool
) -> None:
    """Behaviour 72: its cookie leaves with the 101, and the socket has the session."""

    class Handler(SessionMixin, WebSocketHandler):
        async def get(self, *args: Any, **kwargs: Any) -> None:
            self.session.login("ada")
            await self.session.save()
            await super().get(*args, **kwargs)

        async def on_message(self, message: str | bytes) -> None:
            self.session["b"] = 2
            await self.session.save()
            await self.write_message(json.dumps(self.session.user))

    token = await site.begin(a=1) if begun else None
    socket = await site.connect(Handler)

    assert await ask(socket) == "ada"
    assert socket.headers is not None
    site.token = socket.headers["Set-Cookie"].partition(";")[0].partition("=")[2]
    assert await site.stored() == ({"a": 1, "b": 2} if begun else {"b": 2})
    assert token is None or await site.stored(token) is None


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
    errors.append("503 GET /socket")


async def test_what_nobody_has_saved_is_told_when_a_socket_closes(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 72: writes go through save() and transact(), and through nothing else."""
    closed = asyncio.Event()

    class Forgetful(Socket):
        async def on_message(self, message: str | bytes) -> None:
            self.session["a"] = message
            if message == "saved":
                await self.session.save()
            await self.write_message("{}")

        def on_connection_close(self) -> None:
            super().on_connection_close()
            closed.set()

    await site.begin(a=1)
    for message in ("saved", "forgotten"):
        closed.clear()
        socket = await site.connect(Forgetful)
        await ask(socket, message)
        socket.close()
        await closed.wait()

    (told,) = (r.getMessage() for r in caplog.records if "has saved" in r.message)
    assert told == (
        "A WebSocket of Forgetful was closed with changes to its session that nobody"
        " has saved. Nothing is saved by itself there: call 'await"
        " self.session.save()'."
    )


async def test_a_flood_of_what_nobody_has_saved_is_summed_up(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 85: anybody can open a socket and close it, with a session or without."""

    class Forgetful(Socket):
        async def get(self, *args: Any, **kwargs: Any) -> None:
            self.session["a"] = "changed"
            await super().get(*args, **kwargs)

        def on_connection_close(self) -> None:
            super().on_connection_close()
            gone.set()

    gone = asyncio.Event()
    for begins, text, lines in (
        (False, "cannot be kept: it was not saved", 1),
        (True, "was closed with changes", 10),
    ):
        if begins:
            await site.begin(a=1)
        for _ in range(15):
            gone.clear()
            socket = await site.connect(Forgetful)
            socket.close()
            await gone.wait()
        assert caplog.text.count(text) == lines


# A session that ends.


@pytest.fixture
def late_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the store alone, but for what a test does."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    monkeypatch.setattr("tornado_sessions.core.sockets._FIRST_CHECK", 3600)


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
    assert await asyncio.wait_for(cast(Any, socket.read_message()), 5) is None
    return socket.close_code


async def test_a_session_that_ends_during_the_handshake_closes_the_socket(
    site: Site,
) -> None:
    """Behaviour 72: within a second, long before the interval is over."""

    class Handler(Socket):
        async def prepare(self) -> None:
            await super().prepare()
            assert site.token is not None
            await site.vault.inner.delete(site.token)

    await site.begin(a=1)

    assert await closed(await site.connect(Handler)) == 1008


async def test_a_socket_that_ends_its_own_session_can_say_so(site: Site) -> None:
    """Behaviour 72: there is a moment for what it still has to send."""

    class Handler(Closing):
        async def on_message(self, message: str | bytes) -> None:
            self.session.destroy()
            await self.session.save()
            await asyncio.sleep(0)
            await self.write_message('"bye"')

    await site.begin(a=1)
    socket = await site.connect(Handler)

    assert await ask(socket) == "bye"
    assert await closed(socket) == 1008
    assert site.app.settings["ends"] == 1


async def test_on_session_end_can_be_overridden(site: Site, late_checks: None) -> None:
    """Behaviour 72: to send something first."""

    class Handler(Closing):
        def on_session_end(self) -> None:
            self.write_message('"ended"')
            super().on_session_end()

    token = await site.begin(a=1)
    socket = await site.connect(Handler)
    session = await site.sessions.load(token)
    session.destroy()
    await session.save()

    assert await cast(Any, socket.read_message()) == '"ended"'
    assert await closed(socket) == 1008


async def test_a_socket_is_not_heard_after_its_session_has_ended(site: Site) -> None:
    """Behaviour 72: a client may go on sending until the connection is closed."""
    heard = []

    class Handler(Closing):
        def on_message(self, message: str | bytes) -> None:
            heard.append(message)

    await site.begin(a=1)
    socket = await site.connect(Handler)
    handler = site.app.settings["opened"]
    handler.on_session_end()
    handler.on_message("late")

    assert await closed(socket) == 1008
    assert heard == []


async def test_either_order_of_the_bases_will_do(site: Site, late_checks: None) -> None:
    """Behaviour 72: as it does for the rest."""

    class Handler(WebSocketHandler, SessionMixin):
        def on_message(self, message: str | bytes) -> None:
            raise AssertionError

    token = await site.begin(a=1)
    socket = await site.connect(Handler)
    session = await site.sessions.load(token)
    session.regenerate()
    await session.save()

    assert await closed(socket) == 1008


async def test_a_revocation_by_handle_closes_the_sockets(site: Site) -> None:
    """Behaviours 46, 72: whoever revokes a session need not know its token."""
    token = await site.begin(a=1)
    socket = await site.connect(Socket)
    session = await site.sessions.load(token)
    site.sessions.sockets.end(handle="another")
    site.sessions.sockets.end(handle=session.id)

    assert await closed(socket) == 1008


async def test_a_socket_that_was_closed_is_forgotten(site: Site) -> None:
    """Nothing is looked up any more for it, and nothing is held."""
    await site.begin(a=1)
    one, two = await site.connect(Closing), await site.connect(Closing)
    assert repr(site.sessions.sockets) == "<Sockets 2 open>"
    for socket, left in ((one, 1), (two, 0)):
        site.app.settings["closed"].clear()
        socket.close()
        await site.app.settings["closed"].wait()

        assert len(site.sessions.sockets) == left
    assert not site.sessions.sockets.is_waiting


async def test_sessions_that_are_closed_look_after_no_socket(site: Site) -> None:
    """Behaviour 65: nothing is asked of a store that is closed."""
    await site.begin(a=1)
    socket = await site.connect(Socket)
    await site.sessions.close()

    assert not site.sessions.sockets.is_waiting
    assert await ask(socket) == {"opened": {"a": 1}, "now": {"a": 1}}


async def test_the_next_use_after_the_close_looks_after_the_sockets(site: Site) -> None:
    """Behaviour 72: those that have stayed open are looked up again."""
    token = await site.begin(a=1)
    await site.connect(Socket)
    await site.sessions.close()
    await site.sessions.load(token)

    assert site.sessions.sockets.is_waiting


async def test_a_store_that_is_broken_closes_no_socket(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 72: and it is told, as nobody else may hear of it."""
    token = await site.begin(a=1)
    assert await site.sessions.records.is_kept(token)
    monkeypatch.delattr(site.vault, "inner")

    assert await site.sessions.records.is_kept(token)
    (record,) = [r for r in caplog.records if r.name == "tornado_sessions"]
    assert record.getMessage() == "A session could not be looked up."
    assert record.exc_info is not None


async def test_an_upgrade_to_something_else_is_not_ours(site: Site) -> None:
    """A 101 need not be of a WebSocket."""

    watched = []

    class Handler(SessionMixin):
        def get(self) -> None:
            dict(self.session)
            self.set_status(101)
            self.finish()
            watched.append(len(site.sessions.sockets))

    await site.begin(a=1)
    site.app.add_handlers(".*", [("/other", Handler)])
    client = AsyncHTTPClient(force_instance=True)
    with pytest.raises(HTTPStreamClosedError):
        await client.fetch(
            site.base_url.replace("ws", "http", 1) + "/other",
            headers={"Cookie": f"session={site.token}"},
        )
    client.close()

    assert watched == [0]


# Looking after many.


class Clients:
    """Sessions that have open sockets, by their tokens, and what is asked of them."""

    def __init__(self, interval: float) -> None:
        self.alive: set[str] = set()
        self.asked: list[str] = []
        self.ended: list[str] = []
        self.at_once = 0
        self.peak = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.news = asyncio.Event()
        self.sockets = Sockets(interval, self.is_alive, self.start)

    def start(self, work: Any) -> None:  # noqa: ANN401
        self.tasks.append(asyncio.ensure_future(work))

    async def is_alive(self, token: str) -> bool:
        self.asked.append(token)
        self.news.set()
        self.at_once += 1
        self.peak = max(self.peak, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        return token in self.alive

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until so much was asked that ``condition`` is met."""
        while not condition():
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 5)

    async def close(self) -> None:
        self.sockets.close()
        await asyncio.gather(*self.tasks)

    def open(self, token: str) -> Client:
        self.alive.add(token)
        client = Client(self, token)
        self.sockets.add(client, token, f"handle of {token}")
        return client


class Client:
    def __init__(self, clients: Clients, token: str) -> None:
        self.clients = clients
        self.token = token
        self.over = asyncio.Event()

    def on_session_end(self) -> None:
        self.clients.ended.append(self.token)
        self.over.set()


async def test_a_session_is_looked_up_once_for_all_its_sockets() -> None:
    """Behaviour 72: and by one timer; what ended is told to each of them."""
    clients = Clients(0.01)
    held = [clients.open(token) for token in "aabbb"]
    clients.alive.remove("b")
    await asyncio.gather(*(client.over.wait() for client in held[2:]))

    assert clients.ended == ["b", "b", "b"]
    assert clients.asked.count("b") == 1
    assert len(clients.sockets) == 2
    await clients.close()


async def test_the_timer_keeps_nothing_of_the_socket_that_came_first() -> None:
    """Behaviour 41: such as what that has put in its context."""
    clients, request = Clients(60), contextvars.ContextVar[object]("request")
    context, kept = contextvars.copy_context(), asyncio.Event()
    context.run(request.set, kept)
    held = context.run(clients.open, "a")
    gone = weakref.ref(kept)
    del context, kept

    assert gone() is None
    assert len(clients.sockets) == 1
    await held.clients.close()


async def test_many_sessions_are_looked_up_a_few_at_a_time() -> None:
    """Behaviours 70, 72: also where all of their sockets were opened at once."""
    clients = Clients(0.01)
    held = [clients.open(str(number)) for number in range(200)]
    await clients.until(lambda: len(set(clients.asked)) == 200)

    assert 1 < clients.peak <= 16
    assert clients.ended == []
    assert len(held) == len(clients.sockets)
    await clients.close()


async def test_a_handler_that_is_gone_is_not_looked_up() -> None:
    """A socket without other references is not kept alive, and its session is removed."""
    clients = Clients(0.01)
    gone, held = clients.open("gone"), clients.open("held")
    del gone
    gc.collect()
    await clients.until(lambda: clients.asked.count("held") == 3)

    assert "gone" not in clients.asked
    assert clients.sockets.knows(handle=f"handle of {held.token}")
    assert not clients.sockets.knows(handle="handle of gone")
    await clients.close()


async def test_a_socket_that_comes_again_is_looked_up_once_in_each_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stale entry of the schedule is ignored."""
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    clients = Clients(3600)
    other = clients.open("other")
    for _ in range(10):
        client = clients.open("a")
        clients.sockets.remove(client, "a")
        clients.sockets.remove(client, "a")
    client = clients.open("a")
    await clients.until(lambda: "a" in clients.asked)
    await asyncio.gather(*clients.tasks)

    assert clients.asked == ["other", "a"]
    clients.sockets.remove(client, "a")
    clients.sockets.remove(other, "other")
    assert clients.sockets.schedule.entries == 0
    await clients.close()


async def test_sockets_that_come_and_go_leave_little_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though the interval in which they would be looked up again is long."""
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    clients = Clients(3600)
    stays = clients.open("stays")
    opened: list[Client] = []
    while len(opened) < 60:
        client = clients.open("a")
        opened.append(client)
        await clients.until(lambda: clients.asked.count("a") == len(opened))
        await asyncio.gather(*clients.tasks)
        clients.sockets.remove(client, "a")

    assert clients.sockets.schedule.entries < 30
    assert [name for _, name in clients.sockets.schedule] == ["stays"]
    assert len(clients.sockets) == len([stays])
    await clients.close()


async def test_a_new_socket_does_not_wait_for_the_others() -> None:
    """Behaviour 72: the timer is set to whoever is first."""
    clients = Clients(3600)
    one = clients.open("one")
    await clients.until(lambda: clients.asked == ["one"])
    await asyncio.gather(*clients.tasks)
    two = clients.open("two")
    await clients.until(lambda: clients.asked == ["one", "two"])

    assert len({one, two}) == len(clients.sockets)
    await clients.close()


async def test_sockets_that_came_all_at_once_drift_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behaviour 70: each has a moment of its own in the next interval."""
    monkeypatch.setattr("tornado_sessions.core.sockets._FIRST_CHECK", 0)
    clients = Clients(3600)
    held = [clients.open(str(number)) for number in range(50)]
    await clients.until(lambda: len(clients.asked) == 50)
    await asyncio.gather(*clients.tasks)
    now = asyncio.get_running_loop().time()
    due = [due - now for due, _ in clients.sockets.schedule]

    assert len(due) == len(held)
    assert max(due) <= 3600
    assert min(due) > 2300
    # Of fifty, all within half of the range: one in 10^13.
    assert max(due) - min(due) > 600
    await clients.close()


async def test_nothing_is_looked_up_after_the_close() -> None:
    """Also where somebody was being looked up just then."""
    clients = Clients(0.001)
    client = clients.open("a")
    await clients.until(lambda: bool(clients.asked))
    await clients.close()

    assert not clients.sockets.is_waiting
    assert not client.over.is_set()


async def test_a_new_socket_after_the_close_is_looked_up() -> None:
    """Behaviour 72: and so are those that have stayed open."""
    clients = Clients(0.001)
    one = clients.open("one")
    await clients.until(lambda: bool(clients.asked))
    await clients.close()
    clients.asked.clear()
    two = clients.open("two")
    await clients.until(lambda: {"one", "two"} == {*clients.asked})

    assert len({one, two}) == len(clients.sockets)
    await clients.close()


def test_the_sockets_of_another_event_loop_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behaviours 67, 72: they may belong to a process that this one is a fork of."""
    monkeypatch.setattr("tornado_sessions.core.sockets._GRACE", 0)
    held: list[Clients] = []

    async def open_sockets() -> Client:
        clients = Clients(0.001)
        held.append(clients)
        client = clients.open("old")
        await clients.until(lambda: bool(clients.asked))
        return client

    async def end_and_open(old: Client) -> None:
        (clients,) = held
        clients.news = asyncio.Event()
        clients.tasks.clear()
        clients.asked.clear()
        clients.sockets.end("old")
        new = clients.open("new")
        await clients.until(lambda: clients.asked.count("new") > 1)
        assert "old" not in clients.asked
        assert len(clients.sockets) == len([new])
        await clients.close()

    old = asyncio.run(open_sockets())
    asyncio.run(end_and_open(old))
    assert held[0].ended == []


async def test_an_end_is_told_by_token_or_by_handle() -> None:
    """Behaviours 46, 72: and to nobody else."""
    clients = Clients(3600)
    held = [clients.open(token) for token in "abc"]
    clients.sockets.end("unknown")
    clients.sockets.end(handle="unknown")
    clients.sockets.end("a")
    clients.sockets.end(handle="handle of b")
    await asyncio.gather(*(client.over.wait() for client in held[:2]))

    assert clients.ended == ["a", "b"]
    assert len(clients.sockets) == 1
    await clients.close()


async def test_a_handle_may_be_that_of_two_tokens() -> None:
    """Behaviours 46, 72: the session was given a new id in another process."""
    clients = Clients(3600)
    held = [Client(clients, token) for token in "abc"]
    clients.alive |= set("abc")
    for client in held:
        clients.sockets.add(client, client.token, "one")
    clients.sockets.end("b")
    clients.sockets.end(handle="one")
    await asyncio.gather(*(client.over.wait() for client in held))

    assert sorted(clients.ended) == ["a", "b", "c"]
    assert not clients.sockets.knows(handle="one")
    await clients.close()


class Handle(str):
    """A handle that counts how often it is compared."""

    __hash__ = str.__hash__
    compared = 0

    def __eq__(self, other: object) -> bool:
        Handle.compared += 1
        return str.__eq__(self, other)


async def test_an_end_by_handle_does_not_look_through_all() -> None:
    """Behaviour 70: whoever has a thousand sessions revokes them one by one."""
    clients = Clients(3600)
    held = [Client(clients, str(number)) for number in range(200)]
    for client in held:
        clients.sockets.add(client, client.token, Handle(client.token))
    Handle.compared = 0
    clients.sockets.end(handle="unknown")

    assert Handle.compared < 10
    assert len(clients.sockets) == len(held)
    await clients.close()


async def test_a_socket_that_goes_while_its_session_is_looked_up_is_forgotten() -> None:
    """The answer is for nobody then."""
    clients = Clients(0.001)
    client = clients.open("a")
    await clients.until(lambda: bool(clients.asked))
    clients.sockets.remove(client, "a")
    await asyncio.gather(*clients.tasks)

    assert clients.ended == []
    assert not clients.sockets.is_waiting


# Keeping a session alive.


class Chatting(Closing):
    session_keep_alive = True

    def on_message(self, message: str | bytes) -> Any:  # noqa: ANN401
        return self.write_message(json.dumps(message))


async def settle(site: Site) -> None:
    await site.sessions.tasks.wait()


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_message_keeps_the_session_alive_where_told_to(
    site: Site, keeps: bool, late_checks: None
) -> None:
    """Behaviours 48, 49, 72: with a save in each tenth of the idle timeout."""

    class Handler(Chatting):
        session_keep_alive = keeps

    token = await site.begin(a=1)
    time = site.sessions.now()
    site.sessions.now = lambda: time
    socket = await site.connect(Handler)
    handler = site.app.settings["opened"]
    for _ in range(30):
        for _ in range(3):
            assert await ask(socket, "hello") == "hello"
            await settle(site)
        time += site.sessions.rules.idle_timeout / 20
    calls = list(site.vault.calls)
    session = await site.sessions.load(token)

    assert session.is_new is not keeps
    assert calls.count("save") == (14 if keeps else 0)
    # The handshake, and what keeps it alive: the first message, and one in a tenth.
    assert calls.count("load") == (16 if keeps else 1)
    socket.close()
    await site.app.settings["closed"].wait()
    assert "on_message" not in vars(handler)


async def test_what_a_socket_changes_is_saved_beside_what_keeps_it_alive(
    site: Site,
) -> None:
    """Behaviours 36, 72: the record has another version then."""

    class Handler(Chatting):
        async def on_message(self, message: str | bytes) -> None:
            await settle(site)
            self.session["b"] = 2
            await self.session.save()
            await self.write_message("{}")

    await site.begin(a=1)
    time = site.sessions.now() + site.sessions.rules.idle_timeout / 2
    site.sessions.now = lambda: time
    socket = await site.connect(Handler)
    await ask(socket)
    restored = await site.sessions.load(site.token)

    assert dict(restored) == {"a": 1, "b": 2}


async def test_messages_that_come_at_once_note_it_once(
    site: Site, late_checks: None
) -> None:
    """Behaviours 49, 72: also before the store has answered."""
    await site.begin(a=1)
    socket = await site.connect(Chatting)
    loads = site.vault.calls.count("load")
    gate = site.vault.gate = asyncio.Event()
    for _ in range(3):
        await ask(socket, "hello")
    gate.set()
    await settle(site)

    assert site.vault.calls.count("load") == loads + 1


async def test_a_message_to_a_session_that_has_ended_closes_the_socket(
    site: Site, late_checks: None
) -> None:
    """Behaviour 72: it is noticed on the way."""
    token = await site.begin(a=1)
    socket = await site.connect(Chatting)
    await ask(socket, "hello")
    await settle(site)
    await site.vault.inner.delete(token)
    time = site.sessions.now() + site.sessions.rules.idle_timeout / 5
    site.sessions.now = lambda: time
    await ask(socket, "hello")

    assert await closed(socket) == 1008


async def test_a_store_that_is_down_is_told_and_tried_again(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviours 30, 72: and not with each message."""
    await site.begin(a=1)
    time = site.sessions.now() + site.sessions.rules.idle_timeout / 2
    site.sessions.now = lambda: time
    socket = await site.connect(Chatting)
    site.vault.failing = {"load"}
    for _ in range(3):
        await ask(socket, "hello")
        await settle(site)
    site.vault.failing = set()
    time += 2
    await ask(socket, "hello")
    await settle(site)

    told = [r.getMessage() for r in caplog.records if "kept alive" in r.getMessage()]
    assert told == ["A session could not be kept alive: Cannot load the session."]
    assert (await site.sessions.load(site.token)).last_seen == pytest.approx(time)


async def test_an_unexpected_error_does_not_end_the_keep_alive(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behaviours 72, 85: it is logged once, with its traceback, and tried again."""

    async def fail(token: str) -> None:
        raise ArithmeticError("unexpected")

    await site.begin(a=1)
    time = site.sessions.now() + site.sessions.rules.idle_timeout / 2
    site.sessions.now = lambda: time
    socket = await site.connect(Chatting)
    with monkeypatch.context() as patched:
        patched.setattr(site.vault, "load", fail)
        for _ in range(3):
            await ask(socket, "hello")
            await settle(site)
            time += 2
    await ask(socket, "hello")
    await settle(site)

    (told,) = [r for r in caplog.records if "kept alive" in r.getMessage()]
    assert told.getMessage() == "A session could not be kept alive: unexpected"
    assert told.exc_info is not None
    assert (await site.sessions.load(site.token)).last_seen == pytest.approx(time)


async def test_a_store_that_takes_no_writes_is_tried_once_in_a_second(
    site: Site, caplog: pytest.LogCaptureFixture, late_checks: None
) -> None:
    """Behaviours 30, 49: a chat costs no write, and no log line, for each message."""
    await site.begin(a=1)
    time = site.sessions.now() + site.sessions.rules.idle_timeout / 2
    site.sessions.now = lambda: time
    socket = await site.connect(Chatting)
    site.vault.failing = {"save"}
    for _ in range(5):
        await ask(socket, "hello")
        await settle(site)
    assert site.saves() == 1
    site.vault.failing = set()
    time += 1
    await ask(socket, "hello")
    await settle(site)

    assert site.saves() == 2
    assert len([r for r in caplog.records if "renewed" in r.getMessage()]) == 1
    assert (await site.sessions.load(site.token)).last_seen == pytest.approx(time)


async def test_a_session_in_the_cookie_cannot_be_kept_alive(
    app: Application, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """A socket can send no cookie; one warning says so."""
    site.sessions.rules.revocable = False
    await site.begin(a=1)
    for _ in range(2):
        await ask(await site.connect(Chatting), "hello")

    told = [r.getMessage() for r in caplog.records if "keep_alive" in r.getMessage()]
    assert len(told) == 1
    assert told[0] == (
        "session_keep_alive of Chatting does nothing: this backend keeps the session in"
        " the cookie, and a WebSocket can send none."
    )
    assert "on_message" not in vars(app.settings["opened"])


async def test_a_session_that_is_revoked_closes_its_sockets(
    site: Site, late_checks: None
) -> None:
    """Behaviours 46, 72: at once, where it happens in the same process."""
    token = await site.begin(a=1)
    session = await site.sessions.load(token)
    session.login("ada")
    await session.save()
    site.token = state_of(session).token
    socket = await site.connect(Socket)

    assert await site.sessions.revoke("ada", session.id)
    assert await closed(socket) == 1008

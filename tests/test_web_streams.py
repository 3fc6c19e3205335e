"""Tests of responses that stay open, and end with their session."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from tornado.httpclient import HTTPRequest
from tornado.iostream import StreamClosedError
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect
from tornado_sessions_memory import MemoryBackend
from tornado_sessions_sqlite import SQLiteBackend

from tests.sites import Site, SteppedVault
from tornado_sessions import SessionMixin, Sessions
from tornado_sessions.settings import Settings
from tornado_sessions.storage.vault import Vault
from tornado_sessions.testing import moved_clock

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]

END = b"0\r\n\r\n"


def with_settings(**settings: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("settings", [settings])


@pytest.fixture
def settings() -> dict[str, Any]:
    return {}


@pytest.fixture
def app(settings: dict[str, Any], tmp_path: Path) -> Application:
    if settings.get("session_backend") == "sqlite":
        settings["session_backend"] = SQLiteBackend(tmp_path / "sessions.db")
    app = Application(**{"session_backend": MemoryBackend(), **settings})
    sessions = Sessions.of(app)
    sessions.vault = SteppedVault(sessions.vault, suspends=True)
    return app


class Visit:
    """A connection of the visitor, which sends one request after the other."""

    def __init__(self, site: Site, port: int) -> None:
        self.site = site
        self.port = port
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter | None = None

    async def send(self, handler: type[RequestHandler], **headers: str) -> None:
        if self.writer is None:
            connection = await asyncio.open_connection("127.0.0.1", self.port)
            self.reader, self.writer = connection
        if self.site.token is not None:
            headers["Cookie"] = f"session={self.site.token}"
        lines = [f"GET {self.site.path(handler)} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode())

    async def read_until(self, text: bytes) -> str:
        read = await asyncio.wait_for(self.reader.readuntil(text), 30)
        return read.decode()

    async def read_rest(self) -> bytes:
        """Returns what comes until the server closes the connection."""
        return await asyncio.wait_for(self.reader.read(), 30)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


@pytest.fixture
def visit(site: Site, http_port: int) -> Iterator[Visit]:
    visit = Visit(site, http_port)
    yield visit
    visit.close()


class News(SessionMixin):
    """Sends an event for each text that is put into the queue, and ends after None."""

    session_ends_stream = True

    async def prepare(self) -> None:
        await super().prepare()
        self.news: asyncio.Queue[str | None] = asyncio.Queue()
        self.settings["opened"] = self
        self.settings["over"] = asyncio.Event()

    async def get(self) -> None:
        await self.send("hello")
        while (text := await self.news.get()) is not None:
            await self.send(text)

    async def send(self, text: str) -> None:
        self.write(f"data: {text}\n\n")
        await self.flush()

    def on_session_end(self) -> None:
        self.settings["ends"] = self.settings.get("ends", 0) + 1
        super().on_session_end()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.news.put_nowait(None)

    def on_finish(self) -> None:
        self.settings["over"].set()


class Poll(News):
    """Sends nothing before it has something to say."""

    async def get(self) -> None:
        text = await self.news.get()
        self.finish(text or "nothing")


class LogOut(SessionMixin):
    def get(self) -> None:
        self.session.logout()


class LogIn(SessionMixin):
    def get(self) -> None:
        self.session.login("ada")


class Regenerate(SessionMixin):
    def get(self) -> None:
        self.session.regenerate()


async def end_elsewhere(site: Site) -> None:
    """Ends the visitor's session, as another request to this process would."""
    session = await site.sessions.load(site.token)
    session.destroy()
    await session.save()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("It has not happened within half a minute.")


async def opened(site: Site) -> News:
    """Waits for the handler of the request that was sent."""
    await until(lambda: "opened" in site.app.settings)
    return cast(News, site.app.settings.pop("opened"))


async def checked(site: Site) -> None:
    """Waits until the stream was checked again, with what is true now."""
    calls = site.vault.calls
    loads = calls.count("load")
    await until(lambda: calls.count("load") >= loads + 2)
    await is_told()


async def is_told() -> None:
    """Waits longer than a stream is given to end."""
    await asyncio.sleep(0.3)


async def sign_in(site: Site, user: str = "ada") -> None:
    session = await Sessions(Settings(site.vault.inner)).load(None)
    session.login(user)
    await session.save()
    site.token = session.expose_token()


async def revoke_own(handler: SessionMixin, verb: str) -> None:
    """Revokes the session of "ada" as her own request."""
    if verb == "revoke":
        await handler.sessions.revoke("ada", handler.session.id)
    elif verb == "revoke_all":
        await handler.sessions.revoke_all("ada")
    else:
        await handler.sessions.revoke_all_users()


# A session that ends.


@pytest.mark.parametrize("ending", [LogOut, LogIn, Regenerate])
async def test_events_end_where_another_request_ends_the_session(
    site: Site, visit: Visit, late_checks: None, ending: type[SessionMixin]
) -> None:
    """Behaviour 104: also where it gives the session another id."""
    await site.begin(a=1)
    await visit.send(News)
    await visit.read_until(b"data: hello\n\n\r\n")
    assert len(site.sessions.sockets) == 1
    await site.fetch(ending)

    # A response that is cut off is no finished one.
    assert await visit.read_rest() == b""
    await asyncio.wait_for(site.app.settings["over"].wait(), 30)
    assert len(site.sessions.sockets) == 0
    assert not site.sessions.sockets.is_waiting


async def test_a_handler_that_writes_to_a_stream_that_was_ended_is_told(
    site: Site, visit: Visit, late_checks: None
) -> None:
    """Behaviour 104: by the error that Tornado raises where a client has hung up."""
    raised: asyncio.Future[bool] = asyncio.Future()

    class Handler(News):
        async def get(self) -> None:
            await self.flush()
            await self.news.get()
            try:
                await self.send("late")
            except StreamClosedError:
                raised.set_result(True)

    await site.begin(a=1)
    await visit.send(Handler)
    await visit.read_until(b"\r\n\r\n")
    await end_elsewhere(site)

    assert await visit.read_rest() == b""
    assert await asyncio.wait_for(raised, 30)


@with_settings(session_socket_interval=1, session_backend="sqlite")
async def test_events_end_where_another_process_revokes_the_session(
    site: Site, visit: Visit, tmp_path: Path
) -> None:
    """Behaviours 46, 104: within ``session_socket_interval``."""
    other = Sessions(Settings(Vault(SQLiteBackend(tmp_path / "sessions.db"))))
    session = await other.load(None)
    session.login("ada")
    await session.save()
    site.token = session.expose_token()
    await visit.send(News)
    await visit.read_until(b"data: hello\n\n\r\n")
    handler = await opened(site)
    assert handler.session.user == "ada"
    assert await other.revoke_all("ada") == 1

    assert await visit.read_rest() == b""
    assert len(site.sessions.sockets) == 0
    await other.close()
    await site.sessions.close()


@with_settings(session_socket_interval=1)
async def test_events_end_where_the_session_expires(
    app: Application, site: Site, visit: Visit
) -> None:
    """Behaviours 47, 104: and not before."""
    with moved_clock(app) as clock:
        await site.begin(a=1)
        await visit.send(News)
        await visit.read_until(b"data: hello\n\n\r\n")
        handler = await opened(site)
        clock.move(hours=23)
        await checked(site)
        handler.news.put_nowait("alive")
        await visit.read_until(b"data: alive\n\n\r\n")
        clock.move(hours=2)

        assert await visit.read_rest() == b""


@with_settings(session_socket_interval=1)
async def test_a_store_that_is_down_ends_no_events(site: Site, visit: Visit) -> None:
    """Behaviour 104: the requests say that it is down."""
    await site.begin(a=1)
    await visit.send(News)
    await visit.read_until(b"data: hello\n\n\r\n")
    handler = await opened(site)
    site.vault.failing = {"load"}
    await checked(site)
    handler.news.put_nowait("alive")

    await visit.read_until(b"data: alive\n\n\r\n")


async def test_the_handler_can_end_the_response_itself(
    site: Site, visit: Visit, late_checks: None
) -> None:
    """Behaviour 104: with a last event; it is told once."""

    class Handler(News):
        async def get(self) -> None:
            await super().get()
            self.write("event: end\n\n")

        def on_session_end(self) -> None:
            self.settings["ends"] = self.settings.get("ends", 0) + 1
            self.news.put_nowait(None)

    await site.begin(a=1)
    await visit.send(Handler)
    await visit.read_until(b"data: hello\n\n\r\n")
    await end_elsewhere(site)

    assert END in (await visit.read_until(END)).encode()
    assert site.app.settings["ends"] == 1


async def test_an_end_is_told_once(site: Site, visit: Visit, late_checks: None) -> None:
    """Behaviour 104: though the id that the request came with has ended as well."""

    class Handler(News):
        async def get(self) -> None:
            self.session.regenerate()
            await super().get()

        async def send(self, text: str) -> None:
            await super().send(text)
            site.token = self.session.expose_token()
            await end_elsewhere(site)

        def on_session_end(self) -> None:
            self.settings["ends"] = self.settings.get("ends", 0) + 1

    await site.begin(a=1)
    await visit.send(Handler)
    await visit.read_until(b"data: hello\n\n\r\n")
    await is_told()

    assert site.app.settings["ends"] == 1


@with_settings(
    session_backend="cookie", cookie_secret="a secret of 32 characters or more"
)
async def test_events_end_with_the_cookie_that_they_were_sent_with(
    site: Site, visit: Visit, late_checks: None
) -> None:
    """Behaviour 104: a backend that keeps the session there has a new one at each save."""

    class Handler(News):
        async def get(self) -> None:
            self.session["b"] = 2
            await super().get()

    await site.begin(a=1)
    await visit.send(Handler)
    headers = await visit.read_until(b"\r\n\r\n")
    site.token = headers.partition("session=")[2].partition(";")[0]
    await visit.read_until(b"data: hello\n\n\r\n")
    assert len(site.sessions.sockets) == 1
    await site.fetch(LogOut)

    assert await visit.read_rest() == b""


async def test_a_poll_is_answered_where_its_session_lives(
    site: Site, visit: Visit
) -> None:
    """Behaviour 104: and the connection can be used again."""
    await site.begin(a=1)
    for text in ("one", "two"):
        await visit.send(Poll)
        handler = await opened(site)
        assert len(site.sessions.sockets) == 1
        handler.news.put_nowait(text)
        await visit.read_until(text.encode())

        assert len(site.sessions.sockets) == 0
    assert "ends" not in site.app.settings


async def test_a_poll_ends_with_its_session(
    site: Site, visit: Visit, late_checks: None
) -> None:
    """Behaviour 104: though nothing was sent yet."""
    await site.begin(a=1)
    await visit.send(Poll)
    await opened(site)
    await end_elsewhere(site)

    assert await visit.read_rest() == b""


async def test_a_poll_can_say_that_its_session_has_ended(
    site: Site, visit: Visit, late_checks: None
) -> None:
    """Behaviour 104: by a status."""

    class Handler(Poll):
        async def get(self) -> None:
            if await self.news.get() is None:
                raise HTTPError(401)

        def on_session_end(self) -> None:
            self.news.put_nowait(None)

    await site.begin(a=1)
    await visit.send(Handler)
    await opened(site)
    await end_elsewhere(site)

    assert "401" in await visit.read_until(b"\r\n")


# A session that the request itself ends.


@pytest.mark.parametrize("verb", ["logout", "revoke", "revoke_all", "revoke_all_users"])
async def test_a_stream_that_ends_its_own_session_goes_on(
    site: Site, visit: Visit, verb: str
) -> None:
    """Behaviour 104: until its handler finishes it."""

    class Handler(News):
        async def send(self, text: str) -> None:
            if text == "bye":
                await self.end()
            await super().send(text)

        async def end(self) -> None:
            if verb == "logout":
                self.session.logout()
                await self.session.save()
            else:
                await revoke_own(self, verb)

    await sign_in(site)
    await visit.send(Handler)
    await visit.read_until(b"data: hello\n\n\r\n")
    handler = await opened(site)
    handler.news.put_nowait("bye")
    await visit.read_until(b"data: bye\n\n\r\n")
    assert await site.stored() is None
    await is_told()
    handler.news.put_nowait("really")
    await visit.read_until(b"data: really\n\n\r\n")
    handler.news.put_nowait(None)

    assert END in (await visit.read_until(END)).encode()
    assert "ends" not in site.app.settings
    assert len(site.sessions.sockets) == 0


@pytest.mark.parametrize("verb", ["revoke", "revoke_all", "revoke_all_users"])
async def test_a_revocation_that_takes_long_does_not_cut_its_own_response(
    site: Site, visit: Visit, verb: str
) -> None:
    """Behaviour 104: other sessions of the user are still being ended."""

    class Handler(Poll):
        async def get(self) -> None:
            await self.news.get()
            site.vault.stop_before("delete")
            await revoke_own(self, verb)
            self.write("bye")

    await sign_in(site)
    await visit.send(Handler)
    (await opened(site)).news.put_nowait(None)
    await until(lambda: hasattr(site.vault, "arrived"))
    await asyncio.wait_for(site.vault.arrived.wait(), 30)
    await is_told()
    site.vault.resumed.set()

    await visit.read_until(b"bye")
    assert "ends" not in site.app.settings


async def test_a_poll_that_saves_another_id_ends_with_that(
    site: Site, visit: Visit, late_checks: None
) -> None:
    """Behaviour 104: though it has not sent it yet."""

    class Handler(Poll):
        async def get(self) -> None:
            self.session.regenerate()
            await self.session.save()
            site.token = self.session.expose_token()
            self.settings["saved"] = True
            await super().get()

    await site.begin(a=1)
    await visit.send(Handler)
    await until(lambda: "saved" in site.app.settings)
    await until(lambda: len(site.sessions.sockets) == 1)
    await end_elsewhere(site)

    assert await visit.read_rest() == b""


@pytest.mark.parametrize("verb", ["login", "regenerate"])
@pytest.mark.parametrize("saves", [True, False])
async def test_a_stream_that_changes_its_own_id_ends_with_the_new_one(
    site: Site, visit: Visit, late_checks: None, verb: str, saves: bool
) -> None:
    """Behaviour 104: at its first flush, or at a save before that."""

    class Handler(News):
        async def get(self) -> None:
            if verb == "login":
                self.session.login("ada")
            else:
                self.session.regenerate()
            if saves:
                await self.session.save()
                await is_told()
            await super().get()

    await site.begin(a=1)
    await visit.send(Handler)
    headers = await visit.read_until(b"\r\n\r\n")
    site.token = headers.partition("session=")[2].partition(";")[0]
    await visit.read_until(b"data: hello\n\n\r\n")
    handler = await opened(site)
    await is_told()
    handler.news.put_nowait("alive")
    await visit.read_until(b"data: alive\n\n\r\n")
    assert len(site.sessions.sockets) == 1
    await end_elsewhere(site)

    assert await visit.read_rest() == b""
    assert site.app.settings["ends"] == 1
    assert len(site.sessions.sockets) == 0


async def test_a_session_that_begins_with_the_stream_ends_it(
    site: Site, visit: Visit, late_checks: None
) -> None:
    """Behaviour 104: it is stored before the first byte."""

    class Handler(News):
        async def get(self) -> None:
            self.session.login("ada")
            await super().get()

    await visit.send(Handler)
    headers = await visit.read_until(b"\r\n\r\n")
    site.token = headers.partition("session=")[2].partition(";")[0]
    await end_elsewhere(site)

    assert (await visit.read_rest()).endswith(b"data: hello\n\n\r\n")


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_login_of_a_poll_whose_session_is_ended_meanwhile_is_answered(
    site: Site, visit: Visit, is_stored: bool
) -> None:
    """Behaviours 76, 104: it begins a new session."""

    class Handler(Poll):
        async def get(self) -> None:
            self.session.login("ada")
            if is_stored:
                site.vault.stop_before("save", 2)
                await self.session.save()
            else:
                await self.news.get()
            self.write("welcome")

    await site.begin(a=1)
    await visit.send(Handler)
    handler = await opened(site)
    if is_stored:
        await asyncio.wait_for(site.vault.arrived.wait(), 30)
    await end_elsewhere(site)
    await is_told()
    if is_stored:
        site.vault.resumed.set()
    handler.news.put_nowait("go")
    headers = await visit.read_until(b"welcome")
    site.token = headers.partition("session=")[2].partition(";")[0]

    assert (await site.sessions.load(site.token)).user == "ada"
    assert "ends" not in site.app.settings


# What is not cut, and what is forgotten.


async def test_a_response_that_is_finished_keeps_its_connection(
    site: Site, visit: Visit, late_checks: None
) -> None:
    """Behaviour 104: its session ended a moment before, and the next request came."""

    class Handler(Poll):
        async def get(self) -> None:
            await end_elsewhere(site)
            self.write("done")

    await site.begin(a=1)
    await visit.send(Handler)
    await visit.read_until(b"done")
    first = await opened(site)
    await visit.send(Poll)
    handler = await opened(site)
    assert handler is not first
    await is_told()
    handler.news.put_nowait("next")

    await visit.read_until(b"next")
    assert "ends" not in site.app.settings


async def test_a_request_that_waits_behind_a_stream_ends_with_its_connection(
    site: Site, visit: Visit, late_checks: None
) -> None:
    """Behaviour 104: the client has sent it without waiting, and sends it again."""
    await site.begin(a=1)
    await visit.send(News)
    await visit.send(Regenerate)
    await visit.read_until(b"data: hello\n\n\r\n")
    await end_elsewhere(site)

    assert await visit.read_rest() == b""
    assert len(site.sessions.sockets) == 0


async def test_a_handler_is_left_alone_unless_it_says_so(
    site: Site, visit: Visit, late_checks: None
) -> None:
    """Behaviour 104: such as a download."""

    class Handler(News):
        session_ends_stream = False

    await site.begin(a=1)
    await visit.send(Handler)
    await visit.read_until(b"data: hello\n\n\r\n")
    handler = await opened(site)
    assert len(site.sessions.sockets) == 0
    await end_elsewhere(site)
    await is_told()
    handler.news.put_nowait("alive")

    await visit.read_until(b"data: alive\n\n\r\n")


async def test_a_visitor_without_a_session_is_left_alone(
    site: Site, visit: Visit
) -> None:
    """Behaviour 104: nothing can end, and the store is not asked."""
    await visit.send(Poll)
    handler = await opened(site)
    assert len(site.sessions.sockets) == 0
    handler.news.put_nowait("news")

    await visit.read_until(b"news")
    assert site.vault.calls == []


async def test_a_handler_that_waits_after_its_client_hung_up_is_not_checked(
    site: Site, visit: Visit, late_checks: None
) -> None:
    """Behaviour 104: it may wait for days."""

    class Handler(News):
        def on_connection_close(self) -> None:
            SessionMixin.on_connection_close(self)

    await site.begin(a=1)
    await visit.send(Handler)
    await visit.read_until(b"data: hello\n\n\r\n")
    handler = await opened(site)
    assert len(site.sessions.sockets) == 1
    visit.close()

    await until(lambda: len(site.sessions.sockets) == 0)
    assert not site.sessions.sockets.is_waiting
    handler.news.put_nowait(None)
    await asyncio.wait_for(site.app.settings["over"].wait(), 30)


@pytest.mark.parametrize("calls_super", [True, False])
async def test_a_client_that_hangs_up_leaves_nothing(
    site: Site, visit: Visit, late_checks: None, calls_super: bool
) -> None:
    """Behaviour 104: also where the handler overrides what Tornado calls then."""
    gone = asyncio.Event()

    class Handler(News):
        async def get(self) -> None:
            weakref.finalize(self, gone.set)
            await super().get()

        def on_connection_close(self) -> None:
            if calls_super:
                super().on_connection_close()
            else:
                self.news.put_nowait(None)

    await site.begin(a=1)
    await visit.send(Handler)
    await visit.read_until(b"data: hello\n\n\r\n")
    assert len(site.sessions.sockets) == 1
    visit.close()
    await asyncio.wait_for(site.app.settings["over"].wait(), 30)
    assert len(site.sessions.sockets) == 0
    del site.app.settings["opened"]
    gc.collect()

    await asyncio.wait_for(gone.wait(), 30)


async def test_a_websocket_ends_as_any_other(site: Site, late_checks: None) -> None:
    """Behaviours 72, 104: a base class of all handlers may have the attribute."""

    class Handler(SessionMixin, WebSocketHandler):
        session_ends_stream = True

        def open(self, *args: str, **kwargs: str) -> None:
            pass

        def on_message(self, message: str | bytes) -> None:
            self.settings["heard"] = message

    await site.begin(a=1)
    url = site.base_url.replace("http", "ws") + site.path(Handler)
    headers = {"Cookie": f"session={site.token}"}
    socket = await websocket_connect(HTTPRequest(url, headers=headers))
    await socket.write_message("hello")
    await until(lambda: "heard" in site.app.settings)
    assert len(site.sessions.sockets) == 1
    await end_elsewhere(site)

    assert await asyncio.wait_for(cast(Any, socket.read_message()), 30) is None
    assert socket.close_code == 1008
    socket.close()


async def test_a_connection_that_was_handed_over_is_left_alone(
    site: Site, visit: Visit, late_checks: None
) -> None:
    """Behaviour 104: whoever has called detach() closes it."""

    class Handler(News):
        async def get(self) -> None:
            await self.flush()
            stream = self.detach()
            await self.news.get()
            await stream.write(b"mine")

    await site.begin(a=1)
    await visit.send(Handler)
    await visit.read_until(b"\r\n\r\n")
    handler = await opened(site)
    await end_elsewhere(site)
    await until(lambda: site.app.settings.get("ends") == 1)
    handler.news.put_nowait(None)

    await visit.read_until(b"mine")


# The idle timeout.


@pytest.mark.parametrize("extends", [True, False])
@with_settings(session_socket_interval=1)
async def test_a_poll_counts_as_use_when_it_begins(
    app: Application, site: Site, visit: Visit, extends: bool
) -> None:
    """Behaviours 47, 48, 104: so it does not end where the session would have."""

    class Handler(Poll):
        session_extends = extends

    with moved_clock(app) as clock:
        await site.begin(a=1)
        clock.move(hours=23)
        await visit.send(Handler)
        handler = await opened(site)
        clock.move(hours=2)
        if extends:
            await checked(site)
            handler.news.put_nowait("news")
            await visit.read_until(b"news")
        else:
            assert await visit.read_rest() == b""

        assert site.saves() == (1 if extends else 0)

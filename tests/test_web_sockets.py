"""Tests of `SessionMixin` beside `tornado.websocket.WebSocketHandler`."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.simple_httpclient import HTTPStreamClosedError
from tornado.websocket import (
    WebSocketHandler,
)

from tests.socket_sites import Closing, Site, Socket, ask, closed
from tornado_sessions import (
    BackendError,
    Session,
    SessionError,
    SessionGoneError,
    SessionMixin,
)

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]


@pytest.fixture
def site(socket_site: Site) -> Site:
    return socket_site


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
    heard: list[str | bytes] = []

    class Handler(Closing):
        async def on_message(self, message: str | bytes) -> None:
            heard.append(message)
            self.session.destroy()
            await self.session.save()

    await site.begin(a=1)
    socket = await site.connect(Handler)
    for message in ("log out", "late", "later"):
        await socket.write_message(message)

    assert await closed(socket) == 1008
    assert heard == ["log out"]


@pytest.mark.parametrize("keeps_alive", [False, True])
async def test_a_socket_is_not_heard_once_a_logout_elsewhere_is_stored(
    site: Site, late_checks: None, keeps_alive: bool
) -> None:
    """Behaviour 72: so not after its response, long before the socket is closed."""
    heard: list[str | bytes] = []

    class Handler(Closing):
        session_keep_alive = keeps_alive

        def on_message(self, message: str | bytes) -> None:
            heard.append(message)

    token = await site.begin(a=1)
    socket = await site.connect(Handler)
    handler = site.app.settings["opened"]
    session = await site.sessions.load(token)
    session.destroy()
    handler.on_message("in time")
    await session.save()
    # As Tornado does for each message, and nothing else has run in between.
    handler.on_message("late")

    assert heard == ["in time"]
    assert await closed(socket) == 1008


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

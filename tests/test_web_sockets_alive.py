"""Tests of a socket that keeps its session alive."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tornado.web import Application

from tests.socket_sites import Closing, Site, Socket, ask, closed
from tornado_sessions.core.values import state_of

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]


@pytest.fixture
def site(socket_site: Site) -> Site:
    return socket_site


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

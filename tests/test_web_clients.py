"""Tests of `SessionMixin` over HTTP: clients that hang up, and hostile ones."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import weakref
from typing import Any

import pytest

from tests.sites import (
    Read,
    Site,
    Write,
    cookies,
)
from tornado_sessions import SessionMixin

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]


# Two cookies of our name.


async def two(site: Site) -> dict[str, str]:
    """Returns the cookies of two sessions that are alive."""
    first, second = [await site.begin(n=0) for _ in range(2)]
    site.token = None
    return {"Cookie": f"session={first}; session={second}"}


@pytest.mark.parametrize("way", ["finish", "save", "transact", "login"])
async def test_a_write_with_two_cookies_is_answered_400(
    site: Site, errors: list[str], way: str
) -> None:
    """Behaviour 35: nothing is written, for nobody knows whose it is."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            if way == "transact":
                await self.session.transact(lambda session: session.update(a=1))
            elif way == "login":
                self.session.login("ada")
            else:
                self.session["a"] = 1
            if way == "save":
                await self.session.save()

    response = await site.fetch(Handler, headers=await two(site))

    assert (response.code, cookies(response)) == (400, [""])
    assert site.saves() == 0


async def test_two_cookies_and_an_error_page_that_writes_come_to_an_end(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 35: the answer to a refused write is not refused for ever."""
    pages = []

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            pages.append(status_code)
            if len(pages) < 100:
                self.session.flash("Something went wrong.")
            self.finish("sorry")

    response = await site.fetch(Handler, headers=await two(site))

    assert response.code == 400
    assert pages == [400]


async def test_the_same_cookie_twice_is_one(site: Site) -> None:
    """Behaviour 35: only different values are in doubt."""
    token = await site.begin(a=1)
    site.token = None
    cookie = f"session={token}; session={token}"
    response = await site.fetch(Read, headers={"Cookie": cookie})

    assert json.loads(response.body) == {"a": 1}


# The client hangs up.


@pytest.mark.parametrize("when", ["sleeping", "streaming", "committing"])
async def test_a_client_that_hangs_up_leaves_no_error(
    site: Site, http_port: int, when: str
) -> None:
    """Behaviour 34: and what it wrote before is saved."""
    asleep, closed, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            if when == "streaming":
                self.write("a")
                self.flush()
            if when == "committing":
                site.vault.stop_before("save")
                self.finish("b")
                await site.vault.arrived.wait()
            asleep.set()
            await closed.wait()
            if when == "committing":
                site.vault.resumed.set()
            else:
                self.write("b")

        def on_connection_close(self) -> None:
            closed.set()

        def on_finish(self) -> None:
            over.set()

    token = await site.begin(n=0)
    request = (
        f"GET {site.path(Handler)} HTTP/1.1\r\nHost: localhost\r\n"
        f"Cookie: session={token}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("localhost", http_port)
    writer.write(request.encode())
    await asyncio.wait_for(asleep.wait(), 30)
    writer.close()
    await asyncio.wait_for(over.wait(), 30)
    await asyncio.sleep(0)
    gc.collect()

    assert await site.stored() == {"n": 0, "a": 1}


async def test_a_handler_whose_client_hung_up_is_gone_at_once(
    site: Site, http_port: int
) -> None:
    """Nothing refers to it in a circle, so it waits for no garbage collection."""
    asleep, closed, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Handler(SessionMixin):
        async def get(self) -> None:
            weakref.finalize(self, gone.set)
            self.session["a"] = 1
            asleep.set()
            await closed.wait()

        def on_connection_close(self) -> None:
            closed.set()

    gc.disable()
    try:
        _, writer = await asyncio.open_connection("localhost", http_port)
        request = f"GET {site.path(Handler)} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        writer.write(request.encode())
        await asyncio.wait_for(asleep.wait(), 30)
        writer.close()
        await asyncio.wait_for(gone.wait(), 30)
    finally:
        gc.enable()


async def test_a_client_that_takes_nothing_does_not_hold_up_the_end(
    site: Site, http_port: int
) -> None:
    """What is waited for is that everything is saved."""
    begun = asyncio.Event()

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.write(b"a" * 2**24)
            begun.set()

    with socket.socket() as client:
        # So that neither side has room for all of it.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", http_port))
        request = f"GET {site.path(Handler)} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        await loop.sock_sendall(client, request.encode())
        await asyncio.wait_for(begun.wait(), 30)
        await asyncio.wait_for(site.sessions.close(), 30)

        assert site.saves() == 1


# Hostile clients.


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "x" * 43,
        "x" * 42 + "B",
        "../" * 14 + "A",
        '"' + "A" * 43 + '"',
        "A" * 43 + "\xa0",
        "' OR 1=1 --",
        "{$ne: null}",
        "\xff" * 43,
        "A" * 60_000,
    ],
    ids=lambda token: repr(token[:12]),
)
async def test_a_malformed_cookie_is_no_session(site: Site, token: str) -> None:
    """Behaviours 1, 3, 4: it is answered as no cookie is, and nothing is stored."""
    response = await site.fetch(Read, headers={"Cookie": f"session={token}"})

    assert (response.code, json.loads(response.body)) == (200, {})
    assert cookies(response) == []


async def test_a_token_of_the_clients_choice_is_not_adopted(site: Site) -> None:
    """Behaviour 1: what is written goes under a fresh one."""
    planted = site.token = "A" * 43
    await site.fetch(Write)

    assert site.token != planted
    assert await site.stored(planted) is None


async def test_thousands_of_cookies_are_read_in_time(site: Site) -> None:
    """Behaviour 55: of other names, and of ours in other cases."""
    token, site.token = await site.begin(a=1), None
    names = ("Session", "xsession", "session2", "_session", "=session")
    many = "; ".join(f"{name}={n}" for n in range(700) for name in names)
    response = await site.fetch(
        Read, headers={"Cookie": f"{many}; session={token}; session ={token}x"}
    )

    assert json.loads(response.body) == {"a": 1}


async def test_nothing_of_one_request_is_seen_in_another(site: Site) -> None:
    """Behaviour 41: a value is not shared, whoever holds on to it."""
    kept: list[Any] = []

    class Handler(SessionMixin):
        def get(self) -> None:
            cart = self.session["cart"]
            cart.append(len(kept))
            kept.append(cart)

    await site.begin(cart=[])
    await site.fetch(Handler)
    kept[0].append("planted")
    await site.fetch(Handler)

    assert await site.stored() == {"cart": [0, 1]}


async def test_a_session_still_works_after_its_response(site: Site) -> None:
    """What a background task saves is saved; a new session is refused."""
    left: list[Any] = []

    class Handler(SessionMixin):
        def get(self) -> None:
            left.append(self.session)

    await site.begin(a=1)
    await site.fetch(Handler)
    left[0]["b"] = 2
    await left[0].save()

    assert await site.stored() == {"a": 1, "b": 2}

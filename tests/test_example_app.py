"""Tests of the shop: over HTTP, on each backend that needs no server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import html
import json
import os
import re
import signal
import socket
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from tornado.httpclient import (
    AsyncHTTPClient,
    HTTPClientError,
    HTTPRequest,
    HTTPResponse,
)
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.testing import bind_unused_port
from tornado.web import Application
from tornado.websocket import WebSocketClientConnection, websocket_connect

from example_app.__main__ import read_secret
from example_app.accounts import AT_ONCE, WAITING, Accounts
from example_app.app import get_sessions, make_app
from example_app.base import RECENT
from example_app.cart import MOST
from example_app.catalogue import PRODUCTS, money
from example_app.devices import describe
from example_app.guesses import MOST as MOST_COUNTED
from example_app.guesses import (
    TRIES,
    TRIES_OF_ADDRESS,
    TRIES_OF_NAME,
    WINDOW,
    Guesses,
)
from example_app.live import NO_SESSION, Tabs
from example_app.times import duration
from tornado_sessions import Sessions

pytestmark = pytest.mark.gen_test(timeout=60)

ROOT = Path(__file__).parent.parent

SECRET = "a secret of the tests, 32 bytes or more"

ADA = {"name": "ada", "password": "lovelace"}

PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Safari/604.1"

# For what has nothing to do with where sessions are kept.
one_backend = pytest.mark.parametrize("backend", ["memory"], indirect=True)

# A cookie is not there for two requests to meet in.
merging_backends = pytest.mark.parametrize(
    "backend", ["sqlite", "memory"], indirect=True
)


@dataclass(frozen=True)
class Page:
    code: int
    path: str
    body: str

    @property
    def text(self) -> str:
        """What a reader sees, in one line."""
        text = re.sub(r"<[^>]*>", " ", self.body)
        return " ".join(html.unescape(text).split())


class Visitor:
    """A browser without JavaScript: keeps cookies, and goes where it is sent."""

    def __init__(
        self, client: AsyncHTTPClient, base_url: str, user_agent: str = ""
    ) -> None:
        self.client = client
        self.base_url = base_url
        self.user_agent = user_agent
        self.cookies: dict[str, str] = {}

    async def get(self, path: str) -> Page:
        return await self.follow(await self.fetch(path))

    async def post(self, path: str, **fields: object) -> Page:
        return await self.follow(await self.submit(path, **fields))

    async def submit(self, path: str, **fields: object) -> HTTPResponse:
        return await self.fetch(path, urlencode(await self.fill(**fields)))

    async def fill(self, **fields: object) -> dict[str, object]:
        """Returns the fields of a form, with the token that all forms have."""
        page = await self.fetch("/login")
        token = re.search(r'name="_xsrf" value="([^"]+)"', page.body.decode())
        assert token is not None
        return fields | {"_xsrf": token[1]}

    async def sign_up(self, next_path: str = "/", **fields: object) -> Page:
        return await self.post("/signup", **ADA, next=next_path, **fields)

    async def open_tab(self) -> WebSocketClientConnection:
        url = self.base_url.replace("http", "ws", 1) + "/tab"
        return await websocket_connect(HTTPRequest(url, headers=self.headers))

    @property
    def headers(self) -> dict[str, str]:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {"User-Agent": self.user_agent}
        return headers | {"Cookie": cookies} if cookies else headers

    async def fetch(
        self, path: str, body: str | None = None, **headers: str
    ) -> HTTPResponse:
        response = await self.client.fetch(
            self.base_url + path,
            method="GET" if body is None else "POST",
            body=body,
            headers=self.headers | headers,
            follow_redirects=False,
            raise_error=False,
        )
        for line in response.headers.get_list("Set-Cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            if value and "Max-Age=0" not in line:
                self.cookies[name] = value
            else:
                self.cookies.pop(name, None)
        return response

    async def follow(self, response: HTTPResponse) -> Page:
        while response.code in (302, 303):
            response = await self.fetch(response.headers["Location"])
        parts = urlsplit(response.effective_url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        return Page(response.code, path, response.body.decode())


@pytest.fixture(params=["sqlite", "memory", "cookie"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def app(io_loop: IOLoop, backend: str, tmp_path: Path) -> Iterator[Application]:
    app = open_app(backend, tmp_path)
    io_loop.add_callback(app.settings["tabs"].listen)
    yield app
    io_loop.run_sync(lambda: close(app))


# Naming the application here lets pytest see that it comes in three kinds:
# `http_client` asks for it too late.
@pytest.fixture
def visitor(app: Application, http_client: AsyncHTTPClient, base_url: str) -> Visitor:
    return Visitor(http_client, base_url)


def session_lines(response: HTTPResponse) -> list[str]:
    lines = response.headers.get_list("Set-Cookie")
    return [line for line in lines if line.startswith("session=")]


def backend_url(backend: str, folder: Path) -> str:
    return f"sqlite:///{folder}/shop.db" if backend == "sqlite" else f"{backend}:"


def open_app(backend: str, folder: Path) -> Application:
    accounts = Accounts(str(folder / "accounts.db"))
    return make_app(backend_url(backend, folder), SECRET, accounts, Tabs())


async def close(app: Application) -> None:
    app.settings["tabs"].close()
    for sessions in get_sessions(app):
        await sessions.close()


async def test_the_catalogue_shows_a_dozen_products(visitor: Visitor) -> None:
    """Each product is a link with a price and a button."""
    page = await visitor.get("/")

    assert page.code == 200
    assert page.body.count("<h3>") == 12
    assert page.text.count("€") == 12
    assert "Storm umbrella Turns inside out, and back. €39.00" in page.text


@one_backend
async def test_every_product_has_a_page(visitor: Visitor) -> None:
    """Whatever the catalogue links to is there."""
    catalogue = await visitor.get("/")
    paths = re.findall(r'<h3><a href="([^"]+)"', catalogue.body)

    pages = [await visitor.get(path) for path in paths]

    assert [page.code for page in pages] == [200] * 12


async def test_looking_around_leaves_no_session(visitor: Visitor) -> None:
    """A visitor who puts nothing in the cart gets no cookie of a session."""
    for path in ("/", "/product/kite", "/cart", "/login"):
        await visitor.get(path)

    assert set(visitor.cookies) == {"_xsrf"}


async def test_an_added_product_is_in_the_cart(visitor: Visitor) -> None:
    """Adding leads to the cart, which says so once and counts in the header."""
    page = await visitor.post("/product/kite", quantity=3)

    assert page.path == "/cart"
    assert "Box kite: added to your cart." in page.text
    assert "Cart 3 products" in page.text
    assert "Total €56.85" in page.text
    assert "added to your cart" not in (await visitor.get("/cart")).text


async def test_adding_again_adds_to_what_is_there(visitor: Visitor) -> None:
    """Quantities of one product add up, and totals run over all products."""
    await visitor.post("/product/kite")
    await visitor.post("/product/umbrella", quantity=2)
    page = await visitor.post("/product/kite")

    assert "Cart 4 products" in page.text
    assert "Total €115.90" in page.text


async def test_a_quantity_can_be_changed(visitor: Visitor) -> None:
    """The number that was entered replaces the old one."""
    await visitor.post("/product/kite", quantity=3)
    page = await visitor.post("/cart", product="kite", quantity=7)

    assert "Cart 7 products" in page.text
    assert "Total €132.65" in page.text


async def test_a_product_can_be_removed(visitor: Visitor) -> None:
    """A quantity of 0 takes one product out and leaves the other."""
    await visitor.post("/product/kite")
    await visitor.post("/product/umbrella")
    page = await visitor.post("/cart", product="kite", quantity=0)

    assert "Box kite: removed." in page.text
    assert "Cart 1 products" in page.text
    assert "Total €39.00" in page.text


async def test_an_empty_cart_says_so(visitor: Visitor) -> None:
    """With the last product gone there is no total, and no way to check out."""
    await visitor.post("/product/kite")
    page = await visitor.post("/cart", product="kite", quantity=0)

    assert "There is nothing in it yet." in page.text
    assert "Total" not in page.text
    assert "/checkout" not in page.body


@one_backend
@pytest.mark.parametrize("quantity", ["", "-1", "100", "1.5", "many", "٣"])
async def test_a_quantity_that_is_none_is_refused(
    visitor: Visitor, quantity: str
) -> None:
    """What the form would not let through gets a 400 and changes nothing."""
    await visitor.post("/product/kite")
    page = await visitor.post("/cart", product="kite", quantity=quantity)

    assert page.code == 400
    assert "Cart 1 products" in (await visitor.get("/cart")).text


async def test_two_visitors_have_two_carts(visitor: Visitor) -> None:
    """Nobody sees what somebody else has put in their cart."""
    other = Visitor(visitor.client, visitor.base_url)
    await visitor.post("/product/kite")
    await other.post("/product/lantern")

    assert "Box kite" in (await visitor.get("/cart")).text
    assert "Cellar lantern" not in (await visitor.get("/cart")).text
    assert "Cellar lantern" in (await other.get("/cart")).text
    assert "Box kite" not in (await other.get("/cart")).text


@merging_backends
async def test_two_clicks_at_once_add_two(visitor: Visitor) -> None:
    """Behaviour 37: no click is lost, though each depends on what is there."""
    await visitor.post("/product/kite")

    await asyncio.gather(*(visitor.submit("/product/kite") for _ in range(10)))

    assert "Cart 11 products" in (await visitor.get("/cart")).text


@merging_backends
async def test_products_added_at_once_are_all_in_the_cart(
    visitor: Visitor,
) -> None:
    """Behaviour 36: changes of one cart from several tabs are merged."""
    slugs = ["kite", "umbrella", "lantern", "blanket", "notebook"]
    await visitor.post("/product/barometer")

    await asyncio.gather(
        *(visitor.submit("/cart", product=slug, quantity=2) for slug in slugs)
    )

    assert "Cart 11 products" in (await visitor.get("/cart")).text


async def test_signing_in_keeps_the_cart_and_changes_the_cookie(
    visitor: Visitor,
) -> None:
    """Behaviour 9: the visitor's values stay, under another token."""
    await visitor.post("/product/kite", quantity=2)
    before = visitor.cookies["session"]
    page = await visitor.sign_up()

    assert "Welcome, ada." in page.text
    assert "Cart 2 products" in page.text
    assert visitor.cookies["session"] != before


@one_backend
async def test_a_wrong_password_signs_nobody_in(visitor: Visitor) -> None:
    """The page comes back with the name, and without a word on which was wrong."""
    await visitor.sign_up()
    await visitor.post("/logout")
    page = await visitor.post("/login", name="ada", password="byron")
    unknown = await visitor.post("/login", name="byron", password="lovelace")

    assert page.code == unknown.code == 403
    assert 'value="ada"' in page.body
    assert "That name and password do not go together." in page.text
    assert "That name and password do not go together." in unknown.text
    assert "Sign out" not in (await visitor.get("/")).text


async def test_signing_out_empties_the_cart(visitor: Visitor, backend: str) -> None:
    """Behaviours 42, 44: the cookie goes, and a copy of it is worth nothing."""
    await visitor.post("/product/kite")
    await visitor.sign_up()
    stolen = visitor.cookies["session"]
    page = await visitor.post("/logout")

    assert "Sign in" in page.text
    assert "session" not in visitor.cookies
    assert "nothing in it yet" in (await visitor.get("/cart")).text
    if backend != "cookie":
        visitor.cookies["session"] = stolen
        assert "nothing in it yet" in (await visitor.get("/cart")).text


async def test_pages_for_somebody_are_not_kept(visitor: Visitor) -> None:
    """Who goes back in the browser after signing out finds nothing."""
    await visitor.post("/product/kite")
    # There is no form in it, whose token would forbid that as well.
    before = await visitor.fetch("/news")
    await visitor.sign_up()
    await visitor.get("/")
    after = await visitor.fetch("/news")

    assert "Cache-Control" not in before.headers
    assert after.headers["Cache-Control"] == "no-store"


async def test_checkout_asks_to_sign_in_and_goes_on(visitor: Visitor) -> None:
    """Who is sent to the sign-in page comes back to the checkout after it."""
    await visitor.post("/product/kite", quantity=2)
    page = await visitor.get("/checkout")

    assert page.path == "/login?next=%2Fcheckout"
    assert 'name="next" value="/checkout"' in page.body

    page = await visitor.sign_up("/checkout")

    assert page.path == "/checkout"
    assert "Total €37.90" in page.text


@one_backend
@pytest.mark.parametrize(
    "path",
    [
        "https://example.com/",
        "//example.com/",
        "/\\example.com/",
        "/\t/example.com/",
        "example.com",
        "javascript:alert(1)",
        "",
    ],
)
async def test_signing_in_never_leads_to_another_site(
    visitor: Visitor, path: str
) -> None:
    """A link to the sign-in page cannot name a place outside of the shop."""
    response = await visitor.submit("/signup", **ADA, next=path)

    assert response.code == 302
    assert response.headers["Location"] == "/"


async def test_checkout_of_nothing_leads_to_the_cart(visitor: Visitor) -> None:
    """There is no order without a product."""
    await visitor.sign_up()

    assert (await visitor.get("/checkout")).path == "/cart"
    assert (await visitor.post("/checkout")).path == "/"


async def test_an_order_empties_the_cart_and_is_remembered(visitor: Visitor) -> None:
    """The order has a number, the lines and the total, also when asked again."""
    await visitor.post("/product/kite", quantity=2)
    await visitor.post("/product/tea-flask")
    await visitor.sign_up()
    page = await visitor.post("/checkout")

    number = re.search(r"Your order is [0-9A-F]{8} \.", page.text)

    assert page.path == "/order"
    assert number is not None
    assert "Box kite 2 €37.90" in page.text
    assert "Total €62.89" in page.text
    assert number[0] in (await visitor.get("/order")).text
    assert "nothing in it yet" in (await visitor.get("/cart")).text


@merging_backends
async def test_ordering_twice_orders_once(visitor: Visitor) -> None:
    """Of several clicks at once all but one find the cart empty."""
    await visitor.post("/product/kite", quantity=2)
    await visitor.sign_up()
    form = urlencode(await visitor.fill())
    await asyncio.gather(*(visitor.fetch("/checkout", form) for _ in range(8)))
    page = await visitor.get("/order")

    assert page.text.count("Your order is placed.") == 1
    assert "Total €37.90" in page.text


async def test_an_order_needs_somebody_who_is_signed_in(visitor: Visitor) -> None:
    """A form that is sent without signing in is refused, and the cart stays."""
    await visitor.post("/product/kite")
    page = await visitor.post("/checkout")

    assert page.code == 403
    assert "Cart 1 products" in (await visitor.get("/")).text


async def test_a_form_without_its_token_gets_an_error_page(visitor: Visitor) -> None:
    """The page can be shown though there is no session yet to show it with."""
    await visitor.post("/product/kite")
    response = await visitor.fetch("/product/kite", "quantity=1")

    assert response.code == 403
    assert "403 Forbidden" in Page(403, "", response.body.decode()).text
    assert "Cart 1 products" in (await visitor.get("/cart")).text


async def test_a_form_from_before_a_sign_in_is_refused_after_it(
    visitor: Visitor,
) -> None:
    """A planted token gives no access."""
    await visitor.post("/product/kite")
    planted = urlencode(await visitor.fill(quantity=1))
    await visitor.sign_up()
    response = await visitor.fetch("/product/kite", planted)

    assert response.code == 403
    assert "Cart 1 products" in (await visitor.get("/cart")).text


@one_backend
@pytest.mark.parametrize("path", ["/nowhere", "/product/hail", "/product/"])
async def test_what_is_not_there_gets_an_error_page(
    visitor: Visitor, path: str
) -> None:
    """A 404 looks like a page of the shop."""
    page = await visitor.get(path)

    assert page.code == 404
    assert "404 Not Found" in page.text


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
async def test_a_store_that_fails_gets_an_error_page(
    visitor: Visitor, tmp_path: Path
) -> None:
    """Behaviours 30, 31: a product that was not stored is not said to be."""
    (tmp_path / "shop.db").mkdir()
    page = await visitor.post("/product/kite")

    assert page.code == 503
    assert "please try again in a moment" in page.text
    assert "session" not in visitor.cookies
    assert (await visitor.get("/")).code == 200


@one_backend
async def test_a_name_belongs_to_one_account(visitor: Visitor) -> None:
    """Whoever signs up with a name that is taken, in any case, does not get in."""
    await visitor.sign_up()
    other = Visitor(visitor.client, visitor.base_url)
    page = await other.post("/signup", name="Ada", password="another one")

    assert page.code == 403
    assert (
        "That name and password do not go together, or the name is taken." in page.text
    )
    assert "Sign out" not in (await other.get("/")).text


@one_backend
async def test_signing_up_again_with_the_password_signs_in(visitor: Visitor) -> None:
    """Who has forgotten that they have an account is let in, and told nothing else."""
    first = await visitor.sign_up()
    other = Visitor(visitor.client, visitor.base_url)
    again = await other.sign_up()

    assert "Welcome, ada." in first.text
    assert again.text == first.text


@one_backend
async def test_a_name_that_is_taken_costs_as_much_as_one_that_is_free(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sign-up and each sign-in computes one hash, whoever has an account."""
    hashes = 0

    def count(*args: Any, **kwargs: Any) -> bytes:
        nonlocal hashes
        hashes += 1
        return scrypt(*args, **kwargs)

    scrypt = hashlib.scrypt
    monkeypatch.setattr(hashlib, "scrypt", count)
    counts = []
    for path, name, password in [
        ("/signup", "ada", "lovelace"),
        ("/signup", "ada", "another one"),
        ("/signup", "ada", "lovelace"),
        ("/login", "ada", "another one"),
        ("/login", "byron", "another one"),
    ]:
        before = hashes
        await visitor.submit(path, name=name, password=password)
        counts.append(hashes - before)

    assert counts == [1] * 5


async def test_of_two_accounts_of_one_name_at_once_one_is_made(tmp_path: Path) -> None:
    """The second of two clicks signs in, and somebody else does not."""
    accounts = Accounts(str(tmp_path / "accounts.db"))
    right = await asyncio.gather(*(accounts.create("ada", "lovelace") for _ in "12"))
    two = [accounts.create("byron", password) for password in ("childe", "harold")]

    assert right == [True, True]
    assert sorted(await asyncio.gather(*two)) == [False, True]


@dataclass
class Clock:
    time: float = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock(app: Application) -> Clock:
    """Returns the clock of the limit on password attempts."""
    clock = app.settings["guesses"].seconds = Clock()
    return clock


WRONG = {"name": "ada", "password": "wrong"}


@one_backend
@pytest.mark.parametrize("path", ["/login", "/signup"])
async def test_guessing_a_password_is_slowed_down(
    visitor: Visitor, clock: Clock, path: str
) -> None:
    """After five tries even the right one waits, and the page says how long."""
    other = Visitor(visitor.client, visitor.base_url)
    await visitor.sign_up()
    wrong = ADA | {"password": "another one"}
    codes = [(await other.submit(path, **wrong)).code for _ in range(TRIES)]
    clock.time = 60
    response = await other.submit(path, **ADA)
    page = await other.follow(response)

    assert codes == [403] * TRIES
    assert response.code == 429
    assert response.headers["Retry-After"] == str(WINDOW - 60)
    assert "Too many tries. You can try again in 14 minutes." in page.text
    assert 'name="name" value="ada"' in page.body
    assert session_lines(response) == []

    clock.time = WINDOW
    assert (await other.submit(path, **ADA)).code == 302


@one_backend
async def test_tries_at_the_sign_up_count_at_the_sign_in(
    visitor: Visitor, clock: Clock
) -> None:
    """Either page says whether a password is right."""
    await visitor.sign_up()
    other = Visitor(visitor.client, visitor.base_url)
    for number in range(TRIES):
        await other.submit(
            ("/login", "/signup")[number % 2], name="ada", password="another one"
        )

    assert (await other.submit("/login", **ADA)).code == 429
    assert (await other.submit("/signup", **ADA)).code == 429


@one_backend
async def test_tries_at_once_are_no_more_than_one_by_one(
    visitor: Visitor, clock: Clock
) -> None:
    """A try counts from its beginning, and not when it was found to be wrong."""
    form = urlencode(await visitor.fill(**WRONG))
    tries = [visitor.fetch("/login", form) for _ in range(TRIES + 4)]
    codes = [response.code for response in await asyncio.gather(*tries)]

    assert sorted(codes) == [403] * TRIES + [429] * 4


@one_backend
async def test_names_without_an_account_are_slowed_down_alike(
    visitor: Visitor, clock: Clock
) -> None:
    """The response does not show who has an account."""
    codes = [(await visitor.submit("/login", **WRONG)).code for _ in range(TRIES + 1)]

    assert codes == [403] * TRIES + [429]


@one_backend
async def test_a_sign_in_forgets_the_tries_before_it(
    visitor: Visitor, clock: Clock
) -> None:
    """Occasional typing errors never reach the limit."""
    await visitor.sign_up()
    for _ in range(3):
        for _ in range(TRIES - 1):
            await visitor.submit("/login", **WRONG)
        assert (await visitor.submit("/login", **ADA)).code == 302


@one_backend
async def test_other_names_are_not_slowed_down(visitor: Visitor, clock: Clock) -> None:
    """Somebody else at the same address signs in meanwhile."""
    await visitor.post("/signup", name="byron", password="lovelace")
    for _ in range(TRIES + 1):
        await visitor.submit("/login", **WRONG)

    assert (
        await visitor.submit("/login", name="byron", password="lovelace")
    ).code == 302


@one_backend
async def test_what_is_no_name_is_no_guess(
    visitor: Visitor, app: Application, clock: Clock
) -> None:
    """It is refused like any other, and takes no memory."""
    for _ in range(TRIES + 1):
        page = await visitor.post("/login", name="a" * 1000, password="lovelace")

        assert page.code == 403
        assert "That name and password do not go together." in page.text
    assert len(app.settings["guesses"]) == 0


def tries(guesses: Guesses, name: str, address: str, number: int) -> list[int]:
    return [guesses.take(name, address) for _ in range(number)]


def make_guesses() -> tuple[Guesses, Clock]:
    guesses = Guesses()
    clock = guesses.seconds = Clock()
    return guesses, clock


async def test_a_stranger_does_not_keep_the_owner_out() -> None:
    """Nor do many strangers, where the owner has signed in before."""
    guesses, _ = make_guesses()
    guesses.take("ada", "192.0.2.1")
    guesses.succeed("ada", "192.0.2.1")
    strangers = [f"198.51.100.{number}" for number in range(100)]
    waits = [guesses.take("ada", stranger) for stranger in strangers]

    assert waits.count(0) == TRIES_OF_NAME - 1
    assert guesses.take("ada", "192.0.2.1") == 0
    assert guesses.take("ada", "203.0.113.1") == WINDOW


async def test_a_name_has_few_tries_from_all_addresses_together() -> None:
    """And they are over with the window: nobody is kept out for ever."""
    guesses, clock = make_guesses()
    addresses = [f"198.51.100.{number}" for number in range(TRIES_OF_NAME + 5)]
    waits = [guesses.take("ada", address) for address in addresses]
    clock.time = WINDOW

    assert waits == [0] * TRIES_OF_NAME + [WINDOW] * 5
    assert guesses.take("ada", addresses[-1]) == 0


async def test_an_address_has_few_tries_at_all_names_together() -> None:
    """Nobody tries one password at all names, nor asks which are taken."""
    guesses, _ = make_guesses()
    waits = []
    for number in range(TRIES_OF_ADDRESS + 5):
        waits.append(guesses.take(f"name-{number}", "192.0.2.1"))
        guesses.succeed(f"name-{number}", "192.0.2.1")

    assert waits == [0] * TRIES_OF_ADDRESS + [WINDOW] * 5


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::", "2001:db8:0:2::1"),
    ],
)
async def test_what_one_customer_has_is_one_address(
    address: str, same: str, other: str
) -> None:
    """Of IPv6 that is a network of 2^64 addresses."""
    guesses, _ = make_guesses()

    assert tries(guesses, "ada", address, TRIES) == [0] * TRIES
    assert guesses.take("ada", same) == WINDOW
    assert guesses.take("ada", other) == 0


async def test_tries_are_counted_in_bounded_memory() -> None:
    """The oldest go first, where all are of the same window too."""
    guesses, clock = make_guesses()
    for number in range(2 * MOST_COUNTED):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        guesses.take(f"name-{number}", address)
        guesses.succeed(f"name-{number}", "192.0.2.1")

    assert 2 * MOST_COUNTED <= len(guesses) <= 2 * MOST_COUNTED + 2

    # The three that the next try begins, and the addresses that are known.
    clock.time = WINDOW
    guesses.take("ada", "192.0.2.1")

    assert len(guesses) == 3 + MOST_COUNTED


@one_backend
@pytest.mark.parametrize("path", ["/login", "/signup"])
async def test_passwords_beyond_the_queue_are_refused_at_once(
    visitor: Visitor, app: Application, clock: Clock, path: str
) -> None:
    """Nobody waits behind a thousand guesses, and the try is not counted."""
    await visitor.post("/product/kite")
    form = urlencode(await visitor.fill(**ADA))
    accounts, gate = app.settings["accounts"], threading.Event()
    slow = [
        asyncio.ensure_future(accounts.run(gate.wait)) for _ in range(AT_ONCE + WAITING)
    ]
    try:
        await asyncio.sleep(0)
        responses = [await visitor.fetch(path, form) for _ in range(TRIES + 1)]
        page = await visitor.follow(responses[-1])
        cart = await visitor.get("/cart")
    finally:
        gate.set()
        await asyncio.gather(*slow)
    later = await visitor.submit("/signup", **ADA)

    assert [response.code for response in responses] == [503] * (TRIES + 1)
    assert responses[0].headers["Retry-After"] == "2"
    assert "Many people are signing in just now." in page.text
    assert "Cart 1 products" in cart.text
    assert later.code == 302


@one_backend
@pytest.mark.parametrize("name", ["", "a", "1st", "a b", "<b>", "a" * 31, "ädä"])
async def test_a_name_that_is_none_is_refused(visitor: Visitor, name: str) -> None:
    """The form comes back with what was entered, and says what a name is."""
    page = await visitor.post("/signup", name=name, password="lovelace")

    assert page.code == 400
    assert "A name has 2 to 30 letters and digits" in page.text
    assert f'name="name" value="{html.escape(name)}"' in page.body


@one_backend
async def test_a_short_password_is_refused(visitor: Visitor) -> None:
    """The eighth character makes it long enough."""
    page = await visitor.post("/signup", name="ada", password="1234567")

    assert page.code == 400
    assert "A password has 8 characters or more." in page.text
    assert (await visitor.post("/signup", name="ada", password="12345678")).code == 200


@one_backend
async def test_signing_in_again_finds_the_account(visitor: Visitor) -> None:
    """Who has signed out gets in with the same name, in any case, and password."""
    await visitor.sign_up()
    await visitor.post("/logout")
    page = await visitor.post("/login", name="ADA", password="lovelace")

    assert "Welcome, ada." in page.text


async def test_remember_me_outlives_the_browser(visitor: Visitor) -> None:
    """Behaviours 50, 51: the cookie carries the age that the visitor asked for."""
    response = await visitor.submit("/signup", **ADA, remember="yes")
    (line,) = session_lines(response)

    assert "; Max-Age=2592000" in line
    assert "Outlives the browser yes" in (await visitor.get("/session")).text


async def test_without_remember_me_the_cookie_ends_with_the_browser(
    visitor: Visitor,
) -> None:
    """Behaviour 51: it carries no age."""
    (line,) = session_lines(await visitor.submit("/signup", **ADA))

    assert "Max-Age" not in line
    assert "Outlives the browser no" in (await visitor.get("/session")).text


async def test_two_accounts_of_one_password_have_two_hashes(tmp_path: Path) -> None:
    """Each has a salt of its own, and no password is in the file."""
    path = tmp_path / "accounts.db"
    accounts = Accounts(str(path))
    await accounts.create("ada", "lovelace")
    await accounts.create("byron", "lovelace")
    with contextlib.closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT salt, hash FROM accounts").fetchall()

    assert len({part for row in rows for part in row}) == 4
    assert b"lovelace" not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_an_account_outlives_the_application(tmp_path: Path) -> None:
    """Who opens the file again finds who has signed up."""
    path = str(tmp_path / "accounts.db")
    assert await Accounts(path).create("ada", "lovelace")
    accounts = Accounts(path)

    assert await accounts.check("ada", "lovelace")
    assert not await accounts.check("ada", "byron")
    assert not await accounts.create("ada", "byron")
    assert await accounts.create("ada", "lovelace")


async def test_a_script_gets_numbers_in_place_of_a_page(visitor: Visitor) -> None:
    """What is added with JavaScript is told at once, and leaves no message."""
    await visitor.post("/product/kite")
    body = urlencode(await visitor.fill(quantity=2))
    response = await visitor.fetch("/product/kite", body, Accept="application/json")

    assert json.loads(response.body) == {
        "quantity": 3,
        "text": "Box kite: added to your cart.",
    }
    assert "added" not in (await visitor.get("/cart")).text


async def test_news_are_the_user_and_the_number_of_products(visitor: Visitor) -> None:
    """A page asks for them when it has heard that something changed."""
    nothing = await visitor.fetch("/news")
    await visitor.post("/product/kite", quantity=4)
    await visitor.sign_up()

    assert json.loads(nothing.body) == {"user": None, "quantity": 0}
    assert json.loads((await visitor.fetch("/news")).body) == {
        "user": "ada",
        "quantity": 4,
    }


async def test_a_tab_hears_of_what_another_one_does(visitor: Visitor) -> None:
    """Of every change to the cart, and of signing out."""
    await visitor.post("/product/kite")
    tab = await visitor.open_tab()
    heard = [await tab.read_message()]
    for path, fields in [
        ("/product/kite", {}),
        ("/cart", {"product": "kite", "quantity": 9}),
        ("/logout", {}),
    ]:
        await visitor.post(path, **fields)
        heard.append(await tab.read_message())
    tab.close()

    assert heard == ["news"] * 4


@one_backend
async def test_a_tab_hears_nothing_of_other_visitors(visitor: Visitor) -> None:
    """The next that it hears is of its own visitor."""
    other = Visitor(visitor.client, visitor.base_url)
    await visitor.post("/product/kite")
    await other.post("/product/kite")
    tab, others_tab = await visitor.open_tab(), await other.open_tab()
    await tab.read_message()
    await others_tab.read_message()

    await other.post("/product/kite")
    assert await others_tab.read_message() == "news"
    tab.close()
    others_tab.close()

    assert await tab.read_message() is None


async def test_a_tab_without_a_session_is_told_so(visitor: Visitor) -> None:
    """Its line is closed with a code of the shop's own."""
    tab = await visitor.open_tab()

    assert await tab.read_message() is None
    assert tab.close_code == NO_SESSION
    tab.close()


listing_backends = pytest.mark.parametrize(
    "backend", ["sqlite", "memory"], indirect=True
)


@listing_backends
async def test_the_devices_page_shows_where_one_is_signed_in(visitor: Visitor) -> None:
    """Every session of the account is there, and this one is marked."""
    await visitor.sign_up()
    other = Visitor(visitor.client, visitor.base_url, PHONE)
    await other.post("/login", **ADA, remember="yes")
    page = await visitor.get("/devices")

    assert re.search(
        r"Safari on iPhone Used \d seconds? ago\."
        r" Signed in \d seconds? ago, and remembered\. Sign out"
        r" A browser This one\. Signed in \d seconds? ago\. Sign out everywhere",
        page.text,
    )


@listing_backends
async def test_one_device_is_signed_out_from_another(visitor: Visitor) -> None:
    """Behaviour 46: it is anonymous at once, its tabs hear of it, the rest stays."""
    await visitor.sign_up()
    others = [Visitor(visitor.client, visitor.base_url) for _ in range(2)]
    for other in others:
        await other.post("/login", **ADA)
    tab = await others[1].open_tab()
    await tab.read_message()
    # The latest sign-in is the first one listed.
    handle = re.search(
        r'name="id" value="([^"]+)"', (await visitor.get("/devices")).body
    )
    assert handle is not None
    page = await visitor.post("/devices", id=handle[1])

    assert "Signed out there." in page.text
    assert await tab.read_message() in ("news", None)
    assert (await others[1].get("/devices")).path.startswith("/login")
    assert (await others[0].get("/devices")).path == "/devices"
    tab.close()


@listing_backends
async def test_all_other_devices_are_signed_out_at_once(visitor: Visitor) -> None:
    """Behaviour 46: only the one that asked for it stays."""
    await visitor.sign_up()
    others = [Visitor(visitor.client, visitor.base_url) for _ in range(2)]
    for other in others:
        await other.post("/login", **ADA)
    page = await visitor.post("/devices")

    assert page.path == "/devices"
    assert "Signed out everywhere else." in page.text
    for other in others:
        assert (await other.get("/devices")).path.startswith("/login")


@listing_backends
async def test_nobody_signs_out_somebody_else(visitor: Visitor) -> None:
    """Behaviour 46: the handle of another account's session ends nothing."""
    await visitor.sign_up()
    other = Visitor(visitor.client, visitor.base_url)
    await other.post("/signup", name="byron", password="lovelace")
    handle = re.search("Handle ([^ ]+)", (await other.get("/session")).text)
    assert handle is not None
    page = await visitor.post("/devices", id=handle[1])

    assert "It is signed out already." in page.text
    assert (await other.get("/devices")).path == "/devices"


@pytest.mark.parametrize("backend", ["cookie"], indirect=True)
async def test_the_devices_page_says_where_it_cannot_tell(visitor: Visitor) -> None:
    """Where the backend does not know whose its sessions are, the page says so."""
    await visitor.sign_up()
    page = await visitor.get("/devices")

    assert page.code == 200
    assert "The shop cannot tell" in page.text
    assert "Sign out everywhere else" not in page.text
    assert (await visitor.post("/devices")).code == 404
    assert (await visitor.post("/devices", id="x")).code == 404


async def test_cookies_are_signed_out_where_a_store_says_so(tmp_path: Path) -> None:
    """The page cannot list them, and offers to end all others."""
    option = f"--session-backend=cookie:?not_before=sqlite:///{tmp_path}/ends.db"
    async with running_shop(tmp_path, option) as url:
        visitor, other = (Visitor(AsyncHTTPClient(), url) for _ in range(2))
        await other.sign_up()
        await visitor.post("/login", **ADA)
        before = await visitor.get("/devices")
        after = await visitor.post("/devices")
        others = await other.get("/devices")

    assert "The shop cannot tell" in before.text
    assert "Sign out everywhere else" in before.text
    assert "Signed out everywhere else." in after.text
    assert others.path.startswith("/login")


@pytest.mark.parametrize(
    ("user_agent", "text"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Firefox/140.0", "Firefox on Linux"),
        (
            "Mozilla/5.0 (Windows NT 10.0) Chrome/140.0 Safari/537.36 Edg/140.0",
            "Edge on Windows",
        ),
        (
            "Mozilla/5.0 (Linux; Android 15) Chrome/140.0 Safari/537.36",
            "Chrome on Android",
        ),
        (
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) Safari/605.1",
            "Safari on macOS",
        ),
        ("curl/8.5.0", "A browser"),
        ("", "A browser"),
    ],
)
async def test_a_browser_is_called_what_people_call_it(
    user_agent: str, text: str
) -> None:
    """Though most of them claim to be several."""
    assert describe(user_agent) == text


@one_backend
async def test_an_order_asks_who_one_is_after_a_while(
    visitor: Visitor, app: Application
) -> None:
    """An hour after the sign-in the name is known, and the password is not."""
    await visitor.sign_up()
    await visitor.post("/product/kite")
    start = time.time()
    Sessions.of(app).now = functools.partial(float, start + RECENT + 1)
    page = await visitor.get("/checkout")

    assert page.path == "/login?next=%2Fcheckout"
    assert 'name="name" value="ada"' in page.body
    assert "say once more that it is you" in page.text
    assert (await visitor.post("/checkout")).code == 403

    page = await visitor.post("/login", **ADA, next="/checkout")

    assert page.path == "/checkout"
    assert "Total €18.95" in page.text


@listing_backends
async def test_the_devices_page_asks_who_one_is_after_a_while(
    visitor: Visitor, app: Application
) -> None:
    """Whoever finds an open browser neither sees the others nor puts them out."""
    await visitor.sign_up()
    other = Visitor(visitor.client, visitor.base_url)
    await other.post("/login", **ADA)
    start = time.time()
    Sessions.of(app).now = functools.partial(float, start + RECENT + 1)
    asked = await visitor.get("/devices")
    one = await visitor.post("/devices", id="x")
    everywhere = await visitor.post("/devices")
    here = await other.get("/news")

    assert asked.path == "/login?next=%2Fdevices"
    assert one.code == everywhere.code == 403
    assert json.loads(here.body)["user"] == "ada"

    page = await visitor.post("/login", **ADA, next="/devices")

    assert page.path == "/devices"
    assert "This one." in page.text


async def test_the_session_page_shows_its_state(visitor: Visitor, backend: str) -> None:
    """Where it is kept, how long it lasts, and how large it is."""
    assert "You have none yet" in (await visitor.get("/session")).text

    await visitor.post("/product/kite")
    await visitor.get("/cart")
    text = (await visitor.get("/session")).text

    assert f"Backend {backend} Handle" in text
    assert "Signed in nobody Age 0 seconds" in text
    assert re.search("Expires in (1 day|23 hours 59 minutes)", text)
    assert "Values 1 As JSON 21 bytes" in text
    assert visitor.cookies["session"] not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.9, "0 seconds"),
        (61, "1 minute 1 second"),
        (7200, "2 hours"),
        (90061, "1 day 1 hour"),
    ],
)
async def test_a_duration_is_told_in_two_units(seconds: float, text: str) -> None:
    """The largest two that are not zero."""
    assert duration(seconds) == text


async def test_the_views_page_counts_visits(visitor: Visitor) -> None:
    """The first visit is greeted, the following ones are counted."""
    first, second, third = [await visitor.get("/views") for _ in range(3)]

    assert "welcome to the session demo. refresh!" in first.text
    assert "views: 2" in second.text
    assert re.search("expires in: (60|[0-5][0-9])s", second.text)
    assert "views: 3" in third.text


async def test_the_views_page_counts_down(visitor: Visitor, app: Application) -> None:
    """Behaviours 47, 48: a visit shows what was left, and starts it anew."""
    _, sessions = get_sessions(app)
    start = time.time()
    texts = []
    for seconds in (0, 20, 79, 140):
        sessions.now = functools.partial(float, start + seconds)
        texts.append((await visitor.get("/views")).text)

    assert "welcome" in texts[0]
    assert "views: 2 expires in: 40s" in texts[1]
    assert "views: 3 expires in: 1s" in texts[2]
    assert "welcome" in texts[3]


async def test_the_views_page_has_a_session_of_its_own(visitor: Visitor) -> None:
    """Its short timeout leaves the cart alone, and signing out its count."""
    await visitor.post("/product/kite")
    await visitor.get("/views")
    await visitor.post("/logout")

    assert set(visitor.cookies) == {"_xsrf", "views"}
    assert "views: 2" in (await visitor.get("/views")).text


@one_backend
async def test_nothing_comes_from_elsewhere(visitor: Visitor) -> None:
    """What the pages load is the shop's own and there, and nothing is inline."""
    page = await visitor.get("/")
    paths = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.body)

    assert len(paths) >= 16
    assert {(await visitor.get(path)).code for path in set(paths)} == {200}
    assert "://" not in page.body
    assert not re.search(r"<script(?! src=)|<style|style=| on[a-z]+=", page.body)


@one_backend
@pytest.mark.parametrize("path", ["/", "/cart", "/views", "/news", "/nowhere"])
async def test_no_page_runs_what_is_not_the_shops(visitor: Visitor, path: str) -> None:
    """The policy of each page allows for files of the shop alone."""
    policy = (await visitor.fetch(path)).headers["Content-Security-Policy"]
    sources = {part.split()[1] for part in policy.split("; ")}

    assert policy.startswith("default-src 'none'; ")
    assert sources == {"'none'", "'self'"}


@one_backend
@pytest.mark.parametrize(
    "path",
    [
        *["/", "/cart", "/views", "/news", "/nowhere", "/tab", "/login"],
        *["/static/shop.css", "/static/logo.svg", "/static/nothing.js", "/checkout"],
    ],
)
async def test_nothing_is_taken_for_what_it_is_not(visitor: Visitor, path: str) -> None:
    """A browser takes each answer for what its Content-Type says, and no guess."""
    response = await visitor.fetch(path)

    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("cents", "text"), [(5, "€0.05"), (1450, "€14.50"), (123456789, "€1,234,567.89")]
)
async def test_money_is_written_with_two_digits_of_cents(cents: int, text: str) -> None:
    """Amounts are whole cents until they are shown."""
    assert money(cents) == text


@pytest.mark.parametrize("backend", ["sqlite", "cookie"], indirect=True)
async def test_a_cart_outlives_the_application(backend: str, tmp_path: Path) -> None:
    """A second application on the same file or secret finds the cart."""
    client = AsyncHTTPClient()
    cookies: dict[str, str] = {}
    for clicks in (1, 2):
        app = open_app(backend, tmp_path)
        server = HTTPServer(app)
        bound, port = bind_unused_port()
        server.add_socket(bound)
        visitor = Visitor(client, f"http://localhost:{port}")
        visitor.cookies = cookies
        page = await visitor.post("/product/kite")
        server.stop()
        await server.close_all_connections()
        await close(app)

        assert f"Cart {clicks} products" in page.text


@contextlib.asynccontextmanager
async def running_shop(
    folder: Path, *options: str, host: str = "localhost"
) -> AsyncIterator[str]:
    """Runs the shop as a process of its own, and ends it with SIGTERM."""
    process = await start_shop(folder, "--port=0", *options)
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        url = rf"(http://{re.escape(host)}:\d+)"
        opened = re.fullmatch(rf"The shop is open at {url}\n", line)
        assert opened is not None, line
        yield opened[1]
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors


async def start_shop(folder: Path, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "example_app",
        f"--cookie-secret-file={folder}/secret",
        f"--accounts-file={folder}/accounts.db",
        f"--session-backend=sqlite:///{folder}/shop.db",
        *options,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )


async def test_a_cart_survives_a_restart_of_the_process(tmp_path: Path) -> None:
    """Behaviour 27: what the browser has seen is in the file when SIGTERM comes."""
    client = AsyncHTTPClient()
    async with running_shop(tmp_path) as url:
        visitor = Visitor(client, url)
        await visitor.post("/product/kite", quantity=2)
        await visitor.sign_up()
    async with running_shop(tmp_path) as visitor.base_url:
        page = await visitor.get("/cart")

    assert "Cart 2 products" in page.text
    assert "ada : where you are signed in Sign out" in page.text


async def test_the_shop_is_open_at_an_ipv6_address(tmp_path: Path) -> None:
    """It is in brackets in the URL, which so can be followed."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("This machine has no IPv6.")
    async with running_shop(tmp_path, "--address=::1", host="[::1]") as url:
        page = await Visitor(AsyncHTTPClient(), url).post("/product/kite")

    assert "Cart 1 products" in page.text


async def test_several_processes_serve_one_cart(tmp_path: Path) -> None:
    """Behaviours 36, 37: twenty clicks at once add twenty, wherever they land."""
    async with running_shop(tmp_path, "--processes=4") as url:
        visitor = Visitor(AsyncHTTPClient(force_instance=True), url)
        await visitor.post("/product/umbrella")
        form = urlencode(await visitor.fill())
        adding = [visitor.fetch("/product/kite", form) for _ in range(20)]
        codes = [response.code for response in await asyncio.gather(*adding)]
        page = await visitor.get("/cart")
        visitor.client.close()

    assert codes == [302] * 20
    assert "Cart 21 products" in page.text


async def test_tabs_hear_of_each_other_across_processes(tmp_path: Path) -> None:
    """Whichever process a change goes through, each of many tabs hears of it."""
    async with running_shop(tmp_path, "--processes=4") as url:
        visitor = Visitor(AsyncHTTPClient(), url)
        await visitor.post("/product/kite")
        tabs = [await visitor.open_tab() for _ in range(16)]
        heard = [await tab.read_message() for tab in tabs]
        await visitor.post("/product/kite")
        heard += [await tab.read_message() for tab in tabs]
    # They are still open, and the shop ends all the same.
    heard += [await tab.read_message() for tab in tabs]
    for tab in tabs:
        tab.close()

    assert heard == ["news"] * 32 + [None] * 16


async def test_all_processes_end_with_the_first(tmp_path: Path) -> None:
    """Though it was killed and could tell them nothing, none stays behind."""
    process = await start_shop(tmp_path, "--port=0", "--processes=4")
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = (await process.stdout.readline()).decode().split()[-1]
        await Visitor(AsyncHTTPClient(), url).get("/")
        process.kill()

        # These end when the last of those that write to them has.
        await process.stdout.read()
        assert b"Traceback" not in await process.stderr.read()
        await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


async def test_no_click_that_was_answered_is_lost(tmp_path: Path) -> None:
    """Behaviour 27: not even one of those that SIGTERM comes between."""
    answered = dict.fromkeys(PRODUCTS, 0)
    under_way = asyncio.Event()

    async def click(slug: str) -> None:
        with contextlib.suppress(HTTPClientError, OSError):
            while (await visitor.fetch(f"/product/{slug}", form)).code == 302:
                answered[slug] += 1
                if sum(answered.values()) == 50:
                    under_way.set()

    async with running_shop(tmp_path, "--processes=2") as url:
        visitor = Visitor(AsyncHTTPClient(), url)
        await visitor.sign_up()
        form = urlencode(await visitor.fill())
        clicks = [asyncio.ensure_future(click(slug)) for slug in PRODUCTS]
        await under_way.wait()
    await asyncio.gather(*clicks)
    async with running_shop(tmp_path) as visitor.base_url:
        page = await visitor.get("/cart")

    fields = re.findall(
        r'name="product" value="([a-z-]+)">\s*<input name="quantity" type="number"'
        r' min="0" max="99" value="(\d+)"',
        page.body,
    )
    stored = {slug: int(quantity) for slug, quantity in fields}
    for slug, clicks_answered in answered.items():
        # One more may be stored, whose answer the end came before.
        assert stored.get(slug, 0) - min(clicks_answered, MOST) in (0, 1)


async def test_a_body_that_is_no_form_is_refused(tmp_path: Path) -> None:
    """Nobody has a password of a megabyte hashed: it is not even read."""
    async with running_shop(tmp_path) as url:
        reader, writer = await asyncio.open_connection("localhost", urlsplit(url).port)
        writer.write(
            b"POST /signup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
        )
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_request_is_answered_before_the_process_ends(tmp_path: Path) -> None:
    """SIGTERM while a password is being checked does not cut the visitor off."""
    async with running_shop(tmp_path) as url:
        visitor = Visitor(AsyncHTTPClient(), url)
        body = urlencode(await visitor.fill(**ADA))
        reader, writer = await asyncio.open_connection("localhost", urlsplit(url).port)
        writer.write(
            "POST /signup HTTP/1.1\r\nHost: localhost\r\n"
            f"Cookie: _xsrf={visitor.cookies['_xsrf']}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        await writer.drain()
        # Whoever came later has been answered, so the sign-in has arrived.
        await visitor.get("/")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 302 ")
    assert b"Set-Cookie: session=" in answer


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--session-backend=sqlit", "Did you mean 'sqlite'?"),
        ("--session-backend=", "session_backend"),
        ("--prot=8888", "'prot'"),
        ("--processes=0", "--processes=0: at least one has to serve."),
        ("--accounts-file=/no/such/folder", "/no/such/folder"),
        ("--port=many", "many"),
        ("--port=80000", "--port=80000: ports are below 65536."),
        ("port=8888", "What is 'port=8888'? Options begin with '--'."),
        ("--address=203.0.113.1", "address. Take another address or port."),
    ],
)
async def test_an_option_that_cannot_work_is_explained(
    tmp_path: Path, option: str, text: str
) -> None:
    """The process ends with 1 and a sentence, not with a traceback."""
    process = await start_shop(tmp_path, "--port=0", option)
    output, errors = await process.communicate()

    assert process.returncode == 1
    assert output == b""
    assert text in errors.decode()
    assert "Traceback" not in errors.decode()


async def test_memory_is_refused_for_several_processes(tmp_path: Path) -> None:
    """The sentence says why, and what would do."""
    process = await start_shop(
        tmp_path, "--port=0", "--session-backend=memory", "--processes=2"
    )
    _, errors = await process.communicate()

    assert process.returncode == 1
    assert (
        "--processes=2: MemoryBackend keeps sessions in the memory of one process, and"
        " each would know other carts. Use a backend that processes share"
    ) in errors.decode()


async def test_a_port_in_use_is_explained(tmp_path: Path) -> None:
    """The process ends with 1 and says what is the matter."""
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        process = await start_shop(tmp_path, f"--port={port}", "--address=127.0.0.1")
        _, errors = await process.communicate()

    assert process.returncode == 1
    assert (
        f"--port={port}: Address already in use. Take another address or port."
        in errors.decode()
    )
    assert "Traceback" not in errors.decode()


async def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """The file is readable by nobody else, and the second start finds it."""
    path = tmp_path / "secret"
    secret = read_secret(str(path))

    assert len(secret) >= 32
    assert read_secret(str(path)) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_secret_of_nothing_is_refused(tmp_path: Path) -> None:
    """Everybody would know it."""
    path = tmp_path / "secret"
    path.touch()

    with pytest.raises(ValueError, match=r"secret: it is empty\. Remove it"):
        read_secret(str(path))


@pytest.mark.parametrize("page", ["README.md", "docs/shop.md"])
async def test_the_pictures_of_the_shop_are_there_and_small(page: str) -> None:
    """Every picture that a page shows is in the tree, and under 150 kB."""
    path = ROOT / page
    shown = re.findall(r'(?:!\[[^\]]*\]\(|<img src=")([^")]+)', path.read_text())

    assert shown
    assert all((path.parent / picture).stat().st_size < 150_000 for picture in shown)

"""Tests that nobody guesses a password of the shop."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tornado.web import Application

from example_app.accounts import AT_ONCE, WAITING
from example_app.guesses import MOST as MOST_COUNTED
from example_app.guesses import (
    TRIES,
    TRIES_OF_ADDRESS,
    TRIES_OF_NAME,
    WINDOW,
    Guesses,
)
from tests.shop.visitors import (
    ADA,
    Page,
    Visitor,
    one_backend,
    session_lines,
)
from tornado_sessions.testing import Clock

pytestmark = pytest.mark.gen_test(timeout=60)


WRONG = {"name": "ada", "password": "wrong"}


@one_backend
@pytest.mark.parametrize("path", ["/login", "/signup"])
async def test_guessing_a_password_is_slowed_down(
    visitor: Visitor, clock: Clock, path: str
) -> None:
    """After five tries even the right one waits, and the page says how long."""
    other = visitor.another()
    await visitor.sign_up()
    wrong = ADA | {"password": "another one"}
    codes = [(await other.submit(path, **wrong)).code for _ in range(TRIES)]
    clock.time = 60
    response = await other.submit(path, **ADA)
    page = Page.of(response)

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
    other = visitor.another()
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
    form = await visitor.fill(**WRONG)
    tries = [visitor.send("/login", form) for _ in range(TRIES + 4)]
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
    clock = guesses.seconds = Clock(0)
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
    form = await visitor.fill(**ADA)
    accounts, gate = app.settings["accounts"], threading.Event()
    slow = [
        asyncio.ensure_future(accounts.run(gate.wait)) for _ in range(AT_ONCE + WAITING)
    ]
    try:
        await asyncio.sleep(0)
        responses = [await visitor.send(path, form) for _ in range(TRIES + 1)]
        page = Page.of(responses[-1])
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

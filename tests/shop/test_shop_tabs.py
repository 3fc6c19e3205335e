"""Tests of the tabs of the shop, which hear of each other."""

from __future__ import annotations

import json

import pytest

from example_app.live import NO_SESSION
from tests.shop.visitors import (
    Visitor,
    one_backend,
)
from tornado_sessions.testing import Clock

pytestmark = pytest.mark.gen_test(timeout=60)


async def test_a_script_gets_numbers_in_place_of_a_page(visitor: Visitor) -> None:
    """What is added with JavaScript is told at once, and leaves no message."""
    await visitor.post("/product/kite")
    body = await visitor.fill(quantity=2)
    response = await visitor.send("/product/kite", body, Accept="application/json")

    assert json.loads(response.body) == {
        "quantity": 3,
        "text": "Box kite: added to your cart.",
    }
    assert "added" not in (await visitor.get("/cart")).text


async def test_news_are_the_user_and_the_number_of_products(visitor: Visitor) -> None:
    """A page asks for them when it has heard that something changed."""
    nothing = await visitor.client.get("/news")
    await visitor.post("/product/kite", quantity=4)
    await visitor.sign_up()

    assert json.loads(nothing.body) == {"user": None, "quantity": 0}
    assert json.loads((await visitor.client.get("/news")).body) == {
        "user": "ada",
        "quantity": 4,
    }


async def test_what_a_script_asks_for_does_not_extend_the_session(
    visitor: Visitor, session_clock: Clock
) -> None:
    """Behaviour 48: so it ends a day after the last page, or after a click."""
    await visitor.sign_up()
    left = []
    for method in ("GET", "GET", "POST"):
        session_clock.move(hours=7)
        await visitor.client.get("/news")
        body = None if method == "GET" else ""
        response = await visitor.client.fetch("/status", method, body)
        left.append(json.loads(response.body)["seconds_left"])

    assert left == [17 * 3600, 10 * 3600, 24 * 3600]


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
    other = visitor.another()
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

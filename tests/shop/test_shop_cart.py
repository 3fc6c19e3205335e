"""Tests of the cart of the shop, and of its orders."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from tests.shop.visitors import (
    ADA,
    Visitor,
    close,
    merging_backends,
    one_backend,
    open_app,
)

pytestmark = pytest.mark.gen_test(timeout=60)


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


@one_backend
async def test_a_second_device_has_a_cart_of_its_own(visitor: Visitor) -> None:
    """The cart is in the session, and so the page of the cart says."""
    await visitor.post("/product/kite")
    await visitor.sign_up()
    other = visitor.another()
    await other.post("/product/umbrella")
    there = await other.post("/login", **ADA, next="/cart")
    here = await visitor.get("/cart")

    assert "Storm umbrella" in there.text
    assert "Box kite" not in there.text
    assert "Box kite" in here.text
    assert "Storm umbrella" not in here.text
    assert "On your other devices you have other carts." in here.text


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
    other = visitor.another()
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


async def test_checkout_of_nothing_leads_to_the_cart(visitor: Visitor) -> None:
    """There is no order without a product."""
    await visitor.client.sign_in("ada")

    assert (await visitor.get("/checkout")).path == "/cart"
    assert (await visitor.post("/checkout")).path == "/"


async def test_an_order_empties_the_cart_and_is_remembered(visitor: Visitor) -> None:
    """The order has a number, the lines and the total, also when asked again."""
    await visitor.client.sign_in("ada", cart={"kite": 2, "tea-flask": 1})
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
    await visitor.client.sign_in("ada", cart={"kite": 2})
    form = await visitor.fill()
    await asyncio.gather(*(visitor.send("/checkout", form) for _ in range(8)))
    page = await visitor.get("/order")

    assert page.text.count("Your order is placed.") == 1
    assert "Total €37.90" in page.text


async def test_an_order_needs_somebody_who_is_signed_in(visitor: Visitor) -> None:
    """A form that is sent without signing in is refused, and the cart stays."""
    await visitor.post("/product/kite")
    page = await visitor.post("/checkout")

    assert page.code == 403
    assert "Cart 1 products" in (await visitor.get("/")).text


@pytest.mark.parametrize("backend", ["sqlite", "cookie"], indirect=True)
async def test_a_cart_outlives_the_application(backend: str, tmp_path: Path) -> None:
    """A second application on the same file or secret finds the cart."""
    cookies: dict[str, str] = {}
    for clicks in (1, 2):
        app = open_app(backend, tmp_path)
        server = HTTPServer(app)
        bound, port = bind_unused_port()
        server.add_socket(bound)
        visitor = Visitor.at(f"http://localhost:{port}")
        visitor.client.cookies = cookies
        page = await visitor.post("/product/kite")
        server.stop()
        await server.close_all_connections()
        await close(app)

        assert f"Cart {clicks} products" in page.text

"""Tests of the shop's pages: over HTTP, on each backend that needs no server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tornado.web import Application

from example_app.catalogue import money
from example_app.times import ago, duration
from tests.shop.visitors import (
    ROOT,
    Page,
    Visitor,
    one_backend,
)
from tornado_sessions.testing import moved_clock

pytestmark = pytest.mark.gen_test(timeout=60)


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

    assert set(visitor.client.cookies) == {"_xsrf"}


async def test_a_form_without_its_token_gets_an_error_page(visitor: Visitor) -> None:
    """The page can be shown though there is no session yet to show it with."""
    await visitor.post("/product/kite")
    page = Page.of(await visitor.send("/product/kite", {}, **{"X-Xsrftoken": ""}))

    assert page.code == 403
    assert "403 Forbidden" in page.text
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
    assert "session" not in visitor.client.cookies
    assert (await visitor.get("/")).code == 200


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
    assert visitor.client.cookies["session"] not in text


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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "just now"), (59.9, "just now"), (61, "1 minute 1 second ago")],
)
async def test_what_was_a_moment_ago_was_just_now(seconds: float, text: str) -> None:
    """The time of the last use is not known to the second."""
    assert ago(seconds) == text


async def test_the_views_page_counts_visits(visitor: Visitor) -> None:
    """The first visit is greeted, the following ones are counted."""
    first, second, third = [await visitor.get("/views") for _ in range(3)]

    assert "welcome to the session demo. refresh!" in first.text
    assert "views: 2" in second.text
    assert re.search("expires in: (60|[0-5][0-9])s", second.text)
    assert "views: 3" in third.text


async def test_the_views_page_counts_down(visitor: Visitor, app: Application) -> None:
    """Behaviours 47, 48: a visit shows what was left, and starts it anew."""
    texts = []
    with moved_clock(app.settings["views"]) as clock:
        for seconds in (0, 20, 59, 61):
            clock.move(seconds=seconds)
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

    assert set(visitor.client.cookies) == {"_xsrf", "views"}
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
    policy = (await visitor.client.get(path)).headers["Content-Security-Policy"]
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
    response = await visitor.client.get(path)

    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("cents", "text"), [(5, "€0.05"), (1450, "€14.50"), (123456789, "€1,234,567.89")]
)
async def test_money_is_written_with_two_digits_of_cents(cents: int, text: str) -> None:
    """Amounts are whole cents until they are shown."""
    assert money(cents) == text


@pytest.mark.parametrize("page", ["README.md", "docs/shop.md"])
async def test_the_pictures_of_the_shop_are_there_and_small(page: str) -> None:
    """Every picture that a page shows is in the tree, and under 150 kB."""
    path = ROOT / page
    shown = re.findall(r'(?:!\[[^\]]*\]\(|<img src=")([^")]+)', path.read_text())

    assert shown
    assert all((path.parent / picture).stat().st_size < 150_000 for picture in shown)

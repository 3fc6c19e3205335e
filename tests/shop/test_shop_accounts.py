"""Tests of signing up and in at the shop, and of signing out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import html
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from tornado.web import Application

from example_app.accounts import Accounts
from example_app.endings import MOST
from tests.shop.visitors import (
    ADA,
    Visitor,
    one_backend,
    session_lines,
)
from tornado_sessions import SessionEvent, Sessions
from tornado_sessions.testing import Clock

pytestmark = pytest.mark.gen_test(timeout=60)


async def test_signing_in_keeps_the_cart_and_changes_the_cookie(
    visitor: Visitor,
) -> None:
    """Behaviour 9: the visitor's values stay, under another token."""
    await visitor.post("/product/kite", quantity=2)
    before = visitor.client.cookies["session"]
    page = await visitor.sign_up()

    assert "Welcome, ada." in page.text
    assert "Cart 2 products" in page.text
    assert visitor.client.cookies["session"] != before


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


async def test_a_login_says_that_one_was_away_for_long(
    visitor: Visitor, session_clock: Clock
) -> None:
    """Until somebody signs in, and to this browser alone."""
    await visitor.sign_up()
    session_clock.move(hours=25)
    first = await visitor.get("/checkout")
    wrong = await visitor.post("/login", name="ada", password="byron")
    stranger = await visitor.another().get("/login")
    await visitor.post("/login", **ADA)
    after = await visitor.get("/login")

    assert "signed out because you had been away" in first.text
    assert "signed out because you had been away" in wrong.text
    assert "You were signed out" not in stranger.text
    assert "You were signed out" not in after.text


@one_backend
async def test_a_login_says_that_one_was_signed_out_elsewhere(
    visitor: Visitor, session_clock: Clock
) -> None:
    """Also after the time at which the session would have ended by itself."""
    await visitor.sign_up()
    other = visitor.another()
    await other.post("/login", **ADA)
    await visitor.post("/devices")
    page = await other.get("/checkout")
    session_clock.move(hours=25)
    later = await other.get("/login")

    assert "signed out here from another of your devices" in page.text
    assert "signed out here from another of your devices" in later.text


@pytest.mark.parametrize("shop_settings", [{"session_max_per_user": 1}])
@one_backend
async def test_a_login_says_that_there_were_too_many(visitor: Visitor) -> None:
    """The one that ended it was the user's own, on another device."""
    await visitor.sign_up()
    await visitor.another().post("/login", **ADA)

    assert "because you have signed in elsewhere" in (await visitor.get("/login")).text


@one_backend
async def test_a_login_says_nothing_of_a_cart_that_has_expired(
    visitor: Visitor, session_clock: Clock
) -> None:
    """Nobody was signed in, so nobody was signed out; so it is after a sign-out."""
    await visitor.post("/product/kite")
    session_clock.move(hours=25)
    cart = await visitor.get("/login")
    await visitor.sign_up()
    await visitor.post("/logout")
    left = await visitor.get("/login")

    assert "You were signed out" not in cart.text
    assert "You were signed out" not in left.text


@one_backend
async def test_no_more_endings_are_remembered_than_there_is_room_for(
    app: Application, visitor: Visitor
) -> None:
    """The oldest are forgotten first, so the latest is still told."""
    await visitor.sign_up()
    endings = app.settings["endings"]
    for number in range(MOST):
        endings.listen(SessionEvent("revoked", 0.0, f"{number}", user="ada"))
    await Sessions.of(app).revoke_all("ada")
    page = await visitor.get("/login")

    assert "signed out here from another" in page.text
    assert len(endings) == MOST


async def test_signing_out_empties_the_cart(visitor: Visitor, backend: str) -> None:
    """Behaviours 42, 44: the cookie goes, and a copy of it is worth nothing."""
    await visitor.post("/product/kite")
    await visitor.sign_up()
    stolen = visitor.client.cookies["session"]
    page = await visitor.post("/logout")

    assert "Sign in" in page.text
    assert "session" not in visitor.client.cookies
    assert "nothing in it yet" in (await visitor.get("/cart")).text
    if backend != "cookie":
        visitor.client.cookies["session"] = stolen
        assert "nothing in it yet" in (await visitor.get("/cart")).text


async def test_pages_for_somebody_are_not_kept(visitor: Visitor) -> None:
    """Who goes back in the browser after signing out finds nothing."""
    await visitor.post("/product/kite")
    # There is no form in it, whose token would forbid that as well.
    before = await visitor.client.get("/news")
    await visitor.sign_up()
    await visitor.get("/")
    after = await visitor.client.get("/news")

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


async def test_a_form_from_before_a_sign_in_is_refused_after_it(
    visitor: Visitor,
) -> None:
    """A planted token gives no access."""
    await visitor.post("/product/kite")
    planted = await visitor.fill(quantity=1)
    await visitor.sign_up()
    response = await visitor.send("/product/kite", planted)

    assert response.code == 403
    assert "Cart 1 products" in (await visitor.get("/cart")).text


@one_backend
async def test_a_name_belongs_to_one_account(visitor: Visitor) -> None:
    """Whoever signs up with a name that is taken, in any case, does not get in."""
    await visitor.sign_up()
    other = visitor.another()
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
    other = visitor.another()
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

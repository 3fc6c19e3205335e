"""Tests of the devices on which somebody is signed in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from example_app.base import RECENT
from example_app.devices import describe
from tests.shop.visitors import (
    ADA,
    PHONE,
    Visitor,
    listing_backends,
    one_backend,
    running_shop,
)
from tornado_sessions.testing import Clock

pytestmark = pytest.mark.gen_test(timeout=60)


@listing_backends
async def test_the_devices_page_shows_where_one_is_signed_in(visitor: Visitor) -> None:
    """Every session of the account is there, and this one is marked."""
    await visitor.sign_up()
    other = visitor.another(PHONE)
    await other.post("/login", **ADA, remember="yes")
    page = await visitor.get("/devices")

    assert re.search(
        r"Safari on iPhone Used just now\."
        r" Signed in just now, and remembered\. Sign out"
        r" A browser This one\. Signed in just now\. Sign out everywhere else",
        page.text,
    )


@listing_backends
async def test_one_device_is_signed_out_from_another(visitor: Visitor) -> None:
    """Behaviour 46: it is anonymous at once, its tabs hear of it, the rest stays."""
    await visitor.sign_up()
    others = [visitor.another() for _ in range(2)]
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
    others = [visitor.another() for _ in range(2)]
    for other in others:
        await other.post("/login", **ADA)
    page = await visitor.post("/devices")

    assert page.path == "/devices"
    assert "Signed out everywhere else." in page.text
    for other in others:
        assert (await other.get("/devices")).path.startswith("/login")


@listing_backends
async def test_all_devices_are_signed_out_with_this_one(visitor: Visitor) -> None:
    """Behaviour 46: for who leaves a browser that is not their own."""
    await visitor.sign_up()
    other = visitor.another()
    await other.post("/login", **ADA)
    tab = await visitor.open_tab()
    await tab.read_message()
    page = await visitor.post("/devices", here="too")

    assert page.path == "/"
    assert "Sign in" in page.text
    assert "session" not in visitor.client.cookies
    assert await tab.read_message() in ("news", None)
    assert (await other.get("/devices")).path.startswith("/login")
    tab.close()


@listing_backends
async def test_nobody_signs_out_somebody_else(visitor: Visitor) -> None:
    """Behaviour 46: the handle of another account's session ends nothing."""
    await visitor.sign_up()
    other = visitor.another()
    await other.post("/signup", name="byron", password="lovelace")
    handle = re.search("Handle ([^ ]+)", (await other.get("/session")).text)
    assert handle is not None
    page = await visitor.post("/devices", id=handle[1])

    assert "It is signed out already." in page.text
    assert (await other.get("/devices")).path == "/devices"


@pytest.mark.parametrize("backend", ["cookie"], indirect=True)
async def test_the_devices_page_says_where_it_cannot_tell(visitor: Visitor) -> None:
    """Where the backend does not know whose its sessions are, the page says so."""
    await visitor.client.sign_in("ada")
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
        visitor, other = (Visitor.at(url) for _ in range(2))
        await other.sign_up()
        await visitor.post("/login", **ADA)
        before = await visitor.get("/devices")
        after = await visitor.post("/devices")
        others = await other.get("/devices")
        here = await visitor.get("/devices")
        await visitor.post("/devices", here="too")
        gone = await visitor.get("/devices")

    assert "The shop cannot tell" in before.text
    assert "Sign out everywhere else" in before.text
    assert "Signed out everywhere else." in after.text
    assert others.path.startswith("/login")
    assert not here.path.startswith("/login")
    assert gone.path.startswith("/login")


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
    visitor: Visitor, session_clock: Clock
) -> None:
    """An hour after the sign-in the name is known, and the password is not."""
    await visitor.sign_up()
    await visitor.post("/product/kite")
    session_clock.move(seconds=RECENT + 1)
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
    visitor: Visitor, session_clock: Clock
) -> None:
    """Whoever finds an open browser neither sees the others nor puts them out."""
    await visitor.sign_up()
    other = visitor.another()
    await other.post("/login", **ADA)
    session_clock.move(seconds=RECENT + 1)
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

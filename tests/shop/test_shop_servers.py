"""Tests of the shop with two processes whose sessions a server keeps."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from pathlib import Path

import pytest

from servers import Redis
from tests.shop.visitors import PHONE, Visitor, running_shop

pytestmark = pytest.mark.gen_test(timeout=60)

servers = pytest.mark.parametrize("server", ["MONGODB", "MYSQL", "POSTGRESQL", "REDIS"])


@pytest.fixture
def options(server: str) -> list[str]:
    variable = f"SESSIONS_TEST_{server}_URL"
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set; 'python -m servers' sets it.")
    url = f"{os.environ[variable]}?timeout=20"
    return [f"--session-backend={url}", "--processes=2"]


@servers
async def test_a_cart_survives_clicks_at_once_and_a_restart(
    options: list[str], tmp_path: Path
) -> None:
    """Behaviours 27, 36: twenty clicks add twenty, and the next process has them."""
    async with running_shop(tmp_path, *options) as url:
        visitor = Visitor.at(url)
        await visitor.post("/product/umbrella")
        form = await visitor.fill()
        adding = [visitor.send("/product/kite", form) for _ in range(20)]
        codes = [response.code for response in await asyncio.gather(*adding)]
    async with running_shop(tmp_path, *options) as visitor.client.base_url:
        page = await visitor.get("/cart")

    assert codes == [302] * 20
    assert "Cart 21 products" in page.text


@pytest.mark.parametrize("server", ["REDIS"])
async def test_the_catalogue_is_shown_while_the_store_is_down(
    options: list[str], tmp_path: Path
) -> None:
    """Behaviours 30, 94: the cart is there again when the store is."""
    with Redis() as store:
        own = [f"--session-backend={store.url}", *options[1:]]
        async with running_shop(tmp_path, *own) as url:
            visitor = Visitor.at(url)
            await visitor.post("/product/kite")
            form = await visitor.fill()
            cookies = dict(visitor.client.cookies)
            store.kill()
            catalogue, product = [
                await visitor.get(path) for path in ("/", "/product/kite")
            ]
            cart = await visitor.get("/cart")
            adding = await visitor.send("/product/kite", form)
            store.start()
            back = await visitor.get("/cart")

    for page in (catalogue, product):
        assert page.code == 200
        assert "Cart ? products" in page.text
        assert "We cannot get at your cart just now. It is not lost" in page.text
        assert "Sign in" not in page.text
    assert cart.code == adding.code == 503
    assert visitor.client.cookies == cookies
    assert back.code == 200
    assert "Cart 1 products" in back.text


@servers
async def test_devices_are_listed_and_signed_out(
    options: list[str], tmp_path: Path
) -> None:
    """Behaviours 44, 46: one by its handle, then all others; then this one."""
    ada = {"name": f"ada-{secrets.token_hex(4)}", "password": "lovelace"}
    async with running_shop(tmp_path, *options) as url:
        visitor, laptop = Visitor.at(url), Visitor.at(url)
        phone = Visitor.at(url, PHONE)
        await visitor.post("/signup", **ada)
        await laptop.post("/login", **ada)
        await phone.post("/login", **ada)
        before = await visitor.get("/devices")
        latest, *others = re.findall(r'name="id" value="([^"]+)"', before.body)
        await visitor.post("/devices", id=latest)
        after = [(await each.get("/devices")).path for each in (phone, laptop)]
        await visitor.post("/devices")
        left = [(await each.get("/devices")).path for each in (laptop, visitor)]
        cookies = dict(visitor.client.cookies)
        await visitor.post("/logout")
        visitor.client.cookies = cookies
        copied = await visitor.get("/devices")

    assert "Safari on iPhone Used" in before.text
    assert len(others) == 1
    assert after == ["/login?next=%2Fdevices", "/devices"]
    assert left == ["/login?next=%2Fdevices", "/devices"]
    assert copied.path == "/login?next=%2Fdevices"

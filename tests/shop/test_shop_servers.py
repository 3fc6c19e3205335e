"""Tests of the shop with two processes whose sessions a server keeps."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from pathlib import Path

import pytest

from tests.shop.visitors import PHONE, Visitor, running_shop

pytestmark = pytest.mark.gen_test(timeout=60)

servers = pytest.mark.parametrize("server", ["MONGODB", "MYSQL", "POSTGRESQL", "REDIS"])


@pytest.fixture
def options(server: str) -> list[str]:
    variable = f"SESSIONS_TEST_{server}_URL"
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set; 'python -m servers' sets it.")
    return [f"--session-backend={os.environ[variable]}", "--processes=2"]


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

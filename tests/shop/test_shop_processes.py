"""Tests of the shop as processes of its own, and of its options."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import stat
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from tornado.httpclient import (
    HTTPClientError,
)

from example_app.__main__ import read_secret
from example_app.cart import MOST
from example_app.catalogue import PRODUCTS
from tests.shop.visitors import (
    ADA,
    Visitor,
    running_shop,
    start_shop,
)

pytestmark = pytest.mark.gen_test(timeout=60)


async def test_a_cart_survives_a_restart_of_the_process(tmp_path: Path) -> None:
    """Behaviour 27: what the browser has seen is in the file when SIGTERM comes."""
    async with running_shop(tmp_path) as url:
        visitor = Visitor.at(url)
        await visitor.post("/product/kite", quantity=2)
        await visitor.sign_up()
    async with running_shop(tmp_path) as visitor.client.base_url:
        page = await visitor.get("/cart")

    assert "Cart 2 products" in page.text
    assert "Signed in as ada Devices Sign out" in page.text


async def test_the_shop_is_open_at_an_ipv6_address(tmp_path: Path) -> None:
    """It is in brackets in the URL, which so can be followed."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("This machine has no IPv6.")
    async with running_shop(tmp_path, "--address=::1", host="[::1]") as url:
        page = await Visitor.at(url).post("/product/kite")

    assert "Cart 1 products" in page.text


async def test_several_processes_serve_one_cart(tmp_path: Path) -> None:
    """Behaviours 36, 37: twenty clicks at once add twenty, wherever they land."""
    async with running_shop(tmp_path, "--processes=4") as url:
        visitor = Visitor.at(url)
        await visitor.post("/product/umbrella")
        form = await visitor.fill()
        adding = [visitor.send("/product/kite", form) for _ in range(20)]
        codes = [response.code for response in await asyncio.gather(*adding)]
        page = await visitor.get("/cart")

    assert codes == [302] * 20
    assert "Cart 21 products" in page.text


async def test_tabs_hear_of_each_other_across_processes(tmp_path: Path) -> None:
    """Whichever process a change goes through, each of many tabs hears of it."""
    async with running_shop(tmp_path, "--processes=4") as url:
        visitor = Visitor.at(url)
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
        await Visitor.at(url).get("/")
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
            while (await visitor.send(f"/product/{slug}", form)).code == 302:
                answered[slug] += 1
                if sum(answered.values()) == 50:
                    under_way.set()

    async with running_shop(tmp_path, "--processes=2") as url:
        visitor = Visitor.at(url)
        await visitor.sign_up()
        form = await visitor.fill()
        clicks = [asyncio.ensure_future(click(slug)) for slug in PRODUCTS]
        await under_way.wait()
    await asyncio.gather(*clicks)
    async with running_shop(tmp_path) as visitor.client.base_url:
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
        visitor = Visitor.at(url)
        body = urlencode(await visitor.fill(**ADA))
        reader, writer = await asyncio.open_connection("localhost", urlsplit(url).port)
        writer.write(
            "POST /signup HTTP/1.1\r\nHost: localhost\r\n"
            f"Cookie: _xsrf={visitor.client.cookies['_xsrf']}\r\n"
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

"""Tests of docs/binding.md: Flower, as it comes from PyPI, with sessions."""

from __future__ import annotations

import contextlib
import http.cookiejar
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import IO

import pytest

page = (Path(__file__).parent.parent / "docs/binding.md").read_text()


class Device:
    """A browser that keeps cookies, uses no proxy and follows no redirect."""

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPCookieProcessor(self.cookies),
            urllib.request.ProxyHandler({}),
            _NoRedirect(),
        )
        self._opener.addheaders = [("User-Agent", name)]

    def get(self, path: str, data: bytes | None = None) -> tuple[int, str]:
        """Returns the status and the body, or where a redirect leads."""
        try:
            answer = self._opener.open(self.url + path, data, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            body = answer.headers["Location"] or answer.read().decode()
            return answer.status, body

    def post(self, path: str, **fields: str) -> tuple[int, str]:
        """Sends the form at ``path``."""
        token = re.search('name="_xsrf" value="([^"]+)"', self.get(path)[1])
        assert token is not None
        fields["_xsrf"] = token[1]
        return self.get(path, urllib.parse.urlencode(fields).encode())

    def sign_in(self, password: str = "lovelace") -> tuple[int, str]:
        return self.post("login", user="ada", password=password)

    def copy(self) -> Device:
        """Returns a device that has stolen the cookies of this one."""
        thief = Device(self.url, "thief")
        for cookie in self.cookies:
            thief.cookies.set_cookie(cookie)
        return thief

    def is_in(self) -> bool:
        """Whether Flower shows its pages and its API to this device."""
        statuses = {self.get("workers")[0], self.get("api/task/types")[0]}
        assert statuses in ({200}, {302})
        return statuses == {200}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        """Returns None, so that the redirect itself is the answer."""


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Runs the program that the page shows, and yields its URL."""
    (program,) = (
        block
        for block in re.findall(
            r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE
        )
        if "__main__" in block
    )
    folder = tmp_path_factory.mktemp("flower")
    (folder / "program.py").write_text(program)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen(
            [sys.executable, "program.py", "--address=127.0.0.1", f"--port={port}"],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            said = (folder / "log").read_text()
            assert running.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        running.terminate()
        running.wait()
    assert "Traceback" not in (folder / "log").read_text()


def test_flower_is_shown_to_whoever_has_signed_in(flower: str) -> None:
    """Behaviour 103: its own pages ask the session."""
    laptop = Device(flower, "Laptop")
    before = laptop.is_in()
    refused = laptop.sign_in("guess")[0]
    signed_in = laptop.sign_in()

    assert not before
    assert refused == 403
    assert signed_in == (302, "/")
    assert laptop.is_in()


def test_a_stolen_cookie_is_dead_after_the_logout(flower: str) -> None:
    """Behaviour 103: that of Flower alone would stay valid."""
    laptop = Device(flower, "Laptop")
    laptop.sign_in()
    thief = laptop.copy()
    before = thief.is_in()
    ended = laptop.get("logout")[0]

    assert before
    assert ended == 200
    assert not laptop.is_in()
    assert not thief.is_in()


def test_a_user_logs_all_devices_out(flower: str) -> None:
    """Behaviour 103: those that the list shows."""
    laptop, phone = Device(flower, "Old laptop"), Device(flower, "New phone")
    laptop.sign_in()
    phone.sign_in()
    shown = laptop.get("devices")[1]
    answer = phone.post("devices")

    assert "Old laptop" in shown
    assert "New phone" in shown
    assert answer == (302, "/login")
    assert not laptop.is_in()
    assert not phone.is_in()

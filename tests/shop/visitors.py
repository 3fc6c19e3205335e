"""The shop that is tested, and its visitors, who have no browser."""

from __future__ import annotations

import asyncio
import contextlib
import html
import re
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from tornado.httpclient import (
    AsyncHTTPClient,
    HTTPRequest,
    HTTPResponse,
)
from tornado.web import Application
from tornado.websocket import WebSocketClientConnection, websocket_connect

from example_app.accounts import Accounts
from example_app.app import get_sessions, make_app
from example_app.live import Tabs

ROOT = Path(__file__).parent.parent.parent

SECRET = "a secret of the tests, 32 bytes or more"

ADA = {"name": "ada", "password": "lovelace"}

PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Safari/604.1"


# For what has nothing to do with where sessions are kept.
one_backend = pytest.mark.parametrize("backend", ["memory"], indirect=True)


# A cookie is not there for two requests to meet in.
merging_backends = pytest.mark.parametrize(
    "backend", ["sqlite", "memory"], indirect=True
)


listing_backends = pytest.mark.parametrize(
    "backend", ["sqlite", "memory"], indirect=True
)


@dataclass(frozen=True)
class Page:
    code: int
    path: str
    body: str

    @property
    def text(self) -> str:
        """What a reader sees, in one line."""
        text = re.sub(r"<[^>]*>", " ", self.body)
        return " ".join(html.unescape(text).split())


class Visitor:
    """A browser without JavaScript: keeps cookies, and goes where it is sent."""

    def __init__(
        self, client: AsyncHTTPClient, base_url: str, user_agent: str = ""
    ) -> None:
        self.client = client
        self.base_url = base_url
        self.user_agent = user_agent
        self.cookies: dict[str, str] = {}

    async def get(self, path: str) -> Page:
        return await self.follow(await self.fetch(path))

    async def post(self, path: str, **fields: object) -> Page:
        return await self.follow(await self.submit(path, **fields))

    async def submit(self, path: str, **fields: object) -> HTTPResponse:
        return await self.fetch(path, urlencode(await self.fill(**fields)))

    async def fill(self, **fields: object) -> dict[str, object]:
        """Returns the fields of a form, with the token that all forms have."""
        page = await self.fetch("/login")
        token = re.search(r'name="_xsrf" value="([^"]+)"', page.body.decode())
        assert token is not None
        return fields | {"_xsrf": token[1]}

    async def sign_up(self, next_path: str = "/", **fields: object) -> Page:
        return await self.post("/signup", **ADA, next=next_path, **fields)

    async def open_tab(self) -> WebSocketClientConnection:
        url = self.base_url.replace("http", "ws", 1) + "/tab"
        return await websocket_connect(HTTPRequest(url, headers=self.headers))

    @property
    def headers(self) -> dict[str, str]:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {"User-Agent": self.user_agent}
        return headers | {"Cookie": cookies} if cookies else headers

    async def fetch(
        self, path: str, body: str | None = None, **headers: str
    ) -> HTTPResponse:
        response = await self.client.fetch(
            self.base_url + path,
            method="GET" if body is None else "POST",
            body=body,
            headers=self.headers | headers,
            follow_redirects=False,
            raise_error=False,
        )
        for line in response.headers.get_list("Set-Cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            if value and "Max-Age=0" not in line:
                self.cookies[name] = value
            else:
                self.cookies.pop(name, None)
        return response

    async def follow(self, response: HTTPResponse) -> Page:
        while response.code in (302, 303):
            response = await self.fetch(response.headers["Location"])
        parts = urlsplit(response.effective_url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        return Page(response.code, path, response.body.decode())


def session_lines(response: HTTPResponse) -> list[str]:
    lines = response.headers.get_list("Set-Cookie")
    return [line for line in lines if line.startswith("session=")]


def backend_url(backend: str, folder: Path) -> str:
    return f"sqlite:///{folder}/shop.db" if backend == "sqlite" else f"{backend}:"


def open_app(backend: str, folder: Path) -> Application:
    accounts = Accounts(str(folder / "accounts.db"))
    return make_app(backend_url(backend, folder), SECRET, accounts, Tabs())


async def close(app: Application) -> None:
    app.settings["tabs"].close()
    for sessions in get_sessions(app):
        await sessions.close()


@dataclass
class Clock:
    time: float = 0.0

    def __call__(self) -> float:
        return self.time


@contextlib.asynccontextmanager
async def running_shop(
    folder: Path, *options: str, host: str = "localhost"
) -> AsyncIterator[str]:
    """Runs the shop as a process of its own, and ends it with SIGTERM."""
    process = await start_shop(folder, "--port=0", *options)
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        url = rf"(http://{re.escape(host)}:\d+)"
        opened = re.fullmatch(rf"The shop is open at {url}\n", line)
        assert opened is not None, line
        yield opened[1]
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors


async def start_shop(folder: Path, *options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "example_app",
        f"--cookie-secret-file={folder}/secret",
        f"--accounts-file={folder}/accounts.db",
        f"--session-backend=sqlite:///{folder}/shop.db",
        *options,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )

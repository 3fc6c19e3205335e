"""The shop that is tested, and its visitors, who have no browser."""

from __future__ import annotations

import asyncio
import contextlib
import html
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.web import Application
from tornado.websocket import WebSocketClientConnection, websocket_connect

from example_app.accounts import Accounts
from example_app.app import get_sessions, make_app
from example_app.live import Tabs
from tornado_sessions.testing import Client

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

    @classmethod
    def of(cls, response: HTTPResponse) -> Page:
        parts = urlsplit(response.effective_url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        return cls(response.code, path, response.body.decode())

    @property
    def text(self) -> str:
        """What a reader sees, in one line."""
        text = re.sub(r"<[^>]*>", " ", self.body)
        return " ".join(html.unescape(text).split())


class Visitor:
    """Somebody who reads the pages of the shop, and fills in its forms."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @classmethod
    def at(cls, url: str, user_agent: str = "") -> Visitor:
        """Returns somebody who knows nothing of the shop but its URL."""
        return cls(Client(url, headers={"User-Agent": user_agent}))

    def another(self, user_agent: str = "") -> Visitor:
        """Returns somebody else, or the same person at another device."""
        return self.at(self.client.base_url, user_agent)

    async def get(self, path: str) -> Page:
        return Page.of(await self.client.get(path))

    async def post(self, path: str, **fields: object) -> Page:
        return Page.of(await self.client.post(path, await self.fill(**fields)))

    async def submit(self, path: str, **fields: object) -> HTTPResponse:
        """Sends a form, and goes nowhere from there."""
        return await self.send(path, await self.fill(**fields))

    async def send(
        self, path: str, form: Mapping[str, object], **headers: str
    ) -> HTTPResponse:
        return await self.client.post(
            path, form, headers=headers, follow_redirects=False
        )

    async def fill(self, **fields: object) -> dict[str, object]:
        """Returns the fields of a form, with the token that all forms have."""
        page = await self.get("/login")
        token = re.search(r'name="_xsrf" value="([^"]+)"', page.body)
        assert token is not None
        return fields | {"_xsrf": token[1]}

    async def sign_up(self, next_path: str = "/", **fields: object) -> Page:
        return await self.post("/signup", **ADA, next=next_path, **fields)

    async def open_tab(self) -> WebSocketClientConnection:
        url = self.client.base_url.replace("http", "ws", 1) + "/tab"
        return await websocket_connect(HTTPRequest(url, headers=self.client.headers))


def session_lines(response: HTTPResponse) -> list[str]:
    lines = response.headers.get_list("Set-Cookie")
    return [line for line in lines if line.startswith("session=")]


def backend_url(backend: str, folder: Path) -> str:
    # A busy machine is no reason to fail.
    sqlite = f"sqlite:///{folder}/shop.db?timeout=20"
    return sqlite if backend == "sqlite" else f"{backend}:"


def open_app(backend: str, folder: Path, **settings: Any) -> Application:
    accounts = Accounts(str(folder / "accounts.db"))
    return make_app(backend_url(backend, folder), SECRET, accounts, Tabs(), **settings)


async def close(app: Application) -> None:
    app.settings["tabs"].close()
    for sessions in get_sessions(app):
        await sessions.close()


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
        f"--session-backend={backend_url('sqlite', folder)}",
        *options,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )

"""Common code of the tests of `SessionMixin` over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any, cast

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.web import Application, HTTPError, RequestHandler
from tornado_sessions_memory import MemoryBackend

from tests.tokens import token_of
from tornado_sessions import SessionMixin, Sessions
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import Settings
from tornado_sessions.testing.faults import FaultyVault


class SteppedVault(FaultyVault):
    """Stops once before the operation it is told, until it is told to go on."""

    stopping: str | None = None

    def stop_before(self, operation: str, nth: int = 1) -> None:
        self.stopping, self.left = operation, nth
        self.arrived, self.resumed = asyncio.Event(), asyncio.Event()

    async def _enter(self, operation: str) -> None:
        await super()._enter(operation)
        if operation == self.stopping:
            self.left -= 1
        if operation == self.stopping and not self.left:
            self.stopping = None
            self.arrived.set()
            await self.resumed.wait()


class Visited:
    """An application, and the session of one visitor of it."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.sessions = Sessions.of(app)
        self.vault = cast(SteppedVault, self.sessions.vault)
        self.token: str | None = None

    async def begin(self, **values: Any) -> str:
        """Stores a session of ``values`` for the visitor."""
        session = await Sessions(Settings(self.vault.inner)).load(None)
        session.update(values)
        await session.save()
        assert state_of(session).token is not None
        self.token = state_of(session).token
        return token_of(session)

    async def begin_again(self, **values: Any) -> None:
        """Changes values of the visitor's session, as another request would."""
        session = await Sessions(Settings(self.vault.inner)).load(self.token)
        session.update(values)
        await session.save()

    async def end(self, token: str | None = None) -> None:
        """Ends the visitor's session, as another request would."""
        await self.vault.inner.delete(token or cast(str, self.token))

    async def stored(self, token: str | None = None) -> dict[str, Any] | None:
        """Returns what the store has for the visitor; None for no session."""
        session = await Sessions(Settings(self.vault.inner)).load(token or self.token)
        return None if session.is_new else dict(session)

    def saves(self) -> int:
        return self.vault.calls.count("save")


class Site(Visited):
    """An application and one visitor of it, who keeps the session cookie."""

    def __init__(self, app: Application, client: AsyncHTTPClient, url: str) -> None:
        super().__init__(app)
        self.client = client
        self.base_url = url
        self._paths: dict[type[RequestHandler], str] = {}

    def path(self, handler: type[RequestHandler]) -> str:
        """Returns the URL of ``handler``, and registers it at the first call."""
        if handler not in self._paths:
            self._paths[handler] = f"/{len(self._paths)}"
            self.app.add_handlers(".*", [(self._paths[handler], handler)])
        return self._paths[handler]

    async def fetch(
        self,
        handler: type[RequestHandler],
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        **kwargs: Any,
    ) -> HTTPResponse:
        sent = HTTPHeaders(headers or {})
        if self.token is not None:
            sent.add("Cookie", f"session={self.token}")
        response = await self.client.fetch(
            self.base_url + self.path(handler),
            method=method,
            headers=sent,
            body=body if method in ("POST", "PUT", "PATCH") else None,
            follow_redirects=False,
            raise_error=False,
            allow_nonstandard_methods=True,
            **{"request_timeout": 30, **kwargs},
        )
        for value in cookies(response):
            self.token = value or None
        return response


def cookies(response: HTTPResponse) -> list[str]:
    """Returns the session cookies that a response sets, empty if expired."""
    lines = response.headers.get_list("Set-Cookie")
    pairs = [line.partition(";")[0].partition("=") for line in lines]
    return [value for name, _, value in pairs if name.endswith("session")]


def application() -> Application:
    """Returns an application whose store suspends, can be stopped, and can fail."""
    app = Application(session_backend=MemoryBackend(), login_url="/login")
    sessions = Sessions.of(app)
    sessions.vault = SteppedVault(sessions.vault, suspends=True)
    return app


def expecting(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Takes parts of the messages that a test expects at ERROR; no others come."""
    expected: list[str] = []
    yield expected
    logged = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelno >= logging.ERROR and record.name != "tornado.access"
    ]
    assert len(logged) == len(expected), logged
    for part, message in zip(expected, logged, strict=True):
        assert part in message


UNCAUGHT = "Uncaught exception"
STORE_FAILED = "503 GET"


class Read(SessionMixin):
    def get(self) -> None:
        self.write(dict(self.session))


class Write(SessionMixin):
    def get(self) -> None:
        self.session["a"] = 1
        self.write("ok")

    post = get


async def see_it_fail(site: Site, errors: list[str], status: int) -> None:
    """Sees that a write which was to be answered ``status`` is answered 500."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            if status == 404:
                raise HTTPError(404)

    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (500, [])
    errors.append(UNCAUGHT)


def change_settings(site: Site, **changes: Any) -> None:
    """Gives an application other settings while it runs."""
    sessions = site.sessions
    sessions.settings = dataclasses.replace(sessions.settings, **changes)

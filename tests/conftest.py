"""Fixtures of all tests."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import Application

from tests.session_views import Clock, Loaded, load, make_sessions, view
from tests.sites import Site, application, expecting
from tests.socket_sites import Site as SocketSite
from tornado_sessions import Session, Sessions


def pytest_sessionstart() -> None:
    # pytest-tornado keeps the current loop while a test has one of its own. Where
    # there is none, asyncio makes one for it to keep, and nobody closes that.
    asyncio.set_event_loop(None)


@pytest.fixture
def app() -> Application:
    return application()


@pytest.fixture
def site(app: Application, http_server: HTTPServer, base_url: str) -> Iterator[Site]:
    client = AsyncHTTPClient(force_instance=True)
    yield Site(app, client, base_url)
    client.close()


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Takes parts of the messages that a test expects at ERROR; no others come."""
    yield from expecting(caplog)


@pytest.fixture
def socket_site(
    app: Application, io_loop: IOLoop, http_server: HTTPServer, base_url: str
) -> Iterator[SocketSite]:
    site = SocketSite(app, base_url)
    yield site
    io_loop.run_sync(site.close, timeout=30)


@pytest.fixture
def late_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the store alone, but for what a test of sockets does."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    monkeypatch.setattr("tornado_sessions.core.sockets._FIRST_CHECK", 3600)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return make_sessions(clock)


@pytest.fixture
def new(sessions: Sessions) -> Session:
    return view(sessions)


@pytest.fixture
def loaded(sessions: Sessions) -> Loaded:
    return functools.partial(load, sessions)

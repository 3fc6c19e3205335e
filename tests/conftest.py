"""Fixtures of all tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.web import Application

from tests.sites import Site, application, expecting


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

"""Fixtures of the tests of the shop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tornado.httpclient import (
    AsyncHTTPClient,
)
from tornado.ioloop import IOLoop
from tornado.web import Application

from tests.shop.visitors import (
    Clock,
    Visitor,
    close,
    open_app,
)


@pytest.fixture(params=["sqlite", "memory", "cookie"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def app(io_loop: IOLoop, backend: str, tmp_path: Path) -> Iterator[Application]:
    app = open_app(backend, tmp_path)
    io_loop.add_callback(app.settings["tabs"].listen)
    yield app
    io_loop.run_sync(lambda: close(app))


# Naming the application here lets pytest see that it comes in three kinds:
# `http_client` asks for it too late.
@pytest.fixture
def visitor(app: Application, http_client: AsyncHTTPClient, base_url: str) -> Visitor:
    return Visitor(http_client, base_url)


@pytest.fixture
def clock(app: Application) -> Clock:
    """Returns the clock of the limit on password attempts."""
    clock = app.settings["guesses"].seconds = Clock()
    return clock

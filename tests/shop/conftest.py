"""Fixtures of the tests of the shop."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.ioloop import IOLoop
from tornado.web import Application

from tests.shop.visitors import (
    Visitor,
    close,
    open_app,
)
from tornado_sessions.testing import Client, Clock


@pytest.fixture(params=["sqlite", "memory", "cookie"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shop_settings() -> dict[str, Any]:
    return {}


@pytest.fixture
def app(
    io_loop: IOLoop, backend: str, tmp_path: Path, shop_settings: dict[str, Any]
) -> Iterator[Application]:
    app = open_app(backend, tmp_path, **shop_settings)
    io_loop.add_callback(app.settings["tabs"].listen)
    yield app
    io_loop.run_sync(lambda: close(app))


@pytest.fixture
def visitor(session_client: Client) -> Visitor:
    return Visitor(session_client)


@pytest.fixture
def clock(app: Application) -> Clock:
    """Returns the clock of the limit on password attempts."""
    clock = app.settings["guesses"].seconds = Clock(0)
    return clock

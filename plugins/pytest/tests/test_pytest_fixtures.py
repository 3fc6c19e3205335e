"""Tests of the fixtures, with pytest-tornado and in a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.web import Application

from tornado_sessions import SessionMixin
from tornado_sessions.testing import Client, Clock, load_session


class Home(SessionMixin):
    def get(self) -> None:
        self.write(f"{self.session.user} {self.session.get('cart')}")

    def post(self) -> None:
        self.session["cart"] = self.get_body_argument("product")
        self.redirect("/")


@pytest.fixture
def app(session_settings: dict[str, Any]) -> Application:
    return Application([("/", Home)], xsrf_cookies=True, **session_settings)


@pytest.mark.gen_test(timeout=30)
async def test_a_client_of_the_application_signs_in(session_client: Client) -> None:
    """It has the URL of the test's server and the application."""
    await session_client.sign_in("ada")
    page = await session_client.post("/", {"product": "kite"})

    assert page.body == b"ada kite"
    assert await session_client.session() == {"cart": "kite"}


@pytest.mark.gen_test(timeout=30)
async def test_a_request_with_any_client_is_signed_in(
    session_sign_in: Callable[..., Coroutine[Any, Any, dict[str, str]]],
    http_client: AsyncHTTPClient,
    base_url: str,
) -> None:
    """Here with pytest-tornado's own client."""
    headers = await session_sign_in("ada", cart="kite")
    response = await http_client.fetch(base_url, headers=headers)

    assert response.body == b"ada kite"


@pytest.mark.gen_test(timeout=30)
async def test_the_clock_is_that_of_the_application(
    app: Application,
    session_sign_in: Callable[..., Coroutine[Any, Any, dict[str, str]]],
    session_clock: Clock,
) -> None:
    """A session expires without waiting."""
    headers = await session_sign_in("ada")
    before = await load_session(app, headers)
    session_clock.move(days=2)
    after = await load_session(app, headers)

    assert (before.user, after.user) == ("ada", None)


def test_every_fixture_has_the_prefix() -> None:
    """No name of an application's own fixtures is taken."""
    (plugin,) = {point.value for point in entry_points(group="pytest11", name=NAME)}
    fixtures = vars(sys.modules[plugin]).items()
    names = [name for name, value in fixtures if "Fixture" in type(value).__name__]

    assert len(names) == 4
    assert all(name.startswith("session_") for name in names)


NAME = "tornado_sessions"

QUIET = """
import sys

def test_nothing_of_the_library_is_imported_before_a_fixture():
    assert "pytest_tornado_sessions" in sys.modules
    assert "tornado_sessions" not in sys.modules

def test_a_fixture_imports_it(session_settings):
    assert session_settings["session_backend"] == "memory"
"""


def test_nothing_happens_before_a_fixture_is_named(tmp_path: Path) -> None:
    """pytest loads the plugin by itself, and the plugin not the library."""
    (tmp_path / "test_quiet.py").write_text(QUIET)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "2 passed" in run.stdout, run.stdout + run.stderr

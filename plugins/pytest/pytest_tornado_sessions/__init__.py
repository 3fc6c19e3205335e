"""Fixtures for the tests of an application with sessions.

pytest imports this module when it starts. So it imports the library only in the
fixtures: what is imported before a plugin measures coverage is not measured.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tornado.web import Application

    from tornado_sessions.testing import Client, Clock


@pytest.fixture
def session_settings() -> dict[str, Any]:
    """Settings for an application under test: sessions in memory, a cookie_secret."""
    from tornado_sessions.testing import settings_for_tests

    return settings_for_tests()


@pytest.fixture
def session_client(app: Application, http_server: object, base_url: str) -> Client:
    """A client of ``app`` that keeps cookies, follows redirects and can sign in."""
    from tornado_sessions.testing import Client

    return Client(base_url, app)


@pytest.fixture
def session_sign_in(
    app: Application,
) -> Callable[..., Coroutine[Any, Any, dict[str, str]]]:
    """``await session_sign_in("ada", cart=[…])`` returns the headers of a request."""
    from tornado_sessions.testing import sign_in

    return functools.partial(sign_in, app)


@pytest.fixture
def session_clock(app: Application) -> Iterator[Clock]:
    """The clock of the sessions of ``app``: it stands still until it is moved."""
    from tornado_sessions.testing import moved_clock

    with moved_clock(app) as clock:
        yield clock

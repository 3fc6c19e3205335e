"""Tests of handlers that run without their session while the store is down."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketHandler
from tornado_sessions_memory import MemoryBackend

from tests.sites import STORE_FAILED, Site, SteppedVault, Write, cookies
from tornado_sessions import BackendError, Session, SessionError, SessionMixin, Sessions

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]

NO_SESSION = "No session for GET"


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Application:
    settings = getattr(request, "param", {})
    app = Application(session_backend=MemoryBackend(), **settings)
    sessions = Sessions.of(app)
    sessions.vault = SteppedVault(sessions.vault, suspends=True)
    return app


class Page(SessionMixin):
    """A page that everybody may see."""

    session_optional = True

    def get(self) -> None:
        self.set_header("Cache-Control", "public, max-age=60")
        session = self.session
        self.write(
            {
                "unavailable": session.unavailable,
                "user": self.current_user,
                "values": dict(session),
                "flashes": session.flashes(),
                "is the same": session is self.session,
            }
        )


EMPTY: dict[str, object] = {
    "unavailable": True,
    "user": None,
    "values": {},
    "flashes": [],
    "is the same": True,
}


async def begin(site: Site) -> None:
    """Stores a session of somebody who has signed in."""

    class Begin(SessionMixin):
        def get(self) -> None:
            self.session.login("ada")
            self.session["a"] = 1

    await site.fetch(Begin)
    assert site.token is not None


async def test_a_page_runs_without_its_session(site: Site, errors: list[str]) -> None:
    """Behaviour 94: it is empty and says so, and goes on when the store is back."""
    await begin(site)
    site.vault.failing = {"load"}
    down = await site.fetch(Page)
    site.vault.failing = set()
    back = await site.fetch(Page)

    assert (down.code, json.loads(down.body)) == (200, EMPTY)
    assert cookies(down) == []
    assert "Retry-After" not in down.headers
    assert json.loads(back.body) == EMPTY | {
        "unavailable": False,
        "user": "ada",
        "values": {"a": 1},
    }
    errors.append(NO_SESSION)


async def test_no_cache_keeps_the_page(site: Site, errors: list[str]) -> None:
    """Behaviour 94: neither for others nor for the time when the store is back."""
    await begin(site)
    back = await site.fetch(Page)
    site.vault.failing = {"load"}
    down = await site.fetch(Page)

    assert back.headers["Cache-Control"] == "public, max-age=60"
    assert down.headers["Cache-Control"] == "no-store"
    assert back.headers["Vary"] == down.headers["Vary"] == "Cookie"
    errors.append(NO_SESSION)


async def test_a_page_that_does_not_use_the_session_is_the_same(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 94: it can be cached as ever."""

    class Handler(SessionMixin):
        session_optional = True

        def get(self) -> None:
            self.set_header("Cache-Control", "public, max-age=60")
            self.write("all")

    await begin(site)
    site.vault.failing = {"load"}
    response = await site.fetch(Handler)

    assert (response.code, response.body) == (200, b"all")
    assert response.headers["Cache-Control"] == "public, max-age=60"
    assert "Vary" not in response.headers
    errors.append(NO_SESSION)


@pytest.mark.parametrize(("level", "traces"), [(logging.INFO, 0), (logging.DEBUG, 1)])
async def test_the_failure_is_logged_as_ever(
    site: Site,
    errors: list[str],
    caplog: pytest.LogCaptureFixture,
    level: int,
    traces: int,
) -> None:
    """Behaviour 94: one line a request; it says that the request was not refused."""
    caplog.set_level(level, "tornado_sessions")
    logged: list[object] = []

    class Handler(Page):
        def log_exception(self, *error: Any) -> None:
            logged.append(error[0])
            super().log_exception(*error)

    await begin(site)
    site.vault.failing = {"load"}
    await site.fetch(Handler)

    reason = f"Cannot load the session. (OSError: {site.vault.reason})"
    line = f"No session for GET /1 (127.0.0.1): {reason}"
    assert [r.getMessage() for r in caplog.records if r.exc_info] == [line] * traces
    assert logged == [BackendError]
    errors.append(line)


def _set(session: Session, name: str, value: object) -> None:
    setattr(session, name, value)


CHANGES: dict[str, Callable[[Session], object]] = {
    "set": lambda session: session.__setitem__("a", 2),
    "update": lambda session: session.update(a=2),
    "setdefault": lambda session: session.setdefault("a", 2),
    "login": lambda session: session.login("eve"),
    "logout": lambda session: session.logout(),
    "destroy": lambda session: session.destroy(),
    "regenerate": lambda session: session.regenerate(),
    "flash": lambda session: session.flash("hello"),
    "set_expiry": lambda session: session.set_expiry(idle=60),
    "end": lambda session: session.set_expiry(idle=0),
    "persistent": lambda session: _set(session, "persistent", True),
    "label": lambda session: _set(session, "label", "phone"),
    "expose_token": lambda session: session.expose_token(),
    "reload": lambda session: session.reload(),
    "transact": lambda session: session.transact(lambda each: each.update(a=2)),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_is_refused_with_advice(
    site: Site, errors: list[str], change: str
) -> None:
    """Behaviour 94: what cannot be stored is no success, and nothing is lost."""
    raised: list[SessionError] = []

    class Handler(SessionMixin):
        session_optional = True

        async def get(self) -> None:
            try:
                result = CHANGES[change](self.session)
                if asyncio.iscoroutine(result):
                    await result
            except SessionError as error:
                raised.append(error)

    await begin(site)
    site.vault.failing = {"load"}
    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (200, [])
    (error,) = raised
    assert isinstance(error, BackendError)
    assert str(error) == (
        "The session cannot be changed: the store failed when it was to be loaded, and"
        " Handler has session_optional=True, so it runs without. Until the store is back"
        " the session is empty and can only be read. Look at self.session.unavailable"
        " before a change."
    )
    assert await site.stored() == {"a": 1}
    errors.append(NO_SESSION)


async def test_an_uncaught_change_is_answered_503(
    site: Site, errors: list[str]
) -> None:
    """Behaviours 30, 94: as where the save fails."""

    class Handler(Write):
        session_optional = True

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.finish(f"{status_code} for {self.session.user}")

    await begin(site)
    site.vault.failing = {"load"}
    response = await site.fetch(Handler)

    assert (response.code, response.body) == (503, b"503 for None")
    assert response.headers["Retry-After"] == "2"
    assert cookies(response) == []
    errors += [
        NO_SESSION,
        f"{STORE_FAILED} /1 (127.0.0.1): The session cannot be changed",
    ]


async def test_saving_nothing_is_allowed(site: Site, errors: list[str]) -> None:
    """Behaviour 94: and asks no store."""

    class Handler(SessionMixin):
        session_optional = True

        async def get(self) -> None:
            await self.session.save()

    await begin(site)
    site.vault.failing = {"load", "save"}

    assert (await site.fetch(Handler)).code == 200
    errors.append(NO_SESSION)


async def test_an_error_page_of_it_is_what_it_is(site: Site, errors: list[str]) -> None:
    """Behaviours 75, 94: a 404 stays one."""

    class Handler(SessionMixin):
        session_optional = True

        def get(self) -> None:
            raise HTTPError(404)

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.finish(f"{status_code} for {self.session.user}")

    await begin(site)
    site.vault.failing = {"load"}
    response = await site.fetch(Handler)

    assert (response.code, response.body) == (404, b"404 for None")
    assert "Retry-After" not in response.headers
    errors.append(NO_SESSION)


async def test_a_visitor_without_a_session_does_not_notice(site: Site) -> None:
    """Behaviours 12, 94: there is nothing to load."""
    site.vault.failing = {"load"}
    response = await site.fetch(Page)

    assert json.loads(response.body)["unavailable"] is False
    assert response.headers["Cache-Control"] == "public, max-age=60"


async def test_an_ordinary_handler_and_its_error_page_say_it_as_well(
    site: Site, errors: list[str]
) -> None:
    """Behaviours 75, 94: the template of all pages need not know which one it is."""
    ran: list[str] = []

    class Handler(SessionMixin):
        def get(self) -> None:
            ran.append("get")

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.finish(f"{self.session.unavailable}")

    await begin(site)
    site.vault.failing = {"load"}
    response = await site.fetch(Handler)

    assert (response.code, response.body, ran) == (503, b"True", [])
    errors.append(STORE_FAILED)


async def test_a_websocket_is_refused(site: Site, errors: list[str]) -> None:
    """Behaviour 94: it would stay open without a session when the store is back."""
    opened: list[str] = []

    class Handler(SessionMixin, WebSocketHandler):
        session_optional = True

        def open(self, *args: str, **kwargs: str) -> None:
            opened.append("open")

    await begin(site)
    site.vault.failing = {"load"}
    response = await site.fetch(Handler)

    assert (response.code, opened) == (503, [])
    assert response.headers["Retry-After"] == "2"
    errors.append(STORE_FAILED)


async def test_two_cookies_are_left_alone(site: Site, errors: list[str]) -> None:
    """Behaviours 35, 94: it is not known which one is alive."""
    await begin(site)
    site.vault.failing = {"load"}
    response = await site.fetch(Page, headers={"Cookie": "session=" + "A" * 43})

    assert (response.code, json.loads(response.body)) == (200, EMPTY)
    assert cookies(response) == []
    errors.append(NO_SESSION)


QUERY: dict[str, Any] = {"session_transports": ("cookie", "query")}


@pytest.mark.parametrize("app", [QUERY], indirect=True, ids=[""])
async def test_links_keep_the_id(site: Site, errors: list[str]) -> None:
    """Behaviours 73, 94: a visitor without cookies keeps the session."""

    class Links(SessionMixin):
        session_optional = True

        def get(self) -> None:
            self.write(self.session_url("/a?b=1#c"))

    await begin(site)
    token, site.token = site.token, None
    site.vault.failing = {"load"}
    path = f"{site.path(Links)}?session={token}"
    by_url = await site.client.fetch(site.base_url + path)
    by_two = await site.client.fetch(f"{site.base_url}{path}&session={'A' * 43}")
    site.token = token
    by_cookie = await site.fetch(Links)

    assert by_url.body.decode() == f"/a?b=1&session={token}#c"
    assert by_two.body == b"/a?b=1#c"
    assert by_url.headers["Referrer-Policy"] == "no-referrer"
    assert by_cookie.body == b"/a?b=1#c"
    errors += [NO_SESSION] * 3


BOUND: dict[str, Any] = {
    "xsrf_cookies": True,
    "session_xsrf": True,
    "cookie_secret": "c" * 32,
}


class Form(SessionMixin):
    session_optional = True

    def get(self) -> None:
        self.write(self.xsrf_token)

    def post(self) -> None:
        self.write(dict(self.session))


def _xsrf(response: Any) -> str:  # noqa: ANN401
    lines = response.headers.get_list("Set-Cookie")
    (line,) = [line for line in lines if line.startswith("_xsrf=")]
    return re.sub('"', "", line.partition(";")[0])


@pytest.mark.parametrize("app", [BOUND], indirect=True, ids=[""])
async def test_a_form_of_the_page_is_good_when_the_store_is_back(
    site: Site, errors: list[str]
) -> None:
    """Behaviours 83, 94: it is bound to the session that the visitor still has."""
    await begin(site)
    site.vault.failing = {"load"}
    page = await site.fetch(Form)
    sent = {"Cookie": _xsrf(page)}
    body = b"_xsrf=" + page.body
    down = await site.fetch(Form, "POST", sent, body)
    refused = await site.fetch(Form, "POST", sent)
    site.vault.failing = set()
    back = await site.fetch(Form, "POST", sent, body)

    assert (down.code, json.loads(down.body)) == (200, {})
    assert refused.code == 403
    assert (back.code, json.loads(back.body)) == (200, {"a": 1})
    errors += [NO_SESSION, "No session for POST"]


@pytest.mark.parametrize("app", [BOUND], indirect=True, ids=[""])
@pytest.mark.parametrize("form", [Form, "an error page"])
async def test_of_two_sessions_a_form_keeps_the_one_that_it_is_bound_to(
    site: Site, errors: list[str], form: type[RequestHandler] | str
) -> None:
    """Behaviours 83, 94: also the form of an error page."""

    class ErrorPage(Form):
        session_optional = False

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.finish(self.xsrf_token)

    handler = ErrorPage if isinstance(form, str) else form
    await begin(site)
    xsrf = _xsrf(await site.fetch(Form))
    dead = "session=" + "A" * 43
    site.vault.failing = {"load"}
    page = await site.fetch(handler, headers={"Cookie": f"{dead}; {xsrf}"})
    site.vault.failing = set()
    sent = {"Cookie": f"{dead}; {xsrf}"}
    back = await site.fetch(Form, "POST", sent, b"_xsrf=" + page.body)

    assert page.headers.get_list("Set-Cookie") == []
    assert (back.code, json.loads(back.body)) == (200, {"a": 1})
    errors.append(STORE_FAILED if isinstance(form, str) else NO_SESSION)


@pytest.mark.parametrize("app", [BOUND], indirect=True, ids=[""])
async def test_a_planted_token_does_not_count_while_the_store_is_down(
    site: Site, errors: list[str]
) -> None:
    """Behaviours 83, 94: it is not known for which of two sessions it is good."""
    page = await site.fetch(Form)
    await begin(site)
    sent = {"Cookie": f"session={'A' * 43}; {_xsrf(page)}"}
    body = b"_xsrf=" + page.body
    up = await site.fetch(Form, "POST", sent, body)
    site.vault.failing = {"load"}
    down = await site.fetch(Form, "POST", sent, body)

    assert (up.code, down.code) == (403, 503)
    errors.append("503 POST")


@pytest.mark.parametrize("app", [BOUND], indirect=True, ids=[""])
async def test_a_refused_token_is_logged_as_such(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 83: it is no error of the backend, and any client can cause it."""
    page = await site.fetch(Form)
    await begin(site)
    sent = {"Cookie": f"session={'A' * 43}; {_xsrf(page)}"}
    response = await site.fetch(Form, "POST", sent, b"_xsrf=" + page.body)

    assert response.code == 403
    assert "An error in a backend" not in caplog.text

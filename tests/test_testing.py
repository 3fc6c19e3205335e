"""Tests of what tests of applications use, see `tornado_sessions.testing`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application

import tornado_sessions.testing
from tornado_sessions import SessionError, SessionMixin, Sessions, recent_login
from tornado_sessions.testing import (
    headers_of,
    load_session,
    moved_clock,
    settings_for_tests,
    sign_in,
    start_session,
    url_of,
)

pytestmark = pytest.mark.gen_test(timeout=30)

HTTPS = {"X-Forwarded-Proto": "https"}


class Cart(SessionMixin):
    def get(self) -> None:
        self.write({"user": self.session.user, "values": dict(self.session)})

    def post(self) -> None:
        self.session.setdefault("cart", []).append("kite")


class Recent(SessionMixin):
    @recent_login(max_age=300)
    def get(self) -> None:
        self.write("recent")


class Remembered(SessionMixin):
    def post(self) -> None:
        self.session.persistent = True
        self.session["remembered"] = True


class Served:
    """An application with other settings in each test, served on a free port."""

    def __init__(self, app: Application, url: str) -> None:
        self.app, self.url = app, url

    async def fetch(
        self, path: str, headers: Mapping[str, str] = {}, body: str | None = None
    ) -> HTTPResponse:
        return await AsyncHTTPClient().fetch(
            self.url + path,
            method="GET" if body is None else "POST",
            headers=dict(headers),
            body=body,
            follow_redirects=False,
            raise_error=False,
        )

    async def sees(self, headers: Mapping[str, str], path: str = "/cart") -> Any:  # noqa: ANN401
        """Returns the user and the values that a handler sees."""
        return json.loads((await self.fetch(path, headers)).body)


class Serving:
    def __init__(self) -> None:
        self._servers: list[HTTPServer] = []

    def __call__(self, **settings: Any) -> Served:
        app = Application(
            [("/cart", Cart), ("/recent", Recent), ("/remembered", Remembered)],
            login_url="/login",
            **settings_for_tests(**settings),
        )
        server = HTTPServer(app, xheaders=True)
        socket, port = bind_unused_port()
        server.add_socket(socket)
        self._servers.append(server)
        return Served(app, f"http://127.0.0.1:{port}")

    def stop(self) -> None:
        for server in self._servers:
            server.stop()


@pytest.fixture
def serve(io_loop: object) -> Iterator[Serving]:
    serving = Serving()
    yield serving
    serving.stop()


@pytest.fixture(params=["memory", "sqlite", "cookie"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    file = f"sqlite:///{tmp_path}/sessions.db?timeout=20"
    return {"memory": "memory", "sqlite": file, "cookie": "cookie:"}[request.param]


async def test_a_signed_in_request_has_its_user_and_values(
    serve: Serving, backend: str
) -> None:
    """The headers are those of a browser whose user has signed in."""
    site = serve(session_backend=backend)
    headers = await sign_in(site.app, "ada", cart=["kite"])

    assert await site.sees(headers) == {"user": "ada", "values": {"cart": ["kite"]}}
    await Sessions.of(site.app).close()


async def test_what_a_handler_has_stored_can_be_read(
    serve: Serving, backend: str
) -> None:
    """It is read from the store, and not from what the test has set."""
    site = serve(session_backend=backend)
    headers = await sign_in(site.app, "ada")
    response = await site.fetch("/cart", headers, body="")
    if "Set-Cookie" in response.headers:
        headers = {"Cookie": response.headers["Set-Cookie"].partition(";")[0]}
    session = await load_session(site.app, headers)

    assert response.code == 200
    assert session == {"cart": ["kite"]}
    assert session.user == "ada"
    await Sessions.of(site.app).close()


async def test_a_stored_session_can_be_changed(serve: Serving, backend: str) -> None:
    """The next request has the change, with the headers of the saved session."""
    site = serve(session_backend=backend)
    session = await load_session(site.app, await sign_in(site.app, "ada", a=1, b=1))
    session["b"] = 2
    await session.save()

    assert (await site.sees(headers_of(site.app, session)))["values"] == {
        "a": 1,
        "b": 2,
    }
    await Sessions.of(site.app).close()


async def test_a_change_is_merged_with_that_of_a_request(serve: Serving) -> None:
    """Behaviour 36: the save is a compare-and-set."""
    site = serve()
    headers = await sign_in(site.app, "ada")
    session = await load_session(site.app, headers)
    await site.fetch("/cart", headers, body="")
    session["b"] = 2
    await session.save()

    assert (await site.sees(headers))["values"] == {"cart": ["kite"], "b": 2}


async def test_a_visitor_can_be_anonymous(serve: Serving) -> None:
    """A session may have values and no user."""
    site = serve()
    session = await start_session(site.app, cart=["kite"])

    assert await site.sees(headers_of(site.app, session)) == {
        "user": None,
        "values": {"cart": ["kite"]},
    }


@pytest.mark.parametrize("headers", [{}, {"Cookie": "a=b"}, {"Cookie": "session=no"}])
async def test_without_a_session_an_empty_one_is_read(
    serve: Serving, headers: dict[str, str]
) -> None:
    """It says that it is new."""
    session = await load_session(serve().app, headers)

    assert session.is_new
    assert session == {}


async def test_of_two_sessions_in_one_request_none_is_read(serve: Serving) -> None:
    """As in a handler: it is not known whose session it is."""
    site = serve()
    ada, bob = [await sign_in(site.app, name, a=1) for name in ("ada", "bob")]
    both = {"Cookie": f"{ada['Cookie']}; {bob['Cookie']}"}

    assert await load_session(site.app, both) == {}
    assert await load_session(site.app, {"Cookie": f"{ada['Cookie']}; session=x"}) == {
        "a": 1
    }


@pytest.mark.parametrize("name", ["session", "__Host-sid", "__Secure-sid", "sid"])
async def test_the_cookie_has_the_name_of_its_protocol(
    serve: Serving, name: str
) -> None:
    """Over https it has its prefix, and on loopback none."""
    site = serve(session_cookie_name=name)
    session = await start_session(site.app, "ada")
    both = headers_of(site.app, session)
    plain = headers_of(site.app, session, https=False)
    https = headers_of(site.app, session, https=True)

    assert plain["Cookie"].startswith(
        f"{name.removeprefix('__Host-').removeprefix('__Secure-')}="
    )
    assert https["Cookie"].startswith("__")
    assert (await site.sees(plain))["user"] == "ada"
    assert (await site.sees(https | HTTPS))["user"] == "ada"
    assert (await site.sees(plain | HTTPS))["user"] is None
    assert (await site.sees(both))["user"] == "ada"
    assert (await site.sees(both | HTTPS))["user"] == "ada"
    assert (await load_session(site.app, both)).user == "ada"
    assert (await load_session(site.app, plain)).user == "ada"
    assert (await load_session(site.app, https)).user == "ada"


@pytest.mark.parametrize("https", [False, True])
@pytest.mark.parametrize("names", ["both", "one"])
@pytest.mark.parametrize("session_xsrf", [False, True])
@pytest.mark.parametrize("name", ["_xsrf", "xsrf-token", "__Host-xsrf"])
async def test_a_post_brings_its_xsrf_token(
    serve: Serving, session_xsrf: bool, name: str, https: bool, names: str
) -> None:
    """Without the token it is refused, and with that of another session as well."""
    site = serve(xsrf_cookies=True, session_xsrf=session_xsrf, xsrf_cookie_name=name)
    session = await start_session(site.app, "ada")
    headers = headers_of(site.app, session, https=https if names == "one" else None)
    if https:
        headers |= HTTPS
    token = headers.pop("X-Xsrftoken")
    refused = await site.fetch("/cart", headers, body="")
    accepted = await site.fetch("/cart", headers | {"X-Xsrftoken": token}, body="")
    form = await site.fetch("/cart", headers, body=f"_xsrf={token}")
    strangers = await sign_in(site.app, "bob")
    stranger = await site.fetch(
        "/cart", headers | {"X-Xsrftoken": strangers["X-Xsrftoken"]}, body=""
    )

    assert (refused.code, accepted.code) == (403, 200)
    assert (form.code, stranger.code) == (200, 403)


async def test_a_post_without_tokens_says_where_it_comes_from(serve: Serving) -> None:
    """As a browser does; without that header it is refused."""
    site = serve(session_cross_origin_protection=True)
    headers = await sign_in(site.app, "ada")
    accepted = await site.fetch("/cart", headers, body="")
    refused = await site.fetch("/cart", {"Cookie": headers["Cookie"]}, body="")

    assert (accepted.code, refused.code) == (200, 403)


async def test_an_id_in_a_header_is_sent_in_that_header(serve: Serving) -> None:
    """Where the setting has it first, or the test asks for it."""
    first = serve(session_transports=("header", "cookie"))
    second = serve(session_transports=("cookie", "header"))
    headers = await sign_in(first.app, "ada")
    session = await start_session(second.app, "ada")
    cookie = headers_of(second.app, session)
    header = headers_of(second.app, session, transport="header")

    assert list(headers) == list(header) == ["X-Session-Token"]
    assert list(cookie) == ["Cookie"]
    assert (await first.sees(headers))["user"] == "ada"
    assert (await load_session(first.app, headers)).user == "ada"
    assert (await second.sees(header))["user"] == "ada"
    assert (await load_session(second.app, header)).user == "ada"
    assert (await second.sees(cookie))["user"] == "ada"


async def test_an_id_in_the_url_is_put_in_there(serve: Serving) -> None:
    """For a path and for a whole URL."""
    site = serve(session_transports=("query",))
    session = await start_session(site.app, "ada")
    path, url = (url_of(session, each) for each in ("/cart", f"{site.url}/cart?a=b"))

    assert (await site.sees({}, path))["user"] == "ada"
    assert (await site.sees({}, url.removeprefix(site.url)))["user"] == "ada"
    with pytest.raises(ValueError, match=r"Use url_of\(session, url\)\."):
        headers_of(site.app, session)


async def test_a_transport_that_there_is_not_is_refused(serve: Serving) -> None:
    """The message has the setting."""
    app = serve().app
    session = await start_session(app, "ada")

    with pytest.raises(ValueError, match=r"transport='header' is not .*\('cookie',\)"):
        headers_of(app, session, transport="header")


async def test_a_session_that_is_not_saved_has_no_headers(
    serve: Serving, backend: str
) -> None:
    """Nothing is stored without a user and a value, and a login changes the id."""
    app = serve(session_backend=backend).app
    empty, ada = await start_session(app), await start_session(app, "ada")
    ada.login("bob")

    for session in (empty, ada):
        with pytest.raises(SessionError, match=r"Call 'await session\.save\(\)'"):
            headers_of(app, session)
        with pytest.raises(SessionError, match=r"Call 'await session\.save\(\)'"):
            url_of(session, "/")
    await Sessions.of(app).close()


async def test_each_application_under_test_has_sessions_of_its_own(
    serve: Serving,
) -> None:
    """With the settings for tests no test sees what another one has stored."""
    headers = await sign_in(serve().app, "ada")

    assert (await load_session(serve().app, headers)).is_new
    assert (
        settings_for_tests()["cookie_secret"] != settings_for_tests()["cookie_secret"]
    )
    assert settings_for_tests(cookie_secret="mine")["cookie_secret"] == "mine"


async def test_a_moved_clock_ends_an_idle_session(serve: Serving, backend: str) -> None:
    """Behaviour 47: without waiting, and a request before the end extends it."""
    site = serve(session_backend=backend, session_idle_timeout=1800)
    with moved_clock(site.app) as clock:
        headers = await sign_in(site.app, "ada")
        clock.move(minutes=29)
        response = await site.fetch("/cart", headers)
        if "Set-Cookie" in response.headers:
            headers = {"Cookie": response.headers["Set-Cookie"].partition(";")[0]}
        clock.move(minutes=29)
        alive = await site.sees(headers)
        clock.move(minutes=31)
        ended = await site.sees(headers)

    assert (alive["user"], ended["user"]) == ("ada", None)
    await Sessions.of(site.app).close()


async def test_a_moved_clock_stands_still(serve: Serving) -> None:
    """So the times of a session are exact, and its cookie lasts as long."""
    site = serve(session_idle_timeout=1800)
    with moved_clock(site.app) as clock:
        headers = await sign_in(site.app, "ada")
        clock.move(seconds=100)
        response = await site.fetch("/remembered", headers, body="")
        session = await load_session(site.app, headers)

        assert session.last_seen == session.created + 100 == clock.time
        assert "; Max-Age=1800;" in response.headers["Set-Cookie"]


async def test_a_login_is_not_recent_after_a_moved_clock(serve: Serving) -> None:
    """`recent_login` goes by the same clock."""
    site = serve()
    with moved_clock(site.app) as clock:
        headers = await sign_in(site.app, "ada")
        before = await site.fetch("/recent", headers)
        clock.move(minutes=5)
        after = await site.fetch("/recent", headers)

    assert (before.code, after.code) == (200, 302)
    assert after.headers["Location"] == "/login?next=%2Frecent"


async def test_a_moved_clock_lets_expired_sessions_be_purged(
    serve: Serving, tmp_path: Path
) -> None:
    """A record is kept for some minutes longer than its session."""
    site = serve(session_backend=f"sqlite:///{tmp_path}/sessions.db?timeout=20")
    with moved_clock(site.app) as clock:
        await sign_in(site.app, "ada")
        early = await Sessions.of(site.app).purge()
        clock.move(days=2)
        late = await Sessions.of(site.app).purge()

    assert (early, late) == (0, 1)
    await Sessions.of(site.app).close()


async def test_an_expired_session_is_told_once(serve: Serving) -> None:
    """Though its cookie is there under two names."""
    events: list[str] = []
    site = serve(session_listener=lambda event: events.append(event.name))
    with moved_clock(site.app) as clock:
        headers = await sign_in(site.app, "ada")
        clock.move(days=2)
        session = await load_session(site.app, headers)

    assert session.is_new
    assert events == ["created", "expired"]


async def test_the_clock_is_the_former_one_after_the_block(serve: Serving) -> None:
    """Also where the test has failed in it."""
    app = serve().app
    clock = Sessions.of(app).now
    with pytest.raises(ArithmeticError), moved_clock(app):
        raise ArithmeticError

    assert Sessions.of(app).now is clock


async def test_a_test_of_an_application_imports_no_contract() -> None:
    """Nor pytest: the contracts are for authors of backends."""
    program = "import sys, tornado_sessions.testing; print(*sys.modules)"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    imported = set(output.decode().split())
    ours = {name for name in imported if name.startswith("tornado_sessions.testing.")}

    assert ours == {
        f"tornado_sessions.testing.{name}" for name in ("client", "clock", "sessions")
    }
    assert not imported & {"pytest", "unittest", "tornado.testing"}


async def test_all_public_names_can_be_imported() -> None:
    """Those of the contracts are looked up when they are first used."""
    for name in tornado_sessions.testing.__all__:
        assert getattr(tornado_sessions.testing, name).__name__ == name


async def test_an_unknown_name_is_an_attribute_error() -> None:
    """As in every module."""
    with pytest.raises(AttributeError, match=r"'tornado_sessions\.testing' .* 'nope'"):
        getattr(tornado_sessions.testing, "nope")  # noqa: B009

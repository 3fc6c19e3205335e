"""Tests of `SessionStatusHandler`, and of handlers that do not extend the session."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.web import Application
from tornado_sessions_memory import MemoryBackend

from tornado_sessions import (
    BackendError,
    Record,
    SessionMixin,
    Sessions,
    SessionStatusHandler,
    Version,
)
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import Settings
from tornado_sessions.testing import Client, moved_clock, settings_for_tests

pytestmark = pytest.mark.gen_test(timeout=30)

IDLE = 1000
LIFETIME = 5000


class Page(SessionMixin):
    """An ordinary page, which counts as use."""

    def get(self) -> None:
        self.write({"expires_in": self.session.expires_in})

    def post(self) -> None:
        self.session.login("ada")
        self.session.persistent = self.get_body_argument("persistent", "") == "yes"


class News(SessionMixin):
    """What a page asks for by itself."""

    session_extends = False

    def get(self) -> None:
        self.write({"expires_in": self.session.expires_in})

    async def post(self) -> None:
        for name in ("first", "second"):
            self.session[name] = self.get_body_argument("value")
            await self.session.save()

    async def put(self) -> None:
        await self.session.transact(lambda session: session.update(a=1))

    def patch(self) -> None:
        self.session.regenerate()

    def delete(self) -> None:
        self.session.login("bob")


class OptionalStatus(SessionStatusHandler):
    session_optional = True


@pytest.fixture
def settings() -> dict[str, Any]:
    return {}


@pytest.fixture
def app(settings: dict[str, Any]) -> Application:
    return Application(
        [
            ("/page", Page),
            ("/news", News),
            ("/session", SessionStatusHandler),
            ("/optional", OptionalStatus),
        ],
        **settings_for_tests(
            session_idle_timeout=IDLE, session_lifetime=LIFETIME, **settings
        ),
    )


# Naming the application lets pytest see the settings of a test.
@pytest.fixture
def client(app: Application, http_server: HTTPServer, base_url: str) -> Client:
    return Client(base_url, app)


def with_settings(*each: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("settings", each)


each_store = with_settings({}, {"session_backend": "cookie:"})


async def status_of(client: Client, method: str = "GET") -> dict[str, Any]:
    response = await client.fetch(
        "/session", method=method, body=None if method == "GET" else ""
    )
    assert response.code == 200
    assert response.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = json.loads(response.body)
    return found


# Handlers that do not extend the session.


@each_store
async def test_reads_do_not_extend_the_session(
    app: Application, client: Client
) -> None:
    """Behaviour 48: a page that asks for news ends as if it was closed."""
    with moved_clock(app) as clock:
        await client.sign_in("ada")
        left = []
        for _ in range(9):
            clock.move(seconds=IDLE / 10)
            left.append(json.loads((await client.get("/news")).body)["expires_in"])
        clock.move(seconds=IDLE / 10)
        session = await client.session()

    assert left == [900, 800, 700, 600, 500, 400, 300, 200, 100]
    assert session.user is None


@each_store
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_saves_do_not_extend_the_session(
    app: Application, client: Client, method: str
) -> None:
    """Behaviour 48: what they change is stored, and the last use stays."""
    with moved_clock(app) as clock:
        before = await client.sign_in("ada", kept=True)
        clock.move(seconds=IDLE / 2)
        await client.fetch("/news", method=method, body="value=1")
        after = await client.session()
        clock.move(seconds=IDLE / 2)
        end = await client.session()

    stored = {"first": "1", "second": "1"} if method == "POST" else {"a": 1}
    assert after == {"kept": True, **stored}
    assert (after.last_seen, after.expires) == (before.last_seen, before.expires)
    assert end.user is None


@each_store
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_a_new_id_extends_the_session(
    app: Application, client: Client, method: str
) -> None:
    """Behaviour 48: a login and regenerate() restart the idle timeout."""
    with moved_clock(app) as clock:
        await client.sign_in("ada")
        clock.move(seconds=IDLE / 2)
        body = "" if method == "PATCH" else None
        await client.fetch("/news", method=method, body=body)
        session = await client.session()

    assert session.expires == clock.time + IDLE


async def test_a_session_begins_in_a_handler_that_does_not_extend_it(
    app: Application, client: Client
) -> None:
    """It has its whole idle timeout."""
    with moved_clock(app) as clock:
        await client.post("/news", {"value": "1"})
        session = await client.session()

    assert session == {"first": "1", "second": "1"}
    assert session.expires == clock.time + IDLE


# The ready-made handler.


@with_settings({}, {"session_backend": "cookie:"}, {"session_persistent": True})
async def test_the_status_says_how_long_the_session_lasts(
    app: Application, client: Client
) -> None:
    """It does not extend it, however often it is asked."""
    with moved_clock(app) as clock:
        await client.sign_in("ada")
        first = await status_of(client)
        clock.move(seconds=IDLE - 0.5)
        last = await status_of(client)
        clock.move(seconds=0.5)
        end = await status_of(client)

    assert first == {"seconds_left": IDLE, "signed_in": True, "extendable": True}
    assert last == {"seconds_left": 1, "signed_in": True, "extendable": True}
    assert end == {"seconds_left": 0, "signed_in": False, "extendable": False}


@each_store
@pytest.mark.parametrize("passed", [1, IDLE - 1])
async def test_a_post_extends_the_session(
    app: Application, client: Client, passed: int
) -> None:
    """At once, also before a renewal is due, and it returns the new time."""
    with moved_clock(app) as clock:
        await client.sign_in("ada", cart=["kite"])
        clock.move(seconds=passed)
        answer = await status_of(client, "POST")
        clock.move(seconds=IDLE - 1)
        session = await client.session()
        left = session.expires_in

    assert answer == {"seconds_left": IDLE, "signed_in": True, "extendable": True}
    assert session == {"cart": ["kite"]}
    assert left == 1


async def test_a_post_sends_a_persistent_cookie_again(
    app: Application, client: Client
) -> None:
    """Otherwise the browser would drop it at the former end."""
    with moved_clock(app) as clock:
        await client.post("/page", {"persistent": "yes"})
        clock.move(seconds=1)
        response = await client.post("/session")

    assert f"Max-Age={IDLE}" in response.headers["Set-Cookie"]


@each_store
async def test_a_post_does_not_extend_the_lifetime(
    app: Application, client: Client
) -> None:
    """The status says so before, as nothing but a login helps."""
    with moved_clock(app) as clock:
        await client.sign_in("ada")
        for _ in range(9):
            clock.move(seconds=IDLE / 2)
            await client.get("/page")
        clock.move(seconds=1)
        before = await status_of(client)
        after = await status_of(client, "POST")

    left = LIFETIME - 9 * IDLE // 2 - 1
    assert before == {"seconds_left": left, "signed_in": True, "extendable": False}
    assert after == before


@with_settings(
    {"session_anonymous_idle_timeout": 300},
    {"session_anonymous_idle_timeout": 300, "session_backend": "cookie:"},
)
async def test_anonymous_visitors_have_their_own_timeout(
    app: Application, client: Client
) -> None:
    with moved_clock(app) as clock:
        await client.post("/news", {"value": "1"})
        clock.move(seconds=100)
        before = await status_of(client)
        after = await status_of(client, "POST")

    assert before == {"seconds_left": 200, "signed_in": False, "extendable": True}
    assert after["seconds_left"] == 300


async def test_without_a_session_nothing_begins(client: Client) -> None:
    """Neither with a GET nor with a POST."""
    none = {"seconds_left": 0, "signed_in": False, "extendable": False}
    assert await status_of(client) == none
    assert await status_of(client, "POST") == none
    assert client.headers == {}


class Hooked(MemoryBackend):
    """Calls a function before the next replacement of a record."""

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False
        self.before: Callable[[], Awaitable[object]] | None = None

    async def load(self, key: bytes) -> Record | None:
        if self.is_down:
            raise BackendError("Down.")
        return await super().load(key)

    async def replace(self, key: bytes, record: Record, version: Version) -> Version:
        before, self.before = self.before, None
        if before is not None:
            await before()
        return await super().replace(key, record, version)


@pytest.fixture
def hooked(settings: dict[str, Any]) -> Hooked:
    settings["session_backend"] = backend = Hooked()
    return backend


async def test_a_post_that_the_store_fails_says_so(
    hooked: Hooked, app: Application, client: Client
) -> None:
    """The page must not tell its user that all is well. The session stays."""

    async def fail() -> None:
        raise BackendError("Down.")

    with moved_clock(app) as clock:
        await client.sign_in("ada")
        clock.move(seconds=10)
        hooked.before = fail
        response = await client.post("/session")
        after = await status_of(client)

    assert response.code == 503
    assert "Retry-After" in response.headers
    assert after["seconds_left"] == IDLE - 10


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/session", "/optional"])
async def test_the_status_is_unknown_while_the_store_is_down(
    hooked: Hooked, app: Application, client: Client, path: str, method: str
) -> None:
    """Also in an optional handler: the page would take its user for signed out."""
    await client.sign_in("ada")
    hooked.is_down = True
    response = await client.fetch(path, method, None if method == "GET" else "")

    assert response.code == 503


async def test_a_failed_post_is_logged(
    hooked: Hooked, app: Application, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """With the error of the store, and with the request."""

    async def fail() -> None:
        raise BackendError("Down.")

    await client.sign_in("ada")
    hooked.before = fail
    await client.post("/session")

    logged = [r.getMessage() for r in caplog.records if "sessions" in r.name]
    assert logged[0] == "A session could not be renewed: Down."
    assert "The session could not be extended: the store has failed." in logged[1]


@pytest.mark.parametrize("extends", [True, False])
async def test_a_post_after_another_request_has_its_time(
    hooked: Hooked, app: Application, client: Client, extends: bool
) -> None:
    """That one has extended the session, or has left its end as it was."""
    sessions = Sessions.of(app)
    # Another process, on the same store.
    elsewhere = Sessions(Settings(sessions.vault, idle_timeout=IDLE, lifetime=LIFETIME))

    async def be_first() -> None:
        state = await elsewhere.loader.load(token)
        state.extends = extends
        state.set("a", 1)
        await elsewhere.commits.commit(state)

    with moved_clock(app) as clock:
        elsewhere.now = sessions.now
        await client.sign_in("ada")
        token = state_of(await client.session()).token
        clock.move(seconds=IDLE / 2)
        hooked.before = be_first
        answer = await status_of(client, "POST")
        session = await client.session()
    elsewhere.cleanup.close()

    assert answer["seconds_left"] == IDLE
    assert session.expires == clock.time + IDLE
    assert session["a"] == 1


async def test_a_post_of_a_session_that_has_ended_meanwhile_says_so(
    hooked: Hooked, app: Application, client: Client
) -> None:
    """Such as signed out in another tab: the page shows the login then."""
    await client.sign_in("ada")
    sessions = Sessions.of(app)
    hooked.before = lambda: sessions.revoke_all("ada")
    answer = await status_of(client, "POST")

    assert answer == {"seconds_left": 0, "signed_in": False, "extendable": False}


@with_settings(
    {"xsrf_cookies": True},
    {"xsrf_cookies": True, "session_xsrf": True},
    {"session_cross_origin_protection": True},
)
async def test_a_post_of_another_site_extends_nothing(
    app: Application, client: Client
) -> None:
    """It is protected as the other handlers of the application are."""
    with moved_clock(app) as clock:
        await client.sign_in("ada")
        clock.move(seconds=10)
        foreign = {"X-Xsrftoken": "", "Sec-Fetch-Site": "cross-site"}
        response = await client.post("/session", headers=foreign)
        refused = await status_of(client)
        own = await status_of(client, "POST")

    assert response.code == 403
    assert (refused["seconds_left"], own["seconds_left"]) == (IDLE - 10, IDLE)

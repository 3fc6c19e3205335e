"""Tests that no secret reaches an error tracker, with Sentry's own SDK.

It sends the local variables of each frame of a traceback, and walks through those
that are mappings. What it removes by name, such as ``password``, is left on: that is
not to be what saves us.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import inspect
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pymongo
import pymongo.database
import pymongo.errors
import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.integrations.tornado import TornadoIntegration
from sentry_sdk.scrubber import EventScrubber
from sentry_sdk.transport import Transport
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import Application, RequestHandler
from tornado_sessions_memory import MemoryBackend

from tests.tokens import token_of
from tornado_sessions import (
    Backend,
    BackendError,
    Record,
    Session,
    SessionMixin,
    Sessions,
    Vault,
    Version,
)
from tornado_sessions.core import retries
from tornado_sessions.testing import FaultyVault
from tornado_sessions.web.unloaded import UnloadedSession

MONGODB = os.environ.get("SESSIONS_TEST_MONGODB_URL", "")
# MongoDB's code for a collection whose index is being built.
INDEX_BUILD_IN_PROGRESS = 12587

# Not in one piece, as a report has lines of the source, too.
VALUE, FLASH, LABEL, PASSWORD = (f"{name}-s3cr3t" for name in ("v", "f", "l", "p"))

Act = Callable[[SessionMixin], Any]


class Collector(Transport):
    """Keeps what would be sent."""

    def __init__(self, options: Any = None) -> None:  # noqa: ANN401
        super().__init__(options)
        self.sent: list[str] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.sent.append(envelope.serialize().decode())


@pytest.fixture(scope="module")
def sentry() -> Iterator[Collector]:
    patched = [
        (RequestHandler, "_execute"),
        (RequestHandler, "log_exception"),
        (logging.Logger, "callHandlers"),
    ]
    kept = [getattr(owner, name) for owner, name in patched]
    collector = Collector()
    sentry_sdk.init(
        dsn="http://key@localhost/1",
        transport=collector,
        default_integrations=False,
        integrations=[TornadoIntegration(), LoggingIntegration()],
        event_scrubber=EventScrubber(denylist=[], pii_denylist=[]),
    )
    yield collector
    sentry_sdk.init()
    for (owner, name), value in zip(patched, kept, strict=True):
        setattr(owner, name, value)


class Handler(SessionMixin):
    async def post(self) -> None:
        done = self.settings["act"](self)
        if inspect.isawaitable(done):
            await done

    get = post

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:  # noqa: ANN401
        super().log_exception(typ, value, tb)
        # Tornado's integration leaves out what is no fault.
        sentry_sdk.capture_exception((typ, value, tb))


class Stubborn(MemoryBackend):
    """Reports a conflict for each replacement."""

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        return None


def settings_of(kind: str, folder: str) -> dict[str, Any]:
    backends: dict[str, str | Backend] = {
        "cookie": "cookie:",
        "sqlite": f"sqlite:///{folder}/sessions.db",
        "stubborn": Stubborn(),
    }
    return {
        "session_backend": backends.get(kind, "memory:"),
        "session_transports": ("header", "query") if kind == "header" else ("cookie",),
        "session_xsrf": kind == "xsrf",
        "xsrf_cookies": kind == "xsrf",
        "session_max_per_user": 1 if kind == "limit" else None,
        "session_max_per_user_policy": "refuse" if kind == "limit" else "oldest",
        "cookie_secret": "c" * 32,
    }


@pytest.fixture
def app(request: pytest.FixtureRequest, tmp_path: Any) -> Application:  # noqa: ANN401
    kind = getattr(request, "param", "memory")
    app = Application([("/", Handler)], act=None, **settings_of(kind, str(tmp_path)))
    sessions = Sessions.of(app)
    sessions.vault = FaultyVault(sessions.vault, suspends=True)
    return app


class Site:
    """Sends requests of one visitor, and looks through the reports of them."""

    def __init__(self, app: Application, url: str, sentry: Collector) -> None:
        self.app = app
        self.url = url
        self.sentry = sentry
        self.sessions = Sessions.of(app)
        self.tokens: list[str] = []

    @property
    def vault(self) -> FaultyVault:
        assert isinstance(self.sessions.vault, FaultyVault)
        return self.sessions.vault

    async def begin(self, user: str | None = None) -> None:
        session = await self.sessions.load(None)
        session.update({VALUE: 1, "value": {"inner": [VALUE]}})
        session.flash(FLASH)
        session.label = LABEL
        if user is not None:
            session.login(user)
        await session.save()
        self.tokens.append(token_of(session))
        self.sentry.sent.clear()

    async def does(self, act: Act, **headers: str) -> HTTPResponse:
        self.app.settings["act"] = act
        client = AsyncHTTPClient(force_instance=True)
        try:
            return await client.fetch(
                self.url,
                method="POST",
                body="",
                headers={"Cookie": f"session={self.tokens[-1]}"} | headers,
                raise_error=False,
                request_timeout=30,
            )
        finally:
            client.close()

    def check(self) -> None:
        """Asserts that something was reported, and nothing that is secret."""
        assert self.sentry.sent
        check(self.sentry, self.tokens, self.vault)


def check(sentry: Collector, tokens: list[str], vault: FaultyVault | None) -> None:
    text = "\n".join(sentry.sent)
    secrets = [VALUE, FLASH, LABEL, PASSWORD, *tokens]
    for token in tokens:
        if vault is not None and vault.revocable:
            inner = vault.inner
            key = inner.key_of(token)
            secrets += [repr(key)[2:-1], key.hex(), base64.b64encode(key).decode()[:-1]]
            secrets += [base64.urlsafe_b64encode(key).decode()[:-1]]
    for secret in secrets:
        at = text.find(secret)
        assert at < 0, text[max(0, at - 300) : at]
        # As one string inside another is written.
        at = text.find(secret.replace("\\", "\\\\"))
        assert at < 0, text[max(0, at - 300) : at]


@pytest.fixture
def site(
    app: Application,
    http_server: HTTPServer,
    base_url: str,
    sentry: Collector,
    io_loop: IOLoop,
) -> Iterator[Site]:
    site = Site(app, base_url + "/", sentry)
    yield site
    io_loop.run_sync(site.sessions.close)


def change(handler: SessionMixin) -> None:
    handler.session["mine"] = [VALUE]


def unstorable(handler: SessionMixin) -> None:
    change(handler)
    handler.session["tags"] = {"a": {VALUE}}


async def unstorable_saved(handler: SessionMixin) -> None:
    unstorable(handler)
    await handler.session.save()


def too_large(handler: SessionMixin) -> None:
    handler.session["mine"] = VALUE * 100_000


async def too_large_saved(handler: SessionMixin) -> None:
    too_large(handler)
    await handler.session.save()


def too_large_moved(handler: SessionMixin) -> None:
    too_large(handler)
    handler.session.login("ada")


async def late(handler: SessionMixin) -> None:
    await handler.flush()
    handler.session.regenerate()


async def late_flash(handler: SessionMixin) -> None:
    handler.session.destroy()
    await handler.flush()
    handler.session.flash(FLASH)


async def late_value(handler: SessionMixin) -> None:
    handler.session.destroy()
    await handler.flush()
    handler.session.update(mine=VALUE)


# What type checkers refuse is what these tests are about.


def wrong_key(handler: SessionMixin) -> None:
    handler.session |= {"mine": VALUE, 7: VALUE}  # type: ignore[dict-item]


def wrong_default(handler: SessionMixin) -> None:
    handler.session.setdefault(7, VALUE)  # type: ignore[arg-type]


def wrong_flash(handler: SessionMixin) -> None:
    handler.session.flash(FLASH, 7)  # type: ignore[arg-type]


def wrong_text(handler: SessionMixin) -> None:
    handler.session.flash(f"{FLASH}\ud800")


def wrong_label(handler: SessionMixin) -> None:
    handler.session.label = LABEL * 100


def wrong_user(handler: SessionMixin) -> None:
    change(handler)
    handler.session.login(None)  # type: ignore[arg-type]


def wrong_expiry(handler: SessionMixin) -> None:
    change(handler)
    handler.session.set_expiry(idle="x")  # type: ignore[arg-type]


def held(handler: SessionMixin) -> None:
    session, sessions = handler.session, [handler.session]
    assert session is sessions[0]
    change(handler)
    raise ArithmeticError


async def transacted(handler: SessionMixin) -> None:
    def function(session: Session) -> None:
        session["mine"] = VALUE
        raise ArithmeticError("The function failed.")

    change(handler)
    await handler.session.transact(function)


async def transacted_badly(handler: SessionMixin) -> None:
    await handler.session.transact(lambda session: session.update(mine={VALUE}))


async def reload(handler: SessionMixin) -> None:
    change(handler)
    await handler.session.reload()


async def transact(handler: SessionMixin) -> None:
    change(handler)
    await handler.session.transact(change_in)


def change_in(session: Session) -> None:
    session["mine"] = [VALUE]


async def save(handler: SessionMixin) -> None:
    change(handler)
    await handler.session.save()


async def moved(handler: SessionMixin) -> None:
    change(handler)
    handler.session.regenerate()


def destroy(handler: SessionMixin) -> None:
    handler.session.destroy()


@pytest.mark.parametrize("app", ["memory", "sqlite", "cookie"], indirect=True)
@pytest.mark.parametrize(
    "act",
    [
        *(unstorable, unstorable_saved, too_large, too_large_saved, too_large_moved),
        *(late, late_flash, late_value, wrong_key, wrong_default, wrong_flash),
        *(wrong_text, wrong_label, wrong_user, wrong_expiry, held, transacted),
        transacted_badly,
    ],
)
@pytest.mark.gen_test
async def test_an_error_of_the_application_reports_no_secret(
    site: Site, act: Act
) -> None:
    """Behaviour 82: for everything that is refused."""
    if act in (too_large, too_large_saved, too_large_moved):
        backend = getattr(site.vault.inner, "backend", None)
        if backend is not None:
            backend.max_bytes = 65536
    await site.begin()
    await site.does(act)

    site.check()


@pytest.mark.parametrize("app", ["memory", "sqlite"], indirect=True)
@pytest.mark.parametrize("make", [lambda: {VALUE}, lambda: [VALUE] * 10_000])
@pytest.mark.gen_test
async def test_an_edit_that_cannot_be_stored_reports_no_secret(
    site: Site, make: Callable[[], object]
) -> None:
    """Behaviours 82, 92: at the end of its block, which is the application's."""
    await site.begin(user="ada")

    async def edit(handler: SessionMixin) -> None:
        async with handler.sessions.edit("ada", handler.session.id) as session:
            session["mine"] = make()

    assert (await site.does(edit)).code == 500
    site.check()


# Public methods that leave no frame with a secret where they raise: their arguments are
# keys, ids or nothing at all, and what they return is not in a local before that.
_NEEDS_NO_HIDING = {
    *("__contains__", "__delitem__", "__getitem__", "__iter__", "__len__", "__repr__"),
    *("__reduce__", "__reversed__", "__sentry_repr__", "items", "keys", "values"),
    *("__eq__", "get", "pop", "popitem"),
    # These hide what they raise by themselves.
    *("__setitem__", "of", "of_all_users"),
    # These raise nothing, or what Python raises for every object.
    *("__class_getitem__", "__del__", "__getattr__", "__init__", "__setattr__"),
    *("__init_subclass__", "__subclasshook__"),
    *("of_request", "view"),
}


@pytest.mark.parametrize("kind", [Session, UnloadedSession, Sessions])
def test_every_public_method_hides_its_frames(kind: type) -> None:
    """Behaviour 82: a new method is decorated with hides_frames, or listed here."""
    bare = set()
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if name.startswith("_") and not name.startswith("__"):
            continue
        # Of a property only the setter has an argument.
        for found in (member, getattr(member, "fset", None)):
            function = getattr(found, "__func__", found)
            if inspect.isfunction(function) and not hasattr(function, "__wrapped__"):
                bare.add(name)

    # A clock, a vault and a user are set by tests, or not at all.
    assert bare - {"now", "user", "vault"} <= _NEEDS_NO_HIDING


@pytest.mark.parametrize("app", ["memory", "sqlite", "cookie"], indirect=True)
@pytest.mark.parametrize(
    ("operation", "act"),
    [
        *(("load", save), ("save", change), ("save", save), ("save", transact)),
        *(("save", moved), ("delete", destroy)),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.gen_test
async def test_a_store_that_fails_reports_no_secret(
    site: Site,
    operation: str,
    act: Act,
    debug: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Behaviours 8, 82: and neither does a log with the whole traceback."""
    await site.begin()
    if debug:
        caplog.set_level(logging.DEBUG, "tornado_sessions")
    site.vault.failing.add(operation)
    response = await site.does(act)
    site.vault.failing.clear()

    assert response.code == 503
    site.check()


@pytest.mark.parametrize("act", [save, reload, transact])
@pytest.mark.gen_test
async def test_a_session_that_has_gone_reports_no_secret(site: Site, act: Act) -> None:
    """Behaviour 82: whichever verb notices it."""
    await site.begin()

    async def end(handler: SessionMixin) -> None:
        await site.vault.delete(site.tokens[-1])
        await act(handler)

    assert (await site.does(end)).code == 409
    site.check()


@pytest.mark.parametrize("app", ["stubborn"], indirect=True)
@pytest.mark.parametrize("act", [change, save, transact])
@pytest.mark.gen_test
async def test_a_conflict_without_an_end_reports_no_secret(
    site: Site, act: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behaviour 82: the store answers, and another process is always first."""
    monkeypatch.setattr(retries, "PATIENCE", -1.0)
    await site.begin()

    assert (await site.does(act)).code == 503
    site.check()


@pytest.mark.parametrize("app", ["limit"], indirect=True)
@pytest.mark.gen_test
async def test_a_login_that_is_refused_reports_no_secret(site: Site) -> None:
    """Behaviour 82: the session keeps its values."""
    await site.begin(user="ada")
    await site.begin()

    async def login(handler: SessionMixin) -> None:
        change(handler)
        handler.session.login("ada")
        await handler.session.save()

    assert (await site.does(login)).code == 403
    site.check()


@pytest.mark.parametrize("app", ["xsrf"], indirect=True)
@pytest.mark.gen_test
async def test_a_token_that_does_not_match_reports_no_secret(site: Site) -> None:
    """Behaviour 82: it is compared before the session is loaded, and after it."""
    await site.begin()
    assert (await site.does(change, X_Xsrftoken="x")).code == 403
    await site.begin()
    cookies = "; ".join(f"session={token}" for token in site.tokens)
    sessions = site.sessions
    cookies += "; _xsrf=2|00000000|" + "00" * 16 + "|1"
    answer = await site.does(
        change, **{"X-Xsrftoken": "2|00000000|" + "00" * 16 + "|1", "Cookie": cookies}
    )

    assert answer.code == 403
    assert sessions.settings.xsrf_keys is not None
    site.check()


@pytest.mark.parametrize("app", ["header"], indirect=True)
@pytest.mark.parametrize("way", ["header", "query"])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.gen_test
async def test_an_id_in_the_header_or_the_url_is_not_reported(
    site: Site, way: str, early: bool
) -> None:
    """Behaviours 8, 82: with the data of the request."""

    class Early(Handler):
        async def prepare(self) -> None:
            if early:
                raise ArithmeticError
            await super().prepare()

    await site.begin()
    site.app.add_handlers(".*", [("/early", Early)])
    site.url += "early"
    headers = {}
    if way == "query":
        site.url += f"?session={site.tokens[-1]}"
    else:
        headers["X-Session-Token"] = site.tokens[-1]
    await site.does(held, **headers)

    site.check()


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://u:{}?timeout=w0rd@h/db",
        "mongodb://u:{}@127.0.0.1:1/db?timeout=0",
        "memcached://u:{}@h",
        "mysql://u:{}?timeout=w0rd@h/db",
        "mysql://u:{}@h/db?ssl_ca=nowhere",
        "redis://u:{}@h?timeout=w0rd",
        "redis+sentinel://u:{}@h",
        "postgresql://u:{}@h@x/db",
        "postgresql://u:{}@h/db?timeout=0",
        "sqlite://u:{}@h/x.db",
        "memory://u:{}@h",
        "cookie:?not_before=sqlite://u:{}@h/x.db",
        "nothing://u:{}@h",
    ],
)
def test_a_bad_url_reports_no_password(sentry: Collector, url: str) -> None:
    """Behaviours 82, 89: the settings are in none of its frames."""
    sentry.sent.clear()
    app = Application(
        session_backend=url.format(PASSWORD), cookie_secret=VALUE + "c" * 32
    )
    try:
        Sessions.of(app)
    except (ValueError, LookupError):
        sentry_sdk.capture_exception()

    assert sentry.sent
    check(sentry, [], None)


@pytest.mark.gen_test
async def test_a_store_that_does_not_answer_reports_no_secret(
    sentry: Collector,
) -> None:
    """Behaviours 66, 82: as memcached that hangs, or MongoDB where nobody listens."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as hanging:
        port = hanging.getsockname()[1]
        for url in (
            f"memcached://127.0.0.1:{port}?timeout=0.1",
            "memcached://127.0.0.1:1?timeout=0.1",
            f"mongodb://u:{PASSWORD}@127.0.0.1:1/x?timeout=0.1",
            f"postgresql://u:{PASSWORD}@127.0.0.1:1/x?timeout=0.1",
            f"postgresql://u:{PASSWORD}@127.0.0.1:{port}/x?timeout=0.1",
            f"mongodb://u:{PASSWORD}@127.0.0.1:1/x?timeout=0.1&driver=pymongo",
            f"mongodb://127.0.0.1:{port}/x?timeout=0.1&driver=pymongo",
            f"mongodb://127.0.0.1:{port}/x?timeout=0.1",
            f"mysql://u:{PASSWORD}@127.0.0.1:{port}/x?timeout=0.1",
            f"mysql://u:{PASSWORD}@127.0.0.1:1/x?timeout=0.1",
            f"redis://u:{PASSWORD}@127.0.0.1:{port}?timeout=0.1",
            f"redis://u:{PASSWORD}@127.0.0.1:1?timeout=0.1",
            f"redis+sentinel://u:{PASSWORD}@127.0.0.1:{port}/x?timeout=0.1",
            f"redis+cluster://u:{PASSWORD}@127.0.0.1:{port}?timeout=0.1",
        ):
            sessions = Sessions.of(Application(session_backend=url))
            sentry.sent.clear()
            await capture(functools.partial(load, sessions))
            await capture(functools.partial(begin, sessions))
            await sessions.close()

            assert sentry.sent
            assert isinstance(sessions.vault, Vault)
            check(sentry, ["A" * 43], FaultyVault(sessions.vault))


@pytest.mark.skipif(not MONGODB, reason="SESSIONS_TEST_MONGODB_URL is not set.")
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
@pytest.mark.gen_test
async def test_a_record_that_mongodb_refuses_is_not_reported(
    sentry: Collector, driver: str
) -> None:
    """Behaviour 82: a server that refuses a command repeats it, with key and data."""
    database = f"tornado_sessions_reports_{os.getpid()}"
    url = f"{MONGODB}/{database}?driver={driver}"
    sessions = Sessions.of(Application(session_backend=url))
    sentry.sent.clear()
    with pymongo.MongoClient[dict[str, Any]](MONGODB) as client:
        try:
            session = await begin(sessions)
            token = token_of(session)
            await refuse_all(client[database])
            session["mine"] = [VALUE]
            await capture(session.save)
        finally:
            await sessions.close()
            client.drop_database(database)

    assert "WriteError (code 121)" in sentry.sent[0]
    assert isinstance(sessions.vault, Vault)
    check(sentry, [token], FaultyVault(sessions.vault))


async def refuse_all(database: pymongo.database.Database[dict[str, Any]]) -> None:
    """Has the collection refuse every document."""
    while True:
        try:
            database.command(
                "collMod", "sessions", validator={"nothing": {"$exists": True}}
            )
        except pymongo.errors.OperationFailure as error:  # noqa: PERF203
            if error.code != INDEX_BUILD_IN_PROGRESS:
                raise
            await asyncio.sleep(0.01)
        else:
            return


async def begin(sessions: Sessions) -> Session:
    session = await sessions.load(None)
    session["mine"] = VALUE
    session.flash(FLASH)
    await session.save()
    return session


async def load(sessions: Sessions) -> None:
    await sessions.load("A" * 43)


async def capture(work: Callable[[], Awaitable[object]]) -> None:
    """Reports what ``work`` raises, from a frame that knows nothing."""
    try:
        await work()
    except BackendError:
        sentry_sdk.capture_exception()


@pytest.mark.gen_test
async def test_the_frames_of_the_application_are_kept(site: Site) -> None:
    """Behaviour 82: whoever looks for a fault finds his own lines."""
    await site.begin()
    await site.does(transacted)

    assert "ArithmeticError" in site.sentry.sent[0]
    assert '"function":"transacted"' in site.sentry.sent[0]
    assert '"function":"function"' in site.sentry.sent[0]
    assert '"function":"_run"' not in site.sentry.sent[0]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.gen_test
async def test_the_whole_traceback_is_in_the_log_as_text(
    site: Site, debug: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 82: at DEBUG where a store fails; always where nobody expects it."""
    level = logging.DEBUG if debug else logging.INFO
    caplog.set_level(level, "tornado_sessions")
    await site.begin()
    site.vault.failing.add("load")
    await site.does(change)
    site.vault.failing.clear()

    assert ("in _fail_if_told" in caplog.text) is debug

    def fail(*arguments: object) -> None:
        raise ArithmeticError

    # Of this one vault: it raises where it would return an awaitable.
    site.vault.load = fail  # type: ignore[assignment]
    await site.does(change)

    assert "in fail\n" in caplog.text
    assert "An error in a backend or in tornado_sessions:" in caplog.text
    site.check()

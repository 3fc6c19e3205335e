"""Tests of `SessionMixin` over HTTP: what goes wrong, and who tries to break it."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import logging
import pickle
import secrets
import socket
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import tornado
import tornado.web
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.simple_httpclient import HTTPTimeoutError
from tornado.web import Application, HTTPError

from tests.sessions_case import SlowCount
from tests.sites import Site, application, cookies, expecting
from tornado_sessions import BackendError, Session, SessionMixin

pytestmark = pytest.mark.gen_test


@pytest.fixture(params=["immediate", "suspending"])
def app(request: pytest.FixtureRequest) -> Application:
    return application(suspends=request.param == "suspending")


@pytest.fixture
def site(app: Application, http_server: HTTPServer, base_url: str) -> Iterator[Site]:
    client = AsyncHTTPClient(force_instance=True)
    yield Site(app, client, base_url)
    client.close()


#: For what needs a commit that takes its time.
only_suspending = pytest.mark.parametrize("app", ["suspending"], indirect=True)


@pytest.fixture(autouse=True)
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """Takes parts of the messages that a test expects at ERROR; no others come."""
    yield from expecting(caplog)


UNCAUGHT = "Uncaught exception"
STORE_FAILED = "503 GET"


class Read(SessionMixin):
    def get(self) -> None:
        self.write(dict(self.session))


class Write(SessionMixin):
    def get(self) -> None:
        self.session["a"] = 1
        self.write("ok")

    post = get


# Errors of the application.


async def test_an_uncaught_error_drops_what_the_request_changed(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 29: nothing is stored, and no cookie is sent."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            raise ZeroDivisionError

    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (500, [])
    assert site.saves() == 0
    errors.append(UNCAUGHT)


@pytest.mark.parametrize(
    ("verb", "arguments"), [("regenerate", []), ("login", ["ada"])]
)
async def test_an_error_drops_a_new_token(
    site: Site, errors: list[str], verb: str, arguments: list[str]
) -> None:
    """Behaviour 29: the old one stays good."""

    class Handler(SessionMixin):
        def get(self) -> None:
            getattr(self.session, verb)(*arguments)
            raise ZeroDivisionError

    await site.begin(a=0)
    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (500, [])
    assert await site.stored() == {"a": 0}
    errors.append(UNCAUGHT)


async def test_destroy_holds_after_an_error(site: Site, errors: list[str]) -> None:
    """Behaviour 29: what was written after it is dropped."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session.destroy()
            self.session["b"] = 1
            raise ZeroDivisionError

    token = await site.begin(a=0)
    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (500, [""])
    assert await site.stored(token) is None
    assert site.saves() == 0
    errors.append(UNCAUGHT)


async def test_a_status_of_500_drops_as_an_error_does(site: Site) -> None:
    """Behaviour 29: set by hand, with an ordinary finish."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.set_status(502)

    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (502, [])
    assert site.saves() == 0


async def test_an_http_error_below_500_saves(site: Site) -> None:
    """Behaviour 29: a 404 is no error of ours."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            raise HTTPError(404)

    response = await site.fetch(Handler)

    assert response.code == 404
    assert await site.stored() == {"a": 1}


async def test_a_save_before_an_error_has_happened(
    site: Site, errors: list[str]
) -> None:
    """Behaviours 26, 29: what save() has stored is stored; the rest is dropped."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            await self.session.save()
            self.session["b"] = 2
            raise ZeroDivisionError

    await site.begin(n=0)
    response = await site.fetch(Handler)

    assert response.code == 500
    assert await site.stored() == {"n": 0, "a": 1}
    errors.append(UNCAUGHT)


async def test_an_error_in_write_error_does_not_keep_the_response(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 29: the status stands, the change is saved."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            raise HTTPError(404)

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            raise ZeroDivisionError

    response = await site.fetch(Handler)

    assert response.code == 404
    assert await site.stored() == {"a": 1}
    errors.append("Uncaught exception in write_error")


async def test_an_error_in_on_finish_is_logged(site: Site, errors: list[str]) -> None:
    """Behaviour 34: as it is without us; the response is out by then."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.write("ok")

        def on_finish(self) -> None:
            raise ZeroDivisionError

    response = await site.fetch(Handler)

    assert (response.code, response.body) == (200, b"ok")
    assert await site.stored() == {"a": 1}
    errors.append(UNCAUGHT)


# Values that cannot be stored.


class Text(str):
    __slots__ = ()


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize(
    "value",
    [
        {1},
        {"a": [(1, 2)]},
        {1: 2},
        float("nan"),
        "\ud800",
        {"\udfff": 1},
        Text("a"),
        object(),
        cycle(),
        nested(100_000),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_value_that_is_not_json_is_answered_500(
    site: Site, errors: list[str], value: object, status: int
) -> None:
    """Behaviour 25: and not with silence, where a 404 was to be sent."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["bad"] = value
            if status == 404:
                raise HTTPError(404)

    await site.begin(a=0)
    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (500, [])
    assert await site.stored() == {"a": 0}
    errors.append(UNCAUGHT)


async def test_a_key_that_is_not_unicode_is_answered_500(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 25: also at the top level."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["\ud800"] = 1

    assert (await site.fetch(Handler)).code == 500
    errors.append(UNCAUGHT)


async def see_it_fail(site: Site, errors: list[str], status: int) -> None:
    """Sees that a write which was to be answered ``status`` is answered 500."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            if status == 404:
                raise HTTPError(404)

    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (500, [])
    errors.append(UNCAUGHT)


@pytest.mark.parametrize("status", [200, 404])
async def test_a_broken_generator_is_answered_500(
    site: Site, errors: list[str], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Behaviour 5: and not with silence, where a 404 was to be sent."""

    def fail(count: int) -> str:
        raise OSError("No entropy.")

    monkeypatch.setattr(secrets, "token_urlsafe", fail)
    await see_it_fail(site, errors, status)


async def test_a_subclass_of_dict_comes_back_as_a_dict(site: Site) -> None:
    """It compares equal, so it is a value like any other."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = OrderedDict(b=1)

    await site.fetch(Handler)

    assert await site.stored() == {"a": {"b": 1}}


async def test_what_was_nested_deeply_can_be_read_again(site: Site) -> None:
    """What a client sends as JSON and a handler keeps must not lock it out."""

    class Handler(SessionMixin):
        def post(self) -> None:
            self.session["a"] = nested(int(self.request.body))

        async def get(self) -> None:
            def dig(levels: int) -> object:
                return dig(levels - 1) if levels else self.session["a"]

            dig(500)

    await site.begin(b=1)

    assert (await site.fetch(Handler, "POST", body=b"99")).code == 200
    assert (await site.fetch(Handler)).code == 200


async def test_the_session_can_be_changed_while_it_is_looked_through(
    site: Site,
) -> None:
    """As a dict: values may be replaced, and keys come and go afterwards."""

    class Handler(SessionMixin):
        def get(self) -> None:
            for key in self.session:
                self.session[key] += 1
            for key, value in list(self.session.items()):
                if value > 2:
                    del self.session[key]

    await site.begin(a=1, b=2, c=3)
    await site.fetch(Handler)

    assert await site.stored() == {"a": 2}


@pytest.mark.parametrize("function", [copy.deepcopy, pickle.dumps])
async def test_a_session_is_not_to_be_carried_away(
    site: Site, function: Callable[[Any], Any]
) -> None:
    """Behaviour 8: a pickle or a deep copy would hold the token and the store."""

    class Handler(SessionMixin):
        def get(self) -> None:
            with pytest.raises(TypeError, match="session"):
                function(self.session)

    await site.begin(a=1)

    assert (await site.fetch(Handler)).code == 200
    gc.collect()


# The store fails.


def failing_paths() -> dict[str, Callable[[SessionMixin], Any]]:
    """Answers ten ways to the end of a response."""

    def raise_finish(handler: SessionMixin) -> None:
        raise tornado.web.Finish

    def raise_404(handler: SessionMixin) -> None:
        raise HTTPError(404)

    async def save(handler: SessionMixin) -> None:
        await handler.session.save()

    async def transact(handler: SessionMixin) -> None:
        await handler.session.transact(lambda session: session.update(b=1))

    async def flush(handler: SessionMixin) -> None:
        handler.write("a")
        await handler.flush()

    async def awaited(handler: SessionMixin) -> None:
        await handler.finish("a")

    def flush_then_finish(handler: SessionMixin) -> None:
        handler.flush()
        if not handler._finished:
            handler.finish()

    return {
        "auto-finish": lambda handler: None,
        "finish": lambda handler: handler.finish("all") and None,
        "redirect": lambda handler: handler.redirect("/elsewhere"),
        "204": lambda handler: handler.set_status(204),
        "Finish": raise_finish,
        "404": raise_404,
        "save": save,
        "transact": transact,
        "flush": flush,
        "awaited": awaited,
        "flush, finish": flush_then_finish,
    }


@pytest.mark.parametrize("known", [True, False], ids=["cookie", "no cookie"])
@pytest.mark.parametrize("path", failing_paths())
async def test_a_failed_save_is_answered_503(
    site: Site, errors: list[str], path: str, known: bool
) -> None:
    """Behaviours 27, 30, 31: no cookie, no success, none of the store's words."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            result = failing_paths()[path](self)
            if asyncio.iscoroutine(result):
                await result

    if known:
        await site.begin(n=0)
    site.vault.failing = {"save"}
    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (503, [])
    assert response.headers["Retry-After"] == "2"
    assert b"fire" not in response.body
    assert "Location" not in response.headers
    assert await site.stored() == ({"n": 0} if known else None)
    errors.append(STORE_FAILED)

    site.vault.failing = set()
    assert (await site.fetch(Write)).code == 200
    assert (await site.stored() or {})["a"] == 1


@pytest.mark.parametrize("verb", ["update", "login"])
async def test_a_handler_whose_save_failed_is_gone_at_once(
    site: Site, verb: str
) -> None:
    """Nothing refers to it in a circle, so it waits for no garbage collection."""
    gone = asyncio.Event()

    class Handler(SessionMixin):
        def get(self) -> None:
            weakref.finalize(self, gone.set)
            self.session["a"] = 1
            if verb == "login":
                self.session.login("ada")

        def log_exception(self, *error: Any) -> None:
            # What is logged is kept by pytest.
            pass

    await site.begin(n=0)
    site.vault.failing = {"save"}
    gc.disable()
    try:
        assert (await site.fetch(Handler)).code == 503
        await asyncio.wait_for(gone.wait(), 2)
    finally:
        gc.enable()


@pytest.mark.parametrize("operation", ["load", "save"])
async def test_the_stores_own_words_stay_here_in_debug_mode(
    app: Application, site: Site, errors: list[str], operation: str
) -> None:
    """Behaviour 31: where Tornado shows tracebacks to the client."""
    app.settings["serve_traceback"] = True
    await site.begin(a=0)
    site.vault.failing = {operation}
    response = await site.fetch(Write)

    assert response.code == 503
    assert b"fire" not in response.body
    assert b"Traceback" not in response.body
    errors.append(STORE_FAILED)


class Several(Exception):  # noqa: N818 - as Python names it
    """What an ExceptionGroup is, which Python 3.10 has not."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__(f"{len(errors)} errors: {errors}")
        self.exceptions: tuple[Exception, ...] = errors


def _in_passing(error: BackendError) -> None:
    raise HTTPError(502)


def _on_purpose(error: BackendError) -> None:
    raise HTTPError(502) from error


def _among_others(error: BackendError) -> None:
    raise HTTPError(502) from Several(error)


def _in_a_circle(error: BackendError) -> None:
    several = Several(error)
    several.exceptions = (error, several)
    raise HTTPError(502) from several


def _on_its_own(error: BackendError) -> None:
    raise HTTPError(502) from None


@pytest.mark.parametrize(
    ("translate", "shown"),
    [
        (_in_passing, False),
        (_on_purpose, False),
        (_among_others, False),
        (_in_a_circle, False),
        (_on_its_own, True),
    ],
)
async def test_the_stores_own_words_stay_here_in_an_error_made_of_them(
    app: Application, site: Site, translate: Callable[[BackendError], None], shown: bool
) -> None:
    """Behaviour 31: a traceback shows the errors behind an error, too."""
    app.settings["serve_traceback"] = True

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            try:
                await self.session.save()
            except BackendError as error:
                translate(error)

    site.vault.failing = {"save"}
    response = await site.fetch(Handler)

    assert response.code == 502
    assert b"fire" not in response.body
    assert (b"Traceback" in response.body) == shown


async def test_a_caught_failure_of_save_leaves_the_change_to_be_saved(
    site: Site,
) -> None:
    """Behaviour 30: the state after a failed save is the state before it."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            site.vault.failing = {"save"}
            with pytest.raises(BackendError, match="Cannot save"):
                await self.session.save()
            site.vault.failing = set()

    response = await site.fetch(Handler)

    assert (response.code, len(cookies(response))) == (200, 1)
    assert await site.stored() == {"a": 1}


async def test_a_failed_load_is_answered_503_and_passes(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 30: the same session goes on when the store is back."""

    class Handler(Read):
        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.finish(f"{status_code} for {self.current_user}")

    await site.begin(a=1)
    site.vault.failing = {"load"}
    down = await site.fetch(Handler)
    site.vault.failing = set()
    back = await site.fetch(Handler)

    assert (down.code, down.body) == (503, b"503 for None")
    assert down.headers["Retry-After"] == "2"
    assert cookies(down) == []
    assert json.loads(back.body) == {"a": 1}
    errors.append(STORE_FAILED)


@pytest.mark.parametrize(("level", "traces"), [(logging.INFO, 0), (logging.DEBUG, 1)])
async def test_a_store_that_is_down_gets_one_line_a_request(
    site: Site,
    errors: list[str],
    caplog: pytest.LogCaptureFixture,
    level: int,
    traces: int,
) -> None:
    """It has the driver's own words, and at DEBUG a traceback."""
    caplog.set_level(level, "tornado_sessions")
    await site.begin(a=1)
    site.vault.failing = {"load"}
    await site.fetch(Read)

    reason = f"Cannot load the session. (OSError: {site.vault.reason})"
    line = f"503 GET /0 (127.0.0.1): {reason}"
    assert [r.getMessage() for r in caplog.records if r.exc_info] == [line] * traces
    errors.append(line)


async def test_nothing_of_a_handler_runs_where_the_load_failed(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 30: neither its verb nor the rest of its prepare."""
    ran = []

    class Handler(SessionMixin):
        async def prepare(self) -> None:
            await super().prepare()
            ran.append("prepare")

        def get(self) -> None:
            ran.append("get")

    await site.begin(a=1)
    site.vault.failing = {"load"}

    assert (await site.fetch(Handler)).code == 503
    assert ran == []
    errors.append(STORE_FAILED)


@pytest.mark.parametrize("status", [200, 500])
async def test_a_failed_destroy_is_no_success_and_clears_the_cookie(
    site: Site, errors: list[str], status: int
) -> None:
    """Behaviour 45: the browser forgets, whatever the store does."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session.destroy()
            self.set_status(status)

    await site.begin(a=1)
    site.vault.failing = {"delete"}
    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (503, [""])
    errors.append(STORE_FAILED)


async def test_a_failed_regenerate_leaves_the_old_token(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 10: the new one has never been sent."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session.regenerate()

    await site.begin(a=1)
    site.vault.failing = {"replace"}
    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (503, [])
    assert await site.stored() == {"a": 1}
    errors.append(STORE_FAILED)


async def test_a_failed_renewal_is_logged_and_the_response_goes_out(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 30: a pure read needs no store to be written to."""
    await site.begin(a=1)
    site.sessions.now = lambda: time.time() + 4 * 3600
    site.vault.failing = {"save"}
    response = await site.fetch(Read)

    assert (response.code, json.loads(response.body)) == (200, {"a": 1})
    assert site.saves() == 1
    assert [r.levelname for r in caplog.records if "renewed" in r.message] == [
        "WARNING"
    ]


async def test_a_save_that_fails_after_the_headers_is_logged(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 28: the response has begun, so the log is all that is left."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.write("a")
            await self.flush()
            self.session["late"] = 1

    await site.begin(a=0)
    site.vault.failing = {"save"}
    response = await site.fetch(Handler)

    assert response.body == b"a"
    assert await site.stored() == {"a": 0}
    errors += [STORE_FAILED, "Cannot send error response after headers written"]


async def test_an_error_undoes_no_transaction_of_another_task(
    site: Site, errors: list[str]
) -> None:
    """Behaviours 29, 37: what it answers is stored, and nothing of the request's."""
    count, tasks = SlowCount(), list[asyncio.Future[None]]()

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            self.session.login("ada")
            tasks.append(asyncio.ensure_future(self.session.transact(count)))
            await count.begun.wait()
            raise ZeroDivisionError

        def on_finish(self) -> None:
            count.go_on.set()

    token = await site.begin(n=0)
    response = await site.fetch(Handler)
    await tasks[0]

    assert (response.code, cookies(response)) == (500, [])
    assert await site.stored(token) == {"n": 1}
    errors.append(UNCAUGHT)


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("app", ["immediate"], indirect=True)
async def test_an_immediate_backend_that_suspends_is_refused(
    site: Site, errors: list[str], status: int
) -> None:
    """Behaviour 30: 500, a clear line in the log, no silence and no success."""
    site.vault._suspends = True
    await see_it_fail(site, errors, status)


async def test_an_error_while_a_failure_is_answered_is_logged(
    site: Site, errors: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can answer the request then, but somebody has to be told why."""

    class Handler(Write):
        def set_default_headers(self) -> None:
            if site.vault.calls:
                raise ZeroDivisionError("no default headers")

    site.vault.failing = {"save"}
    with pytest.raises(HTTPTimeoutError):
        await site.fetch(Handler, request_timeout=0.2)

    errors += [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert "no default headers" in caplog.text


@pytest.mark.parametrize("operation", ["load", "save"])
async def test_a_log_that_fails_does_not_keep_the_response(
    site: Site, errors: list[str], operation: str
) -> None:
    """Behaviour 30: as with an error that Tornado itself has logged."""

    class Handler(Write):
        def log_exception(self, *error: Any) -> None:
            raise ZeroDivisionError

    await site.begin(n=0)
    site.vault.failing = {operation}
    response = await site.fetch(Handler)

    assert response.code == 503
    errors.append("Handler.log_exception() failed.")


# Ended elsewhere.


async def test_a_late_write_goes_out_without_its_changes(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviours 11, 39: nothing comes back to life, and no cookie is sent."""
    caplog.set_level(logging.INFO)

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 2
            await site.end()
            self.write("ok")

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (200, [])
    assert await site.stored(token) is None
    assert "ended elsewhere" in caplog.text


@pytest.mark.parametrize("verb", ["save", "transact", "reload"])
async def test_a_late_save_learns_of_the_end(
    site: Site, errors: list[str], verb: str
) -> None:
    """Behaviour 39: SessionGoneError; uncaught it is answered 409."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 2
            await site.end()
            if verb == "save":
                await self.session.save()
            elif verb == "reload":
                await self.session.reload()
            else:
                await self.session.transact(lambda session: None)

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (409, [])
    assert await site.stored(token) is None
    errors.append(UNCAUGHT)


async def test_a_late_persistent_request_sends_no_cookie(site: Site) -> None:
    """Behaviour 11: not even where it saved before the other one came."""
    site.sessions.persistent = True

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 2
            await self.session.save()
            await site.end()
            self.session["a"] = 3

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert cookies(response) == []
    assert await site.stored(token) is None


async def test_a_late_destroy_expires_the_cookie(site: Site) -> None:
    """Behaviour 11: it is the one thing that a late request may say."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            await site.end()
            self.session.destroy()

    await site.begin(a=1)

    assert cookies(await site.fetch(Handler)) == [""]


async def test_a_late_login_sends_no_cookie(site: Site) -> None:
    """Behaviours 11, 39: a session that has ended is not moved."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session.login("ada")
            await site.end()

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert cookies(response) == []
    assert await site.stored(token) is None


@only_suspending
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_destroy_overtakes_a_regenerate(site: Site, nth: int) -> None:
    """Behaviours 39, 44: who has signed out stays signed out."""

    class Regenerate(SessionMixin):
        def get(self) -> None:
            self.session.regenerate()

    token = await site.begin(a=1)
    site.vault.stop_before("save", nth)
    regenerated = asyncio.ensure_future(site.fetch(Regenerate))
    await asyncio.wait_for(site.vault.arrived.wait(), 2)
    await site.end(token)
    site.vault.resumed.set()
    response = await regenerated

    assert cookies(response) == []
    for value in cookies(response):
        assert await site.stored(value) is None


# A verb while a commit is under way.


@only_suspending
@pytest.mark.parametrize("begun", ["flush", "save", "transact"])
@pytest.mark.parametrize("known", [True, False], ids=["existing", "new"])
async def test_a_destroy_during_a_save_holds(
    site: Site, begun: str, known: bool
) -> None:
    """Behaviour 42: the record goes, and the client's cookie, if it has one."""
    left: list[dict[str, Any]] = []

    class Handler(SessionMixin):
        async def get(self) -> None:
            session = self.session
            session["a"] = 1
            saves: dict[str, Callable[[], Awaitable[None]]] = {
                "flush": self.flush,
                "save": session.save,
                "transact": lambda: session.transact(lambda session: None),
            }
            site.vault.stop_before("save")
            saved = asyncio.ensure_future(saves[begun]())
            await site.vault.arrived.wait()
            session.destroy()
            site.vault.resumed.set()
            if begun != "flush":
                await saved
            left.append(dict(session))

    if known:
        await site.begin(n=0)
    token = site.token
    response = await site.fetch(Handler)

    assert cookies(response) == ([""] if known else [])
    assert left == [{}]
    assert token is None or await site.stored(token) is None
    assert repr(site.vault.inner.backend).startswith("<MemoryBackend 0 ")


@only_suspending
async def test_a_destroy_during_a_renewal_holds(site: Site) -> None:
    """Behaviour 42: the record goes, and the client's cookie."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            site.vault.stop_before("save")
            self.session.get("n")
            self.flush()
            await site.vault.arrived.wait()
            self.session.destroy()
            site.vault.resumed.set()

    token = await site.begin(n=0)
    site.sessions.now = lambda: time.time() + 4 * 3600
    response = await site.fetch(Handler)

    assert cookies(response) == [""]
    assert await site.stored(token) is None


@only_suspending
async def test_an_error_takes_back_no_transaction_that_is_being_stored(
    site: Site, errors: list[str]
) -> None:
    """Behaviours 29, 37: the next one begins with what the first one has stored."""
    tasks: list[asyncio.Future[None]] = []

    def count(session: Session) -> None:
        session["n"] = session.get("n", 0) + 1

    async def count_twice(session: Session) -> None:
        await session.transact(count)
        await session.transact(count)

    class Handler(SessionMixin):
        async def get(self) -> None:
            site.vault.stop_before("save")
            tasks.append(asyncio.ensure_future(count_twice(self.session)))
            await site.vault.arrived.wait()
            raise ZeroDivisionError

    await site.begin(a=1)
    response = await site.fetch(Handler)
    site.vault.resumed.set()
    await tasks[0]

    assert response.code == 500
    assert await site.stored() == {"a": 1, "n": 2}
    errors.append(UNCAUGHT)


@only_suspending
async def test_an_error_during_a_flush_sends_no_cookie(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 29: a new session that is dropped is not kept empty."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            site.vault.stop_before("save")
            self.flush()
            await site.vault.arrived.wait()
            asyncio.get_running_loop().call_soon(site.vault.resumed.set)
            raise ZeroDivisionError

    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (500, [])
    errors.append(UNCAUGHT)


@only_suspending
@pytest.mark.parametrize("known", [True, False], ids=["existing", "new"])
async def test_an_error_beside_a_save_leaves_the_client_its_session(
    site: Site, errors: list[str], known: bool
) -> None:
    """Behaviour 29: the old id ends with that save, so the client gets the new one."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            async def fail() -> None:
                await site.vault.arrived.wait()
                raise ZeroDivisionError

            self.session.login("ada")
            site.vault.stop_before("save")
            await asyncio.gather(self.session.save(), fail())

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            super().write_error(status_code, **kwargs)
            site.vault.resumed.set()

    if known:
        await site.begin(a=1)
    response = await site.fetch(Handler)

    assert response.code == 500
    assert await site.stored() == ({"a": 1} if known else None)
    assert await site.sessions.of_user("ada") == []
    errors.append(UNCAUGHT)


@only_suspending
@pytest.mark.parametrize("what", ["flush", "finish"])
@pytest.mark.parametrize("when", ["at once", "under way"])
async def test_a_wait_that_times_out_leaves_the_save_alone(
    site: Site, errors: list[str], what: str, when: str
) -> None:
    """Behaviours 27, 30: no silence, and no 200 without what was written."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            site.vault.stop_before("save")
            waiting = asyncio.ensure_future(asyncio.wait_for(getattr(self, what)(), 60))
            if when == "under way":
                await site.vault.arrived.wait()
            else:
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            site.vault.resumed.set()

    await site.begin(n=0)
    response = await site.fetch(Handler)

    assert response.code == 200
    assert await site.stored() == {"n": 0, "a": 1}


@only_suspending
@pytest.mark.skipif(
    tornado.version_info < (6, 6),
    reason="Tornado 6.5 logs a cancelled handler as an error, with or without us.",
)
@pytest.mark.parametrize("waits", [True, False], ids=["awaited", "not awaited"])
async def test_a_handler_cancelled_during_the_commit_still_saves(
    site: Site, waits: bool
) -> None:
    """Behaviour 34: the commit is no part of the handler."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            site.vault.stop_before("save")
            task = asyncio.current_task()
            assert task is not None
            finished = self.finish("ok")
            loop = asyncio.get_running_loop()
            loop.call_later(0.01, task.cancel)
            loop.call_later(0.02, site.vault.resumed.set)
            await (finished if waits else asyncio.Event().wait())

    await site.begin(n=0)
    response = await site.fetch(Handler)

    assert (response.code, response.body) == (200, b"ok")
    assert await site.stored() == {"n": 0, "a": 1}


# Two cookies of our name.


def two(site: Site, other: str = "x" * 43) -> dict[str, str]:
    token, site.token = site.token, None
    return {"Cookie": f"session={token}; session={other}"}


async def test_of_two_cookies_none_is_taken(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 35: the event is logged and the client's cookie expires."""
    await site.begin(secret=1)
    response = await site.fetch(Read, headers=two(site))

    assert (response.code, json.loads(response.body)) == (200, {})
    assert cookies(response) == [""]
    assert site.vault.calls == []
    assert "2 different cookies named session" in caplog.text


@pytest.mark.parametrize("way", ["finish", "save", "transact", "login"])
async def test_a_write_with_two_cookies_is_answered_400(
    site: Site, errors: list[str], way: str
) -> None:
    """Behaviour 35: nothing is written, for nobody knows whose it is."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            if way == "transact":
                await self.session.transact(lambda session: session.update(a=1))
            elif way == "login":
                self.session.login("ada")
            else:
                self.session["a"] = 1
            if way == "save":
                await self.session.save()

    token = await site.begin(n=0)
    response = await site.fetch(Handler, headers=two(site))

    assert (response.code, cookies(response)) == (400, [""])
    assert site.saves() == 0
    assert await site.stored(token) == {"n": 0}
    errors.append(UNCAUGHT)


async def test_two_cookies_and_an_error_page_that_writes_come_to_an_end(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 35: the answer to a refused write is not refused for ever."""
    pages = []

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            pages.append(status_code)
            if len(pages) < 100:
                self.session.flash("Something went wrong.")
            self.finish("sorry")

    await site.begin(n=0)
    response = await site.fetch(Handler, headers=two(site))

    assert response.code == 400
    assert pages == [400]
    errors.append(UNCAUGHT)


async def test_the_same_cookie_twice_is_one(site: Site) -> None:
    """Behaviour 35: only different values are in doubt."""
    token = await site.begin(a=1)
    response = await site.fetch(Read, headers=two(site, token))

    assert json.loads(response.body) == {"a": 1}


# Before prepare, and without it.


async def test_a_prepare_without_super_is_told_what_is_missing(
    site: Site, errors: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The error names the class and the line to write."""

    class CartHandler(SessionMixin):
        async def prepare(self) -> None:
            pass

        def get(self) -> None:
            self.session["a"] = 1

    assert (await site.fetch(CartHandler)).code == 500
    assert (
        "self.session is not loaded. If CartHandler overrides prepare(), it must call"
        " 'await super().prepare()'." in caplog.text
    )
    errors.append(UNCAUGHT)


@pytest.mark.parametrize("case", ["xsrf", "method", "body", "prepare"])
async def test_an_error_before_prepare_has_its_page(
    app: Application, site: Site, case: str
) -> None:
    """`current_user` is None there, so that a page can be rendered."""

    class Handler(SessionMixin):
        async def prepare(self) -> None:
            if case == "prepare":
                raise HTTPError(403)
            await super().prepare()

        def post(self) -> None:
            self.write("not reached")

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.finish(f"{status_code} {self.current_user}")

    app.settings["xsrf_cookies"] = case == "xsrf"
    headers = {"Content-Type": "multipart/form-data"} if case == "body" else {}
    await site.begin(a=1)
    method = "PROPFIND" if case == "method" else "POST"
    response = await site.fetch(Handler, method, headers=headers, body=b"a")

    code = {"xsrf": 403, "method": 405, "body": 400, "prepare": 403}[case]
    assert (response.code, response.body) == (code, f"{code} None".encode())


async def test_a_verb_that_is_not_there_knows_the_user(site: Site) -> None:
    """A 405 of the handler itself comes after prepare."""

    class Handler(SessionMixin):
        def post(self) -> None:
            self.session.login("ada")

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.finish(f"{status_code} {self.current_user}")

    await site.fetch(Handler, "POST")
    response = await site.fetch(Handler)

    assert response.body == b"405 ada"


async def test_an_application_without_a_backend_is_told_so(
    site: Site, errors: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The error names the setting and shows one."""
    del vars(site.app)["_tornado_sessions"]
    del site.app.settings["session_backend"]

    assert (await site.fetch(Read)).code == 500
    assert "You must define the 'session_backend' setting" in caplog.text
    errors.append(UNCAUGHT)


# The client hangs up.


@pytest.mark.parametrize(
    ("app", "when"),
    [
        ("immediate", "sleeping"),
        ("immediate", "streaming"),
        ("suspending", "sleeping"),
        ("suspending", "streaming"),
        # In place it would leave no time to hang up.
        ("suspending", "committing"),
    ],
    indirect=["app"],
)
async def test_a_client_that_hangs_up_leaves_no_error(
    app: Application, site: Site, http_port: int, when: str
) -> None:
    """Behaviour 34: and what it wrote before is saved."""
    asleep, closed, over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            if when == "streaming":
                self.write("a")
                self.flush()
            if when == "committing":
                site.vault.stop_before("save")
                self.finish("b")
                await site.vault.arrived.wait()
            asleep.set()
            await closed.wait()
            if when == "committing":
                site.vault.resumed.set()
            else:
                self.write("b")

        def on_connection_close(self) -> None:
            closed.set()

        def on_finish(self) -> None:
            over.set()

    token = await site.begin(n=0)
    request = (
        f"GET {site.path(Handler)} HTTP/1.1\r\nHost: localhost\r\n"
        f"Cookie: session={token}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("localhost", http_port)
    writer.write(request.encode())
    await asyncio.wait_for(asleep.wait(), 2)
    writer.close()
    await asyncio.wait_for(over.wait(), 2)
    await asyncio.sleep(0)
    gc.collect()

    assert await site.stored() == {"n": 0, "a": 1}


async def test_a_handler_whose_client_hung_up_is_gone_at_once(
    site: Site, http_port: int
) -> None:
    """Nothing refers to it in a circle, so it waits for no garbage collection."""
    asleep, closed, gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Handler(SessionMixin):
        async def get(self) -> None:
            weakref.finalize(self, gone.set)
            self.session["a"] = 1
            asleep.set()
            await closed.wait()

        def on_connection_close(self) -> None:
            closed.set()

    gc.disable()
    try:
        _, writer = await asyncio.open_connection("localhost", http_port)
        request = f"GET {site.path(Handler)} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        writer.write(request.encode())
        await asyncio.wait_for(asleep.wait(), 2)
        writer.close()
        await asyncio.wait_for(gone.wait(), 2)
    finally:
        gc.enable()


@only_suspending
async def test_a_client_that_takes_nothing_does_not_hold_up_the_end(
    site: Site, http_port: int
) -> None:
    """What is waited for is that everything is saved."""
    begun = asyncio.Event()

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.write(b"a" * 2**24)
            begun.set()

    with socket.socket() as client:
        # So that neither side has room for all of it.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, ("127.0.0.1", http_port))
        request = f"GET {site.path(Handler)} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        await loop.sock_sendall(client, request.encode())
        await asyncio.wait_for(begun.wait(), 2)
        await asyncio.wait_for(site.sessions.close(), 2)

        assert site.saves() == 1


# Hostile clients.


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "x" * 43,
        "x" * 42 + "B",
        "../" * 14 + "A",
        '"' + "A" * 43 + '"',
        "A" * 43 + "\xa0",
        "' OR 1=1 --",
        "{$ne: null}",
        "\xff" * 43,
        "A" * 60_000,
    ],
    ids=lambda token: repr(token[:12]),
)
async def test_a_malformed_cookie_is_no_session(site: Site, token: str) -> None:
    """Behaviours 1, 3, 4: it is answered as no cookie is, and nothing is stored."""
    response = await site.fetch(Read, headers={"Cookie": f"session={token}"})

    assert (response.code, json.loads(response.body)) == (200, {})
    assert cookies(response) == []


async def test_a_token_of_the_clients_choice_is_not_adopted(site: Site) -> None:
    """Behaviour 1: what is written goes under a fresh one."""
    planted = site.token = "A" * 43
    await site.fetch(Write)

    assert site.token != planted
    assert await site.stored(planted) is None


async def test_thousands_of_cookies_are_read_in_time(site: Site) -> None:
    """Behaviour 55: of other names, and of ours in other cases."""
    token, site.token = await site.begin(a=1), None
    names = ("Session", "xsession", "session2", "_session", "=session")
    many = "; ".join(f"{name}={n}" for n in range(700) for name in names)
    response = await site.fetch(
        Read, headers={"Cookie": f"{many}; session={token}; session ={token}x"}
    )

    assert json.loads(response.body) == {"a": 1}


async def test_nothing_of_one_request_is_seen_in_another(site: Site) -> None:
    """Behaviour 41: a value is not shared, whoever holds on to it."""
    kept: list[Any] = []

    class Handler(SessionMixin):
        def get(self) -> None:
            cart = self.session["cart"]
            cart.append(len(kept))
            kept.append(cart)

    await site.begin(cart=[])
    await site.fetch(Handler)
    kept[0].append("planted")
    await site.fetch(Handler)

    assert await site.stored() == {"cart": [0, 1]}


async def test_a_session_still_works_after_its_response(site: Site) -> None:
    """What a background task saves is saved; a new session is refused."""
    left: list[Any] = []

    class Handler(SessionMixin):
        def get(self) -> None:
            left.append(self.session)

    await site.begin(a=1)
    await site.fetch(Handler)
    left[0]["b"] = 2
    await left[0].save()

    assert await site.stored() == {"a": 1, "b": 2}

"""Tests of `SessionMixin` over HTTP: the store fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import tornado
import tornado.web
from tornado.web import Application, HTTPError

from tests.sessions_case import SlowCount
from tests.sites import STORE_FAILED, UNCAUGHT, Read, Site, Write, cookies
from tornado_sessions import BackendError, Session, SessionMixin

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]


def failing_paths() -> dict[str, Callable[[SessionMixin], Any]]:
    """Returns ten ways to finish a response."""

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
        await asyncio.wait_for(gone.wait(), 30)
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


async def test_an_error_page_is_not_given_the_stores_own_words(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 31: it may show the error that it is given."""
    given: list[object] = []

    class Handler(SessionMixin):
        def write_error(self, status_code: int, **kwargs: Any) -> None:
            given.append(kwargs)
            self.finish("An error.")

        def get(self) -> None:
            self.session["a"] = 1

        async def post(self) -> None:
            self.session["a"] = 1
            await self.session.save()

    await site.begin(a=0)
    site.vault.failing = {"save"}
    for method in ("GET", "POST"):
        response = await site.fetch(Handler, method)

        assert (response.code, response.body) == (503, b"An error.")
    assert given == [{}, {}]
    errors += [STORE_FAILED, "503 POST"]


async def test_an_error_page_shows_nothing_that_was_not_stored(
    site: Site, errors: list[str]
) -> None:
    """Behaviours 30, 76: a page that greets the user would look like a success."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session.login("ada")

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.finish(f"Hello {self.session.user}, {dict(self.session)}")

    await site.begin(a=1)
    site.vault.failing = {"save"}
    response = await site.fetch(Handler)

    assert (response.code, response.body) == (503, b"Hello None, {'a': 1}")
    errors.append(STORE_FAILED)


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


def regenerate(session: Session) -> None:
    session.regenerate()


def login(session: Session) -> None:
    session.login("ada")


def logout_and_login(session: Session) -> None:
    session.logout()
    session.login("ada")


@pytest.mark.parametrize(
    ("act", "failing", "deletes"),
    [
        (regenerate, "replace", 1),
        (login, "replace", 1),
        (login, "find", 1),
        # The first one is that of the logout.
        (logout_and_login, "find", 2),
    ],
)
async def test_a_response_does_not_wait_for_the_store_to_clean_up(
    site: Site,
    errors: list[str],
    act: Callable[[Session], None],
    failing: str,
    deletes: int,
) -> None:
    """Behaviours 10, 80: after one timeout; it is a task that close() waits for."""

    class Handler(SessionMixin):
        def get(self) -> None:
            act(self.session)

    await site.begin(a=1)
    site.sessions.logins.limit = 1
    site.vault.failing = {failing}
    site.vault.stop_before("delete", nth=deletes)
    response = await site.fetch(Handler)

    has_ended = act is logout_and_login
    assert (response.code, cookies(response)) == (503, [""] if has_ended else [])
    await asyncio.wait_for(site.vault.arrived.wait(), 10)
    closing = asyncio.ensure_future(site.sessions.tasks.wait())
    await asyncio.sleep(0)
    assert not closing.done()
    site.vault.resumed.set()
    await asyncio.wait_for(closing, 10)
    left = 0 if has_ended else 1
    assert repr(site.vault.inner.backend).startswith(f"<MemoryBackend {left} of")
    errors.append(STORE_FAILED)


async def test_a_logout_that_failed_is_tried_again_after_the_response(
    site: Site, errors: list[str]
) -> None:
    """Behaviours 29, 45, 80: it holds, and costs the visitor one timeout."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session.logout()
            site.vault.failing = {"save"}
            try:
                await self.session.save()
            finally:
                site.vault.failing = set()
                site.vault.stop_before("save")

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (503, [""])
    await asyncio.wait_for(site.vault.arrived.wait(), 10)
    site.vault.resumed.set()
    await asyncio.wait_for(site.sessions.tasks.wait(), 10)
    assert await site.stored(token) is None
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


async def test_a_response_tries_a_renewal_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 80: nor after another failure, as each try may take a timeout."""

    class Streamed(SessionMixin):
        async def get(self) -> None:
            self.write(dict(self.session))
            await self.flush()

    class Unchanged(SessionMixin):
        async def get(self) -> None:
            await self.session.save()
            self.write(dict(self.session))

    class Caught(SessionMixin):
        async def get(self) -> None:
            self.session["b"] = 1
            with contextlib.suppress(BackendError):
                await self.session.save()
            del self.session["b"]
            self.write(dict(self.session))

    for handler in (Streamed, Unchanged, Caught):
        await site.begin(a=1)
        site.sessions.now = lambda: time.time() + 4 * 3600
        site.vault.calls.clear()
        site.vault.failing = {"save"}
        response = await site.fetch(handler)

        assert (response.code, json.loads(response.body)) == (200, {"a": 1})
        assert site.vault.calls == ["load", "save"]
    assert len([r for r in caplog.records if "renewed" in r.message]) == 2


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


async def test_an_error_while_a_failure_is_answered_is_logged(
    site: Site, http_port: int, errors: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can answer the request then, but somebody has to be told why."""

    class Handler(Write):
        def set_default_headers(self) -> None:
            if site.vault.calls:
                raise ZeroDivisionError("no default headers")

    site.vault.failing = {"save"}
    _, writer = await asyncio.open_connection("localhost", http_port)
    request = f"GET {site.path(Handler)} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    writer.write(request.encode())
    while "no default headers" not in caplog.text:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    writer.close()

    errors += [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]


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

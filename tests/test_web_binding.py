"""Tests of `bind_session`: the session of handlers that are no `SessionMixin`."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import weakref
from typing import Any

import pytest
import tornado.web
import tornado.websocket
from tornado.web import Finish, HTTPError, RequestHandler

from tests.sites import UNCAUGHT, Site, change_settings, cookies
from tornado_sessions import (
    BackendError,
    Session,
    SessionError,
    SessionMixin,
    bind_session,
)
from tornado_sessions.http.origins import Origins
from tornado_sessions.http.transports import Transports

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]

CHANGED = "has changed its session and answers without saving it"


class Count(RequestHandler):
    async def get(self) -> None:
        async with bind_session(self) as session:
            session["count"] = session.get("count", 0) + 1
        self.write(dict(session))


class Read(RequestHandler):
    async def get(self) -> None:
        session = await bind_session(self).load()
        self.write({"values": dict(session), "user": session.user})


# Load, use, commit.


async def test_a_value_is_there_in_the_next_request(site: Site) -> None:
    """Behaviour 103: the store has it, and the cookie leaves with the response."""
    first = await site.fetch(Count)
    second = await site.fetch(Count)

    assert len(cookies(first)) == 1
    assert first.headers["Cache-Control"] == "no-store"
    assert first.headers["Vary"] == "Cookie"
    assert json.loads(second.body) == {"count": 2}
    assert await site.stored() == {"count": 2}


async def test_a_handler_that_only_reads_need_not_commit(site: Site) -> None:
    """Behaviour 103: and a visitor without a session gets no cookie."""
    nobody = await site.fetch(Read)
    await site.begin(a=1)
    response = await site.fetch(Read)

    assert cookies(nobody) == []
    assert json.loads(response.body) == {"values": {"a": 1}, "user": None}
    assert site.saves() == 0


async def test_a_load_restarts_the_idle_timeout(site: Site) -> None:
    """Behaviour 103: also of a handler that does not commit."""
    await site.begin(a=1)
    start = site.sessions.now()
    for hours in (20, 40, 60):
        site.sessions.now = functools.partial(float, start + hours * 3600)
        response = await site.fetch(Read)

    assert json.loads(response.body)["values"] == {"a": 1}


async def test_a_prepare_without_super_can_load_it(site: Site) -> None:
    """Behaviour 103: the methods of the handler have it from there."""

    class Base(RequestHandler):
        async def prepare(self) -> None:
            self.visitor = await bind_session(self).load()

        def get_current_user(self) -> str | None:
            return self.visitor.user

    class SignIn(Base):
        async def get(self) -> None:
            self.visitor.login("ada")
            await bind_session(self).commit()
            self.redirect("/")

    class Account(Base):
        @tornado.web.authenticated
        def get(self) -> None:
            self.write(str(self.current_user))

    refused = await site.fetch(Account)
    await site.fetch(SignIn)
    response = await site.fetch(Account)

    assert refused.code == 302
    assert response.body == b"ada"


async def test_a_login_ends_the_id_that_was_brought(site: Site) -> None:
    """Behaviours 9, 103: the response has the new one."""

    class Handler(RequestHandler):
        async def get(self) -> None:
            async with bind_session(self) as session:
                session.login("ada")

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert cookies(response) == [site.token]
    assert site.token != token
    assert await site.stored(token) is None
    assert await site.stored() == {"a": 1}


async def test_a_copy_of_the_cookie_is_dead_after_a_logout(site: Site) -> None:
    """Behaviours 42, 103: and the browser drops its own."""

    class Handler(RequestHandler):
        async def get(self) -> None:
            async with bind_session(self) as session:
                session.logout()

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert cookies(response) == [""]
    assert await site.stored(token) is None


async def test_a_handler_that_revokes_its_own_session_logs_out(site: Site) -> None:
    """Behaviour 103: `sessions` knows the session of the request."""

    class SignIn(RequestHandler):
        async def get(self) -> None:
            async with bind_session(self) as session:
                session.login("ada")

    class Everywhere(RequestHandler):
        async def get(self) -> None:
            binding = bind_session(self)
            user = (await binding.load()).user
            assert user is not None
            count = await binding.sessions.revoke_all(user)
            await binding.commit()
            self.write(str(count))

    await site.fetch(SignIn)
    token = site.token
    response = await site.fetch(Everywhere)

    assert response.body == b"1"
    assert cookies(response) == [""]
    assert await site.stored(token) is None


async def test_the_binding_of_a_handler_is_one_object(site: Site) -> None:
    """Behaviour 16: and so is its session, which is loaded once."""
    same: list[bool] = []

    class Handler(RequestHandler):
        async def get(self) -> None:
            binding = bind_session(self)
            session = await binding.load()
            same.append(bind_session(self) is binding)
            same.append(await binding.load() is session)
            same.append(binding.session is session)
            await self.flush()
            same.append(bind_session(self) is binding)

    await site.begin(a=1)
    await site.fetch(Handler)

    assert same == [True] * 4
    assert site.vault.calls.count("load") == 1


async def test_two_requests_at_once_keep_both_changes(site: Site) -> None:
    """Behaviour 103: a commit merges as that of a `SessionMixin`."""

    class Handler(RequestHandler):
        async def get(self) -> None:
            async with bind_session(self) as session:
                session["b"] = 2
                await site.begin_again(c=3)

    await site.begin(a=1)
    await site.fetch(Handler)

    assert await site.stored() == {"a": 1, "b": 2, "c": 3}


async def test_a_session_that_ended_meanwhile_stays_ended(site: Site) -> None:
    """Behaviour 103: the response is sent, and the change is lost."""

    class Handler(RequestHandler):
        async def get(self) -> None:
            async with bind_session(self) as session:
                session["b"] = 2
                await site.end()

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert response.code == 200
    assert await site.stored(token) is None


async def test_an_id_in_the_header_is_answered_there(site: Site) -> None:
    """Behaviour 103: `session_transports` work as with `SessionMixin`."""
    _allow_headers(site)
    first = await site.fetch(Count, headers={"X-Session-Token": ""})
    token = first.headers["X-Session-Token"]
    second = await site.fetch(Count, headers={"X-Session-Token": token})

    assert json.loads(second.body) == {"count": 2}
    assert cookies(first) == cookies(second) == []


# What is forgotten.


async def test_an_answer_without_the_commit_is_refused(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 103: with 500, and nothing is stored."""

    class Handler(RequestHandler):
        async def get(self) -> None:
            session = await bind_session(self).load()
            session["b"] = 2
            self.redirect("/")

    await site.begin(a=1)
    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (500, [])
    assert await site.stored() == {"a": 1}
    errors.append(UNCAUGHT)


async def test_the_refusal_says_what_to_do(site: Site) -> None:
    """The error names the handler and the call that is missing."""
    said: list[str] = []

    class Handler(RequestHandler):
        async def get(self) -> None:
            binding = bind_session(self)
            session = await binding.load()
            session["b"] = 2
            try:
                self.finish()
            except SessionError as error:
                said.append(str(error))
            await binding.commit()

    response = await site.fetch(Handler)

    assert response.code == 200
    assert "".join(said) == (
        f"Handler {CHANGED}. Call 'await bind_session(handler).commit()' before"
        " finish(), flush(), redirect() and render()."
    )
    assert await site.stored() == {"b": 2}


@pytest.mark.parametrize("status", [404, 500])
async def test_an_error_page_without_the_commit_loses_the_change(
    site: Site, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """Behaviour 103: the page is sent. Below 500 a warning names the handler."""

    class Handler(RequestHandler):
        async def get(self) -> None:
            session = await bind_session(self).load()
            session["b"] = 2
            raise HTTPError(status)

    await site.begin(a=1)
    response = await site.fetch(Handler)

    assert response.code == status
    assert await site.stored() == {"a": 1}
    warnings = [each for each in caplog.messages if f"Handler {CHANGED}" in each]
    assert len(warnings) == (status == 404)
    assert all(each.endswith("The change is lost.") for each in warnings)


@pytest.mark.parametrize("status", [404, 500])
async def test_an_error_after_a_logout_does_not_keep_the_session_alive(
    site: Site, status: int
) -> None:
    """Behaviour 103: it ends although nobody has committed."""

    class Handler(RequestHandler):
        async def get(self) -> None:
            session = await bind_session(self).load()
            session.logout()
            session["b"] = 2
            raise HTTPError(status)

    token = await site.begin(a=1)
    response = await site.fetch(Handler)
    await site.sessions.tasks.wait()

    assert (response.code, cookies(response)) == (status, [""])
    assert await site.stored(token) is None
    # The end of the session, and nothing that was written after it.
    assert site.saves() == 1


# What a block raises.


@pytest.mark.parametrize(
    ("error", "status", "stored"),
    [
        (HTTPError(403), 403, {"a": 1, "b": 2}),
        (Finish(), 200, {"a": 1, "b": 2}),
        (HTTPError(503), 503, {"a": 1}),
    ],
)
async def test_a_block_that_raises_saves_what_its_answer_allows(
    site: Site, error: Exception, status: int, stored: dict[str, int]
) -> None:
    """Behaviour 103: below 500, as with `SessionMixin`."""

    class Handler(RequestHandler):
        async def get(self) -> None:
            async with bind_session(self) as session:
                session["b"] = 2
                raise error

    await site.begin(a=1)
    response = await site.fetch(Handler)

    assert response.code == status
    assert await site.stored() == stored


async def test_a_block_that_fails_saves_nothing(site: Site) -> None:
    """Behaviour 103: also if the error is caught, and the handler goes on."""

    class Handler(RequestHandler):
        async def get(self) -> None:
            with contextlib.suppress(ZeroDivisionError):
                async with bind_session(self) as session:
                    session["b"] = 2
                    session["c"] = 1 // 0

    await site.begin(a=1)
    response = await site.fetch(Handler)

    assert response.code == 200
    assert await site.stored() == {"a": 1}


# The store fails.


@pytest.mark.parametrize("operation", ["load", "save"])
async def test_the_caller_answers_for_a_store_that_fails(
    site: Site, operation: str
) -> None:
    """Behaviour 103: it gets BackendError, and the client keeps its id."""

    class Handler(RequestHandler):
        async def get(self) -> None:
            try:
                async with bind_session(self) as session:
                    session.login("ada")
            except BackendError:
                raise HTTPError(503) from None

    await site.begin(a=1)
    site.vault.failing.add(operation)
    response = await site.fetch(Handler)
    site.vault.failing.clear()

    assert (response.code, cookies(response)) == (503, [])
    assert await site.stored() == {"a": 1}


@pytest.mark.parametrize("name", ["session", "commit"])
async def test_there_is_no_session_before_the_load(site: Site, name: str) -> None:
    """Behaviour 103: nor after one that has failed."""
    said: list[str] = []

    class Handler(RequestHandler):
        async def get(self) -> None:
            binding = bind_session(self)
            try:
                if name == "commit":
                    await binding.commit()
                else:
                    assert binding.session
            except RuntimeError as error:
                said.append(str(error))

    await site.fetch(Handler)

    assert "".join(said) == (
        "The session of Handler is not loaded. Call 'await"
        " bind_session(handler).load()' first. If that has raised, there is no session"
        " in this request."
    )


# After the headers.


async def test_what_needs_a_cookie_raises_after_the_headers(site: Site) -> None:
    """Behaviour 103: as with `SessionMixin`; a stored session can still be changed."""
    said: list[str] = []

    class Handler(RequestHandler):
        async def get(self) -> None:
            binding = bind_session(self)
            session = await binding.load()
            await self.flush()
            session["b"] = 2
            await binding.commit()
            try:
                session.login("ada")
            except SessionError as error:
                said.append(str(error))

    await site.begin(a=1)
    await site.fetch(Handler)

    assert len(said) == 1
    assert "login() needs a new cookie" in said[0]
    assert await site.stored() == {"a": 1, "b": 2}


@pytest.mark.parametrize("stored", [True, False])
async def test_a_session_that_is_bound_after_the_headers_gets_no_id(
    site: Site, stored: bool
) -> None:
    """Behaviour 103: a login then would lock its user out."""
    said: list[str] = []

    class Handler(RequestHandler):
        async def get(self) -> None:
            await self.flush()
            session = await bind_session(self).load()
            try:
                session.login("ada")
            except SessionError as error:
                said.append(str(error))

    if stored:
        await site.begin(a=1)
    response = await site.fetch(Handler)

    assert cookies(response) == []
    assert len(said) == 1
    assert "login() needs a new cookie" in said[0]


async def test_a_change_after_the_headers_that_is_not_saved_is_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 103: a response that is under way cannot be refused."""

    class Handler(RequestHandler):
        async def get(self) -> None:
            session = await bind_session(self).load()
            await self.flush()
            session["b"] = 2

    await site.begin(a=1)
    await site.fetch(Handler)
    gc.collect()

    assert "changed after the response of Handler" in caplog.text


async def test_the_function_of_a_transaction_cannot_answer(site: Site) -> None:
    """Behaviour 103: it may run more than once."""
    said: list[str] = []

    class Handler(RequestHandler):
        async def get(self) -> None:
            session = await bind_session(self).load()

            def answer(session: Session[Any]) -> None:
                try:
                    self.finish("a")
                except SessionError as error:
                    said.append(str(error))

            await session.transact(answer)

    await site.begin(a=1)
    await site.fetch(Handler)

    assert len(said) == 1
    assert "The function given to transact() answered" in said[0]


async def test_a_handler_is_freed_with_its_response(site: Site) -> None:
    """The binding leaves no reference cycle behind."""
    handlers: list[weakref.ref[RequestHandler]] = []

    class Handler(RequestHandler):
        async def get(self) -> None:
            handlers.append(weakref.ref(self))
            async with bind_session(self) as session:
                session["a"] = 1

    gc.collect()
    gc.disable()
    try:
        await site.fetch(Handler)
        # Its connection holds the last one.
        await site.fetch(Handler)
        assert handlers[0]() is None
    finally:
        gc.enable()


# What is refused.


async def test_a_handler_with_a_session_of_its_own_is_refused(site: Site) -> None:
    """Two objects of one session would each save without the other."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.write(_refusal(self))

    response = await site.fetch(Handler)

    assert response.body.decode() == (
        "Handler is a SessionMixin: use self.session, which is loaded and saved by"
        " itself."
    )


async def test_a_websocket_is_refused(site: Site) -> None:
    """It would stay open when its session ends."""

    class Handler(tornado.websocket.WebSocketHandler):
        def get(self) -> None:  # type: ignore[override]
            self.write(_refusal(self))

    response = await site.fetch(Handler)

    assert response.body.decode() == (
        "Handler is a WebSocketHandler, and a binding would leave its socket open when"
        " the session ends. Derive it from SessionMixin."
    )


async def test_a_request_of_another_origin_is_refused(site: Site) -> None:
    """Behaviours 91, 103: before the session is loaded."""

    class Handler(Read):
        post = Read.get

    change_settings(site, origins=Origins(()))
    _allow_headers(site)
    token = await site.begin(a=1)
    other, own = {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-origin"}
    refused = await site.fetch(Handler, "POST", other)
    calls = list(site.vault.calls)
    accepted = [
        await site.fetch(Handler, "POST", own),
        await site.fetch(Handler, "GET", other),
        # No page of another origin can send it, unless the application allows that.
        await site.fetch(Handler, "POST", {**other, "X-Session-Token": token}),
    ]

    assert (refused.code, calls) == (403, [])
    assert [each.code for each in accepted] == [200, 200, 200]


async def test_bound_xsrf_tokens_are_refused(site: Site) -> None:
    """Behaviour 103: the handler could neither make nor check them."""
    said: list[str] = []

    class Handler(RequestHandler):
        async def get(self) -> None:
            try:
                await bind_session(self).load()
            except SessionError as error:
                said.append(str(error))

    change_settings(site, xsrf_keys=object())
    await site.fetch(Handler)

    assert "".join(said) == (
        "Handler cannot use a session: with session_xsrf the XSRF tokens are bound to"
        " it, and only a SessionMixin does that. Derive the handler from SessionMixin,"
        " or set session_cross_origin_protection instead, which needs no tokens."
    )


def _allow_headers(site: Site) -> None:
    names = ("header", "cookie")
    site.app.settings["session_transports"] = names
    change_settings(site, transports=Transports(names))


def _refusal(handler: RequestHandler) -> str:
    with pytest.raises(TypeError) as caught:
        bind_session(handler)
    return str(caught.value)

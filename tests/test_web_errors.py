"""Tests of `SessionMixin` over HTTP: what goes wrong in a handler."""

from __future__ import annotations

import copy
import gc
import pickle
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
from tornado.simple_httpclient import HTTPStreamClosedError
from tornado.web import Application, HTTPError, authenticated

from tests.sites import STORE_FAILED, UNCAUGHT, Read, Site, cookies, see_it_fail
from tornado_sessions import SessionError, SessionMixin

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]


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


async def test_an_error_renews_nothing(site: Site, errors: list[str]) -> None:
    """Behaviour 29: a page that fails time and again keeps no session alive."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session.get("a")
            raise ZeroDivisionError

    await site.begin(a=1)
    now = site.sessions.now() + site.sessions.rules.idle_timeout / 2
    site.sessions.now = lambda: now

    assert (await site.fetch(Handler)).code == 500
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
    # The record is replaced and removed.
    assert site.vault.calls == ["load", "save", "delete"]
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


async def test_what_the_page_of_a_failed_save_changes_is_not_late(
    site: Site, errors: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviours 29, 30: it comes after finish(), and is dropped with the rest."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.session.flash("Sorry.")
            self.finish("sorry")

    await site.begin(n=0)
    site.vault.failing = {"save"}
    response = await site.fetch(Handler)
    gc.collect()

    assert (response.code, response.body) == (503, b"sorry")
    assert "after the response" not in caplog.text
    errors.append(STORE_FAILED)


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
    errors.append("the session of Handler cannot be stored: ")


async def test_a_flood_at_one_handler_does_not_hide_another(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 85: the log has ten bad values of each handler."""

    class Flooded(SessionMixin):
        def get(self) -> None:
            self.session["bad"] = {1}

    class Other(Flooded):
        pass

    for _ in range(15):
        await site.fetch(Flooded)
    await site.fetch(Other)

    errors += ["the session of Flooded"] * 10 + ["the session of Other"]


async def test_a_key_that_is_not_unicode_is_answered_500(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 25: also at the top level."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["\ud800"] = 1

    assert (await site.fetch(Handler)).code == 500
    errors.append("the session of Handler cannot be stored: ")


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
    """JSON from a client that a handler stores must not make all later requests fail."""

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


async def test_without_a_prepare_nobody_is_taken_for_a_stranger(
    site: Site, errors: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A user who has signed in would be redirected to the login page again and again."""

    class CartHandler(SessionMixin):
        async def prepare(self) -> None:
            pass

        @authenticated
        def get(self) -> None:
            raise AssertionError

    await site.begin(a=1)

    assert (await site.fetch(CartHandler)).code == 500
    assert "self.session is not loaded." in caplog.text
    errors.append(UNCAUGHT)


async def test_a_session_before_prepare_blames_no_prepare(
    site: Site, errors: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The error names the methods where there is a session."""

    class CartHandler(SessionMixin):
        def initialize(self) -> None:
            self.session.get("a")

        def get(self) -> None:
            self.write("not reached")

    with pytest.raises(HTTPStreamClosedError):
        await site.client.fetch(site.base_url + site.path(CartHandler))
    assert (
        "self.session of CartHandler is not loaded yet: prepare() does that. Use it in"
        " the methods that follow, such as get(), and not in initialize()."
        in caplog.text
    )
    errors.append(UNCAUGHT)


@pytest.mark.parametrize("case", ["xsrf", "method", "body", "prepare"])
async def test_an_error_before_prepare_can_read_the_session(
    app: Application, site: Site, case: str
) -> None:
    """Behaviour 75: it is empty, whatever the handler overrides."""

    class Handler(SessionMixin):
        async def prepare(self) -> None:
            if case == "prepare":
                raise HTTPError(403)
            await super().prepare()

        def get_current_user(self) -> object:
            return self.session.get("row")

        def get_user_locale(self) -> None:
            self.session.get("locale")

        def post(self) -> None:
            self.write("not reached")

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            session = self.session
            self.session |= {}
            self.finish(
                f"{status_code} {self.locale.code} {self.current_user} {session!r}"
                f" {session.flashes()} {session.expires_in} {session.persistent}"
            )

    app.settings["xsrf_cookies"] = case == "xsrf"
    headers = {"Content-Type": "multipart/form-data"} if case == "body" else {}
    await site.begin(a=1)
    method = "PROPFIND" if case == "method" else "POST"
    response = await site.fetch(Handler, method, headers=headers, body=b"a")

    code = {"xsrf": 403, "method": 405, "body": 400, "prepare": 403}[case]
    assert response.code == code
    page = f"{code} en_US None <Session 0 values, new> [] 0 False"
    assert response.body.decode() == page


async def test_an_application_without_a_backend_has_its_error_page(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 75: an empty session needs no settings."""

    class Handler(SessionMixin):
        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.finish(f"{status_code} {dict(self.session)}")

    del vars(site.app)["_tornado_sessions"]
    del site.app.settings["session_backend"]
    response = await site.fetch(Handler)

    assert (response.code, response.body) == (500, b"500 {}")
    errors.append(UNCAUGHT)


async def test_a_session_that_was_not_loaded_saves_nothing(site: Site) -> None:
    """Behaviour 75: save() has nothing to do; the rest raises."""
    told = []

    class Handler(SessionMixin):
        async def prepare(self) -> None:
            self.set_status(403)
            await self.session.save()
            for work in (
                self.session.reload(),
                self.session.transact(lambda session: session.clear()),
            ):
                with pytest.raises(SessionError, match="answered 403 before"):
                    await work
            told.append(self.session.modified)
            self.finish("no")

    response = await site.fetch(Handler)

    assert (response.code, response.body, told) == (403, b"no", [False])
    assert site.vault.calls == []


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

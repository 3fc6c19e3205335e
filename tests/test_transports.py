"""Tests of ids in headers and URLs: what is read, what is added, what is refused."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import tornado.template
import tornado.web
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler
from tornado_sessions_memory import MemoryBackend

from tests.tokens import token_of
from tornado_sessions import SessionError, SessionMixin, Sessions, Vault
from tornado_sessions.http.transports import (
    Transports,
    put_in_url,
    read_header,
    take_from_url,
)
from tornado_sessions.settings import read_settings

TOKEN = "A" * 43


class Sealed(Vault):
    """A vault whose token is the session itself."""

    revocable = False

    def __init__(self) -> None:
        super().__init__(MemoryBackend())


class SettingTest:
    @pytest.mark.parametrize(
        "names", ["header", (), [], None, 5, {"cookie": 1}, {"header"}]
    )
    def test_it_is_a_tuple(self, names: Any) -> None:  # noqa: ANN401
        """Of one name at least, in an order: a str or a set has none."""
        with pytest.raises(ValueError, match="session_transports=") as caught:
            Transports(names)

        assert str(caught.value) == (
            f"session_transports={names!r} is to be a tuple of one or more of"
            " 'cookie', 'header', 'query'."
        )

    @pytest.mark.parametrize("name", ["url", "Cookie", 7, ["cookie"]])
    def test_an_unknown_name_is_refused(self, name: Any) -> None:  # noqa: ANN401
        """With those that there are."""
        with pytest.raises(ValueError, match="session_transports=") as caught:
            Transports(["cookie", name])

        assert str(caught.value) == (
            f"session_transports={['cookie', name]!r} has {name!r}, which is none of"
            " 'cookie', 'header', 'query'."
        )

    def test_a_name_stands_once(self) -> None:
        """The order would be unclear."""
        with pytest.raises(ValueError, match="session_transports=") as caught:
            Transports(("cookie", "header", "cookie"))

        assert str(caught.value) == (
            "session_transports=('cookie', 'header', 'cookie') names one of them twice."
        )

    @pytest.mark.parametrize("names", [("query", "cookie"), ("query", "header")])
    def test_the_url_comes_last(self, names: tuple[str, ...]) -> None:
        """Behaviour 73: a link is not to displace a session."""
        with pytest.raises(ValueError, match="session_transports=") as caught:
            Transports(names)

        assert str(caught.value) == (
            f"session_transports={names!r} lets any link displace the session of the"
            " visitor who follows it. Put 'query' last."
        )

    def test_an_id_that_is_the_session_stands_in_no_url(self) -> None:
        """Behaviour 73: it is too long, and another one after each change."""
        application = Application(
            session_backend=Sealed(), session_transports=("cookie", "query")
        )
        with pytest.raises(ValueError, match="session_transports=") as caught:
            Sessions.of(application)

        assert str(caught.value) == (
            "session_transports=('cookie', 'query') needs a backend that keeps sessions"
            " on the server: with Sealed the id is the session itself, too long for a"
            " URL, and another one after each change. Remove 'query', or choose"
            " another session_backend."
        )
        read_settings(
            {"session_backend": Sealed(), "session_transports": ["cookie", "header"]}
        )

    def test_cookies_alone_are_the_default(self) -> None:
        """Behaviour 73: and then nothing else is looked at."""
        applications = (
            Application(session_backend=MemoryBackend()),
            Application(session_backend=MemoryBackend(), session_transports=["cookie"]),
        )
        for application in applications:
            assert Sessions.of(application).settings.transports is None


class HeaderTest:
    @pytest.mark.parametrize(
        ("lines", "ids"),
        [
            ([], []),
            ([""], []),
            ([" \t"], []),
            ([TOKEN], [TOKEN]),
            ([f" {TOKEN}\t"], [TOKEN]),
            ([TOKEN, TOKEN], [TOKEN]),
            ([f"{TOKEN},{TOKEN}"], [TOKEN]),
            (["a, b", "c"], ["a", "b", "c"]),
            (["a", ""], ["a"]),
        ],
    )
    def test_all_lines_count(self, lines: list[str], ids: list[str]) -> None:
        """Behaviour 35: also what a proxy has put in one line."""
        assert read_header(lines) == ids


class TakeFromURLTest:
    @pytest.mark.parametrize(
        ("url", "rest", "ids"),
        [
            ("/", "/", []),
            ("/?", "/?", []),
            ("/?a=1&&b", "/?a=1&&b", []),
            ("/?sessions=1&Session=2", "/?sessions=1&Session=2", []),
            ("/session=1", "/session=1", []),
            ("/?session=x", "/", ["x"]),
            ("/?session", "/", [""]),
            ("/?a=1&session=x&b=%20", "/?a=1&b=%20", ["x"]),
            ("/?session=x&session=x", "/", ["x"]),
            ("/?session=x&a&session=y", "/?a", ["x", "y"]),
            ("/?s%65ssion=%78", "/", ["x"]),
            ("/?%73%65%73%73%69%6F%6e=x", "/", ["x"]),
            ("/?session=%ff%00", "/", ["\ufffd\0"]),
            ("/?a=b?session=x", "/?a=b?session=x", []),
            ("http://a.example/?session=x", "http://a.example/", ["x"]),
        ],
    )
    def test_what_is_taken_and_what_stays(
        self, url: str, rest: str, ids: list[str]
    ) -> None:
        """Behaviour 73: only ours goes, however it is written."""
        assert take_from_url(url) == (rest, ids)


class PutInURLTest:
    @pytest.mark.parametrize(
        ("url", "linked"),
        [
            ("/", "/?session=T"),
            ("", "?session=T"),
            ("cart", "cart?session=T"),
            ("?a=1", "?a=1&session=T"),
            ("/a?b=1#c?d", "/a?b=1&session=T#c?d"),
            ("/a?session=old&b=1", "/a?b=1&session=T"),
            ("/a?#", "/a?session=T#"),
            ("/two words", "/two words?session=T"),
            ("/a:b", "/a:b?session=T"),
            ("//shop.example/a", "//shop.example/a?session=T"),
            ("https://shop.example", "https://shop.example?session=T"),
            ("HTTPS://Shop.Example/", "HTTPS://Shop.Example/?session=T"),
        ],
    )
    def test_a_url_of_ours_gets_the_id(self, url: str, linked: str) -> None:
        """Behaviour 73: in place of any other one, in front of the fragment."""
        assert put_in_url(url, "T", "https", "shop.example") == linked

    @pytest.mark.parametrize(
        "url",
        [
            "https://evil.example/",
            "//evil.example/",
            "///evil.example/",
            "////evil.example/",
            "https:/evil.example/",
            "https:evil.example",
            "https:///evil.example",
            "http://shop.example/",
            "https://shop.example:444/",
            "https://shop.example@evil.example/",
            "https://user@shop.example/",
            "https://shop.example.evil.example/",
            "/\\evil.example/",
            "\\\\evil.example/",
            "/\t/evil.example/",
            "/\n/evil.example/",
            " //evil.example/",
            "\x01//evil.example/",
            "//evil.example\uff0fx",
            "//[",
            "javascript:alert(1)",
            "mailto:ada@shop.example",
            "data:text/html,x",
            "shop.example:443/a",
            "#top",
        ],
    )
    def test_any_other_stays_as_it_is(self, url: str) -> None:
        """Behaviour 73: whatever a browser would make of it."""
        assert put_in_url(url, "T", "https", "shop.example") == url


class Site:
    """An application with ids in its URLs, and a client without cookies."""

    def __init__(self, app: Application, client: AsyncHTTPClient, url: str) -> None:
        self.app = app
        self.client = client
        self.base_url = url

    async def fetch(
        self, handler: type[RequestHandler], path: str = "/", **kwargs: Any
    ) -> HTTPResponse:
        self.app.add_handlers(".*", [(r"/.*", handler)])
        return await self.client.fetch(
            self.base_url + path,
            follow_redirects=False,
            raise_error=False,
            request_timeout=30,
            **kwargs,
        )

    async def begin(self, **values: Any) -> str:
        session = await Sessions.of(self.app).load(None)
        session.update(values)
        await session.save()
        return token_of(session)


@pytest.fixture
def app() -> Application:
    return Application(
        session_backend=MemoryBackend(),
        session_transports=("cookie", "header", "query"),
        login_url="/login",
        template_loader=tornado.template.DictLoader(
            {"page.html": "{{ session_url('/a?b=1') }}"}
        ),
    )


@pytest.fixture
def site(app: Application, http_server: HTTPServer, base_url: str) -> Iterator[Site]:
    client = AsyncHTTPClient(force_instance=True)
    yield Site(app, client, base_url)
    client.close()


class Page(SessionMixin):
    def get_template_path(self) -> str:
        # Tornado has one loader for each path in a process.
        return __file__

    def get(self) -> None:
        self.render("page.html")


@pytest.mark.gen_test
async def test_templates_have_session_url(site: Site) -> None:
    """Behaviour 73: escaped like everything else."""
    token = await site.begin(a=1)
    response = await site.fetch(Page, f"/?session={token}")

    assert response.body.decode() == f"/a?b=1&amp;session={token}"


@pytest.mark.gen_test
async def test_templates_of_a_client_with_the_header_have_none(site: Site) -> None:
    """Behaviour 73: it has the id elsewhere."""
    token = await site.begin(a=1)
    response = await site.fetch(
        Page, f"/?session={token}", headers={"X-Session-Token": token}
    )

    assert response.body == b"/a?b=1"


@pytest.mark.gen_test
@pytest.mark.parametrize("status", [404, 503])
async def test_an_error_page_has_links_without_an_id_that_is_not_drawn(
    site: Site, status: int
) -> None:
    """Behaviour 75: it does not come out blank."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            raise tornado.web.HTTPError(status)

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.finish(self.session_url("/home"))

    response = await site.fetch(Handler)

    assert (response.code, response.body) == (status, b"/home")


@pytest.mark.gen_test
async def test_an_application_may_have_a_session_url_of_its_own(site: Site) -> None:
    """As a UI method, which Tornado puts among a template's names."""
    site.app.ui_methods["session_url"] = lambda handler, url: "its own"

    assert (await site.fetch(Page)).body == b"its own"


@pytest.mark.parametrize("verb", ["write", "login"])
@pytest.mark.gen_test
async def test_an_id_that_is_not_drawn_yet_is_an_error(site: Site, verb: str) -> None:
    """Behaviour 73: the id of a new session, and a new id, come with a save."""
    errors = []

    class Handler(SessionMixin):
        async def get(self) -> None:
            if verb == "write":
                self.session["a"] = 2
            else:
                self.session.login("ada")
            with pytest.raises(SessionError) as caught:
                self.session_url("/")
            errors.append(str(caught.value))
            await self.session.save()
            self.write(self.session_url("/"))

    path = f"/?session={await site.begin(a=1)}" if verb == "login" else "/"
    response = await site.fetch(Handler, path)

    (error,) = errors
    assert error == (
        "session_url() needs the session's id, which is drawn when the session is"
        " saved. Call 'await self.session.save()' before it."
    )
    assert response.body.startswith(b"/?session=")


@pytest.mark.gen_test
async def test_a_url_of_a_session_that_was_destroyed_is_clean(site: Site) -> None:
    """Behaviour 73: a page that says good-bye can have links."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session.destroy()
            self.write(self.session_url("/"))

    response = await site.fetch(Handler, f"/?session={await site.begin(a=1)}")

    assert response.body == b"/"


@pytest.mark.parametrize("verb", ["login", "destroy"])
@pytest.mark.gen_test
async def test_links_that_a_login_has_made_worthless_are_told(
    site: Site, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 73: after a destroy() that is what was wanted."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.write(self.session_url("/"))
            if verb == "login":
                self.session.login("ada")
            else:
                self.session.destroy()

    await site.fetch(Handler, f"/?session={await site.begin(a=1)}")

    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.name == "tornado_sessions" and record.levelno == logging.WARNING
    ]
    if verb == "destroy":
        assert warnings == []
        return
    assert warnings[0] == (
        "session_url() was called before the session was given a new id: the links of"
        " this response lead to no session. Call 'await self.session.save()' after"
        " login() or regenerate(), and session_url() after that."
    )


@pytest.mark.gen_test
async def test_a_flood_of_worthless_links_is_told_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 85: each response of such a handler has some."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.write(self.session_url("/"))
            self.session.login("ada")

    for _ in range(3):
        await site.fetch(Handler, f"/?session={await site.begin(a=1)}")

    assert caplog.text.count("lead to no session") == 1


@pytest.mark.gen_test
async def test_an_id_is_not_added_once_the_headers_are_out(site: Site) -> None:
    """Behaviour 73: Referrer-Policy could not be said any more."""
    errors = []

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 2
            await self.flush()
            with pytest.raises(SessionError) as caught:
                self.session_url("/")
            errors.append(str(caught.value))
            assert self.session_url("https://elsewhere.example/") != ""

    await site.fetch(Handler)

    (error,) = errors
    assert error == (
        "session_url() needs headers of its own, and the headers of the response are"
        " out already. Call it before flush()."
    )


@pytest.mark.gen_test
async def test_a_page_that_is_sent_in_parts_has_the_id_in_each(site: Site) -> None:
    """Behaviour 73: its headers went out with the first one."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.write(self.session_url("/a") + " ")
            await self.flush()
            self.write(self.session_url("/b"))

    token = await site.begin(a=1)
    response = await site.fetch(Handler, f"/?session={token}")

    assert response.body.decode() == f"/a?session={token} /b?session={token}"
    assert response.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.gen_test
async def test_the_rest_of_the_request_does_not_know_the_id(site: Site) -> None:
    """Behaviour 73: where it might be logged, or put in another URL."""

    class Handler(SessionMixin):
        def post(self) -> None:
            request = self.request
            self.write(
                {
                    "uri": request.uri,
                    "full": request.full_url(),
                    "query": request.query,
                    "arguments": self.get_arguments("session"),
                    "queries": self.get_query_arguments("session"),
                    "a": self.get_query_argument("a"),
                    "repr": TOKEN in repr(request),
                }
            )

    path = f"/x?session={TOKEN}&a=1"
    response = await site.fetch(Handler, path, method="POST", body="session=mine")

    assert json.loads(response.body) == {
        "uri": "/x?a=1",
        "full": site.base_url + "/x?a=1",
        "query": "a=1",
        "arguments": ["mine"],
        "queries": [],
        "a": "1",
        "repr": False,
    }


@pytest.mark.gen_test
async def test_an_argument_of_the_url_alone_is_gone(site: Site) -> None:
    """Behaviour 73: what copies all arguments into a link copies no id."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.write({"arguments": sorted(self.request.arguments)})

    response = await site.fetch(Handler, f"/x?session={TOKEN}&a=1")

    assert json.loads(response.body) == {"arguments": ["a"]}


class Begin(SessionMixin):
    def get(self) -> None:
        self.session["a"] = 1

    def delete(self) -> None:
        self.session.destroy()


@pytest.mark.gen_test
async def test_a_client_of_the_header_learns_what_becomes_of_its_id(site: Site) -> None:
    """Behaviour 73: a new one, and that there is none any more; no cache keeps it."""
    new = await site.fetch(Begin, headers={"X-Session-Token": ""})
    token = new.headers["X-Session-Token"]
    same = await site.fetch(Begin, headers={"X-Session-Token": token})
    ended = await site.fetch(Begin, method="DELETE", headers={"X-Session-Token": token})

    assert re.fullmatch("[A-Za-z0-9_-]{43}", token)
    assert "X-Session-Token" not in same.headers
    assert ended.headers["X-Session-Token"] == ""
    for response in (new, ended):
        assert response.headers["Cache-Control"] == "no-store"
        assert "Set-Cookie" not in response.headers


@pytest.mark.gen_test
async def test_of_malformed_ids_the_first_transport_is_answered(site: Site) -> None:
    """Behaviour 73: a script with a header reads no id of a browser's cookie."""
    headers = {"Cookie": "session=x", "X-Session-Token": "y"}
    response = await site.fetch(Begin, headers=headers)

    assert "Set-Cookie" in response.headers
    assert "X-Session-Token" not in response.headers


@pytest.mark.gen_test
async def test_an_id_in_the_header_counts_over_https(site: Site) -> None:
    """Behaviours 58, 73: also from another machine, through a proxy that says so."""
    server = HTTPServer(site.app, xheaders=True)
    server.listen(0, "127.0.0.1")
    (listening,) = server._sockets.values()
    site.base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    headers = {
        "Host": "shop.example",
        "X-Forwarded-Proto": "https",
        "X-Session-Token": "",
    }
    response = await site.fetch(Begin, headers=headers)
    server.stop()

    assert len(response.headers["X-Session-Token"]) == 43


@pytest.mark.gen_test
async def test_the_login_page_is_not_told_the_id(site: Site) -> None:
    """Behaviour 73: ``next`` is the page without it."""

    class Handler(SessionMixin):
        @tornado.web.authenticated
        def get(self) -> None:
            raise AssertionError

    response = await site.fetch(Handler, f"/x?session={TOKEN}&a=1")

    assert response.headers["Location"] == "/login?next=%2Fx%3Fa%3D1"


class Careless(SessionMixin):
    """Overrides prepare(), and leaves the session alone."""

    async def prepare(self) -> None:
        pass

    def get(self) -> None:
        self.write("ok")


@pytest.mark.parametrize("way", ["xsrf", "careless"])
@pytest.mark.gen_test
async def test_an_id_is_not_logged_where_the_session_is_not_loaded(
    site: Site, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviours 8, 73: before prepare(), or without it."""
    caplog.set_level(logging.DEBUG)
    path = f"/x?session={TOKEN}&a=1"
    if way == "xsrf":
        site.app.settings["xsrf_cookies"] = True
        response = await site.fetch(Page, path, method="POST", body="")
    else:
        response = await site.fetch(Careless, path)

    assert response.code == (403 if way == "xsrf" else 200)
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert "/x?a=1 (127.0.0.1)" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.gen_test
async def test_an_error_page_from_before_prepare_has_clean_links(site: Site) -> None:
    """Behaviour 73: a base template can be rendered."""

    class Handler(Page):
        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.render("page.html")

    site.app.settings["xsrf_cookies"] = True
    response = await site.fetch(Handler, method="POST", body="")

    assert (response.code, response.body) == (403, b"/a?b=1")


@pytest.mark.gen_test
async def test_a_setting_that_is_wrong_keeps_no_error_from_being_answered(
    site: Site,
) -> None:
    """Also where nobody has checked the settings before they are used."""
    site.app.settings["session_transports"] = 5
    site.app.settings["xsrf_cookies"] = True
    response = await site.fetch(Page, f"/?session={TOKEN}", method="POST", body="")

    assert response.code == 500

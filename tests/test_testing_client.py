"""Tests of the client for tests of applications."""

from __future__ import annotations

import json

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RedirectHandler, RequestHandler
from tornado.websocket import WebSocketHandler, websocket_connect

from tornado_sessions import SessionMixin
from tornado_sessions.testing import (
    Client,
    moved_clock,
    settings_for_tests,
    sign_in,
    start_session,
)

pytestmark = pytest.mark.gen_test(timeout=30)


class Home(SessionMixin):
    def get(self) -> None:
        self.write({"user": self.session.user, "values": dict(self.session)})


class Form(SessionMixin):
    """Renders a token, or stores what the form has."""

    def get(self) -> None:
        self.write(self.xsrf_token)

    def post(self) -> None:
        for name in self.request.body_arguments:
            self.session[name] = self.get_body_arguments(name)
        self.redirect("/")

    put = post


class Login(SessionMixin):
    def post(self) -> None:
        self.session.login(self.get_body_argument("name"))
        self.redirect("/", status=303)


class Logout(SessionMixin):
    def post(self) -> None:
        self.session.logout()
        self.redirect("/")


class Move(RequestHandler):
    """Redirects as the URL asks for, and sets a cookie first."""

    def get(self, status: str) -> None:
        self.set_cookie("moved", status)
        self.redirect(self.get_argument("to"), status=int(status))

    post = head = get


class Cookies(RequestHandler):
    """Sets the cookie lines of the header, and shows the request."""

    def get(self) -> None:
        for line in self.request.headers.get_list("Lines"):
            self.add_header("Set-Cookie", line)
        if self.get_argument("clear", ""):
            self.clear_cookie("a")
        headers = self.request.headers
        self.write({"method": self.request.method, "cookies": headers.get("Cookie")})

    def post(self) -> None:
        kind = self.request.headers.get("Content-Type")
        body = self.request.body.decode()
        self.write({"method": self.request.method, "type": kind, "body": body})

    put = delete = post

    def check_xsrf_cookie(self) -> None:
        pass


class Socket(SessionMixin, WebSocketHandler):
    async def open(self, *args: str, **kwargs: str) -> None:
        await self.write_message(self.session.user or "")


@pytest.fixture
def settings() -> dict[str, object]:
    return {"xsrf_cookies": True, "session_xsrf": True}


@pytest.fixture
def app(settings: dict[str, object]) -> Application:
    return Application(
        [
            ("/", Home),
            ("/form", Form),
            ("/login", Login),
            ("/logout", Logout),
            ("/move/([0-9]+)", Move),
            ("/cookies", Cookies),
            ("/socket", Socket),
            ("/loop", RedirectHandler, {"url": "/loop"}),
        ],
        **settings_for_tests(**settings),
    )


# Naming the application lets pytest see the settings of a test.
@pytest.fixture
def client(app: Application, http_server: HTTPServer, base_url: str) -> Client:
    return Client(base_url, app)


def with_settings(**settings: object) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("settings", [settings])


async def test_a_client_signs_in_and_keeps_its_session(client: Client) -> None:
    """What it stores is there in its next request, and for the test to read."""
    await client.sign_in("ada", cart=["kite"])
    response = await client.post("/form", {"colour": "red"})
    session = await client.session()

    assert json.loads(response.body)["user"] == "ada"
    assert session == {"cart": ["kite"], "colour": ["red"]}
    assert session.user == "ada"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"xsrf_cookies": True},
        {"session_cross_origin_protection": True},
        {"session_cross_origin_protection": True, "xsrf_cookies": True},
        {"xsrf_cookies": True, "session_xsrf": True},
        {"xsrf_cookies": True, "session_xsrf": True, "xsrf_cookie_name": "token"},
        {"session_backend": "cookie:", "xsrf_cookies": True, "session_xsrf": True},
        {"session_transports": ("header", "cookie"), "xsrf_cookies": True},
        {"session_transports": ("cookie", "query"), "session_cookie_name": "__Host-s"},
    ],
)
async def test_a_login_page_leads_on_with_the_new_session(client: Client) -> None:
    """The id of the redirect is sent on, and the token of the visitor's page works.

    A logout ends the session, and the next visit begins another one.
    """
    await client.post("/form", {"a": "1"})
    before = client.headers
    page = await client.post("/login", {"name": "ada"})
    after = client.headers
    left = await client.post("/logout")
    await client.post("/form", {"b": "2"})

    assert json.loads(page.body) == {"user": "ada", "values": {"a": ["1"]}}
    assert before != after
    assert json.loads(left.body) == {"user": None, "values": {}}
    assert await client.session() == {"b": ["2"]}


async def test_a_client_uses_what_the_test_has_stored(
    app: Application, client: Client
) -> None:
    """A session of an anonymous visitor, and one that the test has changed."""
    assert client.headers == {}
    client.use(await start_session(app, a="1"))
    session = await client.session()
    session["b"] = "2"
    await session.save()
    client.use(session)
    page = await client.post("/form", {"c": "3"})

    assert json.loads(page.body)["values"] == {"a": "1", "b": "2", "c": ["3"]}


async def test_the_headers_of_a_sign_in_are_those_of_a_client(
    app: Application, http_server: HTTPServer, base_url: str
) -> None:
    """Without the application it sends them, and the token of each new page."""
    client = Client(base_url, headers=await sign_in(app, "ada"))
    assert set(client.headers) == {"Cookie"}
    assert set(client.cookies) == {"session", "_xsrf"}
    first = await client.post("/form", {"a": "1"})
    await client.post("/login", {"name": "bob"})
    second = await client.post("/form", {"b": "2"})

    assert json.loads(first.body) == {"user": "ada", "values": {"a": ["1"]}}
    assert json.loads(second.body) == {"user": "bob", "values": {"b": ["2"]}}


async def test_a_client_without_application_posts_with_the_token_of_a_page(
    client: Client, base_url: str
) -> None:
    """It has the token when it has visited the page, as a browser."""
    stranger = Client(base_url)
    before = await stranger.post("/form", {"a": "1"})
    await stranger.get("/form")
    after = await stranger.post("/form", {"a": "1"})

    assert (before.code, after.code) == (403, 200)
    with pytest.raises(RuntimeError, match=r"Make it with: Client\(base_url, app\)"):
        await stranger.sign_in("ada")
    with pytest.raises(RuntimeError, match="does not know its application"):
        await stranger.session()


async def test_a_post_without_its_token_is_refused(
    app: Application, client: Client
) -> None:
    """A test of the protection itself sends none, or that of somebody else."""
    await client.sign_in("ada")
    bob = Client(client.base_url, app)
    await bob.sign_in("bob")
    none = await client.post("/form", headers={"X-Xsrftoken": ""})
    other = await client.post("/form", headers={"X-Xsrftoken": bob.cookies["_xsrf"]})
    field = await client.post("/form", {"_xsrf": bob.cookies["_xsrf"]})

    assert [none.code, other.code, field.code] == [403] * 3


@with_settings(session_cross_origin_protection=True)
async def test_a_post_from_another_site_is_refused(client: Client) -> None:
    """A test of the protection itself says that it comes from there."""
    await client.sign_in("ada")
    response = await client.post("/form", headers={"Sec-Fetch-Site": "cross-site"})

    assert response.code == 403


async def test_a_session_without_a_token_is_given_one(client: Client) -> None:
    """As a page with a form would do, for the session that there is."""
    await client.sign_in("ada")
    del client.cookies["_xsrf"]
    page = await client.post("/form", {"a": "1"})

    assert json.loads(page.body) == {"user": "ada", "values": {"a": ["1"]}}


@with_settings(xsrf_cookies=True, session_xsrf=True)
async def test_a_client_behind_a_proxy_has_the_cookie_of_https(
    app: Application,
) -> None:
    """It is told by the header of the proxy."""
    server = HTTPServer(app, xheaders=True)
    socket, port = bind_unused_port()
    server.add_socket(socket)
    client = Client(
        f"http://127.0.0.1:{port}/", app, headers={"X-Forwarded-Proto": "https"}
    )
    await client.sign_in("ada")
    page = await client.post("/form", {"a": "1"})
    server.stop()

    assert set(client.cookies) == {"__Host-Http-session", "_xsrf"}
    assert json.loads(page.body) == {"user": "ada", "values": {"a": ["1"]}}


async def test_the_headers_of_a_sign_in_have_the_cookie_of_https(
    app: Application,
) -> None:
    """A client with an https URL takes that one."""
    headers = await sign_in(app, "ada")

    assert set(Client("https://localhost", headers=headers).cookies) == {
        "__Host-Http-session",
        "_xsrf",
    }


@with_settings(session_transports=("cookie", "header"))
async def test_a_client_of_an_api_keeps_the_header(
    app: Application, http_server: HTTPServer, base_url: str
) -> None:
    """Where the test asks for it; the cookies are another client's."""
    client = Client(base_url, app, transport="header")
    await client.post("/form", {"a": "1"})
    page = await client.post("/login", {"name": "ada"})
    session = await client.session()
    await client.post("/logout")
    ended = client.headers
    await client.sign_in("bob")

    assert json.loads(page.body) == {"user": "ada", "values": {"a": ["1"]}}
    assert session.user == "ada"
    assert ended == {"X-Session-Token": ""}
    assert json.loads((await client.get("/")).body)["user"] == "bob"
    assert client.cookies == {}


async def test_a_client_of_an_unknown_transport_is_refused(app: Application) -> None:
    """At once, and not with its first request."""
    with pytest.raises(ValueError, match=r"transport='header' is not"):
        Client("http://localhost", app, transport="header")


@with_settings(session_transports=("query",))
async def test_a_client_without_cookies_visits_links(client: Client) -> None:
    """It has no place for an id, and says what to do instead."""
    assert (await client.get("/")).code == 200
    with pytest.raises(ValueError, match=r"Use url_of\(session, url\)\."):
        await client.sign_in("ada")


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_a_redirect_of_a_post_is_followed_with_a_get(
    client: Client, status: int
) -> None:
    """With the cookie that it has set."""
    response = await client.post(f"/move/{status}?to=/cookies", {"a": "b"})

    assert json.loads(response.body)["method"] == "GET"
    assert f"moved={status}" in json.loads(response.body)["cookies"]
    assert response.effective_url.endswith("/cookies")


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_may_keep_method_and_form(client: Client, status: int) -> None:
    """RFC 9110, sections 15.4.8 and 15.4.9."""
    response = await client.post(f"/move/{status}?to=/cookies", {"a": ["b", "c"]})

    assert json.loads(response.body) == {
        "method": "POST",
        "type": "application/x-www-form-urlencoded",
        "body": "a=b&a=c",
    }


async def test_a_redirect_is_returned_where_it_leads_elsewhere(client: Client) -> None:
    """No cookie is sent to another host, and a test can look at the redirect."""
    elsewhere = await client.get("/move/302?to=http://127.0.0.2/")
    protocol = await client.get(
        f"/move/302?to={client.base_url.replace('http', 'https')}/"
    )
    asked = await client.get("/move/302?to=/", follow_redirects=False)

    assert elsewhere.headers["Location"] == "http://127.0.0.2/"
    assert [elsewhere.code, protocol.code, asked.code] == [302] * 3


async def test_an_endless_redirect_is_an_error(client: Client) -> None:
    """The message says how to find out why."""
    with pytest.raises(RuntimeError, match=r"'/loop' .* with follow_redirects=False"):
        await client.get("/loop")


async def test_a_relative_redirect_is_one_from_its_page(client: Client) -> None:
    """As in a browser."""
    response = await client.get("/move/302?to=303%3Fto%3D../cookies")

    assert response.effective_url == f"{client.base_url}/cookies"
    assert client.cookies == {"moved": "303"}


async def test_a_redirect_of_a_head_is_followed_with_a_head(client: Client) -> None:
    """RFC 9110, section 15.4."""
    response = await client.fetch("/move/302?to=/move/303?to%3D/nowhere", "HEAD")

    assert response.request.method == "HEAD"
    assert (response.code, client.cookies) == (404, {"moved": "303"})


async def test_a_path_is_never_another_host(client: Client) -> None:
    """Though a link in a page with such a path would lead there."""
    response = await client.get("//127.0.0.2/")

    assert response.code == 404
    assert response.effective_url == f"{client.base_url}//127.0.0.2/"


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_any_method_can_be_sent(client: Client, method: str) -> None:
    """With a body or without."""
    response = await client.fetch("/cookies", method)

    assert json.loads(response.body)["method"] == method


async def test_a_form_can_be_put(client: Client) -> None:
    """It has its type and the token."""
    await client.sign_in("ada")
    page = await client.fetch("/form", "PUT", {"a": "1"})

    assert json.loads(page.body)["values"] == {"a": ["1"]}


async def test_a_body_can_be_of_any_type(client: Client) -> None:
    """As bytes or a string, with the headers of the request."""
    response = await client.post(
        "/cookies", json.dumps([1]), headers={"Content-Type": "application/json"}
    )

    assert json.loads(response.body) == {
        "method": "POST",
        "type": "application/json",
        "body": "[1]",
    }


@pytest.mark.parametrize(
    "line",
    [
        "a=; Max-Age=0",
        "a=2; max-age=-1",
        "a=; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "a=; expires=Thu, 01-Jan-1970 00:00:00 GMT; Path=/",
    ],
)
async def test_a_cookie_that_has_expired_is_dropped(client: Client, line: str) -> None:
    """As the application asks for."""
    client.cookies = {"a": "1", "b": "1"}
    await client.get("/cookies", headers={"Lines": line})

    assert client.cookies == {"b": "1"}


async def test_a_cookie_of_tornado_is_kept_and_cleared(client: Client) -> None:
    """With the lines that Tornado writes."""
    lines = "a=1; expires=Fri, 01 Jan 2100 00:00:00 GMT; Path=/"
    await client.get("/cookies", headers={"Lines": lines})
    kept = dict(client.cookies)
    await client.get("/cookies?clear=1")

    assert kept == {"a": "1"}
    assert client.cookies == {}


async def test_an_empty_cookie_is_a_cookie(client: Client) -> None:
    """It is sent again, as a browser does."""
    await client.get("/cookies", headers={"Lines": "a=; Path=/"})
    response = await client.get("/cookies")

    assert json.loads(response.body)["cookies"] == "a="


async def test_a_max_age_counts_before_a_date(client: Client) -> None:
    """RFC 6265, section 5.3."""
    line = "a=1; Max-Age=9; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    await client.get("/cookies", headers={"Lines": line})

    assert client.cookies == {"a": "1"}


async def test_a_websocket_is_opened_with_the_headers_of_a_client(
    client: Client,
) -> None:
    """They are those of its next request."""
    await client.sign_in("ada")
    url = f"{client.base_url.replace('http', 'ws')}/socket"
    socket = await websocket_connect(HTTPRequest(url, headers=client.headers))

    assert await socket.read_message() == "ada"
    socket.close()


@with_settings(session_socket_interval=1)
async def test_a_moved_clock_closes_a_websocket(
    app: Application, client: Client
) -> None:
    """Its session has expired, and the next check finds that out."""
    url = f"{client.base_url.replace('http', 'ws')}/socket"
    with moved_clock(app) as clock:
        await client.sign_in("ada")
        socket = await websocket_connect(HTTPRequest(url, headers=client.headers))
        await socket.read_message()
        clock.move(days=2)
        message = await socket.read_message()
    socket.close()

    assert (message, socket.close_code) == (None, 1008)


async def test_a_server_that_is_not_there_is_an_error() -> None:
    """There is no response to return."""
    socket, port = bind_unused_port()
    socket.close()

    with pytest.raises(ConnectionRefusedError):
        await Client(f"http://127.0.0.1:{port}").get("/")


async def test_a_client_uses_the_given_http_client() -> None:
    """As one with other limits."""
    http_client = AsyncHTTPClient(force_instance=True)
    http_client.close()

    with pytest.raises(RuntimeError, match="closed"):
        await Client("http://localhost", http_client=http_client).get("/")


async def test_the_repr_has_no_cookie(client: Client) -> None:
    """It counts them."""
    await client.sign_in("ada")

    assert repr(client) == f"<Client of {client.base_url}, 2 cookies>"
    client.cookies.popitem()
    assert repr(client) == f"<Client of {client.base_url}, 1 cookie>"

"""Tests of what refuses the requests that another origin sends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.httpclient import (
    AsyncHTTPClient,
    HTTPClientError,
    HTTPRequest,
    HTTPResponse,
)
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders
from tornado.web import Application
from tornado.websocket import WebSocketHandler, websocket_connect
from tornado_sessions_memory import MemoryBackend

from tornado_sessions import SessionMixin
from tornado_sessions.http.origins import Origins
from tornado_sessions.settings import read_settings

TRUSTED = ["https://app.example.com", "https://id.example.com:8443", "app://shop"]


def error_of(**settings: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_settings(
            {
                "session_backend": MemoryBackend(),
                "session_cross_origin_protection": True,
                **settings,
            }
        )
    return str(caught.value)


class SettingsTest:
    def test_it_is_off_by_default(self) -> None:
        """And needs nothing else."""
        backend = MemoryBackend()
        on = read_settings(
            {"session_backend": backend, "session_cross_origin_protection": True}
        )

        assert on.origins is not None
        assert read_settings({"session_backend": backend}).origins is None

    def test_it_is_true_or_false(self) -> None:
        """Behaviour 91: with the setting and its value."""
        assert error_of(session_cross_origin_protection=1) == (
            "session_cross_origin_protection=1 is to be True or False."
        )

    @pytest.mark.parametrize(
        "origin",
        [
            *["*", "null", "", "app.example.com", "//app.example.com", "https://"],
            *["https://app.example.com/", "https://app.example.com/a", None, 7],
            *["https://app.example.com?a", "https://app.example.com#a"],
            *["https://ada@app.example.com", "https://app.example.com:443"],
            *["http://app.example.com:80", "https://App.example.com", "HTTPS://a.com"],
            *["https://b\xfccher.example", "https://a.com b.com", "https://a.com\n"],
            *["https://a\\b.com", "https://[::1", "https://a:b"],
        ],
    )
    def test_an_origin_that_no_browser_sends_is_refused(self, origin: object) -> None:
        """Behaviour 91: it would trust nobody, or somebody else."""
        assert error_of(trusted_origins=["https://a.com", origin]) == (
            f"trusted_origins has {origin!r}, which no browser sends as an origin."
            " Write it as 'https://app.example.com': scheme and host in lower case and"
            " in ASCII, the port only if it is not the usual one, and no path, not even"
            " '/'."
        )

    @pytest.mark.parametrize(
        "origin",
        [*TRUSTED, "http://[::1]:8888", "http://a.com:443", "https://a_b.c:80"],
    )
    def test_an_origin_is_taken_as_a_browser_sends_it(self, origin: str) -> None:
        """Behaviour 91: with a port of its own, or another scheme."""
        assert Origins([origin]).sender("cross-site", origin, "https", "b") == "here"

    def test_a_single_origin_is_not_a_list(self) -> None:
        """Behaviour 91: each part of the text would be trusted."""
        assert error_of(trusted_origins="https://app.example.com") == (
            "trusted_origins='https://app.example.com' is to be a list of origins, such"
            " as ['https://app.example.com']."
        )

    def test_they_are_not_read_without_it(self) -> None:
        """They are Tornado's own from 6.6 on."""
        read_settings({"session_backend": MemoryBackend(), "trusted_origins": "*"})


@pytest.mark.parametrize(
    ("origin", "protocol", "host", "sender"),
    [
        ("https://shop.example", "https", "shop.example", "here"),
        ("https://shop.example", "https", "Shop.Example:443", "here"),
        ("https://shop.example", "http", "shop.example", "here"),
        ("http://shop.example", "http", "shop.example", "here"),
        ("http://shop.example", "http", "shop.example:80", "here"),
        ("http://[::1]:8888", "http", "[::1]:8888", "here"),
        ("http://shop.example", "https", "shop.example", "elsewhere"),
        ("https://shop.example", "https", "shop.example:80", "elsewhere"),
        ("https://shop.example:8443", "https", "shop.example", "elsewhere"),
        ("https://a.shop.example", "https", "shop.example", "elsewhere"),
        ("https://shop.example", "https", "a.shop.example", "elsewhere"),
        ("https://shop.example.evil", "https", "shop.example", "elsewhere"),
        ("https://shop.example, https://evil", "https", "shop.example", "elsewhere"),
        ("app://shop.example", "https", "shop.example", "elsewhere"),
        ("app://shop.example", "http", "shop.example", "elsewhere"),
        ("shop.example", "http", "shop.example", "elsewhere"),
        ("https://", "https", "", "elsewhere"),
        ("", "https", "", "elsewhere"),
        ("null", "https", "null", "unknown"),
        (None, "https", "shop.example", "unknown"),
    ],
)
def test_an_origin_is_compared_with_the_host(
    origin: str | None, protocol: str, host: str, sender: str
) -> None:
    """Behaviour 91: where Sec-Fetch-Site is missing. A proxy may hide https."""
    assert Origins(TRUSTED).sender(None, origin, protocol, host) == sender


@pytest.mark.parametrize(
    ("site", "sender"),
    [
        ("same-origin", "here"),
        ("none", "here"),
        ("same-site", "elsewhere"),
        ("cross-site", "elsewhere"),
        ("same-origin,cross-site", "elsewhere"),
        ("Same-Origin", "elsewhere"),
        ("", "elsewhere"),
    ],
)
def test_sec_fetch_site_counts_before_the_origin(site: str, sender: str) -> None:
    """Behaviour 91: whatever that is, unless it is trusted."""
    origins = Origins(TRUSTED)

    for origin in (None, "null", "https://shop.example", "https://evil.example"):
        assert origins.sender(site, origin, "https", "shop.example") == sender
    for origin in TRUSTED:
        assert origins.sender(site, origin, "https", "shop.example") == "here"


class Site:
    """An application, and whoever sends requests to it."""

    def __init__(self, app: Application, client: AsyncHTTPClient, url: str) -> None:
        self.app = app
        self.client = client
        self.url = url
        self.host = url.partition("//")[2]

    async def post(self, *headers: str, body: str = "", **request: Any) -> int:
        """Sends a POST with lines of headers, and returns the status."""
        return (await self.fetch(*headers, body=body, **request)).code

    async def fetch(
        self, *headers: str, method: str = "POST", path: str = "/", **request: Any
    ) -> HTTPResponse:
        sent = HTTPHeaders()
        for line in headers:
            sent.parse_line(line)
        if method in ("GET", "HEAD", "OPTIONS"):
            request["body"] = None
        return await self.client.fetch(
            self.url + path,
            method=method,
            headers=sent,
            raise_error=False,
            allow_nonstandard_methods=True,
            **request,
        )


class Handler(SessionMixin):
    def get(self) -> None:
        self.write(self.xsrf_token)

    def post(self) -> None:
        self.session["posted"] = True

    head = options = delete = put = patch = post


class Webhook(Handler):
    def check_xsrf_cookie(self) -> None:
        """Accepts requests of all origins."""


class Socket(SessionMixin, WebSocketHandler):
    def open(self, *args: str, **kwargs: str) -> None:
        self.close()


def open_app(**settings: Any) -> Application:
    return Application(
        [("/", Handler), ("/webhook", Webhook), ("/socket", Socket)],
        session_backend=MemoryBackend(),
        session_cross_origin_protection=True,
        trusted_origins=TRUSTED,
        cookie_secret="c" * 32,
        **settings,
    )


@pytest.fixture
def app(request: pytest.FixtureRequest) -> Application:
    return open_app(**getattr(request, "param", {}))


@pytest.fixture
def site(app: Application, http_server: HTTPServer, base_url: str) -> Iterator[Site]:
    client = AsyncHTTPClient(force_instance=True)
    yield Site(app, client, base_url)
    client.close()


def with_settings(**settings: Any) -> Any:  # noqa: ANN401
    return pytest.mark.parametrize("app", [settings], indirect=True, ids=[""])


SETTINGS: list[dict[str, Any]] = [
    {},
    {"xsrf_cookies": True},
    {"xsrf_cookies": True, "session_xsrf": True},
]
with_and_without_tokens = pytest.mark.parametrize(
    "app", SETTINGS, indirect=True, ids=["alone", "tokens", "bound"]
)
with_tokens = pytest.mark.parametrize(
    "app", SETTINGS[1:], indirect=True, ids=["tokens", "bound"]
)

COOKIE = "Cookie: session=" + "A" * 43
BEARER = "Authorization: Bearer abc"
CROSS_SITE = ("Sec-Fetch-Site: cross-site", "Origin: https://evil.example")
SAME_SITE = ("Sec-Fetch-Site: same-site", "Origin: https://evil.example.com")


@with_and_without_tokens
@pytest.mark.gen_test
async def test_a_form_of_the_site_itself_needs_no_token(site: Site) -> None:
    """Behaviour 91: whether the visitor has a cookie or not."""
    for cookies in ((), (COOKIE,)):
        for sent in ("same-origin", "none"):
            assert await site.post(f"Sec-Fetch-Site: {sent}", *cookies) == 200
        assert await site.post(f"Origin: {site.url}", *cookies) == 200


@with_and_without_tokens
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.gen_test
async def test_a_form_of_another_origin_is_refused(site: Site, method: str) -> None:
    """Behaviour 91: of a sibling domain as well, and a login, which has no cookie."""
    for sent in (CROSS_SITE, SAME_SITE, CROSS_SITE[1:], CROSS_SITE[:1]):
        for cookies in ((), (COOKIE,)):
            assert await site.post(*sent, *cookies, method=method) == 403


@with_and_without_tokens
@pytest.mark.gen_test
async def test_a_trusted_origin_is_not_refused(site: Site) -> None:
    """Behaviour 91: the same host with another port or scheme is another one."""
    for origin in TRUSTED:
        for sent in ((), ("Sec-Fetch-Site: cross-site",)):
            assert await site.post(f"Origin: {origin}", *sent, COOKIE) == 200
    for origin in ("http://app.example.com", "https://app.example.com:8443"):
        assert await site.post(f"Origin: {origin}", COOKIE) == 403


@with_and_without_tokens
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.gen_test
async def test_what_changes_nothing_is_not_refused(site: Site, method: str) -> None:
    """Behaviour 91: a link on another site leads here."""
    assert await site.post(*CROSS_SITE, COOKIE, method=method) == 200


@with_tokens
@pytest.mark.gen_test
async def test_where_a_browser_sends_neither_the_token_decides(site: Site) -> None:
    """Behaviour 91: also for a page that does not say what its origin is."""
    page = await site.fetch(method="GET")
    cookie = page.headers["Set-Cookie"].partition(";")[0].replace('"', "")
    form = f"_xsrf={page.body.decode()}"

    for sent in ((), ("Origin: null",)):
        assert await site.post(f"Cookie: {cookie}", *sent, body=form) == 200
        assert await site.post(f"Cookie: {cookie}", *sent) == 403
        assert await site.post(*sent) == 403
    assert await site.post(f"Cookie: {cookie}", *CROSS_SITE, body=form) == 403


@with_settings()
@pytest.mark.gen_test
async def test_without_tokens_cookies_alone_prove_nothing(site: Site) -> None:
    """Behaviour 91: a client that sends neither header nor cookies is no browser."""
    assert await site.post() == 200
    assert await site.post(COOKIE) == 403
    assert await site.post("Cookie: other=1") == 403
    assert await site.post("Origin: null") == 403


@with_and_without_tokens
@pytest.mark.gen_test
async def test_a_bearer_token_takes_the_place_of_the_other(site: Site) -> None:
    """Behaviour 91: no form sends one; but the cookies of a visitor count as well."""
    for sent in ((), CROSS_SITE, SAME_SITE, ("Origin: null",)):
        assert await site.post(BEARER, *sent) == 200
    assert await site.post("Authorization: bearer  x") == 200
    assert await site.post(BEARER, COOKIE) == 200
    assert await site.post(BEARER, COOKIE, "Sec-Fetch-Site: same-origin") == 200
    for sent in (CROSS_SITE, SAME_SITE, ("Origin: null",)):
        assert await site.post(BEARER, COOKIE, *sent) == 403


@with_and_without_tokens
@pytest.mark.parametrize("given", ["Basic YTpi", "Bearer", "Bearer ", "Bearerx y"])
@pytest.mark.gen_test
async def test_what_a_browser_adds_by_itself_is_no_bearer_token(
    site: Site, given: str
) -> None:
    """Behaviour 91: such as a password that it has been given before."""
    assert await site.post(f"Authorization: {given}", *CROSS_SITE) == 403
    assert await site.post(f"Authorization: {given}", COOKIE) == 403


@pytest.mark.parametrize(
    "app",
    [{"session_transports": ("cookie", "header"), **settings} for settings in SETTINGS],
    indirect=True,
    ids=["alone", "tokens", "bound"],
)
@pytest.mark.gen_test
async def test_an_id_in_the_header_needs_nothing_else(site: Site) -> None:
    """Behaviours 73, 91: unless the cookie is the transport that decides."""
    header = "X-Session-Token: " + "B" * 42 + "A"

    for sent in ((), CROSS_SITE):
        assert await site.post(header, *sent) == 200
        assert await site.post(header, *sent, COOKIE) == 403


@with_and_without_tokens
@pytest.mark.gen_test
async def test_a_handler_can_accept_every_origin(site: Site) -> None:
    """Behaviour 91: with the method that Tornado calls for a token."""
    for cookies in ((), (COOKIE,)):
        assert await site.post(*CROSS_SITE, *cookies, path="/webhook") == 200


@with_and_without_tokens
@pytest.mark.gen_test
async def test_a_websocket_is_left_to_tornado(site: Site) -> None:
    """Behaviour 91: its check_origin() refuses other origins, also with a token."""
    url = f"ws://{site.host}/socket"
    for sent in ({}, {"Authorization": "Bearer abc"}):
        headers = {"Origin": "https://evil.example", **sent}
        with pytest.raises(HTTPClientError) as caught:
            await websocket_connect(HTTPRequest(url, headers=headers))
        assert caught.value.code == 403
    socket = await websocket_connect(HTTPRequest(url, headers={"Origin": site.url}))

    assert await socket.read_message() is None
    socket.close()


@with_settings()
@pytest.mark.gen_test
async def test_the_host_is_the_one_that_the_proxy_passes_on(site: Site) -> None:
    """Behaviour 91: only where Sec-Fetch-Site is missing."""
    origin = "Origin: https://shop.example"

    assert await site.post(origin, "Host: shop.example") == 200
    assert await site.post(origin, "Host: 10.0.0.7:8000") == 403
    fetched = "Sec-Fetch-Site: same-origin"
    assert await site.post(origin, "Host: 10.0.0.7:8000", fetched) == 200


SITE = (
    "Another origin sends the request: Sec-Fetch-Site is 'same-site', Origin is"
    " 'https://evil.example.com'. If it may, put it into the setting trusted_origins."
)
ORIGIN = (
    "Another origin sends the request: Origin is 'https://evil.example/100%s', and the"
    " request is for 'shop.example' over http. If it may, put it into the setting"
    " trusted_origins. If this is the site's own, let the proxy pass on the Host header."
)
UNKNOWN = (
    "It is not known which site sends the request: Sec-Fetch-Site is missing, and Origin"
    " is %s. For old browsers set xsrf_cookies=True as well, and put the token into"
    " forms."
)


@with_settings()
@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (SAME_SITE, SITE),
        (("Origin: https://evil.example/100%s", "Host: shop.example"), ORIGIN),
        ((COOKIE,), UNKNOWN % "missing, too"),
        ((COOKIE, "Origin: null"), UNKNOWN % "'null'"),
    ],
)
@pytest.mark.gen_test
async def test_the_log_says_why(
    site: Site,
    headers: tuple[str, ...],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Behaviours 8, 91: and has nothing of the cookies."""
    assert await site.post(*headers) == 403

    logged = [each.getMessage() for each in caplog.records if each.levelno > 20]
    assert f"403 POST / (127.0.0.1): {reason}" in logged
    assert "A" * 43 not in caplog.text


@with_settings()
@pytest.mark.gen_test
async def test_a_long_header_is_not_repeated_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 85: it is cut."""
    caplog.set_level(logging.INFO)
    for name in ("Origin", "Sec-Fetch-Site", "Host"):
        headers = [f"{name}: " + "x" * 9999]
        if name == "Host":
            headers.append(CROSS_SITE[1])
        assert await site.post(*headers) == 403
    assert await site.post("Sec-Fetch-Site: cross-site", "Origin: " + "x" * 999) == 403

    assert "x" * 100 in caplog.text
    assert "x" * 101 not in caplog.text

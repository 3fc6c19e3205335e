"""Defines `Client`, which visits an application under test and keeps cookies."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from email.utils import mktime_tz, parsedate_tz
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.web import Application

from tornado_sessions.http.transports import HEADER
from tornado_sessions.session import Session
from tornado_sessions.sessions import Sessions
from tornado_sessions.testing.sessions import (
    cookie_header,
    headers_of,
    ids_in,
    load_session,
    proof_of_origin,
    start_session,
    transport_of,
    xsrf_cookie_name,
    xsrf_token,
)

#: How many redirects are followed, one after another.
MOST_REDIRECTS = 10

_SAFE = ("GET", "HEAD", "OPTIONS")

_prefix = re.compile("^__(host-http|host|secure|http)-", re.IGNORECASE)


class Client:
    """A browser without JavaScript: keeps cookies, and follows redirects.

    ::

        client = Client(self.get_url(""), app)
        await client.sign_in("ada", cart=["kite"])
        response = await client.post("/cart", {"product": "lantern"})

    ``headers`` are sent with each request, such as ``{"X-Forwarded-Proto": "https"}``
    or what `sign_in` has returned. Without ``app``, as for a server in another
    process, it cannot `sign_in`. ``transport`` is ``"cookie"`` or ``"header"``, by
    default the first one in ``session_transports``. A client is of one application:
    it ignores Domain, Path and Secure of cookies.
    """

    def __init__(
        self,
        base_url: str,
        app: Application | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        transport: str | None = None,
        http_client: AsyncHTTPClient | None = None,
    ) -> None:
        #: Where the application is served, such as ``http://localhost:8888``.
        self.base_url = base_url.rstrip("/")
        #: The cookies by their names. A test may change them.
        self.cookies: dict[str, str] = {}
        self._app = app
        self._http_client = http_client
        self._headers = HTTPHeaders()
        if app is not None:
            transport = transport_of(Sessions.of(app).settings, transport)
        self._transport = transport
        if transport == "header":
            # An empty one asks for an id.
            self._headers[HEADER] = ""
        self._take(headers or {})

    def __repr__(self) -> str:
        count = len(self.cookies)
        return f"<Client of {self.base_url}, {count} cookie{'s' * (count != 1)}>"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the next request, as for ``websocket_connect``."""
        headers = dict(self._headers)
        if self.cookies:
            headers["Cookie"] = cookie_header(self.cookies)
        return headers

    async def sign_in(self, user: str, /, **values: Any) -> Session:
        """Stores a session of ``user`` with these values, and uses it from now on.

        Returns the session. Raises what `.Session.save` raises.
        """
        session = await start_session(self._require_app(), user, **values)
        self.use(session)
        return session

    def use(self, session: Session) -> None:
        """Sends the id of ``session`` from now on, in place of another.

        Raises as `headers_of` does.
        """
        app = self._require_app()
        self._take(headers_of(app, session, transport=self._transport))

    async def session(self) -> Session:
        """Returns the session of this client; see `load_session`."""
        return await load_session(self._require_app(), self.headers)

    async def get(self, path: str, **options: Any) -> HTTPResponse:
        """Sends a GET; see `fetch`."""
        return await self.fetch(path, **options)

    async def post(
        self,
        path: str,
        body: Mapping[str, object] | str | bytes = b"",
        **options: Any,
    ) -> HTTPResponse:
        """Sends a POST; see `fetch`."""
        return await self.fetch(path, "POST", body, **options)

    async def fetch(
        self,
        path: str,
        method: str = "GET",
        body: Mapping[str, object] | str | bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        follow_redirects: bool = True,
        **options: Any,
    ) -> HTTPResponse:
        """Sends a request and returns the response, whatever its status.

        A mapping as ``body`` is sent as a form. Redirects are followed within the
        application, with the cookies that each has set; one that leads elsewhere is
        returned. With a method other than GET, HEAD and OPTIONS the token of
        ``xsrf_cookies`` is sent in ``X-Xsrftoken``, as a page of the application
        does; ``headers={"X-Xsrftoken": ""}`` sends none. Without tokens, but with
        ``session_cross_origin_protection``, ``Sec-Fetch-Site`` is sent. ``options`` are those of
        `~tornado.httpclient.HTTPRequest`. Raises what the HTTP client raises where
        there is no response, and `RuntimeError` for an endless redirect.
        """
        url = self.base_url + path
        for _ in range(MOST_REDIRECTS + 1):
            response = await self._send(url, method, body, headers or {}, options)
            target = urljoin(url, response.headers.get("Location", ""))
            if (
                not follow_redirects
                or response.code not in (301, 302, 303, 307, 308)
                or urlsplit(target)[:2] != urlsplit(self.base_url)[:2]
            ):
                return response
            url = target
            if response.code < 307 and method != "HEAD":
                method, body = "GET", None
        raise RuntimeError(
            f"{path!r} leads to more than {MOST_REDIRECTS} redirects. Fetch it with"
            " follow_redirects=False to see where they lead."
        )

    async def _send(
        self,
        url: str,
        method: str,
        body: Mapping[str, object] | str | bytes | None,
        headers: Mapping[str, str],
        options: Mapping[str, Any],
    ) -> HTTPResponse:
        proof = {} if method in _SAFE else self._proof_of_origin()
        # Afterwards, as the token may be a new cookie.
        sent = HTTPHeaders(self.headers | proof)
        if isinstance(body, Mapping):
            body = urlencode(body, doseq=True)
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        elif body is None and method in ("POST", "PUT", "PATCH"):
            body = b""
        for name, value in headers.items():
            sent[name] = value
        response = await (self._http_client or AsyncHTTPClient()).fetch(
            url,
            method=method,
            headers=sent,
            body=body,
            follow_redirects=False,
            raise_error=False,
            **options,
        )
        for line in response.headers.get_list("Set-Cookie"):
            self._keep(line)
        if HEADER in response.headers:
            self._headers[HEADER] = response.headers[HEADER]
        return response

    @property
    def _is_https(self) -> bool:
        return "https" in (
            urlsplit(self.base_url).scheme,
            self._headers.get("X-Forwarded-Proto"),
        )

    def _require_app(self) -> Application:
        if self._app is None:
            raise RuntimeError(
                "This client does not know its application. Make it with:"
                " Client(base_url, app)"
            )
        return self._app

    def _take(self, headers: Mapping[str, str]) -> None:
        """Sends ``headers`` from now on; cookies are kept by their names."""
        given = HTTPHeaders(headers)
        cookies = given.pop("Cookie", "")
        # That one is made of the cookie.
        given.pop("X-Xsrftoken", None)
        self._headers.update(given)
        if cookies:
            self.cookies |= _cookies_in(cookies, self._is_https)

    def _keep(self, line: str) -> None:
        """Keeps or drops a cookie, as a Set-Cookie line says."""
        pair, *attributes = line.split(";")
        name, _, value = pair.partition("=")
        self.cookies.pop(name.strip(), None)
        if not _has_expired(attributes):
            self.cookies[name.strip()] = value.strip()

    def _proof_of_origin(self) -> dict[str, str]:
        """Returns the header that a POST has from a page of the application.

        The token in it may be a new one, with a new cookie.
        """
        app = self._app
        if app is None:
            known = self.cookies.get("_xsrf")
            return {} if known is None else {"X-Xsrftoken": known}
        tokens = ids_in(Sessions.of(app).settings, HTTPHeaders(self.headers))
        token = xsrf_token(app, tokens[0] if tokens else None)
        if token is not None:
            name = xsrf_cookie_name(app, self._is_https)
            token = self.cookies.setdefault(name, token)
        return proof_of_origin(app, token)


def _cookies_in(header: str, https: bool) -> dict[str, str]:
    """Returns the cookies of a Cookie header that count over https, or over http."""
    pairs = (pair.partition("=") for pair in header.split(";"))
    cookies = {name.strip(): value.strip() for name, _, value in pairs}
    for name in list(cookies):
        bare = _prefix.sub("", name)
        if bare != name and bare in cookies:
            # headers_of() has one cookie under both names.
            del cookies[bare if https else name]
    return cookies


def _has_expired(attributes: Iterable[str]) -> bool:
    """Whether the attributes of a Set-Cookie line remove the cookie."""
    pairs = (attribute.partition("=") for attribute in attributes)
    values = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if "max-age" in values:
        return int(values["max-age"]) <= 0
    expires = parsedate_tz(values.get("expires", ""))
    return expires is not None and mktime_tz(expires) <= time.time()

"""Finds the session ids that a request brings, and by which transport they came."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

from tornado.httputil import HTTPServerRequest

from tornado_sessions.core.load import MOST_IDS
from tornado_sessions.core.state import SessionState
from tornado_sessions.errors import SessionError
from tornado_sessions.http.cookies import CookieSettings
from tornado_sessions.http.transports import (
    HEADER,
    PARAMETER,
    Transports,
    read_header,
    take_from_url,
)
from tornado_sessions.logs import LimitedLog
from tornado_sessions.settings import Settings
from tornado_sessions.web.loopback import is_on_loopback

_ON_LOOPBACK = (
    "Over plain http on loopback the session cookie goes out without Secure and its"
    " prefix, as %r. Behind a proxy that ends https, start the server with"
    " xheaders=True."
)

_WITHHELD = (
    "The session %s is withheld: the request came over plain http, where anyone can"
    " read it. Serve https; behind a proxy that ends https, start the server with"
    " xheaders=True and let the proxy set X-Forwarded-Proto. For development on a"
    " network that you trust: session_cookie_kwargs={'secure': False}."
)

# The request does not show why there are several cookies with our name.
_ONE_ALIVE = (
    "A request came with %s, of which one is alive; that one is taken. Another"
    " application on this host may use the name with another path, or settings were"
    " changed: look at session_cookie_name, at domain, path and partitioned in"
    " session_cookie_kwargs, and whether the site is also served over plain http."
)
_AMBIGUOUS = (
    "A request came with %s; none is taken, and the client is told to drop its own. Look"
    " at session_cookie_name, and at domain, path and partitioned in"
    " session_cookie_kwargs."
)


class TakenIds:
    """The ids that `take_ids` has taken out of a request."""

    __slots__ = ("header", "url")

    def __init__(self, url: Sequence[str] = (), header: Sequence[str] = ()) -> None:
        #: The different ids in the URL.
        self.url = url
        #: The lines of the header.
        self.header = header


_NOTHING = TakenIds()


def take_ids(request: HTTPServerRequest, names: object) -> TakenIds:
    """Removes the ids from the header and the URL of a request, and returns them.

    After that no log, no link and no error report repeats them. ``names`` is the
    setting ``session_transports``, which may not have been checked yet.
    """
    if not isinstance(names, (list, tuple)):
        return _NOTHING
    lines: Sequence[str] = ()
    if "header" in names and HEADER in request.headers:
        lines = request.headers.get_list(HEADER)
        del request.headers[HEADER]
    if "query" not in names:
        return TakenIds((), lines)
    uri, ids = take_from_url(request.uri or "")
    if ids:
        request.uri, request.query = uri, uri.partition("?")[2]
        request.query_arguments.pop(PARAMETER, None)
        request.arguments.pop(PARAMETER, None)
        if PARAMETER in request.body_arguments:
            request.arguments[PARAMETER] = list(request.body_arguments[PARAMETER])
    return TakenIds(ids, lines)


class SessionIds:
    """The session ids that a request brings, and how its response sends the id.

    The constructor reads the request. It decides by which transport the id travels,
    and which cookie settings the response uses: both depend on the request.
    """

    #: The id that the client has, once its session was looked up.
    token: str | None = None
    #: The request came with several ids, and it is not known which one counts.
    is_ambiguous = False
    #: No other site may get the URL of the page: the id is in it, or in a link.
    is_in_url = False
    #: The id that `.put_id_in_url` has put into a link of the response.
    linked_token: str | None = None
    #: "cookie", "header" or "query"; "" if no id is accepted or sent.
    transport = "cookie"

    _cookie: CookieSettings | None = None
    _has_cookie = False

    def __init__(
        self,
        request: HTTPServerRequest,
        settings: Settings,
        logs: LimitedLog,
        taken: TakenIds | None = None,
    ) -> None:
        self._request = request
        self._settings = settings
        self._logs = logs
        #: The different ids of the request; after `choose` only those that are alive.
        #: At most five are kept: one more than the limit shows that there are too many.
        self.tokens: Sequence[str]
        if settings.transports is None or taken is None:
            cookie = self._cookie = self._find_cookie()
            self._has_cookie = True
            self.tokens = () if cookie is None else self._read_cookies(cookie)
        else:
            self.is_in_url = bool(taken.url)
            self.tokens = self._read(settings.transports, taken)

    @property
    def vary(self) -> str:
        """The headers of the request that the session depends on, for Vary."""
        transports = self._settings.transports
        return "Cookie" if transports is None else transports.vary

    @property
    def has_links(self) -> bool:
        """Whether the application takes ids from URLs."""
        transports = self._settings.transports
        return transports is not None and "query" in transports.names

    @property
    def needs_link(self) -> bool:
        """Whether the client gets its id in links, because it has no other place."""
        if self.transport == "cookie":
            return self.token is None
        return self.transport == "query"

    @property
    def cookie(self) -> CookieSettings | None:
        """The session cookie for the protocol of the request; None to withhold it."""
        if not self._has_cookie:
            self._cookie, self._has_cookie = self._find_cookie(), True
        return self._cookie

    @property
    def xsrf_cookie(self) -> CookieSettings | None:
        """The XSRF cookie for the protocol of the request; None to withhold it."""
        cookie, settings = self.cookie, self._settings
        if cookie is None:
            return None
        if cookie is settings.cookie:
            return settings.xsrf_cookie
        return settings.loopback_xsrf_cookie

    def choose(self, state: SessionState) -> None:
        """Notes which of several ids are alive, after they were looked up."""
        count, self.tokens = len(self.tokens), _alive(state)
        self.is_ambiguous = state.refusal is not None
        if state.token is not None:
            self.token = state.token
        if self.is_ambiguous or state.token is not None:
            self._logs.log(
                logging.WARNING,
                _AMBIGUOUS if self.is_ambiguous else _ONE_ALIVE,
                self._describe(count),
            )

    def is_dropped(self, state: SessionState) -> bool:
        """Whether the client is told to drop the id that it has sent."""
        return state.token is None and (
            self.is_ambiguous or (self.token is not None and state.destroyed)
        )

    def log_refusal(self, error: SessionError) -> None:
        """Logs why the response to a request with several ids is 400."""
        request = self._request
        self._logs.log(
            logging.WARNING,
            "400 %s %s (%s): %s",
            request.method,
            request.uri,
            request.remote_ip,
            str(error),
        )

    def _find_cookie(self) -> CookieSettings | None:
        settings, request = self._settings, self._request
        cookie = settings.cookie
        if not cookie.secure or request.protocol == "https":
            return cookie
        if is_on_loopback(request):
            cookie = settings.loopback_cookie
            self._logs.once(logging.INFO, _ON_LOOPBACK, cookie.name)
            return cookie
        self._logs.log(logging.WARNING, _WITHHELD, "cookie")
        return None

    def _read(self, transports: Transports, taken: TakenIds) -> Sequence[str]:
        """Returns the different ids of the first transport that has a well-formed one.

        An empty header counts as well: the client asks for an id there. The
        response goes back by the same transport: a script that adds the header to a
        request with a cookie must not read the cookie's id in the response.
        """
        request, settings = self._request, self._settings
        if (
            request.protocol != "https"
            and settings.cookie.secure
            and not is_on_loopback(request)
        ):
            self.transport = ""
            self._logs.log(logging.WARNING, _WITHHELD, "id")
            return ()
        # A client that sends no header does not read one.
        default = next((name for name in transports.names if name != "header"), "")
        malformed: tuple[str, Sequence[str]] = (default, ())
        for name in transports.names:
            if name == "cookie":
                cookie = self.cookie
                tokens = () if cookie is None else self._read_cookies(cookie)
            elif name == "header":
                tokens = self._limited(read_header(taken.header))
                if taken.header and not tokens:
                    self.transport = name
                    return ()
            else:
                tokens = self._limited(taken.url)
            if tokens and settings.vault.is_well_formed(tokens[0]):
                self.transport = name
                return tokens
            if tokens and not malformed[1]:
                malformed = (name, tokens)
        self.transport, tokens = malformed
        return tokens

    def _read_cookies(self, cookie: CookieSettings) -> Sequence[str]:
        values = cookie.read(self._request.headers.get_list("Cookie"))
        return values if len(values) < 2 else self._limited(values)

    def _limited(self, values: Sequence[str]) -> Sequence[str]:
        """Returns which of several different values may be ids.

        A malformed value is returned only if there is no other. At most five are
        returned: one more than the limit.
        """
        if len(values) < 2:
            return values
        well_formed = self._settings.vault.is_well_formed
        ids = itertools.islice(filter(well_formed, values), MOST_IDS + 1)
        return tuple(ids) or values[:1]

    def _describe(self, count: int) -> str:
        """Returns what a log line says of the ``count`` ids of the request."""
        number = f"more than {MOST_IDS}" if count > MOST_IDS else str(count)
        if self.transport != "cookie":
            place = "URL" if self.transport == "query" else HEADER
            return f"{number} different session ids in its {place}"
        assert self.cookie is not None
        return f"{number} different cookies named {self.cookie.name}"


def _alive(state: SessionState) -> Sequence[str]:
    """Returns the ids of a request whose sessions are alive."""
    if state.token is not None:
        return (state.token,)
    # destroy() ends all of them.
    return tuple(state.found)

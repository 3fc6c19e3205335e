"""Reads by which id a request names its session, and tells the client of another."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

from tornado_sessions.cookies import Cookie
from tornado_sessions.core.load import MOST_IDS
from tornado_sessions.core.state import SessionState
from tornado_sessions.errors import SessionError
from tornado_sessions.frames import hides_frames
from tornado_sessions.transports import (
    HEADER,
    PARAMETER,
    Transports,
    put_in_url,
    read_header,
    take_from_url,
)
from tornado_sessions.web.base import SessionHandler
from tornado_sessions.web.loopback import is_on_loopback

logger = logging.getLogger("tornado_sessions")

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


# What is the cause of several cookies with our name is outside of the request.
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


class IdHandler(SessionHandler):
    """Takes the id from a cookie, and from elsewhere where the settings say so."""

    _session_cookie: Cookie | None = None
    # Where there are other ways than the cookie: by which of them the id comes
    # and goes, "" for by none, and what became of the URL.
    _transports: Transports | None = None
    _way = "cookie"
    _url_tokens: Sequence[str] = ()
    _header_lines: Sequence[str] = ()
    _linked_token: str | None = None
    _id_in_url = False
    # The request came with several ids, and it is not known which one counts.
    _is_ambiguous = False

    @hides_frames
    def session_url(self, url: str) -> str:
        """Answers ``url`` with the session's id in it, for a client without cookies.

        It is for links, forms and redirects, also in templates, and does
        something only where ``session_transports`` has ``"query"``. The URL
        stays as it is where the client has sent its cookie or the header, where
        there is no session, and where it leads to another host.

        A session that is new, or was given a new id with `.Session.login`, has
        to be saved first: ``await self.session.save()``. Else this raises
        `.SessionError`.
        """
        if not self._session_loaded and self.get_status() >= 400:
            # An error page from before prepare(); see get_current_user().
            return url
        if self._transports is None or "query" not in self._transports.names:
            return url
        self._session_used = True
        state = self._get_state()
        has_cookie = self._way == "cookie" and self._client_token is not None
        if has_cookie or self._way in ("header", ""):
            return url
        if state.needs_new_id or (
            state.token is None and state.pack() is not state.base
        ):
            raise SessionError(
                "session_url() needs the session's id, which is drawn when the session"
                " is saved. Call 'await self.session.save()' before it."
            )
        if state.token is None:
            return url
        request = self.request
        linked = put_in_url(url, state.token, request.protocol, request.host)
        if linked != url:
            if self._headers_written and not self._id_in_url:
                raise SessionError(
                    "session_url() needs headers of its own, and the headers of the"
                    " response are out already. Call it before flush()."
                )
            self._linked_token, self._id_in_url = state.token, True
        return linked

    def get_template_namespace(self) -> dict[str, Any]:
        """Adds `session_url` to what templates find."""
        namespace = super().get_template_namespace()
        namespace.setdefault("session_url", self.session_url)
        return namespace

    # What the client sends.

    def _sent_tokens(self) -> Sequence[str]:
        """Returns the different ids that the client has sent, also before prepare()."""
        transports = self._all_sessions.settings.transports
        if transports is not None:
            return self._read_tokens(transports)
        return self._read_cookies(self.request.headers.get_list("Cookie"))

    def _read_cookies(self, lines: Sequence[str]) -> Sequence[str]:
        cookie = self._find_session_cookie()
        return () if cookie is None else self._chosen(cookie.read(lines))

    def _chosen(self, values: Sequence[str]) -> Sequence[str]:
        """Returns which of several different values may be ids.

        That is one malformed value where no other one came, and five at most: that
        is one too many already.
        """
        if len(values) < 2:
            return values
        well_formed = self._all_sessions.vault.is_well_formed
        ids = itertools.islice(filter(well_formed, values), MOST_IDS + 1)
        return tuple(ids) or values[:1]

    def _read_tokens(self, transports: Transports) -> Sequence[str]:
        """Returns the different ids of the first transport that has a well-formed one.

        An empty header counts as well: the client asks for an id there. The
        response goes back by the same transport: a script that adds the header to a
        request with a cookie must not read the cookie's id in the response.
        """
        self._transports = transports
        self._take_tokens()
        request = self.request
        if (
            request.protocol != "https"
            and self._all_sessions.settings.cookie.secure
            and not is_on_loopback(request)
        ):
            self._way = ""
            self._all_sessions.logs.log(logging.WARNING, _WITHHELD, "id")
            return ()
        # Where the client sends none, a header is not for it.
        self._way = next((name for name in transports.names if name != "header"), "")
        malformed: tuple[str, Sequence[str]] | None = None
        for name in transports.names:
            if name == "cookie":
                tokens = self._read_cookies(request.headers.get_list("Cookie"))
            elif name == "header":
                tokens = self._chosen(read_header(self._header_lines))
                if self._header_lines and not tokens:
                    self._way = name
                    return ()
            else:
                tokens = self._chosen(self._url_tokens)
            if not tokens:
                continue
            if self._all_sessions.vault.is_well_formed(tokens[0]):
                self._way = name
                return tokens
            malformed = malformed or (name, tokens)
        if malformed is None:
            return ()
        self._way, tokens = malformed
        return tokens

    def _take_tokens(self) -> None:
        """Takes the ids out of the header and the URL of the request.

        So no log, no link and no error report repeats them.
        """
        names = self.settings.get("session_transports")
        # Not from Sessions.of: before prepare() nobody has checked the settings.
        if not isinstance(names, (list, tuple)):
            return
        request = self.request
        if "header" in names and HEADER in request.headers:
            self._header_lines = request.headers.get_list(HEADER)
            del request.headers[HEADER]
        if "query" not in names:
            return
        uri, tokens = take_from_url(request.uri or "")
        if not tokens:
            return
        self._url_tokens = tokens
        self._id_in_url = self._speaks = True
        request.uri, request.query = uri, uri.partition("?")[2]
        request.query_arguments.pop(PARAMETER, None)
        request.arguments.pop(PARAMETER, None)
        if PARAMETER in request.body_arguments:
            request.arguments[PARAMETER] = list(request.body_arguments[PARAMETER])

    async def _load_one_of(self, tokens: Sequence[str]) -> SessionState:
        """Loads the session of a request that came with several ids."""
        sessions = self._all_sessions
        state = await sessions.loader.load_one_of(tokens)
        self._is_ambiguous = state.refusal is not None
        if state.token is not None:
            self._client_token = state.token
        elif not self._is_ambiguous:
            return state
        if self._is_ambiguous:
            reason = "two cookies" if self._way == "cookie" else "two ids"
            sessions.events.tell("refused", reason=reason)
        sessions.logs.log(
            logging.WARNING,
            _AMBIGUOUS if self._is_ambiguous else _ONE_ALIVE,
            self._described(len(tokens)),
        )
        return state

    def _described(self, count: int) -> str:
        """Returns what a log line says of the ``count`` ids of the request."""
        number = f"more than {MOST_IDS}" if count > MOST_IDS else str(count)
        if self._way != "cookie":
            place = "URL" if self._way == "query" else HEADER
            return f"{number} different session ids in its {place}"
        cookie = self._find_session_cookie()
        assert cookie is not None
        return f"{number} different cookies named {cookie.name}"

    def _log_refusal(self, error: SessionError) -> None:
        """Logs why a request that came with several ids was answered 400."""
        request = self.request
        self._all_sessions.logs.log(
            logging.WARNING,
            "400 %s %s (%s): %s",
            request.method,
            request.uri,
            request.remote_ip,
            error,
        )

    def _find_session_cookie(self) -> Cookie | None:
        """Answers the cookie for this request's transport; None to withhold it."""
        cookie = self._session_cookie
        if cookie is None:
            sessions, request = self._all_sessions, self.request
            if request.protocol == "https" or not sessions.settings.cookie.secure:
                cookie = sessions.settings.cookie
            elif is_on_loopback(request):
                cookie = sessions.settings.loopback_cookie
                sessions.logs.once(logging.INFO, _ON_LOOPBACK, cookie.name)
            else:
                sessions.logs.log(logging.WARNING, _WITHHELD, "cookie")
            self._session_cookie = cookie
        return cookie

    # What it is told.

    def _write_transport_headers(
        self, state: SessionState, transports: Transports
    ) -> None:
        if self._session_used and transports.vary:
            self._add_vary(transports.vary)
        token = state.token
        if token is not None and self._linked_token not in (None, token):
            logger.warning(
                "session_url() was called before the session was given a new id: the"
                " links of this response lead to no session. Call 'await"
                " self.session.save()' after login() or regenerate(), and"
                " session_url() after that."
            )
        if self._way != "header":
            return
        if self._is_expired(state):
            token = ""
        elif token is None or token == self._client_token:
            return
        self.set_header(HEADER, token or "")
        self.set_header("Cache-Control", "no-store")

    def _write_session_cookie(self, state: SessionState) -> None:
        """Tells the client of its new cookie, or that it is to drop the one it has."""
        token = state.token
        if token is None and not self._is_expired(state):
            return
        cookie = self._find_session_cookie()
        if cookie is None:
            return
        if token is None:
            line = cookie.expired_line()
        else:
            age = max(1, state.expires_in) if state.is_persistent else None
            line = cookie.line(token, age)
        self._add_header("Set-Cookie", line)
        self.set_header("Cache-Control", "no-store")

    def _is_expired(self, state: SessionState) -> bool:
        """Whether the client is told to drop the id that it has sent."""
        return state.token is None and (
            self._is_ambiguous or (self._client_token is not None and state.destroyed)
        )

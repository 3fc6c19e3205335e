"""Gives Tornado's request handlers a session.

A complete application::

    import asyncio
    import tornado.web
    from tornado_sessions import SessionMixin

    class CountHandler(SessionMixin):
        def get(self):
            self.session["count"] = self.session.get("count", 0) + 1
            self.write(f"You were here {self.session['count']} times.\\n")

    async def main():
        app = tornado.web.Application(
            [("/", CountHandler)], session_backend="sqlite:///sessions.db"
        )
        app.listen(8888)
        await asyncio.Event().wait()

    if __name__ == "__main__":
        asyncio.run(main())

This is the only module that knows a `~tornado.web.RequestHandler`. It needs three
private names of Tornado: ``_finished``, ``_headers_written`` and ``_headers``.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import ipaddress
import logging
import math
import sys
import types
import urllib.parse
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import tornado.httputil
import tornado.iostream
import tornado.web
import tornado.websocket

from tornado_sessions.codec import Envelope
from tornado_sessions.cookies import Cookie
from tornado_sessions.errors import (
    BackendError,
    SessionDataError,
    SessionError,
    SessionGoneError,
    SessionLimitError,
)
from tornado_sessions.session import Session
from tornado_sessions.sessions import Sessions, logger
from tornado_sessions.transports import (
    HEADER,
    PARAMETER,
    Transports,
    put_in_url,
    read_header,
    take_from_url,
)
from tornado_sessions.xsrf import Binding, mask

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Any])

# What a proxy adds, besides X-Forwarded-…; names as Tornado writes them.
_proxy_headers = frozenset({"Forwarded", "Via", "X-Real-Ip"})

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

#: After how many seconds a client may ask again while the store is down.
RETRY_AFTER = 2


class SessionMixin(tornado.web.RequestHandler):
    """A request handler with a session, kept where ``session_backend`` says.

    ``class H(SessionMixin)`` and ``class H(SessionMixin, WebSocketHandler)``
    work. What is in `session` is in the store before the first byte of the
    response leaves, however the response is finished.
    """

    #: Whether what a WebSocket receives counts as use of the session, as a
    #: request does. It costs a save in each tenth of the idle timeout.
    session_keep_alive = False

    # Of the class, so that a request that needs no session sets nothing up.
    _sessions: Sessions | None = None
    _session: Session | None = None
    _session_loaded = False
    _session_used = False
    _session_cookie: Cookie | None = None
    _client_token: str | None = None
    # Where there are other ways than the cookie: by which of them the id comes
    # and goes, "" for by none, and what became of the URL.
    _transports: Transports | None = None
    _way = "cookie"
    _url_tokens: Sequence[str] = ()
    _linked_token: str | None = None
    _id_in_url = False
    # There are headers to write although there is no session.
    _speaks = False
    _xsrf: Binding | None = None
    _socket_token: str | None = None
    _touch_due = 0.0
    _store_failed = False
    _committing = False
    _waiters: tuple[asyncio.Future[None], ...] = ()
    _commit_failed = False
    _packed: Envelope | None = None
    _adopted = 0
    _send: Callable[[], asyncio.Future[None]] | None = None

    @property
    def sessions(self) -> Sessions:
        """All sessions of this application."""
        if self._sessions is None:
            self._sessions = Sessions.of(self.application)
        return self._sessions

    @property
    def session(self) -> Session:
        """The visitor's session, the same object throughout the request.

        It is loaded in `prepare`. Raises `RuntimeError` before that.
        """
        session = self._session
        if session is None:
            if not self._session_loaded:
                raise RuntimeError(
                    "self.session is not loaded. If"
                    f" {type(self).__name__} overrides prepare(), it must call"
                    " 'await super().prepare()'. Before prepare(), as in"
                    " initialize(), there is no session yet."
                )
            session = self._session = Session(self.sessions)
            session.sent = self._headers_written
        self._session_used = True
        return session

    @session.setter
    def session(self, value: Session) -> None:
        # What ``self.session |= {…}`` does last.
        if value is not self._session:
            raise AttributeError(
                "self.session cannot be replaced. Change its values with update() and"
                " clear(), or end it with destroy()."
            )

    async def prepare(self) -> None:
        """Loads the session; a request without its cookie costs no store call.

        Where the store fails, the client is answered 503 and its cookie stays
        as it is. A handler that overrides this calls
        ``await super().prepare()`` first.
        """
        sessions = self.sessions
        tokens: Sequence[str] = ()
        if sessions.transports is not None:
            tokens = self._read_tokens(sessions.transports)
        elif lines := self.request.headers.get_list("Cookie"):
            cookie = self._find_session_cookie()
            if cookie is not None:
                tokens = cookie.read(lines)
        if len(tokens) == 1:
            self._client_token = tokens[0]
            try:
                self._session = await sessions.load(tokens[0])
            except BackendError:
                self.log_exception(*sys.exc_info())
                self._store_failed = self._speaks = True
                self.send_error(503)
                # Nothing of a subclass is to run now.
                raise tornado.web.Finish from None
        elif tokens:
            self._session = Session(sessions)
            self._session.ambiguous = True
            self._tell_ambiguous(len(tokens))
        self._session_loaded = True
        more = super().prepare()
        if more is not None:
            await more

    def get_current_user(self) -> Any:  # noqa: ANN401
        """Answers `.Session.user`.

        None where an error is answered before the session could be loaded.
        """
        if not self._session_loaded and self.get_status() >= 400:
            return None
        return self.session.user

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
        session = self.session
        has_cookie = self._way == "cookie" and self._client_token is not None
        if has_cookie or self._way in ("header", ""):
            return url
        if session.fresh or (
            session.token is None and session.pack() is not session.base
        ):
            raise SessionError(
                "session_url() needs the session's id, which is drawn when the session"
                " is saved. Call 'await self.session.save()' before it."
            )
        if session.token is None:
            return url
        request = self.request
        linked = put_in_url(url, session.token, request.protocol, request.host)
        if linked != url:
            if self._headers_written and not self._id_in_url:
                raise SessionError(
                    "session_url() needs headers of its own, and the headers of the"
                    " response are out already. Call it before flush()."
                )
            self._linked_token, self._id_in_url = session.token, True
        return linked

    def get_template_namespace(self) -> dict[str, Any]:
        """Adds `session_url` to what templates find."""
        namespace = super().get_template_namespace()
        namespace.setdefault("session_url", self.session_url)
        return namespace

    @property
    def xsrf_token(self) -> bytes:
        """Tornado's XSRF token, bound to the session if ``session_xsrf`` is set."""
        if self.sessions.xsrf_keys is None:
            return super().xsrf_token
        binding = self._bind_xsrf()
        binding.handed_out = self._speaks = True
        return mask(binding.secret(self._has_moved()), self.sessions.now())

    def check_xsrf_cookie(self) -> None:
        """Verifies Tornado's XSRF token, and that it is of this session.

        The latter if ``session_xsrf`` is set. It is asked before `prepare`, and
        so before the session is loaded: the request's own id is enough.
        """
        if self.sessions.xsrf_keys is None:
            super().check_xsrf_cookie()
            return
        headers = self.request.headers
        argument = (
            self.get_argument("_xsrf", None)
            or headers.get("X-Xsrftoken")
            or headers.get("X-Csrftoken")
        )
        if not argument:
            raise tornado.web.HTTPError(403, "'_xsrf' argument missing from POST")
        if not self._bind_xsrf().accepts(argument):
            raise tornado.web.HTTPError(
                403, "'_xsrf' argument does not match the XSRF cookie and the session"
            )

    def flush(self, include_footers: bool = False) -> asyncio.Future[None]:
        """Commits the session before the headers leave, then flushes."""
        if not self._headers_written:
            # With the footers it comes from finish(), and everything is committed.
            if not include_footers and self._must_commit():
                if self._committing:
                    return self._wait_for_commit()
                return self._commit_then(self._flush_committed)
            if self._session is not None or self._speaks or not self._session_loaded:
                self._write_session_headers()
        return super().flush(include_footers)

    def finish(
        self, chunk: str | bytes | dict[str, Any] | None = None
    ) -> asyncio.Future[None]:
        """Commits the session, then finishes the response."""
        if self._session is None or self._finished or not self._must_commit():
            return super().finish(chunk)
        if chunk is not None:
            self.write(chunk)
        # For the handler it is over; undone in _commit.
        self._finished = True
        return self._commit_then(super().finish)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answers a failed store with 503, and says nothing of its reasons."""
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, BackendError):
            # In debug mode the traceback would carry the store's own text.
            del kwargs["exc_info"]
            self._store_failed = self._speaks = True
            status_code = 503
        elif isinstance(error, SessionError) and self._session is not None:
            if isinstance(error, SessionGoneError):
                status_code = 409
            elif isinstance(error, SessionLimitError):
                status_code = 403
            elif self._session.ambiguous:
                status_code = 400
            # It is answered; there is nothing to try again.
            self._session.drop()
        super().send_error(status_code, **kwargs)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: types.TracebackType | None,
    ) -> None:
        """Logs an error as Tornado does, without the id that came in the URL.

        That a login was refused is no error.
        """
        if not self._session_loaded:
            self._take_tokens_from_url()
        if isinstance(value, SessionLimitError):
            logger.info("%s", value)
        else:
            super().log_exception(typ, value, tb)

    # Committing.

    def _must_commit(self) -> bool:
        """Tells whether there is anything to commit, and packs it."""
        session = self._session
        # After a 101 Tornado takes the socket away at once: it cannot wait.
        if session is None or self._commit_failed or self.get_status() == 101:
            return False
        if not (self._session_used or session.renew or self._committing):
            return False
        if self.get_status() >= 500:
            session.drop()
        # Nothing may raise here that send_error() could meet. The commit finds
        # it again and answers it.
        try:
            self._packed = session.pack()
        except SessionDataError:
            self._packed = None
        self._adopted = session.adopted
        return (
            self._committing
            or self._packed is not session.base
            or session.fresh
            or session.renew
            or bool(session.ended)
        )

    def _commit_then(
        self, send: Callable[[], asyncio.Future[None]]
    ) -> asyncio.Future[None]:
        # A finish() while a flush() waits: finish is what follows.
        self._send = send
        if not self._committing:
            if self.sessions.vault.immediate:
                return self._commit_now()
            # A body still on its way is not for a handler that has finished.
            if self._finished:
                self.data_received = _ignore  # type: ignore[method-assign]
            self._committing = True
            self.sessions.start(self._commit_and_tell())
        return self._wait_for_commit()

    def _wait_for_commit(self) -> asyncio.Future[None]:
        """Answers what is done when the commit is, and sent.

        Whoever stops waiting for it does not stop the commit.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters += (waiter,)
        return waiter

    def _commit_now(self) -> asyncio.Future[None]:
        try:
            sent = run_now(self._commit())
        except SuspendedError:
            error_info = sys.exc_info()
            self.log_exception(*error_info)
            self.send_error(500, exc_info=error_info)
            sent = None
        return sent or _done()

    async def _commit_and_tell(self) -> None:
        failure: Exception | None = None
        try:
            sent = await self._commit()
        except Exception as error:  # noqa: BLE001 - as Tornado does for a handler
            # Nobody may be waiting, and then nobody else would hear of it.
            logger.exception("A response could not be finished.")
            failure = error
        else:
            if sent is not None:
                try:
                    await sent
                except tornado.iostream.StreamClosedError as error:
                    failure = error
        for waiter in self._waiters:
            if waiter.done():
                continue
            if failure is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(failure)
                # That a client hung up is no news where nobody waits.
                waiter.exception()

    async def _commit(self) -> asyncio.Future[None] | None:
        """Commits and sends; every error is answered here."""
        session = self._session
        assert session is not None
        try:
            try:
                while True:
                    packed = self._packed
                    await self.sessions.commit(session, packed, self._adopted)
                    if self._packed is packed and not (session.fresh or session.ended):
                        break
                    # A finish() came while a flush() waited, or a verb.
            except SessionGoneError as error:
                logger.info("%s", error)
                session.drop()
                session.cookie_due = False
            except BaseException:
                self._commit_failed = True
                # send_error() calls finish() again: nothing may be left to do.
                session.drop()
                session.ended = {}
                raise
            finally:
                self._committing = self._finished = False
            # A bound method kept on its own object would be a cycle, and the
            # handler would wait for the garbage collection.
            send, self._send = self._send, None
            assert send is not None
            return send()
        except Exception:  # noqa: BLE001 - as Tornado does for a handler
            error_info = sys.exc_info()
            self.log_exception(*error_info)
            if not self._finished:
                self.send_error(500, exc_info=error_info)
            return None

    # The headers.

    def _flush_committed(self) -> asyncio.Future[None]:
        self._write_session_headers()
        return super().flush()

    def _write_session_headers(self) -> None:
        if self._store_failed:
            self.set_header("Retry-After", RETRY_AFTER)
        if not self._session_loaded:
            self._take_tokens_from_url()
        if self._id_in_url:
            self.set_header("Referrer-Policy", "no-referrer")
            self.set_header("Cache-Control", "no-store")
        session = self._session
        if session is None:
            if self._xsrf is not None:
                self._write_xsrf_cookie()
            return
        session.sent = True
        if (self._sessions or self.sessions).xsrf_keys is not None:
            self._write_xsrf_cookie()
        if self.get_status() == 101:
            self._open_socket(session)
        if self._transports is not None:
            self._write_transport_headers(session, self._transports)
            if self._way != "cookie":
                return
        elif self._session_used:
            self._add_header("Vary", "Cookie")
        line = self._set_cookie_line(session)
        if line is not None:
            self._add_header("Set-Cookie", line)
            self.set_header("Cache-Control", "no-store")

    def _add_header(self, name: str, value: str) -> None:
        # Tornado's own looks at everything twice, which each request would pay for.
        if name in self._headers:
            self.add_header(name, value)
        else:
            self.set_header(name, value)

    def _set_cookie_line(self, session: Session) -> str | None:
        """Answers what the client has to learn of its cookie, if anything."""
        token = session.token
        if token is None:
            if not self._is_expired(session):
                return None
        elif token == self._client_token and not session.cookie_due:
            return None
        cookie = self._find_session_cookie()
        if cookie is None:
            return None
        if token is None:
            return cookie.expired_line()
        return cookie.line(
            token, max(1, session.expires_in) if session.persistent else None
        )

    def _is_expired(self, session: Session) -> bool:
        """Tells whether the client is to drop the id that it has sent."""
        return session.ambiguous or (
            session.token is None
            and self._client_token is not None
            and session.destroyed
        )

    def _find_session_cookie(self) -> Cookie | None:
        """Answers the cookie for this request's transport; None to withhold it."""
        cookie = self._session_cookie
        if cookie is None:
            sessions, request = self.sessions, self.request
            if request.protocol == "https" or not sessions.cookie.secure:
                cookie = sessions.cookie
            elif _is_on_loopback(request):
                cookie = sessions.loopback_cookie
                sessions.tell_once(logging.INFO, _ON_LOOPBACK, cookie.name)
            else:
                sessions.tell_once(logging.WARNING, _WITHHELD, "cookie")
            self._session_cookie = cookie
        return cookie

    # XSRF tokens.

    def _bind_xsrf(self) -> Binding:
        if self._xsrf is None:
            keys = self.sessions.xsrf_keys
            assert keys is not None
            cookie = self.get_cookie(self._xsrf_cookie_name())
            self._xsrf = Binding(keys, cookie, self._sent_token())
        return self._xsrf

    def _write_xsrf_cookie(self) -> None:
        """Has the client's XSRF cookie hold for the id that it has from now on."""
        session, binding = self._session, self._bind_xsrf()
        if binding.handed_out and not self._session_used:
            self._add_header("Vary", "Cookie")
        token = self._client_token
        if session is not None and session.token is not None:
            token = session.token
        data = binding.renewed(token, self._has_moved())
        if data is None:
            return
        kwargs = dict(self.settings.get("xsrf_cookie_kwargs", {}))
        if session is not None and session.user is not None:
            # As Tornado does for whoever is signed in.
            kwargs.setdefault("expires_days", 30)
        masked = mask(data, self.sessions.now())
        self.set_cookie(self._xsrf_cookie_name(), masked, **kwargs)

    def _xsrf_cookie_name(self) -> str:
        name: str = self.settings.get("xsrf_cookie_name", "_xsrf")
        return name

    def _has_moved(self) -> bool:
        """Tells whether what was handed out for this session before is void."""
        session = self._session
        return session is not None and (session.moved or session.destroyed)

    def _sent_token(self) -> str | None:
        """Answers the one id that the client has sent, also before prepare()."""
        transports = self.sessions.transports
        if transports is not None:
            tokens = self._read_tokens(transports)
        else:
            tokens = self._read_cookies(self.request.headers.get_list("Cookie"))
        return tokens[0] if len(tokens) == 1 else None

    # WebSockets.

    def on_session_end(self) -> None:
        """Closes a WebSocket whose session has ended, with the code 1008.

        Called once, where the session was destroyed or was given a new id, or
        has expired. Override it to send something first, and call super.
        """
        assert isinstance(self, tornado.websocket.WebSocketHandler)
        # A client that goes on sending is not heard any more.
        self.__dict__["on_message"] = _ignore
        self.close(1008, "The session has ended.")

    def on_connection_close(self) -> None:
        """Forgets a WebSocket that was closed."""
        if self._socket_token is not None:
            self.sessions.sockets.remove(self, self._socket_token)
            # It refers to this handler.
            self.__dict__.pop("on_message", None)
        super().on_connection_close()

    def _open_socket(self, session: Session) -> None:
        if session.token is None:
            if session.modified:
                logger.warning(
                    "A change to a new session cannot be kept: a WebSocket handshake"
                    " gives no cookie to a visitor without one. Write to the session"
                    " in an ordinary request first."
                )
            return
        if not isinstance(self, tornado.websocket.WebSocketHandler):
            return
        sessions, self._socket_token = self.sessions, session.token
        sessions.sockets.add(self, session.token, session.base.id)
        if not self.session_keep_alive:
            return
        if sessions.revocable:
            receive = functools.partial(self._receive, self.on_message)
            self.__dict__["on_message"] = receive
        else:
            sessions.tell_once(
                logging.WARNING,
                "session_keep_alive of %s does nothing: this backend keeps the session"
                " in the cookie, and a WebSocket can send none.",
                type(self).__name__,
            )

    def _receive(
        self, on_message: Callable[[str | bytes], T], message: str | bytes
    ) -> T:
        sessions = self.sessions
        if sessions.now() >= self._touch_due:
            self._touch_due = math.inf
            sessions.start(self._touch())
        return on_message(message)

    async def _touch(self) -> None:
        assert self._socket_token is not None
        try:
            self._touch_due = await self.sessions.touch(self._socket_token)
        except BackendError as error:
            logger.warning("A session could not be kept alive: %s", error)
            self._touch_due = self.sessions.now() + RETRY_AFTER

    # The ways in, besides the cookie.

    def _read_cookies(self, lines: Sequence[str]) -> Sequence[str]:
        cookie = self._find_session_cookie()
        return () if cookie is None else cookie.read(lines)

    def _read_tokens(self, transports: Transports) -> Sequence[str]:
        """Answers the different ids of the first way by which the client sends any.

        The answer goes back by the same way: a script that adds the header to a
        request with a cookie is not to read the cookie's id in the response.
        """
        self._transports = transports
        self._take_tokens_from_url()
        request = self.request
        if (
            request.protocol != "https"
            and self.sessions.cookie.secure
            and not _is_on_loopback(request)
        ):
            self._way = ""
            self.sessions.tell_once(logging.WARNING, _WITHHELD, "id")
            return ()
        # Where the client sends none, a header is not for it.
        self._way = next((name for name in transports.names if name != "header"), "")
        for name in transports.names:
            if name == "cookie":
                tokens = sent = self._read_cookies(request.headers.get_list("Cookie"))
            elif name == "header":
                sent = request.headers.get_list(HEADER)
                tokens = read_header(sent)
            else:
                tokens = sent = self._url_tokens
            if sent:
                self._way = name
                return tokens
        return ()

    def _take_tokens_from_url(self) -> None:
        """Takes the ids out of the URL, so that no log and no link repeats them."""
        names = self.settings.get("session_transports")
        # Not from Sessions.of: before prepare() nobody has checked the settings.
        if not isinstance(names, (list, tuple)) or "query" not in names:
            return
        request = self.request
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

    def _tell_ambiguous(self, count: int) -> None:
        if self.sessions.listener is not None:
            reason = "two cookies" if self._way == "cookie" else "two ids"
            self.sessions.tell("refused", reason=reason)
        if self._way != "cookie":
            logger.warning(
                "A request came with %d different session ids in its %s; none is"
                " taken.",
                count,
                "URL" if self._way == "query" else HEADER,
            )
            return
        assert self._session_cookie is not None
        logger.warning(
            "A request came with %d different cookies named %s; none is taken, and"
            " the client is told to drop its own.",
            count,
            self._session_cookie.name,
        )

    def _write_transport_headers(
        self, session: Session, transports: Transports
    ) -> None:
        if self._session_used and transports.vary:
            self._add_header("Vary", transports.vary)
        token = session.token
        if token is not None and self._linked_token not in (None, token):
            logger.warning(
                "session_url() was called before the session was given a new id: the"
                " links of this response lead to no session. Call 'await"
                " self.session.save()' after login() or regenerate(), and"
                " session_url() after that."
            )
        if self._way != "header":
            return
        if self._is_expired(session):
            token = ""
        elif token is None or token == self._client_token:
            return
        self.set_header(HEADER, token or "")
        self.set_header("Cache-Control", "no-store")


def recent_login(*, max_age: float | datetime.timedelta) -> Callable[[Method], Method]:
    """Lets in whoever has signed in within the last ``max_age`` seconds.

    For what a session alone is not enough for, such as a change of the
    password::

        class PasswordHandler(SessionMixin):
            @recent_login(max_age=300)
            def get(self):
                self.render("password.html")

    Everybody else is sent where `tornado.web.authenticated` sends those who have
    not signed in at all: a GET or HEAD to the ``login_url``, with ``next``, and
    anything else gets 403. The time counts from `.Session.login`, also where it
    signs in who is signed in already. Raises `ValueError` for a ``max_age`` that
    is not more than zero.
    """
    if isinstance(max_age, datetime.timedelta):
        max_age = max_age.total_seconds()
    if not max_age > 0:
        raise ValueError(f"max_age={max_age!r} is to be more than zero seconds.")

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def wrapper(self: SessionMixin, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            since = self.session.auth_time
            if (
                since is not None
                and self.sessions.now() < since + max_age
                and self.current_user
            ):
                return method(self, *args, **kwargs)
            if self.request.method not in ("GET", "HEAD"):
                raise tornado.web.HTTPError(403)
            url = self.get_login_url()
            if "?" not in url:
                # A login page on another host has to know on which one to go on.
                here = self.request
                absolute = urllib.parse.urlsplit(url).scheme
                target = here.full_url() if absolute else here.uri
                url += "?" + urllib.parse.urlencode({"next": target})
            self.redirect(url)
            return None

        return wrapper  # type: ignore[return-value]

    return decorate


class SuspendedError(RuntimeError):
    """Raised when a coroutine has suspended that was to run to its end."""


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs to its end a coroutine that never suspends.

    That costs no task. Raises `SuspendedError` if it does suspend. To drive it
    once and resume it in a task would not do: a time limit binds to the task
    that runs the first step, and would cancel the handler.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    coroutine.close()
    raise SuspendedError("A backend that declares itself immediate has suspended.")


def _ignore(chunk: str | bytes) -> None:
    pass


def _done() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


def _is_on_loopback(request: tornado.httputil.HTTPServerRequest) -> bool:
    """Tells whether a request comes from this machine and through no proxy.

    A proxy on this machine looks the same but for the headers it adds.
    """
    if not _are_loopback(request.remote_ip, request.host_name):
        return False
    for name in request.headers:
        if name in _proxy_headers or name.startswith("X-Forwarded-"):
            return False
    return True


@functools.lru_cache(maxsize=64)
def _are_loopback(address: str | None, host: str) -> bool:
    return _is_loopback(address or "") and _is_loopback(host.strip("[]"))


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

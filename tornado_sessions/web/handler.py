"""`SessionMixin`: loads a handler's session first, and commits it with the response."""

from __future__ import annotations

import logging
import sys
import types
from typing import Any, ClassVar, Generic

import tornado.httputil
import tornado.web
import tornado.websocket

from tornado_sessions.core.schema import Data_co, SessionData, declared_by
from tornado_sessions.errors import BackendError, SessionError
from tornado_sessions.frames import hide_frames, hides_frames
from tornado_sessions.logs import SEVERAL
from tornado_sessions.session import Session
from tornado_sessions.sessions import Sessions
from tornado_sessions.web.errors import quotes_store
from tornado_sessions.web.exchange import Exchange
from tornado_sessions.web.origins import SAFE_METHODS, is_from_here
from tornado_sessions.web.response import ResponseCommit, Sent
from tornado_sessions.web.streams import SessionStream, close_connection
from tornado_sessions.web.websockets import ignore, open_socket, refuse_unsaved_id

logger = logging.getLogger("tornado_sessions")


class SessionMixin(tornado.web.RequestHandler, Generic[Data_co]):
    """A request handler with a session, kept where ``session_backend`` says.

    ``class H(SessionMixin)`` and ``class H(SessionMixin, WebSocketHandler)``
    work. With a schema, ``class H(SessionMixin[Shop])``, the session has
    `.Session.data`. What is in `session` is in the store before the first byte of the
    response leaves, however the response is finished.
    """

    #: Whether what a WebSocket receives counts as use of the session, as a
    #: request does. It costs a save in each tenth of the idle timeout.
    session_keep_alive = False

    #: Whether a request restarts the idle timeout of its session. False is for what a
    #: page asks for by itself, such as news every minute: a session that nobody uses
    #: would never end. Then a save of a change does not restart it either. A login
    #: and a new id always do.
    session_extends = True

    #: Whether the handler also runs while the store is down, such as for a page that
    #: everybody may see. The session is then empty, can only be read, and is
    #: `~.Session.unavailable`. A WebSocket is refused all the same.
    session_optional = False

    #: Whether a response that is not finished ends with its session, as a WebSocket
    #: does: for server-sent events and long polling. See `on_session_end`.
    session_ends_stream = False

    #: The schema of `.Session.data`: the subclass of `SessionData` in
    #: ``SessionMixin[…]``. A subclass of the handler has the same one.
    session_schema: ClassVar[type[SessionData] | None] = None

    # All that is ours is in it, so that a subclass may use any other name.
    _session_exchange: Exchange

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        schema = declared_by(cls, SessionMixin)
        if schema is not None:
            cls.session_schema = schema

    def __init__(
        self,
        application: tornado.web.Application,
        request: tornado.httputil.HTTPServerRequest,
        **kwargs: Any,
    ) -> None:
        # First, as set_default_headers() and initialize() may ask for the session.
        self._session_exchange = Exchange(application, request)
        super().__init__(application, request, **kwargs)

    async def prepare(self) -> None:
        """Loads the session; a request without its cookie costs no store call.

        Where the store fails, the client is answered 503, unless the session is
        optional, and its cookie stays as it is. A handler that overrides this calls
        ``await super().prepare()`` first.
        """
        exchange = self._session_exchange
        if (
            exchange.sessions.settings.origins is not None
            and self.request.method not in SAFE_METHODS
            and not self.settings.get("xsrf_cookies")
        ):
            # With xsrf_cookies Tornado has called it.
            self.check_xsrf_cookie()
        load = exchange.load()
        if load is not None:
            try:
                exchange.adopt(await load, self.session_extends)
            except BaseException as error:
                hide_frames(error)
                if not isinstance(error, BackendError):
                    raise
                exchange.is_going_on = (
                    self.session_optional
                    and not isinstance(self, tornado.websocket.WebSocketHandler)
                    # Only half of the check for XSRF was made.
                    and not exchange.has_unconfirmed_token
                )
                self._log_session_error()
                if not exchange.is_going_on:
                    exchange.has_failed_store = True
                    self.send_error(503)
                    # Nothing of a subclass is to run now.
                    raise tornado.web.Finish from None
                exchange.is_going_on, exchange.is_unavailable = False, True
        if self.session_ends_stream:
            exchange.stream = SessionStream(self, exchange.sessions)
            await exchange.stream.open(exchange.state)
        more = super().prepare()
        if more is not None:
            await more

    @property
    def session(self) -> Session[Data_co]:
        """The visitor's session, the same object throughout the request.

        It is loaded in `prepare`. Raises `RuntimeError` before that. Where an
        error is answered without it, as where the load has failed, it is an empty
        session that can only be read: a change raises `.SessionError`. So it is with
        `session_optional` while the store is down.
        """
        exchange = self._session_exchange
        if exchange.is_loaded:
            return exchange.view(self._headers_written, self.session_schema)
        # Tornado sets the status after set_default_headers() was called.
        status, cls = getattr(self, "_status_code", 200), type(self)
        overrides = cls.prepare is not SessionMixin.prepare
        return exchange.view_unloaded(status, cls, overrides, cls.session_schema)

    @session.setter
    def session(self, value: Session[Data_co]) -> None:
        # What ``self.session |= {…}`` does last.
        if not self._session_exchange.is_ours(value):
            raise AttributeError(
                "self.session cannot be replaced. Change its values with update() and"
                " clear(), or end it with destroy()."
            )

    @property
    def sessions(self) -> Sessions:
        """All sessions of this application."""
        exchange = self._session_exchange
        # Whoever asks may be about to revoke the session of this very request.
        return exchange.sessions.of_request(exchange.state)

    def get_current_user(self) -> Any:  # noqa: ANN401
        """Returns `.Session.user`.

        Returns None where an error is answered before the session was loaded.
        """
        return self.session.user

    @hides_frames
    def session_url(self, url: str) -> str:
        """Returns ``url`` with the session's id in it, for a client without cookies.

        It is for links, forms and redirects, also in templates, and does
        something only where ``session_transports`` has ``"query"``. The URL
        stays as it is where the client has sent its cookie or the header, where
        there is no session, and where it leads to another host.

        A session that is new, or was given a new id with `.Session.login`, has
        to be saved first: ``await self.session.save()``. Else this raises
        `.SessionError`; from a status of 400 on it returns ``url``.
        """
        exchange = self._session_exchange
        if not exchange.is_loaded and self._status_code >= 400:
            # An error page from before prepare(); see get_current_user().
            return url
        try:
            return exchange.link(url, self._headers_written)
        except SessionError:
            if self._status_code >= 400:
                # An error page without the id is better than a blank one.
                return url
            raise

    def get_template_namespace(self) -> dict[str, Any]:
        """Adds `session_url` to what templates find."""
        namespace = super().get_template_namespace()
        namespace.setdefault("session_url", self.session_url)
        return namespace

    @property
    def xsrf_token(self) -> bytes:
        """Tornado's XSRF token, bound to the session if ``session_xsrf`` is set."""
        exchange = self._session_exchange
        if exchange.sessions.settings.xsrf_keys is None:
            return super().xsrf_token
        return exchange.bind_xsrf().token(exchange.state)

    def check_xsrf_cookie(self) -> None:
        """Verifies Tornado's XSRF token, and that it is of this session.

        The latter if ``session_xsrf`` is set; the token then counts from the body or
        a header, and not from the URL. It is called before `prepare`, and so before
        the session is loaded: the request's own id is enough. A request that names
        its session in the header needs none: no browser sends that for another
        site, unless the application lets that site.

        With ``session_cross_origin_protection`` the token counts only where the
        request's headers do not say which site sends it. Without ``xsrf_cookies``
        `prepare` calls this.
        """
        exchange = self._session_exchange
        if exchange.is_by_header:
            return
        settings = exchange.sessions.settings
        if settings.origins is not None and is_from_here(
            self.request, settings.origins, bool(self.settings.get("xsrf_cookies"))
        ):
            return
        if settings.xsrf_keys is None:
            super().check_xsrf_cookie()
            return
        headers = self.request.headers
        # In no variable: the error would have it.
        reason = exchange.bind_xsrf().refuse(
            self.get_body_argument("_xsrf", None)
            or headers.get("X-Xsrftoken")
            or headers.get("X-Csrftoken")
        )
        if reason is not None:
            raise tornado.web.HTTPError(403, reason)

    def flush(self, include_footers: bool = False) -> Sent:
        """Commits the session before the headers leave, then flushes."""
        exchange = self._session_exchange
        # `include_footers` means that finish() called this, after the commit.
        if not include_footers:
            exchange.refuse_inside_transaction()
        if not self._headers_written:
            commit = None if include_footers else exchange.due_commit(self._status_code)
            if commit is not None:
                return commit.start(self._commit_and_send, finishes=False)
            if exchange.unloaded is not None:
                exchange.refuse_lost_change(self._status_code)
            self._write_session_headers()
        return super().flush(include_footers)

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Sent:
        """Commits the session, then finishes the response."""
        exchange = self._session_exchange
        state = exchange.state
        if state is None:
            return super().finish(chunk)
        if state.is_transacting:
            exchange.refuse_inside_transaction()
        if exchange.stream is not None:
            exchange.stream.close()
        if self._status_code == 101:
            refuse_unsaved_id(state)
        else:
            # What is changed from now on has to be saved with save().
            state.finished_by = type(self).__name__
        commit = None if self._finished else exchange.due_commit(self._status_code)
        if commit is None:
            return super().finish(chunk)
        if chunk is not None:
            self.write(chunk)
        # For the handler it is over; undone in _commit_and_send.
        self._finished = True
        sent = commit.start(self._commit_and_send, finishes=True)
        if commit.is_pending:
            # A body still on its way is not for a handler that has finished. Set on
            # this handler itself, where it hides the method of its class.
            vars(self)["data_received"] = ignore
        return sent

    def redirect(
        self, url: str, permanent: bool = False, status: int | None = None
    ) -> None:
        """Redirects as Tornado does."""
        # Before it sets the status.
        self._session_exchange.refuse_inside_transaction()
        super().redirect(url, permanent, status)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answers a failed store with 503, and says nothing of its reasons."""
        exchange = self._session_exchange
        exchange.refuse_inside_transaction()
        error = kwargs.get("exc_info", (None, None))[1]
        if quotes_store(error, bool(self.settings.get("serve_traceback"))):
            del kwargs["exc_info"]
        super().send_error(exchange.status_of(error, status_code), **kwargs)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: types.TracebackType | None,
    ) -> None:
        """Logs an error as Tornado does, without the id that came in the URL.

        A store that fails gets one line for each request, with the driver's own
        words, and a traceback only where the logger ``tornado_sessions`` is at
        DEBUG. A login that was refused and a session that was ended elsewhere are no
        errors. A value that cannot be stored is logged with the name of the handler.
        """
        if not self._session_exchange.log_error(value, type(self)):
            super().log_exception(typ, value, tb)

    def on_session_end(self) -> None:
        """Closes a WebSocket whose session has ended, with the code 1008.

        With `session_ends_stream` it closes the connection of a response that is not
        finished, unless the request itself has ended the session.

        Called once, where the session was destroyed or was given a new id, or
        has expired. From that moment on a socket receives no messages, and a tenth
        of a second later this is called. Override it to send something first, and call
        super. Without that call the handler of a response has to finish it.
        """
        if isinstance(self, tornado.websocket.WebSocketHandler):
            self.close(1008, "The session has ended.")
        else:
            close_connection(self.request)

    def on_connection_close(self) -> None:
        """Forgets a WebSocket or a response whose connection was closed."""
        exchange = self._session_exchange
        if exchange.socket is not None:
            exchange.socket.close(self, exchange.state)
        if exchange.stream is not None:
            exchange.stream.close()
        super().on_connection_close()

    def _log_session_error(self) -> None:
        """Logs the error at hand, and goes on to the answer where that fails."""
        try:
            self.log_exception(*sys.exc_info())
        except Exception:
            self._session_exchange.sessions.logs.log(
                logging.ERROR,
                "%s.log_exception() failed.",
                type(self).__name__,
                most=SEVERAL,
                exc_info=True,
            )

    async def _commit_and_send(self, commit: ResponseCommit) -> Sent:
        """Commits and sends; every error is answered here."""
        try:
            try:
                await commit.run()
            finally:
                self._finished = False
            if commit.finishes:
                return commit.end(super().finish())
            self._write_session_headers()
            return commit.end(super().flush())
        except Exception:  # noqa: BLE001 - as Tornado does for a handler
            return commit.answer(self._answer_error)

    def _answer_error(self) -> None:
        self._log_session_error()
        if not self._finished:
            # In a variable the traceback would be a cycle.
            self.send_error(500, exc_info=sys.exc_info())

    def _write_session_headers(self) -> None:
        exchange = self._session_exchange
        exchange.write_headers(self._headers)
        if self._status_code == 101 and exchange.state is not None:
            exchange.socket = open_socket(
                self, self.session_keep_alive, exchange.sessions, exchange.state
            )
        elif exchange.stream is not None:
            exchange.stream.follow(exchange.state)

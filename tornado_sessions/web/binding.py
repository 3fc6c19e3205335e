"""The session of a handler that does not derive from `SessionMixin`."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

import tornado.web
from tornado.websocket import WebSocketHandler

from tornado_sessions.core.state import SessionState
from tornado_sessions.core.values import state_of
from tornado_sessions.errors import SessionError
from tornado_sessions.frames import hides_frames
from tornado_sessions.logs import SEVERAL
from tornado_sessions.session import Session
from tornado_sessions.sessions import Sessions
from tornado_sessions.web.exchange import Exchange
from tornado_sessions.web.handler import SessionMixin
from tornado_sessions.web.origins import SAFE_METHODS, is_from_here
from tornado_sessions.web.response import ResponseCommit, Sent

# Under which name a handler keeps its binding.
_NAME = "_session_binding"


class SessionBinding:
    """The session of a handler that is no `SessionMixin`, see `bind_session`.

    As an asynchronous context manager it loads the session, and commits it at the end
    of the block. If the block raises what is answered with a status of 500 or above,
    the changes are dropped instead.
    """

    def __init__(self, handler: tornado.web.RequestHandler) -> None:
        self._handler = handler
        self._exchange = Exchange(handler.application, handler.request)
        # Tornado has no public name for what is asked of it here: whether its headers
        # are sent, and which ones are.
        self._send = handler.flush
        # It hides the method of the class.
        vars(handler)["flush"] = self._flush

    @property
    def session(self) -> Session[Any]:
        """The session, always the same object. Raises `RuntimeError` before `load`."""
        if not self._exchange.is_loaded:
            raise RuntimeError(
                f"The session of {_name_of(self._handler)} is not loaded. Call"
                " 'await bind_session(handler).load()' first. If that has raised, there"
                " is no session in this request."
            )
        return self._exchange.view(self._handler._headers_written, None)

    @property
    def sessions(self) -> Sessions:
        """All sessions of the application, as `SessionMixin.sessions`."""
        exchange = self._exchange
        return exchange.sessions.of_request(exchange.state)

    @hides_frames
    async def load(self) -> Session[Any]:
        """Loads the session of the request, and returns it.

        If its idle timeout has to be extended, that is stored at once, so a handler
        that only reads need not commit. The second call costs nothing.

        Raises `BackendError` if the store fails; the caller decides how to answer.
        Raises `~tornado.web.HTTPError` with 403 if ``session_cross_origin_protection``
        refuses the request, and `SessionError` if ``session_xsrf`` is set.
        """
        exchange = self._exchange
        if not exchange.is_loaded:
            self._check_origin()
            load = exchange.load()
            if load is not None:
                state = await load
                state.headers_sent = self._handler._headers_written
                exchange.adopt(state)
                await self._commit(state)
        return self.session

    @hides_frames
    async def commit(self) -> None:
        """Stores what has changed; a new id leaves with the headers of the response.

        Call it before the response: before ``finish()``, ``flush()``, ``redirect()``
        and ``render()``. If the session was ended elsewhere, the changes are lost, as
        with `SessionMixin`.

        Raises `RuntimeError` before `load`, `BackendError` if the store fails,
        `SessionDataError` for a value that cannot be stored, and `SessionLimitError`.
        After each of these the changes are dropped, and the client keeps its id.
        """
        await self._commit(state_of(self.session))

    async def __aenter__(self) -> Session[Any]:
        return await self.load()

    @hides_frames
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        state = state_of(self.session)
        if error is None or _is_answer(error):
            await self._commit(state)
        else:
            state.discard()

    async def _commit(self, state: SessionState) -> None:
        commit = ResponseCommit(self._exchange.sessions, state)
        if commit.is_due(200):
            await commit.run()

    def _check_origin(self) -> None:
        """Raises for a request that may not use the session."""
        handler, exchange = self._handler, self._exchange
        settings = exchange.sessions.settings
        if settings.xsrf_keys is not None:
            raise SessionError(
                f"{_name_of(handler)} cannot use a session: with session_xsrf the XSRF"
                " tokens are bound to it, and only a SessionMixin does that. Derive the"
                " handler from SessionMixin, or set session_cross_origin_protection"
                " instead, which needs no tokens."
            )
        if (
            settings.origins is not None
            and handler.request.method not in SAFE_METHODS
            and not exchange.is_by_header
        ):
            # Where it returns False, Tornado has checked the token already.
            has_tokens = bool(handler.settings.get("xsrf_cookies"))
            is_from_here(handler.request, settings.origins, has_tokens)

    def _flush(self, include_footers: bool = False) -> Sent:
        """Writes the headers of the session, before the first ``flush()``."""
        handler, exchange = self._handler, self._exchange
        state = exchange.state
        if state is not None:
            exchange.refuse_inside_transaction()
        if not handler._headers_written:
            if state is not None:
                self._refuse_uncommitted(state)
                state.finished_by = _name_of(handler)
            exchange.write_headers(handler._headers)
        if include_footers:
            # The response is finished, and these two refer to the handler.
            del vars(handler)["flush"], vars(handler)[_NAME]
        return self._send(include_footers)

    def _refuse_uncommitted(self, state: SessionState) -> None:
        if not state.is_changed:
            return
        handler, sessions = self._handler, self._exchange.sessions
        what = (
            f"{_name_of(handler)} has changed its session and answers without saving"
            " it. Call 'await bind_session(handler).commit()' before finish(), flush(),"
            " redirect() and render()."
        )
        if handler.get_status() < 400:
            raise SessionError(what)
        if handler.get_status() < 500:
            sessions.logs.log(
                logging.WARNING, "%s The change is lost.", what, most=SEVERAL
            )
        state.discard()
        if state.ended:
            # What was to end must not stay alive because of an error after that.
            sessions.tasks.start(self._commit(state))


def bind_session(handler: tornado.web.RequestHandler) -> SessionBinding:
    """Returns the `SessionBinding` of a handler that is no `SessionMixin`.

    It is the same one for the whole request. Raises `TypeError` for a `SessionMixin`,
    which loads and commits by itself, and for a WebSocket.
    """
    binding = vars(handler).get(_NAME)
    if binding is None:
        if isinstance(handler, SessionMixin):
            raise TypeError(
                f"{_name_of(handler)} is a SessionMixin: use self.session, which is"
                " loaded and saved by itself."
            )
        if isinstance(handler, WebSocketHandler):
            raise TypeError(
                f"{_name_of(handler)} is a WebSocketHandler, and a binding would leave"
                " its socket open when the session ends. Derive it from SessionMixin."
            )
        binding = vars(handler)[_NAME] = SessionBinding(handler)
    return binding


def _is_answer(error: BaseException) -> bool:
    """Whether a handler that raises ``error`` answers with a status below 500."""
    return isinstance(error, tornado.web.Finish) or (
        isinstance(error, tornado.web.HTTPError) and error.status_code < 500
    )


def _name_of(handler: tornado.web.RequestHandler) -> str:
    return type(handler).__name__

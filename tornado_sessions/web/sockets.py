"""Ties an open WebSocket to its session: the one ends with the other."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import TypeVar

import tornado.websocket

from tornado_sessions.core.state import SessionState
from tornado_sessions.errors import BackendError, SessionError
from tornado_sessions.web.xsrf import XSRFHandler

T = TypeVar("T")

logger = logging.getLogger("tornado_sessions")

# After how many seconds a session that could not be kept alive is tried again.
_RETRY_AFTER = 2


class SocketHandler(XSRFHandler):
    """Is closed with its session if it is a `~tornado.websocket.WebSocketHandler`."""

    #: Whether what a WebSocket receives counts as use of the session, as a
    #: request does. It costs a save in each tenth of the idle timeout.
    session_keep_alive = False

    _socket_token: str | None = None
    _touch_due = 0.0

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
            if self._state is not None and self._state.is_changed:
                logger.warning(
                    "A WebSocket of %s was closed with changes to its session that"
                    " nobody has saved. Nothing is saved by itself there: call 'await"
                    " self.session.save()'.",
                    type(self).__name__,
                )
            self._all_sessions.sockets.remove(self, self._socket_token)
            # It refers to this handler.
            self.__dict__.pop("on_message", None)
        super().on_connection_close()

    def _refuse_unsaved_id(self, state: SessionState) -> None:
        """Raises `.SessionError` for what needs an id that a handshake cannot send."""
        if state.needs_new_id or (
            state.token is None and state.current.user is not None
        ):
            raise SessionError(
                "login() and regenerate() give the session another id, and it was not"
                " saved before the WebSocket handshake: no cookie can be sent after"
                " that. The handshake is refused, and the session stays as it was. Call"
                " 'await self.session.save()' before 'await super().get()'."
            )

    def _open_socket(self, state: SessionState) -> None:
        state.on_socket = True
        if state.token is None:
            if state.is_changed:
                logger.warning(
                    "A change to a new session cannot be kept: it was not saved before"
                    " the WebSocket handshake, and no cookie can be sent after that."
                    " Call 'await self.session.save()' before 'await super().get()', or"
                    " write to the session in an ordinary request first."
                )
            return
        if not isinstance(self, tornado.websocket.WebSocketHandler):
            return
        sessions, self._socket_token = self._all_sessions, state.token
        sessions.sockets.add(self, state.token, state.base.id)
        if not self.session_keep_alive:
            return
        if sessions.rules.revocable:
            receive = functools.partial(self._receive, self.on_message)
            self.__dict__["on_message"] = receive
        else:
            sessions.logs.once(
                logging.WARNING,
                "session_keep_alive of %s does nothing: this backend keeps the session"
                " in the cookie, and a WebSocket can send none.",
                type(self).__name__,
            )

    def _receive(
        self, on_message: Callable[[str | bytes], T], message: str | bytes
    ) -> T:
        sessions = self._all_sessions
        if sessions.now() >= self._touch_due:
            self._touch_due = math.inf
            sessions.tasks.start(self._touch())
        return on_message(message)

    async def _touch(self) -> None:
        assert self._socket_token is not None
        try:
            self._touch_due = await self._all_sessions.loader.touch(self._socket_token)
        except Exception as error:
            self._touch_due = self._all_sessions.now() + _RETRY_AFTER
            self._all_sessions.logs.log(
                logging.WARNING,
                "A session could not be kept alive: %s",
                error,
                exc_info=not isinstance(error, BackendError),
            )


def _ignore(message: str | bytes) -> None:
    pass

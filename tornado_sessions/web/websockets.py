"""Ties an open WebSocket to its session: it is closed when the session ends."""

from __future__ import annotations

import functools
import logging
import math
import weakref
from collections.abc import Callable
from typing import Protocol, TypeVar

from tornado.websocket import WebSocketHandler

from tornado_sessions.core.state import SessionState
from tornado_sessions.errors import BackendError, SessionError
from tornado_sessions.logs import SEVERAL
from tornado_sessions.sessions import Sessions

T = TypeVar("T")

# After how many seconds a session that could not be kept alive is tried again.
_RETRY_AFTER = 2


def refuse_unsaved_id(state: SessionState) -> None:
    """Raises `.SessionError` for what a handshake cannot wait for.

    It needs an id that cannot be sent any more; or it ends the session, which would
    stay alive until a `.Session.save` in the socket.
    """
    if state.ended:
        raise SessionError(
            "destroy() and logout() end the session with the response, and a WebSocket"
            " handshake does not wait for that. The handshake is refused, and the"
            " session ends. Call 'await self.session.save()' before 'await"
            " super().get()'."
        )
    if state.needs_new_id or (state.token is None and state.current.user is not None):
        raise SessionError(
            "login() and regenerate() give the session another id, and it was not"
            " saved before the WebSocket handshake: no cookie can be sent after"
            " that. The handshake is refused, and the session stays as it was. Call"
            " 'await self.session.save()' before 'await super().get()'."
        )


class Handler(Protocol):
    """A handler with a session, which may be a WebSocket."""

    def on_session_end(self) -> None: ...


def open_socket(
    handler: Handler, keep_alive: bool, sessions: Sessions, state: SessionState
) -> SessionSocket | None:
    """Ties a WebSocket to its session, as it is about to be opened.

    With ``keep_alive`` each message that it receives is a use of the session.
    Returns None where there is no session, and no WebSocket in a response with 101.
    """
    state.on_socket = True
    if state.token is None:
        if state.is_changed:
            sessions.logs.log(
                logging.WARNING,
                "A change to a new session cannot be kept: it was not saved before"
                " the WebSocket handshake, and no cookie can be sent after that."
                " Call 'await self.session.save()' before 'await super().get()', or"
                " write to the session in an ordinary request first.",
            )
        return None
    if not isinstance(handler, WebSocketHandler):
        return None
    socket = SessionSocket(handler, sessions, state.token)
    sessions.sockets.add(socket, state.token, state.base.id)
    if keep_alive:
        socket.keep_alive(handler)
    return socket


class SessionSocket:
    """An open WebSocket of the session of ``token``."""

    def __init__(self, handler: Handler, sessions: Sessions, token: str) -> None:
        # Weakly, because the handler holds this object.
        self._handler = weakref.ref(handler)
        self._sessions = sessions
        self._token = token
        # When a message is to store that the session is in use.
        self._touch_due = 0.0

    def keep_alive(self, handler: WebSocketHandler) -> None:
        """Has each message that ``handler`` receives count as a use of the session."""
        if self._sessions.rules.revocable:
            receive = functools.partial(self._receive, handler.on_message)
            vars(handler)["on_message"] = receive
        else:
            self._sessions.logs.once(
                logging.WARNING,
                "session_keep_alive of %s does nothing: this backend keeps the session"
                " in the cookie, and a WebSocket can send none.",
                type(handler).__name__,
            )

    def stop_receiving(self) -> None:
        """Drops what the client sends from now on: its session has ended."""
        handler = self._handler()
        if handler is not None:
            vars(handler)["on_message"] = ignore

    def end(self) -> None:
        """Tells the handler that its session has ended."""
        handler = self._handler()
        if handler is not None:
            handler.on_session_end()

    def close(self, handler: Handler, state: SessionState | None) -> None:
        """Forgets ``handler``, whose WebSocket was closed."""
        if state is not None and state.is_changed:
            self._sessions.logs.log(
                logging.WARNING,
                "A WebSocket of %s was closed with changes to its session that"
                " nobody has saved. Nothing is saved by itself there: call 'await"
                " self.session.save()'.",
                type(handler).__name__,
                most=SEVERAL,
            )
        self._sessions.sockets.remove(self, self._token)
        # What was put there refers to the handler.
        vars(handler).pop("on_message", None)

    def _receive(
        self, on_message: Callable[[str | bytes], T], message: str | bytes
    ) -> T:
        if self._sessions.now() >= self._touch_due:
            self._touch_due = math.inf
            self._sessions.tasks.start(self._touch())
        return on_message(message)

    async def _touch(self) -> None:
        sessions = self._sessions
        try:
            self._touch_due = await sessions.loader.touch(self._token)
        except Exception as error:
            self._touch_due = sessions.now() + _RETRY_AFTER
            sessions.logs.log(
                logging.WARNING,
                "A session could not be kept alive: %s",
                str(error),
                exc_info=not isinstance(error, BackendError),
            )


def ignore(received: str | bytes) -> None:
    """Takes the place of a method that is not to receive anything any more."""

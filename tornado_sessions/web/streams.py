"""Ties a response that stays open to its session: it ends when the session ends."""

from __future__ import annotations

import weakref

from tornado.httputil import HTTPServerRequest

from tornado_sessions.core.state import SessionState
from tornado_sessions.sessions import Sessions
from tornado_sessions.web.websockets import Handler


class SessionStream:
    """A response that ends with its session: server-sent events, or long polling."""

    # The session that it is registered with, if it has one, and under which id.
    _state: SessionState | None = None
    _token: str | None = None
    # The id that has ended last.
    _ended: str | None = None
    # The response is finished, or the handler was told.
    _is_over = False

    def __init__(self, handler: Handler, sessions: Sessions) -> None:
        # Weakly, because the handler holds this object.
        self._handler = weakref.ref(handler)
        self._sessions = sessions

    async def open(self, state: SessionState | None) -> None:
        """Registers the response of a request whose session was loaded.

        If the request counts as use of the session, this is stored now: the response
        may be open for longer than the session has left.
        """
        if state is not None and state.needs_renewal:
            await self._sessions.commits.commit(state)
        self.follow(state)

    def follow(self, state: SessionState | None) -> None:
        """Registers the response under the id that its session has now, if any."""
        token = None if state is None else state.token
        if state is None or token is None or self._is_over:
            return
        if token != self._token:
            self._remove()
        self._state, self._token = state, token
        self._sessions.sockets.add(self, token, state.base.id)

    def close(self) -> None:
        """Forgets the response: it is finished, or the client has hung up."""
        self._is_over = True
        self._remove()

    def stop_receiving(self) -> None:
        """Notes that the session has ended, or its id."""
        self._ended = self._token

    def end(self) -> None:
        """Tells the handler that its session has ended, unless it has done that."""
        handler, state = self._handler(), self._state
        if handler is None or state is None or self._is_over:
            return
        if state.token != self._ended or state.signs_in or state.revocations:
            # The request has given it another id, or may do so: a login that is not
            # stored yet begins a new session if this one has ended. Or the request is
            # ending the sessions of its user. It is checked again within a second.
            self.follow(state)
        else:
            self._is_over = True
            handler.on_session_end()

    def _remove(self) -> None:
        if self._token is not None:
            self._sessions.sockets.remove(self, self._token)


def close_connection(request: HTTPServerRequest) -> None:
    """Closes the connection of ``request``. The client sees a broken response."""
    # The close() of the connection would not call on_connection_close(). Who has
    # called detach() has the stream.
    stream = getattr(request.connection, "stream", None)
    if stream is not None:
        stream.close()

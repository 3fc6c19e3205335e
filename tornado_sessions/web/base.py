"""What the layers of `.SessionMixin` share: the session, and all sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import tornado.web

from tornado_sessions.core.state import SessionState
from tornado_sessions.session import Session
from tornado_sessions.sessions import Sessions
from tornado_sessions.unknown import UnloadedSession


class SessionHandler(tornado.web.RequestHandler):
    """A request handler that has a session, however it came by it."""

    # Of the class, so that a request that needs no session sets nothing up.
    _sessions: Sessions | None = None
    _state: SessionState | None = None
    # The view of it that the application has.
    _session: Session | None = None
    _session_loaded = False
    _session_used = False
    # What an error page has that comes before the session is loaded.
    _unloaded_session: UnloadedSession | None = None
    # The prepare() that loads the session.
    _own_prepare: ClassVar[Callable[..., object] | None] = None
    # The id that the client has sent.
    _client_token: str | None = None
    # There are headers to write although there is no session.
    _speaks = False

    @property
    def sessions(self) -> Sessions:
        """All sessions of this application."""
        # Whoever asks may be about to revoke the session of this very request.
        return self._all_sessions.of_request(self._state)

    @property
    def _all_sessions(self) -> Sessions:
        if self._sessions is None:
            self._sessions = Sessions.of(self.application)
        return self._sessions

    @property
    def session(self) -> Session:
        """The visitor's session, the same object throughout the request.

        It is loaded in `prepare`. Raises `RuntimeError` before that. Where an
        error is answered without it, as where the load has failed, it is an empty
        session that can only be read: a change raises `.SessionError`.
        """
        session = self._session
        if session is None:
            if not self._session_loaded:
                return self._get_unloaded_session()
            session = self._session = self._all_sessions.view(self._get_state())
        self._session_used = True
        return session

    @session.setter
    def session(self, value: Session) -> None:
        # What ``self.session |= {…}`` does last.
        if value is not self._session and value is not self._unloaded_session:
            raise AttributeError(
                "self.session cannot be replaced. Change its values with update() and"
                " clear(), or end it with destroy()."
            )

    def _get_state(self) -> SessionState:
        """Returns the state of the session, which begins with its first use."""
        state = self._state
        if state is None:
            state = self._state = SessionState(self._all_sessions.rules)
            state.headers_sent = self._headers_written
        return state

    def _get_unloaded_session(self) -> Session:
        # Tornado sets the status after set_default_headers() was called.
        status = getattr(self, "_status_code", 200)
        if status < 400:
            name = type(self).__name__
            if type(self).prepare is type(self)._own_prepare:
                raise RuntimeError(
                    f"self.session of {name} is not loaded yet: prepare() does that. Use"
                    " it in the methods that follow, such as get(), and not in"
                    " initialize()."
                )
            raise RuntimeError(
                f"self.session is not loaded. If {name} overrides prepare(), it must"
                " call 'await super().prepare()'. Before prepare(), as in initialize(),"
                " there is no session yet."
            )
        self._session_used = self._speaks = True
        if self._unloaded_session is None:
            self._unloaded_session = UnloadedSession(
                f"The session cannot be changed: the request was answered {status}"
                " before its session was loaded. On the page of such an error it is"
                " empty and can only be read."
            )
        return self._unloaded_session

    def _add_header(self, name: str, value: str) -> None:
        # Without the checks of add_header(), which each request would pay for: the
        # value is ours, and a line break would be refused when it is sent.
        headers = self._headers
        if name in headers:
            headers.add(name, value)
        else:
            headers[name] = value

    def _add_vary(self, names: str) -> None:
        """Adds to Vary those of ``names``, with commas between, that it has not."""
        headers = self._headers
        if "Vary" not in headers:
            headers["Vary"] = names
            return
        listed = headers["Vary"].lower().replace(" ", "").split(",")
        missing = [name for name in names.split(", ") if name.lower() not in listed]
        if missing and "*" not in listed:
            headers.add("Vary", ", ".join(missing))

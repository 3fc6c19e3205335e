"""What the layers of `.SessionMixin` share: the session, and all sessions."""

from __future__ import annotations

import tornado.web

from tornado_sessions.session import Session
from tornado_sessions.sessions import Sessions
from tornado_sessions.sessions.users import own


class SessionHandler(tornado.web.RequestHandler):
    """A request handler that has a session, however it came by it."""

    # Of the class, so that a request that needs no session sets nothing up.
    _sessions: Sessions | None = None
    _session: Session | None = None
    _session_loaded = False
    _session_used = False
    # The id that the client has sent.
    _client_token: str | None = None
    # There are headers to write although there is no session.
    _speaks = False

    @property
    def sessions(self) -> Sessions:
        """All sessions of this application."""
        # Whoever asks may be about to revoke the session of this very request.
        own.set(self._session)
        return self._all_sessions

    @property
    def _all_sessions(self) -> Sessions:
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
            session = self._session = Session(self._all_sessions)
            session._sent = self._headers_written
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

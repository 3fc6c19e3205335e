"""A handler that returns how long the session lasts, for a script of a page."""

from __future__ import annotations

from typing import Any

from tornado.web import HTTPError

from tornado_sessions.core.expiry import is_extendable
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.values import state_of
from tornado_sessions.web.handler import SessionMixin


class SessionStatusHandler(SessionMixin):
    """Returns when the session ends, so that a page can warn its user.

    ::

        Application([("/session", SessionStatusHandler), …])

    GET does not extend the session. POST restarts its idle timeout, and sends what GET
    would send after it. It needs an XSRF token, or comes from the same origin, where
    the application requires that. Both return a JSON object:

    * ``seconds_left``: after how many seconds the session ends unless it is used,
      rounded up; 0 if there is none.
    * ``signed_in``: whether somebody is signed in.
    * ``extendable``: whether a POST can help. False if there is no session, and if the
      lifetime ends it, which nothing extends.

    A POST without a session begins none. If the store fails, the status is 503.
    """

    session_extends = False

    async def prepare(self) -> None:
        """Loads the session, and responds with 503 if the store fails."""
        await super().prepare()
        if self.session.unavailable:
            # A subclass is optional. Its page must not take the user for signed out.
            raise HTTPError(503)

    def get(self) -> None:
        """Sends how long the session lasts, and does not extend it."""
        self.set_header("Cache-Control", "no-store")
        self.finish(_status(state_of(self.session)))

    async def post(self) -> None:
        """Restarts the idle timeout, and sends how long the session lasts then."""
        state = state_of(self.session)
        is_alive = await self._session_exchange.extend(state)
        self.set_header("Cache-Control", "no-store")
        self.finish(_status(state if is_alive else None))


def _status(state: SessionState | None) -> dict[str, Any]:
    left = 0 if state is None or state.token is None else state.expires_in
    if state is None or left == 0:
        return {"seconds_left": 0, "signed_in": False, "extendable": False}
    return {
        "seconds_left": left,
        "signed_in": state.current.user is not None,
        "extendable": is_extendable(state.current, state.rules),
    }

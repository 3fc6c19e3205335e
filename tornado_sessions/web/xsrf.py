"""Binds the XSRF token of one request to its session, see ``session_xsrf``."""

from __future__ import annotations

from collections.abc import Callable

from tornado.httputil import HTTPServerRequest

from tornado_sessions.core.load import MOST_IDS
from tornado_sessions.core.state import SessionState
from tornado_sessions.http.xsrf import Binding, mask
from tornado_sessions.settings import Settings
from tornado_sessions.web.request import SessionIds

#: Why a request is refused.
MISMATCH = "'_xsrf' argument does not match the XSRF cookie and the session"
MISSING = "'_xsrf' argument missing from POST"

# How many seconds the cookie lasts for whoever is signed in, as Tornado has it.
_SIGNED_IN_AGE = 30 * 24 * 3600


class RequestXSRF:
    """The XSRF token of one request, and the cookie of its response."""

    def __init__(
        self,
        request: HTTPServerRequest,
        ids: SessionIds,
        settings: Settings,
        now: Callable[[], float],
    ) -> None:
        keys = settings.xsrf_keys
        assert keys is not None
        self._ids = ids
        self._max_age = settings.xsrf_max_age
        self._now = now
        cookie, lines = ids.xsrf_cookie, request.headers.get_list("Cookie")
        cookies = () if cookie is None else cookie.read(lines)
        self._binding = Binding(keys, cookies, ids.tokens)
        #: The request came with several ids, and its token may be good for one of them.
        self.is_unconfirmed = False

    @property
    def is_handed_out(self) -> bool:
        """Whether the response holds the token, as in a form."""
        return self._binding.handed_out

    def refuse(self, argument: str | None) -> str | None:
        """Returns why a request with ``argument`` is refused; None if it is not.

        Of a request with several ids this is only half of the check, see `confirm`.
        """
        if not argument:
            return MISSING
        count = len(self._ids.tokens)
        if count > MOST_IDS or not self._binding.accepts(argument):
            return MISMATCH
        self.is_unconfirmed = count > 1
        return None

    def confirm(self) -> bool:
        """Whether the token is good for one of several ids that is alive.

        Which of them are alive was not known before the session was loaded.
        """
        is_good = self._binding.confirm(self._ids.tokens)
        return is_good or not self.is_unconfirmed

    def token(self, state: SessionState | None) -> bytes:
        """Returns the token for a form, and notes that it is handed out."""
        self._binding.handed_out = True
        return mask(self._binding.secret(_has_moved(state)), self._now())

    def cookie_line(self, state: SessionState | None) -> str | None:
        """Returns the Set-Cookie line for the id that the client has from now on.

        Returns None where its cookie is right.
        """
        token = self._ids.token
        if state is not None and state.token is not None:
            token = state.token
        elif state is None and len(self._ids.tokens) > 1:
            # It is not known which of the sessions is alive, as none was loaded.
            token = None
        data = self._binding.renewed(token, _has_moved(state))
        cookie = self._ids.xsrf_cookie
        if data is None or cookie is None:
            return None
        max_age = self._max_age
        if max_age is None and state is not None and state.current.user is not None:
            max_age = _SIGNED_IN_AGE
        return cookie.line(mask(data, self._now()).decode(), max_age)


def _has_moved(state: SessionState | None) -> bool:
    """Whether what was handed out for the session before is void."""
    return state is not None and (state.has_new_id or state.destroyed)

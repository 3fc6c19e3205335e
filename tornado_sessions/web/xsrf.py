"""Binds Tornado's XSRF tokens to the session, where ``session_xsrf`` says so."""

from __future__ import annotations

from collections.abc import Sequence

import tornado.web

from tornado_sessions.cookies import Cookie
from tornado_sessions.core.load import MOST_IDS
from tornado_sessions.core.state import SessionState
from tornado_sessions.web.ids import IdHandler
from tornado_sessions.xsrf import Binding, mask

_MISMATCH = "'_xsrf' argument does not match the XSRF cookie and the session"

# How many seconds the cookie lasts for whoever is signed in.
_SIGNED_IN_AGE = 30 * 24 * 3600


class XSRFHandler(IdHandler):
    """Checks and makes tokens as Tornado does, unless they are to be bound."""

    _xsrf: Binding | None = None
    # The request came with several ids, and its token may be good for one of them.
    _xsrf_unconfirmed = False
    # The ids that a token has to be signed for; None before they are known.
    _xsrf_tokens: Sequence[str] | None = None

    @property
    def xsrf_token(self) -> bytes:
        """Tornado's XSRF token, bound to the session if ``session_xsrf`` is set."""
        if self._all_sessions.settings.xsrf_keys is None:
            return super().xsrf_token
        binding = self._bind_xsrf()
        binding.handed_out = self._speaks = True
        return mask(binding.secret(self._has_moved()), self._all_sessions.now())

    def check_xsrf_cookie(self) -> None:
        """Verifies Tornado's XSRF token, and that it is of this session.

        The latter if ``session_xsrf`` is set; the token then counts from the body or
        a header, and not from the URL. It is called before `prepare`, and so before
        the session is loaded: the request's own id is enough. A request that names
        its session in the header needs none: no browser sends that for another
        site, unless the application lets that site.
        """
        if self._all_sessions.settings.transports is not None:
            self._read_tokens(self._all_sessions.settings.transports)
            if self._way == "header":
                return
        if self._all_sessions.settings.xsrf_keys is None:
            super().check_xsrf_cookie()
            return
        reason = self._refuse_xsrf()
        if reason is not None:
            raise tornado.web.HTTPError(403, reason)

    def _refuse_xsrf(self) -> str | None:
        """Returns why the token of this request is refused; None if it is good.

        What is read here is in no frame of the error.
        """
        headers = self.request.headers
        argument = (
            self.get_body_argument("_xsrf", None)
            or headers.get("X-Xsrftoken")
            or headers.get("X-Csrftoken")
        )
        if not argument:
            return "'_xsrf' argument missing from POST"
        tokens = self._sent_tokens()
        if len(tokens) > MOST_IDS:
            return _MISMATCH
        self._xsrf = self._make_binding(tokens)
        if not self._xsrf.accepts(argument):
            return _MISMATCH
        self._xsrf_unconfirmed = len(tokens) > 1
        return None

    def _confirm_xsrf(self, state: SessionState) -> None:
        """Verifies the token of a request that came with several ids again.

        Which of them is alive was not known before ``session`` was loaded. Raises
        `~tornado.web.HTTPError` with 403.
        """
        self._xsrf_tokens = _alive(state)
        if self._xsrf is not None:
            is_good = self._xsrf.confirm(self._xsrf_tokens)
            if self._xsrf_unconfirmed and not is_good:
                raise tornado.web.HTTPError(403, _MISMATCH)

    def _bind_xsrf(self) -> Binding:
        if self._xsrf is None:
            tokens = self._xsrf_tokens
            self._xsrf = self._make_binding(
                self._sent_tokens() if tokens is None else tokens
            )
        return self._xsrf

    def _make_binding(self, tokens: Sequence[str]) -> Binding:
        keys, cookie = self._all_sessions.settings.xsrf_keys, self._find_xsrf_cookie()
        assert keys is not None
        lines = self.request.headers.get_list("Cookie")
        return Binding(keys, () if cookie is None else cookie.read(lines), tokens)

    def _find_xsrf_cookie(self) -> Cookie | None:
        """Returns the XSRF cookie for this request's protocol; None to withhold it."""
        cookie, sessions = self._find_session_cookie(), self._all_sessions
        if cookie is None:
            return None
        settings = sessions.settings
        if cookie is settings.cookie:
            return settings.xsrf_cookie
        return settings.loopback_xsrf_cookie

    def _write_xsrf_cookie(self) -> None:
        """Has the client's XSRF cookie hold for the id that it has from now on."""
        state, binding = self._state, self._bind_xsrf()
        if binding.handed_out:
            self.set_header("Cache-Control", "no-store")
            if not self._session_used:
                self._add_vary("Cookie")
        token = self._client_token
        if state is not None and state.token is not None:
            token = state.token
        data = binding.renewed(token, self._has_moved())
        cookie = self._find_xsrf_cookie()
        if data is None or cookie is None:
            return
        age = self._all_sessions.settings.xsrf_max_age
        if age is None and state is not None and state.current.user is not None:
            # As Tornado does for whoever is signed in.
            age = _SIGNED_IN_AGE
        masked = mask(data, self._all_sessions.now()).decode()
        self._add_header("Set-Cookie", cookie.line(masked, age))
        self.set_header("Cache-Control", "no-store")

    def _has_moved(self) -> bool:
        """Tells whether what was handed out for this session before is void."""
        state = self._state
        return state is not None and (state.has_new_id or state.destroyed)


def _alive(state: SessionState) -> Sequence[str]:
    """Returns those ids of a request of which a session has been found."""
    if state.token is not None:
        return (state.token,)
    # To destroy() ends all of them.
    return tuple(state.found)

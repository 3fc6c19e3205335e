"""Binds Tornado's XSRF tokens to the session, where ``session_xsrf`` says so."""

from __future__ import annotations

import tornado.web

from tornado_sessions.web.ids import IdHandler
from tornado_sessions.xsrf import Binding, mask


class XSRFHandler(IdHandler):
    """Checks and makes tokens as Tornado does, unless they are to be bound."""

    _xsrf: Binding | None = None
    _xsrf_argument: str | None = None

    @property
    def xsrf_token(self) -> bytes:
        """Tornado's XSRF token, bound to the session if ``session_xsrf`` is set."""
        if self._all_sessions.xsrf_keys is None:
            return super().xsrf_token
        binding = self._bind_xsrf()
        binding.handed_out = self._speaks = True
        return mask(binding.secret(self._has_moved()), self._all_sessions.now())

    def check_xsrf_cookie(self) -> None:
        """Verifies Tornado's XSRF token, and that it is of this session.

        The latter if ``session_xsrf`` is set. It is asked before `prepare`, and
        so before the session is loaded: the request's own id is enough. A request
        that names its session in the header needs none: no browser sends that for
        another site, unless the application lets that site.
        """
        if self._all_sessions.transports is not None:
            self._read_tokens(self._all_sessions.transports)
            if self._way == "header":
                return
        if self._all_sessions.xsrf_keys is None:
            super().check_xsrf_cookie()
            return
        headers = self.request.headers
        argument = (
            self.get_argument("_xsrf", None)
            or headers.get("X-Xsrftoken")
            or headers.get("X-Csrftoken")
        )
        if not argument:
            raise tornado.web.HTTPError(403, "'_xsrf' argument missing from POST")
        self._xsrf_argument = argument
        self._require_xsrf(self._bind_xsrf(), argument)

    def _bind_xsrf_to(self, token: str) -> None:
        """Verifies the token for the one of several ids that is alive.

        Which one that is was not known before the session was loaded.
        """
        keys = self._all_sessions.xsrf_keys
        if keys is None:
            return
        cookie = self.get_cookie(self._xsrf_cookie_name())
        self._xsrf = Binding(keys, cookie, token)
        if self._xsrf_argument is not None:
            self._require_xsrf(self._xsrf, self._xsrf_argument)

    def _require_xsrf(self, binding: Binding, argument: str) -> None:
        if not binding.accepts(argument):
            raise tornado.web.HTTPError(
                403, "'_xsrf' argument does not match the XSRF cookie and the session"
            )

    def _bind_xsrf(self) -> Binding:
        if self._xsrf is None:
            keys = self._all_sessions.xsrf_keys
            assert keys is not None
            cookie = self.get_cookie(self._xsrf_cookie_name())
            self._xsrf = Binding(keys, cookie, self._sent_token())
        return self._xsrf

    def _write_xsrf_cookie(self) -> None:
        """Has the client's XSRF cookie hold for the id that it has from now on."""
        session, binding = self._session, self._bind_xsrf()
        if binding.handed_out and not self._session_used:
            self._add_vary("Cookie")
        token = self._client_token
        if session is not None and session._token is not None:
            token = session._token
        data = binding.renewed(token, self._has_moved())
        if data is None:
            return
        kwargs = dict(self.settings.get("xsrf_cookie_kwargs", {}))
        if session is not None and session.user is not None:
            # As Tornado does for whoever is signed in.
            kwargs.setdefault("expires_days", 30)
        masked = mask(data, self._all_sessions.now())
        self.set_cookie(self._xsrf_cookie_name(), masked, **kwargs)

    def _xsrf_cookie_name(self) -> str:
        name: str = self.settings.get("xsrf_cookie_name", "_xsrf")
        return name

    def _has_moved(self) -> bool:
        """Tells whether what was handed out for this session before is void."""
        session = self._session
        return session is not None and (session._moved or session._destroyed)

"""Writes what the headers of a response say of the session."""

from __future__ import annotations

from tornado.httputil import HTTPHeaders

from tornado_sessions.core.state import SessionState
from tornado_sessions.http.transports import HEADER
from tornado_sessions.logs import LimitedLog
from tornado_sessions.web.links import warn_of_stale_links
from tornado_sessions.web.request import SessionIds
from tornado_sessions.web.xsrf import RequestXSRF


def add_vary(headers: HTTPHeaders, names: str) -> None:
    """Adds to Vary those of ``names``, with commas between, that it has not."""
    if not names:
        return
    if "Vary" not in headers:
        headers["Vary"] = names
        return
    listed = headers["Vary"].lower().replace(" ", "").split(",")
    missing = [name for name in names.split(", ") if name.lower() not in listed]
    if missing and "*" not in listed:
        headers.add("Vary", ", ".join(missing))


def hide_url(headers: HTTPHeaders) -> None:
    """Keeps the URL of a page to itself, as there is an id in it or in its links."""
    headers["Referrer-Policy"] = "no-referrer"
    forbid_storing(headers)


def write_id(
    headers: HTTPHeaders, ids: SessionIds, state: SessionState, logs: LimitedLog
) -> None:
    """Writes the client's new id, or that it is to drop the one it has."""
    if ids.linked_token is not None:
        warn_of_stale_links(logs, ids, state)
    if ids.transport == "cookie":
        if state.token is None or state.token != ids.token or state.cookie_due:
            _write_cookie(headers, ids, state)
    elif ids.transport == "header":
        if ids.is_dropped(state):
            headers[HEADER] = ""
        elif state.token is None or state.token == ids.token:
            return
        else:
            headers[HEADER] = state.token
        forbid_storing(headers)


def write_xsrf(
    headers: HTTPHeaders, xsrf: RequestXSRF, state: SessionState | None
) -> None:
    """Writes the XSRF cookie where the client's is not good for its id of now."""
    line = xsrf.cookie_line(state)
    if xsrf.is_handed_out:
        add_vary(headers, "Cookie")
        forbid_storing(headers)
    if line is not None:
        _add_cookie(headers, line)
        forbid_storing(headers)


def _write_cookie(headers: HTTPHeaders, ids: SessionIds, state: SessionState) -> None:
    token = state.token
    if token is None and not ids.is_dropped(state):
        return
    cookie = ids.cookie
    if cookie is None:
        return
    if token is None:
        line = cookie.expired_line()
    else:
        age = max(1, state.expires_in) if state.is_persistent else None
        line = cookie.line(token, age)
    _add_cookie(headers, line)
    forbid_storing(headers)


def _add_cookie(headers: HTTPHeaders, line: str) -> None:
    # Without the checks of RequestHandler.add_header(), which each request would
    # pay for: the value is ours, and a line break is refused when it is sent.
    if "Set-Cookie" in headers:
        headers.add("Set-Cookie", line)
    else:
        headers["Set-Cookie"] = line


def forbid_storing(headers: HTTPHeaders) -> None:
    """Has no cache keep the response, whatever the application has said."""
    headers["Cache-Control"] = "no-store"

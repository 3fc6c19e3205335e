"""Puts the id of the session into links, for clients without cookies."""

from __future__ import annotations

import logging

from tornado.httputil import HTTPServerRequest

from tornado_sessions.core.state import SessionState
from tornado_sessions.errors import SessionError
from tornado_sessions.http.transports import put_in_url
from tornado_sessions.logs import LimitedLog
from tornado_sessions.web.request import SessionIds


def put_id_in_url(
    url: str, request: HTTPServerRequest, ids: SessionIds, state: SessionState
) -> str:
    """Returns ``url`` with the id of the session, see `.SessionMixin.session_url`.

    Raises `.SessionError` where the id is not drawn yet, and where the headers that
    such a response needs cannot be sent any more.
    """
    if not ids.needs_link:
        return url
    if state.needs_new_id or (state.token is None and state.pack() is not state.base):
        raise SessionError(
            "session_url() needs the session's id, which is drawn when the session"
            " is saved. Call 'await self.session.save()' before it."
        )
    if state.token is None:
        return url
    linked = put_in_url(url, state.token, request.protocol, request.host)
    if linked != url:
        if state.headers_sent and not ids.is_in_url:
            raise SessionError(
                "session_url() needs headers of its own, and the headers of the"
                " response are out already. Call it before flush()."
            )
        ids.linked_token, ids.is_in_url = state.token, True
    return linked


def keep_id_in_url(url: str, request: HTTPServerRequest, ids: SessionIds) -> str:
    """Returns ``url`` with the id that came in the URL of the request.

    For a request whose session could not be loaded: the visitor keeps it.
    """
    if ids.transport != "query" or len(ids.tokens) != 1:
        return url
    return put_in_url(url, ids.tokens[0], request.protocol, request.host)


def warn_of_stale_links(logs: LimitedLog, ids: SessionIds, state: SessionState) -> None:
    """Logs where links of the response have an id that is not valid any more."""
    if state.token is not None and ids.linked_token not in (None, state.token):
        logs.log(
            logging.WARNING,
            "session_url() was called before the session was given a new id: the"
            " links of this response lead to no session. Call 'await"
            " self.session.save()' after login() or regenerate(), and"
            " session_url() after that.",
        )

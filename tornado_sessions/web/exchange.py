"""The session of one request and its response, put together from its parts."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Awaitable
from typing import Any

import tornado.web
from tornado.httputil import HTTPHeaders, HTTPServerRequest

from tornado_sessions.core.inside import is_inside
from tornado_sessions.core.schema import SessionData
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.typed import declare, migrate
from tornado_sessions.core.values import state_of
from tornado_sessions.errors import (
    BackendError,
    SessionDataError,
    SessionError,
    SessionGoneError,
    SessionLimitError,
)
from tornado_sessions.logs import SEVERAL
from tornado_sessions.session import Session
from tornado_sessions.sessions import Sessions, known_sessions
from tornado_sessions.web.errors import (
    RETRY_AFTER,
    log_bad_value,
    log_failed_store,
    status_of,
)
from tornado_sessions.web.headers import (
    add_vary,
    forbid_storing,
    hide_url,
    write_id,
    write_xsrf,
)
from tornado_sessions.web.links import keep_id_in_url, put_id_in_url
from tornado_sessions.web.request import SessionIds, TakenIds, take_ids
from tornado_sessions.web.response import ResponseCommit
from tornado_sessions.web.streams import SessionStream
from tornado_sessions.web.tenants import sessions_of_tenant
from tornado_sessions.web.unloaded import (
    UnloadedSession,
    unavailable_session,
    unloaded_session,
)
from tornado_sessions.web.websockets import SessionSocket
from tornado_sessions.web.xsrf import MISMATCH, RequestXSRF


class Exchange:
    """What a `.SessionMixin` asks for the session of its request.

    It knows the request and the headers of the response, and no handler. Each part
    is made when it is first needed.
    """

    # What each request asks for is set in the constructor, which costs less than to look
    # up the default of a class.

    #: The session was loaded, or there is none to load.
    is_loaded: bool
    #: The response depends on the session.
    is_used: bool
    #: The response is the answer to a store that has failed.
    has_failed_store = False
    #: The error that is logged now is not answered: the handler goes on.
    is_going_on = False
    #: The load has failed, and the handler has gone on without the session.
    is_unavailable = False
    #: What the request knows of its session. None until it was loaded or used.
    state: SessionState | None
    ids: SessionIds | None
    commit: ResponseCommit | None
    socket: SessionSocket | None = None
    stream: SessionStream | None
    #: The session that a handler got because none was loaded.
    unloaded: UnloadedSession | None
    _session: Session[Any] | None
    _taken: TakenIds | None = None
    _xsrf: RequestXSRF | None

    def __init__(
        self, application: tornado.web.Application, request: HTTPServerRequest
    ) -> None:
        self._application = application
        self._request = request
        self.is_loaded = self.is_used = False
        self.state = self.ids = self.commit = self.stream = None
        self.unloaded = self._session = self._xsrf = None
        sessions = known_sessions(application)
        if sessions is not None and not sessions.tenants:
            # In place of the property, which each request would pay for.
            self.sessions = sessions

    @functools.cached_property
    def sessions(self) -> Sessions:
        """All sessions of the application."""
        sessions = Sessions.of(self._application)
        if sessions.tenants:
            # If this raises, the error page has the settings of the application.
            self.sessions = sessions
            sessions = sessions_of_tenant(sessions, self._request)
        return sessions

    # The request.

    def take_ids(self) -> TakenIds:
        """Takes the ids out of the request, so that no log repeats them."""
        taken = self._taken
        if taken is None:
            # Not from Sessions.of(), which raises where the settings are wrong.
            names = self._application.settings.get("session_transports")
            taken = self._taken = take_ids(self._request, names)
        return taken

    def read_ids(self) -> SessionIds:
        """Returns the ids that the request brings."""
        ids = self.ids
        if ids is None:
            sessions = self.sessions
            settings = sessions.settings
            taken = None if settings.transports is None else self.take_ids()
            ids = self.ids = SessionIds(self._request, settings, sessions.logs, taken)
        return ids

    @property
    def is_by_header(self) -> bool:
        """Whether the request names its session in the header."""
        if self.sessions.settings.transports is None:
            return False
        return self.read_ids().transport == "header"

    def load(self) -> Awaitable[SessionState] | None:
        """Loads the session of the request. The caller passes it to `adopt`.

        Returns None if there is none to load: the request brings no id. Raises
        `.BackendError` if the store fails, and `~tornado.web.HTTPError` with 403
        where the XSRF token is not for the one of several sessions that is alive.
        """
        if self.is_loaded:
            return None
        sessions, tokens, ids = self.sessions, None, None
        if sessions.events.has_requests:
            request = self._request
            agent = request.headers.get("User-Agent", "")
            sessions.events.note_request(request.remote_ip, agent)
        if (
            sessions.settings.transports is not None
            or "Cookie" in self._request.headers
        ):
            ids = self.read_ids()
            tokens = ids.tokens
        if ids is None or not tokens:
            self.is_loaded = True
            return None
        token = ids.token = tokens[0]
        if len(tokens) > 1:
            return self._load_one_of(ids)
        return sessions.loader.load(token)

    def adopt(self, state: SessionState, extends: bool = True) -> None:
        """Takes what was loaded as the session of the request.

        Unless it ``extends``, the request is no use of the session.
        """
        self.state, self.is_loaded = state, True
        if not extends:
            state.extends = False

    async def _load_one_of(self, ids: SessionIds) -> SessionState:
        sessions = self.sessions
        state = await sessions.loader.load_one_of(ids.tokens)
        self.adopt(state)
        ids.choose(state)
        if ids.is_ambiguous:
            what = "cookies" if ids.transport == "cookie" else "ids"
            sessions.events.tell("refused", reason=f"two {what}")
        if self._xsrf is not None and not self._xsrf.confirm():
            raise tornado.web.HTTPError(403, MISMATCH)
        return state

    @property
    def has_unconfirmed_token(self) -> bool:
        """Whether it is not known yet for which of several ids the token is good."""
        return self._xsrf is not None and self._xsrf.is_unconfirmed

    # What a handler uses.

    def begin(self, headers_sent: bool) -> SessionState:
        """Returns the state of the session, which begins with its first use."""
        state = self.state
        if state is None:
            state = self.state = SessionState(self.sessions.rules)
            state.headers_sent = headers_sent
        return state

    def view(
        self, headers_sent: bool, schema: type[SessionData] | None
    ) -> Session[Any]:
        """Returns the session that was loaded, always the same object.

        The first call migrates its values if ``schema`` has a ``migrate()``. Whatever
        that raises, the second call does not.
        """
        session = self._session
        if session is None:
            state = self.state or self.begin(headers_sent)
            # As `Sessions.view` does: a call less for each request.
            session = self._session = Session(self.sessions.transactions, state)
            if schema is not None:
                declare(state, schema)
                migrate(state)
        self.is_used = True
        return session

    def view_unloaded(
        self,
        status: int,
        handler: type,
        overrides: bool,
        schema: type[SessionData] | None,
    ) -> Session[Any]:
        """Returns the empty session of a request whose session was not loaded.

        Raises as `.unloaded_session` does.
        """
        session = self.unloaded
        if session is None:
            name = handler.__name__
            if self.is_unavailable:
                session = unavailable_session(name)
            else:
                session = unloaded_session(status, name, overrides)
            self.unloaded = session
            declare(state_of(session), schema)
        self.is_used = True
        return session

    def refuse_lost_change(self, status: int) -> None:
        """Raises for a change of a session that was not loaded, if it would be lost.

        Most raise by themselves. One inside of a default of the schema does not.
        """
        session = self.unloaded
        if session is not None and status < 400 and session.modified:
            state_of(session).require_cookie()

    def is_ours(self, session: Session[Any]) -> bool:
        """Whether the handler has got ``session`` from here."""
        return session is self._session or session is self.unloaded

    def link(self, url: str, headers_sent: bool) -> str:
        """Returns ``url`` with the id, see `.SessionMixin.session_url`."""
        ids = self.ids
        if ids is None or not ids.has_links:
            return url
        self.is_used = True
        if self.is_unavailable:
            return keep_id_in_url(url, self._request, ids)
        return put_id_in_url(url, self._request, ids, self.begin(headers_sent))

    def bind_xsrf(self) -> RequestXSRF:
        """Returns the XSRF token that is bound to the ids of the request."""
        xsrf = self._xsrf
        if xsrf is None:
            settings, ids = self.sessions.settings, self.read_ids()
            xsrf = RequestXSRF(self._request, ids, settings, self.sessions.now)
            self._xsrf = xsrf
        return xsrf

    async def extend(self, state: SessionState) -> bool:
        """Restarts the idle timeout of the session of ``state`` in the store.

        Returns False if there is none, or if it has ended meanwhile. Raises
        `.BackendError` if the store fails.
        """
        base = state.base
        state.extends, state.noted_at = True, -math.inf
        await self.sessions.commits.commit(state)
        if state.store_failed:
            raise BackendError(
                "The session could not be extended: the store has failed. The log has"
                " its error."
            )
        return state.base is not base

    # The response.

    def refuse_inside_transaction(self) -> None:
        """Raises `.SessionError` where the function of a transaction answers."""
        state = self.state
        if state is not None and state.is_transacting and is_inside(state):
            raise SessionError(
                "The function given to transact() answered the request, with finish(),"
                " flush() or what calls these: redirect(), render(), send_error(). It"
                " may run more than once. Answer after 'await self.session.transact(…)',"
                " by what the function returns."
            )

    def due_commit(self, status: int) -> ResponseCommit | None:
        """Returns the commit that a response of ``status`` has to wait for."""
        state, commit = self.state, self.commit
        # After a 101 Tornado takes the socket away at once: it cannot wait.
        if state is None or status == 101:
            return None
        if commit is None:
            is_idle = not self.is_used or (state.is_untouched and status < 500)
            if is_idle and not state.needs_renewal:
                return None
            commit = self.commit = ResponseCommit(self.sessions, state)
        return commit if commit.is_due(status) else None

    def status_of(self, error: BaseException | None, status: int) -> int:
        """Returns the status of the page of ``error``, which may be ``status``.

        What an error of the session has left undone is not tried again.
        """
        state = self.state
        if state is not None:
            # The response is made anew.
            state.finished_by = ""
        if isinstance(error, BackendError):
            self.has_failed_store = True
            return 503
        if isinstance(error, SessionError) and state is not None:
            is_ambiguous = state.refusal is not None
            # It is answered; there is nothing to try again.
            state.discard()
            return status_of(error, is_ambiguous, status)
        return status

    def log_error(self, error: BaseException | None, handler: type) -> bool:
        """Logs an error of the session. Returns False for one of something else."""
        if not self.is_loaded:
            self.take_ids()
        ids, commit = self.ids, self.commit
        if isinstance(error, (SessionGoneError, SessionLimitError)):
            # They are no errors of the application.
            self.sessions.logs.log(logging.INFO, "%s", str(error), most=SEVERAL)
        elif isinstance(error, SessionError) and ids is not None and ids.is_ambiguous:
            ids.log_refusal(error)
        elif isinstance(error, BackendError):
            outcome = "No session for" if self.is_going_on else "503"
            log_failed_store(error, self._request, outcome)
        elif isinstance(error, SessionDataError) and commit and commit.has_failed:
            log_bad_value(self.sessions.logs, error, self._request, handler.__name__)
        else:
            return False
        return True

    def write_headers(self, headers: HTTPHeaders) -> None:
        """Writes what the response says of the session."""
        state, ids, xsrf = self.state, self.ids, self._xsrf
        if self.has_failed_store:
            headers["Retry-After"] = str(RETRY_AFTER)
        if ids is None:
            if not self.is_loaded and self.take_ids().url:
                hide_url(headers)
        elif ids.is_in_url:
            hide_url(headers)
        if self.is_used:
            add_vary(headers, "Cookie" if ids is None else ids.vary)
            if self.is_unavailable:
                # It would be shown after the store is back.
                forbid_storing(headers)
        if state is not None:
            state.headers_sent = True
            if self.sessions.settings.xsrf_keys is not None:
                xsrf = self.bind_xsrf()
        if xsrf is not None:
            write_xsrf(headers, xsrf, state)
        if state is not None and (ids is not None or state.token is not None):
            write_id(headers, ids or self.read_ids(), state, self.sessions.logs)

"""Loads a handler's session first, and has it saved before the response leaves."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import tornado.web

from tornado_sessions.codec import Envelope
from tornado_sessions.core.inside import is_inside
from tornado_sessions.errors import (
    BackendError,
    SessionDataError,
    SessionError,
    SessionGoneError,
    SessionLimitError,
)
from tornado_sessions.frames import hide_frames
from tornado_sessions.web.sockets import SocketHandler

logger = logging.getLogger("tornado_sessions")

#: After how many seconds a client may ask again while the store is down.
RETRY_AFTER = 2


class SessionMixin(SocketHandler):
    """A request handler with a session, kept where ``session_backend`` says.

    ``class H(SessionMixin)`` and ``class H(SessionMixin, WebSocketHandler)``
    work. What is in `session` is in the store before the first byte of the
    response leaves, however the response is finished.
    """

    _store_failed = False
    _committing = False
    _waiters: tuple[asyncio.Future[None], ...] = ()
    _commit_failed = False
    _packed: Envelope | None = None
    _packed_era = 0
    _send: Callable[[], asyncio.Future[None]] | None = None

    async def prepare(self) -> None:
        """Loads the session; a request without its cookie costs no store call.

        Where the store fails, the client is answered 503 and its cookie stays
        as it is. A handler that overrides this calls
        ``await super().prepare()`` first.
        """
        sessions = self._all_sessions
        tokens: Sequence[str] = ()
        if sessions.settings.transports is not None:
            tokens = self._read_tokens(sessions.settings.transports)
        elif lines := self.request.headers.get_list("Cookie"):
            tokens = self._read_cookies(lines)
        if tokens:
            self._client_token = tokens[0]
            try:
                if len(tokens) == 1:
                    self._state = await sessions.loader.load(tokens[0])
                else:
                    self._state = await self._load_one_of(tokens)
                    self._session_loaded = True
                    self._confirm_xsrf(self._state)
            except BaseException as error:
                # They would be in this frame of the error.
                tokens, lines = (), []
                hide_frames(error)
                if not isinstance(error, BackendError):
                    raise
                self._log_error()
                self._store_failed = self._speaks = True
                self.send_error(503)
                # Nothing of a subclass is to run now.
                raise tornado.web.Finish from None
        self._session_loaded = True
        more = super().prepare()
        if more is not None:
            await more

    _own_prepare = prepare

    def get_current_user(self) -> Any:  # noqa: ANN401
        """Returns `.Session.user`.

        Returns None where an error is answered before the session was loaded.
        """
        return self.session.user

    def flush(self, include_footers: bool = False) -> asyncio.Future[None]:
        """Commits the session before the headers leave, then flushes."""
        self._refuse_inside_transact()
        if not self._headers_written:
            # With the footers it comes from finish(), and everything is committed.
            if not include_footers and self._must_commit():
                if self._committing:
                    return self._wait_for_commit()
                return self._commit_then(self._flush_committed)
            if self._state is not None or self._speaks or not self._session_loaded:
                self._write_session_headers()
        return super().flush(include_footers)

    def finish(
        self, chunk: str | bytes | dict[str, Any] | None = None
    ) -> asyncio.Future[None]:
        """Commits the session, then finishes the response."""
        self._refuse_inside_transact()
        state = self._state
        if state is not None:
            if self._status_code == 101:
                self._refuse_unsaved_id(state)
            else:
                # What is changed from now on has to be saved with save().
                state.finished_by = type(self).__name__
        if self._state is None or self._finished or not self._must_commit():
            return super().finish(chunk)
        if chunk is not None:
            self.write(chunk)
        # For the handler it is over; undone in _commit.
        self._finished = True
        return self._commit_then(super().finish)

    def redirect(
        self, url: str, permanent: bool = False, status: int | None = None
    ) -> None:
        """Redirects as Tornado does."""
        # Before it sets the status.
        self._refuse_inside_transact()
        super().redirect(url, permanent, status)

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answers a failed store with 503, and says nothing of its reasons."""
        self._refuse_inside_transact()
        error = kwargs.get("exc_info", (None, None))[1]
        if self._state is not None:
            # The response is made anew.
            self._state.finished_by = ""
        if isinstance(error, BackendError):
            # In debug mode the traceback would carry the store's own text.
            del kwargs["exc_info"]
            self._store_failed = self._speaks = True
            status_code = 503
        elif isinstance(error, SessionError) and self._state is not None:
            if isinstance(error, SessionGoneError):
                status_code = 409
            elif isinstance(error, SessionLimitError):
                status_code = 403
            elif self._state.refusal is not None:
                status_code = 400
            # It is answered; there is nothing to try again.
            self._state.discard()
        if self.settings.get("serve_traceback") and _tells_of_store(error):
            # The handler has made an error of its own of it.
            kwargs.pop("exc_info", None)
        super().send_error(status_code, **kwargs)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: types.TracebackType | None,
    ) -> None:
        """Logs an error as Tornado does, without the id that came in the URL.

        A store that fails gets one line for each request, with the driver's own
        words, and a traceback only where the logger ``tornado_sessions`` is at
        DEBUG. A login that was refused and a session that was ended elsewhere are no
        errors. A value that cannot be stored is logged with the name of the handler.
        """
        if not self._session_loaded:
            self._take_tokens()
        if isinstance(value, (SessionGoneError, SessionLimitError)):
            logger.info("%s", value)
        elif self._is_ambiguous and isinstance(value, SessionError):
            self._log_refusal(value)
        elif isinstance(value, BackendError):
            request, reason = self.request, str(value)
            if value.__cause__ is not None and str(value.__cause__) not in reason:
                reason += f" ({type(value.__cause__).__name__}: {value.__cause__})"
            logger.error(
                "503 %s %s (%s): %s",
                request.method,
                request.uri,
                request.remote_ip,
                reason,
                exc_info=logger.isEnabledFor(logging.DEBUG),
            )
        elif isinstance(value, SessionDataError) and self._commit_failed:
            request = self.request
            # No line of the handler is in the traceback.
            logger.error(
                "500 %s %s (%s): the session of %s cannot be stored: %s A handler that"
                " catches this error from save() has to remove the value or call"
                " reload().",
                request.method,
                request.uri,
                request.remote_ip,
                type(self).__name__,
                value,
                exc_info=value,
            )
        else:
            super().log_exception(typ, value, tb)

    def _log_error(self) -> None:
        """Logs the error at hand, and goes on to the answer where that fails."""
        try:
            self.log_exception(*sys.exc_info())
        except Exception:
            logger.exception("%s.log_exception() failed.", type(self).__name__)

    def _refuse_inside_transact(self) -> None:
        state = self._state
        if state is not None and state.is_transacting and is_inside(state):
            raise SessionError(
                "The function given to transact() answered the request, with finish(),"
                " flush() or what calls these: redirect(), render(), send_error(). It"
                " may run more than once. Answer after 'await self.session.transact(…)',"
                " by what the function returns."
            )

    # Committing.

    def _must_commit(self) -> bool:
        """Tells whether there is anything to commit, and packs it."""
        state = self._state
        # After a 101 Tornado takes the socket away at once: it cannot wait.
        if state is None or self._commit_failed or self._status_code == 101:
            return False
        if not (self._session_used or state.renew or self._committing):
            return False
        if self._status_code >= 500:
            state.discard()
            state.renew = False
        # Nothing may raise here that send_error() could meet. The commit finds
        # it again and answers it.
        try:
            self._packed = state.pack()
        except Exception:  # noqa: BLE001
            self._packed = None
        self._packed_era = state.generation
        return (
            self._committing
            or self._packed is not state.base
            or state.needs_new_id
            or state.renew
            or state.is_moving
            or bool(state.ended)
        )

    def _commit_then(
        self, send: Callable[[], asyncio.Future[None]]
    ) -> asyncio.Future[None]:
        # A finish() while a flush() waits: finish is what follows.
        self._send = send
        if not self._committing:
            self._committing = True
            task = self._all_sessions.tasks.start(self._commit_and_tell())
            if task.done():
                # The store has answered at once.
                return task.result()
        if self._finished:
            # A body still on its way is not for a handler that has finished. Set on
            # this handler itself, where it hides the method of its class.
            self.data_received = _ignore  # type: ignore[method-assign]
        return self._wait_for_commit()

    def _wait_for_commit(self) -> asyncio.Future[None]:
        """Answers what is done when the commit is, and sent.

        Whoever stops waiting for it does not stop the commit.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters += (waiter,)
        return waiter

    async def _commit_and_tell(self) -> asyncio.Future[None]:
        """Commits, and returns a future that is done when the response is sent."""
        failure: Exception | None = None
        sent: asyncio.Future[None] | None = None
        try:
            sent = await self._commit()
        except Exception as error:
            # Nobody may be waiting, and then nobody else would hear of it.
            logger.exception("A response could not be finished.")
            failure = error
        waiters, self._waiters = self._waiters, ()
        if sent is not None:
            # This task ends here: what is saved does not wait for a client that
            # takes its time, and neither does close().
            if waiters:
                sent.add_done_callback(functools.partial(_tell_sent, waiters))
            return sent
        _tell(waiters, failure)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        _tell((done,), failure)
        # The error's traceback leads to this frame: they would be a cycle.
        failure = None
        return done

    async def _commit(self) -> asyncio.Future[None] | None:
        """Commits and sends; every error is answered here."""
        state = self._state
        assert state is not None
        try:
            try:
                while True:
                    packed = self._packed
                    await self._all_sessions.commits.commit(
                        state, packed, self._packed_era
                    )
                    if self._packed is packed and not (
                        state.needs_new_id or state.ended
                    ):
                        break
                    # A finish() came while a flush() waited, or a verb.
            except SessionGoneError as error:
                logger.info("%s", error)
                state.discard()
                state.cookie_due = False
            except BaseException as error:
                hide_frames(error)
                self._commit_failed = True
                # send_error() calls finish() again: nothing may be left to do.
                state.discard()
                state.ended = {}
                raise
            finally:
                self._committing = self._finished = False
                # A bound method kept on its own object would be a cycle, and the
                # handler would wait for the garbage collection.
                send, self._send = self._send, None
            assert send is not None
            return send()
        except Exception:  # noqa: BLE001 - as Tornado does for a handler
            self._log_error()
            if not self._finished:
                # In a variable the traceback would be a cycle, too.
                self.send_error(500, exc_info=sys.exc_info())
            return None

    # The headers.

    def _flush_committed(self) -> asyncio.Future[None]:
        self._write_session_headers()
        return super().flush()

    def _write_session_headers(self) -> None:
        if self._store_failed:
            self.set_header("Retry-After", RETRY_AFTER)
        if not self._session_loaded:
            self._take_tokens()
        if self._id_in_url:
            self.set_header("Referrer-Policy", "no-referrer")
            self.set_header("Cache-Control", "no-store")
        state = self._state
        if state is None:
            if self._unloaded_session is not None:
                self._add_vary(getattr(self._transports, "vary", "Cookie"))
            if self._xsrf is not None:
                self._write_xsrf_cookie()
            return
        state.headers_sent = True
        if (self._sessions or self._all_sessions).settings.xsrf_keys is not None:
            self._write_xsrf_cookie()
        if self._status_code == 101:
            self._open_socket(state)
        if self._transports is not None:
            self._write_transport_headers(state, self._transports)
            if self._way != "cookie":
                return
        elif self._session_used:
            self._add_vary("Cookie")
        if state.token is None or state.token != self._client_token or state.cookie_due:
            self._write_session_cookie(state)


def _tells_of_store(error: BaseException | None) -> bool:
    """Tells whether a traceback of ``error`` repeats what a store has said."""
    pending: list[object] = [error]
    known: set[int] = set()
    while pending:
        each = pending.pop()
        if not isinstance(each, BaseException) or id(each) in known:
            continue
        if isinstance(each, BackendError):
            return True
        known.add(id(each))
        pending += [
            each.__cause__,
            None if each.__suppress_context__ else each.__context__,
        ]
        # Those of an ExceptionGroup, which Python 3.10 has not.
        members = getattr(each, "exceptions", ())
        pending += members if isinstance(members, tuple) else ()
    return False


def _tell_sent(
    waiters: Sequence[asyncio.Future[None]], sent: asyncio.Future[None]
) -> None:
    _tell(waiters, None if sent.cancelled() else sent.exception())


def _tell(
    waiters: Sequence[asyncio.Future[None]], failure: BaseException | None
) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(failure)
            # That a client hung up is no news where nobody waits.
            waiter.exception()


def _ignore(chunk: bytes) -> None:
    pass

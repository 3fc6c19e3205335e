"""Answers and logs the errors of sessions."""

from __future__ import annotations

import logging

from tornado.httputil import HTTPServerRequest

from tornado_sessions.errors import (
    BackendError,
    SessionDataError,
    SessionError,
    SessionGoneError,
    SessionLimitError,
)
from tornado_sessions.logs import SEVERAL, LimitedLog

logger = logging.getLogger("tornado_sessions")

#: After how many seconds a client may ask again while the store is down.
RETRY_AFTER = 2


def status_of(error: SessionError, is_ambiguous: bool, default: int) -> int:
    """Returns the status that an uncaught error is answered with.

    ``is_ambiguous`` is whether the request came with the ids of several sessions.
    """
    if isinstance(error, SessionGoneError):
        return 409
    if isinstance(error, SessionLimitError):
        return 403
    return 400 if is_ambiguous else default


def log_failed_store(
    error: BackendError, request: HTTPServerRequest, outcome: str = "503"
) -> None:
    """Logs one line for a request whose store has failed, with the driver's words.

    It begins with the ``outcome``. The traceback is in it where the logger
    ``tornado_sessions`` is at DEBUG.
    """
    reason = str(error)
    if error.__cause__ is not None and str(error.__cause__) not in reason:
        reason += f" ({type(error.__cause__).__name__}: {error.__cause__})"
    logger.error(
        "%s %s %s (%s): %s",
        outcome,
        request.method,
        request.uri,
        request.remote_ip,
        reason,
        exc_info=logger.isEnabledFor(logging.DEBUG),
    )


def log_bad_value(
    logs: LimitedLog, error: SessionDataError, request: HTTPServerRequest, handler: str
) -> None:
    """Logs that the commit of a response of ``handler`` met a bad value."""
    # In the message itself, so that each handler has a count of its own.
    name = handler.replace("%", "%%")
    # No line of the handler is in the traceback.
    logs.log(
        logging.ERROR,
        f"500 %s %s (%s): the session of {name} cannot be stored: %s A handler that"
        " catches this error from save() has to remove the value or call"
        " reload().",
        request.method,
        request.uri,
        request.remote_ip,
        str(error),
        most=SEVERAL,
        exc_info=error,
    )


def quotes_store(error: BaseException | None, in_traceback: bool) -> bool:
    """Whether ``error`` repeats what a store has said.

    With ``in_traceback``, also whether one does that would be in its traceback.
    """
    if isinstance(error, BackendError):
        return True
    pending: list[object] = [error] if in_traceback else []
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

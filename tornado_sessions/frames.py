"""Keeps secrets out of the tracebacks of errors.

An error tracker sends the local variables of every frame of a traceback. In the
frames of this library and of drivers these are ids, keys, records and values. So
an error that leaves a public method has the frame of that method only, and those
of the application. The complete traceback is logged as text: at DEBUG if a store
fails, and at WARNING if the error is unexpected.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any, TypeVar

from tornado.web import HTTPError

from tornado_sessions.errors import BackendError, SessionError

logger = logging.getLogger("tornado_sessions")

Function = TypeVar("Function", bound=Callable[..., Any])

_package = __name__.partition(".")[0]

# The code objects that call functions of the application, see `calls_application`.
_callers: set[types.CodeType] = set()


def hide_frames(error: BaseException) -> None:
    """Removes the frames below the caller's from the traceback of ``error``.

    The frames of a function that the application has passed are kept. The frames of
    the causes are removed as well, except those of an error that the application
    is handling.
    """
    head = error.__traceback__
    if head is None or head.tb_next is None:
        return
    kept = _frames_of_application(head)
    if kept is None:
        _log(error)
    # In place, as Python 3.10 raises it again with the traceback that it has.
    head.tb_next = kept
    if kept is None:
        _hide_causes(error)


def calls_application(function: Function) -> Function:
    """Marks a function that calls functions of the application."""
    _callers.add(function.__code__)
    return function


def hides_frames(function: Function) -> Function:
    """Hides the frames and the arguments of a public method that raises."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            try:
                return await function(*args, **kwargs)
            except BaseException as error:
                args, kwargs = (), {}
                hide_frames(error)
                raise

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                args, kwargs = (), {}
                hide_frames(error)
                raise

    # It has the signature of the function, which the two branches cannot express.
    return wrapper  # type: ignore[return-value]


def _log(error: BaseException) -> None:
    """Logs the complete traceback as text, unless the message is sufficient."""
    if isinstance(error, BackendError):
        level = logging.DEBUG
    elif isinstance(error, (SessionError, HTTPError)) or not isinstance(
        error, Exception
    ):
        return
    elif isinstance(error, (TypeError, ValueError)):
        # Mostly a wrong argument, which the message explains.
        level = logging.DEBUG
    else:
        # It is unexpected, and nothing else says where it was raised.
        level = logging.WARNING
    if logger.isEnabledFor(level):
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        logger.log(
            level, "An error in a backend or in tornado_sessions:\n%s", "".join(lines)
        )


def _frames_of_application(
    head: types.TracebackType,
) -> types.TracebackType | None:
    """Returns the part of a traceback that begins with the application's frames."""
    frame: types.TracebackType | None = head
    while frame is not None:
        inner = frame.tb_next
        if (
            inner is not None
            and frame.tb_frame.f_code in _callers
            and not _is_ours(inner.tb_frame)
        ):
            return inner
        frame = inner
    return None


def _is_ours(frame: types.FrameType) -> bool:
    name = str(frame.f_globals.get("__name__", ""))
    return name.partition(".")[0] == _package


def _hide_causes(error: BaseException) -> None:
    running: set[types.FrameType] = set()
    # Not this frame itself, which would be a cycle.
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        running.add(frame)
        frame = frame.f_back
    known = {id(error)}
    pending = [error.__cause__, error.__context__]
    while pending:
        cause = pending.pop()
        if cause is None or id(cause) in known:
            continue
        known.add(id(cause))
        trace = cause.__traceback__
        if trace is not None and trace.tb_frame in running:
            # A caller is handling it.
            continue
        cause.__traceback__ = None
        pending += [cause.__cause__, cause.__context__]

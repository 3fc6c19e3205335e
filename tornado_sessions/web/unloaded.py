"""The session of a request for which none was loaded."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

from tornado_sessions.core.rules import Rules
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.values import state_of
from tornado_sessions.errors import BackendError, SessionError
from tornado_sessions.frames import hides_frames
from tornado_sessions.session import Session


class UnloadedSession(Session[Any]):
    """The session of a request for which none was loaded.

    It is empty and can only be read, as on an error page. A change raises ``error``,
    and so does `destroy`: it is not known which session is to end.
    """

    __slots__ = ()

    def __init__(self, error: Callable[[], SessionError]) -> None:
        super().__init__(_NoStore(), _UnloadedState(error))

    @property
    def unavailable(self) -> bool:
        """True."""
        return True

    @hides_frames
    def expose_token(self) -> str:
        """Raises `.SessionError`."""
        state_of(self).require_cookie()
        return ""

    @hides_frames
    def destroy(self) -> None:
        """Raises `.SessionError`."""
        state_of(self).require_cookie()

    @hides_frames
    async def reload(self) -> None:
        """Raises `.SessionError`."""
        state_of(self).require_cookie()

    @hides_frames
    async def transact(self, function: Callable[[Session[Any]], Any]) -> Any:  # noqa: ANN401
        """Raises `.SessionError`, and does not call ``function``."""
        state_of(self).require_cookie()


def unavailable_session(handler: str) -> UnloadedSession:
    """Returns the session of a handler that goes on though the load has failed.

    ``handler`` is the name of its class. A change raises `.BackendError`.
    """
    reason = (
        "The session cannot be changed: the store failed when it was to be loaded, and"
        f" {handler} has session_optional=True, so it runs without. Until the store is"
        " back the session is empty and can only be read. Look at"
        " self.session.unavailable before a change."
    )
    return UnloadedSession(functools.partial(BackendError, reason))


def unloaded_session(status: int, handler: str, overrides: bool) -> UnloadedSession:
    """Returns the session of an error page that comes before ``prepare()``.

    Raises `RuntimeError` where ``status`` is none of an error. ``handler`` is the
    name of the handler's class, and ``overrides`` whether that has a ``prepare()``
    of its own.
    """
    if status >= 400:
        reason = (
            f"The session cannot be changed: the request was answered {status}"
            " before its session was loaded. On the page of such an error it is"
            " empty and can only be read."
        )
        return UnloadedSession(functools.partial(SessionError, reason))
    if overrides:
        raise RuntimeError(
            f"self.session is not loaded. If {handler} overrides prepare(), it must"
            " call 'await super().prepare()'. Before prepare(), as in initialize(),"
            " there is no session yet."
        )
    raise RuntimeError(
        f"self.session of {handler} is not loaded yet: prepare() does that. Use"
        " it in the methods that follow, such as get(), and not in"
        " initialize()."
    )


class _UnloadedState(SessionState):
    """Refuses every change, with ``error``."""

    __slots__ = ("error",)

    def __init__(self, error: Callable[[], SessionError]) -> None:
        super().__init__(Rules(idle_timeout=0.0, lifetime=0.0, now=float))
        self.error = error
        # Every change asks whether it can still be stored.
        self.headers_sent = True

    def require_cookie(self) -> NoReturn:
        raise self.error()

    def require_headers(self, what: str) -> NoReturn:
        raise self.error()


class _NoStore:
    """Keeps nothing."""

    def tell_lost(self, state: SessionState) -> None:
        """Does nothing: nothing can have been changed."""

    async def commit(self, state: SessionState) -> None:
        """Does nothing: nothing can have been changed."""

    async def reload(self, state: SessionState) -> None:
        state.require_cookie()

    async def transact(self, state: SessionState, function: Callable[[], Any]) -> None:
        state.require_cookie()

"""What the verbs of a session leave for the commit, and what they call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tornado_sessions.storage.backend import Version

if TYPE_CHECKING:
    from tornado_sessions.core.state import SessionState


class Ended(NamedTuple):
    """What is known of a session that a request has destroyed."""

    user: str | None = None
    #: The version of the record, if it is the one that is stored.
    version: Version = None
    #: Empty if it is not known.
    handle: str = ""


class Login(NamedTuple):
    """A sign-in of this request."""

    #: When it counts from, in seconds since the epoch.
    since: float
    #: The keys of the values that it takes along; None for all.
    keep: frozenset[str] | None


class Saver(Protocol):
    """What makes the store agree with a session."""

    def tell_lost(self, state: SessionState) -> None: ...
    async def commit(self, state: SessionState) -> None: ...
    async def reload(self, state: SessionState) -> None: ...
    async def transact(
        self, state: SessionState, function: Callable[[], Any]
    ) -> Any: ...  # noqa: ANN401

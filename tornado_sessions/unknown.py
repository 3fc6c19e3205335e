"""Sessions of which it is not known whose they are: nothing of them is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from tornado_sessions.codec import Envelope
from tornado_sessions.errors import SessionError
from tornado_sessions.session import Ended, Keeper, Session


class AmbiguousSession(Session):
    """The session of a request that came with several ids. It is empty.

    To commit a change raises `.SessionError` with ``reason``. ``found`` are the
    ids that are alive, each with its user. `destroy` ends those, and a write
    after that begins a new session. Where no id was looked up, it ends nothing.
    """

    __slots__ = ("_found",)

    def __init__(
        self, keeper: Keeper, reason: str, found: Mapping[str, str | None]
    ) -> None:
        super().__init__(keeper)
        self._refusal = reason
        self._found = found

    def destroy(self) -> None:
        """Ends all sessions that were found alive."""
        if self._refusal is not None and self._found:
            found = {token: Ended(user) for token, user in self._found.items()}
            self._ended = {**self._ended, **found}
            self._refusal = None
        super().destroy()


class UnloadedSession(Session):
    """The session of a request that was answered before one was loaded.

    It is empty and can only be read, as on an error page. A change raises
    `.SessionError` with ``reason``, and so does `destroy`: it is not known which
    session is to end.
    """

    __slots__ = ("_reason",)

    def __init__(self, reason: str) -> None:
        super().__init__(_NoStore())
        self._reason = reason
        # Every change asks whether it can still be stored.
        self._sent = True

    def destroy(self) -> None:
        """Raises `.SessionError`."""
        self._refuse()

    async def reload(self) -> None:
        """Raises `.SessionError`."""
        self._refuse()

    async def transact(self, function: Callable[[Session], Any]) -> Any:  # noqa: ANN401
        """Raises `.SessionError`, and does not call ``function``."""
        self._refuse()

    def _require_cookie(self) -> None:
        self._refuse()

    def _require_headers(self, what: str) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise SessionError(self._reason)


class _NoStore:
    """Keeps nothing, so that an error page needs neither settings nor a store."""

    revocable = True

    def now(self) -> float:
        return 0.0

    def _ends(self, envelope: Envelope) -> float:
        return 0.0

    def _timeout(self, envelope: Envelope) -> float:
        return 0.0

    def _is_persistent(self, envelope: Envelope) -> bool:
        return False

    async def commit(self, session: Session) -> None:
        """Does nothing: nothing can have been changed."""

    async def _reload(self, session: Session) -> None:
        await session.reload()

    async def _transact(
        self, session: Session, function: Callable[[Session], Any]
    ) -> Any:  # noqa: ANN401
        return await session.transact(function)

"""Sessions of which it is not known whose they are: nothing of them is stored."""

from __future__ import annotations

from collections.abc import Mapping

from tornado_sessions.session import Keeper, Session


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
            self._ended = {**self._ended, **self._found}
            self._refusal = None
        super().destroy()

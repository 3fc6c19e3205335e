"""Repeats an operation while other processes change the same record."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from tornado_sessions.errors import BackendError, ConflictError

if TYPE_CHECKING:
    from tornado_sessions.core.lane import Lane

T = TypeVar("T")

#: For how many seconds an operation keeps trying.
PATIENCE = 10.0

#: The longest pause of a process that saves a session, in seconds. It competes with
#: other processes, and not with each of their requests.
LONGEST_PAUSE = 0.005

# The first and the longest pause between two attempts otherwise, in seconds.
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


class Backoff:
    """Pauses between the attempts of one operation, longer each time.

    ``first`` and ``longest`` are in seconds.
    """

    def __init__(
        self, first: float = _FIRST_PAUSE, longest: float = _LONGEST_PAUSE
    ) -> None:
        self._deadline = time.monotonic() + PATIENCE
        self._pause, self._longest = first, longest

    @property
    def is_over(self) -> bool:
        """Whether the operation has been tried for long enough."""
        return time.monotonic() > self._deadline

    async def wait(self) -> None:
        """Waits for a random part of the pause."""
        await asyncio.sleep(random.uniform(0, self._pause))
        self._pause = min(2 * self._pause, self._longest)


def contested(error: ConflictError) -> BackendError:
    """Returns the error of an operation that has been tried for long enough."""
    failure = BackendError(
        f"The session could not be saved within {PATIENCE:.0f} s: other processes kept"
        " changing it. Store less often, or spread what changes over several sessions."
    )
    failure.__cause__ = error
    return failure


async def retry_conflicts(attempt: Callable[[], Awaitable[T]], lane: Lane) -> T:
    """Calls ``attempt`` until it raises no `.ConflictError`.

    Raises `.BackendError` if it still does after ten seconds. The caller is the holder
    of ``lane``.
    """
    backoff = Backoff(longest=LONGEST_PAUSE)
    while True:
        try:
            return await attempt()
        except ConflictError as error:
            if backoff.is_over:
                raise contested(error) from error
        lane.forget()
        with lane.aside():
            await backoff.wait()

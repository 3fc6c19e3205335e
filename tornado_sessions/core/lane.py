"""One session that is being saved, and those who wait for that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.retries import Backoff
from tornado_sessions.core.state import SessionState
from tornado_sessions.errors import ConflictError
from tornado_sessions.storage.backend import UNKNOWN, Version

#: How many seconds holders may use the store, one after the other, while one waits.
LONGEST_WAIT = 10.0

#: After how many seconds others do not wait any longer for the function of a
#: transaction, which then runs again, alone.
LONGEST_RUN = 0.01

#: How many commits are stored together at most.
MOST_TOGETHER = 1_000


class Stored(NamedTuple):
    """What the store has of a session."""

    envelope: Envelope
    version: Version


class TurnLostError(ConflictError):
    """Raised to a transaction that has to run again, alone."""


class Member:
    """A commit that waits.

    ``judged_at`` is when the session has to have been alive for it. Its caller waits
    for ``future``; if that is done, the caller has gone or knows what has become of it.
    """

    future: asyncio.Future[Any]

    def __init__(self, judged_at: float, place: int, is_use: bool = True) -> None:
        self.judged_at = judged_at
        #: What it stores restarts the idle timeout.
        self.is_use = is_use
        #: Of two members the one with the lower number has come first.
        self.place = place
        #: When it has come, in the time of the lane.
        self.joined = 0.0
        self._backoff = Backoff()
        self.future = asyncio.get_running_loop().create_future()

    @property
    def is_overdue(self) -> bool:
        """Whether other processes have been first for too long."""
        return self._backoff.is_over

    def fail(self, error: BaseException) -> None:
        """Raises ``error`` to the caller."""
        if not self.future.done():
            self.future.set_exception(error)


class Change(Member):
    """Changes of a request, from its base to ``mine``, to be stored with others.

    A change without ``mine`` extends the idle timeout, if that is due.
    """

    future: asyncio.Future[Stored]

    def __init__(self, state: SessionState, place: int, mine: Envelope | None) -> None:
        super().__init__(state.judged_at, place, state.extends)
        self.state, self.base, self.mine = state, state.base, mine


class Turn(Member):
    """Waits until its caller is the holder of the lane, and nobody beside it."""

    future: asyncio.Future[Lane]


class Run(Member):
    """A transaction, whose function runs on the changes of those before it."""

    def __init__(self, judged_at: float, place: int, is_use: bool = True) -> None:
        super().__init__(judged_at, place, is_use)
        self._outcome: asyncio.Future[Envelope | None] | None = None
        self._seen: Envelope | None = None

    def begin(self, newest: Envelope) -> asyncio.Future[Envelope | None]:
        """Tells the caller to run its function on ``newest``.

        Returns a future of what that has come to; None if it is left out.
        """
        self._seen = newest
        self._outcome = self.future.get_loop().create_future()
        self.future.set_result(newest)
        return self._outcome

    async def store(self, packed: Envelope | None) -> Stored:
        """Has ``packed`` stored, in place of what `begin` was given.

        None changes nothing, and waits until what the function has seen is stored.
        Raises `.ConflictError` if the function has to run again.
        """
        if self._outcome is None or self._outcome.done():
            raise TurnLostError("The others did not wait for the function.")
        self.future = self.future.get_loop().create_future()
        self._outcome.set_result(packed or self._seen)
        stored: Stored = await self.future
        return stored

    def leave_out(self) -> None:
        """Has the others go on without it."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)


class Lane:
    """One session that is being saved: by its holder, for whom others wait.

    The holder is one request, or the task that serves those who wait.
    """

    # Class attributes, because each commit makes a lane and seldom needs them.
    #: What the store has, and its version; None if that has to be loaded.
    newest: Envelope | None = None
    version: Version = UNKNOWN
    #: Those that are stored together right now, and how many these may be.
    batch: Sequence[Member] = ()
    most = MOST_TOGETHER
    #: The pauses after conflicts with other processes; None if the last write had none.
    backoff: Backoff | None = None
    #: The holder has lost the lane: its function has taken too long.
    is_lost = False
    #: The holder runs a function. For how many seconds others wait for that.
    is_running = False
    longest_run = LONGEST_RUN
    #: Ends the waits that take too long, and those for the function.
    timer: asyncio.TimerHandle | None = None
    run_timer: asyncio.TimerHandle | None = None

    # When the store was last known to work, and for how long it was not used, by
    # the clock of the event loop.
    _worked_at = 0.0
    _aside = 0.0
    _aside_since: float | None = None

    def __init__(self, token: str, loop: asyncio.AbstractEventLoop) -> None:
        self.token = token
        self.loop = loop
        #: In the order in which they came. None until somebody waits.
        self.waiting: list[Member] | None = None

    def note(self, newest: Envelope | None, version: Version) -> None:
        """Notes what the store has, as it has just said."""
        self.newest = None if version is UNKNOWN else newest
        self.version = version
        self._worked_at = self.time()

    def forget(self) -> None:
        """Notes that nobody knows what the store has."""
        self.newest, self.version = None, UNKNOWN

    def step_aside(self) -> None:
        """Stops the clock of all limits while the holder does not use the store."""
        self._aside_since = self.loop.time()

    def come_back(self) -> None:
        """Lets the clock go on, if it has stopped."""
        if self._aside_since is not None:
            self._aside += self.loop.time() - self._aside_since
            self._aside_since = None
            self._worked_at = self.time()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Stops the clock during the body."""
        self.step_aside()
        try:
            yield
        finally:
            self.come_back()

    def time(self) -> float:
        """Returns the time in seconds, without the time that holders spent aside."""
        now = self._aside_since
        return (self.loop.time() if now is None else now) - self._aside

    def left(self, member: Member, limit: float) -> float:
        """Returns for how many seconds a member may still wait for others."""
        since = max(member.joined, self._worked_at)
        return min(since + limit, member.joined + LONGEST_WAIT) - self.time()

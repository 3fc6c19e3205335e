"""Defines `moved_clock`, with which a test lets time pass without waiting."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Iterator

from tornado.web import Application

from tornado_sessions.sessions import Sessions


class Clock:
    """A clock that stands still until it is moved; see `moved_clock`."""

    def __init__(self, time: float) -> None:
        #: The time in seconds since the epoch.
        self.time = time

    def __call__(self) -> float:
        return self.time

    def move(self, **span: float) -> None:
        """Moves the clock by a span, given as to `~datetime.timedelta`.

        ``clock.move(minutes=31)`` moves it forward. A session that was saved more
        than five minutes ahead of the clock counts as ended, so do not move it back.
        """
        self.time += datetime.timedelta(**span).total_seconds()


@contextlib.contextmanager
def moved_clock(app: Application) -> Iterator[Clock]:
    """Gives the sessions of ``app`` a clock that the test moves, within the block.

    ::

        with moved_clock(app) as clock:
            headers = await sign_in(app, "ada")
            clock.move(minutes=31)

    All that the library does by time follows it: timeouts, the Max-Age of cookies,
    `.recent_login`, purges, the times of a session and of events. It begins at the
    present time, as a whole second, and stands still. What else reads the time does not follow it, such
    as Tornado's signed cookies, and a store that drops records by itself. An open
    WebSocket or stream is checked within ``session_socket_interval`` of real time.
    """
    sessions = Sessions.of(app)
    before = sessions.now
    # Times are stored in milliseconds, and are to be equal after that.
    clock = Clock(math.ceil(before()))
    sessions.now = clock
    try:
        yield clock
    finally:
        sessions.now = before

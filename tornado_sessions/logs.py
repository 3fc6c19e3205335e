"""Limits how often the same message is logged."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os

#: How many seconds the lines of one message are counted.
INTERVAL = 3600.0

#: How many lines of one message an interval has at most, if they are of different
#: handlers, records or errors. For others it is one.
SEVERAL = 10


class LimitedLog:
    """Logs a message at once, and counts its repetitions.

    Repetitions within ``interval`` seconds are counted, and one line at the end of
    the interval has the count. So a flood writes few lines per interval. A message
    is identified by its text before formatting, so the number of messages is
    bounded. Data from a client belongs in the arguments.
    """

    def __init__(self, logger: logging.Logger, interval: float = INTERVAL) -> None:
        self._logger = logger
        self._interval = interval
        self._waiting: dict[str, _Repeated] = {}
        # The event loop of the timers, and its process.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._told: set[str] = set()

    def log(
        self,
        level: int,
        message: str,
        *args: object,
        most: int = 1,
        exc_info: bool | BaseException = False,
    ) -> None:
        """Logs ``message``, unless it was logged ``most`` times in this interval.

        With ``exc_info`` the line has the traceback of that error, or of the current
        one. The last ``args`` are kept until the interval ends, so they are to be
        texts and numbers. There is no limit outside of an event loop.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._logger.log(level, message, *args, exc_info=exc_info)
            return
        if self._loop is not loop:
            self._enter(loop)
        repeated = self._waiting.get(message)
        if repeated is not None and repeated.logged >= most:
            repeated.count += 1
            repeated.args = args
            return
        self._logger.log(level, message, *args, exc_info=exc_info)
        if repeated is not None:
            repeated.logged += 1
            return
        self._waiting[message] = repeated = _Repeated(level)
        self._wait(loop, message, repeated)

    def once(self, level: int, message: str, *args: object) -> None:
        """Logs ``message`` at its first time only."""
        if message not in self._told:
            self._told.add(message)
            self._logger.log(level, message, *args)

    def close(self) -> None:
        """Logs the counts of all messages, and stops the timers."""
        for message, repeated in self._waiting.items():
            assert repeated.timer is not None
            repeated.timer.cancel()
            self._sum_up(message, repeated)
        self._waiting.clear()

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ends the intervals of another event loop: their timers may be dead."""
        process = os.getpid()
        if self._process != process:
            # The parent process logs its own counts.
            self._waiting.clear()
        self.close()
        self._loop, self._process = loop, process

    def _wait(
        self, loop: asyncio.AbstractEventLoop, message: str, repeated: _Repeated
    ) -> None:
        # An empty context: the timer would keep that of the first request alive.
        repeated.timer = loop.call_later(
            self._interval, self._end, message, context=contextvars.Context()
        )

    def _end(self, message: str) -> None:
        repeated = self._waiting[message]
        if not repeated.count:
            del self._waiting[message]
            return
        self._sum_up(message, repeated)
        self._wait(asyncio.get_running_loop(), message, repeated)

    def _sum_up(self, message: str, repeated: _Repeated) -> None:
        if repeated.count:
            text = f"{message} (The last of %d more since the line before.)"
            self._logger.log(repeated.level, text, *repeated.args, repeated.count)
            # That line counts as the first one of the next interval.
            repeated.count, repeated.logged, repeated.args = 0, 1, ()


class Once:
    """Remembers the last ``size`` names that it was asked about."""

    def __init__(self, size: int = 1_000) -> None:
        self._size = size
        self._names: dict[str, None] = {}

    def is_first(self, name: str) -> bool:
        """Whether ``name`` is new. It is no longer new at the next call."""
        # A name that is used again moves to the end, so it is not forgotten.
        is_new = self._names.pop(name, self) is self
        self._names[name] = None
        if len(self._names) > self._size:
            del self._names[next(iter(self._names))]
        return is_new


class _Repeated:
    """One message that was logged in this interval."""

    timer: asyncio.TimerHandle | None = None
    logged = 1
    #: How many times it was not logged.
    count = 0
    args: tuple[object, ...] = ()

    def __init__(self, level: int) -> None:
        self.level = level

"""A lock whose waiters fail when the store fails its holder, or is too slow."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import types
import weakref
from collections.abc import Callable, Iterator

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.copies import copy_error

#: How many seconds holders may use the store, one after the other, while one waits.
LONGEST_WAIT = 10.0

# How many times a wait is checked within its limit while the holder does not use the
# store.
_TICKS = 20


class StoreLock:
    """Lets one task at a time use the store for one session, in the order of arrival.

    If the holder leaves with a `.BackendError`, each waiter raises a copy of it. If
    each waiter tried for itself, the last of twenty would wait for twenty timeouts
    of a store that hangs.
    """

    __slots__ = ("__weakref__", "_held", "_waiters", "has_failed")

    def __init__(self) -> None:
        #: A holder has left with a `.BackendError`.
        self.has_failed = False
        self._held = False
        # None until somebody waits: each commit makes a lock, and a deque is slow to
        # make.
        self._waiters: collections.deque[asyncio.Future[None]] | None = None

    def take(self) -> bool:
        """Takes the lock if it is free. Returns False if it is held."""
        if self._held:
            return False
        self._held = True
        return True

    async def wait(self) -> None:
        """Waits for a lock that is held, and takes it."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = collections.deque()
        self._waiters.append(waiter)
        timer = self._limit_wait(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # It was given the lock in the same iteration of the event loop.
                self._release()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    async def __aenter__(self) -> StoreLock:
        if not self.take():
            await self.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)

    # For a caller of `take` or `wait`: on the path of each request, a coroutine to enter
    # and one to leave would cost more than the rest.

    def __enter__(self) -> StoreLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        if isinstance(error, BackendError):
            self.has_failed = True
            waiters, self._waiters = self._waiters, None
            for waiter in waiters or ():
                if not waiter.done():
                    waiter.set_exception(copy_error(error))
        self._release()

    def _limit_wait(self, waiter: asyncio.Future[None]) -> asyncio.TimerHandle | None:
        """Starts a timer that fails ``waiter``. This class has none."""
        return None

    def _release(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                # It stays held, so that no other task can take it in between.
                waiter.set_result(None)
                return
        self._held = False


class TimedLock(StoreLock):
    """A lock whose waiters fail if the store is slow, and not only if it fails.

    If a holder uses the store for ``limit`` seconds without a break, all waiters
    raise a `.BackendError`. A waiter also raises one after `LONGEST_WAIT`: with a slow
    store, the waits would add up.
    """

    __slots__ = ("_aside", "_aside_since", "_limit", "_used_since")

    def __init__(self, limit: float | None) -> None:
        super().__init__()
        self._limit = limit
        # For how long holders have not used the store, and since when one does not.
        self._aside = 0.0
        self._aside_since: float | None = None
        # Since when the holder uses the store without a break, see `_store_time`.
        self._used_since = 0.0

    async def __aenter__(self) -> TimedLock:
        await super().__aenter__()
        self._used_since = self._store_time()
        return self

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Stops the clock of all limits while the holder does not use the store."""
        loop = asyncio.get_running_loop()
        self._aside_since = loop.time()
        try:
            yield
        finally:
            self._aside += loop.time() - self._aside_since
            self._aside_since = None
            self._used_since = self._store_time()

    def _store_time(self) -> float:
        """Returns the time in seconds, without the time that holders spent aside."""
        now = self._aside_since
        if now is None:
            now = asyncio.get_running_loop().time()
        return now - self._aside

    def _limit_wait(self, waiter: asyncio.Future[None]) -> asyncio.TimerHandle | None:
        limit = self._limit
        if limit is None:
            return None
        ends = self._store_time() + LONGEST_WAIT
        delay = max(self._left(ends, limit), 0)
        return waiter.get_loop().call_later(delay, self._give_up, waiter, ends, limit)

    def _give_up(self, waiter: asyncio.Future[None], ends: float, limit: float) -> None:
        if waiter.done():
            return
        left = self._left(ends, limit)
        if left > 0:
            # While the holder is aside, the time left does not get less.
            delay = max(left, limit / _TICKS)
            waiter.get_loop().call_later(delay, self._give_up, waiter, ends, limit)
            return
        waiter.set_exception(
            BackendError(
                "The session was not saved: other requests of the same visitor came"
                " first, and the store took too long for these. Check why it is slow,"
                " or save less often."
            )
        )

    def _left(self, ends: float, limit: float) -> float:
        return min(self._used_since + limit, ends) - self._store_time()


class StoreLocks:
    """One lock for each name, for as long as anybody uses it.

    ``limit`` returns that of a new lock, None for none. The locks belong to one event
    loop: in a process that was forked from a running one, nobody would release those
    of the parent.
    """

    def __init__(self, limit: Callable[[], float | None] = lambda: None) -> None:
        self._limit = limit
        self._loop: asyncio.AbstractEventLoop | None = None
        self._locks: weakref.WeakValueDictionary[str, TimedLock] = (
            weakref.WeakValueDictionary()
        )

    def of(self, name: str) -> TimedLock:
        """Returns the lock of ``name``, the same one for all who hold it."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._locks.clear()
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = TimedLock(self._limit())
        return lock

"""A lock whose waiters fail at once when the store fails whoever holds it."""

from __future__ import annotations

import asyncio
import collections
import copy
import types
import weakref

from tornado_sessions.errors import BackendError


class StoreLock:
    """Lets one task at a time use the store for one session, in the order they came.

    When the holder leaves with a `.BackendError`, everybody who is waiting raises
    a copy of it. If each waiter tried for itself, the last of twenty would wait
    for twenty timeouts of a store that hangs. A store that is slow but works
    fails nobody.
    """

    __slots__ = ("__weakref__", "_held", "_waiters", "has_failed")

    def __init__(self) -> None:
        #: A holder has left with a `.BackendError`.
        self.has_failed = False
        self._held = False
        # None until somebody waits: each commit makes a lock, and a deque is slow to
        # make.
        self._waiters: collections.deque[asyncio.Future[None]] | None = None

    async def __aenter__(self) -> None:
        if not self._held:
            self._held = True
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = collections.deque()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # It was handed the lock in the same turn of the loop.
                self._release()
            raise

    async def __aexit__(
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
                    # A shared error would collect the tracebacks of them all.
                    waiter.set_exception(_copied(error))
        self._release()

    def _release(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                # It is held all the time, so that nobody comes in between.
                waiter.set_result(None)
                return
        self._held = False


def _copied(error: BackendError) -> BackendError:
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied


class StoreLocks:
    """One lock for each name, for as long as anybody uses it."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[str, StoreLock] = (
            weakref.WeakValueDictionary()
        )

    def of(self, name: str) -> StoreLock:
        """Returns the lock of ``name``, the same one for all who hold it."""
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = StoreLock()
        return lock

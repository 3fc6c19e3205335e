"""A lock whose waiters fail when the store fails its holder."""

from __future__ import annotations

import asyncio
import collections
import types
import weakref

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.copies import copy_error


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
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                # It was given the lock in the same iteration of the event loop.
                self._release()
            raise

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
        if self._waiters:
            self._release()
        else:
            self._held = False

    def _release(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                # It stays held, so that no other task can take it in between.
                waiter.set_result(None)
                return
        self._held = False


class StoreLocks:
    """One lock for each name, for as long as anybody uses it.

    The locks belong to one event loop: in a process that was forked from a running one,
    nobody would release those of the parent.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._locks: weakref.WeakValueDictionary[str, StoreLock] = (
            weakref.WeakValueDictionary()
        )

    def of(self, name: str) -> StoreLock:
        """Returns the lock of ``name``, the same one for all who hold it."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._locks.clear()
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = StoreLock()
        return lock

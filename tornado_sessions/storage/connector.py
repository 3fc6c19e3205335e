"""Opens a connection at its first use, once in each event loop and process."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.timeouts import Timeouts, shielded

C = TypeVar("C")

# How often this process is a fork of the one that imported this module. Reading
# it is cheaper than asking for the process id with each operation.
_forks = 0

# What the parent of this process has opened.
_inherited: list[Opened[Any]] = []


def _note_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_note_fork)


class Opened(Generic[C]):
    """What is open in one event loop of one process."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: C | None = None
    ) -> None:
        self.loop = loop
        self.forks = _forks
        self.connection = connection
        #: The task that connects.
        self.opening: asyncio.Task[C] | None = None
        #: How many operations are in progress.
        self.running = 0
        #: Is set when no operation is in progress, where `close` waits for that.
        self.idle: asyncio.Event | None = None

    def note_end(self) -> None:
        """Notes that an operation has ended."""
        self.running -= 1
        if self.idle is not None and not self.running:
            self.idle.set()
            self.idle = None

    async def wait_until_idle(self) -> None:
        """Waits for the operations in progress."""
        if self.running:
            self.idle = self.idle or asyncio.Event()
            await self.idle.wait()


class Connector(Generic[C]):
    """Opens and closes the connection of a backend.

    ``name`` is that of the store in messages. ``connect`` opens a connection,
    ``is_closed`` says whether the store has closed it, and ``dropped`` is called
    when it is no longer used. ``after_fork`` says whether a child process can
    connect while the parent is connected, and ``per_loop`` whether a connection can
    be used only in the event loop that opened it.
    """

    def __init__(
        self,
        name: str,
        timeouts: Timeouts,
        connect: Callable[[], Awaitable[C]],
        is_closed: Callable[[C], bool],
        dropped: Callable[[C], None],
        *,
        after_fork: bool,
        per_loop: bool,
    ) -> None:
        self._name = name
        self._timeouts = timeouts
        self._connect = connect
        self._is_closed = is_closed
        self._dropped = dropped
        self._after_fork = after_fork
        self._per_loop = per_loop
        self._opened: Opened[C] | None = None

    def opened(self, loop: asyncio.AbstractEventLoop) -> Opened[C]:
        """Returns what is open in the running event loop and process.

        Raises `.BackendError` in a child process that must not connect.
        """
        opened = self._opened
        if opened is None or opened.loop is not loop or opened.forks != _forks:
            opened = self._open(loop)
        return opened

    async def connected(self, opened: Opened[C]) -> C:
        """Returns a connection, and connects if there is none that is open.

        Concurrent operations wait for one attempt. A cancellation does not end it.
        """
        if opened.connection is not None and self._is_closed(opened.connection):
            self.drop(opened.connection)
        while opened.connection is None:
            opening = opened.opening
            if is_ours := opening is None:
                opening = opened.loop.create_task(self._connect_for(opened))
                opened.opening = opening
            try:
                return await shielded(opening)
            except asyncio.TimeoutError:
                # An attempt that began earlier has less time left than this operation.
                if is_ours:
                    raise
        return opened.connection

    def drop(self, connection: C) -> bool:
        """Has the next operation connect anew.

        Returns False if ``connection`` is not the one in use any more.
        """
        opened = self._opened
        if opened is None or opened.connection is not connection:
            return False
        opened.connection = None
        self._dropped(connection)
        return True

    async def close(self, disconnect: Callable[[C], Awaitable[None]]) -> None:
        """Waits for the operations in progress and disconnects.

        Each of the two has the whole timeout. What the parent process has opened is
        left to it. Raises what the driver raises.
        """
        opened = self._opened
        if opened is None or opened.forks != _forks:
            return
        loop = asyncio.get_running_loop()
        if opened.loop is not loop:
            if self._per_loop:
                return
            opened = self._open(loop)
        with contextlib.suppress(asyncio.TimeoutError):
            # Those that take longer fail when their connection is closed.
            await self._timeouts.run(opened.wait_until_idle())
        if self._opened is opened:
            self._opened = None
        if opened.opening is not None:
            # The operation that wanted it open was cancelled.
            await self._timeouts.run(shielded(opened.opening))
        connection, opened.connection = opened.connection, None
        if connection is not None:
            await self._timeouts.run(disconnect(connection))

    def _open(self, loop: asyncio.AbstractEventLoop) -> Opened[C]:
        """Replaces what was opened in another event loop or process."""
        opened = self._opened
        connection = None
        if opened is not None and opened.forks != _forks:
            is_open = opened.connection is not None or opened.opening is not None
            if is_open and not self._after_fork:
                raise BackendError(
                    f"{self._name} was in use when the process forked, so it cannot be"
                    " used in the child. Use the sessions after the fork only, or close"
                    " them before it."
                )
            # Also by the garbage collector: where a driver closes what it forgets,
            # that takes the socket out of the parent's epoll, which both share.
            _inherited.append(opened)
        elif opened is not None and not self._per_loop:
            connection = opened.connection
        # Any other connection is left to those who opened it.
        self._opened = Opened(loop, connection)
        return self._opened

    async def _connect_for(self, opened: Opened[C]) -> C:
        try:
            opened.connection = await self._timeouts.run(self._connect())
            return opened.connection
        finally:
            opened.opening = None

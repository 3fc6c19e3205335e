"""Closes the open WebSockets and streams of sessions that have ended."""

from __future__ import annotations

import asyncio
import contextvars
import random
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from tornado_sessions.core.schedule import Schedule

# How many seconds a handler has to send a last message to a socket whose session
# has ended.
_GRACE = 0.1

# A new socket is checked for the first time after this many seconds at most: its
# session may have ended between its load and the call of `Sockets.add`.
_FIRST_CHECK = 1.0

# How many sessions are loaded at once.
_AT_ONCE = 16


class Socket(Protocol):
    """An open WebSocket, or a response that stays open."""

    def stop_receiving(self) -> None: ...
    def end(self) -> None: ...


class _Watched:
    """The sockets of one session."""

    def __init__(self, handle: str) -> None:
        self.handle = handle
        # Weakly, because a handler may go away without a call of `Sockets.remove`.
        self.sockets: weakref.WeakSet[Socket] = weakref.WeakSet()


class Sockets:
    """The open WebSockets of one application, by session.

    When a session ends in this process, its sockets are closed at once; see `end`.
    For sessions that end in another process or expire, each session with an open
    socket is checked with ``is_alive`` once in ``interval`` seconds, each at a
    different time. One timer serves all sessions, and none runs while no socket is
    open.

    All of it belongs to one event loop. In another one the sockets are forgotten: they
    were closed, or belong to the process that this one is a fork of.
    """

    def __init__(
        self,
        interval: float,
        is_alive: Callable[[str], Awaitable[bool]],
        start: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        #: When each session is checked, by its token.
        self.schedule = Schedule()
        self._interval = interval
        self._is_alive = is_alive
        self._start = start
        self._watched: dict[str, _Watched] = {}
        # The tokens by handle, as a search through all sessions would be slow. There
        # are two if another process has given the session a new id.
        self._tokens: dict[str, set[str]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._checking = False
        self._loop: asyncio.AbstractEventLoop | None = None
        # How often `close` was called: it ends a check in progress.
        self._closes = 0

    def __len__(self) -> int:
        return sum(len(watched.sockets) for watched in self._watched.values())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self)} open>"

    @property
    def is_waiting(self) -> bool:
        """Whether a timer runs for the next check."""
        return self._timer is not None

    def knows(self, *, handle: str) -> bool:
        """Whether a socket of the session with this handle is open."""
        return handle in self._tokens

    def add(self, socket: Socket, token: str, handle: str) -> None:
        """Adds an open socket of the session with this token and handle."""
        self._enter_loop()
        if token not in self._watched:
            self._watched[token] = _Watched(handle)
            self._tokens.setdefault(handle, set()).add(token)
            delay = random.uniform(0, min(_FIRST_CHECK, self._interval))
            self._check_later(token, delay)
        self._watched[token].sockets.add(socket)
        self._set_timer()

    def remove(self, socket: Socket, token: str) -> None:
        """Removes a closed socket; does nothing if it is unknown."""
        watched = self._watched.get(token)
        if watched is not None:
            watched.sockets.discard(socket)
            if not watched.sockets:
                self._forget(token)
        if not self._watched:
            self._stop()

    def end(self, token: str | None = None, *, handle: str | None = None) -> None:
        """Closes the sockets of a session that has ended, after a short delay.

        They receive nothing from now on. The session is given by its token, or by its
        handle if the token is not known.
        """
        if not self._watched:
            return
        loop = self._enter_loop()
        if token is None:
            ended = [*self._tokens.get(handle or "", ())]
        else:
            ended = [token] if token in self._watched else []
        for known in ended:
            for socket in self._forget(known).sockets:
                socket.stop_receiving()
                loop.call_later(_GRACE, socket.end)

    def close(self) -> None:
        """Stops all checks until `resume` or `add`. The sockets stay open."""
        self._closes += 1
        self._checking = False
        self._stop()

    def resume(self) -> None:
        """Checks the sockets that have stayed open after `close`."""
        self._enter_loop()
        self._set_timer()

    def _enter_loop(self) -> asyncio.AbstractEventLoop:
        """Returns the running event loop. Forgets the sockets of any other."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.close()
            self._loop = loop
            self.schedule = Schedule()
            self._watched.clear()
            self._tokens.clear()
        return loop

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self, token: str) -> _Watched:
        self.schedule.remove(token)
        watched = self._watched.pop(token)
        tokens = self._tokens[watched.handle]
        tokens.remove(token)
        if not tokens:
            del self._tokens[watched.handle]
        return watched

    def _check_later(self, token: str, delay: float) -> None:
        self.schedule.set(token, asyncio.get_running_loop().time() + delay)

    def _set_timer(self) -> None:
        due = self.schedule.next()
        if self._checking or due is None:
            return
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        # An empty context: the timer would keep that of the first socket alive.
        context = contextvars.Context()
        self._timer = loop.call_at(due, self._check_now, context=context)

    def _check_now(self) -> None:
        self._timer = None
        self._checking = True
        self._start(self._check(self._closes))

    async def _check(self, closes: int) -> None:
        try:
            while self._closes == closes and (tokens := self._take_due()):
                await asyncio.gather(*map(self._check_one, tokens))
        finally:
            if self._closes == closes:
                self._checking = False
                self._set_timer()

    def _take_due(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        tokens: list[str] = []
        while not tokens and (due := self.schedule.take(now, _AT_ONCE)):
            for token in due:
                if self._watched[token].sockets:
                    tokens.append(token)
                else:
                    # The handler went away without a word.
                    self._forget(token)
        return tokens

    async def _check_one(self, token: str) -> None:
        alive = await self._is_alive(token)
        if token not in self._watched:
            return
        if alive:
            # A random delay spreads sessions that were added at the same time.
            self._check_later(token, self._interval * random.uniform(2 / 3, 1))
        else:
            self.end(token)

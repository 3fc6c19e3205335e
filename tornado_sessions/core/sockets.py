"""Closes the open WebSockets of sessions that have ended."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

# How many seconds a handler has to send a last message to a socket whose session
# has ended.
_GRACE = 0.1

# A new socket is checked for the first time after this many seconds at most: its
# session may have ended during the handshake.
_FIRST_CHECK = 1.0

# How many sessions are loaded at once.
_AT_ONCE = 16

# How many stale entries the schedule may have, in addition to twice the sessions.
_LEFT_OVER = 16


class Socket(Protocol):
    """A WebSocket handler."""

    def on_session_end(self) -> None: ...


class _Watched:
    """The sockets of one session."""

    def __init__(self, handle: str, due: float) -> None:
        self.handle = handle
        self.due = due
        # Weakly, because a handler may go away without a call of `Sockets.remove`.
        self.sockets: weakref.WeakSet[Socket] = weakref.WeakSet()


class Sockets:
    """The open WebSockets of one application, by session.

    When a session ends in this process, its sockets are closed at once; see `end`.
    For sessions that end in another process or expire, each session with an open
    socket is checked with ``is_alive`` once in ``interval`` seconds, each at a
    different time. One timer serves all sessions, and none runs while no socket is
    open.
    """

    def __init__(
        self,
        interval: float,
        is_alive: Callable[[str], Awaitable[bool]],
        start: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._interval = interval
        self._is_alive = is_alive
        self._start = start
        self._watched: dict[str, _Watched] = {}
        # The tokens by handle, as a search through all sessions would be slow. There
        # are two if another process has given the session a new id.
        self._tokens: dict[str, set[str]] = {}
        # A heap of times and tokens. An entry whose time is not that of _watched is
        # stale.
        self._schedule: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._checking = False
        self._closed = False

    def __len__(self) -> int:
        return sum(len(watched.sockets) for watched in self._watched.values())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self)} open>"

    def add(self, socket: Socket, token: str, handle: str) -> None:
        """Adds an open socket of the session with this token and handle."""
        if token not in self._watched:
            delay = random.uniform(0, min(_FIRST_CHECK, self._interval))
            self._watched[token] = _Watched(handle, 0.0)
            self._tokens.setdefault(handle, set()).add(token)
            self._look_after(token, delay)
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

        The session is given by its token, or by its handle if the token is not
        known.
        """
        if not self._watched:
            return
        if token is None:
            ended = [*self._tokens.get(handle or "", ())]
        else:
            ended = [token] if token in self._watched else []
        loop = asyncio.get_running_loop()
        for known in ended:
            for socket in self._forget(known).sockets:
                loop.call_later(_GRACE, socket.on_session_end)

    def close(self) -> None:
        """Stops all checks. The sockets stay open."""
        self._closed = True
        self._stop()

    def _stop(self) -> None:
        self._schedule.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self, token: str) -> _Watched:
        watched = self._watched.pop(token)
        tokens = self._tokens[watched.handle]
        tokens.remove(token)
        if not tokens:
            del self._tokens[watched.handle]
        return watched

    def _look_after(self, token: str, delay: float) -> None:
        due = asyncio.get_running_loop().time() + delay
        self._watched[token].due = due
        heapq.heappush(self._schedule, (due, token))
        if len(self._schedule) > 2 * len(self._watched) + _LEFT_OVER:
            # Sockets that open and close would fill it during a long interval.
            # A sorted list is a heap as well.
            counting = (entry for entry in self._schedule if self._counts(*entry))
            self._schedule = sorted(counting)

    def _counts(self, due: float, token: str) -> bool:
        """Whether an entry of the schedule is not stale."""
        watched = self._watched.get(token)
        return watched is not None and watched.due == due

    def _set_timer(self) -> None:
        if self._checking or self._closed or not self._schedule:
            return
        due = self._schedule[0][0]
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
        self._start(self._check())

    async def _check(self) -> None:
        try:
            while tokens := self._take_due():
                await asyncio.gather(*map(self._check_one, tokens))
        finally:
            self._checking = False
            self._set_timer()

    def _take_due(self) -> list[str]:
        now = asyncio.get_running_loop().time()
        tokens: list[str] = []
        while self._schedule and len(tokens) < _AT_ONCE:
            due, token = self._schedule[0]
            if due > now:
                break
            heapq.heappop(self._schedule)
            if not self._counts(due, token):
                continue
            if self._watched[token].sockets:
                tokens.append(token)
            else:
                self._forget(token)
        return tokens

    async def _check_one(self, token: str) -> None:
        alive = await self._is_alive(token)
        if token not in self._watched:
            return
        if alive:
            # A random delay spreads sessions that were added at the same time.
            self._look_after(token, self._interval * random.uniform(2 / 3, 1))
        else:
            self.end(token)

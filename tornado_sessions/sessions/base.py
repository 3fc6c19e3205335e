"""Reads the records of one application's sessions, and has the expired removed."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import time
import weakref
from collections.abc import Collection, Coroutine
from typing import Any

from tornado_sessions.backend import Record
from tornado_sessions.codec import FORMAT, Envelope, decode, encode, successor_of
from tornado_sessions.cookies import Cookie
from tornado_sessions.errors import (
    BackendError,
    ConflictError,
    SessionDataError,
    SessionGoneError,
)
from tornado_sessions.events import Listener
from tornado_sessions.expiry import is_alive, reason_of_end
from tornado_sessions.frames import hides_frames
from tornado_sessions.locks import StoreLock
from tornado_sessions.sessions.telling import TellingSessions
from tornado_sessions.sockets import Sockets
from tornado_sessions.state import SessionState
from tornado_sessions.transports import Transports
from tornado_sessions.vault import Vault
from tornado_sessions.xsrf import XSRFKeys

logger = logging.getLogger("tornado_sessions")

#: How many seconds pass between two clean-ups, give or take a third, so that
#: the processes of one store take it in turns.
PURGE_INTERVAL = 900.0

#: For how many seconds an operation keeps trying while others change the session.
PATIENCE = 10.0

#: The longest pause between two tries, in seconds.
LONGEST_PAUSE = 0.05

# How many times a session may have been given another id for an old one to lead to
# it. Each tombstone is one load.
_LONGEST_CHAIN = 256

# What a record says that has ended, until it is removed.
_ENDED = encode(Envelope(0.0, 0.0, 0.0, {}, format=FORMAT))


class BaseSessions(TellingSessions):
    """The settings, the clock and the store of all sessions of one application."""

    def __init__(
        self,
        vault: Vault,
        *,
        cookie: Cookie | None = None,
        idle_timeout: float = 24 * 3600,
        lifetime: float = 14 * 24 * 3600,
        persistent: bool = False,
        socket_interval: float = 30,
        transports: Transports | None = None,
        xsrf_keys: XSRFKeys | None = None,
        xsrf_cookie: Cookie | None = None,
        xsrf_max_age: int | None = None,
        max_per_user: int | None = None,
        max_per_user_policy: str = "oldest",
        listener: Listener | None = None,
    ) -> None:
        super().__init__(vault, listener)
        self.revocable = vault.revocable
        self.cookie = cookie or Cookie("session", {})
        self.loopback_cookie = self.cookie.on_loopback()
        self.idle_timeout = idle_timeout
        self.lifetime = lifetime
        self.persistent = persistent
        self.sockets = Sockets(socket_interval, self._is_kept, self._start)
        # None where cookies are the only way, so that this costs one test.
        self.transports = transports
        if transports is not None and transports.is_cookie_alone:
            self.transports = None
        self.xsrf_keys = xsrf_keys
        self.xsrf_cookie = xsrf_cookie or self.cookie.for_scripts("_xsrf", {})
        self.loopback_xsrf_cookie = self.xsrf_cookie.on_loopback()
        self.xsrf_max_age = xsrf_max_age
        self.max_per_user = max_per_user
        self.max_per_user_policy = max_per_user_policy
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: weakref.WeakValueDictionary[str, StoreLock] = (
            weakref.WeakValueDictionary()
        )
        self._purge_timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        store = getattr(self.vault, "backend", self.vault)
        return f"<{type(self).__name__} in {type(store).__name__}>"

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs ``work`` in a task that `close` waits for."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    @hides_frames
    async def ping(self) -> None:
        """Asks every store that a load or a save would ask whether it is there.

        That is for a readiness check. It stores nothing, and no listener is told.
        Raises `.BackendError` where a store fails or does not answer within its
        time limit.
        """
        await self.vault.ping()

    @hides_frames
    async def purge(self) -> int:
        """Removes expired sessions from the store and returns how many.

        A record is kept for five minutes after its session has ended, for the
        requests under way.
        It runs by itself every quarter of an hour once sessions are in use, and
        ends with the batch that is under way at `close`. Raises `.BackendError` if
        the store fails.
        """
        purged = 0
        while batch := await self.vault.purge(self.now()):
            purged += batch
            if self._closed:
                break
            # Between two batches requests have their turn.
            await asyncio.sleep(0)
        return purged

    @hides_frames
    async def close(self) -> None:
        """Waits for the commits under way and closes the store.

        Call it when the server has stopped and its requests have ended.
        """
        self._closed = True
        if self._purge_timer is not None:
            self._purge_timer.cancel()
            self._purge_timer = None
        self.sockets.close()
        self.limited_log.close()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.vault.close()

    # Reading.

    def _read(
        self, token: str, record: Record, now: float, judged_at: float | None = None
    ) -> Envelope | None:
        """Decodes a record. Returns None if the session has ended.

        Whether it has expired is judged by the time ``judged_at``, if that is given.
        """
        envelope = self._decode(token, record)
        if envelope is None or is_alive(envelope, self, now, judged_at):
            return envelope
        # That it was replaced while it was used is no news.
        if self.listener is not None and not envelope.successor:
            self._tell_expired(token, envelope, now if judged_at is None else judged_at)
        return None

    def _decode(self, token: str, record: Record) -> Envelope | None:
        """Decodes a record. Returns None, and logs it, if it cannot be read."""
        try:
            return decode(record.data)
        except SessionDataError:
            logger.warning(
                "The record of session %s cannot be decoded; it is treated as no"
                " session and left as it is.",
                self.vault.fingerprint(token),
            )
            if self.listener is not None:
                self._tell("refused", token, reason="undecodable")
            return None

    async def _newest(self, state: SessionState, token: str) -> tuple[Envelope, Any]:
        """Returns what the store has of a session now, and its version.

        Raises `.SessionGoneError` if the session was ended, or had expired when
        the request began.
        """
        record = await self._load(token)
        if record is not None:
            envelope = self._read(token, record, self.now(), state.judged_at)
            if envelope is not None:
                return envelope, record.version
        raise SessionGoneError(
            "The session was ended elsewhere while this request used it; what"
            " the request changed is not stored."
        )

    async def _is_kept(self, token: str) -> bool:
        """Tells whether the store still has the session; True if it is down."""
        try:
            record = await self._load(token)
            return (
                record is not None and self._read(token, record, self.now()) is not None
            )
        except BackendError:
            # Nobody is put out because of that. The requests tell of it.
            return True
        except Exception:
            logger.warning("A session could not be looked up.", exc_info=True)
            return True

    def _tell_expired(self, token: str, envelope: Envelope, now: float) -> None:
        if envelope.expires <= 0:
            # What is left of one that was ended.
            self._tell_unknown(token)
            return
        reason = reason_of_end(envelope, self, now)
        self._tell("expired", token, user=envelope.user, reason=reason)

    # Ending.

    async def _last(
        self, key: bytes, users: Collection[str | None] | None = None
    ) -> tuple[bytes, Record, Envelope] | None:
        """Returns the record under ``key``, or the last that has replaced it.

        With its key and what it holds. It may be one that has ended. With
        ``users``, only a session of one of these leads on to the next. Returns
        None if there is none, and if it cannot be decoded.
        """
        for _ in range(_LONGEST_CHAIN):
            record = await self._load_found(key)
            if record is None:
                return None
            try:
                envelope = decode(record.data)
            except SessionDataError:
                return None
            if users is not None and envelope.user not in users:
                return None
            successor = successor_of(envelope)
            if successor is None:
                return key, record, envelope
            key = successor
        raise BackendError(
            "The session cannot be ended: it has been given another id more than"
            f" {_LONGEST_CHAIN} times within minutes since the request's own. Call"
            " regenerate() less often."
        )

    async def _end_record(
        self,
        key: bytes,
        version: Any = None,  # noqa: ANN401
        users: Collection[str | None] | None = None,
        once: bool = False,
    ) -> tuple[bytes, Envelope | None] | None:
        """Ends the session under ``key``, or the one that it has become.

        ``version`` is that of the record, if it is known. The record is replaced,
        and not just removed: so no tombstone is lost, and no save or move that is
        under way brings the session back. Whoever calls this removes what is left
        with `_delete_found`. Returns the key of what it has ended, and what was
        there if that was loaded; None if there was nothing to end. Follows as
        `_last` does. With ``once``, a record of another version is left alone.
        """
        deadline, pause = time.monotonic() + PATIENCE, 0.001
        envelope: Envelope | None = None
        while True:
            if version is None:
                last = await self._last(key, users)
                if last is None:
                    return None
                key, record, envelope = last
                if envelope.expires <= 0:
                    # Somebody has ended it and may have failed to remove it.
                    await self._delete_found(key)
                    return None
                version = record.version
            try:
                await self._replace(Record(_ENDED, version, self.now()))
            except ConflictError as error:
                version = None
                if once:
                    return None
                if time.monotonic() > deadline:
                    raise BackendError(
                        f"The session could not be ended within {PATIENCE:.0f} s: other"
                        " processes kept changing it. Try again."
                    ) from error
            else:
                return key, envelope
            if not self.vault.immediate:
                await asyncio.sleep(random.uniform(0, pause))
                pause = min(2 * pause, LONGEST_PAUSE)

    # Taking turns, and the end.

    def _turn(self, token: str) -> StoreLock:
        """Returns the lock that the commits of one session wait for after a conflict."""
        lock = self._turns.get(token)
        if lock is None:
            lock = self._turns[token] = StoreLock()
        return lock

    def _ended(self, token: str | None = None, *, handle: str | None = None) -> None:
        """Tells whoever waits for it that a session has ended in this process.

        It is named by its token, or by its public handle, `.Session.id`.
        """
        self.sockets.end(token, handle=handle)

    # Clean-up.

    def _schedule_purge(self) -> None:
        loop = asyncio.get_running_loop()
        delay = PURGE_INTERVAL * random.uniform(2 / 3, 4 / 3)
        # In no context: that of the request which came first would be kept for good.
        context = contextvars.Context()
        self._purge_timer = loop.call_later(delay, self._purge_now, context=context)

    def _purge_now(self) -> None:
        self._start(self._purge_and_reschedule())

    async def _purge_and_reschedule(self) -> None:
        try:
            purged = await self.purge()
            logger.debug("%d expired sessions were removed.", purged)
        except Exception:
            logger.warning("The clean-up of expired sessions failed.", exc_info=True)
        if not self._closed:
            self._schedule_purge()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Whoever waits for the task is told; a client that hung up is no news.
            task.exception()

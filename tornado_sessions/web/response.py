"""The commit of a session, which the response waits for."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import TypeAlias

from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.state import SessionState
from tornado_sessions.errors import BackendError, SessionGoneError
from tornado_sessions.frames import hide_frames
from tornado_sessions.logs import SEVERAL
from tornado_sessions.sessions import Sessions

#: What Tornado's flush() and finish() return: done when the response is sent.
Sent: TypeAlias = "asyncio.Future[None]"


class ResponseCommit:
    """The commit that has to end before a response is sent.

    Tornado's ``finish()`` does not wait, and a commit must. So `is_due` packs the
    changes, and `start` starts a task that commits and then sends. If the store
    suspends, the caller of ``flush()`` or ``finish()`` gets a future that is done when
    the response is sent. Cancelling it does not stop the commit.
    """

    def __init__(self, sessions: Sessions, state: SessionState) -> None:
        #: The commit has begun and has not ended yet.
        self.is_pending = False
        #: The commit has failed. Its error is the response, and nothing else is
        #: committed.
        self.has_failed = False
        #: After the commit ``finish()`` is called, and not ``flush()``.
        self.finishes = False
        self._waiters: tuple[Sent, ...] = ()
        self._sessions = sessions
        self._state = state
        self._packed: Envelope | None = None
        self._generation = 0

    def is_due(self, status: int) -> bool:
        """Whether there is anything to commit in a response of ``status``.

        Packs the changes: what the handler changes later is not stored.
        """
        if self.has_failed:
            return False
        state = self._state
        if status >= 500:
            state.discard()
            if state.ended and state.store_failed and not self.is_pending:
                self.has_failed = True
                self._sessions.tasks.start(self._end_later())
                return False
        if status >= 500 or state.store_failed:
            # The response does not wait for a store that has failed already.
            state.noted_at = math.inf
        # Nothing may raise here, because send_error() may have called this. The commit
        # raises the error again, and it becomes the response.
        try:
            self._packed = state.pack()
        except Exception:  # noqa: BLE001
            self._packed = None
        self._generation = state.generation
        return (
            self.is_pending
            or self._packed is not state.base
            or state.needs_new_id
            or state.needs_renewal
            or state.is_moving
            or bool(state.ended)
        )

    def start(
        self,
        work: Callable[[ResponseCommit], Coroutine[None, None, Sent]],
        finishes: bool,
    ) -> Sent:
        """Starts ``work``: it calls `run`, sends, and returns what `end` returns.

        If the store does not suspend, returns what ``work`` has returned. If a commit
        is in progress already, that one sends the response, with ``finish()`` if
        ``finishes``.
        """
        if finishes:
            self.finishes = True
        if not self.is_pending:
            self.is_pending = True
            task = self._sessions.tasks.start(work(self))
            if task.done():
                return task.result()
        waiter: Sent = asyncio.get_running_loop().create_future()
        self._waiters += (waiter,)
        return waiter

    async def run(self) -> None:
        """Commits what was packed. Raises what `.Session.save` does.

        Does not raise if the session was ended elsewhere: the response is sent, and
        the changes are lost.
        """
        state = self._state
        try:
            while True:
                packed = self._packed
                await self._sessions.commits.commit(state, packed, self._generation)
                if self._packed is packed and not (state.needs_new_id or state.ended):
                    break
                # Meanwhile finish() was called after flush(), or a verb was.
        except SessionGoneError as error:
            self._sessions.logs.log(logging.INFO, "%s", str(error), most=SEVERAL)
            state.discard()
            state.cookie_due = False
        except BaseException as error:
            hide_frames(error)
            self.has_failed = True
            # send_error() calls finish() again, which must find nothing to commit.
            state.discard()
            state.ended = {}
            raise
        finally:
            self.is_pending = False

    async def _end_later(self) -> None:
        """Ends what was destroyed, after an error response was sent."""
        state = self._state
        with contextlib.suppress(BackendError):
            await self._sessions.commits.commit(state, state.base, state.generation)

    def end(self, sent: Sent) -> Sent:
        """Tells all who wait for the response when it is ``sent``. Returns that."""
        if self._waiters:
            waiters, self._waiters = self._waiters, ()
            # The task ends now, so that close() does not wait for a slow client.
            sent.add_done_callback(functools.partial(_pass_on, waiters))
        return sent

    def answer(self, answer_error: Callable[[], None]) -> Sent:
        """Answers the error at hand with ``answer_error``, and ends the response.

        If that raises, all who wait for the response raise it as well.
        """
        failure: Exception | None = None
        try:
            answer_error()
        except Exception as error:
            # Log it here, because perhaps nobody waits for the future.
            self._sessions.logs.log(
                logging.ERROR,
                "A response could not be finished.",
                most=SEVERAL,
                exc_info=True,
            )
            failure = error
        waiters, self._waiters = self._waiters, ()
        sent: Sent = asyncio.get_running_loop().create_future()
        _resolve((sent, *waiters), failure)
        # Its traceback refers to this frame: they would be a cycle.
        failure = None
        return sent


def _pass_on(waiters: Sequence[Sent], sent: Sent) -> None:
    _resolve(waiters, None if sent.cancelled() else sent.exception())


def _resolve(waiters: Sequence[Sent], failure: BaseException | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(failure)
            # Marks the error as seen: asyncio would log it if nobody waits.
            waiter.exception()

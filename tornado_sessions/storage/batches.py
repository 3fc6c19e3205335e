"""Sends the operations of one iteration of the event loop to a store together.

Under load, many requests are in progress at once, and each makes a round trip to
the store. `Batches` collects the operations that begin in one iteration of the
event loop, and passes them on in one call.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from tornado_sessions.storage.copies import copy_error

Q = TypeVar("Q")
R = TypeVar("R")


class NothingAppliedError(Exception):
    """A batch failed as a whole, and the store has applied no part of it.

    A plugin raises it from its driver's error. Each operation is then sent by
    itself, so only the one at fault fails.
    """


class _Waiting(Generic[Q]):
    """One operation on one key, and the futures that its callers await."""

    __slots__ = ("key", "operation", "outcomes")

    def __init__(self, key: bytes, operation: Q, outcome: asyncio.Future[Any]) -> None:
        self.key = key
        self.operation = operation
        # The result is that of the operation, or `_ALONE`. There are several if others
        # share it.
        self.outcomes = [outcome]

    def is_settled(self) -> bool:
        """Whether nobody waits any more."""
        return all(outcome.done() for outcome in self.outcomes)

    def settle(self, result: object) -> None:
        """Hands the result to those that still wait, or a copy of the error to each."""
        for outcome in self.outcomes:
            if outcome.done():
                # Its caller was cancelled after the batch had left.
                continue
            if isinstance(result, Exception):
                outcome.set_exception(copy_error(result))
            else:
                outcome.set_result(result)


# Tells a caller to run its operation itself: no other one is in its batch.
_ALONE: Any = object()


class Batches(Generic[Q, R]):
    """Collects operations for one connection, and sends them in batches.

    ``send_one`` sends a single operation, in the task of its caller. ``send_many``
    gets two operations or more, ``largest`` at most, sorted by key, each key once.
    It returns their results in the same order; an `Exception` among them is raised
    to the caller of that operation alone. ``limit`` runs a batch with a timeout.
    If ``shares``, operations on one key share one result, and otherwise the second
    one is in a later batch.

    At most ``at_once`` batches are in progress: the operations that begin meanwhile
    leave together when one ends. Where the last operation was alone, the next one
    is sent at once.
    """

    def __init__(
        self,
        send_one: Callable[[Q], Awaitable[R]],
        send_many: Callable[[Sequence[Q]], Awaitable[Sequence[R | Exception]]],
        limit: Callable[[Awaitable[None]], Awaitable[None]],
        *,
        at_once: int,
        largest: int,
        shares: bool = False,
    ) -> None:
        self._send_one = send_one
        self._send_many = send_many
        self._limit = limit
        self._at_once = at_once
        self._largest = largest
        self._shares = shares
        self._waiting: list[_Waiting[Q]] = []
        self._in_progress = 0
        self._is_scheduled = False
        # Whether the last operation to leave was in no batch.
        self._was_alone = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(self, key: bytes, operation: Q) -> R:
        """Sends an operation on ``key`` with the next batch, and returns its result.

        If the caller is cancelled before the batch has left, nothing is sent for it.
        After that the operation goes on. Raises what the driver raises, to each
        caller an exception of its own.
        """
        if self._was_alone and not (self._in_progress or self._waiting):
            self._in_progress += 1
            try:
                return await self._send_one(operation)
            finally:
                self._end()
        outcome: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(key, operation, outcome))
        if self._in_progress < self._at_once and not self._is_scheduled:
            self._schedule()
        try:
            result = await outcome
        except asyncio.CancelledError:
            if _result_of(outcome) is _ALONE:
                self._end()
            raise
        if result is not _ALONE:
            return result
        try:
            return await self._send_one(operation)
        finally:
            self._end()

    def _schedule(self) -> None:
        self._is_scheduled = True
        # In an empty context: the batch is not that of the first caller.
        loop = asyncio.get_running_loop()
        loop.call_soon(self._leave, context=contextvars.Context())

    def _leave(self) -> None:
        self._is_scheduled = False
        while self._in_progress < self._at_once and (batch := self._take()):
            self._in_progress += 1
            self._was_alone = len(batch) == 1 and len(batch[0].outcomes) == 1
            if self._was_alone:
                # Its caller sends it, so a lone operation costs no task.
                batch[0].settle(_ALONE)
            else:
                task = asyncio.get_running_loop().create_task(self._send(batch))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _end(self) -> None:
        self._in_progress -= 1
        if self._waiting and not self._is_scheduled:
            # Later in this iteration or in the next one: those whose operation has
            # ended go on before, and their next ones leave together with the others.
            self._schedule()

    def _take(self) -> list[_Waiting[Q]]:
        """Removes and returns the next batch."""
        batch: dict[bytes, _Waiting[Q]] = {}
        later = []
        for waiting in self._waiting:
            if waiting.outcomes[0].done():
                # Its caller was cancelled.
                continue
            first = batch.get(waiting.key)
            if first is None and len(batch) < self._largest:
                batch[waiting.key] = waiting
            elif first is not None and self._shares:
                first.outcomes += waiting.outcomes
            else:
                # Two writes of one key in a batch could both be told "stored".
                later.append(waiting)
        self._waiting = later
        # In one order, so that two processes which lock several rows each never wait
        # for each other.
        return [batch[key] for key in sorted(batch)]

    async def _send(self, batch: list[_Waiting[Q]]) -> None:
        try:
            await self._limit(self._send_all(batch))
        except Exception as error:  # noqa: BLE001  # each caller raises it
            for waiting in batch:
                waiting.settle(error)
        except BaseException:
            # The event loop is being closed.
            for waiting in batch:
                for outcome in waiting.outcomes:
                    outcome.cancel()
            raise
        finally:
            self._end()

    async def _send_all(self, batch: list[_Waiting[Q]]) -> None:
        if len(batch) == 1:
            await self._send_shared(batch[0])
            return
        try:
            results = await self._send_many([waiting.operation for waiting in batch])
        except NothingAppliedError:
            for waiting in batch:
                if not waiting.is_settled():
                    await self._send_shared(waiting)
        else:
            for waiting, result in list(zip(batch, results, strict=True)):
                waiting.settle(result)

    async def _send_shared(self, waiting: _Waiting[Q]) -> None:
        """Sends one operation by itself, for all callers that share it."""
        try:
            waiting.settle(await self._send_one(waiting.operation))
        except Exception as error:  # noqa: BLE001  # its caller raises it
            waiting.settle(error)


def _result_of(outcome: asyncio.Future[R]) -> R | None:
    """Returns the result, or None if there is none. An error counts as looked at."""
    if not outcome.done() or outcome.cancelled() or outcome.exception() is not None:
        return None
    return outcome.result()

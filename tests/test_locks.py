"""Tests of the lock that the commits of one session wait for."""

from __future__ import annotations

import asyncio
import gc
import traceback
import unittest
from typing import Any

import pytest

from tornado_sessions import BackendError
from tornado_sessions.core.locks import StoreLock, StoreLocks
from tornado_sessions.core.tasks import Tasks


class Holder:
    """A task that holds a lock until it is told to leave."""

    def __init__(self, lock: StoreLock) -> None:
        self.lock, self.has_it = lock, asyncio.Event()
        self.error: Exception | None = None
        self.leave = asyncio.Event()
        self.task = asyncio.ensure_future(self._hold())

    async def _hold(self) -> None:
        async with self.lock:
            self.has_it.set()
            await self.leave.wait()
            if self.error is not None:
                raise self.error


async def waiting(lock: StoreLock, count: int) -> list[Holder]:
    """Returns so many holders, of which the first one has the lock."""
    holders = [Holder(lock) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert [holder.has_it.is_set() for holder in holders] == [True] + [False] * (
        count - 1
    )
    return holders


async def leave(holder: Holder, error: Exception | None = None) -> None:
    holder.error = error
    holder.leave.set()
    await asyncio.wait([holder.task], timeout=10)


class StoreLockTest(unittest.IsolatedAsyncioTestCase):
    async def test_it_is_held_by_one_after_the_other(self) -> None:
        """In the order in which they came."""
        holders = await waiting(StoreLock(), 3)
        for number, holder in enumerate(holders):
            assert holder.has_it.is_set()
            await leave(holder)
            await asyncio.sleep(0)
            later = [each.has_it.is_set() for each in holders[number + 1 :]]
            assert later == [True, False][: len(later)]
        for holder in holders:
            holder.task.result()

    async def test_a_failing_store_may_have_an_error_of_its_own(self) -> None:
        """Behaviour 80: one that cannot be copied is raised to all that wait."""

        class PigeonError(BackendError):
            def __init__(self, pigeon: str, place: str) -> None:
                super().__init__(f"{pigeon} is lost in {place}.")

        lock = StoreLock()
        first, *others = await waiting(lock, 3)
        error = PigeonError("Coo", "Bergen")
        await leave(first, error)
        await asyncio.wait([each.task for each in [first, *others]], timeout=10)

        assert first.task.exception() is error
        assert [each.task.exception() for each in others] == [error] * 2

    async def test_a_failing_store_fails_all_that_wait(self) -> None:
        """Behaviour 80: at once, and each with an error of its own."""
        lock = StoreLock()
        first, *others = await waiting(lock, 4)
        error = BackendError("The store hangs.")
        error.__cause__ = OSError("timed out")
        await leave(first, error)
        await asyncio.wait([each.task for each in others], timeout=10)
        errors = [each.task.exception() for each in others]

        assert [str(each) for each in errors] == ["The store hangs."] * 3
        assert {type(each) for each in errors} == {BackendError}
        assert [str(each.__cause__) for each in errors if each] == ["timed out"] * 3
        assert len({id(each) for each in [error, *errors]}) == 4
        for each in errors:
            assert each is not None
            assert len(traceback.extract_tb(each.__traceback__)) < 4
        # It is free again.
        (last,) = await waiting(lock, 1)
        await leave(last)

    async def test_another_error_is_the_holders_own(self) -> None:
        """Behaviour 80: the next one has the lock."""
        first, second = await waiting(StoreLock(), 2)
        await leave(first, LookupError("of a handler"))
        await asyncio.wait_for(second.has_it.wait(), 10)
        await leave(second)

        assert isinstance(first.task.exception(), LookupError)
        second.task.result()

    async def test_who_gives_up_is_passed_over(self) -> None:
        """A handler may have a time limit of its own."""
        first, second, third = await waiting(StoreLock(), 3)
        second.task.cancel()
        await asyncio.wait([second.task])
        await leave(first)
        await asyncio.wait_for(third.has_it.wait(), 10)
        await leave(third)

        assert not second.has_it.is_set()

    async def test_who_gives_up_when_the_lock_comes_passes_it_on(self) -> None:
        """Both happen in one turn of the loop."""
        first, second, third = await waiting(StoreLock(), 3)
        first.leave.set()
        await asyncio.sleep(0)
        second.task.cancel()
        await asyncio.wait_for(third.has_it.wait(), 10)
        await leave(third)

        assert not second.has_it.is_set()

    async def test_an_error_that_nobody_waits_for_is_not_logged(self) -> None:
        """Behaviour 34: whoever gave up in the same turn of the loop is gone."""
        unretrieved: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: unretrieved.append(context)
        )
        first, second, third = await waiting(StoreLock(), 3)
        first.error = BackendError("The store hangs.")
        third.task.cancel()
        first.leave.set()
        await asyncio.sleep(0)
        second.task.cancel()
        await asyncio.wait([second.task, third.task])
        with pytest.raises(BackendError):
            await first.task
        del first, second, third
        gc.collect()

        assert unretrieved == []


class ForkTest(unittest.TestCase):
    """A process that is forked while the event loop runs has a loop of its own."""

    def setUp(self) -> None:
        self.former = asyncio.new_event_loop()
        self.addCleanup(self.former.close)

    def test_a_lock_that_the_parent_holds_is_not_waited_for(self) -> None:
        """Behaviours 67, 80: nobody would ever release it in this process."""
        locks = StoreLocks()

        async def hold() -> StoreLock:
            return await locks.of("a").__aenter__()

        async def use() -> None:
            async with locks.of("a"), locks.of("b"):
                assert locks.of("a") is locks.of("a")

        held = self.former.run_until_complete(hold())
        asyncio.run(asyncio.wait_for(use(), 10))
        self.former.run_until_complete(held.__aexit__(None, None, None))

    def test_a_task_of_the_parent_is_not_waited_for(self) -> None:
        """Behaviours 65, 67: `close` in the child would never return."""
        tasks = Tasks()

        async def start() -> asyncio.Task[Any]:
            return tasks.start(asyncio.Event().wait())

        task = self.former.run_until_complete(start())
        asyncio.run(asyncio.wait_for(tasks.wait(), 10))
        task.cancel()
        self.former.run_until_complete(tasks_end(task))


async def tasks_end(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task])

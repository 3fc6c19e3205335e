"""Tests of the timeouts that backends share."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import unittest
import weakref
from collections.abc import Awaitable
from typing import Any

from tornado_sessions.storage.timeouts import Timeouts, shielded
from tornado_sessions.testing.timers import LoopClock

#: Of the operations in the tests, in seconds. Their clock is put forward by it.
TIMEOUT = 20.0


class TimeoutsTest(unittest.IsolatedAsyncioTestCase):
    """Operations are coroutines, tasks, and futures that others set."""

    def setUp(self) -> None:
        self.timeouts = Timeouts(TIMEOUT)
        self.release = threading.Event()
        self.addCleanup(self.release.set)

    async def asyncSetUp(self) -> None:
        self.clock = LoopClock()
        self.complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self.complaints.append(context)
        )

    def works(self, seconds: float, result: object) -> list[Awaitable[object]]:
        loop = asyncio.get_running_loop()
        return [
            asyncio.sleep(seconds, result),
            asyncio.ensure_future(asyncio.sleep(seconds, result)),
            loop.run_in_executor(None, self.block, seconds, result),
        ]

    def block(self, seconds: float, result: object) -> object:
        self.release.wait(seconds)
        return result

    async def assert_times_out(self, work: Awaitable[object]) -> None:
        with self.assertRaises(asyncio.TimeoutError):
            await self.clock.outlast(self.timeouts.run(work), TIMEOUT)

    async def test_a_result_in_time_is_returned(self) -> None:
        """It is returned for each kind of operation."""
        for work in self.works(0.001, 7):
            self.assertEqual(await self.timeouts.run(work), 7)

    async def test_an_error_in_time_is_raised(self) -> None:
        """It is the operation's own."""
        error = OSError("It broke.")

        with self.assertRaises(OSError) as raised:
            await self.timeouts.run(_fail(error))

        self.assertIs(raised.exception, error)

    async def test_an_operation_that_takes_too_long_is_cancelled(self) -> None:
        """Behaviour 66: a thread goes on, and its end disturbs nobody."""
        for work in self.works(3600, 7):
            await self.assert_times_out(work)
            if isinstance(work, asyncio.Future):
                await asyncio.wait([work])
                self.assertTrue(work.cancelled())
        self.release.set()
        await asyncio.get_running_loop().shutdown_default_executor()
        await asyncio.sleep(0)

        self.assertEqual(self.complaints, [])

    async def test_each_of_many_operations_is_cancelled(self) -> None:
        """Behaviour 66: one timer serves all of them."""
        waiting = [
            asyncio.ensure_future(self.timeouts.run(_new_future())) for _ in range(10)
        ]
        await self.clock.advance(0)
        await self.clock.advance(TIMEOUT)

        for error in await asyncio.gather(*waiting, return_exceptions=True):
            self.assertIsInstance(error, asyncio.TimeoutError)

    async def test_the_caller_can_go_on_after_a_timeout(self) -> None:
        """The cancellation is spent: it does not reach what comes next."""

        async def time_out_twice() -> int:
            for _ in range(2):
                with self.assertRaises(asyncio.TimeoutError):
                    await self.timeouts.run(_new_future())

                await asyncio.sleep(0)
            task = asyncio.current_task()
            assert task is not None
            return _cancellations(task)

        going_on = asyncio.ensure_future(time_out_twice())
        while not going_on.done():
            await self.clock.advance(TIMEOUT)

        self.assertEqual(await going_on, 0)

    async def test_a_shielded_operation_goes_on(self) -> None:
        """Behaviour 66: its caller is told of the timeout, and it ends later."""
        work = asyncio.ensure_future(asyncio.sleep(3 * TIMEOUT, 7))

        await self.assert_times_out(shielded(work))

        self.assertEqual(await self.clock.outlast(work, 3 * TIMEOUT), 7)

    async def test_a_shielded_operation_returns_and_raises(self) -> None:
        """As one that is not shielded does."""
        work = asyncio.ensure_future(asyncio.sleep(0.001, 7))
        self.assertEqual(await self.timeouts.run(shielded(work)), 7)
        with self.assertRaises(OSError):
            await self.timeouts.run(shielded(asyncio.ensure_future(_fail(OSError()))))
        cancelled = asyncio.ensure_future(asyncio.sleep(30))
        cancelled.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await self.timeouts.run(shielded(cancelled))

    async def test_the_error_of_an_abandoned_shielded_operation_is_not_logged(
        self,
    ) -> None:
        """Behaviour 82: its traceback has frames with what the driver was sent."""
        go_on = asyncio.Event()

        async def fail() -> None:
            await go_on.wait()
            raise OSError

        for caller_is_cancelled in (True, False):
            go_on.clear()
            work = asyncio.ensure_future(fail())
            waiting = asyncio.ensure_future(self.timeouts.run(shielded(work)))
            await asyncio.sleep(0)
            if caller_is_cancelled:
                waiting.cancel()
            else:
                await self.clock.advance(TIMEOUT)
            await asyncio.wait([waiting])
            go_on.set()
            await asyncio.wait([work])
            waiting.cancelled() or waiting.exception()
            del work, waiting
            await asyncio.sleep(0)
            gc.collect()

            self.assertEqual(self.complaints, [])

    async def test_a_cancellation_cancels_the_operation(self) -> None:
        """Behaviour 68: nobody needs its result any more."""
        for work in (asyncio.ensure_future(asyncio.sleep(30)), _new_future()):
            waiting = asyncio.ensure_future(self.timeouts.run(work))
            await asyncio.sleep(0)
            waiting.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await waiting

            with self.assertRaises(asyncio.CancelledError):
                await work

    async def test_an_operation_that_others_cancel_is_no_timeout(self) -> None:
        """Such as one in an executor that is shut down."""
        work = _new_future()
        waiting = asyncio.ensure_future(self.timeouts.run(work))
        await asyncio.sleep(0)
        work.cancel()

        with self.assertRaises(asyncio.CancelledError):
            await waiting

    @unittest.skipIf(sys.version_info < (3, 11), "Python 3.10 counts no cancellations.")
    async def test_a_cancellation_beside_a_timeout_is_no_timeout(self) -> None:
        """Behaviour 68: a task that was cancelled learns of it, however late."""
        work = _new_future()
        work.add_done_callback(lambda _: waiting.cancel())
        waiting = asyncio.ensure_future(self.timeouts.run(work))

        with self.assertRaises(asyncio.CancelledError):
            await self.clock.outlast(waiting, TIMEOUT)

    async def test_an_operation_that_ignores_its_cancellation_is_returned(self) -> None:
        """It came after all, and its caller is not cancelled later."""
        staying = self.timeouts.run(_stay())
        self.assertEqual(await self.clock.outlast(staying, TIMEOUT), 7)
        await asyncio.sleep(0)

    async def test_an_operation_can_ask_whether_it_has_timed_out(self) -> None:
        """A cancellation by others is none, and neither is the timeout of others."""
        asked = []

        async def ask(work: Awaitable[object]) -> None:
            try:
                await work
            finally:
                asked.append(self.timeouts.is_expired())

        cancelled = asyncio.ensure_future(self.timeouts.run(ask(_new_future())))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        await self.assert_times_out(ask(_new_future()))
        await self.timeouts.run(ask(asyncio.sleep(0)))

        self.assertEqual(asked, [False, True, False])

    async def test_a_deadline_replaces_the_limit(self) -> None:
        """Behaviour 66: the time that was spent before counts."""
        late = asyncio.ensure_future(
            self.timeouts.run(_new_future(), asyncio.get_running_loop().time() + 3600)
        )

        with self.assertRaises(asyncio.TimeoutError):
            # In time for the first look at it, a twentieth of the timeout later.
            await self.clock.outlast(
                self.timeouts.run(_new_future(), 1e-9), TIMEOUT / 20
            )
        await self.assert_times_out(_new_future())

        self.assertFalse(late.done())
        late.cancel()
        await asyncio.wait([late])

    async def test_a_timeout_holds_after_a_rest(self) -> None:
        """Behaviour 66: the timer stops while nothing is pending, and starts again."""
        await self.timeouts.run(asyncio.sleep(0))
        await self.clock.advance(TIMEOUT)

        await self.assert_times_out(_new_future())

    async def test_the_context_of_the_first_caller_is_not_kept(self) -> None:
        """Behaviour 41: a request may have put anything in its context."""
        request = contextvars.ContextVar[object]("request")
        kept = Timeouts(60)

        async def first(value: object) -> None:
            request.set(value)
            await self.timeouts.run(asyncio.sleep(0))

        await asyncio.get_running_loop().create_task(first(kept))
        await asyncio.sleep(0)
        gone = weakref.ref(kept)
        del kept
        gc.collect()

        self.assertIsNone(gone())

    async def test_an_operation_that_ended_is_not_kept(self) -> None:
        """It makes no difference how it ended."""
        for result in (9, None):
            future = _new_future()
            if result is not None:
                future.set_result(result)
            await asyncio.gather(self.timeouts.run(future), return_exceptions=True)
            gone = weakref.ref(future)
            # The loop holds it until its next iteration.
            await asyncio.sleep(0)

            del future
            gc.collect()

            self.assertIsNone(gone())


class LoopsTest(unittest.TestCase):
    """One instance serves several event loops, in any order."""

    def setUp(self) -> None:
        # In these loops nothing ends before its timeout.
        self.timeouts = Timeouts(0.1)
        self.first, self.second = asyncio.new_event_loop(), asyncio.new_event_loop()
        self.addCleanup(self.first.close)
        self.addCleanup(self.second.close)

    def test_a_timeout_holds_in_each_loop(self) -> None:
        """Behaviour 66: an operation of a stopped loop is left alone."""
        abandoned = self.first.create_task(
            self.timeouts.run(self.first.create_future())
        )
        self.first.run_until_complete(asyncio.sleep(0))

        for loop in (self.second, self.first):
            with self.assertRaises(asyncio.TimeoutError):
                loop.run_until_complete(self.timeouts.run(loop.create_future()))

        self.assertFalse(abandoned.done())
        abandoned.cancel()
        self.first.run_until_complete(asyncio.wait([abandoned]))


def _cancellations(task: asyncio.Task[Any]) -> int:
    if sys.version_info >= (3, 11):
        return task.cancelling()
    return 0


async def _fail(error: Exception) -> None:
    raise error


async def _stay() -> int:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        return 7
    return 0


def _new_future() -> asyncio.Future[int]:
    return asyncio.get_running_loop().create_future()

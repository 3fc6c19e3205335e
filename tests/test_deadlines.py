"""Tests of the time limits that backends share."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sys
import threading
import unittest
import weakref
from collections.abc import Awaitable
from typing import Any
from unittest import mock

from tornado_sessions.deadlines import Deadlines


class DeadlinesTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.deadlines = Deadlines(0.1)

    async def test_an_answer_in_time_is_answered(self) -> None:
        """The waiter gets the result of the future."""
        future = _new_future()
        waiting = asyncio.ensure_future(self.deadlines.wait(future))
        await asyncio.sleep(0)

        future.set_result(7)

        self.assertEqual(await waiting, 7)

    async def test_an_error_in_time_is_raised(self) -> None:
        """It is the future's own."""
        future, error = _new_future(), OSError("It broke.")
        future.set_exception(error)

        with self.assertRaises(OSError) as raised:
            await self.deadlines.wait(future)

        self.assertIs(raised.exception, error)

    async def test_what_takes_too_long_is_ended(self) -> None:
        """Behaviour 66: each of many, and the future with its waiter."""
        futures = [_new_future() for _ in range(10)]
        waiting = (self.deadlines.wait(future) for future in futures)

        for error in await asyncio.gather(*waiting, return_exceptions=True):
            self.assertIsInstance(error, asyncio.TimeoutError)
        for future in futures:
            self.assertIsInstance(future.exception(), asyncio.TimeoutError)

    async def test_it_keeps_nothing_of_whoever_came_first(self) -> None:
        """Behaviour 41: such as what a request has put in its context."""
        request = contextvars.ContextVar[object]("request")
        context, kept = contextvars.copy_context(), Deadlines(60)
        context.run(request.set, kept)
        context.run(self.deadlines.add, _new_future())
        gone = weakref.ref(kept)
        del context, kept

        self.assertIsNone(gone())

    async def test_what_is_still_in_time_goes_on(self) -> None:
        """Each has its own deadline; one that is given takes the limit's place."""
        early, late = _new_future(), _new_future()
        self.deadlines.add(late, asyncio.get_running_loop().time() + 3600)

        with self.assertRaises(asyncio.TimeoutError):
            await self.deadlines.wait(early)

        self.assertFalse(late.done())
        self.deadlines.discard(late)

    async def test_a_deadline_that_has_passed_ends_at_the_next_look(self) -> None:
        """Behaviour 66: what an operation has spent elsewhere counts."""
        deadlines = Deadlines(4.0)
        past, now = _new_future(), _new_future()
        deadlines.add(now)
        deadlines.add(past, 1e-9)

        with self.assertRaises(asyncio.TimeoutError):
            await past

        self.assertFalse(now.done())
        deadlines.discard(past)
        deadlines.discard(now)

    async def test_nothing_is_ended_after_its_time(self) -> None:
        """Behaviour 66: where a limit lies between two looks, the first one counts."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        with mock.patch.object(loop, "time", return_value=start) as clock:
            self.deadlines.add(_new_future(), start + 3600)
            # Half of the time between two looks later.
            clock.return_value += 0.0025
            late = _new_future()
            self.deadlines.add(late)
            while clock.return_value < start + 0.1:
                self.assertFalse(late.done())
                clock.return_value += 0.005
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        self.assertIsInstance(late.exception(), asyncio.TimeoutError)

    async def test_what_is_discarded_has_no_limit(self) -> None:
        """And may be discarded twice."""
        free = _new_future()
        self.deadlines.add(free)
        self.deadlines.discard(free)
        self.deadlines.discard(free)

        with self.assertRaises(asyncio.TimeoutError):
            await self.deadlines.wait(_new_future())

        self.assertFalse(free.done())

    async def test_what_is_done_and_not_discarded_yet_harms_no_other(self) -> None:
        """Behaviour 66: an answer may come in the turn in which time is up."""
        done = _new_future()
        done.set_result(1)
        self.deadlines.add(done, 1e-9)

        with self.assertRaises(asyncio.TimeoutError):
            await self.deadlines.wait(_new_future())

        self.assertEqual(done.result(), 1)
        self.deadlines.discard(done)

    async def test_a_limit_holds_after_a_rest(self) -> None:
        """Behaviour 66: nobody looks at the time while there is nothing to do."""
        done = _new_future()
        done.set_result(1)
        await self.deadlines.wait(done)
        # Longer than until it has found nothing to do.
        await asyncio.sleep(0.02)
        self.assertIsNone(self.deadlines._loop)

        with self.assertRaises(asyncio.TimeoutError):
            await self.deadlines.wait(_new_future())

    async def test_a_cancellation_stays_one(self) -> None:
        """Behaviour 68: and the future is cancelled with its waiter."""
        future = _new_future()
        waiting = asyncio.ensure_future(self.deadlines.wait(future))
        await asyncio.sleep(0)

        waiting.cancel()

        with self.assertRaises(asyncio.CancelledError):
            await waiting
        self.assertTrue(future.cancelled())

    async def test_nothing_is_kept_of_what_is_done(self) -> None:
        """However it ended."""
        for end in (self.deadlines.wait, self.deadlines.run):
            future = _new_future()
            future.set_result(9)
            await end(future)
            gone = weakref.ref(future)

            del future

            self.assertIsNone(gone())
        late = _new_future()
        with contextlib.suppress(asyncio.TimeoutError):
            await self.deadlines.run(late)
        gone = weakref.ref(late)
        # In this turn it is the loop that holds it.
        await asyncio.sleep(0)

        del late
        gc.collect()

        self.assertIsNone(gone())


class RunTest(unittest.IsolatedAsyncioTestCase):
    """A driver answers coroutines, tasks, and futures that others set."""

    def setUp(self) -> None:
        self.deadlines = Deadlines(0.1)
        self.release = threading.Event()
        self.addCleanup(self.release.set)

    async def asyncSetUp(self) -> None:
        self.complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: self.complaints.append(context)
        )

    def works(self, seconds: float, answer: object) -> list[Awaitable[object]]:
        loop = asyncio.get_running_loop()
        return [
            asyncio.sleep(seconds, answer),
            asyncio.ensure_future(asyncio.sleep(seconds, answer)),
            loop.run_in_executor(None, self.block, seconds, answer),
        ]

    def block(self, seconds: float, answer: object) -> object:
        self.release.wait(seconds)
        return answer

    async def test_an_answer_in_time_is_answered(self) -> None:
        """Of each kind."""
        for work in self.works(0.001, 7):
            self.assertEqual(await self.deadlines.run(work), 7)

    async def test_an_error_in_time_is_raised(self) -> None:
        """It is the operation's own."""
        error = OSError("It broke.")
        with self.assertRaises(OSError) as raised:
            await self.deadlines.run(_fail(error))

        self.assertIs(raised.exception, error)

    async def test_what_takes_too_long_is_cancelled(self) -> None:
        """Behaviour 66: and the end of a thread that cannot be harms nobody."""
        for work in self.works(30, 7):
            with self.assertRaises(asyncio.TimeoutError):
                await self.deadlines.run(work)
            if isinstance(work, asyncio.Future):
                await asyncio.wait([work])
                self.assertTrue(work.cancelled())
        self.release.set()
        await asyncio.get_running_loop().shutdown_default_executor()
        await asyncio.sleep(0)

        self.assertEqual(self.complaints, [])

    async def test_an_outcome_that_is_late_comes_all_the_same(self) -> None:
        """Behaviour 66: its waiter goes, by the limit or otherwise, and it stays."""
        work = asyncio.ensure_future(asyncio.sleep(0.3, 7))
        with self.assertRaises(asyncio.TimeoutError):
            await self.deadlines.outcome(work)
        waiting = asyncio.ensure_future(self.deadlines.outcome(work))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

        self.assertEqual(await work, 7)

    async def test_a_cancellation_cancels_the_work(self) -> None:
        """Behaviour 68: it is for nobody any more."""
        for work in (asyncio.ensure_future(asyncio.sleep(30)), _new_future()):
            waiting = asyncio.ensure_future(self.deadlines.run(work))
            await asyncio.sleep(0)
            waiting.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await waiting

            with self.assertRaises(asyncio.CancelledError):
                await work

    async def test_what_others_cancel_is_not_late(self) -> None:
        """Such as an executor that is shut down."""
        work = _new_future()
        waiting = asyncio.ensure_future(self.deadlines.run(work))
        await asyncio.sleep(0)
        work.cancel()

        with self.assertRaises(asyncio.CancelledError):
            await waiting

    @unittest.skipIf(sys.version_info < (3, 11), "Python 3.10 counts no cancellations.")
    async def test_a_cancellation_as_the_time_ends_is_not_taken_for_it(self) -> None:
        """Behaviour 68: whoever cancels is to see it, however late they are."""
        work = _new_future()
        work.add_done_callback(lambda _: waiting.cancel())
        waiting = asyncio.ensure_future(self.deadlines.run(work))

        with self.assertRaises(asyncio.CancelledError):
            await waiting

    async def test_an_error_that_comes_too_late_is_not_logged(self) -> None:
        """It may say what nobody is to read, and it is nobody's any more."""
        work = asyncio.ensure_future(_fail_when_cancelled())
        with self.assertRaises(asyncio.TimeoutError):
            await self.deadlines.run(work)
        await asyncio.wait([work])
        del work
        gc.collect()

        self.assertEqual(self.complaints, [])

    async def test_what_it_cannot_end_is_refused(self) -> None:
        """A task would stop it from ending any other, and a coroutine is no future."""
        task: Any = asyncio.ensure_future(asyncio.sleep(0))
        coroutine: Any = asyncio.sleep(0)
        for work, name in ((task, "Task"), (coroutine, "coroutine")):
            with self.assertRaises(TypeError) as raised:
                self.deadlines.add(work)
            self.assertEqual(
                str(raised.exception),
                f"Deadlines ends futures that a backend makes itself, not {name}."
                " Use: await deadlines.run(…)",
            )
        coroutine.close()
        await task


async def _fail(error: Exception) -> None:
    raise error


async def _fail_when_cancelled() -> None:
    try:
        await asyncio.sleep(30)
    finally:
        raise OSError("It broke.")


class LoopsTest(unittest.TestCase):
    """It is used in one loop after another, and in the order of no one's choice."""

    def setUp(self) -> None:
        self.deadlines = Deadlines(0.1)
        self.first, self.second = asyncio.new_event_loop(), asyncio.new_event_loop()
        self.addCleanup(self.first.close)
        self.addCleanup(self.second.close)

    def test_a_limit_holds_in_each_loop(self) -> None:
        """Behaviour 66: what waited in a loop that has gone is nobody's any more."""
        abandoned = [self.first.create_future() for _ in range(2)]
        self.deadlines.add(abandoned[0])
        waiting = self.first.create_task(self.deadlines.run(abandoned[1]))
        self.first.run_until_complete(asyncio.sleep(0))

        for loop in (self.second, self.first):
            for end in (self.deadlines.wait, self.deadlines.run):
                with self.assertRaises(asyncio.TimeoutError):
                    loop.run_until_complete(end(loop.create_future()))

        for future in abandoned:
            self.assertFalse(future.done())
        waiting.cancel()
        self.first.run_until_complete(asyncio.wait([waiting]))

    def test_a_loop_that_goes_on_leaves_the_other_alone(self) -> None:
        """No future is ended out of a loop that it does not belong to."""
        self.deadlines.add(self.first.create_future())
        theirs = self.second.create_future()
        self.deadlines.add(theirs, 1e-9)

        self.first.run_until_complete(asyncio.sleep(0.02))
        self.assertFalse(theirs.done())

        with self.assertRaises(asyncio.TimeoutError):
            self.second.run_until_complete(theirs)


def _new_future() -> asyncio.Future[int]:
    return asyncio.get_running_loop().create_future()

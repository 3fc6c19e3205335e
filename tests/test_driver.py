"""Tests of the base class for backends on a client library."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import unittest
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

from tests.pigeons import KEY, Loft, Pigeon, PigeonBackend, PigeonError
from tornado_sessions.errors import (
    BackendError,
    SessionError,
)
from tornado_sessions.storage.backend import Record
from tornado_sessions.storage.driver import DriverBackend
from tornado_sessions.testing import BackendContract
from tornado_sessions.testing.timers import LoopClock

#: Of the backends of the tests, in seconds. Their clock is put forward by it.
TIMEOUT = 20.0


class PigeonContractTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """A backend on the base class passes the contract with what it must define."""

    def setUp(self) -> None:
        self.loft = Loft()

    def make_backend(self) -> PigeonBackend:
        return PigeonBackend("roof", self.loft, timeout=TIMEOUT)


class DriverBackendTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.loft = Loft()
        self.clock = LoopClock()
        self.backend = PigeonBackend("roof", self.loft, timeout=TIMEOUT)

    async def error_of(self, work: Awaitable[object]) -> str:
        """Returns the message of ``work`` that waits for the store until it times out."""
        with self.assertRaises(BackendError) as raised:
            await self.clock.outlast(work, TIMEOUT)
        return str(raised.exception)

    async def test_it_connects_at_first_use_and_once(self) -> None:
        """Operations at the same time wait for one connection."""
        self.assertEqual(self.loft.connected, 0)

        await asyncio.gather(*(self.backend.load(KEY) for _ in range(10)))

        self.assertEqual(self.loft.connected, 1)

    async def test_a_cancelled_operation_does_not_stop_the_connecting(self) -> None:
        """Behaviour 68: others wait for the same connection."""
        self.loft.answers.clear()
        first, second = (asyncio.ensure_future(self.backend.load(KEY)) for _ in "ab")
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        self.loft.answers.set()

        self.assertIsNone(await second)
        self.assertEqual(self.loft.connected, 1)

    async def test_closing_disconnects_and_the_next_use_connects_again(self) -> None:
        """A backend that was never used closes as well, and so does a closed one."""
        await self.backend.close()
        await self.backend.load(KEY)
        await self.backend.close()
        await self.backend.close()
        self.assertEqual(self.loft.disconnected, 1)

        await self.backend.load(KEY)

        self.assertEqual(self.loft.connected, 2)

    async def test_closing_succeeds_while_the_store_is_down(self) -> None:
        """There is nothing left to close."""
        await self.backend.load(KEY)
        self.loft.error = PigeonError(1, "It is gone.")

        await self.backend.close()

    async def test_closing_waits_for_the_operations_in_progress(self) -> None:
        """Behaviour 65: also for those that still connect; closing twice is allowed."""
        for closed in (0, 1):
            if closed:
                await self.backend.load(KEY)
            self.loft.answers.clear()
            loads = [asyncio.ensure_future(self.backend.load(KEY)) for _ in range(3)]
            await asyncio.sleep(0)
            closings = [asyncio.ensure_future(self.backend.close()) for _ in range(2)]
            for _ in range(5):
                await asyncio.sleep(0)
            self.assertEqual(self.loft.disconnected, closed)
            self.loft.answers.set()

            self.assertEqual(await asyncio.gather(*loads), [None] * 3)
            await asyncio.gather(*closings)

            self.assertEqual(self.loft.disconnected, closed + 1)

    async def test_closing_does_not_wait_for_operations_that_follow(self) -> None:
        """A task that never ends does not keep a process from its end."""
        ended = asyncio.Event()

        async def go_on() -> None:
            while not ended.is_set():
                await self.backend.load(KEY)

        others = [asyncio.ensure_future(go_on()) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.wait_for(self.backend.close(), 30)
        ended.set()
        await asyncio.gather(*others)

        self.assertEqual(self.loft.disconnected, 1)

    async def test_closing_waits_for_a_connection_that_nobody_wants(self) -> None:
        """The operation that began to connect was cancelled."""
        load = asyncio.ensure_future(self.backend.load(KEY))
        await asyncio.sleep(0)
        load.cancel()
        await asyncio.wait([load])

        await self.backend.close()

        self.assertEqual((self.loft.connected, self.loft.disconnected), (1, 1))

    async def test_an_error_of_the_driver_is_the_cause(self) -> None:
        """Behaviour 31: the message has the driver's text, for the log."""
        self.loft.error = PigeonError(1, "it rained")

        with self.assertRaises(BackendError) as raised:
            await self.backend.load(KEY)

        self.assertIs(raised.exception.__cause__, self.loft.error)
        self.assertEqual(str(raised.exception), "The loft 'roof' failed: it rained.")

    async def test_an_error_comes_with_advice_by_its_code_or_by_a_word(self) -> None:
        """A message says what to do."""
        for error, advice in (
            (PigeonError(13, "not allowed"), "Grant it the roof."),
            (PigeonError(1, "there are no seeds left"), "Feed them."),
        ):
            self.loft.error = error

            with self.assertRaises(BackendError) as raised:
                await self.backend.delete(KEY)

            self.assertTrue(str(raised.exception).endswith(advice))

    async def test_each_operation_has_a_timeout(self) -> None:
        """Behaviour 66: connecting and closing have it, too."""
        record = Record(b"x")
        for begin in (
            lambda: self.backend.load(KEY),
            lambda: self.backend.insert(KEY, record),
            lambda: self.backend.replace(KEY, record, 1),
            lambda: self.backend.delete(KEY),
            lambda: self.backend.purge(0),
        ):
            for connected in (False, True):
                if connected:
                    self.loft.answers.set()
                    await self.backend.load(KEY)
                self.loft.answers.clear()

                self.assertEqual(
                    await self.error_of(begin()),
                    "The loft 'roof' did not answer within 20 seconds. Check that it"
                    " runs and can be reached, or raise the option 'timeout'.",
                )
        self.loft.answers.set()
        await self.backend.load(KEY)
        self.loft.answers.clear()
        closing = self.clock.outlast(self.backend.close(), TIMEOUT)
        await asyncio.wait_for(closing, 2 * TIMEOUT)

    async def test_a_timeout_of_the_driver_is_reported_as_one(self) -> None:
        """Behaviour 66: the advice is the same, and the driver's error the cause."""
        self.loft.error = PigeonError(110, "too late")

        with self.assertRaises(BackendError) as raised:
            await self.backend.load(KEY)

        self.assertEqual(
            str(raised.exception),
            "The loft 'roof' did not answer within 20 seconds. Check that it runs and"
            " can be reached, or raise the option 'timeout'.",
        )
        self.assertIs(raised.exception.__cause__, self.loft.error)

    async def test_a_message_is_made_with_the_connection_that_failed(self) -> None:
        """A driver may know more about it. There is none until it is connected."""
        explained = []

        class Talkative(PigeonBackend):
            def explain(self, error: Exception, connection: Pigeon | None) -> str:
                explained.append(connection)
                return super().explain(error, connection)

        backend = Talkative("roof", self.loft, timeout=TIMEOUT)
        self.loft.error = PigeonError(1, "it rained")
        with self.assertRaises(BackendError):
            await backend.load(KEY)
        self.loft.error = None
        await backend.load(KEY)
        self.loft.answers.clear()
        await self.error_of(backend.load(KEY))

        self.assertIsNone(explained[0])
        self.assertIsInstance(explained[1], Pigeon)

    async def test_a_broken_connection_is_not_used_again(self) -> None:
        """Behaviour 68: after a timeout and after a cancellation."""
        await self.backend.load(KEY)
        self.loft.answers.clear()
        await self.error_of(self.backend.load(KEY))
        self.loft.answers.set()
        await self.backend.load(KEY)
        self.assertEqual(self.loft.connected, 2)
        self.loft.answers.clear()
        cancelled = asyncio.ensure_future(self.backend.load(KEY))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        self.loft.answers.set()

        await self.backend.load(KEY)

        self.assertEqual(self.loft.connected, 3)

    async def test_a_good_connection_is_used_again_after_an_error(self) -> None:
        """What the store refuses is not the connection's fault."""
        await self.backend.load(KEY)
        self.loft.error = PigeonError(1, "it rained")
        with contextlib.suppress(BackendError):
            await self.backend.load(KEY)
        self.loft.error = None

        await self.backend.load(KEY)

        self.assertEqual(self.loft.connected, 1)

    async def test_an_operation_can_drop_its_connection(self) -> None:
        """It is dropped once, and the next operation connects."""
        dropped: list[Pigeon] = []

        class Dropping(PigeonBackend):
            def dropped(self, connection: Pigeon) -> None:
                dropped.append(connection)

        backend = Dropping("roof", self.loft, timeout=TIMEOUT)
        self.assertFalse(backend.drop(Pigeon(self.loft)))
        connection = await backend.connection()

        self.assertTrue(backend.drop(connection))
        self.assertFalse(backend.drop(connection))

        self.assertEqual(dropped, [connection])
        self.assertIsNot(await backend.connection(), connection)
        self.assertEqual(self.loft.connected, 2)

    async def test_an_operation_can_say_what_it_waited_for(self) -> None:
        """Behaviour 66: it knows its timeout from a cancellation by others."""

        class Saying(PigeonBackend):
            async def load_from(self, connection: Pigeon, key: bytes) -> Record | None:
                try:
                    return await super().load_from(connection, key)
                except asyncio.CancelledError:
                    if self.has_timed_out():
                        raise PigeonError(1, "it rained") from None
                    raise

        backend = Saying("roof", self.loft, timeout=TIMEOUT)
        await backend.load(KEY)
        self.assertFalse(backend.has_timed_out())
        self.loft.answers.clear()

        cancelled = asyncio.ensure_future(backend.load(KEY))
        await asyncio.sleep(0)
        cancelled.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await cancelled
        # The cancelled operation has broken the connection.
        self.loft.answers.set()
        await backend.connection()
        self.loft.answers.clear()

        self.assertEqual(
            await self.error_of(backend.load(KEY)),
            "The loft 'roof' failed: it rained.",
        )

    async def test_a_timeout_comes_with_the_advice_of_the_backend(self) -> None:
        """Where that which fits most stores does not fit."""

        class Advising(PigeonBackend):
            timeout_advice = "Look out of the window."

        self.loft.answers.clear()
        backend = Advising("roof", self.loft, timeout=TIMEOUT)

        self.assertEqual(
            await self.error_of(backend.load(KEY)),
            "The loft 'roof' did not answer within 20 seconds. Look out of the window.",
        )

    async def test_a_failed_connecting_is_tried_again(self) -> None:
        """Behaviour 66: by the next operation, and its error is logged by nobody."""
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: complaints.append(context)
        )
        self.loft.error = PigeonError(1, "it rained")
        with self.assertRaises(BackendError):
            await self.backend.load(KEY)
        self.loft.error = None

        self.assertIsNone(await self.backend.load(KEY))
        gc.collect()
        self.assertEqual(complaints, [])

    async def test_another_version_is_a_conflict(self) -> None:
        """Behaviour 6: an existing key is one, too."""
        await self.backend.insert(KEY, Record(b"x"))

        for version in (None, 99):
            self.assertIsNone(await self.backend.replace(KEY, Record(b"y"), version))

    async def test_finding_has_a_timeout_for_each_page(self) -> None:
        """Behaviour 66: a page that does not come is an error."""
        for number in range(3):
            await self.backend.insert(bytes([number]) * 32, Record(b"x", user="ada"))
        found = self.backend.find("ada")
        await anext(found)
        await anext(found)
        self.loft.answers.clear()

        await self.error_of(anext(found))

    async def test_finding_ends_at_once_when_the_caller_ends_it(self) -> None:
        """What a driver keeps open for it is closed, though the store hangs."""
        for number in range(3):
            await self.backend.insert(bytes([number]) * 32, Record(b"x", user="ada"))
        for hangs in (False, True):
            found = self.backend.find("ada")
            await anext(found)
            self.assertEqual(self.loft.finding, 1)
            if hangs:
                self.loft.answers.clear()

            assert isinstance(found, AsyncGenerator)
            await self.clock.outlast(found.aclose(), TIMEOUT)

            self.assertEqual(self.loft.finding, 0)

    async def test_a_store_that_cannot_find_says_so(self) -> None:
        """The default raises what the contract wants."""

        class Other(PigeonBackend):
            find_in = DriverBackend.find_in

        with self.assertRaises(SessionError) as raised:
            await anext(Other("roof", self.loft).find("ada"))

        self.assertEqual(
            str(raised.exception), "Other cannot look up the sessions of a user."
        )

    async def test_a_repr_shows_the_address(self) -> None:
        """It is what messages show as well."""
        self.assertEqual(repr(self.backend), "<PigeonBackend 'roof'>")


class OptionsTest(unittest.TestCase):
    def test_the_options_of_a_url_are_read(self) -> None:
        """The backend's own beside those that every backend has."""
        backend = PigeonBackend.from_url("pigeon:?timeout=3&max_bytes=9&colour=x", {})

        self.assertEqual((backend.timeout, backend.max_bytes), (3.0, 9))

    def test_an_unknown_option_is_refused(self) -> None:
        """The message lists the options."""
        with self.assertRaises(ValueError) as raised:
            PigeonBackend.from_url("pigeon:?seeds=1", {})

        self.assertIn("'colour', 'timeout', 'max_bytes'", str(raised.exception))

    def test_values_that_are_not_above_zero_are_refused(self) -> None:
        """Behaviour 89: the message names the option, and does not repeat the value."""
        for options, message in (
            (
                {"timeout": 0.0},
                "The option 'timeout' must be a finite number of seconds above 0.",
            ),
            (
                {"timeout": float("inf")},
                "The option 'timeout' must be a finite number of seconds above 0.",
            ),
            (
                {"max_bytes": 0},
                "The option 'max_bytes' must be a number above 0.",
            ),
        ):
            with self.assertRaises(ValueError) as raised:
                PigeonBackend("roof", Loft(), **options)

            self.assertEqual(str(raised.exception), message)


class LoopsTest(unittest.TestCase):
    def test_each_event_loop_has_its_connection(self) -> None:
        """A connection of a loop that has gone is not used, and not closed."""
        loft = asyncio.run(_new_loft())
        backend = PigeonBackend("roof", loft, timeout=TIMEOUT)

        for _ in range(2):
            asyncio.run(backend.load(KEY))

        self.assertEqual((loft.connected, loft.disconnected), (2, 0))

    def test_closing_in_another_loop_leaves_the_connection_alone(self) -> None:
        """It cannot be closed from there."""
        loft = asyncio.run(_new_loft())
        backend = PigeonBackend("roof", loft, timeout=TIMEOUT)
        asyncio.run(backend.load(KEY))

        asyncio.run(backend.close())

        self.assertEqual(loft.disconnected, 0)

    def test_a_connection_may_be_good_for_all_event_loops(self) -> None:
        """Such as one that is served by a thread."""
        loft = asyncio.run(_new_loft())
        backend = Threaded("roof", loft, timeout=TIMEOUT)

        for _ in range(2):
            asyncio.run(backend.load(KEY))
        asyncio.run(backend.close())

        self.assertEqual((loft.connected, loft.disconnected), (1, 1))


class Threaded(PigeonBackend):
    """Its driver does not care which event loop it is used in."""

    opens_per_loop = False

    async def connect(self) -> Pigeon:
        await super().connect()
        return AnywherePigeon(self.loft)


class AnywherePigeon(Pigeon):
    async def fly(self) -> dict[bytes, tuple[int, bytes, str | None, float]]:
        self.loop = asyncio.get_running_loop()
        return await super().fly()


class ForkTest(unittest.TestCase):
    def test_a_child_connects_anew(self) -> None:
        """Behaviour 67: the connection of the parent stays the parent's."""
        self.assertEqual(_in_child(PigeonBackend), "2 connected")

    def test_a_store_that_cannot_be_shared_by_a_fork_says_so(self) -> None:
        """Behaviour 67: where two processes would harm each other's connection."""

        message = (
            "The loft 'roof' was in use when the process forked, so it cannot be used"
            " in the child. Use the sessions after the fork only, or close them before"
            " it."
        )

        self.assertEqual(_in_child(Shy), message)
        self.assertEqual(_in_child(Shy, closes_in_child=True), message)

    def test_a_store_that_cannot_be_shared_may_be_closed_before_the_fork(self) -> None:
        """Behaviour 67: it may fail before it as well: nothing is open then."""
        self.assertEqual(_in_child(Shy, closes_in_parent=True), "2 connected")
        self.assertEqual(_in_child(Shy, fails_in_parent=True), "1 connected")


class Shy(PigeonBackend):
    opens_after_fork = False


def _in_child(
    kind: type[PigeonBackend],
    *,
    closes_in_parent: bool = False,
    closes_in_child: bool = False,
    fails_in_parent: bool = False,
) -> str:
    """Returns what a forked child meets whose parent has used the backend."""
    loft = asyncio.run(_new_loft())
    backend = kind("roof", loft, timeout=TIMEOUT)
    if fails_in_parent:
        loft.error = PigeonError(1, "it rained")
    asyncio.run(_use(backend, closes_in_parent))
    loft.error = None
    ours, theirs = multiprocessing.get_context("fork").Pipe()

    def child() -> None:
        try:
            if closes_in_child:
                asyncio.run(backend.close())
            asyncio.run(backend.load(KEY))
            theirs.send(f"{loft.connected} connected")
        except BackendError as error:
            theirs.send(str(error))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    text: str = ours.recv()
    process.join()
    return text


async def _use(backend: PigeonBackend, closes: bool) -> None:
    with contextlib.suppress(BackendError):
        await backend.load(KEY)
    if closes:
        await backend.close()


async def _new_loft() -> Loft:
    return Loft()

"""Tests of a backend on `DriverBackend` that sends its operations in batches."""

from __future__ import annotations

import asyncio
import unittest
from collections.abc import Sequence

from tests.pigeons import Loft, Pigeon, PigeonBackend, PigeonError
from tornado_sessions import BackendError, NothingAppliedError, Record, Version, Write
from tornado_sessions.testing import BackendContract
from tornado_sessions.testing.timers import LoopClock

KEYS = [bytes([letter]) * 32 for letter in b"abcde"]


class FlockBackend(PigeonBackend):
    """Notes how many operations it is given together."""

    def __init__(self, address: str, loft: Loft, **options: float) -> None:
        super().__init__(address, loft, **options)
        self.batches: list[int] = []
        self.alone = 0
        self.applies_nothing = False
        self.failing: set[bytes] = set()

    async def load_from(self, connection: Pigeon, key: bytes) -> Record | None:
        self.alone += 1
        if key in self.failing:
            raise PigeonError(13, "not this one")
        return await super().load_from(connection, key)

    async def load_many(
        self, connection: Pigeon, keys: Sequence[bytes]
    ) -> Sequence[Record | Exception | None]:
        self.batches.append(len(keys))
        notes = await connection.fly()
        if self.applies_nothing:
            raise NothingAppliedError
        return [
            PigeonError(13, "not this one")
            if key in self.failing
            else Record(notes[key][1], notes[key][0])
            if key in notes
            else None
            for key in keys
        ]

    async def write_many(
        self, connection: Pigeon, writes: Sequence[Write]
    ) -> Sequence[Version | Exception | None]:
        self.batches.append(len(writes))
        outcomes: list[Version | Exception | None] = []
        for key, record, version in writes:
            if record is None:
                await self.delete_from(connection, key)
                outcomes.append(None)
            elif version is None:
                outcomes.append(await self.insert_into(connection, key, record))
            else:
                outcomes.append(await self.replace_in(connection, key, record, version))
        return outcomes


class FlockContractTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """A backend that sends batches passes the contract."""

    def setUp(self) -> None:
        self.loft = Loft()

    def make_backend(self) -> FlockBackend:
        return FlockBackend("roof", self.loft, timeout=20)


class BatchesOfABackendTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.loft = Loft()
        self.backend = FlockBackend("roof", self.loft, timeout=20)
        # After a lone operation, the next one does not wait for others.
        await asyncio.gather(*map(self.backend.load, KEYS))
        self.backend.batches, self.backend.alone = [], 0

    async def load_all(self) -> list[Record | BaseException | None]:
        loads = map(self.backend.load, KEYS)
        return await asyncio.gather(*loads, return_exceptions=True)

    async def test_loads_that_begin_together_are_one_batch(self) -> None:
        """And writes another."""
        await asyncio.gather(*(self.backend.insert(key, Record(key)) for key in KEYS))
        loaded = await self.load_all()

        self.assertEqual([r.data for r in loaded if isinstance(r, Record)], KEYS)
        self.assertEqual(self.backend.batches, [5, 5])
        self.assertEqual(self.backend.alone, 0)

    async def test_a_lone_load_is_no_batch(self) -> None:
        """It goes to `load_from`."""
        await self.backend.load(KEYS[0])

        self.assertEqual((self.backend.batches, self.backend.alone), ([], 1))

    async def test_a_failure_of_one_is_told_with_advice_to_that_one(self) -> None:
        """Behaviour 31: as that of a lone operation is."""
        self.backend.failing.add(KEYS[2])
        loaded = await self.load_all()

        self.assertEqual(
            list(map(repr, loaded)),
            [
                repr(
                    BackendError(
                        "The loft 'roof' failed: not this one. Grant it the roof."
                    )
                )
                if key == KEYS[2]
                else "None"
                for key in KEYS
            ],
        )

    async def test_a_failure_of_all_is_told_to_each(self) -> None:
        """Behaviour 30: each gets an error of its own, with the driver's as its cause."""
        self.loft.error = PigeonError(1, "it rained")
        loaded = await self.load_all()

        self.assertEqual({type(error) for error in loaded}, {BackendError})
        self.assertEqual(len({id(error) for error in loaded}), 5)
        for error in loaded:
            assert isinstance(error, BackendError)
            self.assertEqual(str(error), "The loft 'roof' failed: it rained.")
            self.assertIsInstance(error.__cause__, PigeonError)
        self.assertEqual((self.backend.batches, self.backend.alone), ([5], 0))

    async def test_a_batch_of_which_nothing_was_applied_is_sent_one_by_one(
        self,
    ) -> None:
        """So one operation at fault fails no other."""
        self.backend.applies_nothing = True
        self.backend.failing.add(KEYS[2])
        loaded = await self.load_all()

        self.assertEqual([type(r) for r in loaded].count(BackendError), 1)
        self.assertEqual((self.backend.batches, self.backend.alone), ([5], 5))

    async def test_a_batch_that_hangs_ends_with_the_timeout(self) -> None:
        """Behaviour 66: and the next operation connects anew."""
        self.loft.answers.clear()
        loaded = await LoopClock().outlast(self.load_all(), 20)
        self.loft.answers.set()

        for error in loaded:
            self.assertIn("did not answer within 20 seconds", str(error))
        self.assertIsNone(await self.backend.load(KEYS[0]))
        self.assertEqual(self.loft.connected, 2)

    async def test_closing_waits_for_the_batches(self) -> None:
        """Behaviour 65: also for those that have not left."""
        loads = [asyncio.ensure_future(self.backend.load(key)) for key in KEYS]
        await asyncio.sleep(0)
        await self.backend.close()

        self.assertEqual(await asyncio.gather(*loads), [None] * 5)
        self.assertEqual((self.loft.connected, self.loft.disconnected), (1, 1))

    async def test_closing_waits_for_a_batch_whose_callers_have_gone(self) -> None:
        """Behaviour 65: nothing of it is left to do after that."""
        self.loft.answers.clear()
        loads = [asyncio.ensure_future(self.backend.load(key)) for key in KEYS]
        for _ in range(10):
            await asyncio.sleep(0)
        self.assertEqual(self.backend.batches, [5])
        for load in loads:
            load.cancel()
        await asyncio.wait(loads)
        closing = asyncio.ensure_future(self.backend.close())
        for _ in range(10):
            await asyncio.sleep(0)
        self.assertFalse(closing.done())
        self.loft.answers.set()
        await closing

        self.assertEqual(asyncio.all_tasks(), {asyncio.current_task()})

    async def test_more_than_the_largest_batch_are_several(self) -> None:
        """So no statement grows without limit."""
        backend = FlockBackend("roof", self.loft, timeout=20)
        await asyncio.gather(*map(backend.load, KEYS))
        keys = [number.to_bytes(32, "big") for number in range(250)]
        await asyncio.gather(*map(backend.load, keys))

        self.assertEqual(backend.batches, [5, 100, 100, 50])

    async def test_a_batch_of_long_records_has_fewer(self) -> None:
        """Behaviour 70: 8 MiB at the most."""
        backend = FlockBackend("roof", self.loft, timeout=20, max_bytes=4 * 2**20)
        await asyncio.gather(*map(backend.load, KEYS))

        self.assertEqual((backend.batches, backend.alone), ([2, 2], 1))


class LoopsTest(unittest.TestCase):
    def test_a_batch_of_a_loop_that_has_gone_holds_up_nobody(self) -> None:
        """Behaviour 67: its operations went with it."""
        loft = asyncio.run(_new_loft())
        backend = FlockBackend("roof", loft, timeout=20)

        async def begin() -> None:
            await backend.ping()
            loft.answers.clear()
            loads = [asyncio.ensure_future(backend.load(key)) for key in KEYS]
            for _ in range(10):
                await asyncio.sleep(0)
            self.assertFalse(any(load.done() for load in loads))

        async def go_on() -> list[Record | None]:
            loft.answers = asyncio.Event()
            loft.answers.set()
            return await asyncio.gather(*map(backend.load, KEYS))

        asyncio.run(begin())

        self.assertEqual(asyncio.run(go_on()), [None] * 5)


async def _new_loft() -> Loft:
    return Loft()

"""What a backend does with operations that begin together, as tests.

A backend may send them to its store in batches; see `.DriverBackend.load_many`.
"""

from __future__ import annotations

import asyncio
import random

from tornado_sessions.storage.backend import UNKNOWN, Backend, Record, Version
from tornado_sessions.testing.records import (
    BackendTests,
    load_record,
    make_record,
    new_key,
    new_keys,
    run_together,
)

_SIZES = (1, 2, 50)


class TogetherContract(BackendTests):
    """Operations of one iteration of the event loop, each with its own outcome."""

    async def test_loads_that_begin_together_return_each_its_own(self) -> None:
        """Behaviour 41: also of keys that are asked for twice, and of unknown ones."""
        backend = self.open_backend()
        for size in _SIZES:
            with self.subTest(size=size):
                keys = new_keys(size)
                await run_together(
                    backend.insert(key, make_record(key)) for key in keys
                )
                asked = [*keys, *new_keys(size // 2), *keys[::3]]
                random.Random(size).shuffle(asked)

                loaded = await asyncio.gather(*map(backend.load, asked))

                self.assertEqual(
                    [None if record is None else record.data for record in loaded],
                    [key if key in keys else None for key in asked],
                )

    async def test_writes_that_begin_together_have_each_its_own_outcome(self) -> None:
        """Behaviours 6, 36: a conflict is told to the one whose write it is."""
        backend = self.open_backend()
        for size in _SIZES:
            with self.subTest(size=size):
                keys = new_keys(size)
                versions = await self._versions(backend, keys)
                stale = new_keys(size)
                gone = await self._versions(backend, stale)
                await self._versions(backend, stale)
                fresh = new_keys(size)

                outcomes = await asyncio.gather(
                    *(
                        backend.replace(key, make_record(b"replaced"), version)
                        for key, version in zip(keys, versions, strict=True)
                    ),
                    *(
                        backend.replace(key, make_record(b"lost"), version)
                        for key, version in zip(stale, gone, strict=True)
                    ),
                    *(backend.insert(key, make_record(b"inserted")) for key in fresh),
                )
                stored = [outcome is not None for outcome in outcomes]
                again = await asyncio.gather(
                    *(backend.insert(key, make_record(b"lost")) for key in keys),
                    *(backend.delete(key) for key in fresh),
                )

                self.assertEqual(stored, [True] * size + [False] * size + [True] * size)
                self.assertEqual(again, [None] * 2 * size)
                for among, data in (
                    (keys, b"replaced"),
                    (stale, b"old"),
                    (fresh, None),
                ):
                    loaded = await asyncio.gather(*map(backend.load, among))
                    self.assertEqual(
                        {record and record.data for record in loaded}, {data}
                    )

    async def test_a_version_that_a_write_returned_is_that_of_its_own_key(self) -> None:
        """Behaviour 36: each can be used for the next write."""
        backend, keys = self.open_backend(), new_keys(50)
        versions = await self._versions(backend, keys)
        for number in range(3):
            # In another order each time.
            order = random.Random(number).sample(range(50), 50)
            outcomes = await asyncio.gather(
                *(
                    backend.replace(keys[i], make_record(b"%d" % number), versions[i])
                    for i in order
                )
            )
            for i, outcome in zip(order, outcomes, strict=True):
                version = outcome
                self.assertIsNotNone(version)
                if version is UNKNOWN:
                    version = (await load_record(backend, keys[i])).version
                versions[i] = version

    async def test_a_cancelled_write_does_not_harm_those_beside_it(self) -> None:
        """Behaviour 68: it is stored whole or not at all, and the others are stored."""
        backend, keys = self.open_backend(), new_keys(50)
        for moments in range(4):
            with self.subTest(moments=moments):
                versions = await self._versions(backend, keys)
                writes = [
                    asyncio.ensure_future(
                        backend.replace(key, make_record(b"new" + key), version)
                    )
                    for key, version in zip(keys, versions, strict=True)
                ]
                for _ in range(moments):
                    await asyncio.sleep(0)
                for write in writes[::3]:
                    write.cancel()
                await asyncio.wait(writes)

                for i, (key, write) in enumerate(zip(keys, writes, strict=True)):
                    data = (await load_record(backend, key)).data
                    if i % 3:
                        self.assertIsNotNone(write.result())
                        self.assertEqual(data, b"new" + key)
                    else:
                        self.assertIn(data, (b"old", b"new" + key))

    async def test_processes_that_write_the_same_keys_together_never_hang(self) -> None:
        """Behaviour 36: whatever their order, each key is replaced once."""
        one, two = self.open_two()
        keys = new_keys(30)
        for _ in range(3):
            versions = dict(zip(keys, await self._versions(one, keys), strict=True))
            loaded = dict(
                zip(keys, await asyncio.gather(*map(two.load, keys)), strict=True)
            )

            async def write(backend: Backend, key: bytes, version: Version) -> bool:
                stored = await backend.replace(key, make_record(b"new"), version)
                return stored is not None

            won = await asyncio.wait_for(
                asyncio.gather(
                    *(write(one, key, versions[key]) for key in keys),
                    *(write(two, key, _version(loaded[key])) for key in keys[::-1]),
                ),
                self.patience,
            )

            self.assertEqual(sum(won), len(keys))
            for first, second in zip(won[:30], won[:29:-1], strict=True):
                self.assertNotEqual(first, second)

    async def test_a_load_that_begins_after_a_write_sees_it(self) -> None:
        """Behaviour 37: whatever other loads of the key are in progress."""
        backend, key = self.open_backend(), new_key()
        [version] = await self._versions(backend, [key])
        for number in range(10):
            loads = [asyncio.ensure_future(backend.load(key)) for _ in range(5)]
            for _ in range(number):
                await asyncio.sleep(0)
            data = b"%d" % number
            stored = await backend.replace(key, make_record(data), version)
            record = await load_record(backend, key)

            self.assertIsNotNone(stored)
            self.assertEqual(record.data, data)
            version = record.version
            await asyncio.wait(loads)

    async def test_of_two_writes_of_one_key_together_one_is_stored(self) -> None:
        """Behaviour 36: also where others begin with them."""
        backend, key, others = self.open_backend(), new_key(), new_keys(10)
        [version] = await self._versions(backend, [key])

        *_, first, second = await asyncio.gather(
            *(backend.insert(other, make_record(b"")) for other in others),
            backend.replace(key, make_record(b"first"), version),
            backend.replace(key, make_record(b"second"), version),
        )

        self.assertNotEqual(first is None, second is None)
        data = b"second" if first is None else b"first"
        self.assertEqual((await load_record(backend, key)).data, data)

    async def _versions(self, backend: Backend, keys: list[bytes]) -> list[Version]:
        """Stores a record under each key, over any before. Returns the versions."""
        for key in keys:
            await backend.delete(key)
            await backend.insert(key, make_record(b"old"))
        return [(await load_record(backend, key)).version for key in keys]


def _version(record: Record | None) -> Version:
    return None if record is None else record.version

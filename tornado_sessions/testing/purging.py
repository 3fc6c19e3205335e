"""What a store does with records that expire, as tests of a backend."""

from __future__ import annotations

import asyncio
import sys
import time

from tornado_sessions.backend import Record
from tornado_sessions.testing.records import (
    DAY,
    BackendTests,
    load_record,
    make_record,
    new_key,
    new_keys,
    purge_all,
    replace_record,
    run_together,
)


class PurgingContract(BackendTests):
    """When records expire, and what `.Backend.purge` removes."""

    async def test_a_record_of_forty_years_is_kept(self) -> None:
        """Behaviour 52: an expiry far ahead is neither cut nor taken for the past."""
        backend = self.open_backend()
        for days in (29, 31, 400, 40 * 365):
            with self.subTest(days=days):
                key = new_key()
                await backend.save(key, make_record(b"one", expires_in=days * DAY))
                await purge_all(backend)
                self.assertEqual((await load_record(backend, key)).data, b"one")

    async def test_a_record_that_outlives_every_calendar_is_kept(self) -> None:
        """Behaviour 52: a lifetime of ``sys.maxsize`` seconds is one."""
        backend, key = self.open_backend(), new_key()
        await backend.save(key, make_record(b"one", expires_in=sys.maxsize))
        await replace_record(backend, key, b"two", expires_in=sys.float_info.max)
        await purge_all(backend)

        self.assertEqual((await load_record(backend, key)).data, b"two")

    async def test_a_record_without_an_expiry_is_kept(self) -> None:
        """Behaviour 65: zero is for never, and not for 1970."""
        backend, key = self.open_backend(), new_key()
        await backend.save(key, Record(b"one"))
        await purge_all(backend)
        self.assertEqual((await load_record(backend, key)).data, b"one")

        await replace_record(backend, key, b"two")
        version = (await load_record(backend, key)).version
        await backend.save(key, Record(b"three", version))
        await purge_all(backend, time.time() + 2 * 3600)

        self.assertEqual((await load_record(backend, key)).data, b"three")

    async def test_purging_removes_what_is_expired_and_nothing_else(self) -> None:
        """Behaviour 65: it goes by ``expires`` and ``now``, and ends with 0."""
        backend = self.open_purged()
        expired, living = new_keys(20), new_keys(20)
        for key in expired:
            await backend.save(key, make_record(b"expired", expires_in=-10))
        for key in living:
            await backend.save(key, make_record(b"living"))

        await purge_all(backend)

        for key in expired:
            self.assertIsNone(await backend.load(key))
        for key in living:
            self.assertEqual((await load_record(backend, key)).data, b"living")
        self.assertEqual(await backend.purge(time.time() - DAY), 0)

    async def test_purging_counts_and_goes_in_batches(self) -> None:
        """Behaviour 65: of 2,000 expired records no call removes all."""
        backend = self.open_purged()
        await purge_all(backend)
        keys = new_keys(2000)
        await run_together(
            backend.save(key, make_record(b"", expires_in=-10)) for key in keys
        )

        counts = await purge_all(backend)

        self.assertEqual(sum(counts), 2000)
        self.assertLess(max(counts), 2000)
        self.assertFalse(any([await backend.load(key) for key in keys]))

    async def test_purging_goes_by_the_time_it_is_given(self) -> None:
        """Behaviour 65: what was alive at ``now`` stays, whatever the time is."""
        backend, key = self.open_purged(), new_key()
        await backend.save(key, make_record(b"one", expires_in=-10))

        await purge_all(backend, time.time() - 3600)

        self.assertEqual((await load_record(backend, key)).data, b"one")

    async def test_purging_keeps_what_was_pushed_forward(self) -> None:
        """Behaviour 65: it is the newest expiry that counts, either way."""
        backend = self.open_purged()
        later, sooner = new_key(), new_key()
        await backend.save(later, make_record(b"later", expires_in=-10))
        await replace_record(backend, later, b"later")
        await backend.save(sooner, make_record(b"sooner"))
        await replace_record(backend, sooner, b"sooner", expires_in=-10)

        await purge_all(backend)

        self.assertEqual((await load_record(backend, later)).data, b"later")
        self.assertIsNone(await backend.load(sooner))

    async def test_two_may_purge_at_once(self) -> None:
        """Behaviour 65: no record is counted twice, and none is left."""
        backend = self.open_purged()
        other = self.open_backend() if backend.shared else backend
        await purge_all(backend)
        keys = new_keys(600)
        await run_together(
            backend.save(key, make_record(b"", expires_in=-10)) for key in keys
        )

        counts = await asyncio.gather(purge_all(backend), purge_all(other))

        self.assertEqual(sum(map(sum, counts)), 600)
        self.assertFalse(any([await backend.load(key) for key in keys]))

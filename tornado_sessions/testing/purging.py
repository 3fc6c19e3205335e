"""What a store does with records that expire, as tests of a backend."""

from __future__ import annotations

import asyncio
import random
import sys
import time

from tornado_sessions.storage.backend import Record
from tornado_sessions.testing.pauses import LONGEST_PAUSE, longest_pause
from tornado_sessions.testing.records import (
    DAY,
    BackendTests,
    find_records,
    load_record,
    make_record,
    new_key,
    new_keys,
    new_user,
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
                await backend.insert(key, make_record(b"one", expires_in=days * DAY))
                await purge_all(backend)
                self.assertEqual((await load_record(backend, key)).data, b"one")

    async def test_a_record_that_outlives_every_calendar_is_kept(self) -> None:
        """Behaviour 52: a lifetime of ``sys.maxsize`` seconds is one."""
        backend, key = self.open_backend(), new_key()
        await backend.insert(key, make_record(b"one", expires_in=sys.maxsize))
        await replace_record(backend, key, b"two", expires_in=sys.float_info.max)
        await purge_all(backend)

        self.assertEqual((await load_record(backend, key)).data, b"two")

    async def test_a_record_without_an_expiry_is_kept(self) -> None:
        """Behaviour 65: zero is for never, and not for 1970."""
        backend, key = self.open_backend(), new_key()
        await backend.insert(key, Record(b"one"))
        await purge_all(backend)
        self.assertEqual((await load_record(backend, key)).data, b"one")

        await replace_record(backend, key, b"two")
        version = (await load_record(backend, key)).version
        await backend.replace(key, Record(b"three"), version)
        await purge_all(backend, time.time() + 2 * 3600)

        self.assertEqual((await load_record(backend, key)).data, b"three")

    async def test_purging_removes_what_is_expired_and_nothing_else(self) -> None:
        """Behaviour 65: it goes by ``expires`` and ``now``, and ends with 0."""
        backend = self.open_purged()
        expired, living = new_keys(20), new_keys(20)
        for key in expired:
            await backend.insert(key, make_record(b"expired", expires_in=-10))
        for key in living:
            await backend.insert(key, make_record(b"living"))

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
            backend.insert(key, make_record(b"", expires_in=-10)) for key in keys
        )

        counts = await purge_all(backend)

        self.assertEqual(sum(counts), 2000)
        self.assertLess(max(counts), 2000)
        self.assertFalse(any(await run_together(map(backend.load, keys))))

    async def test_purging_goes_by_the_time_it_is_given(self) -> None:
        """Behaviour 65: what was alive at ``now`` stays, whatever the time is."""
        backend, key = self.open_purged(), new_key()
        await backend.insert(key, make_record(b"one", expires_in=-10))

        await purge_all(backend, time.time() - 3600)

        self.assertEqual((await load_record(backend, key)).data, b"one")

    async def test_purging_keeps_what_was_pushed_forward(self) -> None:
        """Behaviour 65: it is the newest expiry that counts, either way."""
        backend = self.open_purged()
        later, sooner = new_key(), new_key()
        await backend.insert(later, make_record(b"later", expires_in=-10))
        await replace_record(backend, later, b"later")
        await backend.insert(sooner, make_record(b"sooner"))
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
            backend.insert(key, make_record(b"", expires_in=-10)) for key in keys
        )

        counts = await asyncio.gather(purge_all(backend), purge_all(other))

        self.assertEqual(sum(map(sum, counts)), 600)
        self.assertFalse(any(await run_together(map(backend.load, keys))))

    async def test_purging_is_exact_to_a_second(self) -> None:
        """Behaviour 65: at most a second late, and never early by any part of one."""
        backend = self.open_purged()
        # In the future, as a store may forget by itself what has really expired. In
        # either half of a minute, as a time may be rounded up or down.
        minute = time.time() // 60 * 60 + 7200
        for now in (minute + 13.25, minute + 120 + 37.25):
            expired = dict.fromkeys((-299, -61, -30, -1.5))
            living = dict.fromkeys((0.5, 2, 30, 59, 61, 299, 301))
            keys = {seconds: new_key() for seconds in (*expired, *living)}
            for seconds, key in keys.items():
                await backend.insert(key, Record(b"one", expires=now + seconds))

            await purge_all(backend, now)

            for seconds, key in keys.items():
                with self.subTest(seconds=seconds, now=now % 60):
                    record = await backend.load(key)
                    if seconds < 0:
                        self.assertIsNone(record, "It stays after its expiry.")
                    else:
                        self.assertIsNotNone(record, "It is removed too early.")

    async def test_loading_does_not_postpone_the_expiry(self) -> None:
        """Behaviour 65: only a save does."""
        backend, key, user = self.open_purged(), new_key(), new_user()
        await backend.insert(key, make_record(b"one", user=user))
        for _ in range(3):
            await load_record(backend, key)
            if backend.finds_by_user:
                await find_records(backend, user)

        await purge_all(backend, time.time() + 3602)

        self.assertIsNone(await backend.load(key))

    async def test_what_is_renewed_during_a_purge_stays(self) -> None:
        """Behaviour 65: a purge and a save never act on different versions."""
        backend = self.open_purged()
        other = self.open_backend() if backend.shared else backend
        keys = new_keys(300)
        await run_together(
            backend.insert(key, make_record(b"", expires_in=-10)) for key in keys
        )
        records = {key: await load_record(other, key) for key in keys}
        renewed = []

        async def renew(key: bytes) -> None:
            version = records[key].version
            # If it is None, the purge came first.
            if await other.replace(key, make_record(b"renewed"), version) is not None:
                renewed.append(key)

        random.Random(65).shuffle(keys)
        await asyncio.gather(
            purge_all(backend), run_together(map(renew, keys), at_once=5)
        )

        for key in renewed:
            self.assertEqual((await load_record(backend, key)).data, b"renewed")

    async def test_a_record_is_kept_until_it_expires(self) -> None:
        """Behaviour 52: to the last fraction of a second, whatever the store counts."""
        backend, key = self.open_backend(), new_key()
        expires = int(time.time()) + 1.95
        await backend.insert(key, Record(b"one", expires=expires))

        while True:
            record = await backend.load(key)
            if time.time() >= expires:
                break
            self.assertIsNotNone(record)
            await asyncio.sleep(0.02)

    async def test_purging_does_not_block_the_event_loop(self) -> None:
        """Behaviour 70: each batch is short, or the work of another thread."""
        backend = self.open_purged()

        async def fill() -> None:
            await run_together(
                backend.insert(key, make_record(b"one", expires_in=-10))
                for key in new_keys(1000)
            )

        async def purge() -> None:
            removed = 1
            while removed:
                removed = await backend.purge(time.time())
                # A purge that does not suspend is one pause by itself.
                await asyncio.sleep(0)

        self.assertLess(await longest_pause(purge, prepare=fill), LONGEST_PAUSE)

"""Tests that a backend stores bytes under keys, exactly, and deletes them."""

from __future__ import annotations

import random
import secrets

from tornado_sessions.testing.records import (
    BackendTests,
    load_record,
    make_record,
    new_key,
    replace_record,
    run_together,
)


class StoringContract(BackendTests):
    """A record comes back as it was saved, until it is deleted."""

    async def test_a_record_is_loaded_as_it_was_saved(self) -> None:
        """A saved record is returned for its key, with a version."""
        backend, key = self.open_backend(), new_key()

        await backend.insert(key, make_record(b"one"))

        record = await load_record(backend, key)
        self.assertEqual(record.data, b"one")
        self.assertIsNotNone(record.version)

    async def test_loading_an_unknown_key_answers_none(self) -> None:
        """Behaviour 4: looking up what is not there creates nothing."""
        backend, key = self.open_backend(), new_key()

        self.assertIsNone(await backend.load(key))
        self.assertIsNone(await backend.load(key))

        await backend.insert(key, make_record(b"the first"))
        self.assertEqual((await load_record(backend, key)).data, b"the first")

    async def test_loading_does_not_consume(self) -> None:
        """A record can be loaded any number of times."""
        backend, key = self.open_backend(), new_key()
        await backend.insert(key, make_record(b"one"))

        for _ in range(3):
            self.assertEqual((await load_record(backend, key)).data, b"one")

    async def test_bytes_come_back_exactly(self) -> None:
        """Behaviour 63: whatever bytes were saved are loaded, as ``bytes``."""
        backend = self.open_backend()
        every = bytes(range(256))
        for data in (b"", every, b"\0" * 9, b"\r\nEND\r\n", b"'; --", every * 64):
            with self.subTest(data=data[:9]):
                key = new_key()
                await backend.insert(key, make_record(data))

                loaded = (await load_record(backend, key)).data
                self.assertEqual(loaded, data)
                self.assertIs(type(loaded), bytes)

    async def test_a_replaced_record_shrinks_and_grows(self) -> None:
        """Behaviour 63: nothing of a longer record is left behind a shorter one."""
        backend, key = self.open_backend(), new_key()
        await backend.insert(key, make_record(b"long" * 1000))
        for data in (b"short", b"", b"longer" * 1000):
            await replace_record(backend, key, data)
            self.assertEqual((await load_record(backend, key)).data, data)

    async def test_a_record_of_max_bytes_is_stored(self) -> None:
        """Behaviour 63: as many bytes as are declared do fit."""
        backend, key = self.open_backend(), new_key()
        data = bytes(self.max_bytes_of(backend))

        await backend.insert(key, make_record(data))

        self.assertEqual((await load_record(backend, key)).data, data)

    async def test_without_max_bytes_long_records_are_stored_whole(self) -> None:
        """Behaviour 63: a store that takes no more than so many bytes declares it."""
        backend = self.open_backend()
        if backend.max_bytes is not None:
            self.skipTest(f"{type(backend).__name__} declares max_bytes.")
        for length in (70_000, 200_000, 1_100_000, 17_000_000):
            with self.subTest(length=length):
                key, data = new_key(), random.randbytes(length)
                await backend.insert(key, make_record(data))

                # Not assertEqual, which would show both.
                stored = (await load_record(backend, key)).data
                self.assertTrue(stored == data, f"{len(stored)} bytes are stored.")

    async def test_keys_that_look_alike_do_not_share(self) -> None:
        """Behaviour 64: every one of a key's 256 bits counts, and no byte is special."""
        backend, base = self.open_backend(), secrets.token_bytes(31)
        keys = [base + bytes([last]) for last in range(256)]
        # A comparison that ignores the case, or pads what is short.
        keys += [secrets.token_bytes(4) + fill * 28 for fill in (b"a", b"A", b" ")]
        keys += [bytes([first]) + base for first in range(256)]

        await run_together(backend.insert(key, make_record(key)) for key in keys)

        for key in keys:
            self.assertEqual((await load_record(backend, key)).data, key)

    async def test_hostile_keys_are_harmless(self) -> None:
        """Behaviour 64: a key is 32 bytes of any kind, and never a command."""
        backend = self.open_backend()
        texts = (
            b"",
            b"' OR 1=1 --",
            b"\r\nflush_all\r\n",
            b"$ne",
            b"%_*?[a-z]",
            b"../",
        )
        keys = [
            text.ljust(32, fill) for text in texts for fill in (b"\0", b"\xff", b" ")
        ]
        bystander = new_key()
        await backend.insert(bystander, make_record(b"bystander"))

        for key in keys:
            # Unlike all other keys these are the same in every run.
            await backend.delete(key)
            self.assertIsNone(await backend.load(key))
            await backend.insert(key, make_record(key))
        for key in keys:
            self.assertEqual((await load_record(backend, key)).data, key)
        for key in keys:
            await backend.delete(key)
            self.assertIsNone(await backend.load(key))

        self.assertEqual((await load_record(backend, bystander)).data, b"bystander")

    # Deleting.

    async def test_deleting_an_unknown_key_is_allowed(self) -> None:
        """To delete what is not there does nothing, once or twice."""
        backend, key = self.open_backend(), new_key()

        await backend.delete(key)
        await backend.delete(key)

        self.assertIsNone(await backend.load(key))

    async def test_a_deleted_record_is_gone_and_no_other(self) -> None:
        """A deletion removes one record, and may be repeated."""
        backend, key, other = self.open_backend(), new_key(), new_key()
        await backend.insert(key, make_record(b"one"))
        await backend.insert(other, make_record(b"other"))

        await backend.delete(key)
        await backend.delete(key)

        self.assertIsNone(await backend.load(key))
        self.assertEqual((await load_record(backend, other)).data, b"other")

"""What every session backend must do, as tests that any author can run.

A whole test module, for `unittest` and for pytest::

    import unittest

    from tornado_sessions import Backend
    from tornado_sessions.testing import BackendContract
    from tornado_sessions_memory import MemoryBackend


    class MemoryBackendTest(BackendContract, unittest.IsolatedAsyncioTestCase):
        def make_backend(self) -> Backend:
            return MemoryBackend()


    if __name__ == "__main__":
        unittest.main()

What a backend declares of itself, such as ``finds_by_user``, decides which tests
run; one that is skipped says so. The numbers in the docstrings are those of the
library's list of behaviours.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Hashable, Iterable

from tornado_sessions.storage.backend import UNKNOWN, Backend, Version
from tornado_sessions.storage.pools import PoolBackend
from tornado_sessions.testing.connecting import ConnectingContract
from tornado_sessions.testing.finding import FindingContract
from tornado_sessions.testing.purging import PurgingContract
from tornado_sessions.testing.records import (
    load_record,
    make_record,
    new_key,
    new_keys,
    replace_record,
    run_together,
)
from tornado_sessions.testing.together import TogetherContract


class BackendContract(
    PurgingContract, FindingContract, ConnectingContract, TogetherContract
):
    """Tests a `.Backend`; beside it goes `unittest.IsolatedAsyncioTestCase`.

    The store may hold anything: each test uses keys and users that no other
    knows. It purges, so no one else may do that in this store meanwhile.
    """

    # Saving and loading.

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

    # Versions.

    async def test_inserting_never_overwrites(self) -> None:
        """Behaviour 6: a second insert of a key is a conflict; the first stays."""
        backend, key = self.open_backend(), new_key()
        await backend.insert(key, make_record(b"first"))

        self.assertIsNone(await backend.insert(key, make_record(b"second")))

        self.assertEqual((await load_record(backend, key)).data, b"first")

    async def test_a_version_replaces_the_record_it_came_with(self) -> None:
        """The record that was loaded is the one that is replaced."""
        backend, key = self.open_backend(), new_key()
        await backend.insert(key, make_record(b"one"))
        version = (await load_record(backend, key)).version

        await backend.replace(key, make_record(b"two"), version)

        self.assertEqual((await load_record(backend, key)).data, b"two")

    async def test_a_write_returns_the_version_that_it_has_stored(self) -> None:
        """It is valid for the next write, like one of a load, unless it is unknown."""
        backend, key = self.open_backend(), new_key()
        first = await backend.insert(key, make_record(b"one"))
        self.assertIsNotNone(first)
        if first is UNKNOWN:
            self.skipTest(f"{type(backend).__name__} does not report versions.")

        second = await backend.replace(key, make_record(b"two"), first)
        self.assertIsNotNone(second)
        self.assertIsNone(await backend.replace(key, make_record(b"stale"), first))
        self.assertEqual((await load_record(backend, key)).data, b"two")
        third = await backend.replace(key, make_record(b"three"), second)

        self.assertIsNotNone(third)
        self.assertEqual((await load_record(backend, key)).data, b"three")

    async def test_a_write_never_returns_the_version_of_another_write(self) -> None:
        """With that of a later one the next write would overwrite it unseen."""
        backends, key = self.open_two(), new_key()
        await backends[0].insert(key, make_record(b""))
        versions = []

        async def write(backend: Backend) -> None:
            written = 0
            while written < 3:
                version = (await load_record(backend, key)).version
                stored = await backend.replace(key, make_record(b""), version)
                if stored is not None:
                    written += 1
                    versions.append(stored)

        await asyncio.gather(*(write(backends[i % 2]) for i in range(10)))

        known = [version for version in versions if version is not UNKNOWN]
        self.assertEqual(len(set(map(_comparable, known))), len(known))

    async def test_a_version_is_good_for_one_save(self) -> None:
        """A version that was used is stale: the record then stays as it is."""
        backend, key = self.open_backend(), new_key()
        await backend.insert(key, make_record(b"one"))
        version = (await load_record(backend, key)).version
        await backend.replace(key, make_record(b"two"), version)

        self.assertIsNone(await backend.replace(key, make_record(b"three"), version))

        self.assertEqual((await load_record(backend, key)).data, b"two")

    async def test_saving_the_same_bytes_makes_a_new_version(self) -> None:
        """A version tells saves apart, also where they stored equal bytes."""
        backend = self.open_backend()
        for data in (b"same", b""):
            with self.subTest(data=data):
                key = new_key()
                await backend.insert(key, make_record(data))
                before = await load_record(backend, key)
                await backend.replace(key, make_record(before.data), before.version)

                self.assertIsNone(
                    await backend.replace(key, make_record(b"stale"), before.version)
                )
                self.assertEqual((await load_record(backend, key)).data, data)

    async def test_a_version_stays_good_after_another_load(self) -> None:
        """To load changes nothing, so two loads answer versions that both serve."""
        backend, key = self.open_backend(), new_key()
        await backend.insert(key, make_record(b"one"))
        version = (await load_record(backend, key)).version
        await load_record(backend, key)

        await backend.replace(key, make_record(b"two"), version)

        self.assertEqual((await load_record(backend, key)).data, b"two")

    async def test_a_deleted_record_does_not_come_back(self) -> None:
        """Behaviour 39: to replace what was deleted is a conflict."""
        backend, key = self.open_backend(), new_key()
        await backend.insert(key, make_record(b"one"))
        version = (await load_record(backend, key)).version
        await backend.delete(key)

        self.assertIsNone(await backend.replace(key, make_record(b"two"), version))

        self.assertIsNone(await backend.load(key))

    async def test_a_replacement_never_creates_a_record(self) -> None:
        """A version from another key brings nothing into being."""
        backend, key, unused = self.open_backend(), new_key(), new_key()
        await backend.insert(key, make_record(b"one"))
        version = (await load_record(backend, key)).version

        self.assertIsNone(await backend.replace(unused, make_record(b"two"), version))

        self.assertIsNone(await backend.load(unused))
        self.assertEqual((await load_record(backend, key)).data, b"one")

    async def test_a_version_from_before_a_deletion_is_stale(self) -> None:
        """A key can be used again after a deletion; its old versions can not."""
        backend, key = self.open_backend(), new_key()
        await backend.insert(key, make_record(b"one"))
        version = (await load_record(backend, key)).version
        await backend.delete(key)
        await backend.insert(key, make_record(b"one"))

        self.assertIsNone(await backend.replace(key, make_record(b"two"), version))

        self.assertEqual((await load_record(backend, key)).data, b"one")

    async def test_a_version_of_another_process_is_stale_after_a_deletion(self) -> None:
        """Behaviours 39, 44: no two processes give the same version to two records."""
        here, there, key = *self.open_shared(), new_key()
        await here.insert(key, make_record(b"one"))
        version = (await load_record(here, key)).version
        await there.delete(key)
        await there.insert(key, make_record(b"one"))

        self.assertIsNone(await here.replace(key, make_record(b"two"), version))

        self.assertEqual((await load_record(here, key)).data, b"one")

    async def test_a_version_is_never_used_again(self) -> None:
        """A record has more than 65,536 versions, and any two are different.

        Of 2,000 random versions of 16 bits some are equal. A counter is followed
        until it is beyond 16 bits, or has wrapped.
        """
        # To trace each task would take most of the time.
        asyncio.get_running_loop().set_debug(False)
        backend, key = self.open_backend(), new_key()
        await backend.insert(key, make_record(b""))
        seen: set[object] = set()
        while True:
            version = (await load_record(backend, key)).version
            # Not assertNotIn, which would show all of them.
            self.assertFalse(_comparable(version) in seen, "A version is used again.")
            seen.add(_comparable(version))
            if len(seen) >= 2000 and not _fits_into_16_bits(version):
                break
            await backend.replace(key, make_record(b""), version)

    async def test_of_many_inserts_at_once_one_succeeds(self) -> None:
        """Behaviour 6: a race of inserts has one winner, whose record is stored."""
        backends, key = self.open_two(), new_key()

        won = await _winners(
            (b"%d" % i, backends[i % 2].insert(key, make_record(b"%d" % i)))
            for i in range(20)
        )

        self.assertEqual(len(won), 1)
        self.assertEqual((await load_record(backends[0], key)).data, won[0])

    async def test_of_many_replacements_at_once_one_succeeds(self) -> None:
        """A race of saves with one version has one winner."""
        backends, key = self.open_two(), new_key()
        await backends[0].insert(key, make_record(b"before"))
        # Each its own load: where connections are pooled, versions of several.
        loaded = [await load_record(backends[i % 2], key) for i in range(20)]

        won = await _winners(
            (
                b"%d" % i,
                backends[i % 2].replace(key, make_record(b"%d" % i), record.version),
            )
            for i, record in enumerate(loaded)
        )

        self.assertEqual(len(won), 1)
        self.assertEqual((await load_record(backends[0], key)).data, won[0])

    async def test_parallel_changes_lose_no_update(self) -> None:
        """Of 25 tasks that count in one record at once, every count survives."""
        backends, key = self.open_two(), new_key()
        await backends[0].insert(key, make_record(b"0"))

        async def count(backend: Backend) -> None:
            while True:
                record = await load_record(backend, key)
                # Let the others in, also where the backend never suspends.
                await asyncio.sleep(0)
                data = b"%d" % (int(record.data) + 1)
                stored = await backend.replace(key, make_record(data), record.version)
                if stored is not None:
                    return

        await asyncio.gather(*(count(backends[i % 2]) for i in range(25)))

        self.assertEqual((await load_record(backends[0], key)).data, b"25")

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

    # What a backend declares of itself.

    async def test_capabilities_are_declared(self) -> None:
        """Each capability is a bool, and ``max_bytes`` a number or None."""
        backend = self.open_backend()

        for name in ("durable", "shared", "finds_by_user"):
            self.assertIsInstance(getattr(backend, name), bool, name)
        if backend.max_bytes is not None:
            self.assertGreater(backend.max_bytes, 0)

    async def test_another_process_sees_every_change(self) -> None:
        """Behaviour 44: what one backend inserts, replaces or deletes, all see."""
        here, there, key = *self.open_shared(), new_key()

        await here.insert(key, make_record(b"one"))
        self.assertEqual((await load_record(there, key)).data, b"one")
        await replace_record(there, key, b"two")
        self.assertEqual((await load_record(here, key)).data, b"two")
        await there.delete(key)
        self.assertIsNone(await here.load(key))

    async def test_a_conflict_is_seen_across_processes(self) -> None:
        """Behaviours 6, 39: inserts and versions are checked in the store."""
        here, there, key = *self.open_shared(), new_key()
        await here.insert(key, make_record(b"one"))
        version = (await load_record(here, key)).version
        await replace_record(there, key, b"two")

        self.assertIsNone(await here.replace(key, make_record(b"stale"), version))
        self.assertIsNone(await there.insert(key, make_record(b"again")))
        self.assertEqual((await load_record(here, key)).data, b"two")

        version = (await load_record(here, key)).version
        await there.delete(key)
        self.assertIsNone(await here.replace(key, make_record(b"back"), version))
        self.assertIsNone(await there.load(key))

    async def test_a_version_is_good_in_another_process(self) -> None:
        """A version belongs to the record, not to the connection that read it."""
        here, there, key = *self.open_shared(), new_key()
        await here.insert(key, make_record(b"one"))
        version = (await load_record(here, key)).version

        await there.replace(key, make_record(b"two"), version)

        self.assertEqual((await load_record(here, key)).data, b"two")

    async def test_no_server_of_a_pool_that_works_is_down(self) -> None:
        """A new record may have any key, unless a part of the store has failed."""
        backend = self.open_backend()
        if not isinstance(backend, PoolBackend):
            self.skipTest(f"{type(backend).__name__} is not a PoolBackend.")
        for key in new_keys(10):
            await backend.insert(key, make_record(b"one"))

        self.assertFalse(any(backend.is_down(key) for key in new_keys(100)))

    async def test_a_ping_stores_nothing_and_changes_nothing(self) -> None:
        """Behaviour 90: it may be the first operation there is, and comes at any time."""
        backend, key = self.open_backend(), new_key()
        await backend.ping()
        await backend.insert(key, make_record(b"one"))
        version = (await load_record(backend, key)).version

        for _ in range(3):
            await backend.ping()

        await backend.replace(key, make_record(b"two"), version)
        self.assertEqual((await load_record(backend, key)).data, b"two")

    # What is secret.

    async def test_repr_and_errors_show_neither_keys_nor_data(self) -> None:
        """Behaviour 8: a store key or a value is in no repr and in no error."""
        backend, key = (
            self.open_backend(),
            b"key" + secrets.token_hex(14).encode() + b"k",
        )
        await backend.insert(key, make_record(b"hunter2"))
        shown = repr(backend) + str(backend) + repr(await load_record(backend, key))

        for secret in (key.decode(), key.hex(), "hunter2", b"hunter2".hex()):
            self.assertNotIn(secret, shown)

    async def test_a_url_that_is_refused_keeps_its_password(self) -> None:
        """Behaviour 8: what is wrong with a URL is said without its password."""
        backend = type(self.open_backend())
        try:
            backend.from_url("x://me:hunter2@127.0.0.1:1/a/b?no_such_option=1", {})
        except ValueError as error:
            self.assertNotIn("hunter2", _messages(error))


async def _winners(
    writes: Iterable[tuple[bytes, Awaitable[Version | None]]],
) -> list[bytes]:
    """Runs all writes at once. Returns the data of those without a conflict."""
    data, work = zip(*writes, strict=True)
    versions = await asyncio.gather(*work)
    return [
        each
        for each, version in zip(data, versions, strict=True)
        if version is not None
    ]


def _comparable(version: Version) -> Hashable:
    return version if isinstance(version, Hashable) else repr(version)


def _fits_into_16_bits(version: object) -> bool:
    """Whether a version is a number, or bytes, of no more than 16 bits."""
    if isinstance(version, (tuple, list)):
        return all(map(_fits_into_16_bits, version))
    if isinstance(version, (bytes, str)):
        return len(version) <= 2
    return version is None or (isinstance(version, int) and abs(version) < 2**16)


def _messages(error: BaseException | None) -> str:
    """Returns the messages of an error and of its causes."""
    if error is None:
        return ""
    return f"{error!r} {error} " + _messages(error.__cause__ or error.__context__)

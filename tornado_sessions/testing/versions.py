"""Tests that a backend notices conflicts, by the versions of its records."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Hashable, Iterable

from tornado_sessions.storage.backend import UNKNOWN, Backend, Version
from tornado_sessions.testing.records import (
    BackendTests,
    load_record,
    make_record,
    new_key,
)


class VersionContract(BackendTests):
    """A version is good for one write, of the record that it came with."""

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

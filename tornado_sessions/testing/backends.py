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

What a backend declares of itself, such as ``lists_users``, decides which tests
run; one that is skipped says so. The numbers in the docstrings are those of the
library's list of behaviours.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import sys
import time
import unittest
from collections.abc import Awaitable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from tornado_sessions.backend import Backend, Record
from tornado_sessions.errors import (
    BackendError,
    ConflictError,
    SessionDataError,
    SessionError,
)

if TYPE_CHECKING:
    _Case = unittest.IsolatedAsyncioTestCase
else:
    _Case = object

_T = TypeVar("_T")

_DAY = 86_400


class BackendContract(_Case):
    """Tests a `.Backend`; beside it goes `unittest.IsolatedAsyncioTestCase`.

    The store may hold anything: each test uses keys and users that no other
    knows. It purges, so no one else may do that in this store meanwhile.
    """

    def make_backend(self) -> Backend:
        """Answers a new backend.

        Where backends are ``shared``, all those of one test use the same store:
        each stands for another process. The test closes them.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define make_backend(), and answer a new"
            " backend from it."
        )

    # Saving and loading.

    async def test_a_record_is_loaded_as_it_was_saved(self) -> None:
        """What was saved under a key is answered for it, with a version."""
        backend, key = self._open(), _new_key()

        await backend.save(key, _record(b"one"))

        record = await _load(backend, key)
        self.assertEqual(record.data, b"one")
        self.assertIsNotNone(record.version)

    async def test_loading_an_unknown_key_answers_none(self) -> None:
        """Behaviour 4: looking up what is not there creates nothing."""
        backend, key = self._open(), _new_key()

        self.assertIsNone(await backend.load(key))
        self.assertIsNone(await backend.load(key))

        await backend.save(key, _record(b"the first"))
        self.assertEqual((await _load(backend, key)).data, b"the first")

    async def test_loading_does_not_consume(self) -> None:
        """A record can be loaded any number of times."""
        backend, key = self._open(), _new_key()
        await backend.save(key, _record(b"one"))

        for _ in range(3):
            self.assertEqual((await _load(backend, key)).data, b"one")

    async def test_bytes_come_back_exactly(self) -> None:
        """Behaviour 63: whatever bytes were saved are loaded, as ``bytes``."""
        backend = self._open()
        every = bytes(range(256))
        for data in (b"", every, b"\0" * 9, b"\r\nEND\r\n", b"'; --", every * 64):
            with self.subTest(data=data[:9]):
                key = _new_key()
                await backend.save(key, _record(data))

                loaded = (await _load(backend, key)).data
                self.assertEqual(loaded, data)
                self.assertIs(type(loaded), bytes)

    async def test_a_replaced_record_shrinks_and_grows(self) -> None:
        """Behaviour 63: nothing of a longer record is left behind a shorter one."""
        backend, key = self._open(), _new_key()
        await backend.save(key, _record(b"long" * 1000))
        for data in (b"short", b"", b"longer" * 1000):
            await _replace(backend, key, data)
            self.assertEqual((await _load(backend, key)).data, data)

    async def test_a_record_of_max_bytes_is_stored(self) -> None:
        """Behaviour 63: as many bytes as are declared do fit."""
        backend, key = self._open(), _new_key()
        data = bytes(self._max_bytes(backend))

        await backend.save(key, _record(data))

        self.assertEqual((await _load(backend, key)).data, data)

    async def test_one_byte_more_than_max_bytes_is_refused(self) -> None:
        """Behaviour 63: the old record stays, and a new one does not begin."""
        backend, key, unused = self._open(), _new_key(), _new_key()
        too_long = bytes(self._max_bytes(backend) + 1)
        await backend.save(key, _record(b"the old"))
        version = (await _load(backend, key)).version

        with self.assertRaises(SessionDataError):
            await backend.save(key, _record(too_long, version))
        with self.assertRaises(SessionDataError):
            await backend.save(unused, _record(too_long))

        self.assertEqual((await _load(backend, key)).data, b"the old")
        self.assertIsNone(await backend.load(unused))

    async def test_keys_that_look_alike_do_not_share(self) -> None:
        """Behaviour 64: every one of a key's 256 bits counts, and no byte is special."""
        backend, base = self._open(), secrets.token_bytes(31)
        keys = [base + bytes([last]) for last in range(256)]
        # A comparison that ignores the case, or pads what is short.
        keys += [secrets.token_bytes(4) + fill * 28 for fill in (b"a", b"A", b" ")]
        keys += [bytes([first]) + base for first in range(256)]

        await _together(backend.save(key, _record(key)) for key in keys)

        for key in keys:
            self.assertEqual((await _load(backend, key)).data, key)

    async def test_hostile_keys_are_harmless(self) -> None:
        """Behaviour 64: a key is 32 bytes of any kind, and never a command."""
        backend = self._open()
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
        bystander = _new_key()
        await backend.save(bystander, _record(b"bystander"))

        for key in keys:
            # Unlike all other keys these are the same in every run.
            await backend.delete(key)
            self.assertIsNone(await backend.load(key))
            await backend.save(key, _record(key))
        for key in keys:
            self.assertEqual((await _load(backend, key)).data, key)
        for key in keys:
            await backend.delete(key)
            self.assertIsNone(await backend.load(key))

        self.assertEqual((await _load(backend, bystander)).data, b"bystander")

    # Versions.

    async def test_inserting_never_overwrites(self) -> None:
        """Behaviour 6: a second insert of a key is a conflict; the first stays."""
        backend, key = self._open(), _new_key()
        await backend.save(key, _record(b"first"))

        with self.assertRaises(ConflictError):
            await backend.save(key, _record(b"second"))

        self.assertEqual((await _load(backend, key)).data, b"first")

    async def test_a_version_replaces_the_record_it_came_with(self) -> None:
        """The record that was loaded is the one that is replaced."""
        backend, key = self._open(), _new_key()
        await backend.save(key, _record(b"one"))
        version = (await _load(backend, key)).version

        await backend.save(key, _record(b"two", version))

        self.assertEqual((await _load(backend, key)).data, b"two")

    async def test_a_version_is_good_for_one_save(self) -> None:
        """A version that was used is stale: the record then stays as it is."""
        backend, key = self._open(), _new_key()
        await backend.save(key, _record(b"one"))
        version = (await _load(backend, key)).version
        await backend.save(key, _record(b"two", version))

        with self.assertRaises(ConflictError):
            await backend.save(key, _record(b"three", version))

        self.assertEqual((await _load(backend, key)).data, b"two")

    async def test_saving_the_same_bytes_makes_a_new_version(self) -> None:
        """A version tells saves apart, also where they stored equal bytes."""
        backend = self._open()
        for data in (b"same", b""):
            with self.subTest(data=data):
                key = _new_key()
                await backend.save(key, _record(data))
                before = await _load(backend, key)
                await backend.save(key, _record(before.data, before.version))

                with self.assertRaises(ConflictError):
                    await backend.save(key, _record(b"stale", before.version))
                self.assertEqual((await _load(backend, key)).data, data)

    async def test_a_version_stays_good_after_another_load(self) -> None:
        """To load changes nothing, so two loads answer versions that both serve."""
        backend, key = self._open(), _new_key()
        await backend.save(key, _record(b"one"))
        version = (await _load(backend, key)).version
        await _load(backend, key)

        await backend.save(key, _record(b"two", version))

        self.assertEqual((await _load(backend, key)).data, b"two")

    async def test_a_deleted_record_does_not_come_back(self) -> None:
        """Behaviour 39: to replace what was deleted is a conflict."""
        backend, key = self._open(), _new_key()
        await backend.save(key, _record(b"one"))
        version = (await _load(backend, key)).version
        await backend.delete(key)

        with self.assertRaises(ConflictError):
            await backend.save(key, _record(b"two", version))

        self.assertIsNone(await backend.load(key))

    async def test_a_replacement_never_creates_a_record(self) -> None:
        """A version from another key brings nothing into being."""
        backend, key, unused = self._open(), _new_key(), _new_key()
        await backend.save(key, _record(b"one"))
        version = (await _load(backend, key)).version

        with self.assertRaises(ConflictError):
            await backend.save(unused, _record(b"two", version))

        self.assertIsNone(await backend.load(unused))
        self.assertEqual((await _load(backend, key)).data, b"one")

    async def test_a_version_from_before_a_deletion_is_stale(self) -> None:
        """A key can be used again after a deletion; its old versions can not."""
        backend, key = self._open(), _new_key()
        await backend.save(key, _record(b"one"))
        version = (await _load(backend, key)).version
        await backend.delete(key)
        await backend.save(key, _record(b"one"))

        with self.assertRaises(ConflictError):
            await backend.save(key, _record(b"two", version))

        self.assertEqual((await _load(backend, key)).data, b"one")

    async def test_of_many_inserts_at_once_one_succeeds(self) -> None:
        """Behaviour 6: a race of inserts has one winner, whose record is stored."""
        backends, key = self._open_two(), _new_key()

        won = await _winners(
            (b"%d" % i, backends[i % 2].save(key, _record(b"%d" % i)))
            for i in range(20)
        )

        self.assertEqual(len(won), 1)
        self.assertEqual((await _load(backends[0], key)).data, won[0])

    async def test_of_many_replacements_at_once_one_succeeds(self) -> None:
        """A race of saves with one version has one winner."""
        backends, key = self._open_two(), _new_key()
        await backends[0].save(key, _record(b"before"))
        # Each its own load: where connections are pooled, versions of several.
        loaded = [await _load(backends[i % 2], key) for i in range(20)]

        won = await _winners(
            (b"%d" % i, backends[i % 2].save(key, _record(b"%d" % i, record.version)))
            for i, record in enumerate(loaded)
        )

        self.assertEqual(len(won), 1)
        self.assertEqual((await _load(backends[0], key)).data, won[0])

    async def test_parallel_changes_lose_no_update(self) -> None:
        """Of 25 tasks that count in one record at once, every count survives."""
        backends, key = self._open_two(), _new_key()
        await backends[0].save(key, _record(b"0"))

        async def count(backend: Backend) -> None:
            while True:
                record = await _load(backend, key)
                # Let the others in, also where the backend is immediate.
                await asyncio.sleep(0)
                data = b"%d" % (int(record.data) + 1)
                try:
                    await backend.save(key, _record(data, record.version))
                except ConflictError:
                    continue
                return

        await asyncio.gather(*(count(backends[i % 2]) for i in range(25)))

        self.assertEqual((await _load(backends[0], key)).data, b"25")

    # Deleting.

    async def test_deleting_an_unknown_key_is_allowed(self) -> None:
        """To delete what is not there does nothing, once or twice."""
        backend, key = self._open(), _new_key()

        await backend.delete(key)
        await backend.delete(key)

        self.assertIsNone(await backend.load(key))

    async def test_a_deleted_record_is_gone_and_no_other(self) -> None:
        """A deletion removes one record, and may be repeated."""
        backend, key, other = self._open(), _new_key(), _new_key()
        await backend.save(key, _record(b"one"))
        await backend.save(other, _record(b"other"))

        await backend.delete(key)
        await backend.delete(key)

        self.assertIsNone(await backend.load(key))
        self.assertEqual((await _load(backend, other)).data, b"other")

    # Expiry.

    async def test_a_record_of_forty_years_is_kept(self) -> None:
        """Behaviour 52: an expiry far ahead is neither cut nor taken for the past."""
        backend = self._open()
        for days in (29, 31, 400, 40 * 365):
            with self.subTest(days=days):
                key = _new_key()
                await backend.save(key, _record(b"one", expires_in=days * _DAY))
                await _purge_all(backend)
                self.assertEqual((await _load(backend, key)).data, b"one")

    async def test_a_record_that_outlives_every_calendar_is_kept(self) -> None:
        """Behaviour 52: a lifetime of ``sys.maxsize`` seconds is one."""
        backend, key = self._open(), _new_key()
        await backend.save(key, _record(b"one", expires_in=sys.maxsize))
        await _replace(backend, key, b"two", expires_in=sys.float_info.max)
        await _purge_all(backend)

        self.assertEqual((await _load(backend, key)).data, b"two")

    async def test_a_record_without_an_expiry_is_kept(self) -> None:
        """Behaviour 65: zero is for never, and not for 1970."""
        backend, key = self._open(), _new_key()
        await backend.save(key, Record(b"one"))
        await _purge_all(backend)
        self.assertEqual((await _load(backend, key)).data, b"one")

        await _replace(backend, key, b"two")
        version = (await _load(backend, key)).version
        await backend.save(key, Record(b"three", version))
        await _purge_all(backend, time.time() + 2 * 3600)

        self.assertEqual((await _load(backend, key)).data, b"three")

    async def test_purging_removes_what_is_expired_and_nothing_else(self) -> None:
        """Behaviour 65: it goes by ``expires`` and ``now``, and ends with 0."""
        backend = self._open_purged()
        expired, living = _new_keys(20), _new_keys(20)
        for key in expired:
            await backend.save(key, _record(b"expired", expires_in=-10))
        for key in living:
            await backend.save(key, _record(b"living"))

        await _purge_all(backend)

        for key in expired:
            self.assertIsNone(await backend.load(key))
        for key in living:
            self.assertEqual((await _load(backend, key)).data, b"living")
        self.assertEqual(await backend.purge(time.time() - _DAY), 0)

    async def test_purging_counts_and_goes_in_batches(self) -> None:
        """Behaviour 65: of 2,000 expired records no call removes all."""
        backend = self._open_purged()
        await _purge_all(backend)
        keys = _new_keys(2000)
        await _together(backend.save(key, _record(b"", expires_in=-10)) for key in keys)

        counts = await _purge_all(backend)

        self.assertEqual(sum(counts), 2000)
        self.assertLess(max(counts), 2000)
        self.assertFalse(any([await backend.load(key) for key in keys]))

    async def test_purging_goes_by_the_time_it_is_given(self) -> None:
        """Behaviour 65: what was alive at ``now`` stays, whatever the time is."""
        backend, key = self._open_purged(), _new_key()
        await backend.save(key, _record(b"one", expires_in=-10))

        await _purge_all(backend, time.time() - 3600)

        self.assertEqual((await _load(backend, key)).data, b"one")

    async def test_purging_keeps_what_was_pushed_forward(self) -> None:
        """Behaviour 65: it is the newest expiry that counts, either way."""
        backend = self._open_purged()
        later, sooner = _new_key(), _new_key()
        await backend.save(later, _record(b"later", expires_in=-10))
        await _replace(backend, later, b"later")
        await backend.save(sooner, _record(b"sooner"))
        await _replace(backend, sooner, b"sooner", expires_in=-10)

        await _purge_all(backend)

        self.assertEqual((await _load(backend, later)).data, b"later")
        self.assertIsNone(await backend.load(sooner))

    async def test_two_may_purge_at_once(self) -> None:
        """Behaviour 65: no record is counted twice, and none is left."""
        backend = self._open_purged()
        other = self._open() if backend.shared else backend
        await _purge_all(backend)
        keys = _new_keys(600)
        await _together(backend.save(key, _record(b"", expires_in=-10)) for key in keys)

        counts = await asyncio.gather(_purge_all(backend), _purge_all(other))

        self.assertEqual(sum(map(sum, counts)), 600)
        self.assertFalse(any([await backend.load(key) for key in keys]))

    # Users.

    async def test_find_answers_all_records_of_a_user_and_no_others(self) -> None:
        """Keys and records of one user: all of them, and loaded in full."""
        backend, user = self._open_finding(), _new_user()
        records = {key: key + b"data" for key in _new_keys(250)}
        await _together(
            backend.save(key, _record(data, user=user)) for key, data in records.items()
        )
        await backend.save(_new_key(), _record(b"other", user=_new_user()))
        await backend.save(_new_key(), _record(b"nobody's"))

        found = await _find(backend, user)

        self.assertEqual({key: record.data for key, record in found}, records)
        self.assertEqual(len(found), len(records))

    async def test_a_version_that_find_answers_can_be_used(self) -> None:
        """What `find` answers is what `load` answers."""
        backend, key, user = self._open_finding(), _new_key(), _new_user()
        await backend.save(key, _record(b"one", user=user))
        [(found, record)] = await _find(backend, user)

        await backend.save(found, _record(b"two", record.version, user=user))

        self.assertEqual((await _load(backend, key)).data, b"two")

    async def test_find_follows_a_change_of_the_user(self) -> None:
        """A record is found for the user it was saved with last."""
        backend, key = self._open_finding(), _new_key()
        first, second = _new_user(), _new_user()
        await backend.save(key, _record(b"one"))

        await _replace(backend, key, b"two", user=first)
        self.assertEqual(await _find_keys(backend, first), [key])
        await _replace(backend, key, b"three", user=second)
        self.assertEqual(await _find_keys(backend, first), [])
        self.assertEqual(await _find_keys(backend, second), [key])
        await _replace(backend, key, b"four")
        self.assertEqual(await _find_keys(backend, second), [])

    async def test_find_does_not_answer_what_was_deleted(self) -> None:
        """A deleted record is found no more; the user's others are."""
        backend, user = self._open_finding(), _new_user()
        keys = _new_keys(3)
        for key in keys:
            await backend.save(key, _record(b"one", user=user))

        await backend.delete(keys[1])

        self.assertEqual(await _find_keys(backend, user), sorted([keys[0], keys[2]]))

    async def test_records_can_be_deleted_while_they_are_found(self) -> None:
        """Behaviour 46: to end all sessions of a user, each is deleted as it comes."""
        backend, user = self._open_finding(), _new_user()
        await _together(
            backend.save(key, _record(b"one", user=user)) for key in _new_keys(250)
        )

        deleted = 0
        async for key, _ in backend.find(user):
            await backend.delete(key)
            deleted += 1

        self.assertEqual(deleted, 250)
        self.assertEqual(await _find(backend, user), [])

    async def test_a_user_without_records_has_none(self) -> None:
        """Nobody's sessions are no sessions."""
        backend = self._open_finding()
        await backend.save(_new_key(), _record(b"nobody's"))

        for user in (_new_user(), "", "None"):
            self.assertEqual(await _find(backend, user), [])

    async def test_hostile_user_names_are_only_names(self) -> None:
        """Behaviour 46: one user never gets at another's sessions, whatever the name."""
        backend, base = self._open_finding(), _new_user()
        endings = ["", " ", "%", "_", "*", "a", "A", "'", "' OR '1'='1", '"', "\\"]
        endings += ["\r\n", "$ne", "{}", "é", "e\u0301", "ß", "ss", "🍎"]
        endings += ["x" * 468 + last for last in "ab"]
        keys = {base + ending: _new_key() for ending in endings}
        for user, key in keys.items():
            await backend.save(key, _record(b"one", user=user))

        for user, key in keys.items():
            with self.subTest(user=user):
                self.assertEqual(await _find_keys(backend, user), [key])

    async def test_a_user_name_with_a_nul_is_refused_or_harmless(self) -> None:
        """Behaviour 46: a store that cannot hold a NUL says so, and does not cut there."""
        backend, key, user = self._open_finding(), _new_key(), _new_user()
        try:
            await backend.save(key, _record(b"one", user=user + "\0a"))
            found = await _find_keys(backend, user + "\0a")
        except SessionError:
            pass
        else:
            self.assertEqual(found, [key])

        self.assertEqual(await _find(backend, user), [])

    async def test_without_lists_users_find_says_so(self) -> None:
        """Where users are not listed, `find` raises and names the backend."""
        backend = self._open()
        if backend.lists_users:
            self.skipTest(f"{type(backend).__name__} declares lists_users.")

        with self.assertRaisesRegex(SessionError, type(backend).__name__):
            await _find(backend, _new_user())

    # What a backend declares of itself.

    async def test_capabilities_are_declared(self) -> None:
        """Each capability is a bool, and ``max_bytes`` a number or None."""
        backend = self._open()

        for name in ("durable", "shared", "lists_users", "immediate"):
            self.assertIsInstance(getattr(backend, name), bool, name)
        if backend.max_bytes is not None:
            self.assertGreater(backend.max_bytes, 0)

    async def test_an_immediate_backend_never_suspends(self) -> None:
        """Every coroutine of an ``immediate`` backend runs to its end in one step."""
        backend, key, user = self._open(), _new_key(), _new_user()
        if not backend.immediate:
            self.skipTest(f"{type(backend).__name__} does not declare immediate.")

        _run(backend.save(key, _record(b"one", user=user)))
        version = _run(_load(backend, key)).version
        _run(backend.save(key, _record(b"two", version, user=user)))
        if backend.lists_users:
            self.assertEqual(len(_run(_find(backend, user))), 1)
        _run(backend.delete(key))
        _run(backend.ping())
        _run(_purge_all(backend))
        _run(backend.close())

    async def test_another_process_sees_every_change(self) -> None:
        """Behaviour 44: what one backend inserts, replaces or deletes, all see."""
        here, there, key = *self._open_shared(), _new_key()

        await here.save(key, _record(b"one"))
        self.assertEqual((await _load(there, key)).data, b"one")
        await _replace(there, key, b"two")
        self.assertEqual((await _load(here, key)).data, b"two")
        await there.delete(key)
        self.assertIsNone(await here.load(key))

    async def test_a_conflict_is_seen_across_processes(self) -> None:
        """Behaviours 6, 39: inserts and versions are checked in the store."""
        here, there, key = *self._open_shared(), _new_key()
        await here.save(key, _record(b"one"))
        version = (await _load(here, key)).version
        await _replace(there, key, b"two")

        with self.assertRaises(ConflictError):
            await here.save(key, _record(b"stale", version))
        with self.assertRaises(ConflictError):
            await there.save(key, _record(b"again"))
        self.assertEqual((await _load(here, key)).data, b"two")

        version = (await _load(here, key)).version
        await there.delete(key)
        with self.assertRaises(ConflictError):
            await here.save(key, _record(b"back", version))
        self.assertIsNone(await there.load(key))

    async def test_a_version_is_good_in_another_process(self) -> None:
        """A version belongs to the record, not to the connection that read it."""
        here, there, key = *self._open_shared(), _new_key()
        await here.save(key, _record(b"one"))
        version = (await _load(here, key)).version

        await there.save(key, _record(b"two", version))

        self.assertEqual((await _load(here, key)).data, b"two")

    async def test_a_store_that_works_avoids_no_key(self) -> None:
        """A new record may have any key, unless a part of the store has failed."""
        backend = self._open()
        for key in _new_keys(10):
            await backend.save(key, _record(b"one"))

        self.assertFalse(any(backend.avoids(key) for key in _new_keys(100)))

    async def test_a_ping_stores_nothing_and_changes_nothing(self) -> None:
        """Behaviour 90: it may be the first operation there is, and comes at any time."""
        backend, key = self._open(), _new_key()
        await backend.ping()
        await backend.save(key, _record(b"one"))
        version = (await _load(backend, key)).version

        for _ in range(3):
            await backend.ping()

        await backend.save(key, _record(b"two", version))
        self.assertEqual((await _load(backend, key)).data, b"two")

    # Opening, closing, failing.

    async def test_a_backend_is_made_without_a_running_loop(self) -> None:
        """A constructor needs no loop; the first use connects, inside one."""
        backend = await asyncio.to_thread(self.make_backend)
        self.addAsyncCleanup(backend.close)
        key = _new_key()

        await backend.save(key, _record(b"one"))

        self.assertEqual((await _load(backend, key)).data, b"one")

    async def test_a_backend_may_be_closed_unused_and_twice(self) -> None:
        """To close is allowed at any time and any number of times."""
        unused, used = self._open_two()
        await used.save(_new_key(), _record(b"one"))

        for backend in (unused, used, unused, used):
            await backend.close()

    async def test_after_closing_a_backend_works_or_says_that_it_does_not(self) -> None:
        """A closed backend connects again or raises `.BackendError`, nothing else."""
        backend, key = self._open(), _new_key()
        await backend.save(_new_key(), _record(b"one"))
        await backend.close()

        try:
            await backend.ping()
            await backend.save(key, _record(b"two"))
        except BackendError:
            return
        self.assertEqual((await _load(backend, key)).data, b"two")

    async def test_closing_one_backend_leaves_the_others_open(self) -> None:
        """What other backends opened is theirs to close."""
        backend, other, key = *self._open_shared(), _new_key()
        await backend.save(key, _record(b"one"))
        await _load(other, key)

        await backend.close()

        self.assertEqual((await _load(other, key)).data, b"one")

    async def test_a_cancelled_load_never_answers_for_another_key(self) -> None:
        """Behaviour 68: after 200 cancelled loads each key has its own record."""
        backend, keys = self._open(), _new_keys(200)
        await _together(backend.save(key, _record(key)) for key in keys)
        chance = random.Random(68)

        async def load_and_cancel(key: bytes) -> None:
            task = asyncio.create_task(_load(backend, key))
            await asyncio.wait([task], timeout=chance.uniform(0, 0.002))
            task.cancel()
            [answer] = await asyncio.gather(task, return_exceptions=True)
            if isinstance(answer, Record):
                self.assertEqual(answer.data, key)

        # A few at a time, so that others use the connection that one leaves.
        await _together((load_and_cancel(key) for key in keys), at_once=10)

        for key in keys:
            self.assertEqual((await _load(backend, key)).data, key)

    async def test_a_cancelled_save_is_stored_whole_or_not_at_all(self) -> None:
        """Behaviour 68: each key then has its own record, the old or the new one."""
        backend, keys = self._open(), _new_keys(100)
        await _together(backend.save(key, _record(key + b"old")) for key in keys)
        chance = random.Random(68)

        async def save_and_cancel(key: bytes) -> None:
            version = (await _load(backend, key)).version
            save = backend.save(key, _record(key + b"new", version))
            task = asyncio.ensure_future(save)
            await asyncio.wait([task], timeout=chance.uniform(0, 0.002))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        await _together((save_and_cancel(key) for key in keys), at_once=10)

        for key in keys:
            data = (await _load(backend, key)).data
            self.assertIn(data, (key + b"old", key + b"new"))
            await _replace(backend, key, b"after")
            self.assertEqual((await _load(backend, key)).data, b"after")

    async def test_repr_and_errors_show_neither_keys_nor_data(self) -> None:
        """Behaviour 8: a store key or a value is in no repr and in no error."""
        backend, key = self._open(), b"key" + secrets.token_hex(14).encode() + b"k"
        await backend.save(key, _record(b"hunter2"))
        shown = repr(backend) + str(backend) + repr(await _load(backend, key))

        try:
            await backend.save(key, _record(b"hunter2"))
        except ConflictError as error:
            shown += _messages(error)

        for secret in (key.decode(), key.hex(), "hunter2", b"hunter2".hex()):
            self.assertNotIn(secret, shown)

    async def test_a_url_that_is_refused_keeps_its_password(self) -> None:
        """Behaviour 8: what is wrong with a URL is said without its password."""
        backend = type(self._open())
        try:
            backend.from_url("x://me:hunter2@127.0.0.1:1/a/b?no_such_option=1", {})
        except ValueError as error:
            self.assertNotIn("hunter2", _messages(error))

    # What the tests are made of.

    def _open(self) -> Backend:
        backend = self.make_backend()
        self.addAsyncCleanup(backend.close)
        return backend

    def _open_two(self) -> tuple[Backend, Backend]:
        """Answers two backends on one store: the same one, if it is not shared."""
        backend = self._open()
        return backend, self._open() if backend.shared else backend

    def _open_shared(self) -> tuple[Backend, Backend]:
        backend = self._open()
        if not backend.shared:
            self.skipTest(f"{type(backend).__name__} does not declare shared.")
        return backend, self._open()

    def _open_finding(self) -> Backend:
        backend = self._open()
        if not backend.lists_users:
            self.skipTest(f"{type(backend).__name__} does not declare lists_users.")
        return backend

    def _open_purged(self) -> Backend:
        backend = self._open()
        if type(backend).purge is Backend.purge:
            self.skipTest(f"{type(backend).__name__} leaves purging to its store.")
        return backend

    def _max_bytes(self, backend: Backend) -> int:
        if backend.max_bytes is None:
            self.skipTest(f"{type(backend).__name__} declares no max_bytes.")
        return backend.max_bytes


def _new_key() -> bytes:
    return secrets.token_bytes(32)


def _new_keys(count: int) -> list[bytes]:
    return [_new_key() for _ in range(count)]


def _new_user() -> str:
    return secrets.token_hex(16)


def _record(
    data: bytes,
    version: object = None,
    *,
    expires_in: float = 3600,
    user: str | None = None,
) -> Record:
    return Record(data, version, time.time() + expires_in, user)


async def _load(backend: Backend, key: bytes) -> Record:
    record = await backend.load(key)
    assert record is not None, "The record is not in the store."
    return record


async def _replace(
    backend: Backend,
    key: bytes,
    data: bytes,
    *,
    expires_in: float = 3600,
    user: str | None = None,
) -> None:
    """Saves ``data`` over what is stored now."""
    version = (await _load(backend, key)).version
    record = _record(data, version, expires_in=expires_in, user=user)
    await backend.save(key, record)


async def _find(backend: Backend, user: str) -> list[tuple[bytes, Record]]:
    return [found async for found in backend.find(user)]


async def _find_keys(backend: Backend, user: str) -> list[bytes]:
    return sorted(key for key, _ in await _find(backend, user))


async def _purge_all(backend: Backend, now: float | None = None) -> list[int]:
    """Purges until nothing is left to purge; answers how many went each time."""
    now = time.time() if now is None else now
    counts = [await backend.purge(now)]
    while counts[-1]:
        counts.append(await backend.purge(now))
    return counts


async def _together(work: Iterable[Awaitable[Any]], *, at_once: int = 50) -> None:
    work = iter(work)
    while some := list(itertools.islice(work, at_once)):
        await asyncio.gather(*some)


async def _winners(saves: Iterable[tuple[bytes, Awaitable[None]]]) -> list[bytes]:
    """Runs all saves at once; answers the data of those without a conflict."""
    data, work = zip(*saves, strict=True)
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome, ConflictError):
            raise outcome
    return [each for each, outcome in zip(data, outcomes, strict=True) if not outcome]


def _run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: _T = stop.value
        return result
    coroutine.close()
    raise AssertionError("A backend that declares itself immediate has suspended.")


def _messages(error: BaseException | None) -> str:
    """Answers what an error says, with those that led to it."""
    if error is None:
        return ""
    return f"{error!r} {error} " + _messages(error.__cause__ or error.__context__)

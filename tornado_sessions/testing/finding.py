"""How the records of a user are found, as tests of a backend."""

from __future__ import annotations

import asyncio
import random
import secrets
import time

from tornado_sessions.errors import SessionError
from tornado_sessions.testing.records import (
    BackendTests,
    find_keys,
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


class FindingContract(BackendTests):
    """What `.Backend.find` yields, where a backend declares ``finds_by_user``."""

    async def test_find_answers_all_records_of_a_user_and_no_others(self) -> None:
        """Behaviour 46: all of them, however many, and each loaded in full."""
        backend, user = self.open_finding(), new_user()
        records = {key: key + b"data" for key in new_keys(1100)}
        await run_together(
            backend.insert(key, make_record(data, user=user))
            for key, data in records.items()
        )
        await backend.insert(new_key(), make_record(b"other", user=new_user()))
        await backend.insert(new_key(), make_record(b"nobody's"))

        found = await find_records(backend, user)

        self.assertEqual(len(found), len(records))
        self.assertEqual({key: record.data for key, record in found}, records)

    async def test_a_version_that_find_answers_can_be_used(self) -> None:
        """`find` yields the same records as `load` returns."""
        backend, key, user = self.open_finding(), new_key(), new_user()
        await backend.insert(key, make_record(b"one", user=user))
        [(found, record)] = await find_records(backend, user)

        await backend.replace(found, make_record(b"two", user=user), record.version)

        self.assertEqual((await load_record(backend, key)).data, b"two")

    async def test_find_follows_a_change_of_the_user(self) -> None:
        """A record is found for the user it was saved with last."""
        backend, key = self.open_finding(), new_key()
        first, second = new_user(), new_user()
        await backend.insert(key, make_record(b"one"))

        await replace_record(backend, key, b"two", user=first)
        self.assertEqual(await find_keys(backend, first), [key])
        await replace_record(backend, key, b"three", user=second)
        self.assertEqual(await find_keys(backend, first), [])
        self.assertEqual(await find_keys(backend, second), [key])
        await replace_record(backend, key, b"four")
        self.assertEqual(await find_keys(backend, second), [])

    async def test_find_does_not_answer_what_was_deleted(self) -> None:
        """A deleted record is found no more; the user's others are."""
        backend, user = self.open_finding(), new_user()
        keys = new_keys(3)
        for key in keys:
            await backend.insert(key, make_record(b"one", user=user))

        await backend.delete(keys[1])

        self.assertEqual(await find_keys(backend, user), sorted([keys[0], keys[2]]))

    async def test_records_can_be_deleted_while_they_are_found(self) -> None:
        """Behaviour 46: to end all sessions of a user, each is deleted as it comes."""
        backend, user = self.open_finding(), new_user()
        await run_together(
            backend.insert(key, make_record(b"one", user=user)) for key in new_keys(250)
        )

        deleted = 0
        async for key, _ in backend.find(user):
            await backend.delete(key)
            deleted += 1

        self.assertEqual(deleted, 250)
        self.assertEqual(await find_records(backend, user), [])

    async def test_a_user_without_records_has_none(self) -> None:
        """Nobody's sessions are no sessions."""
        backend = self.open_finding()
        await backend.insert(new_key(), make_record(b"nobody's"))

        for user in (new_user(), "", "None"):
            self.assertEqual(await find_records(backend, user), [])

    async def test_hostile_user_names_are_only_names(self) -> None:
        """Behaviour 46: no user name gives access to the sessions of another user."""
        backend, base = self.open_finding(), new_user()
        endings = ["", " ", "%", "_", "*", "a", "A", "'", "' OR '1'='1", '"', "\\"]
        endings += ["\r\n", "$ne", "{}", "é", "e\u0301", "ß", "ss", "🍎"]
        endings += ["x" * 468 + last for last in "ab"]
        keys = {base + ending: new_key() for ending in endings}
        for user, key in keys.items():
            await backend.insert(key, make_record(b"one", user=user))

        for user, key in keys.items():
            with self.subTest(user=user):
                self.assertEqual(await find_keys(backend, user), [key])

    async def test_a_user_name_with_a_nul_is_refused_or_harmless(self) -> None:
        """Behaviour 46: a store that cannot hold a NUL says so, and does not cut there."""
        backend, key, user = self.open_finding(), new_key(), new_user()
        try:
            await backend.insert(key, make_record(b"one", user=user + "\0a"))
            found = await find_keys(backend, user + "\0a")
        except SessionError:
            pass
        else:
            self.assertEqual(found, [key])

        self.assertEqual(await find_records(backend, user), [])

    async def test_without_finds_by_user_find_says_so(self) -> None:
        """Where users are not listed, `find` raises and names the backend."""
        backend = self.open_backend()
        if backend.finds_by_user:
            self.skipTest(f"{type(backend).__name__} declares finds_by_user.")

        with self.assertRaisesRegex(SessionError, type(backend).__name__):
            await find_records(backend, new_user())

    async def test_find_yields_long_records(self) -> None:
        """Behaviour 46: more than a megabyte of them, and no byte is missing."""
        backend, user = self.open_finding(), new_user()
        length = min(backend.max_bytes or 65_536, 65_536)
        records = {key: random.randbytes(length) for key in new_keys(20)}
        for key, data in records.items():
            await backend.insert(key, make_record(data, user=user))

        found = await find_records(backend, user)

        self.assertEqual(sorted(key for key, _ in found), sorted(records))
        for key, record in found:
            # Not assertEqual, which would show both.
            self.assertTrue(record.data == records[key], "The data are not the same.")

    async def test_find_yields_whole_keys(self) -> None:
        """Behaviour 64: no byte is stripped from either end."""
        backend, user = self.open_finding(), new_user()
        middle = secrets.token_bytes(24)
        fills = (b" " * 4, bytes(4), b"\n" * 4, b"\t" * 4, b"\xff" * 4)
        keys = [before + middle + after for before in fills for after in fills]
        for key in keys:
            await backend.insert(key, make_record(b"one", user=user))

        self.assertEqual(await find_keys(backend, user), sorted(keys))

    async def test_a_key_that_is_used_again_has_no_user_of_before(self) -> None:
        """Behaviour 46: a record that is deleted or purged leaves nothing behind."""
        backend = self.open_finding()
        first, second = new_user(), new_user()
        deleted, purged = new_keys(2)
        await backend.insert(deleted, make_record(b"one", user=first))
        await backend.delete(deleted)
        await backend.insert(purged, make_record(b"one", expires_in=-10, user=first))
        await purge_all(backend)
        if await backend.load(purged) is not None:
            await backend.delete(purged)

        await backend.insert(deleted, make_record(b"two"))
        await backend.insert(purged, make_record(b"two", user=second))

        self.assertEqual(await find_keys(backend, first), [])
        self.assertEqual(await find_keys(backend, second), [purged])

    async def test_a_record_of_a_cancelled_save_is_found_for_its_user(self) -> None:
        """Behaviours 46, 68: a record and its user are stored at once, or neither."""
        backend, chance = self.open_finding(), random.Random(68)
        began = time.perf_counter()
        await backend.insert(new_key(), make_record(b"one", user=new_user()))
        seconds = time.perf_counter() - began

        for key in new_keys(200):
            save = backend.insert(key, make_record(b"one", user=key.hex()))
            task = asyncio.ensure_future(save)
            await asyncio.wait([task], timeout=seconds * chance.uniform(0.7, 1.4))
            has_ended = task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            is_stored = await backend.load(key) is not None
            if is_stored:
                self.assertEqual(await find_keys(backend, key.hex()), [key])
            # The next one is cancelled nearer to the moment at which it is stored.
            if has_ended:
                seconds *= 0.85
            elif not is_stored:
                seconds *= 1.15

"""How the records of all users are listed, as tests of a backend."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from tornado_sessions.errors import SessionError
from tornado_sessions.storage.backend import Backend, Record
from tornado_sessions.testing.records import (
    BackendTests,
    load_record,
    make_record,
    new_key,
    new_keys,
    new_user,
    replace_record,
    run_together,
)


class ListingContract(BackendTests):
    """What `.Backend.find_all` yields, where a backend declares ``finds_all``.

    The store may have records of others, which these tests leave alone.
    """

    async def test_find_all_yields_the_records_of_all_users(self) -> None:
        """Behaviour 101: each once, in full, and with its user."""
        backend = self.open_listing()
        records = {key: (key + b"data", new_user()) for key in new_keys(1100)}
        await run_together(
            backend.insert(key, make_record(data, user=user))
            for key, (data, user) in records.items()
        )

        found = await _list(backend, records)

        self.assertEqual(len(found), len(records))
        listed = {key: (record.data, record.user) for key, record in found}
        self.assertEqual(listed, records)

    async def test_find_all_leaves_out_what_has_no_user(self) -> None:
        """Behaviour 101: also where that is most of the store, or a user was removed."""
        backend = self.open_listing()
        keys = new_keys(250)
        await run_together(
            backend.insert(key, make_record(b"nobody's")) for key in keys
        )
        await backend.insert(key := new_key(), make_record(b"one", user=new_user()))
        await backend.insert(gone := new_key(), make_record(b"one", user=new_user()))
        await replace_record(backend, gone, b"two")

        found = await _list(backend, [*keys, key, gone])

        self.assertEqual([each for each, _ in found], [key])

    async def test_find_all_yields_the_newest_user_and_no_deleted_record(self) -> None:
        """Behaviour 101: as `find` does."""
        backend, user = self.open_listing(), new_user()
        changed, deleted = new_keys(2)
        for key in (changed, deleted):
            await backend.insert(key, make_record(b"one", user=new_user()))
        await replace_record(backend, changed, b"two", user=user)
        await backend.delete(deleted)

        [(key, record)] = await _list(backend, [changed, deleted])

        self.assertEqual((key, record.data, record.user), (changed, b"two", user))

    async def test_a_version_that_find_all_yields_can_be_used(self) -> None:
        """`find_all` yields the same versions as `load` returns."""
        backend, key, user = self.open_listing(), new_key(), new_user()
        await backend.insert(key, make_record(b"one", user=user))
        [(_, record)] = await _list(backend, [key])

        await backend.replace(key, make_record(b"two", user=user), record.version)

        self.assertEqual((await load_record(backend, key)).data, b"two")

    async def test_what_is_deleted_meanwhile_hides_no_other_record(self) -> None:
        """Behaviour 101: to end all sessions, each is deleted as it comes."""
        backend = self.open_listing()
        keys = set(new_keys(500))
        await run_together(
            backend.insert(key, make_record(b"one", user=new_user())) for key in keys
        )

        deleted = []
        async for key, _ in backend.find_all():
            if key in keys:
                await backend.delete(key)
                deleted.append(key)

        self.assertEqual(sorted(deleted), sorted(keys))
        self.assertEqual(await _list(backend, keys), [])

    async def test_find_all_yields_names_unchanged(self) -> None:
        """Behaviour 101: whose they are is decided by the name."""
        backend, base = self.open_listing(), new_user()
        endings = ["", " ", "%", "A", "'", "\r\n", "é", "e\u0301", "ß", "🍎", "x" * 468]
        users = {new_key(): base + ending for ending in endings}
        for key, user in users.items():
            await backend.insert(key, make_record(b"one", user=user))

        found = await _list(backend, users)

        self.assertEqual({key: record.user for key, record in found}, users)

    async def test_other_tasks_run_while_records_are_listed(self) -> None:
        """Behaviours 70, 101: also where none of them has a user."""
        backend = self.open_listing()
        await run_together(
            backend.insert(key, make_record(b"nobody's")) for key in new_keys(250)
        )
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        await _list(backend, ())
        counting.cancel()

        self.assertGreater(turns, 2)

    async def test_without_finds_all_find_all_says_so(self) -> None:
        """Where all users are not listed, `find_all` raises and names the backend."""
        backend = self.open_backend()
        if backend.finds_all:
            self.skipTest(f"{type(backend).__name__} declares finds_all.")

        with self.assertRaisesRegex(SessionError, type(backend).__name__):
            await _list(backend, ())


async def _list(
    backend: Backend, keys: Collection[bytes]
) -> list[tuple[bytes, Record]]:
    """Returns what is listed of the records under ``keys``."""
    return [found async for found in backend.find_all() if found[0] in keys]

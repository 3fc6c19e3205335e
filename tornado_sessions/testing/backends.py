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

import secrets

from tornado_sessions.storage.pools import PoolBackend
from tornado_sessions.testing.connecting import ConnectingContract
from tornado_sessions.testing.finding import FindingContract
from tornado_sessions.testing.listing import ListingContract
from tornado_sessions.testing.purging import PurgingContract
from tornado_sessions.testing.records import (
    load_record,
    make_record,
    messages_of,
    new_key,
    new_keys,
    replace_record,
)
from tornado_sessions.testing.storing import StoringContract
from tornado_sessions.testing.together import TogetherContract
from tornado_sessions.testing.versions import VersionContract


class BackendContract(
    StoringContract,
    VersionContract,
    PurgingContract,
    FindingContract,
    ListingContract,
    ConnectingContract,
    TogetherContract,
):
    """Tests a `.Backend`; beside it goes `unittest.IsolatedAsyncioTestCase`.

    The store may hold anything: each test uses keys and users that no other
    knows. It purges, so no one else may do that in this store meanwhile.
    """

    # What a backend declares of itself.

    async def test_capabilities_are_declared(self) -> None:
        """Each capability is a bool, and ``max_bytes`` a number or None."""
        backend = self.open_backend()

        for name in ("durable", "shared", "finds_by_user", "finds_all"):
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
            self.assertNotIn("hunter2", messages_of(error))

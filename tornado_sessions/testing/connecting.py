"""How a backend connects, closes and is cancelled, as tests of a backend."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import warnings
from collections.abc import Awaitable

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Backend, Record
from tornado_sessions.testing.pauses import LONGEST_PAUSE, longest_pause
from tornado_sessions.testing.processes import Child
from tornado_sessions.testing.records import (
    BackendTests,
    find_keys,
    load_record,
    make_record,
    new_key,
    new_keys,
    new_user,
    purge_all,
    replace_record,
    run_together,
)


class ConnectingContract(BackendTests):
    """Tests from the first use of a backend until it is closed."""

    async def test_a_backend_is_made_without_a_running_loop(self) -> None:
        """A constructor needs no loop; the first use connects, inside one."""
        backend = await asyncio.to_thread(self.make_backend)
        self.addAsyncCleanup(backend.close)
        key = new_key()

        await backend.insert(key, make_record(b"one"))

        self.assertEqual((await load_record(backend, key)).data, b"one")

    async def test_a_backend_may_be_closed_unused_and_twice(self) -> None:
        """To close is allowed at any time and any number of times."""
        unused, used = self.open_two()
        await used.insert(new_key(), make_record(b"one"))

        for backend in (unused, used, unused, used):
            await backend.close()

    async def test_after_closing_a_backend_works_or_says_that_it_does_not(self) -> None:
        """A closed backend connects again or raises `.BackendError`, nothing else."""
        backend, key = self.open_backend(), new_key()
        await backend.insert(new_key(), make_record(b"one"))
        await backend.close()

        try:
            await backend.ping()
            await backend.insert(key, make_record(b"two"))
        except BackendError:
            return
        self.assertEqual((await load_record(backend, key)).data, b"two")

    async def test_a_closed_backend_never_claims_what_is_not_so(self) -> None:
        """Each operation connects again or raises `.BackendError`."""
        backend, other = self.open_two()
        if not (backend.shared or backend.durable):
            self.skipTest(
                f"{type(backend).__name__} keeps records only until it is closed."
            )
        kept, deleted, expired, user = *new_keys(3), new_user()
        await backend.insert(kept, make_record(b"one", user=user))
        await backend.insert(deleted, make_record(b"one"))
        await backend.insert(expired, make_record(b"one", expires_in=-10))

        await backend.close()
        with contextlib.suppress(BackendError):
            self.assertIsNotNone(await backend.load(kept))
        await backend.close()
        with contextlib.suppress(BackendError):
            await backend.delete(deleted)
            self.assertIsNone(await other.load(deleted))
        await backend.close()
        if backend.finds_by_user:
            with contextlib.suppress(BackendError):
                self.assertEqual(await find_keys(backend, user), [kept])
        await backend.close()
        if type(backend).purge is not Backend.purge:
            with contextlib.suppress(BackendError):
                await purge_all(backend)
                self.assertIsNone(await other.load(expired))

    async def test_closing_one_backend_leaves_the_others_open(self) -> None:
        """A backend does not close what another backend has opened."""
        backend, other, key = *self.open_shared(), new_key()
        await backend.insert(key, make_record(b"one"))
        await load_record(other, key)

        await backend.close()

        self.assertEqual((await load_record(other, key)).data, b"one")

    async def test_a_cancelled_load_never_answers_for_another_key(self) -> None:
        """Behaviour 68: after 200 cancelled loads each key has its own record."""
        backend, keys = self.open_backend(), new_keys(200)
        await run_together(backend.insert(key, make_record(key)) for key in keys)
        chance = random.Random(68)

        async def load_and_cancel(key: bytes) -> None:
            task = asyncio.create_task(load_record(backend, key))
            await asyncio.wait([task], timeout=chance.uniform(0, 0.002))
            task.cancel()
            [answer] = await asyncio.gather(task, return_exceptions=True)
            if isinstance(answer, Record):
                self.assertEqual(answer.data, key)

        # A few at a time, so that others use the connection that one leaves.
        await run_together((load_and_cancel(key) for key in keys), at_once=10)

        for key in keys:
            self.assertEqual((await load_record(backend, key)).data, key)

    async def test_a_cancelled_save_is_stored_whole_or_not_at_all(self) -> None:
        """Behaviour 68: each key then has its own record, the old or the new one."""
        backend, keys = self.open_backend(), new_keys(100)
        await run_together(
            backend.insert(key, make_record(key + b"old")) for key in keys
        )
        chance = random.Random(68)

        async def save_and_cancel(key: bytes) -> None:
            version = (await load_record(backend, key)).version
            save = backend.replace(key, make_record(key + b"new"), version)
            task = asyncio.ensure_future(save)
            await asyncio.wait([task], timeout=chance.uniform(0, 0.002))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        await run_together((save_and_cancel(key) for key in keys), at_once=10)

        for key in keys:
            data = (await load_record(backend, key)).data
            self.assertIn(data, (key + b"old", key + b"new"))
            await replace_record(backend, key, b"after")
            self.assertEqual((await load_record(backend, key)).data, b"after")

    # Event loops and processes.

    def test_a_backend_works_in_one_event_loop_after_another(self) -> None:
        """Behaviour 67: whether it was closed at the end of the one before or not."""
        for closing in (True, False):
            with self.subTest(closing=closing):
                backend, keys = self.make_backend(), new_keys(3)
                keeps = not closing or backend.shared or backend.durable
                with warnings.catch_warnings():
                    # What a loop that has ended left open can only be forgotten.
                    warnings.simplefilter("ignore", ResourceWarning)
                    for number, key in enumerate(keys):
                        earlier = keys[:number] if keeps else []
                        work = self._use_in_loop(backend, key, earlier)
                        asyncio.run(self._finish(work, backend, closing))
                    asyncio.run(backend.close())
                    del backend
                    gc.collect()

    async def _use_in_loop(
        self, backend: Backend, key: bytes, earlier: list[bytes]
    ) -> None:
        await backend.insert(key, make_record(key))
        expected = 10 * [*earlier, key]
        # At once, as some locks do not notice the loop until somebody waits for them.
        loads = (load_record(backend, each) for each in expected)
        records = await asyncio.gather(*loads)
        self.assertEqual([record.data for record in records], expected)

    async def _finish(
        self, work: Awaitable[None], backend: Backend, closing: bool
    ) -> None:
        await asyncio.wait_for(work, self.patience)
        if closing:
            await backend.close()

    def test_parent_and_child_do_not_disturb_each_other(self) -> None:
        """Behaviour 67: after a fork each gets its own replies, or `.BackendError`.

        The parent never has an error.
        """
        if not hasattr(os, "fork"):
            self.skipTest("This system cannot fork a process.")
        backend, ours, theirs = self.make_backend(), new_keys(20), new_keys(20)

        async def save() -> None:
            for key in ours:
                await backend.insert(key, make_record(key))

        async def load() -> None:
            records = [await backend.load(key) for key in ours]
            data = [None if record is None else record.data for record in records]
            self.assertEqual(data, ours)

        async def load_until_it_ends() -> None:
            while child.is_running():
                await load()
            await load()
            await backend.close()

        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(asyncio.wait_for(save(), self.patience))
            child = Child(
                lambda: asyncio.run(_use_in_child(backend, ours, theirs)),
                self.patience,
            )
            try:
                loop.run_until_complete(
                    asyncio.wait_for(load_until_it_ends(), 2 * self.patience)
                )
            finally:
                failure = child.failure()
            self.assertEqual(failure, "")
        finally:
            loop.close()

    async def test_a_save_lets_the_event_loop_go_on(self) -> None:
        """Behaviour 70: a driver that is synchronous has a thread of its own.

        A save that never suspends has waited for its store on the event loop.
        """
        backend = self.open_backend()
        if not (backend.shared or backend.durable):
            self.skipTest(f"{type(backend).__name__} keeps records in this process.")
        await backend.insert(new_key(), make_record(b"the first connects"))
        went_on: list[bool] = []
        asyncio.get_running_loop().call_soon(went_on.append, True)

        await backend.insert(new_key(), make_record(b"one"))

        self.assertTrue(went_on, "The save has not suspended.")

    async def test_a_long_record_does_not_block_the_event_loop(self) -> None:
        """Behaviour 70: at 64 KiB, the default of ``max_bytes``."""
        backend, user = self.open_backend(), new_user()
        data = random.randbytes(min(backend.max_bytes or 65_536, 65_536))

        async def use() -> None:
            key = new_key()
            await backend.insert(key, make_record(data, user=user))
            await asyncio.sleep(0)
            version = (await load_record(backend, key)).version
            await asyncio.sleep(0)
            await backend.replace(key, make_record(data, user=user), version)
            if backend.finds_by_user:
                await asyncio.sleep(0)
                await anext(aiter(backend.find(user)))

        self.assertLess(await longest_pause(use), LONGEST_PAUSE)


async def _use_in_child(
    backend: Backend, ours: list[bytes], theirs: list[bytes]
) -> None:
    """Uses the parent's backend, until it raises that it cannot be used."""
    with contextlib.suppress(BackendError):
        # Often enough that the parent asks at the same time, on one core as well.
        for key in ours * 5:
            record = await backend.load(key)
            assert record is not None, "A record is lost in the child."
            assert record.data == key, "The child has the record of another key."
        for key in theirs:
            await backend.insert(key, make_record(key))
            record = await load_record(backend, key)
            assert record.data == key, "The child has the record of another key."
    with contextlib.suppress(BackendError):
        await backend.close()

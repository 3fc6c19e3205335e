"""How a backend connects, closes and is cancelled, as tests of a backend."""

from __future__ import annotations

import asyncio
import random

from tornado_sessions.backend import Record
from tornado_sessions.errors import BackendError
from tornado_sessions.testing.records import (
    BackendTests,
    load_record,
    make_record,
    new_key,
    new_keys,
    replace_record,
    run_together,
)


class ConnectingContract(BackendTests):
    """What holds from the first use of a backend until it is closed."""

    async def test_a_backend_is_made_without_a_running_loop(self) -> None:
        """A constructor needs no loop; the first use connects, inside one."""
        backend = await asyncio.to_thread(self.make_backend)
        self.addAsyncCleanup(backend.close)
        key = new_key()

        await backend.save(key, make_record(b"one"))

        self.assertEqual((await load_record(backend, key)).data, b"one")

    async def test_a_backend_may_be_closed_unused_and_twice(self) -> None:
        """To close is allowed at any time and any number of times."""
        unused, used = self.open_two()
        await used.save(new_key(), make_record(b"one"))

        for backend in (unused, used, unused, used):
            await backend.close()

    async def test_after_closing_a_backend_works_or_says_that_it_does_not(self) -> None:
        """A closed backend connects again or raises `.BackendError`, nothing else."""
        backend, key = self.open_backend(), new_key()
        await backend.save(new_key(), make_record(b"one"))
        await backend.close()

        try:
            await backend.ping()
            await backend.save(key, make_record(b"two"))
        except BackendError:
            return
        self.assertEqual((await load_record(backend, key)).data, b"two")

    async def test_closing_one_backend_leaves_the_others_open(self) -> None:
        """What other backends opened is theirs to close."""
        backend, other, key = *self.open_shared(), new_key()
        await backend.save(key, make_record(b"one"))
        await load_record(other, key)

        await backend.close()

        self.assertEqual((await load_record(other, key)).data, b"one")

    async def test_a_cancelled_load_never_answers_for_another_key(self) -> None:
        """Behaviour 68: after 200 cancelled loads each key has its own record."""
        backend, keys = self.open_backend(), new_keys(200)
        await run_together(backend.save(key, make_record(key)) for key in keys)
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
        await run_together(backend.save(key, make_record(key + b"old")) for key in keys)
        chance = random.Random(68)

        async def save_and_cancel(key: bytes) -> None:
            version = (await load_record(backend, key)).version
            save = backend.save(key, make_record(key + b"new", version))
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

"""Tests of requests that begin in one iteration, on stores that get batches."""

from __future__ import annotations

import abc
import asyncio
import tempfile
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado_sessions_sqlite import SQLiteBackend

from tests.shelf import BatchShelfBackend, ShelfServer
from tests.tokens import token_of
from tornado_sessions import Backend, BackendError, Session, Sessions, Vault
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import Settings
from tornado_sessions.testing.timers import LoopClock

if TYPE_CHECKING:
    _Case = unittest.IsolatedAsyncioTestCase
else:
    _Case = object

SIZES = (1, 2, 50)


class BatchFacts(_Case, metaclass=abc.ABCMeta):
    """What goes for every store."""

    @abc.abstractmethod
    def make_backend(self) -> Backend:
        """Returns a backend that was never used."""

    def setUp(self) -> None:
        self.backend = self.make_backend()
        self.vault = Vault(self.backend)
        self.sessions = Sessions(Settings(self.vault))
        # Another process, on the same store.
        self.elsewhere = Sessions(Settings(Vault(self.make_backend())))

    async def asyncTearDown(self) -> None:
        await self.sessions.close()
        await self.elsewhere.close()

    async def request(self, token: str | None, **values: Any) -> Session:
        """Loads a session and sets values, as a request does."""
        session = await self.sessions.load(token)
        session.update(values)
        await self.commit(session)
        return session

    async def commit(self, session: Session) -> None:
        await self.sessions.commits.commit(state_of(session))

    async def begun(self, size: int) -> list[str]:
        """Returns the tokens of new sessions, each with a number of its own."""
        requests = (self.request(None, number=n) for n in range(size))
        return [token_of(session) for session in await asyncio.gather(*requests)]

    async def values(self, tokens: list[str]) -> list[dict[str, Any]]:
        loaded = await asyncio.gather(*map(self.elsewhere.load, tokens))
        return [dict(session) for session in loaded]

    async def test_requests_of_many_sessions_keep_each_its_own(self) -> None:
        """Behaviour 41: created together, and changed together."""
        for size in SIZES:
            with self.subTest(size=size):
                tokens = await self.begun(size)
                await asyncio.gather(
                    *(self.request(token, mark=n) for n, token in enumerate(tokens))
                )

                self.assertEqual(
                    await self.values(tokens),
                    [{"number": n, "mark": n} for n in range(size)],
                )

    async def test_requests_of_one_session_beside_others_lose_nothing(self) -> None:
        """Behaviour 36: fifty requests of one, and one of each of the others."""
        for size in SIZES:
            with self.subTest(size=size):
                hot, *others = await self.begun(size)
                await asyncio.gather(
                    *(self.request(hot, **{f"key {n}": n}) for n in range(50)),
                    *(self.request(token, mark=0) for token in others),
                )

                first, *rest = await self.values([hot, *others])
                self.assertEqual(
                    first, {"number": 0} | {f"key {n}": n for n in range(50)}
                )
                self.assertEqual([values["mark"] for values in rest], [0] * len(rest))

    async def test_what_another_process_has_changed_is_merged(self) -> None:
        """Behaviour 36: the conflict of one is that of no other."""
        for size in SIZES:
            with self.subTest(size=size):
                tokens = await self.begun(size)
                loaded = await asyncio.gather(*map(self.sessions.load, tokens))
                for token in tokens[::3]:
                    session = await self.elsewhere.load(token)
                    session["theirs"] = 1
                    await self.elsewhere.commits.commit(state_of(session))
                for session in loaded:
                    session["ours"] = 1
                await asyncio.gather(*map(self.commit, loaded))

                for n, values in enumerate(await self.values(tokens)):
                    theirs = {} if n % 3 else {"theirs": 1}
                    self.assertEqual(values, {"number": n, "ours": 1} | theirs)

    async def test_a_cancelled_request_disturbs_no_other(self) -> None:
        """Behaviour 68: at whichever moment; its own change is whole or missing."""
        for moments in range(8):
            with self.subTest(moments=moments):
                tokens = await self.begun(50)
                requests = [
                    asyncio.ensure_future(self.request(token, mark=n))
                    for n, token in enumerate(tokens)
                ]
                for _ in range(moments):
                    await asyncio.sleep(0)
                for request in requests[::3]:
                    request.cancel()
                await asyncio.wait(requests)

                for n, values in enumerate(await self.values(tokens)):
                    if n % 3:
                        requests[n].result()
                        self.assertEqual(values, {"number": n, "mark": n})
                    else:
                        self.assertEqual(values | {"mark": n}, {"number": n, "mark": n})


class SQLiteBatchTest(BatchFacts, unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name).resolve() / "sessions.db"
        super().setUp()

    def make_backend(self) -> SQLiteBackend:
        return SQLiteBackend(self.path, timeout=20)


class ShelfBatchTest(BatchFacts, unittest.IsolatedAsyncioTestCase):
    backend: BatchShelfBackend
    server: ShelfServer

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = ShelfServer()
        cls.server.start()
        cls.addClassCleanup(cls.server.stop)

    def make_backend(self) -> BatchShelfBackend:
        return BatchShelfBackend(self.server.port, timeout=20)

    async def test_requests_that_begin_together_are_few_batches(self) -> None:
        """One that loads and one that stores, but for the operation that leaves first."""
        tokens = await self.begun(50)
        self.backend.batches.clear()
        await asyncio.gather(*(self.request(token, mark=1) for token in tokens))

        self.assertGreaterEqual(min(self.backend.batches), 24)
        self.assertGreaterEqual(sum(self.backend.batches), 98)

    async def test_a_load_that_fails_fails_one_request(self) -> None:
        """Behaviour 30: and the others are answered."""
        for size in SIZES:
            with self.subTest(size=size):
                tokens = await self.begun(size)
                self.backend.failing = {self.vault.key_of(tokens[-1])}
                outcomes = await asyncio.gather(
                    *(self.request(token, mark=1) for token in tokens),
                    return_exceptions=True,
                )

                self.assertIsInstance(outcomes.pop(), BackendError)
                self.assertEqual({type(each) for each in outcomes} - {Session}, set())

    async def test_a_write_that_fails_fails_one_request(self) -> None:
        """Behaviour 30: what the others have changed is stored."""
        for size in SIZES:
            with self.subTest(size=size):
                tokens = await self.begun(size)
                loaded = await asyncio.gather(*map(self.sessions.load, tokens))
                for session in loaded:
                    session["mark"] = 1
                self.backend.failing = {self.vault.key_of(tokens[-1])}
                outcomes = await asyncio.gather(
                    *map(self.commit, loaded), return_exceptions=True
                )
                self.backend.failing.clear()

                self.assertIsInstance(outcomes[-1], BackendError)
                self.assertEqual(outcomes[:-1], [None] * (size - 1))
                self.assertEqual(
                    ["mark" in values for values in await self.values(tokens)],
                    [True] * (size - 1) + [False],
                )

    async def test_a_batch_that_hangs_fails_its_requests_and_no_later_one(self) -> None:
        """Behaviour 66: each is told, and none of them is stored."""
        clock = LoopClock()
        for size in SIZES:
            with self.subTest(size=size):
                tokens = await self.begun(size)
                loaded = await asyncio.gather(*map(self.sessions.load, tokens))
                for session in loaded:
                    session["mark"] = 1
                self.backend.hanging = {self.vault.key_of(token) for token in tokens}
                commits = asyncio.gather(
                    *map(self.commit, loaded), return_exceptions=True
                )
                outcomes = await clock.outlast(commits, self.backend.timeout)
                self.backend.hanging.clear()

                self.assertEqual({type(each) for each in outcomes}, {BackendError})
                await self.request(tokens[0], late=1)
                first, *others = await self.values(tokens)
                self.assertEqual(first, {"number": 0, "late": 1})
                self.assertEqual(others, [{"number": n} for n in range(1, size)])


if __name__ == "__main__":
    unittest.main()

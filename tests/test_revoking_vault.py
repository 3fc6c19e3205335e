"""Tests of a store that cannot list the sessions of a user, and may forget records."""

from __future__ import annotations

import asyncio
import unittest
from typing import Any
from unittest import mock

from tornado_sessions_memory import MemoryBackend

from tornado_sessions import BackendError, Record, Sessions, Vault
from tornado_sessions.core import revoking_vault
from tornado_sessions.core.revoking_vault import RevokingVault
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import read_settings


class Cache(MemoryBackend):
    """Keeps records in the order in which they were stored, and lists none."""

    finds_by_user = False

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[bytes] = []
        self.loads = 0
        self.loading = 0
        self.most_at_once = 0
        self.failing: set[bytes] = set()

    async def load(self, key: bytes) -> Record | None:
        self.loads += 1
        self.loading += 1
        self.most_at_once = max(self.most_at_once, self.loading)
        await asyncio.sleep(0)
        self.loading -= 1
        if key in self.failing:
            raise BackendError("The cache is on fire.")
        return await super().load(key)

    async def insert(self, key: bytes, record: Record) -> Any:  # noqa: ANN401
        self.keys.append(key)
        return await super().insert(key, record)


class EndingTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.cache = Cache()
        self.sessions = Sessions(read_settings({"session_backend": self.cache}))
        self.time = 1_000_000.0
        self.sessions.now = lambda: self.time

    async def asyncTearDown(self) -> None:
        await self.sessions.close()

    async def test_a_backend_that_lists_nobody_can_end_all_sessions(self) -> None:
        """Behaviour 46: whichever backend that is."""
        assert isinstance(self.sessions.vault, RevokingVault)
        token = await self.signed_in()
        assert await self.user(token) == "ada"
        self.time += 1
        assert await self.sessions.revoke_all("ada") == 0
        assert await self.user(token) is None
        assert await self.user(await self.signed_in()) == "ada"

    async def test_a_user_whose_record_is_forgotten_is_signed_out(self) -> None:
        """Behaviours 46, 78: what may have been ended does not count, and stays so."""
        ended = await self.signed_in()
        self.time += 1
        await self.sessions.revoke_all("ada")
        self.time += 1
        alive = await self.signed_in()
        assert await self.user(alive) == "ada"
        await self.cache.delete(self.cache.keys[0])

        assert await self.user(alive) is None
        self.time += 1
        newest = await self.signed_in()
        assert await self.user(newest) == "ada"
        for token in (ended, alive):
            assert await self.user(token) is None

    async def test_both_records_are_loaded_at_once(self) -> None:
        """Behaviour 46: from the second request of a session on, in each process."""
        patched = mock.patch.object(revoking_vault, "_MOST_PLACES", 1)
        patched.start()
        self.addCleanup(patched.stop)
        first, second = await self.signed_in(), await self.signed_in()
        for token, at_once in (
            (first, 1),
            (first, 2),
            (second, 1),
            (first, 1),
            (first, 2),
        ):
            self.cache.loads = self.cache.most_at_once = 0
            assert await self.user(token) == "ada"
            assert (self.cache.loads, self.cache.most_at_once) == (2, at_once)

    async def test_a_visitor_costs_one_load(self) -> None:
        """Behaviour 12: where nobody is signed in, there is nothing else to load."""
        session = await self.sessions.load(None)
        session["a"] = 1
        await session.save()
        self.cache.loads = 0
        assert dict(await self.sessions.load(state_of(session).token)) == {"a": 1}
        await self.sessions.load("malformed")
        assert self.cache.loads == 1

    async def test_a_store_that_fails_lets_nobody_in(self) -> None:
        """Behaviour 30: whichever of the two records cannot be loaded."""
        token = await self.signed_in()
        for _ in range(2):
            for key in self.cache.keys:
                self.cache.failing = {key}
                with self.assertRaises(BackendError):
                    await self.sessions.load(token)
            self.cache.failing = set()
            assert await self.user(token) == "ada"

    async def test_an_old_id_is_superseded(self) -> None:
        """Behaviour 77: a logout with it ends what the session has become."""
        token = await self.signed_in()
        session = await self.sessions.load(token)
        session.regenerate()
        await session.save()
        old = await self.sessions.load(token)
        assert old.is_new
        old.destroy()
        await old.save()
        assert await self.user(state_of(session).token or "") is None

    async def test_a_backend_that_lists_sessions_needs_none_of_it(self) -> None:
        """Behaviour 12: it has the vault that it had."""
        settings = read_settings({"session_backend": MemoryBackend()})
        assert type(Sessions(settings).vault) is Vault

    async def signed_in(self) -> str:
        session = await self.sessions.load(None)
        session.login("ada")
        await session.save()
        return state_of(session).token or ""

    async def user(self, token: str) -> str | None:
        return (await self.sessions.load(token)).user

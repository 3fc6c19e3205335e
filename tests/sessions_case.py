"""Common code of the tests of `.Sessions`."""

from __future__ import annotations

import asyncio
import unittest
from typing import Any

from tornado_sessions_memory import MemoryBackend

from tests.tokens import token_of
from tornado_sessions import Session, Sessions, Vault
from tornado_sessions.core.codec import decode
from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import Settings
from tornado_sessions.testing import FaultyVault

START = 1_000_000.0
IDLE = 1_000.0
LIFETIME = 10_000.0
UNKNOWN = "A" * 43


class SessionsCase(unittest.IsolatedAsyncioTestCase):
    """Sessions in memory, with a clock that stands still, and all calls counted."""

    suspends = False

    def setUp(self) -> None:
        self.clock = START
        self.backend = MemoryBackend()
        self.vault = FaultyVault(Vault(self.backend), suspends=self.suspends)
        self.sessions = self.make(self.vault)
        # Another process, on the same store.
        self.elsewhere = self.make(Vault(self.backend))

    async def asyncTearDown(self) -> None:
        await self.sessions.close()
        await self.elsewhere.close()

    def make(self, vault: Vault, **settings: Any) -> Sessions:
        settings = {"idle_timeout": IDLE, "lifetime": LIFETIME, **settings}
        sessions = Sessions(Settings(vault, **settings))
        sessions.now = lambda: self.clock
        return sessions

    async def stored(self, values: dict[str, Any] | None = None) -> str:
        """Returns the token of a session that was stored a while ago."""
        session = await self.elsewhere.load(None)
        session.update(values or {"kept": 0})
        await self.elsewhere.commits.commit(state_of(session))
        return token_of(session)

    async def change_elsewhere(self, token: str, **values: Any) -> None:
        session = await self.elsewhere.load(token)
        session.update(values)
        await self.elsewhere.commits.commit(state_of(session))

    async def end_elsewhere(self, token: str) -> None:
        session = await self.elsewhere.load(token)
        session.destroy()
        await self.elsewhere.commits.commit(state_of(session))

    async def values(self, token: str | None) -> dict[str, Any]:
        """Returns what the next request sees, in any process."""
        return dict(await self.elsewhere.load(token))

    async def is_alive(self, token: str) -> bool:
        return not (await self.elsewhere.load(token)).is_new

    async def envelope(self, token: str | None) -> Envelope:
        assert token is not None
        record = await self.vault.inner.load(token)
        assert record is not None
        return decode(record.data)


class SlowCount:
    """The function of a transaction: it counts, and waits in between."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, session: Session) -> None:
        n = session.get("n", 0)
        self.begun.set()
        await self.go_on.wait()
        session["n"] = n + 1

"""A vault that lets other requests come first, at the worst moment."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.vault import Saved
from tornado_sessions.testing.faults import FaultyVault


class InterruptedVault(FaultyVault):
    """Lets another request come and go at the worst moment, once."""

    before_find: Callable[[], Awaitable[None]] | None = None
    before_end: Callable[[], Awaitable[None]] | None = None
    before_replace: Callable[[], Awaitable[None]] | None = None

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        interrupt, self.before_find = self.before_find, None
        if interrupt is not None:
            await interrupt()
        async for found in super().find(user):
            yield found

    async def replace_found(self, record: Record, version: Version) -> Version:
        interrupt, self.before_end = self.before_end, None
        if interrupt is not None:
            await interrupt()
        return await super().replace_found(record, version)

    async def replace(self, token: str, record: Record, version: Version) -> Saved:
        interrupt, self.before_replace = self.before_replace, None
        if interrupt is not None:
            await interrupt()
        return await super().replace(token, record, version)

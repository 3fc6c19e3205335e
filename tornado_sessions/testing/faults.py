"""Makes a real store fail, wait and count on command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.vault import HasEnded, Saved, Vault


class FaultyVault(Vault):
    """A vault around another one that fails and suspends when it is told to.

    Put it in place of the vault of an application's `.Sessions`::

        sessions = Sessions.of(app)
        sessions.vault = vault = FaultyVault(sessions.vault)
        vault.failing.add("save")
    """

    def __init__(self, inner: Vault, suspends: bool = False) -> None:
        self.inner = inner
        self.revocable = inner.revocable
        self.finds_by_user = inner.finds_by_user
        self.finds_all = inner.finds_all
        self.ends_users = inner.ends_users
        self.ends_copies = inner.ends_copies
        self.timeout = inner.timeout
        self._suspends = suspends
        #: Which of "load", "save", "delete", "find" and "ping" fail before they reach
        #: the store; "replace" is a save to a token that there is.
        self.failing: set[str] = set()
        #: The message of the error when the store fails.
        self.reason = "the disk of the store is on fire"
        #: What was asked of the store, in order.
        self.calls: list[str] = []
        #: Set it to an event to hold every operation until it is set. For a
        #: vault that suspends.
        self.gate: asyncio.Event | None = None

    async def load(self, token: str) -> Record | None:
        await self._enter("load")
        return await self.inner.load(token)

    async def insert(self, record: Record) -> Saved:
        await self._enter("save")
        return await self.inner.insert(record)

    async def replace(self, token: str, record: Record, version: Version) -> Saved:
        await self._enter("save")
        self._fail_if_told("replace")
        return await self.inner.replace(token, record, version)

    async def delete(self, token: str) -> None:
        await self._enter("delete")
        await self.inner.delete(token)

    async def end(
        self,
        token: str,
        now: float,
        kept_until: Callable[[bytes], float],
        successor: str | None = None,
    ) -> HasEnded | None:
        await self._enter("delete")
        return await self.inner.end(token, now, kept_until, successor)

    async def end_handle(self, user: str, handle: str, now: float) -> str | None:
        await self._enter("delete")
        return await self.inner.end_handle(user, handle, now)

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        await self._enter("find")
        async for found in self.inner.find(user):
            yield found

    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        await self._enter("find")
        async for found in self.inner.find_all():
            yield found

    async def load_found(self, key: bytes) -> Record | None:
        await self._enter("load")
        return await self.inner.load_found(key)

    async def replace_found(self, record: Record, version: Version) -> Version:
        await self._enter("save")
        self._fail_if_told("replace")
        return await self.inner.replace_found(record, version)

    async def delete_found(self, key: bytes) -> None:
        await self._enter("delete")
        await self.inner.delete_found(key)

    async def end_before(
        self, user: str, time: float, keep: str | None, since: float = 0.0
    ) -> float:
        await self._enter("save")
        return await self.inner.end_before(user, time, keep, since)

    async def not_before(self, user: str, time: float) -> float:
        await self._enter("load")
        return await self.inner.not_before(user, time)

    def key_of(self, token: str) -> bytes:
        return self.inner.key_of(token)

    def is_well_formed(self, token: str) -> bool:
        return self.inner.is_well_formed(token)

    def fingerprint(self, token: str) -> str:
        return self.inner.fingerprint(token)

    def fingerprint_found(self, key: bytes) -> str:
        return self.inner.fingerprint_found(key)

    async def ping(self) -> None:
        await self._enter("ping")
        await self.inner.ping()

    async def purge(self, now: float) -> int:
        return await self.inner.purge(now)

    async def close(self) -> None:
        await self.inner.close()

    async def _enter(self, operation: str) -> None:
        self.calls.append(operation)
        if self.gate is not None:
            await self.gate.wait()
        elif self._suspends:
            await asyncio.sleep(0)
        self._fail_if_told(operation)

    def _fail_if_told(self, operation: str) -> None:
        if operation in self.failing:
            raise BackendError(f"Cannot {operation} the session.") from OSError(
                self.reason
            )

"""The vault as the core calls it: a listener learns of its failures."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from tornado_sessions.core.events import Events
from tornado_sessions.core.tasks import Tasks
from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.vault import HasEnded, Saved, Vault

T = TypeVar("T")


class Store:
    """Loads and saves records through the vault of the application."""

    def __init__(self, vault: Vault, tasks: Tasks, events: Events) -> None:
        self.vault = vault
        self._tasks = tasks
        self._events = events
        # Which of "read" and "write" failed last.
        self._failing: set[str] = set()

    def load(self, token: str) -> Awaitable[Record | None]:
        """See `.Vault.load`."""
        work = self.vault.load(token)
        # Here and in `replace`, without a call: these are on the path of each request.
        return work if self._events.listener is None else self._told("read", work)

    def insert(self, record: Record) -> Awaitable[Saved]:
        """See `.Vault.insert`."""
        return self._watch("write", self.vault.insert(record))

    def replace(self, token: str, record: Record, version: Version) -> Awaitable[Saved]:
        """See `.Vault.replace`."""
        work = self.vault.replace(token, record, version)
        return work if self._events.listener is None else self._told("write", work)

    def delete(self, token: str) -> Awaitable[None]:
        """See `.Vault.delete`."""
        return self._watch("write", self.vault.delete(token))

    def end(
        self,
        token: str,
        now: float,
        kept_until: Callable[[bytes], float],
        successor: str | None,
    ) -> Awaitable[HasEnded | None]:
        """See `.Vault.end`."""
        return self._watch("write", self.vault.end(token, now, kept_until, successor))

    def end_handle(self, user: str, handle: str, now: float) -> Awaitable[str | None]:
        """See `.Vault.end_handle`."""
        return self._watch("write", self.vault.end_handle(user, handle, now))

    async def delete_unsent(self, token: str) -> None:
        """Removes the record of a token that no client will receive.

        One that cannot be removed expires.
        """
        with contextlib.suppress(BackendError):
            await self.delete(token)

    def delete_unsent_later(self, token: str) -> None:
        """Does so in the background, where the store has failed.

        After a timeout nobody is to wait for a second one.
        """
        self._tasks.start(self.delete_unsent(token))

    def load_found(self, key: bytes) -> Awaitable[Record | None]:
        """See `.Vault.load_found`."""
        return self._watch("read", self.vault.load_found(key))

    def replace_found(self, record: Record, version: Version) -> Awaitable[Version]:
        """See `.Vault.replace_found`."""
        return self._watch("write", self.vault.replace_found(record, version))

    def delete_found(self, key: bytes) -> Awaitable[None]:
        """See `.Vault.delete_found`."""
        return self._watch("write", self.vault.delete_found(key))

    def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        """See `.Vault.find`."""
        return self.vault.find(user)

    def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        """See `.Vault.find_all`."""
        return self.vault.find_all()

    def _watch(self, operation: str, work: Awaitable[T]) -> Awaitable[T]:
        return work if self._events.listener is None else self._told(operation, work)

    async def _told(self, operation: str, work: Awaitable[T]) -> T:
        """Tells when the store fails, and when it works again.

        One that can be read and not written to, as on a full disk, is down.
        """
        failing = self._failing
        try:
            result = await work
        except BackendError as error:
            if not failing:
                self._events.tell("store_down", reason=str(error))
            failing.add(operation)
            raise
        if operation in failing:
            failing.remove(operation)
            if not failing:
                self._events.tell("store_up")
        return result

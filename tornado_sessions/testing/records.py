"""Helpers for tests of a backend: backends, keys and records."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
import unittest
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, TypeVar

from tornado_sessions.storage.backend import Backend, Record

T = TypeVar("T")

if TYPE_CHECKING:
    _Case = unittest.IsolatedAsyncioTestCase
else:
    _Case = object

DAY = 86_400


class BackendTests(_Case):
    """Tests of a `.Backend`."""

    #: How many seconds a test waits, on a busy machine, for what would hang for ever.
    patience = 30.0

    def make_backend(self) -> Backend:
        """Returns a new backend.

        Where backends are ``shared``, all those of one test use the same store:
        each stands for another process. The test closes them.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define make_backend(), and return a new"
            " backend from it."
        )

    def open_backend(self) -> Backend:
        backend = self.make_backend()
        self.addAsyncCleanup(backend.close)
        return backend

    def open_two(self) -> tuple[Backend, Backend]:
        """Returns two backends on one store, or the same one twice if it is not shared."""
        backend = self.open_backend()
        return backend, self.open_backend() if backend.shared else backend

    def open_shared(self) -> tuple[Backend, Backend]:
        backend = self.open_backend()
        if not backend.shared:
            self.skipTest(f"{type(backend).__name__} does not declare shared.")
        return backend, self.open_backend()

    def open_finding(self) -> Backend:
        backend = self.open_backend()
        if not backend.finds_by_user:
            self.skipTest(f"{type(backend).__name__} does not declare finds_by_user.")
        return backend

    def open_listing(self) -> Backend:
        backend = self.open_backend()
        if not backend.finds_all:
            self.skipTest(f"{type(backend).__name__} does not declare finds_all.")
        return backend

    def open_purged(self) -> Backend:
        backend = self.open_backend()
        if type(backend).purge is Backend.purge:
            self.skipTest(f"{type(backend).__name__} leaves purging to its store.")
        return backend

    def max_bytes_of(self, backend: Backend) -> int:
        if backend.max_bytes is None:
            self.skipTest(f"{type(backend).__name__} declares no max_bytes.")
        return backend.max_bytes


def new_key() -> bytes:
    return secrets.token_bytes(32)


def new_keys(count: int) -> list[bytes]:
    return [new_key() for _ in range(count)]


def new_user() -> str:
    return secrets.token_hex(16)


def make_record(
    data: bytes, *, expires_in: float = 3600, user: str | None = None
) -> Record:
    return Record(data, expires=time.time() + expires_in, user=user)


async def load_record(backend: Backend, key: bytes) -> Record:
    record = await backend.load(key)
    assert record is not None, "The record is not in the store."
    return record


async def replace_record(
    backend: Backend,
    key: bytes,
    data: bytes,
    *,
    expires_in: float = 3600,
    user: str | None = None,
) -> None:
    """Saves ``data`` over what is stored now."""
    version = (await load_record(backend, key)).version
    record = make_record(data, expires_in=expires_in, user=user)
    stored = await backend.replace(key, record, version)
    assert stored is not None, "A version that was just loaded is not stored."


async def find_records(backend: Backend, user: str) -> list[tuple[bytes, Record]]:
    return [found async for found in backend.find(user)]


async def find_keys(backend: Backend, user: str) -> list[bytes]:
    return sorted(key for key, _ in await find_records(backend, user))


async def purge_all(backend: Backend, now: float | None = None) -> list[int]:
    """Purges until no record is left. Returns how many were removed each time."""
    now = time.time() if now is None else now
    counts = [await backend.purge(now)]
    while counts[-1]:
        counts.append(await backend.purge(now))
    return counts


def messages_of(error: BaseException | None) -> str:
    """Returns the messages of an error and of its causes."""
    if error is None:
        return ""
    return f"{error!r} {error} " + messages_of(error.__cause__ or error.__context__)


async def run_together(work: Iterable[Awaitable[T]], *, at_once: int = 50) -> list[T]:
    """Returns the results of ``work``, of which so much is in progress at once."""
    work, results = iter(work), list[T]()
    while some := list(itertools.islice(work, at_once)):
        results += await asyncio.gather(*some)
    return results

"""Calls the operations of a backend, one by one or in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeVar

from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.batches import Batches

# How long the records of one batch are together, at the most.
_MOST_BYTES = 2**23

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)


class Write(NamedTuple):
    """A write of one record."""

    key: bytes
    #: None to remove the record.
    record: Record | None = None
    #: The version to replace; None to insert the record.
    version: Version | None = None


class Plugin(Protocol[C_contra]):
    """What a backend implements; see `.DriverBackend`."""

    largest_batch: ClassVar[int]
    batches_at_once: ClassVar[int]
    max_bytes: int

    async def load_from(self, connection: C_contra, key: bytes) -> Record | None: ...
    async def insert_into(
        self, connection: C_contra, key: bytes, record: Record
    ) -> Version | None: ...
    async def replace_in(
        self, connection: C_contra, key: bytes, record: Record, version: Version
    ) -> Version | None: ...
    async def delete_from(self, connection: C_contra, key: bytes) -> None: ...
    async def load_many(
        self, connection: C_contra, keys: Sequence[bytes]
    ) -> Sequence[Record | Exception | None]: ...
    async def write_many(
        self, connection: C_contra, writes: Sequence[Write]
    ) -> Sequence[Version | Exception | None]: ...


class Operations(Generic[C]):
    """The operations of ``plugin``, each on the connection that it is called with.

    Loads are sent in batches if ``loads_many``, and writes if ``writes_many``.
    ``limit`` runs a batch with a timeout.
    """

    def __init__(
        self,
        plugin: Plugin[C],
        limit: Callable[[C, Awaitable[None]], Awaitable[None]],
        *,
        loads_many: bool,
        writes_many: bool,
    ) -> None:
        self._plugin = plugin
        self._limit = limit
        #: Loads the record of a key.
        self.load: Callable[[C, bytes], Awaitable[Record | None]] = (
            self._load_in_batch if loads_many else plugin.load_from
        )
        #: Does a `Write`.
        self.write: Callable[[C, Write], Awaitable[Version | None]] = (
            self._write_in_batch if writes_many else self._write_alone
        )
        # The batches of one connection in one event loop.
        self._connection: C | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loads: Batches[bytes, Record | None]
        self._writes: Batches[Write, Version | None]

    # Not coroutine functions: each would cost every operation a part of a microsecond.

    def _load_in_batch(self, connection: C, key: bytes) -> Awaitable[Record | None]:
        self._use(connection)
        return self._loads.send(key, key)

    def _write_in_batch(self, connection: C, write: Write) -> Awaitable[Version | None]:
        self._use(connection)
        return self._writes.send(write.key, write)

    async def _write_alone(self, connection: C, write: Write) -> Version | None:
        key, record, version = write
        if record is None:
            await self._plugin.delete_from(connection, key)
            return None
        if version is None:
            return await self._plugin.insert_into(connection, key, record)
        return await self._plugin.replace_in(connection, key, record, version)

    def _use(self, connection: C) -> None:
        """Begins anew for another connection, and in another event loop."""
        loop = asyncio.get_running_loop()
        if self._connection is connection and self._loop is loop:
            return
        self._connection, self._loop = connection, loop
        plugin = self._plugin
        limit = partial(self._limit, connection)
        at_once = plugin.batches_at_once
        largest = max(1, min(plugin.largest_batch, _MOST_BYTES // plugin.max_bytes))
        self._loads = Batches(
            partial(plugin.load_from, connection),
            partial(plugin.load_many, connection),
            limit,
            at_once=at_once,
            largest=largest,
            shares=True,
        )
        self._writes = Batches(
            partial(self._write_alone, connection),
            partial(plugin.write_many, connection),
            limit,
            at_once=at_once,
            largest=largest,
        )

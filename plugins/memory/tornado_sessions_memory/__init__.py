"""Keeps sessions in the memory of one process."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

import tornado.process

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Backend, Record, Version
from tornado_sessions.storage.options import read_options, split_url
from tornado_sessions_memory.table import Table

__all__ = ["MemoryBackend"]

_log = logging.getLogger("tornado_sessions")

# How many records one purge removes: half a millisecond of work, or one. Two batches may
# follow each other before a request has its turn.
_BATCH = 100

# How many times this process and its parents have been forked: to ask the operating
# system for the number of the process costs a call for each operation.
_generation = 0


def _note_fork() -> None:
    global _generation
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


class MemoryBackend(Backend):
    """Keeps sessions in the memory of this process, and loses them with it.

    Holds at most ``max_records`` sessions of at most ``max_bytes`` bytes each, and
    at most ``max_memory`` bytes in total: the data, and an estimate of what Python
    needs for each session. When it is full, others make room for what is saved:
    first the anonymous session that was not saved for the longest time. Where
    there is none, the oldest session of the user who has most.

    Of several processes each would know other sessions. So every operation
    raises `.BackendError` under `tornado.process`, and in a process other than
    the one that used the backend first; unless ``any_process`` says that
    sessions may differ from process to process.
    """

    durable = False
    shared = False
    finds_by_user = finds_all = True

    def __init__(
        self,
        *,
        max_records: int = 100_000,
        max_bytes: int = 65_536,
        max_memory: int = 268_435_456,
        any_process: bool = False,
    ) -> None:
        for name, value in (("max_records", max_records), ("max_bytes", max_bytes)):
            if value < 1:
                raise ValueError(
                    f"The option {name!r} must be a whole number above zero."
                )
        if max_memory < max_bytes:
            raise ValueError(
                "The option 'max_memory' must be at least as large as 'max_bytes'."
                " Raise the one or lower the other."
            )
        self.max_records = max_records
        self.max_bytes: int = max_bytes
        self.max_memory = max_memory
        self.any_process = any_process
        #: How many sessions have made room for others.
        self.evictions = 0
        # That of the first use.
        self._generation: int | None = None
        self._drop_all()

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> MemoryBackend:
        """Makes the backend of ``memory:``, or of ``memory:?max_records=…``.

        The options are those of the constructor. Raises `ValueError` for any
        other, for a number that cannot be used, and for a host or a path.
        """
        parts = split_url(url)
        if (
            parts is None
            or parts.netloc
            or parts.fragment
            or parts.path not in ("", "memory")
        ):
            raise ValueError(
                "The session backend 'memory' takes no host, path or fragment."
                " Write session_backend='memory:', and its options after a '?'."
            )
        return cls(**read_options("memory", parts.query, _OPTIONS))

    async def load(self, key: bytes) -> Record | None:
        if self._generation != _generation:
            self._enter_process()
        stored = self._table.shards[key[0]].get(key)
        return None if stored is None else Record(stored.data, stored)

    async def insert(self, key: bytes, record: Record) -> Version | None:
        if self._generation != _generation:
            self._enter_process()
        table = self._table
        if key in table.shards[key[0]]:
            return None
        version = table.insert(key, record)
        if table.count > self.max_records or table.memory > self.max_memory:
            self._make_room(key)
        return version

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        if self._generation != _generation:
            self._enter_process()
        table = self._table
        stored = table.shards[key[0]].get(key)
        if stored is None or stored is not version:
            return None
        stored = table.replace(stored, record)
        if table.memory > self.max_memory:
            self._make_room(key)
        return stored

    async def delete(self, key: bytes) -> None:
        if self._generation != _generation:
            self._enter_process()
        stored = self._table.shards[key[0]].get(key)
        if stored is not None:
            self._table.remove(stored)

    async def purge(self, now: float) -> int:
        """Removes up to 100 of the records that expired before ``now``.

        They go in the order of their expiry, each up to a second late.
        """
        if self._generation != _generation:
            self._enter_process()
        return self._table.purge(now, _BATCH)

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        if self._generation != _generation:
            self._enter_process()
        for key in self._table.keys_of(user):
            # The caller may delete and save between two records.
            stored = self._table.shards[key[0]].get(key)
            if stored is not None and stored.owner.name == user:
                yield key, Record(stored.data, stored)

    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        if self._generation != _generation:
            self._enter_process()
        for number in range(256):
            # Also where none of a shard has a user.
            await asyncio.sleep(0)
            for key in [*self._table.shards[number]]:
                # The caller may delete and save between two records.
                stored = self._table.shards[number].get(key)
                if stored is not None and stored.owner.name is not None:
                    yield key, Record(stored.data, stored, user=stored.owner.name)

    async def close(self) -> None:
        """Drops all records; the backend can be used again."""
        self._drop_all()

    @property
    def memory(self) -> int:
        """How many bytes all sessions take: their data, and an estimate of the rest."""
        return self._table.memory

    def __repr__(self) -> str:
        return (
            f"<MemoryBackend {self._table.count} of {self.max_records} records,"
            f" {self.memory} of {self.max_memory} bytes>"
        )

    def _enter_process(self) -> None:
        if self.any_process or (
            self._generation is None and tornado.process.task_id() is None
        ):
            self._generation = _generation
            return
        raise BackendError(
            "The session backend 'memory' keeps the sessions of one process, and"
            f" process {os.getpid()} was forked to share its work with others, which"
            " would not know its sessions. Use a backend that processes share, such"
            " as 'sqlite'; or, where a visitor always comes back to the same"
            " process, session_backend='memory:?any_process=true'."
        )

    def _drop_all(self) -> None:
        self._table = Table()
        self._warned: set[str] = set()

    def _make_room(self, saved: bytes) -> None:
        """Ends other sessions until both bounds are kept, but not the one just saved."""
        table = self._table
        while table.count > 1:
            if table.count > self.max_records:
                self._warn("max_records", self.max_records, "sessions")
            elif table.memory > self.max_memory:
                self._warn("max_memory", self.max_memory, "bytes")
            else:
                return
            key = table.owners.next_to_go(saved)
            table.remove(table.shards[key[0]][key])
            self.evictions += 1

    def _warn(self, option: str, bound: int, unit: str) -> None:
        if option in self._warned:
            return
        self._warned.add(option)
        _log.warning(
            "The session backend 'memory' is full: it holds at most %d %s, and from now"
            " on what is saved ends other sessions, anonymous ones first. Allow for"
            " more with session_backend='memory:?%s=%d', or use a backend that keeps"
            " sessions on disk, such as 'sqlite'.",
            bound,
            unit,
            option,
            bound * 10,
        )


_OPTIONS = {
    "max_records": int,
    "max_bytes": int,
    "max_memory": int,
    "any_process": bool,
}

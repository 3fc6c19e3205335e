"""Keeps sessions in the memory of one process."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec
import tornado.process

from tornado_sessions.backend import Backend, Record
from tornado_sessions.errors import BackendError, ConflictError
from tornado_sessions.options import read_options

__all__ = ["MemoryBackend"]

_log = logging.getLogger("tornado_sessions")

# How many records one purge removes: a millisecond or two of work.
_BATCH = 250

# How many seconds, at most, one purge has to put in order.
_SLOT = 900


# When a record expires that never does: later than any purge asks.
_NEVER = 2**62


class _Chain(msgspec.Struct, gc=False, eq=False):
    """The two ends of a chain of entries."""

    first: bytes | None = None
    last: bytes | None = None


class _Second(_Chain, gc=False, eq=False):
    """The entries that expire in one second, or in the fraction before it."""

    end: int = 0


# An entry stands in up to three chains: with those saved before and after it,
# with those that expire in the same second, and with those of the same user. It
# knows its neighbours by their keys, not as objects: so it refers to nothing
# that refers to anything, and the garbage collector, which would take a second
# to look through a million sessions, has nothing to look at.
class _Entry(msgspec.Struct, gc=False, eq=False):
    """A record as it is stored. It is the record's version, too."""

    key: bytes
    data: bytes
    user: str | None
    second: _Second
    older: bytes | None = None
    newer: bytes | None = None
    before: bytes | None = None
    after: bytes | None = None
    previous: bytes | None = None
    next: bytes | None = None


class MemoryBackend(Backend):
    """Keeps sessions in the memory of this process, and loses them with it.

    Holds at most ``max_records`` sessions of at most ``max_bytes`` bytes each.
    When it is full, the session that was not saved for the longest time makes
    room for a new one: an anonymous one if there is any, else one of a user.

    Of several processes each would know other sessions. So every operation
    raises `.BackendError` under `tornado.process`, and in a process other than
    the one that used the backend first; unless ``any_process`` says that
    sessions may differ from process to process.
    """

    durable = False
    shared = False
    lists_users = True
    immediate = True

    def __init__(
        self,
        *,
        max_records: int = 100_000,
        max_bytes: int = 1_048_576,
        any_process: bool = False,
    ) -> None:
        for name, value in (("max_records", max_records), ("max_bytes", max_bytes)):
            if value < 1:
                raise ValueError(
                    f"The option {name!r} must be a whole number above zero, not"
                    f" {value!r}."
                )
        self.max_records = max_records
        self.max_bytes: int = max_bytes
        self.any_process = any_process
        #: How many sessions have made room for others.
        self.evictions = 0
        self._process = 0
        self._drop_all()

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> MemoryBackend:
        """Makes the backend of ``memory:?max_records=…&max_bytes=…&any_process=…``.

        All options may be left out. Raises `ValueError` for any other, for a
        number that is not a whole one above zero, and for a host or a path.
        """
        parts = urlsplit(url)
        if parts.netloc or parts.fragment or parts.path not in ("", "memory"):
            raise ValueError(
                "The session backend 'memory' takes no host, path or fragment."
                " Write session_backend='memory:', and its options after a '?'."
            )
        return cls(**read_options("memory", parts.query, _OPTIONS))

    async def load(self, key: bytes) -> Record | None:
        if os.getpid() != self._process:
            self._enter_process()
        stored = self._shards[key[0]].get(key)
        return None if stored is None else Record(stored.data, stored)

    async def save(self, key: bytes, record: Record) -> None:
        if os.getpid() != self._process:
            self._enter_process()
        self.check_size(record)
        stored = self._shards[key[0]].get(key)
        if stored is not record.version:
            raise ConflictError("Another version of the session is stored, or none.")
        if stored is None:
            self._make_room()
            self._count += 1
        else:
            self._unlink(stored)
            # One object for each key, however many requests bring their own.
            key = stored.key
        self._link(key, record)

    async def delete(self, key: bytes) -> None:
        if os.getpid() != self._process:
            self._enter_process()
        stored = self._shards[key[0]].get(key)
        if stored is not None:
            self._remove(stored)

    async def purge(self, now: float) -> int:
        """Removes up to 250 of the records that expired before ``now``.

        They go in the order of their expiry, each up to a second late.
        """
        if os.getpid() != self._process:
            self._enter_process()
        removed = 0
        while self._slots:
            slot = self._slots[min(self._slots)]
            for end in sorted(slot):
                if end >= now:
                    return removed
                second = slot[end]
                while second.first is not None:
                    if removed == _BATCH:
                        return removed
                    self._remove(self._entry(second.first))
                    removed += 1
        return removed

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        if os.getpid() != self._process:
            self._enter_process()
        keys = []
        key = self._newest_of(user).get(user)
        while key is not None:
            keys.append(key)
            key = self._entry(key).next
        for key in keys:
            # Whoever asks may delete and save between two answers.
            stored = self._shards[key[0]].get(key)
            if stored is not None and stored.user == user:
                yield key, Record(stored.data, stored)

    async def close(self) -> None:
        """Drops all records; the backend can be used again."""
        self._drop_all()

    def __repr__(self) -> str:
        return f"<MemoryBackend {self._count} of {self.max_records} records>"

    def _enter_process(self) -> None:
        if self.any_process or (
            not self._process and tornado.process.task_id() is None
        ):
            self._process = os.getpid()
            return
        raise BackendError(
            "The session backend 'memory' keeps the sessions of one process, and"
            f" process {os.getpid()} was forked to share its work with others, which"
            " would not know its sessions. Use a backend that processes share, such"
            " as 'sqlite'; or, where a visitor always comes back to the same"
            " process, session_backend='memory:?any_process=true'."
        )

    def _drop_all(self) -> None:
        # In 256 parts, by the first byte of the key and by the hash of the user:
        # one dict of a million would stop the loop for long whenever it grows.
        self._shards: list[dict[bytes, _Entry]] = [{} for _ in range(256)]
        self._count = 0
        self._anonymous = _Chain()
        self._signed_in = _Chain()
        self._users: list[dict[str, bytes]] = [{} for _ in range(256)]
        # By the slot, so that the earliest second is found among few.
        self._slots: dict[int, dict[int, _Second]] = {}
        self._warned = False

    def _entry(self, key: bytes) -> _Entry:
        return self._shards[key[0]][key]

    def _newest_of(self, user: str) -> dict[str, bytes]:
        return self._users[hash(user) & 255]

    def _make_room(self) -> None:
        if self._count < self.max_records:
            return
        if not self._warned:
            self._warned = True
            _log.warning(
                "The session backend 'memory' is full: from now on each new session"
                " ends one of the %d that it holds, anonymous ones first. Allow for"
                " more with session_backend='memory:?max_records=%d', or use a"
                " backend that keeps sessions on disk, such as 'sqlite'.",
                self.max_records,
                self.max_records * 10,
            )
        oldest = self._anonymous.first or self._signed_in.first
        assert oldest is not None
        self._remove(self._entry(oldest))
        self.evictions += 1

    def _remove(self, entry: _Entry) -> None:
        self._unlink(entry)
        del self._shards[entry.key[0]][entry.key]
        self._count -= 1

    def _link(self, key: bytes, record: Record) -> None:
        shards, data, user = self._shards, record.data, record.user
        if type(data) is not bytes:
            # It would change, or keep alive what it was cut from.
            data = bytes(data)
        second = self._second(record.expires)
        entry = _Entry(key, data, user, second)
        shards[key[0]][key] = entry

        ages = self._anonymous if user is None else self._signed_in
        if (last := ages.last) is None:
            ages.first = key
        else:
            shards[last[0]][last].newer = key
            entry.older = last
        ages.last = key

        if (last := second.last) is None:
            second.first = key
        else:
            shards[last[0]][last].after = key
            entry.before = last
        second.last = key

        if user is not None:
            newest_of = self._newest_of(user)
            entry.next = newest_of.get(user)
            if entry.next is not None:
                self._entry(entry.next).previous = key
            newest_of[user] = key

    def _unlink(self, entry: _Entry) -> None:
        shards, user, second = self._shards, entry.user, entry.second

        ages = self._anonymous if user is None else self._signed_in
        older, newer = entry.older, entry.newer
        if older is None:
            ages.first = newer
        else:
            shards[older[0]][older].newer = newer
        if newer is None:
            ages.last = older
        else:
            shards[newer[0]][newer].older = older

        before, after = entry.before, entry.after
        if before is None:
            second.first = after
        else:
            shards[before[0]][before].after = after
        if after is None:
            second.last = before
        else:
            shards[after[0]][after].before = before
        if second.first is None:
            self._forget(second)

        if user is not None:
            if entry.next is not None:
                self._entry(entry.next).previous = entry.previous
            if entry.previous is not None:
                self._entry(entry.previous).next = entry.next
            elif entry.next is not None:
                self._newest_of(user)[user] = entry.next
            else:
                del self._newest_of(user)[user]

    def _second(self, expires: float) -> _Second:
        end = math.ceil(expires) if expires else _NEVER
        slot = self._slots.get(end // _SLOT)
        if slot is None:
            slot = self._slots[end // _SLOT] = {}
        second = slot.get(end)
        if second is None:
            second = slot[end] = _Second(end=end)
        return second

    def _forget(self, second: _Second) -> None:
        slot = self._slots[second.end // _SLOT]
        del slot[second.end]
        if not slot:
            del self._slots[second.end // _SLOT]


_OPTIONS = {"max_records": int, "max_bytes": int, "any_process": bool}

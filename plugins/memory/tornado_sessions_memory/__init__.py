"""Keeps sessions in the memory of one process."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import tornado.process

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Backend, Record, Version
from tornado_sessions.storage.options import read_options, split_url

__all__ = ["MemoryBackend"]

_log = logging.getLogger("tornado_sessions")

# How many records one purge removes: a millisecond or two of work.
_BATCH = 250

# How many seconds, at most, one purge has to put in order.
_SLOT = 900


# When a record expires that never does: later than any purge asks.
_NEVER = 2**62


# What a session takes beside its data, in bytes: its key, its entry, and its share
# of the dicts and of the chains. And what a user takes beside the name.
_RECORD_OVERHEAD = 384
_USER_OVERHEAD = 112


class _Chain(msgspec.Struct, gc=False, eq=False):
    """The two ends of a chain of entries."""

    first: bytes | None = None
    last: bytes | None = None


class _Second(_Chain, gc=False, eq=False):
    """The entries that expire in one second, or in the fraction before it."""

    end: int = 0


class _Owner(_Chain, gc=False, eq=False):
    """The entries of one user, or all anonymous ones, in the order of their saves."""

    #: None for the anonymous ones.
    name: str | None = None
    count: int = 0
    # The neighbours among the users who have as many sessions.
    before: str | None = None
    after: str | None = None


class _Peers(msgspec.Struct, gc=False, eq=False):
    """The users who have as many sessions; whoever saved last is the last one."""

    first: str | None = None
    last: str | None = None


# An entry is part of two chains: of those of the same owner, in the order of their
# saves, and of those that expire in the same second. It knows its neighbours by
# their keys, not as objects, and a user knows other users by their names: so
# nothing refers to anything that refers back, and the garbage collector, which
# would take a second to look through a million sessions, has nothing to look at.
class _Entry(msgspec.Struct, gc=False, eq=False):
    """A record as it is stored. It is the record's version, too."""

    key: bytes
    data: bytes
    owner: _Owner
    second: _Second
    older: bytes | None = None
    newer: bytes | None = None
    before: bytes | None = None
    after: bytes | None = None


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
    finds_by_user = True

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
        self._process = 0
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
        if os.getpid() != self._process:
            self._enter_process()
        stored = self._shards[key[0]].get(key)
        return None if stored is None else Record(stored.data, stored)

    async def insert(self, key: bytes, record: Record) -> Version | None:
        if os.getpid() != self._process:
            self._enter_process()
        if key in self._shards[key[0]]:
            return None
        self._count += 1
        return self._store(key, record, self._gain(record.user))

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        if os.getpid() != self._process:
            self._enter_process()
        stored = self._shards[key[0]].get(key)
        if stored is None or stored is not version:
            return None
        self._unlink(stored)
        owner = stored.owner
        if owner.name != record.user:
            self._lose(owner)
            owner = self._gain(record.user)
        elif owner.name is not None:
            self._touch(owner, owner.name)
        # One object for each key, however many requests bring their own.
        return self._store(stored.key, record, owner)

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
        owner = self._users[hash(user) & 255].get(user)
        key = None if owner is None else owner.last
        while key is not None:
            keys.append(key)
            key = self._entry(key).older
        for key in keys:
            # Whoever asks may delete and save between two answers.
            stored = self._shards[key[0]].get(key)
            if stored is not None and stored.owner.name == user:
                yield key, Record(stored.data, stored)

    async def close(self) -> None:
        """Drops all records; the backend can be used again."""
        self._drop_all()

    @property
    def memory(self) -> int:
        """How many bytes all sessions take: their data, and an estimate of the rest."""
        return self._memory

    def __repr__(self) -> str:
        return (
            f"<MemoryBackend {self._count} of {self.max_records} records,"
            f" {self._memory} of {self.max_memory} bytes>"
        )

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
        self._memory = 0
        self._anonymous = _Owner()
        self._users: list[dict[str, _Owner]] = [{} for _ in range(256)]
        # By how many sessions they have, and the highest such number.
        self._peers: dict[int, _Peers] = {}
        self._most = 0
        # By the slot, so that the earliest second is found among few.
        self._slots: dict[int, dict[int, _Second]] = {}
        self._warned: set[str] = set()

    def _entry(self, key: bytes) -> _Entry:
        return self._shards[key[0]][key]

    # Making room.

    def _make_room(self, saved: bytes) -> None:
        """Ends other sessions until both bounds are kept, but not the one just saved."""
        while self._count > 1:
            if self._count > self.max_records:
                self._warn("max_records", self.max_records, "sessions")
            elif self._memory > self.max_memory:
                self._warn("max_memory", self.max_memory, "bytes")
            else:
                return
            oldest = self._anonymous.first
            if oldest is None or oldest == saved:
                oldest = self._oldest_of_most(saved)
            self._remove(self._entry(oldest))
            self.evictions += 1

    def _oldest_of_most(self, saved: bytes) -> bytes:
        """Returns the oldest session of a user who has most, and never ``saved``."""
        user = self._peers[self._most].first
        assert user is not None
        owner = self._owner(user)
        if owner.first == saved:
            # It is their only one, so nobody has more; and there is somebody else.
            assert owner.after is not None
            owner = self._owner(owner.after)
        assert owner.first is not None
        return owner.first

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

    def _remove(self, entry: _Entry) -> None:
        self._unlink(entry)
        self._lose(entry.owner)
        del self._shards[entry.key[0]][entry.key]
        self._count -= 1

    def _store(self, key: bytes, record: Record, owner: _Owner) -> _Entry:
        entry = self._link(key, record, owner)
        if self._count > self.max_records or self._memory > self.max_memory:
            self._make_room(key)
        return entry

    # The chains of entries.

    def _link(self, key: bytes, record: Record, owner: _Owner) -> _Entry:
        shards, data = self._shards, record.data
        if type(data) is not bytes:
            # It would change, or keep alive what it was cut from.
            data = bytes(data)
        second = self._second(record.expires)
        entry = _Entry(key, data, owner, second)
        shards[key[0]][key] = entry
        self._memory += len(data) + _RECORD_OVERHEAD

        if (last := owner.last) is None:
            owner.first = key
        else:
            shards[last[0]][last].newer = key
            entry.older = last
        owner.last = key

        if (last := second.last) is None:
            second.first = key
        else:
            shards[last[0]][last].after = key
            entry.before = last
        second.last = key
        return entry

    def _unlink(self, entry: _Entry) -> None:
        shards, owner, second = self._shards, entry.owner, entry.second
        self._memory -= len(entry.data) + _RECORD_OVERHEAD

        older, newer = entry.older, entry.newer
        if older is None:
            owner.first = newer
        else:
            shards[older[0]][older].newer = newer
        if newer is None:
            owner.last = older
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

    # The users, by how many sessions each has.

    def _owner(self, user: str) -> _Owner:
        return self._users[hash(user) & 255][user]

    def _gain(self, user: str | None) -> _Owner:
        """Returns the owner of what is saved for ``user``, who has one more now."""
        if user is None:
            return self._anonymous
        users = self._users[hash(user) & 255]
        owner = users.get(user)
        if owner is None:
            owner = users[user] = _Owner(name=user)
            self._memory += _size_of(user)
        else:
            self._leave(owner)
        owner.count += 1
        self._enter(owner, user)
        return owner

    def _lose(self, owner: _Owner) -> None:
        """Notes that ``owner`` has one session less."""
        if (user := owner.name) is None:
            return
        self._leave(owner)
        owner.count -= 1
        if owner.count:
            self._enter(owner, user)
        else:
            del self._users[hash(user) & 255][user]
            self._memory -= _size_of(user)

    def _touch(self, owner: _Owner, user: str) -> None:
        """Makes ``owner`` the last of its peers."""
        if owner.after is not None:
            self._leave(owner)
            self._enter(owner, user)

    def _enter(self, owner: _Owner, user: str) -> None:
        peers = self._peers.get(owner.count)
        if peers is None:
            peers = self._peers[owner.count] = _Peers(user)
        elif peers.last is not None:
            self._owner(peers.last).after = user
        owner.before, owner.after, peers.last = peers.last, None, user
        self._most = max(self._most, owner.count)

    def _leave(self, owner: _Owner) -> None:
        peers, before, after = self._peers[owner.count], owner.before, owner.after
        if before is None:
            peers.first = after
        else:
            self._owner(before).after = after
        if after is None:
            peers.last = before
        else:
            self._owner(after).before = before
        if peers.first is None:
            del self._peers[owner.count]
            if owner.count == self._most:
                # Whoever leaves had one more than the next, or goes there now.
                self._most -= 1


def _size_of(user: str) -> int:
    """Returns what a user takes beside their sessions, in bytes."""
    return sys.getsizeof(user) + _USER_OVERHEAD


_OPTIONS = {
    "max_records": int,
    "max_bytes": int,
    "max_memory": int,
    "any_process": bool,
}

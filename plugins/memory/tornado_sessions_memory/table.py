"""The entries by their keys, each linked to the others of its chains."""

from __future__ import annotations

from tornado_sessions.storage.backend import Record
from tornado_sessions_memory.entries import Entry, Owner
from tornado_sessions_memory.expiry import Expiry
from tornado_sessions_memory.owners import Owners

# What a session takes beside its data, in bytes: its key, its entry, and its share
# of the dicts and of the chains.
_RECORD_OVERHEAD = 384


class Table:
    """All entries: by key, by owner, and by expiry."""

    def __init__(self) -> None:
        #: In 256 parts, by the first byte of the key: one dict of a million would
        #: stop the event loop for long whenever it grows.
        self.shards: list[dict[bytes, Entry]] = [{} for _ in range(256)]
        self.count = 0
        self.owners = Owners()
        self.expiry = Expiry()
        self._memory = 0

    @property
    def memory(self) -> int:
        """How many bytes all entries take: their data, and an estimate of the rest."""
        return self._memory + self.owners.memory

    def insert(self, key: bytes, record: Record) -> Entry:
        """Stores a record under a key that has none."""
        self.count += 1
        return self._link(key, record, self.owners.gain(record.user))

    def replace(self, entry: Entry, record: Record) -> Entry:
        """Stores a record in the place of ``entry``."""
        self._unlink(entry)
        owner = entry.owner
        if owner.name != record.user:
            self.owners.lose(owner)
            owner = self.owners.gain(record.user)
        elif owner.name is not None:
            self.owners.touch(owner, owner.name)
        # One object for each key, however many requests bring their own.
        return self._link(entry.key, record, owner)

    def remove(self, entry: Entry) -> None:
        self._unlink(entry)
        self.owners.lose(entry.owner)
        del self.shards[entry.key[0]][entry.key]
        self.count -= 1

    def keys_of(self, user: str) -> list[bytes]:
        """Returns the keys of a user's entries, the one that was saved last first."""
        keys = []
        owner = self.owners.find(user)
        key = None if owner is None else owner.last
        while key is not None:
            keys.append(key)
            key = self.shards[key[0]][key].older
        return keys

    def purge(self, now: float, count: int) -> int:
        """Removes at most ``count`` of those that expired before ``now``.

        They go in the order of their expiry, each up to a second late.
        """
        removed = 0
        while seconds := self.expiry.earliest(now, count):
            for second in seconds:
                while (key := second.first) is not None:
                    if removed == count:
                        return removed
                    self.remove(self.shards[key[0]][key])
                    removed += 1
        return removed

    def _link(self, key: bytes, record: Record, owner: Owner) -> Entry:
        shards, data = self.shards, record.data
        if type(data) is not bytes:
            # It would change, or keep alive what it was cut from.
            data = bytes(data)
        second = self.expiry.second(record.expires)
        entry = Entry(key, data, owner, second)
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

    def _unlink(self, entry: Entry) -> None:
        shards, owner, second = self.shards, entry.owner, entry.second
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
            self.expiry.forget(second)

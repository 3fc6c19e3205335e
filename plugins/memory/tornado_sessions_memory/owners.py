"""Whose the entries are, and which one makes room for others."""

from __future__ import annotations

import sys

from tornado_sessions_memory.entries import Owner, Peers

# What a user takes beside the name, in bytes.
_USER_OVERHEAD = 112


class Owners:
    """The users, by how many sessions each has, and the owner of anonymous sessions."""

    def __init__(self) -> None:
        self.anonymous = Owner()
        #: In 256 parts, by the hash of the user, see `.Table.shards`.
        self.users: list[dict[str, Owner]] = [{} for _ in range(256)]
        #: By how many sessions they have, and the highest such number.
        self.peers: dict[int, Peers] = {}
        self.most = 0
        #: What the users take beside their sessions, in bytes.
        self.memory = 0

    def find(self, user: str) -> Owner | None:
        return self.users[hash(user) & 255].get(user)

    def gain(self, user: str | None) -> Owner:
        """Returns the owner of what is saved for ``user``, who has one more now."""
        if user is None:
            return self.anonymous
        users = self.users[hash(user) & 255]
        owner = users.get(user)
        if owner is None:
            owner = users[user] = Owner(name=user)
            self.memory += _size_of(user)
        else:
            self._leave(owner)
        owner.count += 1
        self._enter(owner, user)
        return owner

    def lose(self, owner: Owner) -> None:
        """Notes that ``owner`` has one session less."""
        if (user := owner.name) is None:
            return
        self._leave(owner)
        owner.count -= 1
        if owner.count:
            self._enter(owner, user)
        else:
            del self.users[hash(user) & 255][user]
            self.memory -= _size_of(user)

    def touch(self, owner: Owner, user: str) -> None:
        """Makes ``owner`` the last of its peers."""
        if owner.after is not None:
            self._leave(owner)
            self._enter(owner, user)

    def next_to_go(self, saved: bytes) -> bytes:
        """Returns the key of the session that makes room, and never ``saved``.

        It is the anonymous session that was not saved for the longest time. Where
        there is none, it is the oldest one of a user who has most.
        """
        oldest = self.anonymous.first
        if oldest is not None and oldest != saved:
            return oldest
        user = self.peers[self.most].first
        assert user is not None
        owner = self._owner(user)
        if owner.first == saved:
            # It is their only one, so nobody has more; and there is somebody else.
            assert owner.after is not None
            owner = self._owner(owner.after)
        assert owner.first is not None
        return owner.first

    def _owner(self, user: str) -> Owner:
        return self.users[hash(user) & 255][user]

    def _enter(self, owner: Owner, user: str) -> None:
        peers = self.peers.get(owner.count)
        if peers is None:
            peers = self.peers[owner.count] = Peers(user)
        elif peers.last is not None:
            self._owner(peers.last).after = user
        owner.before, owner.after, peers.last = peers.last, None, user
        self.most = max(self.most, owner.count)

    def _leave(self, owner: Owner) -> None:
        peers, before, after = self.peers[owner.count], owner.before, owner.after
        if before is None:
            peers.first = after
        else:
            self._owner(before).after = after
        if after is None:
            peers.last = before
        else:
            self._owner(after).before = before
        if peers.first is None:
            del self.peers[owner.count]
            if owner.count == self.most:
                # Whoever leaves had one more than the next, or goes there now.
                self.most -= 1


def _size_of(user: str) -> int:
    """Returns what a user takes beside their sessions, in bytes."""
    return sys.getsizeof(user) + _USER_OVERHEAD

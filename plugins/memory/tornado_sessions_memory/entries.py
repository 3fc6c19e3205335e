"""What is stored: entries, and the chains that they are part of.

An entry is part of two chains: of those of the same owner, in the order of their
saves, and of those that expire in the same second. It knows its neighbours by their
keys, not as objects, and a user knows other users by their names. So nothing refers
to anything that refers back, and the garbage collector, which would take a second
to look through a million sessions, has nothing to look at.
"""

from __future__ import annotations

import msgspec


class Chain(msgspec.Struct, gc=False, eq=False):
    """The two ends of a chain of entries."""

    first: bytes | None = None
    last: bytes | None = None


class Second(Chain, gc=False, eq=False):
    """The entries that expire in one second, or in the fraction before it."""

    end: int = 0


class Owner(Chain, gc=False, eq=False):
    """The entries of one user, or all anonymous ones, in the order of their saves."""

    #: None for the anonymous ones.
    name: str | None = None
    count: int = 0
    #: The neighbours among the users who have as many sessions.
    before: str | None = None
    after: str | None = None


class Peers(msgspec.Struct, gc=False, eq=False):
    """The users who have as many sessions; whoever saved last is the last one."""

    first: str | None = None
    last: str | None = None


class Entry(msgspec.Struct, gc=False, eq=False):
    """A record as it is stored. It is the record's version, too."""

    key: bytes
    data: bytes
    owner: Owner
    second: Second
    #: The neighbours among the entries of the owner.
    older: bytes | None = None
    newer: bytes | None = None
    #: The neighbours among the entries of the second.
    before: bytes | None = None
    after: bytes | None = None

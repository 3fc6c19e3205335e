"""Draws versions of records, for stores that draw none."""

from __future__ import annotations

import itertools
import os
import secrets

_numbers = itertools.count()


def new_version() -> int:
    """Returns a version that no other write has, in this process or another.

    It has at most 63 bits. It is taken before the write and stored with it, so the
    store need not report it. ``version + 1`` would not do: it begins again when a
    key is deleted and inserted again.
    """
    return next(_numbers)


def _begin() -> None:
    # A counter from a random start: to ask the operating system for a random number
    # costs ten times as much.
    global _numbers
    _numbers = itertools.count(secrets.randbits(62))


_begin()
# Parent and child would otherwise go on with the same numbers.
os.register_at_fork(after_in_child=_begin)

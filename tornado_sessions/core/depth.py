"""Finds out how deep JSON is nested, without decoding it."""

from __future__ import annotations

import itertools

#: How deep a value may be nested. The decoder counts its own calls together with
#: those of Python: a deeper value could be stored, but not always be read again.
DEEPEST = 100

# What `is_too_deep` makes of JSON: brackets alone, and then by how many levels they lead
# down or up. A run of eight is one step.
_as_lists = bytes.maketrans(b"{}", b"[]")
_no_brackets = bytes(set(range(256)) - set(b"[]{}"))
_as_steps = bytes.maketrans(b"[]", b"\x01\xff")
_eight_down, _eight_up = (b"[" * 8, b"\x08"), (b"]" * 8, b"\xf8")

# How many levels `is_too_deep` removes beforehand: mostly there are no more.
_REMOVED = 3


def is_too_deep(data: bytes) -> bool:
    """Whether the JSON in ``data`` is nested deeper than 100 levels."""
    # A fast check first: nearly always there are too few brackets.
    if data.count(b"[") + data.count(b"{") <= DEEPEST:
        return False
    # A text has no quotes when its escapes are gone, so each second part is a text.
    parts = data.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
    brackets = b"".join(parts[::2]).translate(_as_lists, _no_brackets)
    for _ in range(_REMOVED):
        brackets = brackets.replace(b"[]", b"")
    shorter = brackets.replace(*_eight_down).replace(*_eight_up)
    steps = memoryview(shorter.translate(_as_steps)).cast("b")
    return max(itertools.accumulate(steps), default=0) > DEEPEST - _REMOVED

"""Defines the form of a handle, the public name of a session."""

from __future__ import annotations

import base64
import re

# All handles of a session from one login on begin with the same characters, its line.
# The other four are a number of 24 bits.
_LINE = 12
_NUMBERS = 1 << 24

is_handle = re.compile("[A-Za-z0-9_-]{16}").fullmatch


def line_of(handle: str) -> str:
    """Returns what all handles of a session have in common from one login on."""
    return handle[:_LINE]


def next_handle(handle: str) -> str:
    """Returns the handle that a session has after ``handle``, in the same line."""
    number = int.from_bytes(base64.urlsafe_b64decode(handle[_LINE:]), "big")
    later = ((number + 1) % _NUMBERS).to_bytes(3, "big")
    return line_of(handle) + base64.urlsafe_b64encode(later).decode()

"""The values of the sessions that are measured. It needs nothing but Python."""

from __future__ import annotations

import itertools
from collections.abc import MutableMapping
from typing import Any

#: Some 300 bytes.
VALUES = {f"key{n}": "v" * 15 for n in range(10)}

VALUES_4K = {f"key{n}": "v" * 400 for n in range(10)}

_counter = itertools.count()


def number() -> int:
    """Returns an integer of seven digits, and never that of before."""
    return 1_000_000 + next(_counter) % 9_000_000


def change(values: MutableMapping[str, Any]) -> None:
    """Writes a session, so that it takes as many bytes as before."""
    values["count"] = number()

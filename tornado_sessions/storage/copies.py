"""Copies an error for each of several waiters."""

from __future__ import annotations

import copy
from typing import TypeVar

E = TypeVar("E", bound=Exception)


def copy_error(error: E) -> E:
    """Returns a copy to raise: a shared error would collect the tracebacks of all.

    Returns ``error`` itself if its class takes other arguments.
    """
    try:
        copied = copy.copy(error)
    except Exception:  # noqa: BLE001  # whatever the constructor raises
        return error
    copied.__cause__ = error.__cause__
    return copied

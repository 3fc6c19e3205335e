"""Says why a value cannot be stored as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from tornado_sessions.core.depth import DEEPEST

# Any integer below this can be stored. Far larger ones cannot.
_ANY_INTEGER = 2**63

# What to store instead, by what `culprit` calls it.
_ADVICE = {
    "bytes": "Store text, such as its base64.",
    "date": "Store its isoformat().",
    "datetime": "Store its isoformat().",
    "Decimal": "Store its str().",
    "frozenset": "Store a list.",
    "set": "Store a list.",
    "str that is not Unicode": "Store text without surrogates.",
    "tuple": "Store a list.",
    "UUID": "Store its str().",
}

# How many characters of a key an error repeats.
_LONGEST_STEP = 40


_TOO_DEEP = f"it is nested deeper than {DEEPEST} levels, or in itself"

#: Returns a value encoded, or None if decoding it gives another value.
ComesBack = Callable[[Any], bytes | None]


def explain(key: str, value: Any, comes_back: ComesBack) -> str:  # noqa: ANN401
    """Returns the message for a value that cannot be stored under ``key``.

    It contains the path and the type of the part that is not JSON, and no values.
    """
    return _message(*culprit(key, value, comes_back))


def explain_depth(key: str) -> str:
    """Returns the message for a value that is nested too deep."""
    return _message(_path(_Place(None, None, key)), _TOO_DEEP)


def _message(path: str, culprit: str) -> str:
    return (
        f"The session value {path} cannot be stored as JSON: {culprit}."
        f" {_advice(culprit)}"
    )


class _Place(NamedTuple):
    """A part of a value that cannot be stored, and its path."""

    value: Any
    #: The place of the dict or list that contains it; None at the top.
    parent: _Place | None
    #: Its key or index in the parent.
    step: str | int


def culprit(key: str, value: Any, comes_back: ComesBack) -> tuple[str, str]:  # noqa: ANN401
    """Returns the path and the type of the part of ``value`` that is not JSON.

    The path contains keys, but no values.
    """
    top = _Place(value, None, key)
    if comes_back(key) is None:
        return _path(top), "a key that is not Unicode"
    pending, known = [top], set()
    while pending:
        place = pending.pop()
        value = place.value
        if id(value) in known:
            continue
        if isinstance(value, dict):
            known.add(id(value))
            for step in value:
                if type(step) is not str:
                    name = type(step).__name__
                    return _path(place), f"a dict with a key of type {name}"
                if not (step.isascii() or comes_back(step)):
                    return _path(place), "a key that is not Unicode"
            pending += [
                _Place(child, place, step)
                for step, child in value.items()
                if not _is_simple(child)
            ]
        elif isinstance(value, list):
            known.add(id(value))
            pending += [
                _Place(child, place, i)
                for i, child in enumerate(value)
                if not _is_simple(child)
            ]
        elif type(value) is float and not math.isfinite(value):
            return _path(place), f"float {value}"
        elif type(value) is str and comes_back(value) is None:
            return _path(place), "str that is not Unicode"
        elif comes_back(value) is None:
            return _path(place), type(value).__name__
    return _path(top), _TOO_DEEP


def _is_simple(value: Any) -> bool:  # noqa: ANN401
    """Whether ``value`` is obviously JSON. A list may have thousands of such."""
    kind = type(value)
    return (
        (kind is int and -_ANY_INTEGER < value < _ANY_INTEGER)
        or (kind is str and value.isascii())
        or ((kind is list or kind is dict) and not value)
        or value is None
        or kind is bool
    )


def _path(place: _Place) -> str:
    """Returns how Python code reaches ``place``: ``'cart'['lines'][0]``."""
    steps: list[str] = []
    at: _Place | None = place
    while at is not None:
        step = shorten(at.step)
        steps.append(repr(step) if at.parent is None else f"[{step!r}]")
        at = at.parent
    return "".join(reversed(steps))


def shorten(step: str | int) -> str | int:
    """Returns a key or an index, and of a long key only the beginning."""
    if isinstance(step, str) and len(step) > _LONGEST_STEP:
        return step[:_LONGEST_STEP] + "…"
    return step


def _advice(culprit: str) -> str:
    if culprit.startswith("a dict with a key"):
        return "Use str keys."
    return _ADVICE.get(culprit, "Store what JSON can hold.")

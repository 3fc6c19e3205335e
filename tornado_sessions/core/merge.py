"""Re-applies one request's changes to a newer record."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from tornado_sessions.core.codec import PLAIN, decode_value, encode_merged
from tornado_sessions.core.envelope import MERGED_FIELDS, Envelope, latest

# Equal to no value.
_nothing = object()


def merge(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> dict[str, Any]:
    """Returns ``theirs`` with the changes from ``base`` to ``mine``.

    Dicts are merged key by key, at any depth, and a missing dict counts as an
    empty one: if two requests each put the first product in a cart, the result has
    both products. For any other value, ``mine`` wins. The arguments do not change.
    """
    merged = dict(theirs)
    # A stack instead of recursion, which Python limits.
    pending = [(base, mine, merged)]
    while pending:
        base, mine, into = pending.pop()
        for key in base.keys() - mine.keys():
            into.pop(key, None)
        get = base.get
        # One expression, because a dict may have thousands of keys of which few have
        # changed. Dicts are merged key by key below, and not compared here.
        changed = [
            key
            for key, new in mine.items()
            if type(new) not in PLAIN
            or (old := get(key, _nothing)) != new
            or type(old) is not type(new)
        ]
        for key in changed:
            old, new, other = get(key, {}), mine[key], into.get(key, {})
            if type(old) is type(new) is type(other) is dict:
                if key in into or key not in base or not _is_same(old, new):
                    into[key] = dict(other)
                    pending.append((old, new, into[key]))
            elif key not in base or not _is_same(old, new):
                into[key] = new
    return merged


def _is_same(old: Any, new: Any) -> bool:  # noqa: ANN401
    """Whether two values are equal as JSON. In Python 1 equals True as well."""
    if old != new or type(old) is not type(new):
        return False
    return type(new) in PLAIN or encode_merged(old) == encode_merged(new)


def rebase(base: Envelope, mine: Envelope, theirs: Envelope) -> Envelope:
    """Returns ``theirs`` with what ``mine`` changed since ``base``."""
    values = dict(theirs.values)
    for key in base.values.keys() - mine.values.keys():
        values.pop(key, None)
    # What only one of the two has changed need not be decoded.
    both = []
    for key in different(mine.values, base.values):
        if values.get(key) == base.values.get(key):
            values[key] = mine.values[key]
        else:
            both.append(key)
    merged = merge(
        *(
            {key: decode_value(side.values[key]) for key in both if key in side.values}
            for side in (base, mine, theirs)
        )
    )
    for key in both:
        # Not in `merged`: a dict that another request has deleted, changed to an equal one.
        if key in merged:
            values[key] = encode_merged(merged[key])
    flashes = latest(merge(base.flashes, mine.flashes, theirs.flashes))
    fields = {
        name: getattr(mine, name)
        for name in MERGED_FIELDS
        if getattr(mine, name) != getattr(base, name)
    }
    return msgspec.structs.replace(theirs, values=values, flashes=flashes, **fields)


def reapplied(base: Envelope, mine: Envelope, newest: Envelope) -> Envelope:
    """Returns ``newest`` with what a request has changed that has not signed in."""
    merged = rebase(base, mine, newest)
    return merged if mine.id == base.id else msgspec.structs.replace(merged, id=mine.id)


def different(values: dict[str, Raw], loaded: dict[str, Raw]) -> list[str]:
    """Returns the keys of ``values`` that ``loaded`` lacks or has another value for."""
    # Identity first: mostly it is the same object, and each comparison would be a
    # call. A session may have thousands of values.
    get = loaded.get
    return [
        key
        for key, value in values.items()
        if (other := get(key)) is not value and other != value
    ]

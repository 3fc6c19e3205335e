"""Re-applies one request's changes to a newer record."""

from __future__ import annotations

from typing import Any

# Equal to no value.
_nothing = object()


def merge(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> dict[str, Any]:
    """Returns ``theirs`` with what ``mine`` changed since ``base``.

    Dicts are merged key by key, at any depth, and an absent dict counts as an
    empty one: of two requests that each put a first product in a cart, both
    products stay. Of everything else, mine wins. The arguments stay as they
    are.
    """
    merged = dict(theirs)
    # A stack, as what a session holds may be nested deeper than Python calls.
    pending = [(base, mine, merged)]
    while pending:
        base, mine, into = pending.pop()
        for key in base.keys() - mine.keys():
            into.pop(key, None)
        get = base.get
        # In one expression, as a dict may have thousands of keys and few that have
        # changed. Equal dicts come out equal, and are not compared at each level.
        changed = [
            key
            for key, new in mine.items()
            if type(new) is dict or get(key, _nothing) != new
        ]
        for key in changed:
            old, new, other = get(key, {}), mine[key], into.get(key, {})
            if type(old) is type(new) is type(other) is dict:
                if key in into or key not in base or new != old:
                    into[key] = dict(other)
                    pending.append((old, new, into[key]))
            elif key not in base or new != old:
                into[key] = new
    return merged

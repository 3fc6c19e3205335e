"""Re-applies one request's changes to a newer record."""

from __future__ import annotations

from typing import Any

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

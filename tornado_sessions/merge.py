"""Re-applies one request's changes to a newer record."""

from __future__ import annotations

from typing import Any


def merge(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> dict[str, Any]:
    """Answers ``theirs`` with what ``mine`` changed since ``base``.

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
        for key in dict.fromkeys([*base, *mine]):
            if key not in mine:
                into.pop(key, None)
                continue
            old, new, other = base.get(key, {}), mine[key], into.get(key, {})
            if type(old) is type(new) is type(other) is dict:
                # Equal dicts come out equal, and are not compared at each level.
                if key in into or key not in base or new != old:
                    into[key] = dict(other)
                    pending.append((old, new, into[key]))
            elif key not in base or new != old:
                into[key] = new
    return merged

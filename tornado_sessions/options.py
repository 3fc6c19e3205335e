"""Reads the options of a backend's URL.

For authors of backends::

    @classmethod
    def from_url(cls, url, settings):
        address, _, query = url.partition("?")
        kinds = {"timeout": float, "loft": str}
        return cls(address, **read_options("pigeon", query, kinds))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

_truths = {"true": True, "false": False}

_must_be = {
    int: "a whole number",
    float: "a number",
    bool: "'true' or 'false'",
}


def read_options(backend: str, query: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Returns the options in ``query``, the part after the question mark.

    ``kinds`` maps the name of each option to the type of its value: `str`, `int`,
    `float` or `bool`. The backend checks the range of the values. Raises
    `ValueError` for an unknown option, for a repeated one, and for a text that is
    not a value of its type.
    """
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in kinds:
            raise ValueError(
                f"The session backend {backend!r} has no option {name!r}. Its options"
                f" are {', '.join(map(repr, kinds))}."
            )
        if name in options:
            raise ValueError(
                f"The option {name!r} of the session backend {backend!r} is there"
                " twice. Remove one."
            )
        options[name] = _read(name, text, kinds[name])
    return options


def _read(name: str, text: str, kind: type) -> Any:  # noqa: ANN401
    try:
        return _truths[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ValueError(
            f"The option {name!r} must be {_must_be[kind]}, not {text!r}."
        ) from None

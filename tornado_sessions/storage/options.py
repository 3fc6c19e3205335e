"""Reads the URL of a backend and its options.

For authors of backends::

    @classmethod
    def from_url(cls, url, settings):
        address, _, query = url.partition("?")
        kinds = {"timeout": float, "loft": str}
        return cls(address, **read_options("pigeon", query, kinds))

No error repeats a part of the URL, and neither should those of a backend: where a
password is not escaped, its rest is anywhere in the URL. ``user:a?timeout=b@host`` has
the password ``a?timeout=b``.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

_truths = {"true": True, "false": False}

_must_be = {
    int: "a whole number",
    float: "a number",
    bool: "'true' or 'false'",
}


def split_url(url: str) -> SplitResult | None:
    """Splits a URL as `urllib.parse.urlsplit` does. Returns None where that raises.

    Its errors repeat parts of the URL.
    """
    with contextlib.suppress(ValueError):
        return urlsplit(url)
    return None


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
                "The URL has an option that the session backend"
                f" {backend!r} does not have.{did_you_mean(name, kinds)} Its options"
                f" are {', '.join(map(repr, kinds))}."
            )
        if name in options:
            raise ValueError(
                f"The option {name!r} of the session backend {backend!r} is there"
                " twice. Remove one."
            )
        options[name] = _read(name, text, kinds[name])
    return options


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a question that names the closest of the ``known`` names, if any is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def use_file(name: str, use: Callable[[], object]) -> None:
    """Calls ``use``, which reads the file that the option ``name`` gives.

    Raises `ValueError` where that raises `OSError`, such as `ssl.SSLError`.
    """
    try:
        use()
    except OSError as error:
        # Not the path: it may be a part of a password that is not escaped.
        reason = error.strerror or str(error)
    else:
        return
    raise ValueError(f"The file of the option {name!r} cannot be used: {reason}.")


def _read(name: str, text: str, kind: type) -> Any:  # noqa: ANN401
    with contextlib.suppress(KeyError, ValueError):
        return _truths[text] if kind is bool else kind(text)
    # Out here, as Python's own error repeats the text and would be the context.
    raise ValueError(f"The option {name!r} must be {_must_be[kind]}.")

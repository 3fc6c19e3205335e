"""Reads and writes session ids in a header and in the URL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote_plus, urlsplit

#: The header with the session id of a request, and with a new or changed id of a
#: response. In Tornado's spelling, so that it needs no conversion.
HEADER = "X-Session-Token"

#: The parameter of a URL with the session id.
PARAMETER = "session"

_known = ("cookie", "header", "query")

# The possible lengths of the parameter's name in a URL, where each character may be
# escaped. A longer name is not unquoted: 64 KiB of it would block the event loop.
_name_lengths = range(len(PARAMETER), 3 * len(PARAMETER) + 1)

# Browsers remove some of these characters before they parse a URL, and treat a
# backslash as a slash. So the target of such a URL is not certain.
_unclear = re.compile(r"\A\x20|[\x00-\x1f\x7f\\]").search


class Transports:
    """The transports of an application, in order of precedence.

    Created from the setting ``session_transports``. Raises `ValueError` for an
    invalid value.
    """

    def __init__(self, names: Sequence[str]) -> None:
        if not isinstance(names, (list, tuple)) or not names:
            raise ValueError(
                f"session_transports={names!r} is to be a tuple of one or more of"
                f" {_listed(_known)}."
            )
        for name in names:
            if name not in _known:
                raise ValueError(
                    f"session_transports={names!r} has {name!r}, which is none of"
                    f" {_listed(_known)}."
                )
        if len(set(names)) < len(names):
            raise ValueError(f"session_transports={names!r} names one of them twice.")
        if "query" in names[:-1]:
            raise ValueError(
                f"session_transports={names!r} lets any link displace the session of"
                " the visitor who follows it. Put 'query' last."
            )
        self.names = tuple(names)
        self.is_cookie_alone = self.names == ("cookie",)
        #: The headers of the request that the session depends on, for Vary.
        self.vary = ", ".join(
            {"cookie": "Cookie", "header": HEADER}[name]
            for name in self.names
            if name != "query"
        )


def read_header(lines: Sequence[str]) -> list[str]:
    """Returns the distinct ids in all lines of the header; none if it is empty.

    A proxy may combine several lines to one, separated by commas (RFC 9110,
    section 5.3).
    """
    values = (value.strip(" \t") for line in lines for value in line.split(","))
    return [value for value in dict.fromkeys(values) if value]


def take_from_url(url: str) -> tuple[str, list[str]]:
    """Returns the URL of a request without ids, and the distinct ids in it."""
    path, _, query = url.partition("?")
    others, ids = _split(query)
    if not ids:
        return url, []
    if others:
        path += "?" + "&".join(others)
    return path, list(dict.fromkeys(ids))


def put_in_url(url: str, token: str, protocol: str, host: str) -> str:
    """Returns ``url`` with the id ``token``, which replaces any other id.

    Returns it unchanged if it has another ``protocol`` or ``host``, or is only a
    fragment of the same page.
    """
    if url.startswith("#") or _leads_elsewhere(url, protocol, host):
        return url
    rest, mark, fragment = url.partition("#")
    path, _, query = rest.partition("?")
    pairs = [*filter(None, _split(query)[0]), f"{PARAMETER}={token}"]
    return f"{path}?{'&'.join(pairs)}{mark}{fragment}"


def _split(query: str) -> tuple[list[str], list[str]]:
    others, ids = [], []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if len(name) in _name_lengths and unquote_plus(name) == PARAMETER:
            ids.append(unquote_plus(value))
        else:
            others.append(pair)
    return others, ids


def _leads_elsewhere(url: str, protocol: str, host: str) -> bool:
    if _unclear(url):
        return True
    try:
        parts = urlsplit(url)
    except ValueError:
        return True
    if not parts.scheme and not url.startswith("//"):
        return False
    # The protocol and the port must be the same, too.
    return (
        parts.scheme or protocol
    ) != protocol or parts.netloc.lower() != host.lower()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))

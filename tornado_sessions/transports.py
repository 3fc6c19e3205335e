"""Carries session ids in other ways than a cookie: in a header, and in the URL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote_plus, urlsplit

#: The header of a request that names the session, and of the response that
#: tells a new or changed id. As Tornado writes it, so that it is compared as is.
HEADER = "X-Session-Token"

#: The parameter of a URL that names the session.
PARAMETER = "session"

_known = ("cookie", "header", "query")

# How long the parameter's name can be in a URL, where any of it may be escaped. What
# is longer is not unquoted: 64 KiB of that would hold up the loop.
_name_lengths = range(len(PARAMETER), 3 * len(PARAMETER) + 1)

# A browser drops some of these before it reads a URL, and takes a backslash for
# a slash: what such a URL leads to is not ours to guess.
_unclear = re.compile(r"\A\x20|[\x00-\x1f\x7f\\]").search


class Transports:
    """The ways by which an application takes session ids, in their order.

    Made from the setting ``session_transports``. Raises `ValueError` for what
    cannot be used.
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
        #: Which headers of the request the session depends on, for Vary.
        self.vary = ", ".join(
            {"cookie": "Cookie", "header": HEADER}[name]
            for name in self.names
            if name != "query"
        )


def read_header(lines: Sequence[str]) -> list[str]:
    """Answers the different ids in all lines of the header; none if it is empty.

    Several in one line, between commas, are what a proxy makes of several
    lines (RFC 9110, section 5.3).
    """
    values = (value.strip(" \t") for line in lines for value in line.split(","))
    return [value for value in dict.fromkeys(values) if value]


def take_from_url(url: str) -> tuple[str, list[str]]:
    """Answers the URL of a request without ids, and the different ids in it."""
    path, _, query = url.partition("?")
    others, ids = _split(query)
    if not ids:
        return url, []
    if others:
        path += "?" + "&".join(others)
    return path, list(dict.fromkeys(ids))


def put_in_url(url: str, token: str, protocol: str, host: str) -> str:
    """Answers ``url`` with the id ``token`` in place of any other.

    It stays as it is where it leads away from ``protocol`` and ``host``, or
    only to another place of the same page.
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
    # Never from https to http, and neither to another port.
    return (
        parts.scheme or protocol
    ) != protocol or parts.netloc.lower() != host.lower()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))

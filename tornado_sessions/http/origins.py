"""Finds out from the headers of a browser whether another origin sends a request.

``Sec-Fetch-Site`` says so: browsers send it since 2023, to https and to loopback
(https://www.w3.org/TR/fetch-metadata/). Where it is missing, ``Origin`` has the origin
of the page, with each POST since 2020. No page can set either of them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal, TypeAlias

#: Where a request comes from, as far as its headers say.
Sender: TypeAlias = Literal["here", "elsewhere", "unknown"]

_is_origin = re.compile(
    r"([a-z][a-z0-9+.-]*)://([\w.-]+|\[[0-9a-f:]+\])(:[0-9]+)?", re.ASCII
).fullmatch
# Browsers leave out these ports.
_usual_ports = {"http": ":80", "https": ":443"}


class Origins:
    """The origins that may send requests, besides the application's own.

    Created from the setting ``trusted_origins``. Raises `ValueError` for what no
    browser sends as an origin.
    """

    def __init__(self, trusted: object) -> None:
        if not isinstance(trusted, (list, tuple, set, frozenset)):
            raise ValueError(
                f"trusted_origins={trusted!r} is to be a list of origins, such as"
                " ['https://app.example.com']."
            )
        for origin in trusted:
            _check(origin)
        self._trusted: Collection[str] = frozenset(trusted)

    def sender(
        self, site: str | None, origin: str | None, protocol: str, host: str
    ) -> Sender:
        """Returns where a request to ``host`` comes from.

        ``site`` and ``origin`` are its headers ``Sec-Fetch-Site`` and ``Origin``.
        "none" as ``site`` is for what the user typed or has as a bookmark, and "null"
        as ``origin`` for a page that does not say. Another subdomain or port
        ("same-site") is another origin.
        """
        if site in ("same-origin", "none") or origin in self._trusted:
            return "here"
        if site is not None:
            return "elsewhere"
        if origin is None or origin == "null":
            return "unknown"
        return "here" if _is_of(origin, protocol, host) else "elsewhere"


def _is_of(origin: str, protocol: str, host: str) -> bool:
    """Whether ``origin`` is that of ``host``, as far as the server knows its own.

    A proxy that ends https may have hidden that the visitor uses https, so an origin
    of https is accepted for a request over http. The contrary is certain: a page over
    http, which anybody in between may have written, sends a request over https.
    """
    scheme, _, place = origin.partition("://")
    if scheme not in _usual_ports or (protocol == "https" and scheme != "https"):
        return False
    return bool(place) and place == host.lower().removesuffix(_usual_ports[scheme])


def _check(origin: object) -> None:
    match = _is_origin(origin) if isinstance(origin, str) else None
    if match is not None and isinstance(origin, str):
        usual = _usual_ports.get(match[1])
        if usual is None or (origin.islower() and not origin.endswith(usual)):
            return
    raise ValueError(
        f"trusted_origins has {origin!r}, which no browser sends as an origin. Write it"
        " as 'https://app.example.com': scheme and host in lower case and in ASCII, the"
        " port only if it is not the usual one, and no path, not even '/'."
    )

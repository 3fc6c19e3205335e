"""Refuses requests that another origin sends, see the setting
``session_cross_origin_protection``."""

from __future__ import annotations

import re

import tornado.web
from tornado.httputil import HTTPServerRequest

from tornado_sessions.http.origins import Origins

#: Methods that change nothing, which Tornado does not check for XSRF either.
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

_is_bearer = re.compile(r"bearer +\S", re.IGNORECASE).match
# How many characters of a header are repeated in the log.
_SHOWN = 100


def is_from_here(
    request: HTTPServerRequest, origins: Origins, has_tokens: bool
) -> bool:
    """Whether no other origin can have sent ``request``, by its headers alone.

    Returns False where the token decides, because the headers say nothing. Without
    tokens such a request is accepted if it has no cookies. Raises
    `~tornado.web.HTTPError` with 403 for one of another origin.

    A request with a bearer token is accepted: no form can send one. But if it comes
    from a script of another origin and has cookies as well, these may be what it is
    about.
    """
    headers = request.headers
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    sender = origins.sender(site, origin, request.protocol, request.host)
    if sender == "here":
        return True
    is_silent = site is None and origin is None
    has_cookies = "Cookie" in headers
    if (is_silent or not has_cookies) and _is_bearer(headers.get("Authorization", "")):
        return True
    if sender == "unknown":
        if has_tokens:
            return False
        if is_silent and not has_cookies:
            return True
        raise tornado.web.HTTPError(
            403,
            "It is not known which site sends the request: Sec-Fetch-Site is missing,"
            " and Origin is %s. For old browsers set xsrf_cookies=True as well, and put"
            " the token into forms.",
            "'null'" if origin else "missing, too",
        )
    if site is not None:
        raise tornado.web.HTTPError(
            403,
            "Another origin sends the request: Sec-Fetch-Site is %r, Origin is %r. If"
            " it may, put it into the setting trusted_origins.",
            site[:_SHOWN],
            (origin or "")[:_SHOWN],
        )
    raise tornado.web.HTTPError(
        403,
        "Another origin sends the request: Origin is %r, and the request is for %r over"
        " %s. If it may, put it into the setting trusted_origins. If this is the site's"
        " own, let the proxy pass on the Host header.",
        (origin or "")[:_SHOWN],
        request.host[:_SHOWN],
        request.protocol,
    )

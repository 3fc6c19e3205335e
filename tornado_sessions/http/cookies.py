"""Parses the Cookie header byte-exactly, and formats the Set-Cookie header.

`http.cookies` and Tornado's own parser decode, unquote, and strip more than
space and tab. A sibling domain can then plant a cookie whose name equals ours
only after stripping, such as ``\\xa0__Host-session``. This module compares names
byte by byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

# The browsers' own limit: RFC 6265bis, section 5.5.
MAX_AGE_LIMIT = 400 * 24 * 3600

_token_characters = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_attribute_characters = re.compile(r"[\x20-\x3a\x3c-\x7e]+").fullmatch
_LIFETIMES = {
    "session_cookie": "session_persistent and session_lifetime",
    "xsrf_cookie": "'expires_days' or 'max_age'",
}
#: What ``session_cookie_kwargs`` may hold.
ATTRIBUTES = ("domain", "path", "secure", "httponly", "samesite", "partitioned")

# Which attributes the prefix of a name requires: RFC 6265bis, section 4.1.3.
_prefixes = {
    "__host-http-": ("secure", "host", "httponly"),
    "__host-": ("secure", "host"),
    "__secure-": ("secure",),
    "__http-": ("secure", "httponly"),
}


class CookieSettings:
    """The name and the attributes of a cookie, without its value.

    Created from the settings ``session_cookie_name`` and
    ``session_cookie_kwargs``. Raises `ValueError` if they contradict each other;
    the message names both.
    """

    def __init__(self, name: str, kwargs: Mapping[str, Any]) -> None:
        attributes = {"path": "/", "secure": True, "httponly": True, "samesite": "Lax"}
        attributes |= _checked(kwargs, "session_cookie")
        if _token_characters(name) and not name.startswith("__"):
            name = _prefix(attributes) + name
        self._set(name, attributes, "session_cookie")

    def _set(self, name: str, attributes: dict[str, Any], setting: str) -> None:
        """Sets name and attributes; ``setting`` is the prefix of their settings."""
        if not _token_characters(name):
            raise ValueError(
                f"{setting}_name={name!r} is not a cookie's name. Use letters,"
                " digits, '-' and '_'."
            )
        self.name = name
        self.secure = bool(attributes["secure"])
        _check(name, attributes, setting)
        self._attributes = attributes
        self._suffix = _suffix(attributes)
        self._pair = f"{self.name}="
        self._size = len(self._pair)

    def on_loopback(self) -> CookieSettings:
        """Returns this cookie for plain http on loopback.

        It has no Secure, so it has neither the prefix nor the attributes that
        browsers accept together with Secure only.
        """
        if not self.secure:
            return self
        attributes = {**self._attributes, "secure": False, "partitioned": False}
        if _is_cross_site(attributes):
            attributes["samesite"] = "Lax"
        prefix = next((p for p in _prefixes if self.name.lower().startswith(p)), "")
        return CookieSettings(self.name[len(prefix) :], attributes)

    def for_scripts(self, name: str, kwargs: Mapping[str, Any]) -> CookieSettings:
        """Returns a cookie with another name that scripts can read.

        It has the attributes of this one, except HttpOnly. The attributes in
        ``kwargs``, the setting ``xsrf_cookie_kwargs``, replace them.
        """
        attributes = {**self._attributes, "httponly": False}
        attributes |= _checked(kwargs, "xsrf_cookie")
        cookie = CookieSettings.__new__(CookieSettings)
        cookie._set(name, attributes, "xsrf_cookie")
        return cookie

    @property
    def place(self) -> str | None:
        """The domain and the path; None if the cookie is bound to the host."""
        domain = self._attributes.get("domain")
        if not domain:
            return None
        return f"{domain.lstrip('.').lower()}{self._attributes['path']}"

    def read(self, lines: Iterable[str]) -> list[str]:
        """Returns the distinct values of this cookie in all Cookie headers.

        It splits at ``;`` and at the first ``=``, strips space and tab, and
        neither unquotes nor decodes.
        """
        values: list[str] = []
        pair, size = self._pair, self._size
        for line in lines:
            at = line.find(pair)
            while at >= 0:
                end = line.find(";", at)
                value = line[at + size :] if end < 0 else line[at + size : end]
                # Only blanks are allowed between the pair before and this one.
                if not at or not line[line.rfind(";", 0, at) + 1 : at].strip(" \t"):
                    values.append(value.rstrip(" \t"))
                at = end if end < 0 else line.find(pair, end)
        return values if len(values) < 2 else list(dict.fromkeys(values))

    def line(self, token: str, max_age: int | None = None) -> str:
        """Returns the value of the Set-Cookie header for ``token``.

        With a ``max_age`` in seconds the browser keeps the cookie when it is
        closed. The age is at most `MAX_AGE_LIMIT`.
        """
        if max_age is None:
            return f"{self.name}={token}{self._suffix}"
        age = min(max_age, MAX_AGE_LIMIT)
        return f"{self.name}={token}; Max-Age={age}{self._suffix}"

    def expired_line(self) -> str:
        """Returns the Set-Cookie header that removes the cookie from the browser."""
        return (
            f"{self.name}=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
            f"{self._suffix}"
        )


def _checked(kwargs: Mapping[str, Any], setting: str) -> dict[str, Any]:
    attributes = {name.lower(): value for name, value in kwargs.items()}
    for name, value in attributes.items():
        if name not in ATTRIBUTES:
            raise ValueError(
                f"{setting}_kwargs has {name!r}, which is none of"
                f" {', '.join(map(repr, ATTRIBUTES))}. How long the cookie lasts"
                f" is set by {_LIFETIMES[setting]}."
            )
        if name in ("secure", "httponly", "partitioned"):
            if not isinstance(value, bool):
                raise ValueError(
                    f"{setting}_kwargs has {name}={value!r}; it is True or False."
                )
        elif value is not None and not (
            isinstance(value, str) and _attribute_characters(value)
        ):
            raise ValueError(
                f"{setting}_kwargs has {name}={value!r}, which cannot stand in a"
                " cookie: it is to be a str of printable characters without ';'."
            )
    if not (attributes.get("path", "/") or "").startswith("/"):
        raise ValueError(
            f"{setting}_kwargs has path={attributes['path']!r}; it begins with '/'."
        )
    return attributes


def _prefix(attributes: Mapping[str, Any]) -> str:
    if not attributes["secure"]:
        return ""
    if attributes.get("domain") or attributes["path"] != "/":
        return "__Secure-"
    return "__Host-Http-" if attributes["httponly"] else "__Host-"


def _check(name: str, attributes: Mapping[str, Any], setting: str) -> None:
    """Raises `ValueError` for a cookie that browsers ignore silently."""
    samesite = attributes["samesite"]
    if samesite is not None and samesite.lower() not in ("lax", "strict", "none"):
        raise ValueError(
            f"{setting}_kwargs has samesite={samesite!r}; it is 'Lax', 'Strict'"
            " or 'None'."
        )
    needing = {
        "samesite": _is_cross_site(attributes),
        "partitioned": attributes.get("partitioned"),
    }
    for attribute, needed in needing.items():
        if needed and not attributes["secure"]:
            value = attributes[attribute]
            raise ValueError(
                f"{setting}_kwargs has {attribute}={value!r} with secure=False:"
                " browsers refuse such a cookie. Remove secure=False, or change"
                f" {attribute}."
            )
    prefix = next((p for p in _prefixes if name.lower().startswith(p)), None)
    for promise in _prefixes.get(prefix or "", ()):
        broken = _broken(promise, attributes)
        if broken:
            raise ValueError(
                f"{setting}_name={name!r} contradicts {broken} in"
                f" {setting}_kwargs: browsers refuse such a cookie. Change one of"
                " the two."
            )


def _is_cross_site(attributes: Mapping[str, Any]) -> bool:
    samesite = attributes["samesite"]
    return samesite is not None and samesite.lower() == "none"


def _broken(promise: str, attributes: Mapping[str, Any]) -> str | None:
    if promise != "host":
        return None if attributes[promise] else f"{promise}=False"
    if attributes.get("domain"):
        return f"domain={attributes['domain']!r}"
    if attributes["path"] != "/":
        return f"path={attributes['path']!r}"
    return None


def _suffix(attributes: Mapping[str, Any]) -> str:
    parts = [""]
    for attribute, word in (("path", "Path"), ("domain", "Domain")):
        if attributes.get(attribute):
            parts.append(f"{word}={attributes[attribute]}")
    for attribute, word in (("secure", "Secure"), ("httponly", "HttpOnly")):
        if attributes[attribute]:
            parts.append(word)
    if attributes["samesite"] is not None:
        parts.append(f"SameSite={attributes['samesite'].capitalize()}")
    if attributes.get("partitioned"):
        parts.append("Partitioned")
    return "; ".join(parts)

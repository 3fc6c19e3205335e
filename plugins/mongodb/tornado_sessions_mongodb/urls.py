"""Reads MongoDB's connection strings, without any I/O."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Mapping
from typing import Any, NamedTuple

from pymongo.common import VALIDATORS
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from tornado_sessions.storage.options import did_you_mean

# What the driver raises for a URL that it does not take.
_URL_ERRORS = (PyMongoError, ValueError, TypeError, OSError)

_DRIVERS_OPTIONS = frozenset(name.lower() for name in VALIDATORS)


class Target(NamedTuple):
    """What a connection string names."""

    database: str | None
    #: Hosts and ports. There are none for ``mongodb+srv``, where a name server
    #: knows them.
    hosts: frozenset[tuple[str, int]]
    #: The driver's options, with names in lower case.
    options: Mapping[str, Any]


def split_options(url: str, ours: Mapping[str, type]) -> tuple[str, str]:
    """Returns ``url`` with the driver's options alone, and the query with ``ours``."""
    address, _, query = url.partition("?")
    options = query.split("&") if query else []
    own = [option for option in options if option.partition("=")[0] in ours]
    drivers = [option for option in options if option not in own]
    if drivers:
        # The driver requires a slash in front of the question mark.
        slash = "" if "/" in address.partition("://")[2] else "/"
        address += slash + "?" + "&".join(drivers)
    return address, "&".join(own)


def read_url(url: str) -> Target:
    """Returns what ``url`` names. Raises `ValueError` without repeating a password."""
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    if scheme not in ("mongodb", "mongodb+srv"):
        raise ValueError(
            "The session backend 'mongodb' needs a URL that begins with 'mongodb://' or"
            " 'mongodb+srv://'."
        )
    if "@" in query:
        raise ValueError(
            "The URL of the session backend 'mongodb' has an '@' after its '?'. Escape"
            " the user name and the password with urllib.parse.quote_plus()."
        )
    if scheme == "mongodb+srv":
        if importlib.util.find_spec("dns") is None:
            raise ValueError(
                "A URL that begins with 'mongodb+srv://' needs dnspython. Install it"
                " with: pip install dnspython"
            )
        # To parse such a URL the driver asks the name server. What comes from
        # there changes nothing of this.
        kept = (option for option in query.split("&") if not option.startswith("srv"))
        query = "&".join(kept)
    # By themselves first, so that the error can say which option it is.
    options = _drivers_options(query)
    if options is None:
        raise ValueError(_refused_options(query))
    with contextlib.suppress(*_URL_ERRORS):
        parsed = parse_uri(f"mongodb://{rest}?{query}", warn=False)
        if parsed["collection"] is None:
            hosts = parsed["nodelist"] if scheme == "mongodb" else ()
            return Target(
                parsed["database"],
                frozenset(hosts),
                {name.lower(): options[name] for name in options},
            )
    # What the driver said is dropped: it may have repeated the password.
    raise ValueError(
        "The session backend 'mongodb' cannot use its URL. It is to be of the form"
        " mongodb://user:password@host1,host2/database?option=value, with what is"
        " special in the password escaped by urllib.parse.quote_plus()."
    )


def _drivers_options(query: str) -> Mapping[str, Any] | None:
    """Returns the driver's options in ``query``; None if it does not take them."""
    with contextlib.suppress(*_URL_ERRORS):
        options: Mapping[str, Any]
        options = parse_uri(f"mongodb://localhost/?{query}", warn=False)["options"]
        return options
    return None


def _refused_options(query: str) -> str:
    """Returns why the driver does not take the options in ``query``.

    What the driver says of them may repeat a part of the URL.
    """
    for option in query.split("&"):
        if _drivers_options(option) is not None:
            continue
        name = option.partition("=")[0].lower()
        if name in _DRIVERS_OPTIONS:
            return f"MongoDB's driver does not take the value of the option {name!r}."
        return (
            "The URL has an option that neither the session backend 'mongodb' nor"
            f" MongoDB's driver has.{did_you_mean(name, _DRIVERS_OPTIONS)}"
        )
    return (
        "MongoDB's driver does not take the options of the URL together. Compare them"
        " with its documentation."
    )


def driver_defaults(options: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Returns what is set for the driver where the URL does not set it.

    Raises `ValueError` for options with which sessions would not be safe.
    """
    if options.get("readpreference", "primary").lower() != "primary":
        raise ValueError(
            "Sessions are read from the primary: elsewhere one that has ended may still"
            " be there. Remove the option readPreference from the URL."
        )
    if options.get("w") == 0:
        raise ValueError(
            "With w=0 nobody would know whether a session was stored. Remove the option"
            " from the URL."
        )
    milliseconds = max(1, int(timeout * 1000))
    defaults = {
        "w": "majority",
        "journal": True,
        # The driver's checks of its servers have no other limit.
        "connectTimeoutMS": milliseconds,
        "socketTimeoutMS": milliseconds,
        "serverSelectionTimeoutMS": milliseconds,
        "waitQueueTimeoutMS": milliseconds,
    }
    return {
        name: value for name, value in defaults.items() if name.lower() not in options
    }

"""Reads PostgreSQL's connection URLs, without any I/O."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from tornado_sessions.storage.options import did_you_mean, split_url

# What asyncpg reads from a URL. All else it sends to the server.
_DRIVERS_OPTIONS = {
    *("host", "port", "dbname", "database", "user", "password", "passfile", "service"),
    *("sslmode", "sslnegotiation", "sslcert", "sslkey", "sslpassword", "sslrootcert"),
    *("sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version"),
    *("target_session_attrs", "krbsrvname", "gsslib"),
}

# Parameters of the server that make sense for sessions.
_SERVERS_OPTIONS = {
    *("application_name", "options", "search_path", "statement_timeout"),
    "synchronous_commit",
}

_KNOWN = _DRIVERS_OPTIONS | _SERVERS_OPTIONS

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

_PRIMARY = ("any", "primary", "read-write")

# A user and a password, and hosts with their ports.
_is_authority = re.compile(
    r"([^@]*@)?((\[[^]@]+\]|[^][:,@]*)(:\d{1,5})?)(,(\[[^]@]+\]|[^][:,@]*)(:\d{1,5})?)*"
).fullmatch

_is_ports = re.compile(r"\d{1,5}(,\d{1,5})*").fullmatch


class Target(NamedTuple):
    """What a URL names."""

    #: Hosts and database, for messages.
    address: str
    #: Which server of several is used.
    attributes: str


def split_options(url: str, ours: Mapping[str, type]) -> tuple[str, str]:
    """Returns ``url`` with the driver's options alone, and the query with ``ours``."""
    address, _, query = url.partition("?")
    options = query.split("&") if query else []
    own = [option for option in options if option.partition("=")[0] in ours]
    drivers = [option for option in options if option not in own]
    return "?".join([address, *filter(None, ["&".join(drivers)])]), "&".join(own)


def read_url(url: str, ours: Iterable[str]) -> Target:
    """Returns what ``url`` names, which has none of ``ours``.

    Raises `ValueError` without repeating a password.
    """
    parts = split_url(url)
    if (
        parts is None
        or not _is_authority(parts.netloc)
        # They would belong to a password that is not escaped.
        or "@" in parts.path + parts.query
        or "#" in url
    ):
        raise ValueError(
            "The session backend 'postgresql' cannot use its URL. It is to be of the form"
            " postgresql://user:password@host:port/database?option=value, with what is"
            " special in the user and the password escaped by urllib.parse.quote()."
        )
    options = _read_options(parts.query, ours)
    servers = parts.netloc.rpartition("@")[2] or options.get("host", "")
    database = parts.path[1:] or options.get("dbname") or options.get("database", "")
    # Without a host the driver looks there.
    shown = unquote(servers) or os.environ.get("PGHOST") or "localhost"
    default = "read-write" if "," in servers else "any"
    return Target(
        f"{shown}/{unquote(database)}" if database else shown,
        options.get("target_session_attrs", default),
    )


def _read_options(query: str, ours: Iterable[str]) -> dict[str, str]:
    """Returns the driver's options. Raises `ValueError` for those that do not work."""
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in _KNOWN:
            raise ValueError(
                "The URL has an option that neither the session backend 'postgresql' nor"
                f" its driver has.{did_you_mean(name, _KNOWN.union(ours))} A parameter of the server"
                " is written options=-c%20name=value."
            )
    if options.get("sslmode", "prefer") not in _SSL_MODES:
        raise ValueError(
            f"The option 'sslmode' must be one of {', '.join(map(repr, _SSL_MODES))}."
        )
    if not _is_ports(options.get("port", "5432")):
        raise ValueError("The option 'port' must be a number.")
    if options.get("target_session_attrs", "any") not in _PRIMARY:
        raise ValueError(
            "Sessions are kept on the primary: on a standby one that has ended may still"
            " be there, and none can be stored. The option 'target_session_attrs' must"
            f" be one of {', '.join(map(repr, _PRIMARY))}."
        )
    return options

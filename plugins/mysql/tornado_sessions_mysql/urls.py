"""Reads the URL of a database and the options of TLS."""

from __future__ import annotations

import re
import ssl
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote

from tornado_sessions.storage.options import split_url, use_file

SSL_MODES = ("disabled", "required", "verify_ca", "verify_identity")

_PORT = 3306

# A user and a password, a host and its port.
_is_authority = re.compile(
    r"([^:@]*(:[^@]*)?@)?(\[[^]@]+\]|[^][:,@]*)(:\d{1,5})?"
).fullmatch


class Target(NamedTuple):
    """What a URL names."""

    host: str
    port: int
    user: str | None
    password: bytes
    database: str

    def __repr__(self) -> str:
        return f"<Target {self.host}:{self.port}/{self.database}>"


def read_url(url: str) -> Target:
    """Returns what ``url`` names. Raises `ValueError` without repeating a password."""
    parts = split_url(url)
    if (
        parts is None
        or parts.scheme != "mysql"
        or not _is_authority(parts.netloc)
        or not 0 <= _port_of(parts.netloc) < 65_536
        # They would belong to a password that is not escaped.
        or "@" in parts.path
        or "?" in url
        or "#" in url
        or parts.path[:1] != "/"
        or "/" in parts.path[1:]
    ):
        raise ValueError(
            "The session backend 'mysql' cannot use its URL. It is to be of the form"
            " mysql://user:password@host:port/database, with what is special in the user"
            " and the password escaped by urllib.parse.quote(). In code the options are"
            " arguments."
        )
    database = unquote(parts.path[1:])
    if not database:
        raise ValueError(
            "The URL of the session backend 'mysql' names no database: write"
            " mysql://user:password@host/database."
        )
    return Target(
        parts.hostname or "localhost",
        _port_of(parts.netloc),
        None if parts.username is None else unquote(parts.username),
        # In the encoding of the connection: the driver's own is Latin-1.
        unquote(parts.password or "").encode(),
        database,
    )


def _port_of(authority: str) -> int:
    _, _, port = authority.rpartition("]")[2].rpartition("@")[2].partition(":")
    return int(port) if port.isdecimal() else _PORT


def make_ssl_context(
    mode: str | None, ca: str | None, cert: str | None, key: str | None
) -> ssl.SSLContext | None:
    """Returns what an encrypted connection needs; None if it is not encrypted.

    With a ``ca`` or a ``cert``, the default of ``mode`` is ``"verify_identity"``. Raises
    `ValueError` for a file that cannot be used.
    """
    if mode is None:
        mode = "disabled" if ca is None and cert is None else "verify_identity"
    if mode not in SSL_MODES:
        raise ValueError(
            f"The option 'ssl_mode' must be one of {', '.join(map(repr, SSL_MODES))}."
        )
    if mode == "disabled":
        if ca is not None or cert is not None:
            raise ValueError(
                "The options 'ssl_ca' and 'ssl_cert' have no effect with"
                " 'ssl_mode=disabled'. Remove that, or them."
            )
        return None
    if key is not None and cert is None:
        raise ValueError("The option 'ssl_key' needs the option 'ssl_cert'.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        use_file("ssl_ca", partial(context.load_verify_locations, ca))
    else:
        context.load_default_certs()
    if cert is not None:
        use_file("ssl_cert", partial(context.load_cert_chain, cert, key))
    context.check_hostname = mode == "verify_identity"
    if mode == "required":
        context.verify_mode = ssl.CERT_NONE
    return context

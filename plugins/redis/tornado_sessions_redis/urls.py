"""Reads the URL of a Redis server, of its Sentinels or of a cluster."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote

from tornado_sessions.storage.options import use_file

_FORMS = (
    "'redis://user:password@host:6379/0', 'rediss://host', 'redis+unix:///path',"
    " 'redis+sentinel://host1,host2/name' or 'redis+cluster://host1,host2'"
)

# The kind of each scheme, and whether the connection is encrypted.
_SCHEMES = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "redis+unix": ("socket", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}

_match_host = re.compile(
    r"(?P<host>\[[0-9a-z:.%_-]+\]|[a-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?", re.IGNORECASE
).fullmatch

_visible = re.compile("[!-~]+").fullmatch


class Target(NamedTuple):
    """What a URL names."""

    #: "server", "socket", "sentinel" or "cluster".
    kind: str
    is_encrypted: bool
    #: Host and port of the server, of each Sentinel, or of some nodes of the cluster.
    hosts: list[tuple[str, int]]
    #: The path of a socket.
    path: str
    #: The name of the primary that the Sentinels watch.
    primary: str
    database: int
    username: str | None
    password: str | None

    @property
    def address(self) -> str:
        """What messages call it."""
        if self.kind == "socket":
            return self.path
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port in self.hosts
        )
        return f"{hosts}/{self.primary}" if self.primary else hosts


def read_url(url: str, database: int | None = None) -> Target:
    """Returns what ``url`` names, which has no query any more.

    A ``database`` replaces that of the URL. Raises `ValueError`, which repeats nothing
    of the URL.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        raise ValueError(
            f"The session backend 'redis' needs a URL of the form {_FORMS}."
        )
    kind, is_encrypted = _SCHEMES[scheme]
    login, _, place = rest.rpartition("@")
    username, _, password = login.partition(":")
    hosts, _, path = place.partition("/")
    primary, number = "", ""
    if kind == "socket":
        if hosts or not path:
            raise ValueError(
                "The URL of a socket has an absolute path, as in"
                " 'redis+unix:///run/redis/redis.sock', and no host."
            )
        read_hosts = []
    else:
        read_hosts = _hosts(hosts, 26379 if kind == "sentinel" else 6379)
        if kind == "server" and len(read_hosts) > 1:
            raise ValueError(
                "The URL 'redis://…' takes one host. For several write"
                " 'redis+sentinel://host1,host2/name' or 'redis+cluster://host1,host2'."
            )
        if kind == "sentinel":
            primary, _, path = path.partition("/")
            if not primary:
                raise ValueError(
                    "The URL 'redis+sentinel://…' needs the name of the primary after"
                    " the hosts, as in 'redis+sentinel://host1,host2/name'."
                )
        number = path
    if database is not None:
        number = str(database)
    if not re.fullmatch("[0-9]{0,9}", number, re.ASCII):
        raise ValueError("The number of the database must be a whole number.")
    if kind == "cluster" and int(number or 0):
        raise ValueError("A cluster has only the database 0.")
    return Target(
        kind,
        is_encrypted,
        read_hosts,
        "/" + unquote(path) if kind == "socket" else "",
        unquote(primary),
        int(number or 0),
        unquote(username) or None,
        unquote(password) or None,
    )


def check_options(target: Target, options: Mapping[str, str | bool]) -> None:
    """Raises `ValueError` for driver's options that ``target`` cannot use."""
    for name in options:
        if name.startswith("sentinel_") and target.kind != "sentinel":
            raise ValueError(f"The option {name!r} is for the URL of Sentinels.")
        if name.startswith("ssl_") and not target.is_encrypted:
            raise ValueError(
                f"The option {name!r} is for an encrypted connection. Begin the URL with"
                " 'rediss'."
            )
    if not _visible(str(options.get("client_name", "name"))):
        raise ValueError("The option 'client_name' must be visible ASCII characters.")
    if options.get("ssl_cert_reqs", "none") not in ("required", "optional", "none"):
        raise ValueError(
            "The option 'ssl_cert_reqs' must be 'required', 'optional' or 'none'."
        )
    _check_files(options)


def _check_files(options: Mapping[str, str | bool]) -> None:
    # The driver reads them at each connection, and calls the server unreachable.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    files = {name: str(path) for name, path in options.items()}
    authorities = files.get("ssl_ca_certs")
    if authorities is not None:
        use_file("ssl_ca_certs", partial(context.load_verify_locations, authorities))
    certificate, key = files.get("ssl_certfile"), files.get("ssl_keyfile")
    if certificate is not None:
        use_file("ssl_certfile", partial(context.load_cert_chain, certificate, key))
    elif key is not None:
        raise ValueError("The option 'ssl_keyfile' needs the option 'ssl_certfile'.")


def _hosts(text: str, port: int) -> list[tuple[str, int]]:
    hosts = []
    for part in text.split(","):
        matched = _match_host(part)
        if matched is None or not 0 < int(matched["port"] or port) < 65_536:
            raise ValueError(
                "The session backend 'redis' cannot use the host of its URL. It is to"
                f" be of the form {_FORMS}, with what is special in the password escaped"
                " by urllib.parse.quote(password, safe='')."
            )
        hosts.append((matched["host"].strip("[]"), int(matched["port"] or port)))
    return hosts

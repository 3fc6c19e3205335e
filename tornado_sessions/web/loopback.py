"""Finds out whether a request comes from this machine."""

from __future__ import annotations

import functools
import ipaddress

import tornado.httputil

# What a proxy adds, besides X-Forwarded-…; names as Tornado writes them.
_proxy_headers = frozenset({"Forwarded", "Via", "X-Real-Ip", "X-Scheme"})


def is_on_loopback(request: tornado.httputil.HTTPServerRequest) -> bool:
    """Whether a request comes from this machine and through no proxy.

    A proxy on this machine looks the same but for the headers it adds.
    """
    if not _are_loopback(request.remote_ip, request.host_name):
        return False
    for name in request.headers:
        if name in _proxy_headers or name.startswith("X-Forwarded-"):
            return False
    return True


@functools.lru_cache(maxsize=64)
def _are_loopback(address: str | None, host: str) -> bool:
    return _is_loopback(address or "") and _is_loopback(host.strip("[]"))


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # What a socket for both IP versions makes of 127.0.0.1: ``is_loopback`` of it is
    # False before Python 3.13.
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback

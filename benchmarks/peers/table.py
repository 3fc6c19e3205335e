"""The peers, and the release lines that are measured."""

from __future__ import annotations

import dataclasses

from benchmarks.peers.builds import go, go_versions, node, node_versions
from benchmarks.peers.programs import Built, Program, Python


@dataclasses.dataclass(frozen=True)
class Peer:
    """A library and the store that its sessions are kept in."""

    name: str
    store: str
    program: Program
    framework: str
    language: str = "Python"


_TORNADO = "tornado==6.6.*"
_REDIS = ("redis==8.*", "hiredis==3.*")
_UVICORN = ("uvicorn[standard]==0.54.*",)
_GUNICORN = ("gunicorn==27.*",)

_ours = Python("ours")
_torndsession = Python(
    "torndsession",
    ("torndsession==1.1.*", _TORNADO, *_REDIS, "python-memcached==1.*"),
)
_pycket = Python(
    "pycket", ("pycket==0.3.*", _TORNADO, *_REDIS, "python-memcached==1.*")
)
_aiohttp = Python(
    "aiohttp",
    (
        "aiohttp-session==2.12.*",
        "aiohttp[speedups]==3.14.*",
        "uvloop==0.23.*",
        "cryptography==50.*",
        "aiomcache==0.8.*",
        *_REDIS,
    ),
)
_starlette = Python("starlette", ("starlette==1.10.*", "itsdangerous==2.*", *_UVICORN))
_starsessions = Python(
    "starsessions", ("starsessions==2.2.*", "starlette==1.10.*", *_REDIS, *_UVICORN)
)
_litestar = Python("litestar", ("litestar==2.25.*", *_REDIS, *_UVICORN))
_flask = Python("flask", ("flask-session==0.8.*", "flask==3.1.*", *_REDIS, *_GUNICORN))
_django = Python("django", ("django==6.1.*", *_REDIS, *_GUNICORN))


def _node(name: str, store: str, program: str) -> Peer:
    return Peer(
        name, store, Built(node, program, node_versions), "Express", "JavaScript"
    )


def _go(name: str, store: str, program: str) -> Peer:
    return Peer(name, store, Built(go, program, go_versions), "net/http", "Go")


PEERS = (
    *(
        Peer("tornado_sessions", store, _ours, "Tornado")
        for store in (
            *("memory", "cookie", "sqlite", "memcached", "mongodb", "redis"),
            *("postgresql", "mysql"),
        )
    ),
    Peer("Tornado, by hand", "cookie", Python("tornado_by_hand"), "Tornado"),
    Peer("torndsession", "memory", _torndsession, "Tornado"),
    Peer("torndsession", "redis", _torndsession, "Tornado"),
    Peer("torndsession", "memcached", _torndsession, "Tornado"),
    Peer("pycket", "redis", _pycket, "Tornado"),
    Peer("pycket", "memcached", _pycket, "Tornado"),
    Peer("aiohttp-session", "cookie", _aiohttp, "aiohttp"),
    Peer("aiohttp-session", "redis", _aiohttp, "aiohttp"),
    Peer("aiohttp-session", "memcached", _aiohttp, "aiohttp"),
    Peer("Starlette", "cookie", _starlette, "Starlette"),
    Peer("starsessions", "memory", _starsessions, "Starlette"),
    Peer("starsessions", "redis", _starsessions, "Starlette"),
    Peer("litestar", "memory", _litestar, "Litestar"),
    Peer("litestar", "redis", _litestar, "Litestar"),
    Peer("Flask-Session", "redis", _flask, "Flask"),
    Peer("Django", "cookie", _django, "Django"),
    Peer("Django", "redis", _django, "Django"),
    _node("express-session", "memory", "express-session"),
    _node("express-session", "redis", "connect-redis"),
    _node("express-session", "mongodb", "connect-mongo"),
    _node("express-session", "memcached", "connect-memcached"),
    _node("express-session, memjs", "memcached", "connect-memjs"),
    _node("express-session", "sqlite", "better-sqlite3-session-store"),
    _node("cookie-session", "cookie", "cookie-session"),
    _go("gorilla/sessions", "cookie", "cookie"),
    _go("gorilla/sessions", "redis", "redis"),
)

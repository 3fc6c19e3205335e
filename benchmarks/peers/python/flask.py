"""Flask-Session in Redis, served by gunicorn with threads."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import redis
from flask import Flask, request, session
from flask_session import Session

from benchmarks.peers.python.on_gunicorn import serve
from benchmarks.peers.python.serving import PAUSE, SECRET
from benchmarks.values import VALUES, VALUES_4K, change


def hello() -> str:
    return "hello"


def filling(values: dict[str, str]) -> Callable[[], str]:
    def fill() -> str:
        session.update(values)
        return "hello"

    return fill


def read() -> str:
    value: str = session["key5"]
    return value


def write() -> str:
    change(session)
    return "hello"


def counter() -> str:
    n = session.get("n", 0)
    time.sleep(PAUSE)
    session["n"] = n + 1
    return "hello"


def keys() -> str:
    value: str = session["key5"]
    time.sleep(PAUSE)
    session[request.args["key"]] = 1
    return value


def values() -> dict[str, Any]:
    return dict(session)


def application(route: str, handler: Callable[[], Any], **config: Any) -> Flask:
    made = Flask(__name__)
    made.config.update(SECRET_KEY=SECRET, **config)
    if config:
        Session(made)
    made.add_url_rule(f"/{route}", view_func=handler)
    return made


def main(url: str) -> None:
    handlers: dict[str, Callable[[], Any]] = {
        "untouched": hello,
        "fill": filling(VALUES),
        "read": read,
        "write": write,
        "fill_4k": filling(VALUES_4K),
        "write_4k": write,
        "counter": counter,
        "keys": keys,
        "values": values,
    }
    client = redis.Redis.from_url(url)
    applications = {
        route: application(route, handler, SESSION_TYPE="redis", SESSION_REDIS=client)
        for route, handler in handlers.items()
    }
    serve({"bare": application("bare", hello), **applications})


if __name__ == "__main__":
    main(sys.argv[1])

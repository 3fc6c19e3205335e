"""What the programs of all peers for Python have in common. It needs only Python."""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

SECRET = "a secret of at least thirty-two bytes"

#: How many seconds `counter` and `keys` take.
PAUSE = 0.005


def announce(urls: Mapping[str, str], **more: Any) -> None:
    """Says that the server is ready, and where its routes are."""
    print(json.dumps({"urls": urls, **more}), flush=True)
    # Nobody reads what else is printed: a full pipe would stop the server.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def listen() -> tuple[socket.socket, str]:
    """Returns a socket that listens on a free port, and its URL."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}/"


def collect() -> str:
    """Collects garbage, and returns what the route of that name answers."""
    gc.collect()
    return "hello"


def redis_options(url: str) -> dict[str, Any]:
    """Returns the arguments of a `redis.Redis`, for those who take no URL."""
    parts = urlsplit(url)
    return {"host": parts.hostname, "port": parts.port, "password": parts.password}

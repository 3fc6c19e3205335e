"""Runs the shop until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys

import tornado.options
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.options import define, options

from example_app.app import get_sessions, make_app
from tornado_sessions import SessionError

define("port", default=8888, help="listen on this port; 0 for any that is free")
define("address", default="localhost", help="listen on this address")
define(
    "session_backend",
    default="sqlite:///shop-sessions.db",
    help="keep the sessions in this store: a URL, or the name of a backend",
)
define(
    "cookie_secret_file",
    default="shop-cookie-secret",
    help="keep the secret in this file, which is made if there is none",
)


async def main() -> None:
    try:
        tornado.options.parse_command_line()
        secret = read_secret(options.cookie_secret_file)
        app = make_app(options.session_backend, secret)
        # Settings that cannot work are found here, and not by a visitor.
        all_sessions = get_sessions(app)
        sockets = bind_sockets(options.port, options.address)
    except (tornado.options.Error, SessionError, ValueError, OSError) as error:
        sys.exit(f"The shop cannot open. {error}")

    server = HTTPServer(app)
    server.add_sockets(sockets)
    # The name alone: the URL of a store may have a password in it.
    backend = options.session_backend.partition(":")[0]
    port = sockets[0].getsockname()[1]
    print(f"The shop is open at http://{options.address}:{port}", flush=True)
    print(f"Its sessions are kept by the backend {backend!r}.", flush=True)

    await stop_signal()
    server.stop()
    if requests := app.settings["requests"]:
        await asyncio.wait(requests, timeout=10)
    for sessions in all_sessions:
        await sessions.close()
    await server.close_all_connections()


def read_secret(path: str) -> str:
    """Answers the secret in the file ``path``, after making it if need be.

    It outlives a restart, or else the sessions of the cookie backend would
    not. This suits a demo: a real application gets its secret from where its
    other secrets are.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        with open(path) as existing:
            return existing.read().strip()
    secret = secrets.token_urlsafe(32)
    with open(file, "w") as new:
        new.write(secret)
    return secret


async def stop_signal() -> None:
    """Returns when the process is asked to end."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())

"""Runs the shop until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import sqlite3
import sys

import tornado.options
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.options import define, options
from tornado.web import Application

from example_app.accounts import Accounts
from example_app.app import get_sessions, make_app
from example_app.live import Tabs
from example_app.processes import check_processes, fork, stop_signal
from tornado_sessions import SessionError

define("port", default=8888, help="listen on this port; 0 for any that is free")
define("address", default="localhost", help="listen on this address")
define("processes", default=1, help="serve with so many processes")
define(
    "session_backend",
    default="sqlite:///shop-sessions.db",
    help="keep the sessions in this store: a URL, or the name of a backend",
)
define(
    "session_idle_timeout",
    default=24 * 3600,
    help="sign out who has been away for so many seconds",
)
define(
    "session_max_per_user",
    default=0,
    help="sign out the oldest devices of a user beyond so many; 0 for no limit",
)
define(
    "accounts_file",
    default="shop-accounts.db",
    help="keep names and passwords in this file, which is made if there is none",
)
define(
    "cookie_secret_file",
    default="shop-cookie-secret",
    help="keep the secret in this file, which is made if there is none",
)


def main() -> None:
    try:
        if rest := tornado.options.parse_command_line():
            raise ValueError(f"What is {rest[0]!r}? Options begin with '--'.")
        app = make_app(
            options.session_backend,
            read_secret(options.cookie_secret_file),
            Accounts(options.accounts_file),
            Tabs(options.processes),
            session_idle_timeout=options.session_idle_timeout,
            session_max_per_user=options.session_max_per_user or None,
        )
        # Settings that cannot work are found here, and not by a visitor.
        check_processes(options.processes, get_sessions(app))
        sockets = listen(options.port, options.address)
    except (
        tornado.options.Error,
        SessionError,
        ValueError,
        OSError,
        sqlite3.Error,
    ) as error:
        sys.exit(f"The shop cannot open. {error}")

    # The name alone: the URL of a store may have a password in it.
    backend = options.session_backend.partition(":")[0]
    port = sockets[0].getsockname()[1]
    host = f"[{options.address}]" if ":" in options.address else options.address
    print(f"The shop is open at http://{host}:{port}", flush=True)
    print(f"Its sessions are kept by the backend {backend!r}.", flush=True)

    # Backends connect when they are first used, and so after this.
    process, ended = fork(options.processes) if options.processes > 1 else (0, None)
    asyncio.run(serve(app, sockets, process, ended))


def listen(port: int, address: str) -> list[socket.socket]:
    """Listens on a port; raises `ValueError` where that cannot be."""
    if not 0 <= port < 65_536:
        raise ValueError(f"--port={port}: ports are below 65536.")
    try:
        return bind_sockets(port, address)
    except OSError as error:
        raise ValueError(
            f"--address={address} --port={port}: {error.strerror}."
            " Take another address or port."
        ) from error


async def serve(
    app: Application,
    sockets: list[socket.socket],
    process: int,
    ended: socket.socket | None,
) -> None:
    """Serves the shop until it is asked to stop, and then shuts down gracefully."""
    app.settings["tabs"].listen(process)
    # No request needs to be larger than a form.
    server = HTTPServer(app, max_body_size=64 * 1024)
    server.add_sockets(sockets)
    await stop_signal(ended)
    server.stop()
    await app.settings["under_way"].wait()
    await server.close_all_connections()
    # Wait for requests of the last moment, too: they get no response, but are saved.
    await app.settings["under_way"].wait()
    for sessions in get_sessions(app):
        await sessions.close()
    app.settings["tabs"].close()


def read_secret(path: str) -> str:
    """Returns the secret in the file ``path``, which is created if there is none.

    It must survive a restart, because otherwise the sessions of the cookie backend
    would not. This is for a demo only: a real application gets its secret from its
    secret store.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        with open(path) as existing:
            secret = existing.read().strip()
        if not secret:
            raise ValueError(
                f"--cookie-secret-file={path}: it is empty. Remove it, and another one"
                " is made."
            ) from None
        return secret
    secret = secrets.token_urlsafe(32)
    with open(file, "w") as new:
        new.write(secret)
    return secret


if __name__ == "__main__":
    main()

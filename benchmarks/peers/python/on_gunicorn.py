"""Serves applications of WSGI with gunicorn: one process with threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gunicorn.app.base import BaseApplication

from benchmarks.peers.python.serving import announce

WSGI = Callable[..., Iterable[bytes]]

# Enough that one waits for the store while others work.
_THREADS = 8


class Server(BaseApplication):
    """Gives each path its application."""

    def __init__(self, applications: Mapping[str, WSGI]) -> None:
        self._applications = {
            f"/{route}": application for route, application in applications.items()
        }
        super().__init__()

    def load_config(self) -> None:
        self.cfg.set("bind", "127.0.0.1:0")
        self.cfg.set("worker_class", "gthread")
        self.cfg.set("threads", _THREADS)
        self.cfg.set("loglevel", "error")
        self.cfg.set("post_worker_init", self._announce)

    def load(self) -> WSGI:
        applications = self._applications

        def find(environ: dict[str, Any], start_response: object) -> Iterable[bytes]:
            return applications[environ["PATH_INFO"]](environ, start_response)

        return find

    def _announce(self, worker: Any) -> None:  # noqa: ANN401
        port = worker.sockets[0].getsockname()[1]
        urls = {
            path[1:]: f"http://127.0.0.1:{port}{path}" for path in self._applications
        }
        announce(urls, pid=os.getpid())


def serve(applications: Mapping[str, WSGI]) -> None:
    """Serves each application under its path, until SIGTERM."""
    Server(applications).run()

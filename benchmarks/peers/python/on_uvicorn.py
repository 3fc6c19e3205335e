"""Serves applications of ASGI with uvicorn, as it is for production."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from typing import Any

import uvicorn
import uvloop

from benchmarks.peers.python.serving import announce, listen


def serve(applications: Mapping[str, Any]) -> None:
    """Serves each application on a port of its own, until SIGTERM."""
    uvloop.run(_serve(applications))


async def _serve(applications: Mapping[str, Any]) -> None:
    urls, servers, tasks = {}, [], []
    for route, application in applications.items():
        listener, urls[route] = listen()
        config = uvicorn.Config(
            application, http="httptools", access_log=False, log_level="warning"
        )
        servers.append(uvicorn.Server(config))
        tasks.append(asyncio.create_task(servers[-1].serve([listener])))
    while not all(server.started for server in servers):
        for task in tasks:
            if task.done():
                task.result()
                raise SystemExit("A server has ended before it was ready.")
        await asyncio.sleep(0.01)
    # Each of them has set a handler that would stop itself only.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    announce(urls)
    await asyncio.gather(*tasks)

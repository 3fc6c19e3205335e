"""The memory of an open WebSocket with a session, and how fast all of them close.

All are of one user, who has a hundred sessions in the memory backend. The server has a
process of its own on one core, and the clients are in this one. Needs Linux.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from collections.abc import Iterator, Sequence

from tornado.httpclient import AsyncHTTPClient

from benchmarks.load import BrokenError, server
from benchmarks.results import Row
from benchmarks.scale.websocket_client import Client, open_all

SESSIONS = 100

# Within a second each session with a new socket is checked for the first time.
_SETTLED = 1.5

# How many seconds the sockets have to close.
_PATIENCE = 120.0

# "Policy violation": the session has ended (RFC 6455, section 7.4.1).
_ENDED = 1008

# How many files a process opens besides the sockets.
_OTHER_FILES = 200


def measure(quick: bool) -> Iterator[Row]:
    """Yields the row of as many WebSockets as a process may open, 10,000 at most."""
    yield measure_some(_allow(1000 if quick else 10_000))


def measure_some(count: int, settled: float = _SETTLED) -> Row:
    """Measures so many WebSockets with a session, and as many without.

    Their memory is that of the process ``settled`` seconds after all were opened.
    """
    command = [sys.executable, "-m", "benchmarks.scale.websocket_server", str(SESSIONS)]
    with server(command) as ready:
        port, cookies = ready["port"], ready["cookies"]
        bare, _ = asyncio.run(_measure(port, "/bare", cookies, count, settled))
    with server(command) as ready:
        port, cookies = ready["port"], ready["cookies"]
        ours, closed = asyncio.run(_measure(port, "/session", cookies, count, settled))
    return {
        "what": "websockets",
        "sockets": count,
        "bytes": round(ours - bare),
        "closed_s": round(closed, 2),
    }


def _allow(count: int) -> int:
    """Raises the limit of open files of this process and of those that it starts.

    Returns how many sockets can be opened then, ``count`` at most.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return count
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed - _OTHER_FILES


async def _measure(
    port: int, path: str, cookies: Sequence[str], count: int, settled: float
) -> tuple[float, float]:
    """Returns the bytes of each socket, and the seconds until all were closed."""
    # What the process takes for its first sockets it does not take for each.
    first = max(1, count // 10)
    clients = await open_all(port, path, cookies, first)
    before = await _ask(port, "memory")
    clients += await open_all(port, path, cookies, count - first)
    await asyncio.sleep(settled)
    each = (await _ask(port, "memory") - before) / (count - first)
    if path == "/session":
        return each, await _revoke(port, clients)
    for client in clients:
        client.abort()
    await _lost(clients)
    return each, 0


async def _revoke(port: int, clients: Sequence[Client]) -> float:
    """Ends all sessions, and returns after how many seconds all sockets were closed."""
    called, _ = await asyncio.gather(_ask(port, "revoke"), _lost(clients))
    codes = {client.code for client in clients}
    if codes != {_ENDED}:
        raise BrokenError(f"WebSockets were closed with the codes {codes}.")
    return max(client.closed_at for client in clients) - called


async def _lost(clients: Sequence[Client]) -> None:
    lost = asyncio.gather(*(client.lost for client in clients))
    try:
        await asyncio.wait_for(lost, _PATIENCE)
    except asyncio.TimeoutError:
        left = sum(client.code is None for client in clients)
        raise BrokenError(f"{left} WebSockets were not closed.") from None


async def _ask(port: int, path: str) -> float:
    url = f"http://127.0.0.1:{port}/{path}"
    response = await AsyncHTTPClient().fetch(url, request_timeout=_PATIENCE)
    return float(response.body)

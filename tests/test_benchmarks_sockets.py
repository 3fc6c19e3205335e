"""Tests of what measures processes and WebSockets, on few of them and without load."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import pytest

from benchmarks.load import BrokenError
from benchmarks.scale import processes, websockets
from benchmarks.scale.websocket_client import open_all


def get(url: str, cookie: str) -> str:
    request = urllib.request.Request(url, headers={"Cookie": cookie})
    with urllib.request.urlopen(request) as response:
        body: bytes = response.read()
    return body.decode()


def listeners(port: int) -> int:
    """Returns how many sockets listen on the port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    addresses = [line.split() for line in lines]
    return sum(
        local.endswith(f":{port:04X}") and state == "0A"
        for _, local, _, state, *_ in addresses
    )


class ProcessesTest:
    """The processes share a port and a store."""

    def test_each_process_has_the_sessions_of_the_first(self) -> None:
        """A new connection goes to any of them, and all read the same session."""
        with processes.serve("sqlite:", 2) as ready:
            urls, cookie = ready["urls"], ready["cookies"][0]
            written = get(urls["write"], cookie)
            read = {get(urls["read"], cookie) for _ in range(20)}

            assert listeners(ready["port"]) == 2
        assert (written, read) == ("hello", {"v" * 15})


class WebSocketsTest:
    """WebSockets are opened, and closed with their sessions."""

    def test_all_of_a_user_are_closed(self) -> None:
        """It takes at least the time that a handler has for a last message."""
        row = websockets.measure_some(20, settled=0)

        assert (row["what"], row["sockets"]) == ("websockets", 20)
        assert isinstance(row["bytes"], int)
        assert 0.1 <= row["closed_s"] < 30

    def test_a_handshake_that_is_not_answered_is_an_error(self) -> None:
        """A connection that is closed at once is no open WebSocket."""

        async def open_one() -> None:
            listening = await asyncio.start_server(
                lambda reader, writer: writer.close(), "127.0.0.1"
            )
            async with listening:
                port = listening.sockets[0].getsockname()[1]
                await open_all(port, "/", ["a=1"], 1)

        with pytest.raises(BrokenError, match="A handshake was not answered"):
            asyncio.run(open_one())

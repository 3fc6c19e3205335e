"""A WebSocket of a few hundred bytes, which only waits for its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from benchmarks.load import BrokenError

# How many handshakes are in progress at once.
_AT_ONCE = 50

_HANDSHAKE = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Cookie: {}\r\n\r\n"
)

# The first byte of a close frame (RFC 6455, section 5.2).
_CLOSE = 0x88


class Client(asyncio.Protocol):
    """The client's side of a WebSocket."""

    def __init__(self, handshake: str) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        #: The code with which the server has closed it, and when that was received.
        self.code: int | None = None
        self.closed_at = 0.0
        self._handshake = handshake.encode()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._handshake)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.opened.done() and not self._open():
            return
        # All that the server sends is a close, with a code and a reason.
        if len(self._received) < 4 or self.code is not None:
            return
        if self._received[0] == _CLOSE:
            self.code = int.from_bytes(self._received[2:4], "big")
            self.closed_at = time.monotonic()
            # The mask is zero, which leaves the code as it is.
            self._transport.write(b"\x88\x82\0\0\0\0" + self._received[2:4])
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(BrokenError("A handshake was not answered."))
        self.lost.set_result(None)

    def abort(self) -> None:
        self._transport.abort()

    def _open(self) -> bool:
        """Reads the response to the handshake, and returns whether it is complete."""
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            return False
        self._received = rest
        if not head.startswith(b"HTTP/1.1 101 "):
            self.opened.set_exception(BrokenError(head.decode("latin-1")))
            return False
        self.opened.set_result(None)
        return True


async def open_all(
    port: int, path: str, cookies: Sequence[str], count: int
) -> list[Client]:
    """Opens so many WebSockets, which take the cookies in turn."""
    clients: list[Client] = []
    while len(clients) < count:
        numbers = range(len(clients), min(len(clients) + _AT_ONCE, count))
        clients += await asyncio.gather(
            *(_open(port, path, cookies[number % len(cookies)]) for number in numbers)
        )
    return clients


async def _open(port: int, path: str, cookie: str) -> Client:
    loop = asyncio.get_running_loop()
    client = Client(_HANDSHAKE.format(path, cookie))
    await loop.create_connection(lambda: client, "127.0.0.1", port)
    await client.opened
    return client

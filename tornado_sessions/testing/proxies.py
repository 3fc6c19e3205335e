"""Servers that replace or proxy the server of a driver, on loopback."""

from __future__ import annotations

import abc
import contextlib
import socket
import threading
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class _Peer(abc.ABC):
    """Accepts connections in a thread until it is closed."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: How many connections it has accepted.
        self.accepted = 0
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A blocked accept() ends with a shutdown, and not with a close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            _close(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._sockets.append(client)
            self._serve(client)

    @abc.abstractmethod
    def _serve(self, client: socket.socket) -> None:
        """Talks to one client, without blocking."""


class Listener(_Peer):
    """Accepts connections and never replies; or sends ``answer`` and closes them."""

    def __init__(self, answer: bytes | None = None) -> None:
        self._answer = answer
        super().__init__()

    def _serve(self, client: socket.socket) -> None:
        if self._answer is not None:
            with contextlib.suppress(OSError):
                client.sendall(self._answer)
            _close(client)


class LossyProxy(_Peer):
    """Forwards all bytes to a server, and drops replies on request."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._generation = 0
        super().__init__()

    def lose_replies(self) -> None:
        """Loses the next reply on each connection that is open now, and closes it.

        The server has received the request and has done what it asks.
        """
        self._generation += 1

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port))
        except OSError:
            _close(client)
            return
        self._sockets.append(server)
        generation = self._generation
        for source, target, is_reply in (
            (client, server, False),
            (server, client, True),
        ):
            threading.Thread(
                target=self._pass_on,
                args=(source, target, generation if is_reply else None),
                daemon=True,
            ).start()

    def _pass_on(
        self, source: socket.socket, target: socket.socket, generation: int | None
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if generation is not None and generation != self._generation:
                    break
                target.sendall(data)
        _close(source)
        _close(target)


def _close(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        peer.shutdown(socket.SHUT_RDWR)
    peer.close()

"""Counts what requests do: calls of the store, messages to it, hops, tasks, bytes.

Server and client share a thread, so that the numbers are exact. The client acts only
when the event loop has nothing left to do: what it sends at once arrives in one
iteration of the loop.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from tornado_sessions.storage.backend import Backend, Record
from tornado_sessions.storage.vault import Vault
from tornado_sessions.testing.faults import FaultyVault

#: The operations of a backend.
OPERATIONS = (
    "load",
    "insert",
    "replace",
    "delete",
    "find",
    "find_all",
    "ping",
    "purge",
)


@dataclass
class Counts:
    """What was done since the counts were last taken."""

    #: By the operation of the store.
    calls: Counter[str] = field(default_factory=Counter)
    #: How many messages were sent to the server of the store.
    messages: int = 0
    #: How many results threads have delivered to the event loop.
    hops: int = 0
    #: By the name of the coroutine.
    tasks: Counter[str] = field(default_factory=Counter)
    #: How many callbacks the event loop was given.
    callbacks: int = 0
    #: The bytes of all response headers.
    headers: int = 0
    #: The bytes of all records that were stored.
    stored: int = 0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(
            self.calls - other.calls,
            self.messages - other.messages,
            self.hops - other.hops,
            self.tasks - other.tasks,
            self.callbacks - other.callbacks,
            self.headers - other.headers,
            self.stored - other.stored,
        )


class Meter:
    """Counts while the event loop that it has made runs."""

    def __init__(self) -> None:
        self.counts = Counts()
        #: The port of the store's server, if it has one.
        self.port: int | None = None
        self.idle = IdleSelector()
        self.loop = _Loop(self)

    def take(self) -> Counts:
        """Returns the counts, and begins anew."""
        counts, self.counts = self.counts, Counts()
        return counts

    def count_calls(self, backend: Backend) -> None:
        """Counts the calls of ``backend`` from now on, and the bytes that it stores.

        It stays the object that it is: some know their backend by its type.
        """
        for name in OPERATIONS:
            setattr(backend, name, self._counted(name, getattr(backend, name)))

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:  # noqa: ANN401
            self.counts.calls[name] += 1
            records = [arg for arg in args if isinstance(arg, Record)]
            self.counts.stored += sum(len(record.data) for record in records)
            return method(*args)

        return call

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts the tasks and the messages, which anything may make."""
        meter = self

        class CountedTask(asyncio.Task[Any]):
            # The task factory of an event loop does not see those that start eagerly.
            def __init__(self, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> None:
                name = getattr(coro, "__qualname__", type(coro).__name__)
                meter.counts.tasks[name] += 1
                super().__init__(coro, **kwargs)

        class CountedSocket(socket.socket):
            peer: Any = None

            def connect(self, address: Any) -> None:  # noqa: ANN401
                self.peer = address
                super().connect(address)

            def send(self, data: Any, *args: Any) -> int:  # noqa: ANN401
                self._note(data)
                return super().send(data, *args)

            def sendall(self, data: Any, *args: Any) -> None:  # noqa: ANN401
                self._note(data)
                super().sendall(data, *args)

            def sendmsg(self, buffers: Any, *args: Any) -> int:  # noqa: ANN401
                buffers = list(buffers)
                self._note(b"".join(buffers))
                return super().sendmsg(buffers, *args)

            def _note(self, data: Any) -> None:  # noqa: ANN401
                # MongoDB's driver says hello from time to time.
                if self._is_of_store() and b"hello" not in bytes(data):
                    meter.counts.messages += 1

            def _is_of_store(self) -> bool:
                return meter.port is not None and (
                    isinstance(self.peer, tuple) and self.peer[1] == meter.port
                )

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "Task", CountedTask)
            patch.setattr(asyncio.tasks, "Task", CountedTask)
            patch.setattr(socket, "socket", CountedSocket)
            yield


class CountedVault(FaultyVault):
    """A vault around one that has no backend, such as a cookie.

    It counts the calls as a `FaultyVault` names them.
    """

    def __init__(self, inner: Vault, meter: Meter) -> None:
        super().__init__(inner)
        self._meter = meter

    async def _enter(self, operation: str) -> None:
        self._meter.counts.calls[operation] += 1


class IdleSelector(selectors.DefaultSelector):
    """Calls ``on_idle`` whenever the event loop has nothing to do.

    It returns how many sockets of the server it has sent something to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on_idle: Callable[[], int] | None = None

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        sent = 0
        if self.on_idle is not None:
            sent = self.on_idle()
            if self.on_idle is None:
                # The loop ends before it asks again.
                return []
        ready = super().select(timeout)
        while len(ready) < sent:
            # A busy machine delivers what was sent a moment later.
            time.sleep(0.0001)
            ready = super().select(timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    """Counts the callbacks that it is given."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._lock = threading.Lock()
        super().__init__(meter.idle)

    # What they are called with is declared with a type of Python 3.11.

    def call_soon(self, *args: Any, **kwargs: Any) -> asyncio.Handle:  # type: ignore[override]
        self._meter.counts.callbacks += 1
        return super().call_soon(*args, **kwargs)

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> asyncio.Handle:  # type: ignore[override]
        with self._lock:
            self._meter.counts.hops += 1
        return super().call_soon_threadsafe(*args, **kwargs)


@dataclass
class Response:
    """A response that a `Client` has got."""

    status: bytes
    headers: bytes

    @property
    def cookie(self) -> str:
        """The session cookie that it sets; empty if it sets none."""
        line = self.headers.partition(b"Set-Cookie: ")[2]
        return line.partition(b";")[0].decode()


class Client:
    """Sends requests to a server in the same thread, on connections that stay open."""

    def __init__(self, meter: Meter, port: int, connections: int) -> None:
        self._meter = meter
        self._sockets = [
            socket.create_connection(("127.0.0.1", port)) for _ in range(connections)
        ]
        for each in self._sockets:
            each.setblocking(False)

    def fetch(self, path: str, cookies: Sequence[str]) -> list[Response]:
        """Sends a request with each cookie, all at once, and returns the responses.

        An empty cookie is not sent.
        """
        loop, idle = self._meter.loop, self._meter.idle
        pairs = list(zip(self._sockets, cookies, strict=False))
        received = {each: b"" for each, _ in pairs}
        is_sent = False

        def act() -> int:
            nonlocal is_sent
            if not is_sent:
                is_sent = True
                for each, cookie in pairs:
                    each.sendall(_request(path, cookie))
                return len(pairs)
            for each in received:
                received[each] += _receive(each)
            if all(map(_is_complete, received.values())):
                idle.on_idle = None
                loop.stop()
            return 0

        idle.on_idle = act
        loop.run_forever()
        responses = [_response(data) for data in received.values()]
        self._meter.counts.headers += sum(len(each.headers) for each in responses)
        return responses

    def close(self) -> None:
        """Closes the connections."""
        for each in self._sockets:
            each.close()


def _receive(connection: socket.socket) -> bytes:
    try:
        data = connection.recv(65_536)
    except BlockingIOError:
        return b""
    if not data:
        raise ConnectionError("The server has closed the connection.")
    return data


def _request(path: str, cookie: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost"]
    if cookie:
        lines.append(f"Cookie: {cookie}")
    return "\r\n".join([*lines, "", ""]).encode()


def _is_complete(data: bytes) -> bool:
    head, blank, body = data.partition(b"\r\n\r\n")
    length = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
    return bool(blank) and len(body) == int(length)


def _response(data: bytes) -> Response:
    head = data.partition(b"\r\n\r\n")[0]
    status, _, headers = head.partition(b"\r\n")
    return Response(status, headers)

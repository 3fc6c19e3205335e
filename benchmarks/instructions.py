"""Counts the bytecode instructions that a request takes, by function.

The numbers are exact: they are the same on every machine with the same versions of
Python, Tornado and this library, however busy it is. They say nothing of time, nor of
what is written in C. So they show whether a path has become shorter, and where it is
long. Needs Python 3.12: ``python -m benchmarks.instructions``.

Server and client share a thread. The client acts only when the event loop has nothing
left to do, so that every request takes the same steps.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import selectors
import socket
import sys
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tornado
import tornado.httpserver
import tornado.netutil
import tornado.web

from benchmarks import results
from benchmarks.server import make_apps

REQUESTS = 200
WARM_UP = 50
ROUTES = ("untouched", "read", "write")

_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OURS = tuple(os.path.join(_ROOT, name, "") for name in ("tornado_sessions", "plugins"))

# Of Python 3.12; mypy checks this file as Python 3.10 would read it.
_monitoring: Any = getattr(sys, "monitoring", None)


class Counts:
    """What some requests have executed, by code object."""

    def __init__(self) -> None:
        self.instructions: Counter[types.CodeType] = Counter()
        self.calls: Counter[types.CodeType] = Counter()

    def total(self, is_counted: Callable[[types.CodeType], bool]) -> int:
        """Returns the number of instructions in the code that is counted."""
        items = self.instructions.items()
        return sum(number for code, number in items if is_counted(code))

    def start(self) -> None:
        """Counts from now on."""
        events = _monitoring.events
        handlers: dict[int, Callable[[types.CodeType, int], None]] = {
            events.INSTRUCTION: self._count_instruction,
            events.PY_START: self._count_call,
        }
        _monitoring.use_tool_id(_monitoring.PROFILER_ID, "benchmarks.instructions")
        for event, handler in handlers.items():
            _monitoring.register_callback(_monitoring.PROFILER_ID, event, handler)
        _monitoring.set_events(_monitoring.PROFILER_ID, sum(handlers))

    def stop(self) -> None:
        """Counts no longer."""
        _monitoring.set_events(_monitoring.PROFILER_ID, 0)
        _monitoring.free_tool_id(_monitoring.PROFILER_ID)

    def _count_instruction(self, code: types.CodeType, offset: int) -> None:
        self.instructions[code] += 1

    def _count_call(self, code: types.CodeType, offset: int) -> None:
        self.calls[code] += 1


class Client(selectors.DefaultSelector):
    """Sends requests one by one, whenever the event loop is idle.

    It is the loop's selector: that is asked when nothing is left to do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._on_idle: Callable[[], None] | None = None

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self._on_idle is not None:
            self._on_idle()
            if self._on_idle is None:
                # The loop ends before it asks again.
                return []
        return super().select(timeout)

    def fetch(
        self,
        loop: asyncio.AbstractEventLoop,
        port: int,
        request: bytes,
        times: int,
        on_request: Callable[[int], None],
    ) -> bytes:
        """Sends a request ``times`` on one connection and returns the last response.

        Calls ``on_request`` with the number of each when those before have ended.
        """
        response = b""
        sent = 0
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setblocking(False)

            def act() -> None:
                nonlocal response, sent
                if sent:
                    try:
                        response = connection.recv(65_536)
                    except BlockingIOError:
                        return
                    if not response.startswith(b"HTTP/1.1 200 "):
                        raise RuntimeError(f"Unexpected response: {response!r}.")
                on_request(sent)
                if sent == times:
                    self._on_idle = None
                    loop.stop()
                    return
                connection.sendall(request)
                sent += 1

            self._on_idle = act
            loop.run_forever()
        return response


def count(
    client: Client,
    loop: asyncio.AbstractEventLoop,
    apps: dict[str, tornado.web.Application],
) -> dict[str, Counts]:
    """Returns what `REQUESTS` requests of each route execute."""

    async def listen(app: tornado.web.Application) -> int:
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        tornado.httpserver.HTTPServer(app).add_sockets(sockets)
        port: int = sockets[0].getsockname()[1]
        return port

    names = ("fill", "bare", *ROUTES)
    ports = {name: loop.run_until_complete(listen(apps[name])) for name in names}
    filled = client.fetch(loop, ports["fill"], _request(""), 1, lambda number: None)
    cookie = filled.partition(b"Set-Cookie: ")[2].partition(b";")[0].decode()

    def count_route(name: str) -> Counts:
        counts = Counts()

        def on_request(number: int) -> None:
            if number == WARM_UP:
                counts.start()
            elif number == WARM_UP + REQUESTS:
                counts.stop()

        times = WARM_UP + REQUESTS
        client.fetch(loop, ports[name], _request(cookie), times, on_request)
        return counts

    return {name: count_route(name) for name in ("bare", *ROUTES)}


def _request(cookie: str) -> bytes:
    lines = ["GET / HTTP/1.1", "Host: localhost"]
    if cookie:
        lines.append(f"Cookie: {cookie}")
    return "\r\n".join([*lines, "", ""]).encode()


def _is_ours(code: types.CodeType) -> bool:
    return code.co_filename.startswith(_OURS)


def _is_server(code: types.CodeType) -> bool:
    return code.co_filename != __file__


def _name(code: types.CodeType) -> str:
    """Returns the name of a function with that of its file, as short as is clear."""
    # The name with that of its class is of Python 3.11.
    name = getattr(code, "co_qualname", code.co_name)
    path = code.co_filename
    if path.startswith(_ROOT):
        path = os.path.relpath(path, _ROOT)
    else:
        path = "/".join(path.rsplit("/", 2)[-2:])
    return f"{path}:{code.co_firstlineno} {name}"


def report(counts: dict[str, Counts], most: int) -> None:
    """Prints what each route executes, and by which functions."""
    bare = counts["bare"]
    print(f"{'':12}{'everything':>14}{'above bare':>14}{'our code':>14}")
    floor = bare.total(_is_server) / REQUESTS
    for name, route in counts.items():
        everything = route.total(_is_server) / REQUESTS
        ours = route.total(_is_ours) / REQUESTS
        print(f"{name:12}{everything:14,.1f}{everything - floor:14,.1f}{ours:14,.1f}")
    for name in ROUTES:
        print(f"\n{name}, by function, per request")
        _report_functions(counts[name], bare, most)


def _report_functions(route: Counts, bare: Counts, most: int) -> None:
    above = {
        code: number - bare.instructions[code]
        for code, number in route.instructions.items()
        if _is_server(code)
    }
    print(f"{'above bare':>12}{'all':>10}{'calls':>8}")
    for code in sorted(above, key=above.__getitem__, reverse=True)[:most]:
        print(
            f"{above[code] / REQUESTS:12,.1f}"
            f"{route.instructions[code] / REQUESTS:10,.1f}"
            f"{route.calls[code] / REQUESTS:8,.2f}"
            f"  {_name(code)}"
        )


def rows(counts: dict[str, Counts], store: str) -> list[results.Row]:
    """Returns how many instructions each route takes above the bare handler, by part."""
    bare = _by_part(counts["bare"])
    return [
        {
            "store": store,
            "route": name,
            "part": part,
            "instructions": round((number - bare[part]) / REQUESTS),
        }
        for name in ROUTES
        for part, number in _by_part(counts[name]).items()
    ]


def _by_part(route: Counts) -> Counter[str]:
    parts: Counter[str] = Counter()
    for code, number in route.instructions.items():
        if _is_server(code):
            parts[_part(code)] += number
    return parts


def _part(code: types.CodeType) -> str:
    """Returns what a function is a part of: a package of ours, or what is not."""
    if not _is_ours(code):
        return "Tornado and Python"
    path = Path(code.co_filename).relative_to(_ROOT)
    if path.parts[0] == "plugins":
        return "backend"
    # Modules beside the packages are the session and the sessions of the application.
    return path.parts[1] if len(path.parts) > 2 else "core"


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("backend", nargs="?", default="memory")
    parser.add_argument("--most", type=int, default=40, help="how many functions")
    parser.add_argument("--results", type=Path, help="a file of JSON to write them to")
    arguments = parser.parse_args()
    if _monitoring is None:
        sys.exit("To count instructions needs Python 3.12 or newer.")
    if arguments.backend not in ("memory", "cookie"):
        # The others wait for a thread or a server: what they execute varies.
        sys.exit("Instructions are exact for 'memory' and 'cookie' only.")
    print(
        f"Bytecode instructions per request: {arguments.backend},"
        f" Python {platform.python_version()}, Tornado {tornado.version}\n"
    )
    client = Client()
    loop = asyncio.SelectorEventLoop(client)
    asyncio.set_event_loop(loop)
    counts = count(client, loop, make_apps(arguments.backend))
    report(counts, arguments.most)
    if arguments.results is not None:
        found = rows(counts, arguments.backend)
        results.write("instructions", found, arguments.results)


if __name__ == "__main__":
    _main()

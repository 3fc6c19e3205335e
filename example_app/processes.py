"""Has several processes serve one shop, and ends them together."""

from __future__ import annotations

import asyncio
import signal
import socket

from tornado.process import fork_processes

from tornado_sessions import Sessions


def check_processes(number: int, all_sessions: list[Sessions]) -> None:
    """Raises `ValueError` where sessions cannot be kept for so many processes."""
    if number < 1:
        raise ValueError(f"--processes={number!r}: at least one has to serve.")
    for sessions in all_sessions:
        # A vault without a backend keeps the sessions in the cookies.
        backend = getattr(sessions.vault, "backend", None)
        if number > 1 and backend is not None and not backend.shared:
            raise ValueError(
                f"--processes={number}: {type(backend).__name__} keeps sessions in"
                " the memory of one process, and each would know other carts. Use a"
                " backend that processes share, such as sqlite:///shop-sessions.db."
            )


def fork(number: int) -> tuple[int, socket.socket]:
    """Forks into ``number`` processes; returns the number of this one in each.

    The first process stays in this function until all of them have ended, and
    restarts one that dies. The socket reads as closed when the first process is
    asked to stop, or has died.
    """
    ended, going = socket.socketpair()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda *_: going.close())
    process = fork_processes(number)
    going.close()
    return process, ended


async def stop_signal(ended: socket.socket | None) -> None:
    """Returns when the process, or the one it was forked from, is asked to end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signal_number, stop.set)
    if ended is not None:
        loop.add_reader(ended, stop.set)
    await stop.wait()
    if ended is not None:
        loop.remove_reader(ended)
        ended.close()

"""Servers on free ports of loopback, each in a temporary folder of its own."""

from __future__ import annotations

import abc
import contextlib
import os
import pwd
import random
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from servers.programs import ServerUnavailableError

if TYPE_CHECKING:
    from typing_extensions import Self

# How many seconds a server has to start.
_PATIENCE = 30.0

#: The password of all servers that this process starts.
PASSWORD = secrets.token_hex(16)

_ports: set[int] = set()


class Running(abc.ABC):
    """What is started, and stopped at the end of a ``with`` block."""

    @abc.abstractmethod
    def start(self) -> None:
        """Starts it, and returns when it can be used."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Stops it and removes its data; twice is as good as once."""

    def start_for(self, case: unittest.TestCase) -> Self:
        """Starts it, and stops it at the end of a test."""
        case.addCleanup(self.stop)
        self.start()
        return self

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


class Server(Running):
    """A server program: it is started, killed, started again, stopped.

    ``options`` are added to its command line. It keeps its port and its data
    until it is stopped.
    """

    scheme: str
    #: Whether it refuses to run as root. It is then run as the user nobody.
    refuses_root = False

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        self._options = options
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def install(self) -> None:
        """Installs the program if it is missing.

        Raises `ServerUnavailableError` if that is not possible.
        """
        self._program()

    def start(self) -> None:
        """Starts the server and waits until it accepts connections.

        After `kill` it is the same server again. Raises
        `ServerUnavailableError` if its program is not available or does not start.
        """
        program = self._program()
        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix=f"{self.scheme}-")
                self._prepare(Path(self._folder.name))
            folder = Path(self._folder.name)
            with open(folder / "log", "wb") as log:
                self._process = subprocess.Popen(
                    [program, *self._arguments(folder), *self._options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C is for the tests; the servers end after them.
                    start_new_session=True,
                    **self._rights(folder),
                )
            self._wait(self._process, folder / "log")
        except BaseException:
            # Nobody else would: of a server that is not up yet nobody knows.
            self.stop()
            raise

    def kill(self) -> None:
        """Kills the server with SIGKILL; what it has stored on disk stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Pauses the server: it keeps its connections and does not reply."""
        self._signal(signal.SIGSTOP)
        # The signal takes a moment, in which the server could still answer.
        assert self._process is not None
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """Ends what `pause` began."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        # It need not end well: nobody reads what it would write.
        self.kill()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @abc.abstractmethod
    def _program(self) -> str:
        """Returns the path of the program, which is installed if it is missing."""

    @abc.abstractmethod
    def _arguments(self, folder: Path) -> list[str]:
        """Returns the arguments of the program, with its data in ``folder``."""

    def _prepare(self, folder: Path) -> None:
        """Makes the data of a new server."""

    def _accepts(self) -> bool:
        """Whether the server can be used."""
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        return False

    def _run(self, command: Sequence[str | Path], folder: Path) -> None:
        """Runs a command with the rights of the server, to prepare its data."""
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
            **self._rights(folder),
        )
        if ran.returncode != 0:
            raise ServerUnavailableError(
                f"{command[0]} has failed. It says: {ran.stdout[-500:]}"
            )

    def _rights(self, folder: Path) -> dict[str, Any]:
        """Returns the arguments of `subprocess.Popen` that take root's rights away."""
        if not self.refuses_root or os.geteuid() != 0:
            return {}
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        return {
            "user": nobody.pw_uid,
            "group": nobody.pw_gid,
            "extra_groups": [],
            # The folder of this process may be closed to others.
            "cwd": folder,
        }

    def _wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not self._accepts():
            if process.poll() is not None or time.monotonic() > deadline:
                last = log.read_text(errors="replace")[-500:]
                raise ServerUnavailableError(
                    f"{type(self).__name__} did not start. It says: {last}"
                )
            time.sleep(0.01)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)


class Group(Running):
    """Several servers that belong together. They are started in order."""

    members: Sequence[Server]

    def start(self) -> None:
        """Starts all members and waits until they have found each other."""
        try:
            for member in self.members:
                member.start()
            self._join()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops all members and removes their data."""
        for member in self.members:
            member.stop()

    @abc.abstractmethod
    def _join(self) -> None:
        """Makes a whole of the members, which are up, and waits until it is one."""


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Waits for a condition; raises `ServerUnavailableError` if it never holds."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise ServerUnavailableError(otherwise)
        time.sleep(0.02)


def free_port() -> int:
    """Returns a port that nobody listens on, and that it has not returned before."""
    # Below the ports that the system hands to clients: while the server is down
    # a client that tries again and again could else be given its very port, and
    # be connected to itself.
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _ports:
            _ports.add(port)
            return port

"""Servers on free ports of loopback, each in a temporary folder of its own."""

from __future__ import annotations

import abc
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from servers.programs import ServerUnavailableError, find_memcached, find_mongod

if TYPE_CHECKING:
    import pymongo
    from typing_extensions import Self

# How many seconds a server has to begin.
_PATIENCE = 30.0


class Server(abc.ABC):
    """A server program: it is started, killed, started again, stopped.

    ``options`` are added to its command line. It keeps its port and its data
    until it is stopped.
    """

    scheme: str

    def __init__(self, *options: str) -> None:
        self.port = _free_port()
        self._options = options
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts the server and waits until it accepts connections.

        After `kill` it is the same server again. Raises
        `ServerUnavailableError` if its program is not available or does not start.
        """
        program = self._program()
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix=f"{self.scheme}-")
        folder = Path(self._folder.name)
        with open(folder / "log", "wb") as log:
            self._process = subprocess.Popen(
                [program, *self._arguments(folder), *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the tests; the servers end after them.
                start_new_session=True,
            )
        try:
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
        """Ends the server and removes its data; twice is as good as once."""
        # It need not end well: nobody reads what it would write.
        self.kill()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

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

    @abc.abstractmethod
    def _program(self) -> str:
        """Returns the path of the program, which is installed if it is missing."""

    @abc.abstractmethod
    def _arguments(self, folder: Path) -> list[str]:
        """Returns the arguments of the program, with its data in ``folder``."""

    def _wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not self._accepts():
            if process.poll() is not None or time.monotonic() > deadline:
                last = log.read_text(errors="replace")[-500:]
                raise ServerUnavailableError(
                    f"The server {self.url} did not start. It says: {last}"
                )
            time.sleep(0.01)

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)


class Memcached(Server):
    """A memcached."""

    scheme = "memcached"

    def _program(self) -> str:
        return find_memcached()

    def _arguments(self, folder: Path) -> list[str]:
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        return ["-l", "127.0.0.1", "-p", str(self.port), *user]


class MongoDB(Server):
    """A mongod."""

    scheme = "mongodb"

    def _program(self) -> str:
        return find_mongod()

    def _arguments(self, folder: Path) -> list[str]:
        data = folder / "data"
        data.mkdir(exist_ok=True)
        return [
            *["--bind_ip", "127.0.0.1", "--port", str(self.port)],
            *["--dbpath", str(data), "--nounixsocket", "--quiet"],
            *["--wiredTigerCacheSizeGB", "0.25"],
        ]


class MongoReplicaSet:
    """Several mongod that hold the same data and elect a primary.

    Needs pymongo, which comes with the plugin that it is for.
    """

    def __init__(self, size: int = 3, *, election_timeout: float = 2.0) -> None:
        self.members = [MongoDB("--replSet", "sessions") for _ in range(size)]
        self._election_timeout = election_timeout

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in self.members)
        return f"mongodb://{hosts}/?replicaSet=sessions"

    def start(self) -> None:
        """Starts all members and waits until there is a primary."""
        try:
            for member in self.members:
                member.start()
            self._initiate()
            self.primary()
        except BaseException:
            self.stop()
            raise

    def primary(self) -> MongoDB:
        """Returns the primary, as soon as there is one."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for member in self.members:
                if _takes_writes(member):
                    return member
            time.sleep(0.05)
        raise ServerUnavailableError(f"{self.url} has elected no primary.")

    def stop(self) -> None:
        """Stops all members and removes their data."""
        for member in self.members:
            member.stop()

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

    def _initiate(self) -> None:
        config = {
            "_id": "sessions",
            "members": [
                {"_id": number, "host": f"127.0.0.1:{member.port}"}
                for number, member in enumerate(self.members)
            ],
            "settings": {"electionTimeoutMillis": int(1000 * self._election_timeout)},
        }
        with _client(self.members[0]) as client:
            client.admin.command("replSetInitiate", config)


def _takes_writes(member: MongoDB) -> bool:
    import pymongo.errors

    try:
        with _client(member) as client:
            return bool(client.admin.command("hello")["isWritablePrimary"])
    except pymongo.errors.PyMongoError:
        return False


def _client(member: MongoDB) -> pymongo.MongoClient[dict[str, Any]]:
    import pymongo

    return pymongo.MongoClient(
        member.url, directConnection=True, serverSelectionTimeoutMS=1000
    )


def _free_port() -> int:
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
            return port

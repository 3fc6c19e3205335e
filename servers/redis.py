"""Redis and Valkey. Several of them are in `servers.redis_groups`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from servers.processes import PASSWORD, Server
from servers.programs import find
from servers.wheels import find_valkey

# A reply of the protocol RESP: a line, a number, bytes, None, or a list of these.
Reply = str | int | bytes | None | list["Reply"]

_CONFIG = """\
port {port}
bind 127.0.0.1
dir "{folder}"
requirepass {password}
masterauth {password}
save ""
appendonly yes
# Enough for what a SIGKILL must leave: the operating system goes on.
appendfsync no
repl-diskless-sync-delay 0
"""


class Redis(Server):
    """A Redis, with a password. What it has acknowledged survives `kill`.

    It begins as a replica of the Redis at the port ``replica_of``, if that is given.
    """

    scheme = "redis"
    password: str | None = PASSWORD

    def __init__(self, *options: str, replica_of: int | None = None) -> None:
        super().__init__(*options)
        self._replica_of = replica_of

    @property
    def url(self) -> str:
        return f"{self.scheme}://:{self.password}@127.0.0.1:{self.port}"

    def ask(self, *command: str | int) -> Reply:
        """Sends a command and returns the reply; raises RuntimeError if it is an error."""
        with (
            socket.create_connection(("127.0.0.1", self.port), 5) as client,
            client.makefile("rb") as replies,
        ):
            if self.password is not None:
                client.sendall(_encode(["AUTH", self.password]))
                _decode(replies)
            client.sendall(_encode(command))
            return _decode(replies)

    def is_primary(self) -> bool:
        """Whether it is up and no replica."""
        with contextlib.suppress(OSError, RuntimeError):
            role = self.ask("ROLE")
            return isinstance(role, list) and role[0] == b"master"
        return False

    def _program(self) -> str:
        return find("redis")

    def _arguments(self, folder: Path) -> list[str]:
        return [str(folder / "config")]

    def _prepare(self, folder: Path) -> None:
        # The server rewrites it when its role changes.
        config = _CONFIG.format(port=self.port, folder=folder, password=PASSWORD)
        if self._replica_of is not None:
            config += f"replicaof 127.0.0.1 {self._replica_of}\n"
        (folder / "config").write_text(config)

    def _accepts(self) -> bool:
        # It listens before it has loaded its data.
        with contextlib.suppress(OSError, RuntimeError):
            return self.ask("PING") == "PONG"
        return False


class Valkey(Redis):
    """A Valkey, which takes the clients and the URLs of Redis."""

    def _program(self) -> str:
        return find_valkey()


def _encode(command: Sequence[str | int]) -> bytes:
    words = [str(word).encode() for word in command]
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
    return b"*%d\r\n" % len(words) + b"".join(parts)


def _decode(replies: BinaryIO) -> Reply:
    line = replies.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("The server has closed the connection.")
    kind, rest = line[:1], line[1:-2].decode()
    if kind == b"+":
        return rest
    if kind == b"-":
        raise RuntimeError(rest)
    if kind == b":":
        return int(rest)
    size = int(rest)
    if size < 0:
        return None
    if kind == b"$":
        return replies.read(size + 2)[:-2]
    return [_decode(replies) for _ in range(size)]

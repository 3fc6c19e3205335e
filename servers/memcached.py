"""memcached."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from servers.processes import Server
from servers.programs import find


class Memcached(Server):
    """A memcached."""

    scheme = "memcached"

    def _program(self) -> str:
        return find("memcached")

    def _arguments(self, folder: Path) -> list[str]:
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        return ["-l", "127.0.0.1", "-p", str(self.port), *user]

    def ask(self, command: str, lines: int | None = None) -> list[str]:
        """Returns so many lines of the reply to ``command``, or all up to END."""
        with socket.create_connection(("127.0.0.1", self.port), 30) as connection:
            connection.sendall(command.encode() + b"\r\n")
            answer: list[str] = []
            with connection.makefile(newline="\r\n") as file:
                while len(answer) != lines and answer[-1:] != ["END"]:
                    answer.append(file.readline().removesuffix("\r\n"))
            return answer

    def statistic(self, name: str) -> int:
        """Returns a number of those that ``stats`` lists."""
        values = dict(line.split(" ")[1:3] for line in self.ask("stats")[:-1])
        return int(values[name])

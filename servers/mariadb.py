"""MariaDB."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from servers.processes import PASSWORD, Server
from servers.programs import find

# The server runs this at each start.
_USERS = f"""\
CREATE DATABASE IF NOT EXISTS sessions CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS sessions@127.0.0.1 IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON *.* TO sessions@127.0.0.1 WITH GRANT OPTION;
"""

# The protocol's version, with which a server greets that takes connections.
_GREETING = 10

# Enough for what a SIGKILL must leave: the operating system goes on.
_STORAGE = (
    *("--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync"),
    *("--debug-no-sync", "--innodb-log-file-size=16M"),
)


class MariaDB(Server):
    """A MariaDB, with a user who has all rights and a database for it.

    What it has acknowledged survives `kill`, but not a crash of the machine.
    """

    scheme = "mysql"
    refuses_root = True

    @property
    def url(self) -> str:
        return f"{self.scheme}://sessions:{PASSWORD}@127.0.0.1:{self.port}/sessions"

    def _program(self) -> str:
        return find("mysql")

    def _prepare(self, folder: Path) -> None:
        (folder / "users.sql").write_text(_USERS)
        install = find("mariadb-install-db")
        self._run(
            [
                *[install, "--no-defaults", f"--datadir={folder}/data"],
                *["--skip-test-db", "--skip-name-resolve", f"--tmpdir={folder}"],
                # Nobody gets in without a password.
                "--auth-root-authentication-method=socket",
                *["--auth-root-socket-user=nobody", *_STORAGE],
            ],
            folder,
        )

    def _arguments(self, folder: Path) -> list[str]:
        return [
            *["--no-defaults", f"--datadir={folder}/data", f"--tmpdir={folder}"],
            *["--bind-address=127.0.0.1", f"--port={self.port}"],
            *[f"--socket={folder}/socket", f"--pid-file={folder}/pid"],
            *[f"--init-file={folder}/users.sql", "--skip-name-resolve"],
            *_STORAGE,
        ]

    def _accepts(self) -> bool:
        # It listens before it has recovered from a crash.
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 1) as client,
        ):
            return client.recv(5)[4:] == bytes([_GREETING])
        return False

"""PostgreSQL, and pgbouncer in front of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from pathlib import Path
from urllib.parse import urlsplit

from servers.processes import PASSWORD, Server, wait_until
from servers.programs import find

_USER = "sessions"

_POOLER_CONFIG = """\
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
admin_users = {user}
pool_mode = transaction
server_login_retry = 1
"""


class PostgreSQL(Server):
    """A PostgreSQL, whose one user is a superuser.

    What it has acknowledged survives `kill`, but not a crash of the machine.
    """

    scheme = "postgresql"
    refuses_root = True

    @property
    def url(self) -> str:
        return f"{self.scheme}://{_USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def kill(self) -> None:
        """Kills all processes of the server with SIGKILL; its data stays.

        Those that serve connections would otherwise go on for a moment, and
        PostgreSQL does not start again before they have ended.
        """
        children = []
        if self._process is not None and self._process.poll() is None:
            # So that it starts no others.
            super().pause()
            children = _children(self._process.pid)
        super().kill()
        _send(children, signal.SIGKILL)
        _wait(children, "ZX")

    def pause(self) -> None:
        super().pause()
        assert self._process is not None
        children = _children(self._process.pid)
        _send(children, signal.SIGSTOP)
        _wait(children, "TZX")

    def resume(self) -> None:
        if self._process is not None:
            _send(_children(self._process.pid), signal.SIGCONT)
        super().resume()

    def _program(self) -> str:
        return find("postgresql")

    def _prepare(self, folder: Path) -> None:
        password = folder / "password"
        password.write_text(PASSWORD)
        initdb = Path(self._program()).resolve().with_name("initdb")
        self._run(
            [
                *[str(initdb), f"--pgdata={folder}/data", f"--username={_USER}"],
                *[f"--pwfile={password}", "--auth=scram-sha-256", "--no-sync"],
                *["--encoding=UTF8", "--locale=C"],
            ],
            folder,
        )

    def _arguments(self, folder: Path) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
        }
        options = [f"-c{name}={value}" for name, value in settings.items()]
        return [f"-D{folder}/data", f"-p{self.port}", *options]

    def _accepts(self) -> bool:
        # It listens before it has recovered from a crash.
        login = f"user\0{_USER}\0database\0postgres\0\0".encode()
        hello = struct.pack("!iHH", 8 + len(login), 3, 0) + login
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 1) as client,
        ):
            client.sendall(hello)
            return client.recv(1) == b"R"
        return False


class PgBouncer(Server):
    """A pgbouncer in transaction mode, in front of the PostgreSQL at ``url``."""

    scheme = "postgresql"
    refuses_root = True

    def __init__(self, url: str, *options: str) -> None:
        super().__init__(*options)
        self._behind = urlsplit(url)

    @property
    def url(self) -> str:
        login, _, _ = self._behind.netloc.rpartition("@")
        return self._behind._replace(netloc=f"{login}@127.0.0.1:{self.port}").geturl()

    def _program(self) -> str:
        return find("pgbouncer")

    def _prepare(self, folder: Path) -> None:
        user, password = self._behind.username, self._behind.password
        users = folder / "users"
        users.write_text(f'"{user}" "{password}"\n')
        (folder / "config").write_text(
            _POOLER_CONFIG.format(
                host=self._behind.hostname,
                port=self._behind.port or 5432,
                own_port=self.port,
                users=users,
                user=user,
            )
        )

    def _arguments(self, folder: Path) -> list[str]:
        return [str(folder / "config")]


def _children(process: int) -> list[int]:
    """Returns the ids of the processes that a process has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        fields = _fields(entry)
        if fields and int(fields[1]) == process:
            found.append(int(entry.parent.name))
    return found


def _send(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _wait(processes: list[int], states: str) -> None:
    """Waits until each process is in one of the states, or gone."""

    def are_there() -> bool:
        stats = [_fields(Path(f"/proc/{process}/stat")) for process in processes]
        return all(stat[0] in states for stat in stats if stat)

    wait_until(are_there, "The processes of PostgreSQL have not obeyed a signal.")


def _fields(stat: Path) -> list[str]:
    """Returns state, parent and so on of a process; nothing if it is gone."""
    try:
        # The name of the program, in parentheses, may have anything in it.
        return stat.read_text().rpartition(")")[2].split()
    except OSError:
        return []

"""memcached."""

from __future__ import annotations

import os
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

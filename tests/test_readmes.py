"""Tests of the programs that the plugins' READMEs show."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
plugins = [path.parent for path in sorted((root / "plugins").glob("*/README.md"))]

#: The stores that a server keeps; a README names one that only its reader has.
servers = {
    "memcached": "SESSIONS_TEST_MEMCACHED_URL",
    "mongodb": "SESSIONS_TEST_MONGODB_URL",
}


@pytest.mark.parametrize("folder", plugins, ids=lambda folder: folder.name)
def test_the_program_counts_the_visits_of_a_visitor(
    folder: Path, tmp_path: Path
) -> None:
    """It runs as it stands, but for its port and the address of its server."""
    program = _first_program(folder / "README.md")
    if variable := servers.get(folder.name):
        if variable not in os.environ:
            pytest.skip(f"{variable} is not set.")
        program, named = re.subn(
            r'session_backend="[^"]+"',
            f'session_backend="{os.environ[variable]}"',
            program,
        )
        assert named == 1
    port = _free_port()
    assert program.count("8888") == 1
    (tmp_path / "program.py").write_text(program.replace("8888", str(port)))
    running = subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "COOKIE_SECRET": secrets.token_urlsafe(32)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_for(port, running)
        cookie = ""
        for number in (1, 2, 3):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/", headers={"Cookie": cookie}
            )
            with urllib.request.urlopen(request, timeout=30) as response:
                assert re.findall(r"\d+", response.read().decode()) == [str(number)]
                cookie = (response.headers["Set-Cookie"] or cookie).partition(";")[0]
    finally:
        running.terminate()
        _, errors = running.communicate()
    assert "Traceback" not in errors


def _first_program(readme: Path) -> str:
    found = re.search(
        r"^```python\n(.*?)^```$", readme.read_text(), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return found[1]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_for(port: int, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while running.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    raise AssertionError("The program does not listen.")

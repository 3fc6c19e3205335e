"""Tests of the programs that the READMEs show."""

from __future__ import annotations

import ast
import contextlib
import datetime
import http.client
import json
import os
import re
import runpy
import secrets
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tornado_sessions.settings import read_settings

root = Path(__file__).parent.parent
backends = [
    path.parent
    for path in sorted((root / "plugins").glob("*/README.md"))
    if path.parent.name != "pytest"
]

pages = [
    page
    for page in (root / "README.md", *sorted((root / "docs").glob("*.md")))
    if "```python" in page.read_text()
]

#: The stores that a server keeps; a README names one that only its reader has.
servers = {
    "memcached": "SESSIONS_TEST_MEMCACHED_URL",
    "mongodb": "SESSIONS_TEST_MONGODB_URL",
    "mysql": "SESSIONS_TEST_MYSQL_URL",
    "postgresql": "SESSIONS_TEST_POSTGRESQL_URL",
    "redis": "SESSIONS_TEST_REDIS_URL",
}


@pytest.mark.parametrize("folder", backends, ids=lambda folder: folder.name)
def test_the_program_counts_the_visits_of_a_visitor(
    folder: Path, tmp_path: Path
) -> None:
    """It runs as it stands, but for its port and the address of its server."""
    program = _first_program(folder / "README.md")
    if variable := servers.get(folder.name):
        if variable not in os.environ:
            pytest.skip(f"{variable} is not set; 'python -m servers' sets it.")
        program, named = re.subn(
            r'session_backend="[^"]+"',
            f'session_backend="{os.environ[variable]}"',
            program,
        )
        assert named == 1
    with _running(program, tmp_path) as url:
        visitor = _visitor()
        for number in (1, 2, 3):
            answer = visitor.open(url, timeout=30).read().decode()
            assert re.findall(r"\d+", answer) == [str(number)]


def test_the_first_program_of_all_keeps_a_cart(tmp_path: Path) -> None:
    """It replies what the README says, also when it was restarted in between."""
    readme = root / "README.md"
    program = _first_program(readme)
    told = re.search(r"curl -b cookies localhost:8888/\n(.*)\n", readme.read_text())
    visitor = _visitor()
    with _running(program, tmp_path) as url:
        for product in re.findall(r"curl -d (\S+)", readme.read_text()):
            visitor.open(url, data=product.encode(), timeout=30).close()
    with _running(program, tmp_path, port=urlsplit(url).port) as url:
        answer = visitor.open(url, timeout=30).read().decode()

    assert told is not None
    assert answer == told[1]


def test_the_typed_program_keeps_a_cart_which_the_next_one_migrates(
    tmp_path: Path,
) -> None:
    """Both reply what docs/typed.md says, one after the other with one file."""
    page = root / "docs/typed.md"
    first, second = (block for block in _blocks(page) if "asyncio.run" in block)
    told = re.findall(r"curl -b cookies localhost:8888/\n(.*)\n", page.read_text())
    visitor = _visitor()
    with _running(first, tmp_path) as url:
        for product in re.findall(r"curl -d (\S+)", page.read_text()):
            visitor.open(url, data=product.encode(), timeout=30).close()
        answer = visitor.open(url, timeout=30).read().decode()
    with _running(second, tmp_path, port=urlsplit(url).port) as url:
        migrated = visitor.open(url, timeout=30).read().decode()

    assert [answer, migrated.rstrip()] == told


def test_the_program_that_warns_says_how_long_a_session_lasts(tmp_path: Path) -> None:
    """It replies what docs/idle-warning.md says, to a user who is signed in."""
    page = root / "docs/idle-warning.md"
    (program,) = (block for block in _blocks(page) if "asyncio.run" in block)
    told = re.search(r"8888/session\n(.*)\n", page.read_text())
    visitor = _visitor()
    visitor.addheaders = [("Sec-Fetch-Site", "same-origin")]
    with _running(program, tmp_path) as url:
        visitor.open(url + "login", data=b"name=ada", timeout=30).close()
        account = visitor.open(url, timeout=30).read().decode()
        before = json.load(visitor.open(url + "session", timeout=30))
        after = json.load(visitor.open(url + "session", data=b"", timeout=30))

    assert "You are signed in." in account
    assert told is not None
    assert json.loads(told[1]) | {"seconds_left": 0} == before | {"seconds_left": 0}
    assert before["seconds_left"] <= after["seconds_left"] + 30
    assert 0 < after["seconds_left"] <= 900


def test_the_program_that_sends_news_ends_them_with_a_logout(tmp_path: Path) -> None:
    """Behaviour 104: the visitor reads in one tab, and signs out in another."""
    (program,) = (
        block for block in _blocks(root / "docs/websockets.md") if "run(main" in block
    )
    visitor = _visitor()
    visitor.addheaders = [("Sec-Fetch-Site", "same-origin")]
    with _running(program, tmp_path) as url:
        visitor.open(url + "login", data=b"name=ada", timeout=30).close()
        news = visitor.open(url + "news", timeout=30)
        visitor.open(url + "publish", data=b"text=hello", timeout=30).close()
        told = news.readline()
        visitor.open(url + "logout", data=b"", timeout=30).close()
        with contextlib.suppress(http.client.IncompleteRead):
            news.read()
        again = visitor.open(url + "news", timeout=30)

    assert told == b'data: "hello"\n'
    assert again.status == 204


@pytest.mark.parametrize("page", pages, ids=lambda page: page.stem)
def test_all_that_is_python_is_python(page: Path) -> None:
    """A part of a program can be copied as well, ``await`` included."""
    for block in _blocks(page):
        compile(block, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/", "/"),
        ("/account", "/account"),
        ("/search?q=a%20b&n=1#top", "/search?q=a%20b&n=1#top"),
        ("/a//b", "/a//b"),
        ("", "/"),
        ("account", "/"),
        ("//example.com/", "/"),
        ("///example.com/", "/"),
        ("/\\example.com/", "/"),
        ("\\\\example.com/", "/"),
        ("/a\\b", "/"),
        ("/\t/example.com/", "/"),
        ("/\n/example.com/", "/"),
        ("/account\n", "/"),
        (" /account", "/"),
        ("https://example.com/", "/"),
        ("javascript:alert(1)", "/"),
    ],
)
def test_the_login_goes_on_within_its_site_alone(
    path: str, answer: str, tmp_path: Path
) -> None:
    """As docs/users.md has it: a link cannot name a place elsewhere."""
    (block,) = [
        block for block in _blocks(root / "docs/users.md") if "def local_path" in block
    ]
    (tmp_path / "paths.py").write_text(block.partition("class ")[0])
    shown = runpy.run_path(str(tmp_path / "paths.py"))

    assert shown["local_path"](path) == answer


@pytest.mark.parametrize(
    ("profile", "idle", "lifetime"),
    [
        ("AAL1", 30 * 24 * 3600, 30 * 24 * 3600),
        ("AAL2", 3600, 24 * 3600),
        ("AAL3", 15 * 60, 12 * 3600),
        ("HIGH_VALUE", 5 * 60, 4 * 3600),
        ("LOW_RISK", 30 * 60, 8 * 3600),
    ],
)
def test_a_profile_of_timeouts_keeps_to_the_limits_beside_it(
    profile: str, idle: int, lifetime: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As docs/timeouts.md has it, from NIST SP 800-63B-4 and OWASP: in seconds."""
    shown: dict[str, Any] = {"timedelta": datetime.timedelta}
    for block in _blocks(root / "docs/timeouts.md"):
        exec(block, shown)  # noqa: S102 - it is ours

    read = read_settings({"session_backend": "memory", **shown[profile]})

    assert (read.idle_timeout, read.lifetime) == (idle, lifetime)
    assert caplog.records == []


@contextlib.contextmanager
def _running(program: str, folder: Path, port: int | None = None) -> Iterator[str]:
    """Runs a program, and yields its URL."""
    port = port or _free_port()
    assert program.count("8888") == 1
    (folder / "program.py").write_text(program.replace("8888", str(port)))
    running = subprocess.Popen(
        [sys.executable, "program.py"],
        cwd=folder,
        env={**os.environ, "COOKIE_SECRET": secrets.token_urlsafe(32)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_for(port, running)
        yield f"http://127.0.0.1:{port}/"
    finally:
        running.terminate()
        _, errors = running.communicate()
    assert "Traceback" not in errors


def _visitor() -> urllib.request.OpenerDirector:
    """Returns a client that keeps cookies and uses no proxy."""
    return urllib.request.build_opener(
        urllib.request.HTTPCookieProcessor(), urllib.request.ProxyHandler({})
    )


def _blocks(page: Path) -> list[str]:
    """Returns the blocks of Python, without the indent of a list."""
    found = re.findall(
        r"^( *)```python\n(.*?)^\1```$", page.read_text(), re.MULTILINE | re.DOTALL
    )
    return [textwrap.dedent(block) for _, block in found]


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

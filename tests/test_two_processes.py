"""Tests of two processes that change one session at once, in one store."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import tornado.web

from tornado_sessions import Session, SessionGoneError, Sessions
from tornado_sessions.core.values import state_of

ROUNDS = 12
SECRET = "s" * 43
#: A server keeps the sessions of other tests as well.
NAMESPACE = secrets.token_hex(8)

STORES = ["sqlite", "cookie", "mongodb", "mysql", "postgresql", "redis"]

CHILD = """
    import asyncio, sys
    import tornado.web
    from tornado_sessions import SessionGoneError, Sessions
    from tornado_sessions.core.values import state_of

    async def main():
        url, secret, namespace = sys.argv[1:]
        sessions = Sessions.of(
            tornado.web.Application(
                session_backend=url, cookie_secret=secret, session_namespace=namespace
            )
        )
        loop = asyncio.get_running_loop()
        # Connected before the first race.
        await sessions.load("A" * 43)
        print("ready", flush=True)
        while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
            verb, token = line.split()
            session = await sessions.load(token)
            print("loaded", flush=True)
            await loop.run_in_executor(None, sys.stdin.readline)
            try:
                if verb == "revoke_others":
                    await sessions.revoke_all("ada", keep=session)
                else:
                    session.login("ada") if verb == "login" else session.regenerate()
                    await session.save()
            except SessionGoneError:
                print("gone", flush=True)
            else:
                print(state_of(session).token, flush=True)
        await sessions.close()

    asyncio.run(main())
"""


class Child:
    """Another process with the same sessions."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def told(self) -> str:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 60)
        return line.decode().strip()

    async def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        await self.process.stdin.drain()


async def start(url: str) -> Child:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(CHILD),
        url,
        SECRET,
        NAMESPACE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    child = Child(process)
    assert await child.told() == "ready"
    return child


def open_sessions(url: str) -> Sessions:
    return Sessions.of(
        tornado.web.Application(
            session_backend=url, cookie_secret=SECRET, session_namespace=NAMESPACE
        )
    )


@pytest.fixture
def url(store: str, tmp_path: Path) -> str:
    # Both processes write as fast as they can.
    file = f"sqlite:///{tmp_path}/s.db?timeout=20"
    if store in ("sqlite", "cookie"):
        return f"cookie:?not_before={file}" if store == "cookie" else file
    variable = f"SESSIONS_TEST_{store.upper()}_URL"
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set; 'python -m servers' sets it.")
    return f"{os.environ[variable]}?timeout=20"


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    # The pipes of a child that has ended are closed in a later iteration. Left open,
    # they would be found by the garbage collection, in another test.
    loop.run_until_complete(asyncio.sleep(0.1))
    loop.close()


async def signed_in(sessions: Sessions) -> Session:
    session = await sessions.load(None)
    session.login("ada")
    await session.save()
    return session


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("verb", ["regenerate", "login"])
def test_a_logout_meets_a_new_id(
    verb: str, url: str, loop: asyncio.AbstractEventLoop
) -> None:
    """Behaviour 77: nobody is left signed in, whichever process is first."""

    async def race() -> None:
        sessions, child = open_sessions(url), await start(url)
        for number in range(ROUNDS):
            session = await sessions.load(None)
            session["a"] = 1
            await session.save()
            old = state_of(session).token
            assert old is not None
            await child.tell(f"{verb} {old}")
            assert await child.told() == "loaded"
            session.destroy()
            await child.tell("go")
            # From before the other one begins to after it has ended.
            await asyncio.sleep(number * 0.001)
            await session.save()
            new = await child.told()
            for token in (old, new):
                alive = await sessions.load(token)
                # A login that finds the session ended begins a fresh one, empty.
                assert alive.is_new or (verb == "login" and "a" not in alive)
        await child.tell("")
        await child.process.wait()
        await sessions.close()

    loop.run_until_complete(race())


@pytest.mark.parametrize("store", STORES)
def test_one_who_was_signed_out_signs_nobody_out(
    url: str, loop: asyncio.AbstractEventLoop
) -> None:
    """Behaviour 78: of two revocations at once, the one that spares nobody wins."""

    async def race() -> None:
        sessions, child = open_sessions(url), await start(url)
        for number in range(ROUNDS):
            thief = await signed_in(sessions)
            await child.tell(f"revoke_others {state_of(thief).token}")
            assert await child.told() == "loaded"
            await child.tell("go")
            await asyncio.sleep(number * 0.001)
            # Neither fails for having met the other.
            await sessions.revoke_all("ada")
            owner = await signed_in(sessions)
            told = await child.told()
            assert told in ("gone", state_of(thief).token)
            assert (await sessions.load(state_of(thief).token)).is_new
            with pytest.raises(SessionGoneError):
                await sessions.revoke_all("ada", keep=thief)
            if told == "gone":
                assert (await sessions.load(state_of(owner).token)).user == "ada"
        await child.tell("")
        await child.process.wait()
        await sessions.close()

    loop.run_until_complete(race())

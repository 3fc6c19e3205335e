"""Tests of `SessionMixin` over HTTP: something else happens meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import tornado
import tornado.web

from tests.sites import (
    UNCAUGHT,
    Site,
    cookies,
)
from tornado_sessions import Session, SessionMixin

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]


# Ended elsewhere.


async def test_a_late_write_goes_out_without_its_changes(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviours 11, 39: nothing comes back to life, and no cookie is sent."""
    caplog.set_level(logging.INFO)

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 2
            await site.end()
            self.write("ok")

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (200, [])
    assert await site.stored(token) is None
    assert "ended elsewhere" in caplog.text


@pytest.mark.parametrize("saves", [False, True])
async def test_a_flood_of_late_writes_is_summed_up(
    site: Site, caplog: pytest.LogCaptureFixture, saves: bool
) -> None:
    """Behaviour 85: a visitor can send them as fast as logouts."""
    caplog.set_level(logging.INFO)

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 2
            await site.end()
            if saves:
                await self.session.save()

    for _ in range(15):
        await site.begin(a=1)
        await site.fetch(Handler)

    assert caplog.text.count("ended elsewhere") == 10


async def test_a_late_write_is_given_up_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviours 28, 39: the rest of the response asks and tells nothing again."""
    caplog.set_level(logging.INFO)

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 2
            await site.end()
            self.write("one part, ")
            await self.flush()
            self.write("another")

    await site.begin(a=1)
    response = await site.fetch(Handler)

    assert (response.code, response.body) == (200, b"one part, another")
    assert site.vault.calls.count("save") == 1
    assert caplog.text.count("ended elsewhere") == 1


@pytest.mark.parametrize("verb", ["save", "transact", "reload"])
async def test_a_late_save_learns_of_the_end(site: Site, verb: str) -> None:
    """Behaviours 39, 85: SessionGoneError; uncaught it is 409, without a traceback."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 2
            await site.end()
            if verb == "save":
                await self.session.save()
            elif verb == "reload":
                await self.session.reload()
            else:
                await self.session.transact(lambda session: None)

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (409, [])
    assert await site.stored(token) is None


async def test_a_late_persistent_request_sends_no_cookie(site: Site) -> None:
    """Behaviour 11: not even where it saved before the other one came."""
    site.sessions.rules.persistent = True

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 2
            await self.session.save()
            await site.end()
            self.session["a"] = 3

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert cookies(response) == []
    assert await site.stored(token) is None


async def test_a_late_destroy_expires_the_cookie(site: Site) -> None:
    """Behaviour 11: it is the one thing that a late request may say."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            await site.end()
            self.session.destroy()

    await site.begin(a=1)

    assert cookies(await site.fetch(Handler)) == [""]


async def test_a_late_login_begins_a_fresh_session(site: Site) -> None:
    """Behaviour 76: a session that has ended is not moved, and the login holds."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session.login("ada")
            await site.end()

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert response.code == 200
    assert cookies(response) not in ([], [""], [token])
    assert await site.stored(token) is None
    assert await site.stored() == {}


@pytest.mark.parametrize("nth", [1, 2])
async def test_a_destroy_overtakes_a_regenerate(site: Site, nth: int) -> None:
    """Behaviours 39, 44: who has signed out stays signed out."""

    class Regenerate(SessionMixin):
        def get(self) -> None:
            self.session.regenerate()

    token = await site.begin(a=1)
    site.vault.stop_before("save", nth)
    regenerated = asyncio.ensure_future(site.fetch(Regenerate))
    await asyncio.wait_for(site.vault.arrived.wait(), 30)
    await site.end(token)
    site.vault.resumed.set()
    response = await regenerated

    assert cookies(response) == []
    for value in cookies(response):
        assert await site.stored(value) is None


# A verb while a commit is under way.


@pytest.mark.parametrize("begun", ["flush", "save", "transact"])
@pytest.mark.parametrize("known", [True, False], ids=["existing", "new"])
async def test_a_destroy_during_a_save_holds(
    site: Site, begun: str, known: bool
) -> None:
    """Behaviour 42: the record goes, and the client's cookie, if it has one."""
    left: list[dict[str, Any]] = []

    class Handler(SessionMixin):
        async def get(self) -> None:
            session = self.session
            session["a"] = 1
            saves: dict[str, Callable[[], Awaitable[None]]] = {
                "flush": self.flush,
                "save": session.save,
                "transact": lambda: session.transact(lambda session: None),
            }
            site.vault.stop_before("save")
            saved = asyncio.ensure_future(saves[begun]())
            await site.vault.arrived.wait()
            session.destroy()
            site.vault.resumed.set()
            if begun != "flush":
                await saved
            left.append(dict(session))

    if known:
        await site.begin(n=0)
    token = site.token
    response = await site.fetch(Handler)

    assert cookies(response) == ([""] if known else [])
    assert left == [{}]
    assert token is None or await site.stored(token) is None
    assert repr(site.vault.inner.backend).startswith("<MemoryBackend 0 ")


async def test_a_destroy_during_a_renewal_holds(site: Site) -> None:
    """Behaviour 42: the record goes, and the client's cookie."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            site.vault.stop_before("save")
            self.session.get("n")
            self.flush()
            await site.vault.arrived.wait()
            self.session.destroy()
            site.vault.resumed.set()

    token = await site.begin(n=0)
    site.sessions.now = lambda: time.time() + 4 * 3600
    response = await site.fetch(Handler)

    assert cookies(response) == [""]
    assert await site.stored(token) is None


async def test_an_error_takes_back_no_transaction_that_is_being_stored(
    site: Site, errors: list[str]
) -> None:
    """Behaviours 29, 37: the next one begins with what the first one has stored."""
    tasks: list[asyncio.Future[None]] = []

    def count(session: Session) -> None:
        session["n"] = session.get("n", 0) + 1

    async def count_twice(session: Session) -> None:
        await session.transact(count)
        await session.transact(count)

    class Handler(SessionMixin):
        async def get(self) -> None:
            site.vault.stop_before("save")
            tasks.append(asyncio.ensure_future(count_twice(self.session)))
            await site.vault.arrived.wait()
            raise ZeroDivisionError

    await site.begin(a=1)
    response = await site.fetch(Handler)
    site.vault.resumed.set()
    await tasks[0]

    assert response.code == 500
    assert await site.stored() == {"a": 1, "n": 2}
    errors.append(UNCAUGHT)


async def test_an_error_leaves_no_half_of_a_transaction(
    site: Site, errors: list[str]
) -> None:
    """Behaviours 29, 37: what it drops in the middle, the function does again."""
    inside, go_on = asyncio.Event(), asyncio.Event()
    tasks: list[asyncio.Future[None]] = []

    async def change(session: Session) -> None:
        session["first"] = True
        inside.set()
        await go_on.wait()
        session["second"] = True

    class Handler(SessionMixin):
        async def get(self) -> None:
            tasks.append(asyncio.ensure_future(self.session.transact(change)))
            await inside.wait()
            raise ZeroDivisionError

    await site.begin(a=1)
    response = await site.fetch(Handler)
    go_on.set()
    await tasks[0]

    assert response.code == 500
    assert await site.stored() == {"a": 1, "first": True, "second": True}
    errors.append(UNCAUGHT)


async def test_a_response_is_saved_though_a_transaction_has_the_turn(
    site: Site,
) -> None:
    """Behaviours 36, 80: also on a store that answers at once."""
    inside, go_on = asyncio.Event(), asyncio.Event()
    runs: list[object] = []

    async def count(session: Session) -> None:
        session["n"] += 1
        runs.append(session)
        if len(runs) == 1:
            # So that it is run again, in turn with others.
            await site.fetch(Other)
        elif len(runs) == 2:
            inside.set()
            await go_on.wait()

    class Transact(SessionMixin):
        async def get(self) -> None:
            await self.session.transact(count)

    class Other(SessionMixin):
        def get(self) -> None:
            self.session["other"] = 1

    class Late(SessionMixin):
        def get(self) -> None:
            self.session["late"] = 1
            asyncio.get_running_loop().call_soon(go_on.set)

    await site.begin(n=0)
    transaction = asyncio.ensure_future(site.fetch(Transact))
    await inside.wait()
    late = await site.fetch(Late)

    assert (late.code, (await transaction).code) == (200, 200)
    assert await site.stored() == {"n": 1, "other": 1, "late": 1}


async def test_an_error_during_a_flush_sends_no_cookie(
    site: Site, errors: list[str]
) -> None:
    """Behaviour 29: a new session that is dropped is not kept empty."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            site.vault.stop_before("save")
            self.flush()
            await site.vault.arrived.wait()
            asyncio.get_running_loop().call_soon(site.vault.resumed.set)
            raise ZeroDivisionError

    response = await site.fetch(Handler)

    assert (response.code, cookies(response)) == (500, [])
    errors.append(UNCAUGHT)


@pytest.mark.parametrize("known", [True, False], ids=["existing", "new"])
async def test_an_error_beside_a_save_leaves_the_client_its_session(
    site: Site, errors: list[str], known: bool
) -> None:
    """Behaviour 29: the old id ends with that save, so the client gets the new one."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            async def fail() -> None:
                await site.vault.arrived.wait()
                raise ZeroDivisionError

            self.session.login("ada")
            site.vault.stop_before("save")
            await asyncio.gather(self.session.save(), fail())

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            super().write_error(status_code, **kwargs)
            site.vault.resumed.set()

    if known:
        await site.begin(a=1)
    response = await site.fetch(Handler)

    assert response.code == 500
    assert await site.stored() == ({"a": 1} if known else None)
    assert await site.sessions.of_user("ada") == []
    errors.append(UNCAUGHT)


async def test_a_response_waits_for_the_new_id_of_a_save(site: Site) -> None:
    """Behaviour 29: though nothing else has changed, the client gets the new id."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session.regenerate()
            site.vault.stop_before("save")
            saved = asyncio.ensure_future(self.session.save())
            await site.vault.arrived.wait()
            self.finish()
            site.vault.resumed.set()
            await saved

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    [value] = cookies(response)
    assert value != token
    assert await site.stored(value) == {"a": 1}


@pytest.mark.parametrize("what", ["flush", "finish"])
@pytest.mark.parametrize("when", ["at once", "under way"])
async def test_a_wait_that_times_out_leaves_the_save_alone(
    site: Site, errors: list[str], what: str, when: str
) -> None:
    """Behaviours 27, 30: no silence, and no 200 without what was written."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            site.vault.stop_before("save")
            waiting = asyncio.ensure_future(asyncio.wait_for(getattr(self, what)(), 60))
            if when == "under way":
                await site.vault.arrived.wait()
            else:
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            site.vault.resumed.set()

    await site.begin(n=0)
    response = await site.fetch(Handler)

    assert response.code == 200
    assert await site.stored() == {"n": 0, "a": 1}


@pytest.mark.skipif(
    tornado.version_info < (6, 6),
    reason="Tornado 6.5 logs a cancelled handler as an error, with or without us.",
)
@pytest.mark.parametrize("waits", [True, False], ids=["awaited", "not awaited"])
async def test_a_handler_cancelled_during_the_commit_still_saves(
    site: Site, waits: bool
) -> None:
    """Behaviour 34: the commit is no part of the handler."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            site.vault.stop_before("save")
            task = asyncio.current_task()
            assert task is not None
            finished = self.finish("ok")
            loop = asyncio.get_running_loop()
            loop.call_later(0.01, task.cancel)
            loop.call_later(0.02, site.vault.resumed.set)
            await (finished if waits else asyncio.Event().wait())

    await site.begin(n=0)
    response = await site.fetch(Handler)

    assert (response.code, response.body) == (200, b"ok")
    assert await site.stored() == {"n": 0, "a": 1}

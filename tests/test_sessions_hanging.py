"""Tests of a store that hangs while several requests wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from tests.sessions_case import SessionsCase, SlowCount
from tornado_sessions import (
    BackendError,
    Session,
)
from tornado_sessions.core.values import state_of
from tornado_sessions.testing.timers import LoopClock


class HangingStoreTest(SessionsCase):
    """Many commits of one session, and a store that answers nobody in time."""

    suspends = True

    async def meet(self) -> list[Session]:
        """Returns twenty sessions with a change that meets another one's."""
        token = await self.stored()
        sessions = [await self.sessions.load(token) for _ in range(20)]
        for number, session in enumerate(sessions):
            session[f"key {number}"] = number
        await self.change_elsewhere(token, a=1)
        return sessions

    async def hold(
        self, works: list[Awaitable[Any]]
    ) -> tuple[list[asyncio.Future[Any]], asyncio.Event]:
        """Lets all conflict, and holds up the store for the first of them.

        Returns all of them, and the event that lets the store go on.
        """
        gate = self.vault.gate = asyncio.Event()
        self.vault.calls.clear()
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(w) for w in works]
        await asyncio.sleep(0)
        # What has been asked by now is answered.
        gate.set()
        gate = self.vault.gate = asyncio.Event()
        while self.vault.calls[-1:] != ["load"]:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        self.vault.calls.clear()
        return tasks, gate

    async def hang(self, works: list[Awaitable[Any]]) -> list[object]:
        """Lets all conflict, then lets the store hang and time out. Returns errors."""
        tasks, gate = await self.hold(works)
        self.vault.failing = {"load", "save"}
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    async def test_the_commits_that_wait_for_each_other_fail_at_once(self) -> None:
        """Behaviour 80: one of them waits for the store, and not each in its turn."""
        sessions = await self.meet()
        errors = await self.hang([session.save() for session in sessions])

        assert {type(error) for error in errors} == {BackendError}
        assert len({id(error) for error in errors}) == 20
        assert self.vault.calls == []
        # Each can be tried again.
        self.vault.failing.clear()
        await asyncio.gather(*(session.save() for session in sessions))
        assert len(await self.values(state_of(sessions[0]).token)) == 22

    async def test_nobody_waits_longer_than_a_timeout_for_others(self) -> None:
        """Behaviour 80: the one that the store is slow for goes on."""
        self.vault.timeout = 0.02
        sessions = await self.meet()
        self.vault.gate = gate = asyncio.Event()
        first, *others = [asyncio.ensure_future(each.save()) for each in sessions]
        self.vault.calls.clear()
        await asyncio.wait(others, timeout=10)
        message = (
            "The session was not saved: other requests of the same visitor came first,"
            " and the store took too long for these. Check why it is slow, or save less"
            " often."
        )
        assert {str(each.exception()) for each in others} == {message}
        assert self.vault.calls == ["save"]

        gate.set()
        await first
        # Each can be tried again.
        for session in sessions[1:]:
            await session.save()
        assert len(await self.values(state_of(sessions[0]).token)) == 22

    async def test_a_function_that_takes_its_time_fails_nobody(self) -> None:
        """Behaviours 37, 80: it is not the store for which the others wait."""
        clock, self.vault.timeout = LoopClock(), 2
        token = await self.stored({"n": 0})
        counting, saving = [await self.sessions.load(token) for _ in range(2)]
        count = SlowCount()

        async def count_again(session: Session) -> None:
            if "a" not in session:
                # So that it has to run again, in its turn.
                await self.change_elsewhere(token, a=1)
                session["n"] = -1
                return
            await count(session)

        counted = asyncio.ensure_future(counting.transact(count_again))
        await asyncio.wait_for(count.begun.wait(), 10)
        saving["b"] = 1
        saved = asyncio.ensure_future(saving.save())
        for _ in range(9):
            await clock.advance(1)
        assert not saved.done()

        count.go_on.set()
        await asyncio.gather(counted, saved)
        assert await self.values(token) == {"n": 1, "a": 1, "b": 1}

    async def test_transactions_fail_at_once_as_well(self) -> None:
        """Behaviour 80: those that wait are not run any more."""
        token = await self.stored({"n": 0})
        sessions = [await self.sessions.load(token) for _ in range(20)]
        runs: list[Session] = []

        def count(session: Session) -> None:
            session["n"] += 1
            runs.append(session)
            self.vault.failing = {"load", "save"}

        self.vault.calls.clear()
        errors = await asyncio.gather(
            *(each.transact(count) for each in sessions), return_exceptions=True
        )

        assert {type(error) for error in errors} == {BackendError}
        assert len({id(error) for error in errors}) == 20
        assert len(runs) == 1
        assert self.vault.calls == ["load", "save", "load"]
        assert await self.values(token) == {"n": 0}

    async def test_what_waits_for_one_object_fails_at_once(self) -> None:
        """Behaviour 80: such as the messages of one WebSocket."""
        session = await self.sessions.load(await self.stored())
        session["a"] = 1
        self.vault.failing = {"save"}
        self.vault.calls.clear()
        saves = [session.save() for _ in range(20)]
        errors = await asyncio.gather(*saves, return_exceptions=True)

        assert {type(error) for error in errors} == {BackendError}
        assert self.vault.calls == ["save"]

    async def test_logins_of_one_user_fail_at_once(self) -> None:
        """Behaviour 80: where they are counted, they wait for each other, too."""
        sessions = self.make(self.vault, max_per_user=30)
        visitors = [await sessions.load(None) for _ in range(20)]
        for visitor in visitors:
            visitor.login("ada")
        self.vault.failing = {"save"}
        self.vault.calls.clear()
        saves = [visitor.save() for visitor in visitors]
        errors = await asyncio.gather(*saves, return_exceptions=True)

        assert {type(error) for error in errors} == {BackendError}
        assert self.vault.calls == ["save"]

    async def test_an_error_of_a_function_fails_no_other(self) -> None:
        """Behaviour 80: it is another store that has failed."""
        session = await self.sessions.load(await self.stored())
        count = SlowCount()

        async def fail(session: Session) -> None:
            await count(session)
            raise BackendError("Another store hangs.")

        failing = asyncio.ensure_future(session.transact(fail))
        await count.begun.wait()
        saving = asyncio.ensure_future(session.transact(lambda s: s.update(a=1)))
        await asyncio.sleep(0)
        count.go_on.set()
        await saving
        with pytest.raises(BackendError, match="Another store"):
            await failing

        assert await self.values(state_of(session).token) == {"kept": 0, "a": 1}

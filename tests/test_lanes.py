"""Tests of commits of one session that wait in one process and are stored together."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import random
import unittest
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any
from unittest import mock

import pytest
from tornado_sessions_memory import MemoryBackend

from tests.sessions_case import IDLE, LIFETIME, SessionsCase, SlowCount
from tornado_sessions import (
    UNKNOWN,
    BackendError,
    Record,
    Saved,
    Session,
    SessionDataError,
    SessionEvent,
    SessionGoneError,
    Vault,
    Version,
)
from tornado_sessions.core.lane import LONGEST_WAIT, Lane, Member, Turn
from tornado_sessions.core.lanes import Lanes
from tornado_sessions.core.tasks import Tasks
from tornado_sessions.core.values import state_of
from tornado_sessions.testing import FaultyVault
from tornado_sessions.testing.timers import LoopClock

who: contextvars.ContextVar[str] = contextvars.ContextVar("who")


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """Lets no batch end because the machine is busy."""
    with (
        mock.patch("tornado_sessions.core.combiner.LONGEST_RUN", 3600),
        mock.patch("tornado_sessions.core.combiner.LONGEST_MERGE", 3600),
    ):
        yield


class LosingVault(FaultyVault):
    """Stores, and fails all the same, as often as it is told to."""

    losses = 0
    #: Called before each replacement, once.
    before: Callable[[], Awaitable[None]] | None = None
    #: Does not tell the version that it has stored.
    hides_versions = False

    async def replace(self, token: str, record: Record, version: Version) -> Saved:
        before, self.before = self.before, None
        if before is not None:
            await before()
        saved = await super().replace(token, record, version)
        if self.losses:
            self.losses -= 1
            raise BackendError("The reply is lost.")
        return Saved(token, UNKNOWN) if self.hides_versions else saved


class LanesCase(SessionsCase):
    suspends = True

    def setUp(self) -> None:
        super().setUp()
        self.vault = self.losing = LosingVault(Vault(self.backend), suspends=True)
        self.events: list[SessionEvent] = []
        self.sessions = self.make(self.vault, listener=self.events.append)

    async def load(self, count: int, values: dict[str, Any] | None = None) -> None:
        """Loads one session for each of ``count`` requests."""
        self.token = await self.stored(values)
        self.requests = [await self.sessions.load(self.token) for _ in range(count)]
        self.vault.calls.clear()

    async def begin(self, *works: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
        """Starts what is to wait for the first one, which waits for the store."""
        self.vault.gate = asyncio.Event()
        tasks = []
        for work in works:
            tasks.append(asyncio.ensure_future(work))
            # In this order: before Python 3.12 a change of the id comes a bit later.
            for _ in range(5):
                await asyncio.sleep(0)
        return tasks

    def go_on(self) -> None:
        assert self.vault.gate is not None
        self.vault.gate.set()
        self.vault.gate = None

    async def end(self, tasks: list[asyncio.Task[Any]]) -> list[Any]:
        self.go_on()
        return await asyncio.gather(*tasks, return_exceptions=True)


class TogetherTest(LanesCase):
    """What waits is merged, and stored in one write."""

    async def test_fifty_saves_are_two_writes_and_no_load(self) -> None:
        """Behaviour 36: the first one, and all that came meanwhile."""
        await self.load(50)
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = number
            session.setdefault("cart", {})[f"product {number}"] = 1
        with unhurried():
            await asyncio.gather(*(session.save() for session in self.requests))

        values = await self.values(self.token)
        assert (len(values), len(values["cart"])) == (52, 50)
        assert self.vault.calls == ["save", "save"]
        assert self.events == []
        assert self.sessions.lanes.lanes == {}

    async def test_fifty_transactions_are_two_writes(self) -> None:
        """Behaviour 37: the functions run one after the other, on one another's."""
        await self.load(50, {"n": 0})

        async def count(session: Session) -> int:
            n = session["n"]
            await asyncio.sleep(0)
            session["n"] = n + 1
            return int(n)

        with unhurried():
            counts = [each.transact(count) for each in self.requests]
            answers = await asyncio.gather(*counts)

        assert answers == list(range(50))
        assert await self.values(self.token) == {"n": 50}
        assert self.vault.calls.count("save") == 2

    async def test_a_store_that_hides_its_versions_is_asked_once_for_all(self) -> None:
        """Behaviour 36: what it has stored may not be what it has now."""
        self.losing.hides_versions = True
        await self.load(20)
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = number
        with unhurried():
            await asyncio.gather(*(session.save() for session in self.requests))

        assert len(await self.values(self.token)) == 21
        assert self.vault.calls == ["save", "load", "save"]

    async def test_of_two_writes_the_later_one_wins(self) -> None:
        """Behaviour 38: in the order in which the saves began."""
        await self.load(5)
        for number, session in enumerate(self.requests):
            session["n"] = number
        await asyncio.gather(*(session.save() for session in self.requests))

        assert (await self.values(self.token))["n"] == 4

    async def test_each_keeps_its_values_as_it_sees_them(self) -> None:
        """Behaviour 26: and writes nothing back that it has only read."""
        await self.load(3, {"read": 1})
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = number
        self.requests[1]["read"] = 2
        await asyncio.gather(*(session.save() for session in self.requests))
        assert dict(self.requests[2]) == {"read": 1, "key 2": 2}

        self.requests[2]["more"] = 1
        await self.requests[2].save()
        assert (await self.values(self.token))["read"] == 2

    async def test_renewals_cost_no_write_beside_a_save(self) -> None:
        """Behaviours 40, 49: what is stored records the use as well."""
        await self.load(5)
        self.clock += IDLE / 2
        self.requests[0]["a"] = 1
        commits = [
            self.sessions.commits.commit(state_of(each)) for each in self.requests
        ]
        await asyncio.gather(*commits)

        assert self.vault.calls == ["save"]
        assert (await self.envelope(self.token)).seen == self.clock

    async def test_a_renewal_that_is_due_among_those_that_wait_is_stored(self) -> None:
        """Behaviours 48, 49: once, for all of them."""
        await self.load(5)

        async def later() -> None:
            self.clock += IDLE / 2

        self.requests[0]["a"] = 1
        self.losing.before = later
        (first,) = await self.begin(self.requests[0].save())
        self.clock += IDLE / 2
        renewals = [
            asyncio.ensure_future(self.sessions.commits.commit(state_of(each)))
            for each in self.requests[1:]
        ]
        await self.end([first, *renewals])

        assert self.vault.calls == ["save", "save"]
        assert (await self.envelope(self.token)).seen == self.clock

    async def test_what_is_no_use_of_the_session_extends_nothing(self) -> None:
        """Behaviour 48: unless it is stored with something that is."""
        for is_use in (False, True):
            await self.load(4)
            seen = (await self.envelope(self.token)).seen
            for number, session in enumerate(self.requests):
                session[f"key {number}"] = number
                state_of(session).extends = is_use and number == 2
            self.clock += 1
            with unhurried():
                await asyncio.gather(*(each.save() for each in self.requests))

            envelope = await self.envelope(self.token)
            assert envelope.seen == (self.clock if is_use else seen)
            assert len(envelope.values) == 5

    async def test_an_extended_lifetime_is_found_by_a_renewal(self) -> None:
        """Behaviour 48: though it has passed for what this request has loaded."""
        await self.load(1)
        other = await self.elsewhere.load(self.token)
        other.set_expiry(idle=2 * LIFETIME, lifetime=2 * LIFETIME)
        await self.elsewhere.commits.commit(state_of(other))
        self.clock += LIFETIME
        await self.sessions.commits.commit(state_of(self.requests[0]))

        assert (await self.envelope(self.token)).seen == self.clock


class OutcomeTest(LanesCase):
    """Each has its own outcome and its own errors."""

    async def test_a_value_that_cannot_be_stored_fails_one(self) -> None:
        """Behaviour 25: the others are stored."""
        await self.load(4)
        for number, session in enumerate(self.requests):
            session["n" if number != 2 else "bad"] = number if number != 2 else {1}
        outcomes = await asyncio.gather(
            *(session.save() for session in self.requests), return_exceptions=True
        )

        assert [type(each) for each in outcomes] == [
            type(None),
            type(None),
            SessionDataError,
            type(None),
        ]
        assert (await self.values(self.token))["n"] == 3

    async def test_what_is_too_large_fails_those_for_whom_there_is_no_room(
        self,
    ) -> None:
        """Behaviour 63: the others are stored, and nothing is sent that is too large."""
        self.backend.max_bytes = 4_000
        await self.load(9)
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = "x" * 800
        outcomes = await asyncio.gather(
            *(session.save() for session in self.requests), return_exceptions=True
        )

        errors = [each for each in outcomes if each is not None]
        stored = len(await self.values(self.token)) - 1
        assert stored == 4
        assert {type(each) for each in errors} == {SessionDataError}
        assert len({id(each) for each in errors}) == len(errors) == 5
        # In the order in which they came.
        assert outcomes[:4] == [None] * 4

    async def test_a_lost_reply_is_told_to_those_whose_write_it_was(self) -> None:
        """Behaviour 30: to each with an error of its own; the others load first."""
        await self.load(6)
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = number
        last: list[asyncio.Task[None]] = []

        async def pass_first() -> None:
            self.losing.before = come

        async def come() -> None:
            # When those in the middle are on their way.
            last.extend(
                asyncio.ensure_future(each.save()) for each in self.requests[4:]
            )
            await asyncio.sleep(0)
            self.losing.losses = 1

        self.losing.before = pass_first
        with unhurried():
            outcomes = await asyncio.gather(
                *(each.save() for each in self.requests[:4]), return_exceptions=True
            )
        assert await asyncio.gather(*last) == [None] * 2

        assert outcomes[0] is None
        assert [str(each) for each in outcomes[1:]] == ["The reply is lost."] * 3
        assert len({id(each) for each in outcomes}) == 4
        assert self.vault.calls == ["save", "save", "load", "save"]
        assert len(await self.values(self.token)) == 7

    async def test_a_failed_first_one_fails_nobody_else(self) -> None:
        """Behaviour 30: they load first, and what it has changed is stored or not."""
        await self.load(3)
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = number
        self.losing.losses = 1
        outcomes = await asyncio.gather(
            *(each.save() for each in self.requests), return_exceptions=True
        )

        assert str(outcomes[0]) == "The reply is lost."
        assert outcomes[1:] == [None, None]
        assert len(await self.values(self.token)) == 4
        assert self.vault.calls == ["save", "load", "save"]

    async def test_whoever_is_cancelled_while_it_waits_is_left_out(self) -> None:
        """Behaviour 68: the others are stored."""
        await self.load(4)
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = number
        tasks = await self.begin(*(each.save() for each in self.requests))
        tasks[2].cancel()
        outcomes = await self.end(tasks)

        assert isinstance(outcomes[2], asyncio.CancelledError)
        assert "key 2" not in await self.values(self.token)
        assert len(await self.values(self.token)) == 4

    async def test_whoever_is_cancelled_later_stops_no_write(self) -> None:
        """Behaviour 68: it is that of the others, too, and `close` waits for it."""
        await self.load(4)
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = number
        tasks = await self.begin(*(each.save() for each in self.requests))

        async def pass_first() -> None:
            self.losing.before = give_up

        async def give_up() -> None:
            for task in tasks[1:]:
                task.cancel()

        self.losing.before = pass_first
        await self.end(tasks)
        await self.sessions.tasks.wait()

        assert len(await self.values(self.token)) == 5

    async def test_the_first_one_that_is_cancelled_fails_nobody(self) -> None:
        """Behaviour 68: nobody knows what the store has then, so it is asked."""
        await self.load(3)
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = number
        tasks = await self.begin(*(each.save() for each in self.requests))
        tasks[0].cancel()
        outcomes = await self.end(tasks)

        assert outcomes[1:] == [None, None]
        assert self.vault.calls == ["save", "load", "save"]

    async def test_what_was_ended_elsewhere_has_ended_for_all(self) -> None:
        """Behaviour 39: at once, after one load."""
        await self.load(5)
        for session in self.requests:
            session["a"] = 1
        tasks = await self.begin(*(each.save() for each in self.requests))
        await self.end_elsewhere(self.token)
        outcomes = await self.end(tasks)

        assert {type(each) for each in outcomes} == {SessionGoneError}
        assert len({id(each) for each in outcomes}) == 5
        assert self.vault.calls == ["save", "load"]
        assert not await self.is_alive(self.token)

    async def test_each_is_judged_by_when_it_began(self) -> None:
        """Behaviour 47: as on a WebSocket, where the session has expired meanwhile."""
        await self.load(3)
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = number
        await self.requests[0].save()
        self.clock += IDLE + LIFETIME
        self.requests[0]["again"] = 1
        state_of(self.requests[2]).on_socket = True
        outcomes = await asyncio.gather(
            *(session.save() for session in self.requests), return_exceptions=True
        )

        assert outcomes[:2] == [None, None]
        assert isinstance(outcomes[2], SessionGoneError)

    async def test_an_error_that_nobody_waits_for_is_not_logged(self) -> None:
        """Behaviour 34: whoever gave up in the same iteration is gone."""
        unretrieved: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: unretrieved.append(context)
        )
        await self.load(4)
        for session in self.requests:
            session["a"] = 1
        tasks = await self.begin(*(each.save() for each in self.requests))
        self.vault.failing = {"save", "load"}
        self.go_on()
        await asyncio.wait(tasks[:1])
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        del task, tasks
        gc.collect()

        assert unretrieved == []


class AnotherIdTest(LanesCase):
    """What needs another id is alone."""

    async def test_what_comes_before_it_moves_along(self) -> None:
        """Behaviours 9, 36: the new id has what they have stored."""
        for verb in (Session.regenerate, lambda session: session.login("ada")):
            await self.load(4)
            for number, session in enumerate(self.requests):
                session[f"key {number}"] = number
            verb(self.requests[3])
            await asyncio.gather(*(session.save() for session in self.requests))

            token = state_of(self.requests[3]).token
            assert token != self.token
            assert len(await self.values(token)) == 5
            assert not await self.is_alive(self.token)
            # It is told what the store has.
            assert "conflict" not in [event.name for event in self.events]

    async def test_what_comes_after_it_finds_the_session_gone(self) -> None:
        """Behaviours 11, 76, 77: a login begins a fresh one, with the values."""
        await self.load(5)
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = number
        self.requests[1].regenerate()
        self.requests[4].login("ada")
        tasks = await self.begin(*(session.save() for session in self.requests))
        outcomes = await self.end(tasks)

        assert outcomes[:2] + outcomes[4:] == [None] * 3
        assert {type(each) for each in outcomes[2:4]} == {SessionGoneError}
        assert await self.values(state_of(self.requests[1]).token) == {
            "kept": 0,
            "key 0": 0,
            "key 1": 1,
        }
        ada = await self.elsewhere.load(state_of(self.requests[4]).token)
        assert (ada.user, dict(ada)) == ("ada", {"kept": 0, "key 4": 4})

    async def test_one_that_is_cancelled_passes_its_turn_on(self) -> None:
        """Behaviour 68: also in the iteration in which it would have come."""
        await self.load(3)
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = number
        lanes = self.sessions.lanes
        held = lanes.enter(self.token)
        assert held is not None
        turn = asyncio.ensure_future(lanes.turn(self.token, lanes.next_place()))
        await asyncio.sleep(0)
        saving = asyncio.ensure_future(self.requests[0].save())
        await asyncio.sleep(0)
        lanes.leave(held)
        turn.cancel()
        await asyncio.wait_for(saving, 10)

        assert turn.cancelled()
        assert lanes.lanes == {}


class TransactionTest(LanesCase):
    """A function runs on what those before it have come to."""

    async def test_a_function_that_takes_long_holds_up_nobody(self) -> None:
        """Behaviour 37: it runs again, once, and the others wait for that."""
        for is_first in (True, False):
            await self.load(3, {"n": 0})
            count, runs = SlowCount(), 0

            async def count_slowly(session: Session, count: SlowCount = count) -> None:
                nonlocal runs
                runs += 1
                await count(session)

            first, second, last = self.requests
            works = [first.transact(count_slowly), second.transact(_add)]
            if not is_first:
                works.reverse()
            tasks = [asyncio.ensure_future(work) for work in works]
            last["a"] = 1
            tasks.append(asyncio.ensure_future(last.save()))
            slow = tasks[0 if is_first else 1]
            await asyncio.wait(set(tasks) - {slow}, timeout=30)
            assert await self.values(self.token) == {"n": 1, "a": 1}

            assert not slow.done()
            count.go_on.set()
            await slow
            assert await self.values(self.token) == {"n": 2, "a": 1}
            assert runs == 2

    async def test_a_function_that_always_takes_too_long_is_given_up(self) -> None:
        """Behaviour 80: while others save, it would run again for ever."""
        for is_first in (True, False):
            await self.load(3)
            slow, other, first = self.requests
            asked, saved, runs = asyncio.Event(), asyncio.Event(), 0

            async def save_when_asked(
                other: Session = other,
                asked: asyncio.Event = asked,
                saved: asyncio.Event = saved,
            ) -> None:
                for number in range(10):
                    await asked.wait()
                    asked.clear()
                    other["a"] = number
                    await other.save()
                    saved.set()

            async def wait_for_another(
                session: Session,
                asked: asyncio.Event = asked,
                saved: asyncio.Event = saved,
            ) -> None:
                nonlocal runs
                runs += 1
                session["n"] = 1
                if runs > 2:
                    return
                saved.clear()
                asked.set()
                await saved.wait()

            tasks = [asyncio.ensure_future(save_when_asked())]
            if not is_first:
                first["first"] = 1
                tasks.append(asyncio.ensure_future(first.save()))
                await asyncio.sleep(0)
            with (
                mock.patch("tornado_sessions.core.transact.LONGEST_WAIT", 0.02),
                self.assertRaisesRegex(BackendError, "^What the function given to tr"),
            ):
                await slow.transact(wait_for_another)
            for task in tasks:
                task.cancel()

            assert runs == 2
            values = await self.values(self.token)
            assert (values["a"], values.get("n")) == (1, None)
            assert self.sessions.lanes.lanes == {}

    async def test_it_runs_in_the_context_of_its_request(self) -> None:
        """Behaviour 37: and not in that of another, or of a task."""
        await self.load(5, {"n": 0})
        seen: list[tuple[str, str, bool]] = []

        async def request(session: Session, name: str) -> None:
            who.set(name)
            task = asyncio.current_task()

            def count(session: Session) -> None:
                _add(session)
                seen.append((name, who.get(), asyncio.current_task() is task))

            await session.transact(count)

        await asyncio.gather(
            *(request(each, str(n)) for n, each in enumerate(self.requests))
        )

        assert seen == [(str(n), str(n), True) for n in range(5)]

    async def test_one_that_fails_stores_nothing(self) -> None:
        """Behaviour 81: the others do, and it has seen what is stored."""
        await self.load(4, {"n": 0})

        def fail_from_two(session: Session) -> int:
            if session["n"] == 2:
                session["n"] = -1
                raise LookupError("out of stock")
            return _add(session)

        outcomes = await asyncio.gather(
            *(each.transact(fail_from_two) for each in self.requests),
            return_exceptions=True,
        )

        assert outcomes[:2] == [1, 2]
        assert [str(each) for each in outcomes[2:]] == ["out of stock"] * 2
        assert await self.values(self.token) == {"n": 2}
        for session in self.requests[2:]:
            assert dict(session) == {"n": 2}
            assert not session.modified

    async def test_one_fails_because_of_what_is_stored_alone(self) -> None:
        """Behaviours 37, 81: what others were about to store may never be there."""
        await self.load(3, {"n": 0})

        def add_unless_two(session: Session) -> int:
            if session["n"] == 2:
                raise LookupError("out of stock")
            return _add(session)

        async def pass_first() -> None:
            self.losing.before = interrupt

        async def interrupt() -> None:
            await self.change_elsewhere(self.token, n=10)

        self.losing.before = pass_first
        with unhurried():
            answers = await asyncio.gather(
                *(each.transact(add_unless_two) for each in self.requests)
            )

        assert answers == [1, 11, 12]

    async def test_one_that_changes_nothing_has_seen_what_is_stored(self) -> None:
        """Behaviours 37, 40: it waits for the others, and fails with them."""
        await self.load(3, {"n": 0})

        async def pass_first() -> None:
            self.losing.before = lose

        async def lose() -> None:
            self.vault.failing = {"replace"}

        self.losing.before = pass_first
        with unhurried():
            outcomes = await asyncio.gather(
                self.requests[0].transact(_add),
                self.requests[1].transact(_add),
                self.requests[2].transact(lambda session: session["n"]),
                return_exceptions=True,
            )

        assert outcomes[0] == 1
        assert {type(each) for each in outcomes[1:]} == {BackendError}
        # What was not stored is not shown either.
        assert dict(self.requests[2]) == {"n": 0}

    async def test_one_may_sign_in(self) -> None:
        """Behaviours 9, 37: it runs again then, alone."""
        await self.load(4, {"n": 0})

        def sign_in(session: Session) -> None:
            _add(session)
            session.login("ada")

        await asyncio.gather(
            self.requests[0].transact(_add),
            self.requests[1].transact(_add),
            self.requests[2].transact(sign_in),
        )

        ada = await self.elsewhere.load(state_of(self.requests[2]).token)
        assert (ada.user, dict(ada)) == ("ada", {"n": 3})

    async def test_one_may_destroy(self) -> None:
        """Behaviour 42: those behind it find the session gone."""
        await self.load(4, {"n": 0})
        outcomes = await asyncio.gather(
            self.requests[0].transact(_add),
            self.requests[1].transact(lambda session: session.destroy()),
            self.requests[2].transact(_add),
            return_exceptions=True,
        )

        assert outcomes[:2] == [1, None]
        assert not await self.is_alive(self.token)

    async def test_a_conflict_keeps_their_order(self) -> None:
        """Behaviour 37: they run again on what another process has stored."""
        await self.load(6, {"n": 0})

        async def pass_first() -> None:
            self.losing.before = interrupt

        async def interrupt() -> None:
            await self.change_elsewhere(self.token, n=10)

        self.losing.before = pass_first
        with unhurried():
            answers = await asyncio.gather(
                *(each.transact(_add) for each in self.requests)
            )

        assert answers == [1, 11, 12, 13, 14, 15]
        assert await self.values(self.token) == {"n": 15}
        assert [event.name for event in self.events] == ["conflict"]

    async def test_one_that_is_cancelled_while_it_runs_holds_up_nobody(self) -> None:
        """Behaviour 68: what it has changed is not stored."""
        await self.load(3, {"n": 0})
        count = SlowCount()
        first, second, last = self.requests
        with unhurried():
            adding = asyncio.ensure_future(first.transact(_add))
            counting = asyncio.ensure_future(second.transact(count))
            after = asyncio.ensure_future(last.transact(_add))
            await count.begun.wait()
            counting.cancel()
            await asyncio.wait_for(asyncio.gather(adding, after), 30)

        assert counting.cancelled()
        assert await self.values(self.token) == {"n": 2}


class OtherProcessTest(LanesCase):
    """Conflicts are with other processes, and a process is one competitor."""

    async def test_a_conflict_of_many_is_one(self) -> None:
        """Behaviour 36: all are stored on what the other process has stored."""
        await self.load(20)
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = number

        async def pass_first() -> None:
            self.losing.before = interrupt

        async def interrupt() -> None:
            await self.change_elsewhere(self.token, other=1)

        self.losing.before = pass_first
        seen: list[str] = []
        self.sessions.events.listener = lambda event: seen.append(who.get("nobody"))
        who.set("the request of the test")
        with unhurried():
            await asyncio.gather(*(session.save() for session in self.requests))

        assert len(await self.values(self.token)) == 22
        assert self.vault.calls == ["save", "save", "load", "save"]
        # One event, which belongs to none of them.
        assert seen == ["nobody"]

    async def test_the_pauses_after_conflicts_stay_short(self) -> None:
        """Behaviour 36: longer ones were the longest waits by themselves."""
        await self.load(2)
        for number, session in enumerate(self.requests):
            session[f"key {number}"] = number
        rivals = iter(range(15))

        async def interrupt() -> None:
            number = next(rivals, None)
            if number is not None:
                await self.change_elsewhere(self.token, other=number)
                self.losing.before = interrupt

        self.losing.before = interrupt
        longest: list[float] = []

        def least(low: float, high: float) -> float:
            longest.append(high)
            return low

        with mock.patch.object(random, "uniform", least):
            await asyncio.gather(*(session.save() for session in self.requests))

        assert len(longest) > 5
        assert max(longest) == 0.005


class LimitTest(unittest.IsolatedAsyncioTestCase):
    """Nobody waits for others for ever."""

    async def asyncSetUp(self) -> None:
        self.clock = LoopClock()
        self.lanes = Lanes(self.serve, Tasks(), lambda: 2.0)

    async def serve(self, lane: Lane) -> None:
        """Is not called: all who wait here need the lane alone."""
        raise AssertionError

    async def wait(self, count: int) -> tuple[Lane, list[asyncio.Task[Lane]]]:
        held = self.lanes.enter("a")
        assert held is not None
        turns = [
            asyncio.ensure_future(self.lanes.turn("a", self.lanes.next_place()))
            for _ in range(count)
        ]
        await asyncio.sleep(0)
        return held, turns

    async def test_a_slow_store_fails_those_that_wait(self) -> None:
        """Behaviour 80: they do not wait for one holder after the other."""
        held, turns = await self.wait(3)
        await self.clock.advance(1.9)
        assert not any(each.done() for each in turns)
        await self.clock.advance(0.2)
        await asyncio.wait(turns, timeout=10)

        assert {type(each.exception()) for each in turns} == {BackendError}
        # The holder is not disturbed, and the lane is free after it.
        self.lanes.leave(held)
        assert self.lanes.enter("a") is not None

    async def test_whoever_has_come_first_is_the_first_again(self) -> None:
        """Behaviours 36, 37: though it had to run again."""
        held = self.lanes.enter("a")
        assert held is not None
        places = [self.lanes.next_place() for _ in range(3)]
        turns = {
            place: asyncio.ensure_future(self.lanes.turn("a", place))
            for place in (places[1], places[2], places[0])
        }
        await asyncio.sleep(0)
        for place in places:
            self.lanes.leave(held)
            held = await asyncio.wait_for(turns[place], 10)
        self.lanes.leave(held)

    async def test_each_holder_may_use_the_store_for_the_limit(self) -> None:
        """Behaviours 36, 80: on a store that works, many take their turn."""
        held, turns = await self.wait(6)
        for turn in turns:
            await self.clock.advance(1.2)
            self.lanes.leave(held)
            held = await asyncio.wait_for(turn, 10)
        self.lanes.leave(held)

    async def test_quick_holders_add_up_to_ten_seconds(self) -> None:
        """Behaviour 80: however many there are."""
        held, turns = await self.wait(20)
        for turn in turns[:9]:
            await self.clock.advance(1.01)
            self.lanes.leave(held)
            held = await asyncio.wait_for(turn, 10)
        assert not turns[-1].done()
        await self.clock.advance(1.01)
        await asyncio.wait(turns[-1:], timeout=10)

        assert isinstance(turns[-1].exception(), BackendError)
        for turn in turns:
            if turn.done():
                turn.exception()

    async def test_what_a_holder_does_without_the_store_fails_nobody(self) -> None:
        """Behaviours 37, 80: such as the function of a transaction."""
        held, (turn,) = await self.wait(1)
        with held.aside():
            for _ in range(20):
                await self.clock.advance(1)
            assert not turn.done()
        self.lanes.leave(held)
        self.lanes.leave(await asyncio.wait_for(turn, 10))

    async def test_a_function_that_never_ends_loses_the_lane(self) -> None:
        """Behaviour 80: after ten seconds for which somebody has waited."""
        held, (turn,) = await self.wait(1)
        held.longest_run = LONGEST_WAIT
        self.lanes.begin_run(held)
        await self.clock.advance(9)
        assert not turn.done()
        await self.clock.advance(1.1)
        other = await asyncio.wait_for(turn, 10)
        self.lanes.end_run(held)
        assert held.is_lost
        self.lanes.leave(held)
        assert self.lanes.lanes == {"a": other}
        self.lanes.leave(other)


class LoopTest(unittest.TestCase):
    def test_a_lane_of_another_event_loop_is_not_waited_for(self) -> None:
        """Behaviours 67, 80: in a forked process nobody would ever leave it."""

        async def serve(lane: Lane) -> None:
            raise AssertionError

        lanes = Lanes(serve, Tasks(), lambda: None)

        async def enter() -> Lane:
            lane = lanes.enter("a")
            assert lane is not None
            return lane

        former = asyncio.new_event_loop()
        self.addCleanup(former.close)
        held = former.run_until_complete(enter())
        lane = asyncio.run(enter())
        lanes.leave(held)

        assert lanes.lanes == {"a": lane}


class ServeTest(unittest.IsolatedAsyncioTestCase):
    async def test_an_unexpected_error_reaches_all_who_wait(self) -> None:
        """Behaviour 80: nobody waits for ever."""

        async def serve(lane: Lane) -> None:
            raise ZeroDivisionError

        tasks = Tasks()
        lanes = Lanes(serve, tasks, lambda: None)
        lane = lanes.enter("a")
        assert lane is not None
        members = [Member(0.0, lanes.next_place()) for _ in range(3)]
        members.append(Turn(0.0, lanes.next_place()))
        for member in members:
            lanes.join("a", member)
        lanes.leave(lane)
        await tasks.wait()

        for member in members:
            with pytest.raises(ZeroDivisionError):
                await member.future
        assert lanes.lanes == {}


class PlaceTest(SessionsCase):
    """A store that answers without suspending."""

    async def test_nobody_ever_waits(self) -> None:
        """Behaviour 36: each commit is over before the next one begins."""
        token = await self.stored()
        requests = [await self.sessions.load(token) for _ in range(3)]
        for number, session in enumerate(requests):
            session[f"key {number}"] = number
        with mock.patch.object(self.sessions.lanes, "join") as join:
            await requests[0].save()
            assert self.sessions.lanes.lanes == {}
            await (await self.sessions.load(token)).transact(_add)

        join.assert_not_called()
        assert isinstance(self.backend, MemoryBackend)


def _add(session: Session) -> int:
    session["n"] = session.get("n", 0) + 1
    n: int = session["n"]
    return n


if __name__ == "__main__":
    unittest.main()

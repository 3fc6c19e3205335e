"""Tests of several requests that change one session at once."""

from __future__ import annotations

import asyncio
import itertools
from unittest import mock

import pytest

from tests.sessions_case import IDLE, START, SessionsCase, SlowCount
from tornado_sessions import (
    BackendError,
    ConflictError,
    Record,
    Saved,
    Session,
    SessionEvent,
    SessionGoneError,
    Sessions,
    Vault,
    Version,
)
from tornado_sessions.core import retries
from tornado_sessions.core.values import state_of
from tornado_sessions.testing import FaultyVault


class ConflictTest(SessionsCase):
    async def test_changes_of_two_requests_are_merged(self) -> None:
        """Behaviours 36, 38: dict by dict, at any depth."""
        token = await self.stored({"cart": {"apple": 1}, "n": 1})
        session = await self.sessions.load(token)
        session["cart"]["pear"] = 1
        session["n"] = 2
        await self.change_elsewhere(token, cart={"plum": 1}, n=3, new=1)
        await self.sessions.commits.commit(state_of(session))

        assert await self.values(token) == {
            "cart": {"plum": 1, "pear": 1},
            "n": 2,
            "new": 1,
        }
        assert self.vault.calls == ["load", "save", "load", "save"]

    async def test_fifty_requests_each_keep_their_key(self) -> None:
        """Behaviour 36: plain and nested."""
        token = await self.stored()
        loaded = [await self.sessions.load(token) for _ in range(50)]
        for number, session in enumerate(loaded):
            session[f"key {number}"] = number
            session.setdefault("cart", {})[f"product {number}"] = 1
        self.vault.calls.clear()
        await asyncio.gather(*(session.save() for session in loaded))
        values = await self.values(token)

        assert len(values) == 52
        assert len(values["cart"]) == 50
        # After a conflict they take turns, so that the work stays linear.
        assert len(self.vault.calls) <= 3 * 50

    async def test_fifty_transactions_each_count(self) -> None:
        """Behaviour 37: with a suspension inside."""
        token = await self.stored({"n": 0})
        loaded = [await self.sessions.load(token) for _ in range(50)]

        async def count(session: Session) -> int:
            n = session["n"]
            await asyncio.sleep(0)
            session["n"] = n + 1
            return n + 1

        self.vault.calls.clear()
        answers = await asyncio.gather(*(one.transact(count) for one in loaded))

        assert (await self.values(token))["n"] == 50
        assert sorted(answers) == list(range(1, 51))
        assert len(self.vault.calls) <= 4 * 50

    async def test_a_late_save_does_not_bring_a_destroyed_session_back(self) -> None:
        """Behaviour 39: and says so."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        await self.end_elsewhere(token)
        with pytest.raises(SessionGoneError) as caught:
            await session.save()

        assert str(caught.value) == (
            "The session was ended elsewhere while this request used it; what the"
            " request changed is not stored."
        )
        assert not await self.is_alive(token)

    async def test_what_expires_during_a_request_is_alive_for_it(self) -> None:
        """Behaviour 47: what it changes is stored, on what others have saved."""
        token = await self.stored({"a": 1})
        session, other = [await self.sessions.load(token) for _ in range(2)]
        self.clock += IDLE
        session["a"] = 2
        await session.save()
        other["b"] = 1
        await other.save()
        session["c"] = 1
        await session.save()

        assert await self.values(token) == {"a": 2, "b": 1, "c": 1}
        assert (await self.envelope(token)).expires == self.clock + IDLE

    async def test_what_was_ended_during_a_request_is_not_alive_for_it(self) -> None:
        """Behaviours 39, 47: though it would have expired, too."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        await self.end_elsewhere(token)
        self.clock += IDLE
        session["a"] = 2
        with pytest.raises(SessionGoneError):
            await session.save()
        assert not await self.is_alive(token)

    async def test_a_message_on_a_socket_is_judged_by_itself(self) -> None:
        """Behaviours 39, 47: with changes or without, and whatever it calls."""
        token = await self.stored({"a": 1})
        for change, call in itertools.product(
            ({}, {"a": 2}),
            (Session.save, Session.reload, lambda session: session.transact(len)),
        ):
            self.clock = START
            session = await self.sessions.load(token)
            state_of(session).on_socket = True
            session.update(change)
            self.clock = START + IDLE
            with pytest.raises(SessionGoneError):
                await call(session)
            assert not await self.is_alive(token)

    async def test_a_message_on_a_socket_finds_what_others_kept_alive(self) -> None:
        """Behaviours 47, 48: the socket itself need not have noticed."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        state_of(session).on_socket = True
        self.clock += IDLE / 2
        await self.elsewhere.commits.commit(await self.elsewhere.loader.load(token))
        self.clock += IDLE / 2
        await session.save()
        session["b"] = 1
        await session.save()

        assert await self.values(token) == {"a": 1, "b": 1}

    async def test_a_message_is_judged_by_when_it_came(self) -> None:
        """Behaviour 47: not by when one before it on the same socket has ended."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        state_of(session).on_socket = True
        count = SlowCount()
        counting = asyncio.ensure_future(session.transact(count))
        await count.begun.wait()
        session["b"] = 1
        saving = asyncio.ensure_future(session.save())
        await asyncio.sleep(0)
        self.clock += IDLE
        count.go_on.set()
        await asyncio.gather(counting, saving)

        assert await self.values(token) == {"a": 1, "b": 1, "n": 1}

    async def test_a_session_that_another_request_kept_alive_is_saved(self) -> None:
        """Behaviour 48: a long request ends after its session was renewed."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        self.clock += IDLE / 2
        await self.change_elsewhere(token, b=1)
        self.clock += IDLE / 2
        await session.save()

        assert await self.values(token) == {"a": 2, "b": 1}

    async def test_a_session_ended_between_two_saves_is_gone(self) -> None:
        """Behaviours 26, 39: the second one learns of it."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        await session.save()
        await self.end_elsewhere(token)
        session["a"] = 3
        with pytest.raises(SessionGoneError):
            await session.save()

        assert not await self.is_alive(token)

    async def test_what_was_regenerated_elsewhere_is_gone(self) -> None:
        """Behaviour 11: the old token is dead for whoever still holds it."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        other = await self.elsewhere.load(token)
        other.regenerate()
        await self.elsewhere.commits.commit(state_of(other))
        for change in (lambda: session.update(a=2), session.regenerate):
            change()
            with pytest.raises(SessionGoneError):
                await session.save()
            state_of(session).discard()

        assert await self.values(state_of(other).token) == {"a": 1}

    async def test_messages_of_two_requests_are_all_shown(self) -> None:
        """Behaviour 38: oldest first, as far as each request is concerned."""
        token = await self.stored()
        session = await self.sessions.load(token)
        for number in range(10):
            session.flash(f"mine {number}")
        other = await self.elsewhere.load(token)
        other.flash("theirs")
        await self.elsewhere.commits.commit(state_of(other))
        await session.save()
        shown = [text for text, _ in (await self.sessions.load(token)).flashes()]

        assert [text for text in shown if text != "theirs"] == [
            f"mine {number}" for number in range(10)
        ]
        assert "theirs" in shown


class SuspendingConflictTest(ConflictTest):
    suspends = True


class ContestedVault(FaultyVault):
    """A vault whose records another process changes just before each save."""

    def __init__(self, inner: Vault, elsewhere: Sessions, rivals: float) -> None:
        super().__init__(inner, suspends=True)
        self.elsewhere = elsewhere
        self.rivals = rivals
        self.won = 0

    async def replace(self, token: str, record: Record, version: Version) -> Saved:
        if self.won < self.rivals:
            self.won += 1
            rival = await self.elsewhere.load(token)
            rival["rival"] = self.won
            await self.elsewhere.commits.commit(state_of(rival))
        return await super().replace(token, record, version)


class ContestTest(SessionsCase):
    """Another process gets there first, time and again."""

    def contested(self, rivals: float) -> Sessions:
        self.contest = ContestedVault(Vault(self.backend), self.elsewhere, rivals)
        self.events: list[SessionEvent] = []
        return self.make(self.contest, listener=self.events.append)

    async def test_a_save_tries_again(self) -> None:
        """Behaviour 36: across processes, too."""
        sessions = self.contested(rivals=5)
        session = await sessions.load(await self.stored({"a": 1}))
        session["a"] = 2
        await session.save()

        assert await self.values(state_of(session).token) == {"a": 2, "rival": 5}

    async def test_a_transaction_tries_again(self) -> None:
        """Behaviour 37: on what the other one saved."""
        sessions = self.contested(rivals=5)
        session = await sessions.load(await self.stored({"a": 1}))

        def add(session: Session) -> None:
            session["sum"] = session["a"] + session.get("rival", 0)

        await session.transact(add)

        assert await self.values(state_of(session).token) == {
            "a": 1,
            "rival": 5,
            "sum": 6,
        }

    async def test_each_conflict_is_told(self) -> None:
        """Of a save and of a transaction: another process was first."""
        sessions = self.contested(rivals=3)
        session = await sessions.load(await self.stored({"a": 1}))
        session["a"] = 2
        await session.save()
        self.contest.rivals = 5
        await session.transact(lambda session: session.update(a=3))

        assert [event.name for event in self.events] == ["conflict"] * 5

    async def test_a_save_that_has_lost_often_is_soon_tried_again(self) -> None:
        """Behaviour 36: the pause between two tries does not grow for ever."""
        sessions = self.contested(rivals=25)
        session = await sessions.load(await self.stored({"a": 1}))
        session["a"] = 2
        await asyncio.wait_for(session.save(), 10)

        assert await self.values(state_of(session).token) == {"a": 2, "rival": 25}

    async def test_patience_has_an_end(self) -> None:
        """Behaviour 37: after so long it is a failure, with a hint."""
        sessions = self.contested(rivals=float("inf"))
        session = await sessions.load(await self.stored({"a": 1}))
        with mock.patch.object(retries, "PATIENCE", 0.0):
            session["a"] = 2
            with pytest.raises(BackendError) as saving:
                await session.save()
            with pytest.raises(BackendError) as transacting:
                await session.transact(lambda session: session.update(a=2))

        for caught in (saving, transacting):
            assert isinstance(caught.value.__cause__, ConflictError)
            assert str(caught.value) == (
                "The session could not be saved within 0 s: other processes kept"
                " changing it. Store less often, or spread what changes over several"
                " sessions."
            )
        assert (await self.values(state_of(session).token))["a"] == 1

    async def test_the_clock_of_the_sessions_is_no_measure(self) -> None:
        """Behaviour 53: time that stands still is no reason to try for ever."""
        sessions = self.contested(rivals=3)
        session = await sessions.load(await self.stored({"a": 1}))
        session["a"] = 2
        with mock.patch.object(retries, "PATIENCE", 60.0):
            await session.save()

        assert self.contest.won == 3

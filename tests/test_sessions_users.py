"""Tests of the sessions of a user: listed, ended, and how many there may be."""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import Any
from unittest import mock

import pytest

from tests.sessions_case import IDLE, START, SessionsCase
from tests.tokens import token_of
from tornado_sessions import (
    BackendError,
    Record,
    Session,
    SessionEvent,
    SessionGoneError,
    SessionLimitError,
    Sessions,
    Vault,
)
from tornado_sessions.core import retries
from tornado_sessions.core.codec import encode
from tornado_sessions.core.envelope import FORMAT, Envelope
from tornado_sessions.core.values import state_of
from tornado_sessions.testing.interruptions import InterruptedVault


class UsersTest(SessionsCase):
    """The sessions of a user, and what comes between a listing and a delete."""

    async def asyncSetUp(self) -> None:
        self.store = InterruptedVault(Vault(self.backend), suspends=self.suspends)
        self.sessions.vault = self.store

    async def signed_in(self, user: str = "ada", **values: Any) -> str:
        session = await self.elsewhere.load(None)
        session.update(values)
        session.login(user)
        await self.elsewhere.commits.commit(state_of(session))
        return token_of(session)

    async def regenerate_elsewhere(self, token: str) -> str:
        session = await self.elsewhere.load(token)
        session.regenerate()
        await self.elsewhere.commits.commit(state_of(session))
        return token_of(session)

    async def test_what_cannot_be_read_is_logged_once(self) -> None:
        """Behaviour 84: in one line for each kind, and the listener is told of it."""
        told: list[SessionEvent] = []
        self.sessions.events.listener = told.append
        await self.signed_in()
        marks = {}
        for _ in range(3):
            token = (
                await self.store.inner.insert(Record(b"rubbish", user="ada"))
            ).token
            marks[self.store.fingerprint(token)] = "undecodable"
            key = secrets.token_bytes(32)
            await self.backend.insert(key, Record(b"rubbish", user="ada"))
            marks[self.store.fingerprint_found(key)] = "foreign"
        with self.assertLogs("tornado_sessions") as logged:
            for _ in range(3):
                assert len(await self.sessions.of_user("ada")) == 1

        assert len(logged.output) == 2
        for mark in marks:
            assert str(logged.output).count(f"session {mark} ") == 1
        assert {event.fingerprint: event.reason for event in told} == marks
        assert [event.name for event in told] == ["refused"] * 6

    async def test_many_that_cannot_be_read_are_logged_bit_by_bit(self) -> None:
        """Behaviours 84, 85: each listing logs one line, of up to twenty of them."""
        marks = set()
        for _ in range(50):
            token = (
                await self.store.inner.insert(Record(b"rubbish", user="ada"))
            ).token
            marks.add(self.store.fingerprint(token))
        with self.assertLogs("tornado_sessions") as logged:
            for _ in range(4):
                await self.sessions.of_user("ada")

        logged_marks = [re.findall("session ([0-9a-f]{16})", s) for s in logged.output]
        assert [len(each) for each in logged_marks] == [20, 20, 10]
        assert set().union(*logged_marks) == marks

    async def test_a_session_that_moves_after_the_listing_is_revoked(self) -> None:
        """Behaviour 46: the listing does not know its new record."""
        token, other = await self.signed_in(), await self.signed_in()
        handle = (await self.elsewhere.load(token)).id
        for revoke, count in (
            (lambda: self.sessions.revoke("ada", handle), True),
            (lambda: self.sessions.revoke_all("ada"), 1),
        ):
            moved: list[str] = []

            async def move(token: str = token, moved: list[str] = moved) -> None:
                moved.append(await self.regenerate_elsewhere(token))

            self.store.before_end = move
            assert await revoke() == count
            assert not await self.is_alive(moved[0])
            token = other

    async def test_a_session_is_counted_once(self) -> None:
        """Behaviour 46: while it moves it has two records."""
        token = await self.signed_in()
        found = await self.vault.inner.load(token)
        assert found is not None
        copy = (await self.vault.inner.insert(Record(found.data, user="ada"))).token

        assert len(await self.sessions.of_user("ada")) == 1
        assert await self.sessions.revoke_all("ada") == 1
        assert not await self.is_alive(copy)

    async def test_a_session_with_two_records_is_the_one_of_the_last_sign_in(
        self,
    ) -> None:
        """Behaviour 46: whichever of them is found first."""
        envelope = Envelope(
            START, START, START + IDLE, {}, id="x", user="ada", format=FORMAT
        )
        for times in ((1.0, 2.0), (2.0, 1.0)):
            for envelope.auth_time in times:
                await self.vault.inner.insert(Record(encode(envelope), user="ada"))
            self.sessions.rules.lifetime = 2 * START

            (listed,) = await self.sessions.of_user("ada")
            assert listed.auth_time == 2.0
            self.store.calls.clear()
            assert await self.sessions.revoke_all("ada") == 1
            assert self.store.calls == ["find", *["save", "delete"] * 2, "find"]

    async def test_a_move_that_loses_leaves_nothing(self) -> None:
        """Behaviour 46: the old record was deleted before it could be overwritten."""
        token = await self.signed_in()
        session = await self.sessions.load(token)
        session.regenerate()

        async def revoke() -> None:
            await self.elsewhere.revoke_all("ada")

        self.store.before_replace = revoke
        with pytest.raises(SessionGoneError):
            await self.sessions.commits.commit(state_of(session))

        assert await self.sessions.of_user("ada") == []

    async def test_expired_sessions_are_neither_listed_nor_counted(self) -> None:
        """Behaviour 46: they are removed all the same."""
        await self.signed_in()
        self.clock += IDLE

        assert await self.sessions.of_user("ada") == []
        assert await self.sessions.revoke_all("ada") == 0
        assert [key async for key, _ in self.backend.find("ada")] == []

    async def test_the_earlier_of_two_ends_is_listed(self) -> None:
        """Behaviour 47: the settings have changed since it was stored."""
        await self.signed_in()
        self.sessions.rules.idle_timeout = 10.0

        (listed,) = await self.sessions.of_user("ada")
        assert listed.expires == START + 10.0

    async def test_what_cannot_be_decoded_is_not_listed(self) -> None:
        """Behaviour 32: it is no session, and stays as it is."""
        await self.vault.inner.insert(Record(b"{}", user="ada"))

        assert await self.sessions.of_user("ada") == []
        assert await self.sessions.revoke_all("ada") == 0
        assert len([key async for key, _ in self.backend.find("ada")]) == 1

    async def test_what_is_newer_is_not_passed_over(self) -> None:
        """Behaviour 32: to say that all are gone would not be true."""
        await self.vault.inner.insert(Record(b'{"format":99}', user="ada"))

        with pytest.raises(BackendError, match="a newer version"):
            await self.sessions.revoke_all("ada")

    async def test_a_record_is_that_of_the_user_inside_it(self) -> None:
        """Behaviour 33: whatever the store says beside it."""
        token = await self.signed_in("eve")
        found = await self.vault.inner.load(token)
        assert found is not None
        await self.vault.inner.insert(Record(found.data, user="ada"))

        assert await self.sessions.of_user("ada") == []
        assert await self.sessions.revoke_all("ada") == 0

    async def test_another_namespace_has_other_users(self) -> None:
        """Two applications on one store never see each other's sessions."""
        shop = self.make(Vault(self.backend, "shop"))
        session = await shop.load(None)
        session.login("ada")
        await shop.commits.commit(state_of(session))
        await self.signed_in("ada")

        assert len(await shop.of_user("ada")) == 1
        assert await self.sessions.revoke_all("ada") == 1
        assert await self.sessions.revoke_all("shop:ada") == 0
        assert len(await shop.of_user("ada")) == 1

    async def test_a_session_that_keeps_changing_is_told_of(self) -> None:
        """Behaviour 46: to end it is not tried for ever."""
        token = await self.signed_in()

        async def change_again() -> None:
            await self.change_elsewhere(token, n=secrets.token_hex(4))
            self.store.before_end = change_again

        self.store.before_end = change_again
        with (
            mock.patch.object(retries, "PATIENCE", -1.0),
            pytest.raises(BackendError) as caught,
        ):
            await self.sessions.revoke_all("ada")
        self.store.before_end = None
        assert str(caught.value) == (
            "Not all sessions of the user could be ended within 10 s: other processes"
            " kept changing them. Try again."
        )
        assert await self.sessions.revoke_all("ada") == 1

    async def test_what_is_no_user_is_an_error(self) -> None:
        """Behaviour 46: 42 has no sessions, and to answer 0 would mislead."""
        number: Any = 42
        for work, name in (
            (self.sessions.of_user(number), "of_user"),
            (self.sessions.revoke(number, "x"), "revoke"),
            (self.sessions.revoke_all(number), "revoke_all"),
        ):
            with pytest.raises(TypeError) as caught:
                await work
            assert (
                str(caught.value) == f"{name}() takes the user's id as a str, not int:"
                " as in str(row.id)."
            )

    async def test_no_user_is_an_error(self) -> None:
        """Behaviour 46: whoever was not found has no sessions to end."""
        nobody: Any = None
        for work, name in (
            (self.sessions.of_user(nobody), "of_user"),
            (self.sessions.revoke(nobody, "x"), "revoke"),
            (self.sessions.revoke_all(nobody), "revoke_all"),
        ):
            with pytest.raises(TypeError) as caught:
                await work
            assert str(caught.value) == (
                f"{name}() takes the user's id as a str, not None. Find the user first,"
                " and refuse the request if there is none."
            )

    async def test_others_have_their_turn_however_many_sessions_there_are(self) -> None:
        """Behaviour 70: also where the store never suspends."""
        turns = 0

        async def take_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        for _ in range(250):
            await self.signed_in()
        taking = asyncio.ensure_future(take_turns())
        described = await self.sessions.of_user("ada")
        assert len(described) == 250
        assert turns >= 4
        turns = 0
        assert await self.sessions.revoke_all("ada") == 250
        assert turns >= 4
        taking.cancel()

    async def test_what_is_spared_is_a_session(self) -> None:
        """A handle would spare nothing, or everything."""
        handle: Any = "x"
        with pytest.raises(TypeError) as caught:
            await self.sessions.revoke_all("ada", keep=handle)
        assert str(caught.value) == (
            "revoke_all() takes the session to spare, such as keep=self.session, and"
            " not str."
        )

    async def test_what_is_left_of_a_failed_login_is_not_the_session(self) -> None:
        """Behaviour 46: with it goes none that is still nobody's."""
        session = await self.sessions.load(await self.stored({"a": 1}))
        session.login("ada")
        self.store.failing = {"replace", "delete"}
        with pytest.raises(BackendError):
            await session.save()
        await session.reload()
        self.store.failing.clear()
        await self.sessions.of_request(state_of(session)).revoke_all("ada")

        assert dict(session) == {"a": 1}


class LimitTest(SessionsCase):
    """How many sessions a user may have, where another process is as fast."""

    suspends = True

    def setUp(self) -> None:
        super().setUp()
        self.store = InterruptedVault(Vault(self.backend), suspends=True)
        self.sessions.vault = self.store
        for sessions in (self.sessions, self.elsewhere):
            sessions.logins.limit, sessions.logins.policy = 1, "refuse"

    async def sign_in(self, sessions: Sessions) -> str:
        session = await sessions.load(None)
        session.login("ada")
        await sessions.commits.commit(state_of(session))
        return token_of(session)

    async def test_of_two_for_one_place_the_older_waits(self) -> None:
        """Behaviour 46: until the newer one has gone, which is not stored for good."""
        newer = Envelope(START, START, START + IDLE, {}, id="newer", format=FORMAT)
        newer.user, newer.auth_time = "ada", START + 1
        tokens: list[str] = []

        async def come() -> None:
            record = Record(encode(newer), expires=newer.expires, user="ada")
            tokens.append((await self.vault.inner.insert(record)).token)
            self.store.before_find = go

        async def go() -> None:
            await self.vault.inner.delete(tokens[0])

        self.store.before_find = come

        assert await self.is_alive(await self.sign_in(self.sessions))

    async def test_logins_in_one_process_take_turns(self) -> None:
        """Behaviour 46: the second is stored when the first is through."""
        self.sessions.logins.policy = "oldest"
        later: list[asyncio.Task[str]] = []

        async def come_as_well() -> None:
            later.append(asyncio.ensure_future(self.sign_in(self.sessions)))
            for _ in range(50):
                await asyncio.sleep(0)
            assert self.store.calls.count("save") == 1

        self.store.before_find = come_as_well
        await self.sign_in(self.sessions)

        assert await self.is_alive(await later[0])
        assert len(await self.sessions.of_user("ada")) == 1

    async def test_whoever_stays_is_not_waited_for_for_ever(self) -> None:
        """Behaviour 46: the clock of another process may be ahead."""
        self.clock += 1
        kept = await self.sign_in(self.elsewhere)
        self.clock -= 1
        with pytest.raises(SessionLimitError) as caught:
            await self.sign_in(self.sessions)

        assert str(caught.value) == (
            "The user has 1 session already, as many as session_max_per_user"
            " allows. One of these sessions has to end first."
        )
        assert await self.is_alive(kept)
        assert len(await self.sessions.of_user("ada")) == 1

    async def test_one_that_moves_while_it_makes_room_goes(self) -> None:
        """Behaviour 46: else there would be one too many."""
        self.sessions.logins.policy = "oldest"
        token = await self.sign_in(self.elsewhere)
        self.clock += 1

        async def move() -> None:
            session = await self.elsewhere.load(token)
            session.regenerate()
            await self.elsewhere.commits.commit(state_of(session))

        self.store.before_end = move
        fresh = await self.sign_in(self.sessions)

        assert await self.is_alive(fresh)
        assert len(await self.sessions.of_user("ada")) == 1

    async def test_a_refused_one_that_stays_is_a_failure(self) -> None:
        """Behaviour 46: it would count for the next login."""
        await self.sign_in(self.elsewhere)
        self.store.failing = {"delete"}

        with pytest.raises(BackendError):
            await self.sign_in(self.sessions)

    async def test_a_refused_login_in_a_transaction_is_dropped(self) -> None:
        """Behaviour 46: with all that the function changed."""
        await self.sign_in(self.elsewhere)
        token = await self.stored({"kept": 1})
        session = await self.sessions.load(token)

        def sign_in(session: Session) -> None:
            session["a"] = 1
            session.login("ada")

        with pytest.raises(SessionLimitError):
            await session.transact(sign_in)

        assert not session.modified
        assert await self.values(token) == {"kept": 1}


class SuspendingUsersTest(UsersTest):
    suspends = True

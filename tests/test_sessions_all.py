"""Tests of the sessions of all users: listed and ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from tornado_sessions_memory import MemoryBackend

from tests.sessions_case import IDLE, SessionsCase
from tests.tokens import token_of
from tornado_sessions import (
    BackendError,
    Record,
    Session,
    SessionError,
    SessionGoneError,
    Sessions,
    UserSession,
    Vault,
)
from tornado_sessions.core.values import state_of
from tornado_sessions.testing import FaultyVault


class MovingVault(FaultyVault):
    """Calls ``move`` after a listing has passed the place of the new record."""

    def __init__(self, inner: Vault, move: Callable[[], Awaitable[None]]) -> None:
        super().__init__(inner)
        self.move = move

    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        listed = [found async for found in self.inner.find_all()]
        await self.move()
        for key, record in listed:
            # The old record, as it is when its turn comes.
            newest = await self.inner.load_found(key)
            assert newest is not None
            yield key, Record(newest.data, newest.version, user=record.user)


class AllUsersCase(SessionsCase):
    async def sign_in(
        self, user: str, sessions: Sessions | None = None, **values: Any
    ) -> Session:
        session = await (sessions or self.sessions).load(None)
        session.update(values)
        session.login(user)
        await session.save()
        return session

    async def listed(self, sessions: Sessions | None = None) -> list[UserSession]:
        return [each async for each in (sessions or self.sessions).of_all_users()]

    async def ids(self, sessions: Sessions | None = None) -> list[tuple[str, str]]:
        """Returns the user and the handle of each session that is listed."""
        return sorted((each.user, each.id) for each in await self.listed(sessions))


class OfAllUsersTest(AllUsersCase):
    async def test_they_are_described_as_those_of_one_user(self) -> None:
        """Behaviour 101: with the user of each."""
        for user in ("ada", "bob", "ada"):
            await self.sign_in(user)
        await self.stored()

        listed = await self.listed()
        assert len(listed) == 3
        for user in ("ada", "bob"):
            mine = await self.sessions.of_user(user)
            assert {each.user for each in mine} == {user}
            assert sorted(mine, key=repr) == sorted(
                (each for each in listed if each.user == user), key=repr
            )

    async def test_what_has_ended_is_left_out(self) -> None:
        """Behaviour 101: expired, destroyed, or under its former id."""
        old, gone, ada = [await self.sign_in("ada") for _ in range(3)]
        old.set_expiry(idle=1)
        await old.save()
        gone.destroy()
        await gone.save()
        ada.regenerate()
        await ada.save()
        self.clock += 1

        assert await self.ids() == [("ada", ada.id)]

    async def test_another_namespace_is_left_out(self) -> None:
        """Behaviour 101: also of users whose names look like those of the other."""
        shop = self.make(Vault(self.backend, "shop"))
        mine = [await self.sign_in(user) for user in ("ada", "shop:ada", "shop:")]
        theirs = [await self.sign_in(user, shop) for user in ("ada", "shop:ada")]

        for sessions, own in ((self.sessions, mine), (shop, theirs)):
            assert await self.ids(sessions) == sorted(
                (str(each.user), each.id) for each in own
            )
        await shop.close()

    async def test_what_cannot_be_read_is_left_out(self) -> None:
        """Behaviours 32, 33, 101: as it is for a request."""
        ada = await self.sign_in("ada")
        await self.vault.inner.insert(Record(b"rubbish", user="ada"))
        await self.backend.insert(b"k" * 32, Record(b"rubbish", user="ada"))

        assert await self.ids() == [("ada", ada.id)]

    async def test_there_may_be_many(self) -> None:
        """Behaviour 101: they are not held at once."""
        for number in range(250):
            await self.sign_in(f"user {number}")

        assert len({each.user for each in await self.listed()}) == 250

    async def test_other_tasks_run_meanwhile(self) -> None:
        """Behaviours 70, 101: also if the store answers at once."""
        for number in range(250):
            await self.sign_in(f"user {number}")
        found = [each async for each in self.vault.inner.find_all()]

        class QuickVault(FaultyVault):
            async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
                for each in found:
                    yield each

        self.sessions.vault = QuickVault(self.vault.inner)
        turns: list[int] = []

        async def count() -> None:
            for turn in range(10):
                turns.append(turn)
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        assert len(await self.listed()) == 250
        assert len(turns) >= 2
        await counting

    async def test_a_loop_over_them_can_be_left(self) -> None:
        """Behaviour 101: the rest is not read."""
        for _ in range(3):
            await self.sign_in("ada")
        async for _ in self.sessions.of_all_users():
            break

        assert await self.sessions.revoke_all("ada") == 3

    async def test_a_store_that_fails_is_told(self) -> None:
        """Behaviour 101: a short list would look like a complete one."""
        self.vault.failing = {"find"}
        with pytest.raises(BackendError):
            await self.listed()

    async def test_a_store_that_cannot_list_them_says_so(self) -> None:
        """Behaviour 101: with what to use."""

        class Forgetful(MemoryBackend):
            finds_all = False

        sessions = self.make(Vault(Forgetful()))
        for call in (self.listed(sessions), sessions.revoke_all_users()):
            with pytest.raises(SessionError) as caught:
                await call
            assert str(caught.value) == (
                "Forgetful cannot list the sessions of all users. Use a backend that"
                " declares finds_all, such as 'sqlite'."
            )


class RevokeAllUsersTest(AllUsersCase):
    async def test_all_sessions_of_users_end(self) -> None:
        """Behaviour 102: and those of visitors stay."""
        sessions = [await self.sign_in(user) for user in ("ada", "bob", "ada")]
        guest = await self.stored()

        assert await self.sessions.revoke_all_users() == 3
        for session in sessions:
            assert not await self.is_alive(token_of(session))
        assert await self.is_alive(guest)
        assert await self.sessions.revoke_all_users() == 0

    async def test_one_session_can_be_spared(self) -> None:
        """Behaviours 78, 102: all others of its user end."""
        mine, other, bob = [await self.sign_in(user) for user in ("ada", "ada", "bob")]

        assert await self.sessions.revoke_all_users(keep=mine) == 2
        assert await self.is_alive(token_of(mine))
        for session in (other, bob):
            assert not await self.is_alive(token_of(session))

    async def test_to_spare_one_that_has_ended_is_an_error(self) -> None:
        """Behaviours 78, 102: whoever asks has to sign in again."""
        mine, _ = await self.sign_in("ada"), await self.sign_in("ada")
        await self.end_elsewhere(token_of(mine))

        with pytest.raises(SessionGoneError):
            await self.sessions.revoke_all_users(keep=mine)

    async def test_only_the_session_of_a_user_can_be_spared(self) -> None:
        """Behaviour 102: an anonymous one does not end."""
        guest = await self.sessions.load(await self.stored())
        with pytest.raises(SessionError) as caught:
            await self.sessions.revoke_all_users(keep=guest)
        assert str(caught.value) == (
            "revoke_all_users() ends no anonymous session, so keep has to be that of a"
            " user. Leave it out to end the sessions of all users."
        )
        with pytest.raises(TypeError) as error:
            # As one writes it who does not check types.
            await self.sessions.revoke_all_users(keep="ada")  # type: ignore[arg-type]
        assert str(error.value) == (
            "revoke_all_users() takes the session to spare, such as keep=self.session,"
            " and not str."
        )

    async def test_another_namespace_is_left_alone(self) -> None:
        """Behaviour 102: its users may have the same names."""
        shop = self.make(Vault(self.backend, "shop"))
        theirs = [await self.sign_in(user, shop) for user in ("ada", "shop:ada")]
        mine = [await self.sign_in(user) for user in ("ada", "shop:ada")]

        assert await self.sessions.revoke_all_users() == 2
        for session in theirs:
            assert not (await shop.load(token_of(session))).is_new
        assert await shop.revoke_all_users() == 2
        for session in (*mine, *theirs):
            assert not await self.is_alive(token_of(session))
        await shop.close()

    async def test_a_session_whose_id_changes_meanwhile_ends(self) -> None:
        """Behaviours 77, 102: also if its new record is missed."""
        ada = await self.sign_in("ada")

        async def move() -> None:
            ada.regenerate()
            await ada.save()

        self.sessions.vault = MovingVault(self.vault.inner, move)

        assert await self.sessions.revoke_all_users() == 1
        assert not await self.is_alive(token_of(ada))

    async def test_the_session_of_the_request_ends_as_if_it_was_destroyed(self) -> None:
        """Behaviours 46, 102: to the handler that asked for it."""
        ada = await self.sign_in("ada")
        mine = await self.sessions.load(token_of(ada))
        await self.sessions.of_request(state_of(mine)).revoke_all_users()

        assert mine.is_new
        assert mine.user is None

    async def test_what_expires_only_by_this_clock_ends_as_well(self) -> None:
        """Behaviours 46, 102: it would be alive again when the clock is right."""
        ada = await self.sign_in("ada")
        self.clock += IDLE
        assert await self.sessions.revoke_all_users() == 0
        self.clock -= IDLE

        assert not await self.is_alive(token_of(ada))

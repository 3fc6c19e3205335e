"""Tests of logins and logouts that meet another id, or another end, of a session."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tornado_sessions_memory import MemoryBackend

from tests.sessions_case import IDLE, SessionsCase
from tests.tokens import token_of
from tornado_sessions import (
    BackendError,
    Session,
    SessionGoneError,
    Sessions,
    Vault,
)
from tornado_sessions.core.expiry import TOMBSTONE_LIFE
from tornado_sessions.core.records import LONGEST_CHAIN
from tornado_sessions.core.values import state_of
from tornado_sessions.testing import FaultyVault
from tornado_sessions.testing.interruptions import InterruptedVault

Work = Callable[[], Awaitable[Any]]


class MovedCase(SessionsCase):
    """Two processes on one store, of which one is interrupted."""

    def setUp(self) -> None:
        super().setUp()
        self.store = InterruptedVault(Vault(self.backend), suspends=self.suspends)
        self.sessions.vault = self.store

    async def moved(self, token: str, user: str | None = None) -> str:
        """Returns the token that a session gets in the other process."""
        session = await self.elsewhere.load(token)
        if user is None:
            session.regenerate()
        else:
            session.login(user)
        return await self.saved(session)

    async def saved(self, session: Session) -> str:
        await session.save()
        return token_of(session)

    async def signed_in(self, user: str = "ada", token: str | None = None) -> str:
        session = await self.elsewhere.load(token)
        session.login(user)
        return await self.saved(session)


class LogoutTest(MovedCase):
    async def test_a_logout_follows_a_move_to_its_end(self) -> None:
        """Behaviour 77: however often the session was moved, and whenever it loaded."""
        for loads_first in (True, False):
            token = await self.stored({"a": 1})
            session = await self.sessions.load(token)
            newest = await self.moved(token)
            for _ in range(3):
                newest = await self.moved(newest, "ada")
            if not loads_first:
                session = await self.sessions.load(token)
                assert session.is_new
                assert session.user is None
            session.destroy()
            await session.save()

            assert not await self.is_alive(newest)

    async def test_a_move_between_the_steps_of_a_logout_is_followed(self) -> None:
        """Behaviour 77: at the first try and at the second."""
        token = await self.stored()
        session = await self.sessions.load(token)
        newest: list[str] = [token]

        async def move() -> None:
            newest.append(await self.moved(newest[-1]))
            if len(newest) < 4:
                self.store.before_end = move

        self.store.before_end = move
        session.destroy()
        await session.save()

        assert len(newest) == 4
        assert not await self.is_alive(newest[-1])

    async def test_a_save_between_the_steps_of_a_logout_does_not_stop_it(self) -> None:
        """Behaviours 39, 77: the record is of another version then."""
        token = await self.stored()
        session = await self.sessions.load(token)

        async def change() -> None:
            await self.change_elsewhere(token, a=1)

        self.store.before_end = change
        session.destroy()
        await session.save()

        assert not await self.is_alive(token)

    async def test_a_logout_before_a_move_ends_the_move(self) -> None:
        """Behaviours 10, 77: nothing is left of it but the error."""
        token = await self.stored()
        session = await self.sessions.load(token)
        session.regenerate()

        async def end() -> None:
            await self.end_elsewhere(token)

        self.store.before_replace = end
        with pytest.raises(SessionGoneError):
            await session.save()

        assert repr(self.backend).startswith("<MemoryBackend 0 of")

    async def test_what_a_move_leaves_is_kept_for_five_minutes(self) -> None:
        """Behaviour 77: and neither a logout nor a revocation removes it."""
        token = await self.signed_in()
        late = await self.sessions.load(token)
        newest = await self.moved(token)
        late.destroy()
        await late.save()
        await self.sessions.revoke_all("ada")
        assert not await self.is_alive(newest)

        self.clock += 299
        await self.backend.purge(self.clock)
        record = await self.vault.inner.load(token)
        assert record is not None
        assert await self.vault.inner.load(newest) is None
        self.clock += TOMBSTONE_LIFE + 300
        await self.sessions.purge()
        assert await self.vault.inner.load(token) is None

    async def test_anonymous_visitors_do_not_displace_what_a_login_leaves(self) -> None:
        """Behaviours 71, 77: however full the store is, an old id logs out."""
        self.backend.max_records = 5
        for old in (await self.stored({"a": 1}), await self.signed_in()):
            newest = await self.moved(old, "ada")
            for number in range(10):
                await self.stored({"number": number})

            session = await self.sessions.load(old)
            session.destroy()
            await session.save()

            assert not await self.is_alive(newest)

    async def test_a_load_does_not_follow(self) -> None:
        """Behaviour 77: nor does what is written in that request."""
        token = await self.stored({"a": 1})
        newest = await self.moved(token)
        session = await self.sessions.load(token)
        session["b"] = 1
        await session.save()

        assert await self.values(state_of(session).token) == {"b": 1}
        assert await self.values(newest) == {"a": 1}

    async def test_a_logout_does_not_follow_for_ever(self) -> None:
        """Behaviour 77: it fails, and says why."""
        token = newest = await self.stored()
        for _ in range(LONGEST_CHAIN):
            newest = await self.moved(newest)
        session = await self.sessions.load(token)
        session.destroy()
        with pytest.raises(BackendError, match="given another id more than 256 times"):
            await session.save()
        assert await self.is_alive(newest)


class SuspendingLogoutTest(LogoutTest):
    suspends = True


class LoginTest(MovedCase):
    async def test_two_logins_of_one_visitor_both_hold(self) -> None:
        """Behaviour 76: with what each has seen, under different handles."""
        for user in ("ada", "grace"):
            token = await self.stored({"cart": 1})
            session = await self.sessions.load(token)
            other = await self.moved(token, "ada")
            session["b"] = 2
            session.login(user)
            token = await self.saved(session)

            assert token != other
            loaded = await self.elsewhere.load(token)
            assert (loaded.user, dict(loaded)) == (user, {"cart": 1, "b": 2})
            assert loaded.id != (await self.elsewhere.load(other)).id
            assert not session.modified

    async def test_a_login_over_a_session_that_ended_brings_only_its_own(self) -> None:
        """Behaviour 76: also where it expired, and inside of dicts."""

        async def expire(token: str) -> None:
            self.clock += 2 * IDLE

        for end in (self.end_elsewhere, expire):
            token = await self.stored({"cart": {"pear": 1}})
            session = await self.sessions.load(token)
            await end(token)
            session["cart"]["apple"] = 1
            session.login("ada")
            loaded = await self.elsewhere.load(await self.saved(session))

            assert loaded.user == "ada"
            assert dict(loaded)["cart"]["apple"] == 1

    async def test_a_login_brings_nothing_of_another_user(self) -> None:
        """Behaviours 41, 76: whose session was moved meanwhile."""
        token = await self.signed_in("ada")
        await self.change_elsewhere(token, secret=1)
        session = await self.sessions.load(token)
        await self.moved(token)
        session.login("grace")
        session["b"] = 2
        assert await self.values(await self.saved(session)) == {"b": 2}

    async def test_a_login_in_a_transaction_holds(self) -> None:
        """Behaviour 76: inside the function and before it."""
        token = await self.stored({"a": 1})

        async def move() -> None:
            await self.moved(token, "ada")

        session = await self.sessions.load(token)
        self.store.before_replace = move
        await session.transact(lambda session: session.login("ada"))
        assert (await self.elsewhere.load(state_of(session).token)).user == "ada"

        session = await self.sessions.load(await self.stored({"a": 1}))
        await self.moved(token_of(session))
        session.login("ada")
        await session.transact(lambda session: session.update(b=2))
        loaded = await self.elsewhere.load(state_of(session).token)
        assert (loaded.user, dict(loaded)) == ("ada", {"a": 1, "b": 2})

    async def test_it_takes_nothing_else_along_that_came_late(self) -> None:
        """Behaviour 79: what another request of the visitor has set meanwhile."""
        token = await self.stored({"cart": {"pear": 1}})
        session = await self.sessions.load(token)
        session.login("ada", keep=["cart"])
        other = await self.elsewhere.load(token)
        other.update(cart={"pear": 1, "apple": 1}, late=1)
        other.persistent, other.label = True, "Planted"
        other.set_expiry(idle=5)
        other.flash("Planted.")
        await other.save()
        loaded = await self.elsewhere.load(await self.saved(session))

        assert dict(loaded) == {"cart": {"pear": 1, "apple": 1}}
        assert (loaded.persistent, loaded.label, loaded.flashes()) == (False, "", [])
        assert state_of(loaded).base.idle is None

    async def test_settings_given_back_are_merged(self) -> None:
        """Behaviours 38, 79: with what another request has changed meanwhile."""
        session = await self.elsewhere.load(await self.stored())
        session.persistent = True
        session.set_expiry(idle=5)
        token = await self.saved(session)
        session = await self.sessions.load(token)
        session.persistent = None
        session.reset_expiry()
        await self.change_elsewhere(token, a=1)
        await session.save()
        loaded = await self.elsewhere.load(token)

        assert loaded["a"] == 1
        assert (state_of(loaded).base.persistent, state_of(loaded).base.idle) == (
            None,
            None,
        )


class SuspendingLoginTest(LoginTest):
    suspends = True


class RandomVault(FaultyVault):
    """Returns after a random delay, as another process would."""

    def __init__(self, backend: MemoryBackend, dice: random.Random) -> None:
        super().__init__(Vault(backend), suspends=True)
        self.dice = dice

    async def _enter(self, operation: str) -> None:
        for _ in range(self.dice.randrange(6)):
            await asyncio.sleep(0)
        await super()._enter(operation)


class LimitTest(MovedCase):
    """Behaviour 76: a limit never ends the session that has just begun."""

    suspends = True

    def setUp(self) -> None:
        super().setUp()
        for sessions in (self.sessions, self.elsewhere):
            sessions.logins.limit = 1

    async def sign_in(self, sessions: Sessions) -> str:
        session = await sessions.load(None)
        session.login("ada")
        token = await self.saved(session)
        # What was stored with a later time is not stored once more.
        assert not session.modified
        return token

    async def alive(self) -> int:
        return len(await self.elsewhere.of_user("ada"))

    async def test_it_holds_though_the_clock_has_gone_back(self) -> None:
        """Behaviour 76: its sign-in is then the latest all the same."""
        old = await self.sign_in(self.elsewhere)
        self.clock -= 2
        new = await self.sign_in(self.sessions)

        assert [await self.is_alive(old), await self.is_alive(new)] == [False, True]

    async def test_two_at_once_do_not_end_each_other(self) -> None:
        """Behaviour 76: whichever of them looks first, and whatever its clock says."""
        for step in (-2.0, 0.0, 2.0):
            tokens: list[str] = []

            async def come(step: float = step, tokens: list[str] = tokens) -> None:
                self.clock += step
                tokens.append(await self.sign_in(self.elsewhere))
                self.clock -= step

            self.store.before_find = come
            await self.sign_in(self.sessions)
            assert await self.alive() == 1

            self.store.before_end = come
            await self.sign_in(self.sessions)
            assert await self.alive() == 1

    async def test_of_many_at_once_one_is_left(self) -> None:
        """Behaviour 76: in whatever order the store answers."""
        dice = random.Random(0)
        processes = [self.make(RandomVault(self.backend, dice)) for _ in range(3)]
        for sessions in processes:
            sessions.logins.limit = 1
        for _ in range(60):
            self.clock += dice.choice([-1, 0, 1])
            await asyncio.gather(*map(self.sign_in, processes))
            assert await self.alive() == 1
        for sessions in processes:
            await sessions.close()

    async def test_a_second_login_of_one_session_takes_one_place(self) -> None:
        """Behaviour 76: it has another handle, and the session before moves to it."""
        for policy in ("oldest", "refuse"):
            self.sessions.logins.policy = policy
            token = await self.sign_in(self.elsewhere)
            await self.change_elsewhere(token, kept=1)
            session = await self.sessions.load(token)
            session["a"] = 1
            session.login("ada")
            newest = await self.saved(session)
            assert await self.values(newest) == {"a": 1, "kept": 1}
            assert await self.alive() == 1
            await self.sessions.revoke_all("ada")


class RevokeTest(MovedCase):
    async def test_a_revocation_follows_a_login_of_the_same_user(self) -> None:
        """Behaviour 77: though that has another handle."""
        token = await self.signed_in()
        moved: list[str] = []

        async def move() -> None:
            moved.append(await self.moved(token, "ada"))

        self.store.before_end = move
        handle = (await self.elsewhere.load(token)).id
        assert await self.sessions.revoke("ada", handle)
        assert not await self.is_alive(moved[0])

    async def test_a_revocation_does_not_follow_to_another_user(self) -> None:
        """Behaviours 46, 77: that one has signed in."""
        token = await self.signed_in()
        moved: list[str] = []

        async def move() -> None:
            moved.append(await self.moved(token, "grace"))

        self.store.before_end = move
        assert await self.sessions.revoke_all("ada") == 0
        assert await self.is_alive(moved[0])
        # And the way to it is still there.
        session = await self.sessions.load(token)
        session.destroy()
        await session.save()
        assert not await self.is_alive(moved[0])

    async def test_what_spares_a_session_that_has_ended_ends_nothing(self) -> None:
        """Behaviour 78: neither at once nor at a second look."""
        thief = await self.sessions.load(await self.signed_in())
        owner = await self.signed_in()
        again: list[str] = []

        async def revoke() -> None:
            await self.elsewhere.revoke_all("ada")
            again.append(await self.signed_in())

        for place in ("before_find", "before_end"):
            setattr(self.store, place, revoke)
            with pytest.raises(SessionGoneError) as caught:
                await self.sessions.revoke_all("ada", keep=thief)
            assert str(caught.value) == (
                "The session to keep has been ended by another request, so revoke_all()"
                " has ended no other. Whoever uses it has to sign in again."
            )
            assert not await self.is_alive(owner)
            assert await self.is_alive(again[-1])
            thief = await self.sessions.load(await self.signed_in())
            owner = again[-1]

    async def test_a_session_is_spared_under_its_new_id(self) -> None:
        """Behaviour 78: another request has moved it, it has not ended."""
        for user in (None, "ada"):
            token, other = await self.signed_in(), await self.signed_in()
            session = await self.sessions.load(token)
            newest = await self.moved(token, user)
            assert await self.sessions.revoke_all("ada", keep=session) == 1
            assert await self.is_alive(newest)
            assert not await self.is_alive(other)
            await self.sessions.revoke_all("ada")

    async def test_a_login_holds_in_the_request_that_revokes_all(self) -> None:
        """Behaviour 78: saved or not, first or last, and also as the same user."""
        for user in (None, "ada"):
            for saves in (False, True):
                token = await self.stored({"a": 1})
                if user is not None:
                    token = await self.moved(token, user)
                other = await self.signed_in()
                session = await self.sessions.load(token)
                sessions = self.sessions.of_request(state_of(session))
                session.login("ada")
                if saves:
                    await session.save()
                await sessions.revoke_all("ada")
                newest = await self.saved(session)

                assert (await self.elsewhere.load(newest)).user == "ada"
                assert not await self.is_alive(other)
                assert not await self.is_alive(token)

    async def test_a_login_spares_itself_as_it_was_before(self) -> None:
        """Behaviour 78: with a new handle that is not stored yet."""
        token, other = await self.signed_in(), await self.signed_in()
        session = await self.sessions.load(token)
        sessions = self.sessions.of_request(state_of(session))
        session["a"] = 1
        session.login("ada")
        assert await sessions.revoke_all("ada", keep=session) == 1
        assert await self.values(await self.saved(session)) == {"a": 1}
        assert not await self.is_alive(other)


class SuspendingRevokeTest(RevokeTest):
    suspends = True

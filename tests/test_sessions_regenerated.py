"""Tests of what ends a record: another id, another user, and destroy()."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.sessions_case import SessionsCase
from tests.tokens import token_of
from tornado_sessions import (
    BackendError,
    Record,
    Saved,
    SessionGoneError,
    Vault,
    Version,
)
from tornado_sessions.core.values import state_of
from tornado_sessions.testing import FaultyVault


class MovingVault(FaultyVault):
    """A vault that notes which tokens are alive when one is replaced, or fails then."""

    def __init__(self, inner: Vault, old: str, fails: str = "nothing") -> None:
        super().__init__(inner)
        self.tokens = [old]
        self.alive: list[list[bool]] = []
        self.failing = {fails}

    async def insert(self, record: Record) -> Saved:
        saved = await super().insert(record)
        self.tokens.append(saved.token)
        return saved

    async def replace(self, token: str, record: Record, version: Version) -> Saved:
        self.alive.append([await self.inner.load(t) is not None for t in self.tokens])
        saved = await super().replace(token, record, version)
        self.tokens.append(saved.token)
        return saved


class MeanwhileVault(FaultyVault):
    """A vault where something happens between the two saves of a regenerate."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def replace(self, token: str, record: Record, version: Version) -> Saved:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return await super().replace(token, record, version)


class SlowDeletesVault(FaultyVault):
    """A vault that takes its time to delete."""

    async def delete(self, token: str) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        await super().delete(token)


class RegenerateTest(SessionsCase):
    async def test_the_new_token_holds_and_the_old_is_dead(self) -> None:
        """Behaviour 9: with all values and the user."""
        session = await self.sessions.load(None)
        session["a"] = 1
        session.login("ada")
        await session.save()
        old = state_of(session).token
        assert old is not None
        session = await self.sessions.load(old)
        session.regenerate()
        session.regenerate()
        await session.save()

        assert state_of(session).token not in (None, old)
        assert not await self.is_alive(old)
        loaded = await self.sessions.load(state_of(session).token)
        assert dict(loaded) == {"a": 1}
        assert loaded.user == "ada"

    async def test_it_is_done_once(self) -> None:
        """Behaviour 9: the next commit finds nothing to do."""
        session = await self.sessions.load(await self.stored())
        session.regenerate()
        await session.save()
        token = state_of(session).token
        await session.save()

        assert state_of(session).token == token

    async def test_the_new_record_exists_before_the_old_one_goes(self) -> None:
        """Behaviour 10: a crash in between loses nothing."""
        token = await self.stored({"a": 1})
        vault = MovingVault(Vault(self.backend), token)
        session = await self.make(vault).load(token)
        session.regenerate()
        session["a"] = 2
        await session.save()

        assert vault.alive == [[True, True]]
        assert vault.calls == ["load", "save", "save"]
        assert not await self.is_alive(token)
        assert await self.values(state_of(session).token) == {"a": 2}

    async def test_where_the_old_stays_the_new_one_goes(self) -> None:
        """Behaviour 10: the client will never learn of it."""
        token = await self.stored({"a": 1})
        vault = MovingVault(Vault(self.backend), token, fails="replace")
        session = await self.make(vault).load(token)
        session.regenerate()
        session["a"] = 2
        with pytest.raises(BackendError, match="Cannot replace"):
            await session.save()

        assert state_of(session).token == token
        assert await self.values(token) == {"a": 1}
        assert vault.calls == ["load", "save", "save", "delete"]
        assert repr(self.backend).startswith("<MemoryBackend 1 of")

        # What failed is still to be done.
        vault.failing.clear()
        await session.save()
        assert not await self.is_alive(token)
        assert await self.values(state_of(session).token) == {"a": 2}

    async def test_where_neither_can_be_removed_the_first_error_is_raised(self) -> None:
        """Behaviour 10: the old one goes on."""
        token = await self.stored({"a": 1})
        vault = MovingVault(Vault(self.backend), token, fails="replace")
        vault.failing.add("delete")
        session = await self.make(vault).load(token)
        session.regenerate()
        with pytest.raises(BackendError, match="Cannot replace"):
            await session.save()

        assert state_of(session).token == token
        assert await self.is_alive(token)

    async def test_it_loses_nothing_that_is_saved_meanwhile(self) -> None:
        """Behaviour 38: whoever saves between its steps is noticed."""
        token = await self.stored({"a": 1})
        vault = MeanwhileVault(Vault(self.backend))
        session = await self.make(vault).load(token)

        async def save_elsewhere() -> None:
            await self.change_elsewhere(token, c=1)

        vault.meanwhile = save_elsewhere
        session.regenerate()
        session["b"] = 1
        await session.save()

        assert await self.values(state_of(session).token) == {"a": 1, "b": 1, "c": 1}
        # The session, and what is left of the one before.
        assert repr(self.backend).startswith("<MemoryBackend 2 of")

    async def test_a_session_that_was_ended_meanwhile_leaves_no_record(self) -> None:
        """Behaviour 46: nor for a moment: a list of the user's sessions would have it."""
        session = await self.elsewhere.load(None)
        session.login("ada")
        await session.save()
        sessions = self.make(SlowDeletesVault(Vault(self.backend)))
        late = await sessions.load(token_of(session))
        await self.elsewhere.revoke_all("ada")
        late.regenerate()
        with pytest.raises(SessionGoneError):
            await late.save()

        assert repr(self.backend).startswith("<MemoryBackend 0 of")
        await sessions.close()

    async def test_it_takes_what_others_have_saved(self) -> None:
        """Behaviour 38: nothing is lost on the way."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session.regenerate()
        session["b"] = 1
        await self.change_elsewhere(token, a=2, c=1)
        await session.save()

        assert await self.values(state_of(session).token) == {"a": 2, "b": 1, "c": 1}

    async def test_it_can_be_destroyed_at_once(self) -> None:
        """Behaviour 9: nothing is left in the store."""
        token = await self.stored()
        session = await self.sessions.load(token)
        session.regenerate()
        session.destroy()
        await session.save()

        assert session.is_new
        assert not await self.is_alive(token)
        assert self.vault.calls == ["load", "save", "delete"]

    async def test_a_login_as_another_user_takes_nothing_along(self) -> None:
        """Behaviour 41: neither values, messages nor the handle of the other."""
        session = await self.sessions.load(None)
        session.login("ada")
        session["secret"] = 1
        session.flash("Hello Ada.")
        await session.save()
        adas = session.id
        session = await self.sessions.load(state_of(session).token)
        session.login("grace")
        await session.save()
        graces = session.id
        loaded = await self.sessions.load(state_of(session).token)

        assert loaded.user == "grace"
        assert dict(loaded) == {}
        assert loaded.flashes() == []
        assert graces != adas
        assert loaded.id == graces

    async def test_a_login_as_another_user_takes_nothing_along_that_came_late(
        self,
    ) -> None:
        """Behaviour 41: what a request of the other saved in the meantime is theirs."""
        session = await self.sessions.load(None)
        session.login("ada")
        await session.save()
        token = state_of(session).token
        assert token is not None
        session = await self.sessions.load(token)
        await self.change_elsewhere(token, secret=1)
        session.login("grace")
        await session.save()

        assert await self.values(state_of(session).token) == {}

    async def test_a_transaction_of_another_user_takes_nothing_along_either(
        self,
    ) -> None:
        """Behaviour 41: neither what came late, nor the handle, nor the label."""
        session = await self.sessions.load(None)
        session.login("ada")
        session.label = "Ada's phone"
        await session.save()
        token, adas = state_of(session).token, session.id
        assert token is not None
        session = await self.sessions.load(token)
        session.login("grace")
        await self.change_elsewhere(token, secret=1)
        await session.transact(lambda session: session.update(mine=1))
        loaded = await self.elsewhere.load(state_of(session).token)

        assert (loaded.user, loaded.label, dict(loaded)) == ("grace", "", {"mine": 1})
        assert loaded.id != adas

    async def test_a_login_that_is_taken_back_loses_nothing_of_others(self) -> None:
        """Behaviour 29: as where the response fails while it is being stored."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        before = state_of(session).pack()
        session.login("ada")
        session["b"] = 1
        await self.change_elsewhere(token, c=1)
        await session.save()
        await self.sessions.commits.commit(
            state_of(session), before, state_of(session).generation
        )
        loaded = await self.elsewhere.load(state_of(session).token)

        assert (loaded.user, dict(loaded)) == (None, {"a": 1, "c": 1})

    async def test_two_users_in_one_request_share_no_handle_either(self) -> None:
        """Behaviour 41: the handle that the request shows is that of the session."""
        session = await self.sessions.load(None)
        session["a"] = 1
        await session.save()
        session.login("ada")
        session.login("grace")
        await session.save()
        loaded = await self.elsewhere.load(state_of(session).token)

        assert (loaded.user, dict(loaded)) == ("grace", {})
        assert loaded.id == session.id


class DestroyTest(SessionsCase):
    async def test_the_record_is_removed(self) -> None:
        """Behaviours 42, 44: the token is dead in every process."""
        token = await self.stored()
        session = await self.sessions.load(token)
        session.destroy()
        await session.save()

        assert not await self.is_alive(token)
        assert state_of(session).destroyed
        assert session.is_new

    async def test_where_it_cannot_be_removed_it_is_still_to_be_done(self) -> None:
        """Behaviour 45: the store has to confirm it."""
        token = await self.stored()
        session = await self.sessions.load(token)
        session.destroy()
        self.vault.failing = {"replace"}
        with pytest.raises(BackendError):
            await session.save()
        assert await self.is_alive(token)

        # It has ended then, and what is left of it is still to be removed.
        self.vault.failing = {"delete"}
        with pytest.raises(BackendError):
            await session.save()
        assert not await self.is_alive(token)

        self.vault.failing.clear()
        await session.save()
        assert await self.vault.inner.load(token) is None

    async def test_a_write_after_it_is_a_new_session(self) -> None:
        """Behaviour 43: under a new token, without the old values."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session.destroy()
        session["b"] = 2
        await session.save()

        assert not await self.is_alive(token)
        assert state_of(session).token != token
        assert await self.values(state_of(session).token) == {"b": 2}

    async def test_several_can_be_ended_in_one_request(self) -> None:
        """Behaviour 43: each one that came into being."""
        token = await self.stored()
        session = await self.sessions.load(token)
        session.destroy()
        session["a"] = 1
        await session.save()
        second = state_of(session).token
        assert second is not None
        session.destroy()
        await session.save()

        assert not await self.is_alive(token)
        assert not await self.is_alive(second)

    async def test_destroying_what_is_gone_is_allowed(self) -> None:
        """Behaviour 42: two tabs, one logout each."""
        token = await self.stored()
        session = await self.sessions.load(token)
        session.destroy()
        await self.end_elsewhere(token)
        await session.save()

        assert not await self.is_alive(token)

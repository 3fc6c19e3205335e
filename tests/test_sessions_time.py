"""Tests of what time does: sessions expire, are removed, and everything ends."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import unittest
import weakref
from typing import Any
from unittest import mock

import pytest
from tornado_sessions_memory import MemoryBackend

from tests.sessions_case import IDLE, LIFETIME, START, UNKNOWN, SessionsCase
from tests.tokens import token_of
from tornado_sessions import (
    BackendError,
    Record,
    SessionError,
    SessionGoneError,
    SessionLimitError,
    Sessions,
    Vault,
)
from tornado_sessions.core import cleanup
from tornado_sessions.core.codec import encode
from tornado_sessions.core.envelope import FORMAT, Envelope
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import Settings
from tornado_sessions.storage.outdated import OutdatedRecord
from tornado_sessions.testing import FaultyVault


class ExpiryTest(SessionsCase):
    async def test_a_session_ends_after_its_idle_timeout(self) -> None:
        """Behaviours 2, 47: from then on it is as unknown."""
        token = await self.stored()
        self.clock = START + IDLE - 0.001
        assert not (await self.sessions.load(token)).is_new

        self.clock = START + IDLE
        assert (await self.sessions.load(token)).is_new

    async def test_throttling_shortens_the_idle_timeout_by_a_tenth(self) -> None:
        """Behaviour 47: it ends between 90 and 100 % after the last request."""
        token = await self.stored()
        # Not noted, as it comes within a tenth of the last one that was.
        self.clock = START + IDLE / 10 - 1
        await self.sessions.commits.commit(await self.sessions.loader.load(token))
        self.clock = START + IDLE - 1
        assert await self.is_alive(token)

        self.clock = START + IDLE
        assert not await self.is_alive(token)

    async def test_activity_pushes_the_idle_timeout_forward(self) -> None:
        """Behaviour 48: a read is enough."""
        token = await self.stored()
        for _ in range(5):
            self.clock += IDLE / 2
            session = await self.sessions.load(token)
            assert not session.is_new
            await self.sessions.commits.commit(state_of(session))

    async def test_activity_pushes_an_idle_timeout_of_its_own_forward(self) -> None:
        """Behaviours 48, 50: however much shorter it is than that of the settings."""
        session = await self.sessions.load(await self.stored())
        session.set_expiry(idle=IDLE / 20)
        await self.sessions.commits.commit(state_of(session))
        for _ in range(5):
            self.clock += IDLE / 40
            session = await self.sessions.load(state_of(session).token)
            assert not session.is_new
            await self.sessions.commits.commit(state_of(session))

    async def test_a_read_writes_little_in_an_idle_timeout_of_its_own(self) -> None:
        """Behaviours 49, 50: the longer it is, the less."""
        session = await self.sessions.load(await self.stored())
        session.set_expiry(idle=5 * IDLE)
        await self.sessions.commits.commit(state_of(session))
        self.vault.calls.clear()
        for _ in range(20):
            self.clock += IDLE / 10
            await self.sessions.commits.commit(
                await self.sessions.loader.load(state_of(session).token)
            )

        assert self.vault.calls.count("save") == 4

    async def test_activity_does_not_push_the_lifetime_forward(self) -> None:
        """Behaviour 48: it ends so long after it began, whatever happens."""
        token = await self.stored()
        while self.clock + IDLE / 2 < START + LIFETIME:
            self.clock += IDLE / 2
            session = await self.sessions.load(token)
            session["at"] = self.clock
            await self.sessions.commits.commit(state_of(session))
        assert session.expires == START + LIFETIME

        self.clock = START + LIFETIME - 0.001
        assert await self.is_alive(token)
        self.clock = START + LIFETIME
        assert not await self.is_alive(token)

    async def test_a_login_restarts_both(self) -> None:
        """Behaviour 48: the lifetime counts from the login then."""
        token = await self.stored()
        while self.clock < START + LIFETIME - IDLE:
            self.clock += IDLE / 2
            await self.sessions.commits.commit(await self.sessions.loader.load(token))
        session = await self.sessions.load(token)
        session.login("ada")
        await self.sessions.commits.commit(state_of(session))
        login = self.clock
        assert (await self.envelope(state_of(session).token)).expires == login + IDLE

        while self.clock + IDLE / 2 < login + LIFETIME:
            self.clock += IDLE / 2
            await self.sessions.commits.commit(
                await self.sessions.loader.load(state_of(session).token)
            )
        assert state_of(session).token is not None
        self.clock = login + LIFETIME - 0.001
        assert await self.is_alive(token_of(session))
        self.clock = login + LIFETIME
        assert not await self.is_alive(token_of(session))

    async def test_busy_reading_costs_few_writes(self) -> None:
        """Behaviour 49: at most one per tenth of the idle timeout."""
        token = await self.stored()
        for _ in range(1_000):
            self.clock += IDLE / 1_000
            await self.sessions.commits.commit(await self.sessions.loader.load(token))

        assert self.vault.calls.count("save") == 10

    async def test_a_write_is_a_renewal(self) -> None:
        """Behaviour 49: the read after it costs none."""
        token = await self.stored()
        self.clock += IDLE / 10
        session = await self.sessions.load(token)
        session["a"] = 1
        await self.sessions.commits.commit(state_of(session))
        await self.sessions.commits.commit(await self.sessions.loader.load(token))

        assert self.vault.calls.count("save") == 1
        assert (await self.envelope(token)).expires == self.clock + IDLE

    async def test_a_save_in_the_middle_is_a_renewal(self) -> None:
        """Behaviours 26, 49: the end of the response asks nothing of the store."""
        token = await self.stored()
        self.clock += IDLE / 10
        session = await self.sessions.load(token)
        session["a"] = 1
        await session.save()
        await self.sessions.commits.commit(state_of(session))

        assert self.vault.calls == ["load", "save"]

    async def test_a_renewal_after_another_request_has_its_times(self) -> None:
        """Behaviour 51: the cookie lasts for as long as what was stored."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 2
        session = await self.sessions.load(token)
        await self.change_elsewhere(token, b=1)
        self.clock += IDLE / 20
        between = self.clock
        await self.change_elsewhere(token, b=2)
        self.clock += IDLE / 20
        await session.save()

        assert session.last_seen == between
        assert session.expires == (await self.envelope(token)).expires

    async def test_a_renewal_is_done_once(self) -> None:
        """Behaviour 49: and it is not a version that a later save trusts."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 10
        session = await self.sessions.load(token)
        await self.sessions.commits.commit(state_of(session))
        await self.sessions.commits.commit(state_of(session))
        assert self.vault.calls == ["load", "save"]

        session["a"] = 2
        await self.sessions.commits.commit(state_of(session))
        assert await self.values(token) == {"a": 2}

    async def test_a_renewal_overwrites_nothing(self) -> None:
        """Behaviour 40: whoever was first has renewed it as well."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 10
        session = await self.sessions.load(token)
        await self.change_elsewhere(token, a=2)
        await self.sessions.commits.commit(state_of(session))

        assert await self.values(token) == {"a": 2}

    async def test_a_renewal_brings_nothing_back(self) -> None:
        """Behaviour 39: whether or not it would have expired meanwhile."""
        token, other = await self.stored(), await self.stored()
        self.clock += IDLE / 10
        session, late = await self.sessions.load(token), await self.sessions.load(other)
        await self.end_elsewhere(other)
        await self.end_elsewhere(token)
        await self.sessions.commits.commit(state_of(session))
        assert not await self.is_alive(token)

        self.clock = START + IDLE
        await self.sessions.commits.commit(state_of(late))
        assert not await self.is_alive(other)

    async def test_a_slow_request_counts_as_use(self) -> None:
        """Behaviours 47, 48: though it only reads, and the session has expired."""
        token = await self.stored()
        self.clock += IDLE - 1
        session = await self.sessions.load(token)
        self.clock += IDLE
        await self.sessions.commits.commit(state_of(session))

        assert (await self.envelope(token)).expires == self.clock + IDLE
        assert self.vault.calls == ["load", "save"]

    async def test_a_slow_request_counts_though_others_were_first(self) -> None:
        """Behaviour 48: what they have noted is long ago when it ends."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 2
        session = await self.sessions.load(token)
        await self.change_elsewhere(token, a=2)
        self.clock += IDLE / 2
        await self.sessions.commits.commit(state_of(session))
        assert self.vault.calls == ["load", "save", "load", "save"]
        assert (await self.envelope(token)).expires == self.clock + IDLE
        assert await self.values(token) == {"a": 2}

        session["b"] = 1
        await session.save()
        assert await self.values(token) == {"a": 2, "b": 1}

    async def test_a_quick_request_renews_nothing_after_others(self) -> None:
        """Behaviour 49: of many at once, one does."""
        token = await self.stored()
        self.clock += IDLE / 2
        sessions = [await self.sessions.load(token) for _ in range(3)]
        self.vault.calls.clear()
        for session in sessions:
            await self.sessions.commits.commit(state_of(session))
            await self.sessions.commits.commit(state_of(session))

        assert self.vault.calls == ["save", "save", "save"]

    async def test_a_slow_request_renews_nothing_that_was_just_renewed(self) -> None:
        """Behaviour 49: it looks, and leaves it at that."""
        token = await self.stored()
        self.clock += IDLE / 2
        session = await self.sessions.load(token)
        self.clock += IDLE / 4
        await self.elsewhere.commits.commit(await self.elsewhere.loader.load(token))
        await self.sessions.commits.commit(state_of(session))

        assert self.vault.calls == ["load", "save", "load"]

    async def test_where_the_lifetime_has_passed_nothing_is_extended(self) -> None:
        """Behaviour 47: a read writes nothing, and what is written has ended."""
        token = await self.stored({"a": 1})
        lifetime = IDLE / 2
        self.sessions.rules.lifetime = self.elsewhere.rules.lifetime = lifetime
        await self.change_elsewhere(token, a=2)
        self.clock += lifetime - 1
        session, reading = [await self.sessions.load(token) for _ in range(2)]
        self.clock += 2
        await self.sessions.commits.commit(state_of(reading))
        assert "save" not in self.vault.calls

        session["a"] = 3
        await session.save()
        await session.transact(lambda session: session.update(b=1))
        stored = await self.envelope(token)
        assert dict(session) == {"a": 3, "b": 1}
        values = {key: bytes(value) for key, value in stored.values.items()}
        assert values == {"a": b"3", "b": b"1"}
        assert stored.expires == START + lifetime
        assert not await self.is_alive(token)

    async def test_an_end_that_was_near_is_not_put_off_either(self) -> None:
        """Behaviour 47: that of the idle timeout, before that of the lifetime."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        self.clock += LIFETIME
        session["a"] = 2
        await session.save()

        assert (await self.envelope(token)).expires == START + IDLE

    async def test_a_renewal_that_failed_is_tried_again(self) -> None:
        """Behaviour 48: by the next commit of the request."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 2
        session = await self.sessions.load(token)
        self.vault.failing.add("save")
        with self.assertLogs("tornado_sessions", "WARNING"):
            await session.save()
        self.vault.failing.clear()
        await self.sessions.commits.commit(state_of(session))

        assert (await self.envelope(token)).expires == self.clock + IDLE

    async def test_a_save_that_failed_leaves_the_renewal(self) -> None:
        """Behaviour 48: what a handler takes back is no reason not to extend it."""
        for failure in ("store", "value", "reload"):
            token = await self.stored({"a": 1})
            self.clock += IDLE / 2
            session = await self.sessions.load(token)
            session["a"] = {1} if failure == "value" else 2
            if failure == "store":
                self.vault.failing.add("save")
            if failure != "reload":
                with pytest.raises(SessionError):
                    await session.save()
            self.vault.failing.clear()
            await session.reload()
            await self.sessions.commits.commit(state_of(session))

            assert (await self.envelope(token)).expires == self.clock + IDLE

    async def test_a_refused_login_is_use_all_the_same(self) -> None:
        """Behaviour 48: of the session that the visitor goes on with."""
        limit = {"max_per_user": 1, "max_per_user_policy": "refuse"}
        sessions = self.make(self.vault, **limit)
        other = await sessions.load(None)
        other.login("ada")
        await other.save()
        token = await self.stored({"a": 1})
        self.clock += IDLE / 2
        session = await sessions.load(token)
        session.login("ada")
        with pytest.raises(SessionLimitError):
            await session.save()
        await sessions.commits.commit(state_of(session))

        assert (await self.envelope(token)).expires == self.clock + IDLE

    async def test_a_store_keeps_a_record_for_five_minutes_longer(self) -> None:
        """Behaviours 47, 65: for the requests that are under way then."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        self.clock = START + IDLE + 299
        assert await self.sessions.purge() == 0
        session["a"] = 2
        await session.save()
        assert await self.values(token) == {"a": 2}

        self.clock += IDLE + 302
        assert await self.sessions.purge() == 1
        with pytest.raises(SessionGoneError):
            await session.reload()

    async def test_a_renewal_that_fails_is_logged(self) -> None:
        """Behaviour 30: a pure read goes out all the same."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 10
        session = await self.sessions.load(token)
        self.vault.failing.add("save")
        with self.assertLogs("tornado_sessions", "WARNING") as logged:
            await self.sessions.commits.commit(state_of(session))

        assert [record.getMessage() for record in logged.records] == [
            "A session could not be renewed: Cannot save the session."
        ]
        assert dict(session) == {"a": 1}
        # Nothing has been pushed forward.
        assert session.last_seen == START
        assert session.expires == START + IDLE

    async def test_a_flood_of_renewals_that_fail_is_summed_up(self) -> None:
        """Behaviour 85: each request of a visitor tries one while the store is down."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 10
        session = await self.sessions.load(token)
        self.vault.failing.add("save")
        with self.assertLogs("tornado_sessions", "WARNING") as logged:
            for _ in range(15):
                await self.sessions.commits.commit(state_of(session))

        assert len(logged.records) == 10

    async def test_a_renewal_that_no_longer_fits_is_logged(self) -> None:
        """Behaviour 63: such as after the limit was lowered."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 10
        session = await self.sessions.load(token)
        self.backend.max_bytes = 1
        with self.assertLogs("tornado_sessions", "WARNING"):
            await self.sessions.commits.commit(state_of(session))

        assert await self.values(token) == {"a": 1}

    async def test_a_store_may_ask_for_a_record_to_be_saved_again(self) -> None:
        """Behaviour 60: though nothing changed, and at once."""
        token = await self.stored({"a": 1})

        class LeavingVault(FaultyVault):
            async def load(self, token: str) -> Record | None:
                record = await super().load(token)
                assert record is not None
                return OutdatedRecord(record.data, record.version)

        vault = LeavingVault(Vault(self.backend))
        sessions = self.make(vault)
        await sessions.commits.commit(await sessions.loader.load(token))

        assert vault.calls == ["load", "save"]
        assert await self.values(token) == {"a": 1}

    async def test_an_end_of_its_own_survives_the_next_request(self) -> None:
        """Behaviour 50: in both directions."""
        token = await self.stored()
        session = await self.sessions.load(token)
        session.set_expiry(idle=5 * IDLE, lifetime=6 * IDLE)
        await self.sessions.commits.commit(state_of(session))
        assert (await self.envelope(token)).expires == START + 5 * IDLE

        self.clock = START + 4 * IDLE
        session = await self.sessions.load(token)
        assert session.expires_in == IDLE
        session["a"] = 1
        await self.sessions.commits.commit(state_of(session))
        assert (await self.envelope(token)).expires == START + 6 * IDLE

        self.clock = START + 6 * IDLE
        assert not await self.is_alive(token)

    async def test_an_end_of_zero_ends_it_at_once(self) -> None:
        """Behaviour 52: the record is removed."""
        token = await self.stored()
        session = await self.sessions.load(token)
        session.set_expiry(lifetime=0)
        await self.sessions.commits.commit(state_of(session))

        assert self.vault.calls == ["load", "save", "delete"]
        assert not await self.is_alive(token)

    async def test_a_long_life_is_told_to_the_store_as_a_date(self) -> None:
        """Behaviour 52: in seconds since the epoch, however far."""
        year = 365 * 86_400.0
        sessions = self.make(self.vault, idle_timeout=year, lifetime=2 * year)
        insert = self.backend.insert
        with mock.patch.object(self.backend, "insert", wraps=insert) as inserted:
            session = await sessions.load(None)
            session["a"] = 1
            await sessions.commits.commit(state_of(session))

        (_, record), _ = inserted.call_args
        assert record.expires == START + year + 300
        self.clock += year - 1
        assert not (await sessions.load(state_of(session).token)).is_new

    async def test_settings_that_became_shorter_count(self) -> None:
        """Behaviour 47: where record and settings disagree, the earlier end."""
        token = await self.stored()
        self.clock += IDLE / 2
        shorter = self.make(self.vault, idle_timeout=IDLE / 2)
        briefer = self.make(self.vault, lifetime=IDLE / 2)

        assert (await shorter.load(token)).is_new
        assert (await briefer.load(token)).is_new
        assert not (await self.sessions.load(token)).is_new

    async def test_a_session_ends_by_the_shorter_settings(self) -> None:
        """Behaviour 47: what the handler reads is when the session does end."""
        token = await self.stored()
        shorter = self.make(self.vault, idle_timeout=IDLE / 2)
        self.clock += IDLE / 4
        session = await shorter.load(token)

        assert session.expires == START + IDLE / 2
        assert session.expires_in == IDLE / 4

    async def test_settings_that_became_longer_do_not(self) -> None:
        """Behaviour 47: what was promised when it was stored holds."""
        token = await self.stored()
        self.clock += IDLE
        longer = self.make(self.vault, idle_timeout=2 * IDLE)

        assert (await longer.load(token)).is_new

    async def test_a_record_from_the_near_future_is_taken(self) -> None:
        """Behaviour 53: the clocks of two servers differ by up to five minutes."""
        token = await self.stored()
        self.clock = START - 300
        session = await self.sessions.load(token)

        assert not session.is_new
        assert session.expires_in == IDLE

    async def test_a_record_from_the_far_future_is_expired(self) -> None:
        """Behaviour 53: whichever of its times is there."""
        token = await self.stored()
        self.clock = START - 301
        assert (await self.sessions.load(token)).is_new

        for created, seen in ((START - 900, START), (START, START - 900)):
            ahead = Envelope(created, seen, START + IDLE, {}, format=FORMAT)
            token = (await self.vault.inner.insert(Record(encode(ahead)))).token
            assert (await self.sessions.load(token)).is_new


class AnonymousTest(SessionsCase):
    """Tests of the timeouts of sessions without a user."""

    def setUp(self) -> None:
        super().setUp()
        self.brief = self.make(
            Vault(self.backend),
            anonymous_idle_timeout=IDLE / 10,
            anonymous_lifetime=LIFETIME / 20,
        )

    async def asyncTearDown(self) -> None:
        await self.brief.close()
        await super().asyncTearDown()

    async def begun(self, **settings: float) -> str:
        """Returns the token of a session that is stored now."""
        session = await self.brief.load(None)
        session["kept"] = 0
        if settings:
            session.set_expiry(**settings)
        await session.save()
        return token_of(session)

    async def lives(self, token: str) -> bool:
        return not (await self.brief.load(token)).is_new

    async def test_its_idle_timeout_is_its_own(self) -> None:
        """Behaviour 47: in the record as well, so every process agrees."""
        token = await self.begun()
        self.clock += IDLE / 10 - 0.001
        assert await self.lives(token)
        assert await self.is_alive(token)

        self.clock += 0.001
        assert not await self.lives(token)
        assert not await self.is_alive(token)

    async def test_its_lifetime_is_its_own(self) -> None:
        """Behaviours 47, 48: use does not extend it."""
        token = await self.begun()
        while self.clock + IDLE / 20 < START + LIFETIME / 20:
            self.clock += IDLE / 20
            await (await self.brief.load(token)).save()

        self.clock = START + LIFETIME / 20 - 0.001
        assert await self.lives(token)
        self.clock = START + LIFETIME / 20
        assert not await self.lives(token)

    async def test_where_one_is_not_set_that_of_all_counts(self) -> None:
        """Behaviour 47: each of the two by itself."""
        for settings, end in (
            ({"anonymous_idle_timeout": IDLE / 2}, IDLE / 2),
            ({"anonymous_lifetime": IDLE / 4}, IDLE / 4),
            ({}, IDLE),
        ):
            sessions = self.make(Vault(self.backend), **settings)
            session = await sessions.load(None)
            session["kept"] = 0
            await session.save()
            assert session.expires == self.clock + end
            await sessions.close()

    async def test_a_login_replaces_both(self) -> None:
        """Behaviour 48: from the login on those of a user hold."""
        session = await self.brief.load(await self.begun())
        self.clock += IDLE / 20
        session.login("ada")
        assert session.expires == self.clock + IDLE
        await session.save()

        envelope = await self.envelope(token_of(session))
        assert envelope.expires == self.clock + IDLE
        self.clock += IDLE - 1
        assert await self.lives(token_of(session))

    async def test_a_login_replaces_longer_ones_as_well(self) -> None:
        """Behaviour 48: such as those for a cart that is kept for a month."""
        sessions = self.make(
            Vault(self.backend),
            anonymous_idle_timeout=5 * IDLE,
            anonymous_lifetime=2 * LIFETIME,
        )
        session = await sessions.load(None)
        session["cart"] = ["apple"]
        await session.save()
        assert session.expires == START + 5 * IDLE
        session.login("ada")
        await session.save()

        assert session.expires == START + IDLE
        await sessions.close()

    async def test_after_a_logout_it_is_anonymous_again(self) -> None:
        """Behaviours 43, 47: what is written then begins another session."""
        session = await self.brief.load(await self.begun())
        session.login("ada")
        await session.save()
        session.logout()
        session["kept"] = 1
        await session.save()

        assert session.expires == START + IDLE / 10

    async def test_what_was_set_for_one_session_counts_before_them(self) -> None:
        """Behaviour 50: longer or shorter."""
        for idle in (IDLE / 100, IDLE / 5):
            token = await self.begun(idle=idle)
            assert (await self.envelope(token)).expires == START + idle

    async def test_its_renewals_are_a_tenth_of_its_own_timeout_apart(self) -> None:
        """Behaviour 49: else it would end while it is in use."""
        token = await self.begun()
        for _ in range(20):
            self.clock += IDLE / 200
            session = await self.brief.load(token)
            assert not session.is_new
            await session.save()

        assert self.clock == START + IDLE / 10
        assert session.expires == self.clock + IDLE / 10

    async def test_a_record_of_before_the_setting_ends_earlier(self) -> None:
        """Behaviour 47: where the record and the setting disagree."""
        token = await self.stored()
        self.clock += IDLE / 10 - 1
        assert await self.lives(token)

        self.clock += 1
        assert not await self.lives(token)
        assert await self.is_alive(token)

    async def test_the_time_that_is_left_is_never_more_than_its_timeout(self) -> None:
        """Behaviour 53: also where the clock has gone back."""
        token = await self.begun()
        self.clock -= 100
        session = await self.brief.load(token)

        assert session.expires_in == IDLE / 10


class PurgingBackend(MemoryBackend):
    """A backend in memory that tells of each clean-up, and may fail there."""

    def __init__(self) -> None:
        super().__init__()
        self.purged: list[float] = []
        self.begun = asyncio.Event()
        self.twice = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self.fails = 0
        self.ticks = 0
        self.ticks_seen: list[int] = []

    async def purge(self, now: float) -> int:
        self.purged.append(now)
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        self.ticks_seen.append(self.ticks)
        asyncio.get_running_loop().call_soon(self._tick)
        if len(self.purged) == 2:
            self.twice.set()
        if self.fails:
            self.fails -= 1
            raise BackendError("Cannot purge.")
        return await super().purge(now)

    def _tick(self) -> None:
        self.ticks += 1


class PurgeTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.backend = PurgingBackend()
        self.vault = Vault(self.backend)
        self.sessions = Sessions(Settings(self.vault))
        self.sessions.now = lambda: START

    async def asyncTearDown(self) -> None:
        await self.sessions.close()

    def due_in(self, sessions: Sessions) -> float:
        """Returns in how many seconds the next purge is due."""
        assert sessions.cleanup.timer is not None
        return sessions.cleanup.timer.when() - asyncio.get_running_loop().time()

    async def test_what_has_expired_goes_and_nothing_else(self) -> None:
        """Behaviour 65: by the clock of the sessions."""
        for number in range(10):
            await self.vault.insert(Record(b"x", expires=START - 10 * number - 5))
            await self.vault.insert(Record(b"x", expires=START + 10 * number + 5))

        assert await self.sessions.purge() == 10
        assert await self.sessions.purge() == 0
        assert repr(self.backend).startswith("<MemoryBackend 10 of")

    async def test_it_goes_in_batches(self) -> None:
        """Behaviours 65, 70: with a turn for everybody else in between."""
        for _ in range(1_100):
            await self.vault.insert(Record(b"x", expires=START - 5))

        assert await self.sessions.purge() == 1_100
        assert len(self.backend.purged) > 2
        assert self.backend.ticks_seen == list(range(len(self.backend.purged)))

    async def test_it_runs_by_itself_time_and_again(self) -> None:
        """Behaviour 65: once sessions are in use."""
        with mock.patch.object(cleanup, "PURGE_INTERVAL", 0.0):
            await self.sessions.load(UNKNOWN)
            await asyncio.wait_for(self.backend.twice.wait(), 10)

        assert self.backend.purged[:2] == [START, START]

    async def test_it_keeps_nothing_of_the_request_that_came_first(self) -> None:
        """Behaviour 41: such as what that has put in its context."""
        request = contextvars.ContextVar[object]("request")
        context, kept = contextvars.copy_context(), asyncio.Event()
        context.run(request.set, kept)
        context.run(self.sessions.cleanup.begin)
        gone = weakref.ref(kept)
        del context, kept

        assert gone() is None

    async def test_a_write_starts_it_as_well(self) -> None:
        """Behaviour 65: a process that only begins sessions cleans up."""
        session = await self.sessions.load(None)
        assert self.sessions.cleanup.timer is None
        session["a"] = 1
        await self.sessions.commits.commit(state_of(session))

        assert self.sessions.cleanup.timer is not None

    async def test_it_is_due_once(self) -> None:
        """Behaviour 65: however many requests there are."""
        await self.sessions.load(UNKNOWN)
        timer = self.sessions.cleanup.timer
        await self.sessions.load(UNKNOWN)

        assert self.sessions.cleanup.timer is timer

    async def test_a_failure_is_logged_and_not_the_last_word(self) -> None:
        """Behaviour 65: the store may be back the next time."""
        self.backend.fails = 1
        with (
            mock.patch.object(cleanup, "PURGE_INTERVAL", 0.0),
            self.assertLogs("tornado_sessions", "WARNING") as logged,
        ):
            await self.sessions.load(UNKNOWN)
            await asyncio.wait_for(self.backend.twice.wait(), 10)

        (record,) = logged.records
        assert record.getMessage() == "The clean-up of expired sessions failed."
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], BackendError)

    async def test_processes_take_it_in_turns(self) -> None:
        """Behaviour 65: a quarter of an hour, give or take a third."""
        due = []
        for _ in range(100):
            sessions = Sessions(Settings(self.vault))
            await sessions.load(UNKNOWN)
            due.append(self.due_in(sessions))
            assert sessions.cleanup.timer is not None
            sessions.cleanup.timer.cancel()

        # What a slow machine needs between the two readings of the clock.
        assert min(due) > 590
        assert max(due) <= 1200
        # Of a hundred, all within a third of the range: one in 10^40.
        assert max(due) - min(due) > 200

    async def test_it_ends_with_close(self) -> None:
        """Behaviour 65: nothing is due any more until the next use."""
        await self.sessions.load(UNKNOWN)
        timer = self.sessions.cleanup.timer
        assert timer is not None
        await self.sessions.close()
        assert timer.cancelled()
        assert self.sessions.cleanup.timer is None

        with mock.patch.object(cleanup, "PURGE_INTERVAL", 0.0):
            await self.sessions.load(UNKNOWN)
            await asyncio.wait_for(self.backend.twice.wait(), 10)

    async def test_a_commit_that_close_waits_for_does_not_begin_it_again(self) -> None:
        """Behaviour 65: nothing is left to be done when `close` returns."""
        session = await self.sessions.load(None)
        session["a"] = 1

        async def commit() -> None:
            await asyncio.sleep(0)
            await session.save()

        saving = self.sessions.tasks.start(commit())
        await self.sessions.close()

        await saving
        assert not session.is_new
        assert self.sessions.cleanup.timer is None

    async def test_one_under_way_is_waited_for_and_is_the_last(self) -> None:
        """Behaviour 65: `close` in the middle of it, whatever is still to be removed."""
        for _ in range(1_100):
            await self.vault.insert(Record(b"x", expires=START - 5))
        self.backend.gate = asyncio.Event()
        with mock.patch.object(cleanup, "PURGE_INTERVAL", 0.0):
            await self.sessions.load(UNKNOWN)
            await asyncio.wait_for(self.backend.begun.wait(), 10)
            closing = asyncio.ensure_future(self.sessions.close())
            for _ in range(3):
                await asyncio.sleep(0)
            assert not closing.done()

            self.backend.gate.set()
            await closing

        assert len(self.backend.purged) == 1
        assert self.sessions.cleanup.timer is None


class PurgeInEachLoopTest(unittest.TestCase):
    def test_it_begins_again_in_another_event_loop(self) -> None:
        """Behaviour 65: the timer of a loop that has ended is dead."""
        backend = PurgingBackend()
        sessions = Sessions(Settings(Vault(backend)))

        async def use(interval: float) -> None:
            backend.twice = asyncio.Event()
            with mock.patch.object(cleanup, "PURGE_INTERVAL", interval):
                await sessions.load(UNKNOWN)
                if not interval:
                    await asyncio.wait_for(backend.twice.wait(), 10)

        for interval in (3600, 3600, 0):
            asyncio.run(use(interval))


class CloseTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.backend = MemoryBackend()
        self.sessions = Sessions(Settings(Vault(self.backend)))
        self.unretrieved: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: self.unretrieved.append(context)
        )

    async def test_it_waits_for_what_was_started(self) -> None:
        """Behaviour 34: what a client wrote before it hung up is saved."""
        go_on, done = asyncio.Event(), []

        async def second() -> None:
            for _ in range(5):
                await asyncio.sleep(0)
            done.append("second")

        async def work() -> None:
            await go_on.wait()
            self.sessions.tasks.start(second())
            done.append("first")

        self.sessions.tasks.start(work())
        closing = asyncio.ensure_future(self.sessions.close())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not closing.done()

        go_on.set()
        await closing
        assert done == ["first", "second"]

    async def test_the_store_is_open_until_then(self) -> None:
        """Behaviour 34: a commit under way can still reach it."""

        class ClosedVault(FaultyVault):
            async def close(self) -> None:
                self.calls.append("close")
                await super().close()

        vault = self.sessions.vault = ClosedVault(Vault(self.backend), suspends=True)
        session = await self.sessions.load(None)
        session["a"] = 1
        await session.save()
        session.regenerate()
        vault.calls.clear()
        saving = asyncio.ensure_future(session.save())
        await asyncio.sleep(0)
        await self.sessions.close()

        await saving
        assert len(vault.calls) > 1
        assert vault.calls[-1] == "close"

    async def test_it_closes_the_store(self) -> None:
        """And may be called twice."""
        session = await self.sessions.load(None)
        session["a"] = 1
        await self.sessions.commits.commit(state_of(session))
        await self.sessions.close()
        await self.sessions.close()

        assert (await self.sessions.load(state_of(session).token)).is_new

    async def test_an_error_of_a_task_is_told_to_whoever_waits(self) -> None:
        """Behaviour 34: and to nobody else, when the client has hung up."""

        async def fail() -> None:
            raise LookupError("of ours")

        task = self.sessions.tasks.start(fail())
        with pytest.raises(LookupError, match="of ours"):
            await task
        self.sessions.tasks.start(fail())
        await self.sessions.close()
        del task
        gc.collect()

        assert self.unretrieved == []

    async def test_a_task_may_be_cancelled(self) -> None:
        """Behaviour 34: `close` does not wait for it any longer."""
        task = self.sessions.tasks.start(asyncio.sleep(3600))
        await asyncio.sleep(0)
        task.cancel()
        await self.sessions.close()

        assert task.cancelled()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert self.unretrieved == []

"""Tests of `.Sessions`: loading, a ping, and one for each application."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
import tornado.web
from tornado_sessions_memory import MemoryBackend

from tests.sessions_case import START, UNKNOWN, SessionsCase
from tornado_sessions import (
    BackendError,
    Record,
    SessionEvent,
    Sessions,
    Vault,
)
from tornado_sessions.core.codec import encode
from tornado_sessions.core.envelope import FORMAT, Envelope
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import Settings
from tornado_sessions.storage import registry


class LoadTest(SessionsCase):
    async def test_without_a_token_nothing_is_asked(self) -> None:
        """Behaviour 12: no store call."""
        session = await self.sessions.load(None)

        assert session.is_new
        assert self.vault.calls == []

    async def test_an_unknown_token_is_a_new_session(self) -> None:
        """Behaviours 1, 2, 3: the token is not adopted, and malformed is unknown."""
        for token in (UNKNOWN, "", "../../etc/passwd", "é" * 43):
            session = await self.sessions.load(token)
            session["a"] = 1
            await self.sessions.commits.commit(state_of(session))

            assert state_of(session).token not in (None, token)
            assert await self.values(token) == {}

    async def test_a_known_token_is_loaded_with_one_call(self) -> None:
        """Where the store is called, it is called once."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        await self.sessions.commits.commit(state_of(session))

        assert dict(session) == {"a": 1}
        assert not session.is_new
        assert self.vault.calls == ["load"]

    async def test_a_failing_store_is_an_error(self) -> None:
        """Behaviour 30: and not a new session."""
        token = await self.stored()
        self.vault.failing.add("load")
        with pytest.raises(BackendError):
            await self.sessions.load(token)

        self.vault.failing.clear()
        assert not (await self.sessions.load(token)).is_new

    async def test_what_cannot_be_decoded_is_no_session(self) -> None:
        """Behaviours 8, 32: logged with a fingerprint alone, and not overwritten."""
        token = (await self.vault.inner.insert(Record(b"secret rubbish"))).token
        with self.assertLogs("tornado_sessions") as logged:
            session = await self.sessions.load(token)
        session["a"] = 1
        await self.sessions.commits.commit(state_of(session))

        (logged_record,) = logged.records
        assert logged_record.getMessage() == (
            f"The record of session {self.vault.fingerprint(token)} cannot be decoded; it is"
            " treated as no session and left as it is."
        )
        assert state_of(session).token != token
        record = await self.vault.inner.load(token)
        assert record is not None
        assert record.data == b"secret rubbish"

    async def test_a_record_that_is_not_ours_is_no_session(self) -> None:
        """Behaviours 8, 84: logged with a fingerprint alone, and not overwritten."""
        key = self.vault.inner.key_of(UNKNOWN)
        await self.backend.insert(key, Record(b"somebody else's secret"))
        with self.assertLogs("tornado_sessions") as logged:
            session = await self.sessions.load(UNKNOWN)
        session["a"] = 1
        await self.sessions.commits.commit(state_of(session))

        (logged_record,) = logged.records
        assert logged_record.getMessage() == (
            f"The record of session {self.vault.fingerprint(UNKNOWN)} was not stored for it"
            " by this application; it is treated as no session and left as it is."
        )
        assert state_of(session).token != UNKNOWN
        record = await self.backend.load(key)
        assert record is not None
        assert record.data == b"somebody else's secret"

    async def test_each_record_is_logged_once(self) -> None:
        """Behaviour 84: and the listener is told of each request."""
        told: list[SessionEvent] = []
        self.sessions.events.listener = told.append
        tokens = [(await self.vault.inner.insert(Record(b"rubbish"))).token, UNKNOWN]
        await self.backend.insert(self.vault.inner.key_of(UNKNOWN), Record(b"rubbish"))
        marks = [self.vault.fingerprint(token) for token in tokens]
        with self.assertLogs("tornado_sessions") as logged:
            for token in tokens * 3:
                await self.sessions.load(token)

        for line, mark in zip(logged.output, marks, strict=True):
            assert f"session {mark} " in line
        reasons = ["undecodable", "foreign"]
        assert [(event.name, event.fingerprint, event.reason) for event in told] == [
            ("refused", mark, reason)
            for mark, reason in [*zip(marks, reasons, strict=True)] * 3
        ]

    async def test_a_flood_of_unreadable_records_is_summed_up(self) -> None:
        """Behaviours 84, 85: the log has ten of them, and the listener all."""
        told: list[SessionEvent] = []
        self.sessions.events.listener = told.append
        with self.assertLogs("tornado_sessions") as logged:
            for _ in range(15):
                token = (await self.vault.inner.insert(Record(b"rubbish"))).token
                await self.sessions.load(token)
            self.sessions.logs.close()

        assert len(logged.output) == 11
        assert "(The last of 5 more since the line before.)" in logged.output[-1]
        assert self.vault.fingerprint(token) in logged.output[-1]
        assert len(told) == 15

    async def test_one_that_becomes_unreadable_cannot_be_ended(self) -> None:
        """Behaviour 84: that is logged, too, and the log-out is none of an error."""
        token = await self.stored()
        session = await self.sessions.load(token)
        key = self.vault.inner.key_of(token)
        stored = await self.backend.load(key)
        assert stored is not None
        await self.backend.replace(key, Record(b"rubbish"), stored.version)
        session.destroy()
        with self.assertLogs("tornado_sessions") as logged:
            await self.sessions.commits.commit(state_of(session))

        assert len(logged.output) == 1
        assert f"session {self.vault.fingerprint(token)} was not" in logged.output[0]

    async def test_a_newer_format_is_an_error(self) -> None:
        """Behaviour 32: it is left as it is."""
        data = encode(Envelope(START, START, START + 1, {}, format=FORMAT + 1))
        token = (await self.vault.inner.insert(Record(data))).token
        with pytest.raises(BackendError, match="stored by a newer version"):
            await self.sessions.load(token)

        record = await self.vault.inner.load(token)
        assert record is not None
        assert record.data == data

    async def test_two_requests_share_nothing(self) -> None:
        """Behaviour 41: copies in, copies out."""
        token = await self.stored({"a": [1]})
        one, other = await self.sessions.load(token), await self.sessions.load(token)
        one["a"].append(2)

        assert other["a"] == [1]
        assert await self.values(token) == {"a": [1]}


class PingTest(SessionsCase):
    async def test_a_ping_asks_the_store_and_nothing_else(self) -> None:
        """Behaviour 90: no record, no event, and no clean-up begins with it."""
        events: list[SessionEvent] = []
        sessions = self.make(self.vault, listener=events.append)
        self.vault.calls.clear()

        await sessions.ping()

        assert self.vault.calls == ["ping"]
        assert repr(self.backend).startswith("<MemoryBackend 0 of")
        assert events == []
        await sessions.close()

    async def test_a_ping_of_a_store_that_fails_raises(self) -> None:
        """Behaviour 90: and no listener is told, as no request has failed."""
        events: list[SessionEvent] = []
        sessions = self.make(self.vault, listener=events.append)
        self.vault.failing.add("ping")

        with self.assertNoLogs("tornado_sessions"), pytest.raises(BackendError):
            await sessions.ping()

        self.vault.failing.clear()
        await sessions.ping()
        assert events == []
        await sessions.close()

    async def test_a_ping_loads_a_key_that_nobody_has(self) -> None:
        """Behaviour 90: another one each time, where the backend has no better way."""
        keys: list[bytes] = []

        class Watched(MemoryBackend):
            async def load(self, key: bytes) -> Record | None:
                keys.append(key)
                return await super().load(key)

        sessions = self.make(Vault(Watched()))
        await sessions.ping()
        await sessions.ping()

        assert [len(key) for key in keys] == [32, 32]
        assert len(set(keys)) == 2
        await sessions.close()


class OfTest:
    """`Sessions.of` works before a loop runs."""

    def test_it_answers_the_same_at_every_call(self) -> None:
        """One for each application."""
        one = tornado.web.Application(session_backend=MemoryBackend())
        other = tornado.web.Application(session_backend=MemoryBackend())

        assert Sessions.of(one) is Sessions.of(one)
        assert Sessions.of(one) is not Sessions.of(other)

    def test_it_takes_all_settings(self) -> None:
        """From the application, checked."""
        sessions = Sessions.of(
            tornado.web.Application(
                session_backend=MemoryBackend(),
                session_cookie_name="sid",
                session_idle_timeout=5,
                session_lifetime=6,
                session_persistent=True,
            )
        )

        assert sessions.settings.cookie.name == "__Host-Http-sid"
        assert sessions.settings.loopback_cookie.name == "sid"
        assert sessions.rules.idle_timeout == 5
        assert sessions.rules.lifetime == 6
        assert sessions.rules.persistent is True

    def test_it_opens_the_backend_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Behaviour 74: nothing is looked up per request."""
        opened = []

        class Counted(MemoryBackend):
            @classmethod
            def from_url(cls, url: str, settings: Mapping[str, Any]) -> Counted:
                opened.append(url)
                return cls()

        def find(url: str) -> type[Counted]:
            opened.append(f"found {url}")
            return Counted

        monkeypatch.setattr(registry, "_find", find)
        application = tornado.web.Application(session_backend="counted:")
        for _ in range(3):
            Sessions.of(application)

        assert opened == ["found counted:", "counted:"]

    def test_an_error_is_told_at_every_call(self) -> None:
        """Behaviour 54: nothing half made is kept."""
        application = tornado.web.Application(session_backend=7)
        for _ in range(2):
            with pytest.raises(ValueError, match="is of type int"):
                Sessions.of(application)

    def test_its_representation_shows_no_secret(self) -> None:
        """Behaviour 8: where it keeps them, and no more."""
        sessions = Sessions(Settings(Vault(MemoryBackend())))

        assert repr(sessions) == "<Sessions in MemoryBackend>"

    def test_it_is_used_outside_of_handlers(self) -> None:
        """In a loop of one's own, which begins later."""
        sessions = Sessions.of(tornado.web.Application(session_backend=MemoryBackend()))

        async def use() -> dict[str, Any]:
            session = await sessions.load(None)
            session["a"] = 1
            await session.save()
            values = dict(await sessions.load(state_of(session).token))
            await sessions.close()
            return values

        assert asyncio.run(use()) == {"a": 1}

    def test_something_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """Behaviour 58: not with every request."""
        sessions = Sessions(Settings(Vault(MemoryBackend())))
        with caplog.at_level("INFO", "tornado_sessions"):
            for number in range(3):
                sessions.logs.once(20, "The cookie is %r.", number)
            sessions.logs.once(30, "Something else.")

        assert caplog.messages == ["The cookie is 0.", "Something else."]

"""Tests of loading and saving: what the store holds when several write at once."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from unittest import mock

import pytest
import tornado.web
from tornado_sessions_memory import MemoryBackend

from tests.sessions_case import IDLE, START, UNKNOWN, SessionsCase, SlowCount
from tornado_sessions import (
    BackendError,
    ConflictError,
    Record,
    Saved,
    Session,
    SessionDataError,
    SessionError,
    SessionEvent,
    SessionGoneError,
    Sessions,
    Vault,
    Version,
)
from tornado_sessions.core import retries
from tornado_sessions.core.codec import encode
from tornado_sessions.core.envelope import FORMAT, Envelope
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import Settings
from tornado_sessions.storage import registry
from tornado_sessions.testing import FaultyVault


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


class CommitTest(SessionsCase):
    async def test_a_new_session_that_was_not_written_is_not_stored(self) -> None:
        """Behaviours 13, 14: reading, and writing what is taken back."""
        session = await self.sessions.load(None)
        session["a"] = 1
        del session["a"]
        await self.sessions.commits.commit(state_of(session))

        assert session.is_new
        assert self.vault.calls == []

    async def test_a_written_new_session_is_stored_once(self) -> None:
        """Behaviour 15: with a token for the client."""
        session = await self.sessions.load(None)
        session["a"] = 1
        await self.sessions.commits.commit(state_of(session))
        await self.sessions.commits.commit(state_of(session))

        assert self.vault.calls == ["save"]
        assert await self.values(state_of(session).token) == {"a": 1}

    async def test_an_unchanged_session_is_not_written(self) -> None:
        """Behaviours 18, 22: neither read nor assigned an equal value."""
        token = await self.stored({"a": {"b": 1}})
        session = await self.sessions.load(token)
        session["a"] = {"b": 1}
        await self.sessions.commits.commit(state_of(session))

        assert self.vault.calls == ["load"]

    async def test_a_change_is_written_once(self) -> None:
        """Behaviour 21: under the token that the client has."""
        token = await self.stored({"a": {"b": 1}})
        session = await self.sessions.load(token)
        session["a"]["b"] = 2
        await self.sessions.commits.commit(state_of(session))

        assert self.vault.calls == ["load", "save"]
        assert state_of(session).token == token
        assert await self.values(token) == {"a": {"b": 2}}

    async def test_emptying_keeps_the_record(self) -> None:
        """Behaviour 17: and its token."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session.clear()
        await self.sessions.commits.commit(state_of(session))

        assert state_of(session).token == token
        assert await self.is_alive(token)
        assert await self.values(token) == {}

    async def test_a_bad_value_stores_nothing(self) -> None:
        """Behaviour 25: the previous record stays intact."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        session["b"] = {1}
        with pytest.raises(SessionDataError, match="'b' cannot be stored"):
            await session.save()

        assert self.vault.calls == ["load"]
        assert await self.values(token) == {"a": 1}

    async def test_a_failed_save_is_still_to_be_done(self) -> None:
        """Behaviour 30: whoever tries again, in the same request, succeeds."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        self.vault.failing.add("save")
        with pytest.raises(BackendError):
            await session.save()
        assert await self.values(token) == {"a": 1}

        self.vault.failing.clear()
        await session.save()
        assert await self.values(token) == {"a": 2}

    async def test_a_second_commit_writes_nothing(self) -> None:
        """Behaviour 26: unless something changed after the first."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        await session.save()
        await self.sessions.commits.commit(state_of(session))

        assert self.vault.calls == ["load", "save"]

    async def test_a_second_save_is_put_on_the_newest(self) -> None:
        """Behaviour 26: a version is good for one save."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        await session.save()
        session["b"] = 3
        await session.save()

        assert self.vault.calls == ["load", "save", "load", "save"]
        assert await self.values(token) == {"a": 2, "b": 3}

    async def test_a_second_save_pushes_the_end_forward(self) -> None:
        """Behaviours 48, 51: the cookie lasts for as long as what was stored."""
        session = await self.sessions.load(await self.stored({"a": 1}))
        session["a"] = 2
        await session.save()
        self.clock += IDLE / 2
        session["a"] = 3
        await session.save()

        assert session.last_seen == self.clock
        assert session.expires == (await self.envelope(state_of(session).token)).expires
        assert session.expires_in == IDLE

    async def test_a_save_of_a_setting_pushes_the_end_forward(self) -> None:
        """Behaviours 48, 51: the cookie lasts for as long as what was stored."""
        session = await self.sessions.load(await self.stored({"a": 1}))
        session.persistent = True
        self.clock += IDLE / 2
        await session.save()

        assert session.last_seen == self.clock
        assert session.expires_in == IDLE

    async def test_a_second_save_puts_nothing_back_that_was_only_read(self) -> None:
        """Behaviours 26, 40: its base is what this request saw."""
        token = await self.stored({"a": 1, "read": 1, "cart": {}})
        session = await self.sessions.load(token)
        assert session["read"] == 1
        assert session["cart"] == {}
        await self.change_elsewhere(token, read=2, cart={"pear": 1})
        session["a"] = 2
        await session.save()
        session["a"] = 3
        await session.save()
        await self.change_elsewhere(token, read=4)
        session["a"] = 5
        await session.save()

        assert await self.values(token) == {"a": 5, "read": 4, "cart": {"pear": 1}}
        # In-memory values stay.
        assert dict(session) == {"a": 5, "read": 1, "cart": {}}

    async def test_a_value_goes_back_and_forth_between_saves(self) -> None:
        """Behaviour 26: what is compared with is the last save."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        for value in (2, 1, 2):
            session["a"] = value
            await session.save()
            assert await self.values(token) == {"a": value}

    async def test_what_was_packed_is_what_is_stored(self) -> None:
        """Behaviour 28: what a handler does after `finish` is no part of it."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        packed = state_of(session).pack()
        session["a"] = 3
        await self.sessions.commits.commit(state_of(session), packed)

        assert await self.values(token) == {"a": 2}
        assert session.modified

    async def test_a_time_is_stored_to_the_millisecond(self) -> None:
        """Behaviour 62: more digits take room in each record and cookie."""
        self.clock = START + 0.123_456_789
        token = await self.stored({"a": 1})

        assert (await self.sessions.load(token)).last_seen == START + 0.123

    async def test_a_user_of_a_new_session_is_stored(self) -> None:
        """Behaviour 15: a login alone is worth a record, and the store is told."""
        session = await self.sessions.load(None)
        session.login("ada")
        await self.sessions.commits.commit(state_of(session))

        loaded = await self.elsewhere.load(state_of(session).token)
        assert loaded.user == "ada"
        assert len([key async for key in self.backend.find("ada")]) == 1

    async def one_of(self, tokens: list[str]) -> Session:
        return await self.sessions.load_one_of(tokens)

    async def test_of_several_ids_the_one_that_is_alive_is_loaded(self) -> None:
        """Behaviour 35: wherever it stands; of none that is alive, a new session."""
        token = await self.stored({"a": 1})
        for tokens in ([token, UNKNOWN], [UNKNOWN, "malformed", token]):
            assert await self.one_of(tokens) == {"a": 1}

        assert (await self.one_of([UNKNOWN, "malformed"])).is_new

    async def test_of_several_ids_that_are_alive_nothing_is_stored(self) -> None:
        """Behaviour 35: no session is guessed."""
        tokens = [await self.stored({"a": 1}) for _ in range(2)]
        session = await self.one_of(tokens)
        await session.save()
        session["a"] = 2
        with pytest.raises(SessionError) as caught:
            await session.save()

        assert str(caught.value) == (
            "The request came with 2 different session ids that are alive. It is not"
            " known whose session this is, and nothing is stored. The client is told"
            " to drop its cookie: it has to send the request again."
        )
        assert [await self.values(token) for token in tokens] == [{"a": 1}] * 2

    async def test_too_many_ids_are_not_looked_up(self) -> None:
        """Behaviour 35: a request makes four calls at the most."""
        token = await self.stored({"a": 1})
        session = await self.one_of([token, *"1234"])
        session["a"] = 1
        with pytest.raises(SessionError) as caught:
            await session.save()

        assert str(caught.value) == (
            "The request came with more than 4 different session ids. None was looked"
            " up, so nothing is stored and no session is ended. The client is told to"
            " drop its cookie: it has to send the request again."
        )
        with pytest.raises(SessionError, match="no session is ended"):
            session.destroy()
        assert self.vault.calls == []

    async def test_one_failed_lookup_of_several_fails(self) -> None:
        """Behaviours 30, 35: and no error is left behind."""
        token = await self.stored({"a": 1})
        self.vault.failing = {"load"}
        with pytest.raises(BackendError):
            await self.sessions.load_one_of([token, UNKNOWN])

    async def test_a_new_token_cannot_be_sent_any_more(self) -> None:
        """Behaviour 28: what was written before the headers left is too late."""
        session = await self.sessions.load(None)
        session["a"] = 1
        state_of(session).headers_sent = True
        with pytest.raises(SessionError) as caught:
            await session.save()

        assert str(caught.value) == (
            "This visitor has no session yet, and the headers of the response are"
            " out, so none can be begun. Write to the session before flush() and"
            " finish(), and before a WebSocket is opened."
        )
        assert self.vault.calls == []

    async def test_a_stored_session_can_be_saved_late(self) -> None:
        """Behaviour 28: it needs no new token."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        state_of(session).headers_sent = True
        session["a"] = 2
        await session.save()

        assert await self.values(token) == {"a": 2}

    async def test_the_handle_stays_from_request_to_request(self) -> None:
        """It is minted once, when it is read or when it is stored."""
        session = await self.sessions.load(None)
        handle = session.id
        session["a"] = 1
        await session.save()
        assert session.id == handle

        again = await self.sessions.load(state_of(session).token)
        assert again.id == handle
        again.regenerate()
        await again.save()
        assert (await self.sessions.load(state_of(again).token)).id == handle

    async def test_the_cookie_is_due_where_it_carries_an_age(self) -> None:
        """Behaviour 51: it agrees with the record, so it is renewed when that is."""
        for before, after, due in (
            (None, None, False),
            (None, True, True),
            (True, True, True),
            (True, False, True),
        ):
            session = await self.sessions.load(None)
            session["a"] = 1
            if before is not None:
                session.persistent = before
            await session.save()
            session = await self.sessions.load(state_of(session).token)
            session["a"] = 2
            if after is not None:
                session.persistent = after
            await session.save()

            assert state_of(session).cookie_due is due


class SuspendingCommitTest(CommitTest):
    suspends = True

    async def test_two_saves_of_one_object_take_turns(self) -> None:
        """Behaviour 26: such as of two messages on one WebSocket."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        first = asyncio.ensure_future(session.save())
        await asyncio.sleep(0)
        session["b"] = 3
        await asyncio.gather(first, session.save(), session.save())

        assert await self.values(token) == {"a": 2, "b": 3}
        assert self.vault.calls == ["load", "save", "load", "save"]

    async def test_a_change_during_a_save_is_still_to_be_done(self) -> None:
        """Behaviour 26: it was no part of what is on its way."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        saving = asyncio.ensure_future(session.save())
        await asyncio.sleep(0)
        session["a"] = 3
        session.persistent = True
        await saving
        assert await self.values(token) == {"a": 2}

        await session.save()
        assert await self.values(token) == {"a": 3}
        assert (await self.sessions.load(token)).persistent

    async def test_a_destroy_during_a_save_holds(self) -> None:
        """Behaviours 39, 42: of a stored session; the save does not undo it."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        saving = asyncio.ensure_future(session.save())
        await asyncio.sleep(0)
        session.destroy()
        await saving
        await session.save()

        assert not await self.is_alive(token)
        assert session.is_new

    async def test_a_destroy_holds_before_a_save_that_waits_its_turn(self) -> None:
        """Behaviours 39, 42: what was to be saved went with the session."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        self.vault.gate = asyncio.Event()
        session["a"] = 2
        first = asyncio.ensure_future(session.save())
        await asyncio.sleep(0)
        session["b"] = 3
        second = asyncio.ensure_future(session.save())
        await asyncio.sleep(0)
        session.destroy()
        self.vault.gate.set()
        await asyncio.gather(first, second)

        assert session.is_new
        assert repr(self.backend).startswith("<MemoryBackend 0 of")

    async def test_a_destroy_during_a_first_save_holds(self) -> None:
        """Behaviours 39, 42: of a new session, whose token nobody knows yet."""
        session = await self.sessions.load(None)
        session["a"] = 1
        saving = asyncio.ensure_future(session.save())
        await asyncio.sleep(0)
        session.destroy()
        await saving
        await session.save()

        assert session.is_new
        assert repr(self.backend).startswith("<MemoryBackend 0 of")


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
        return self.make(self.contest)

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
        tasks, gate = await self.hold([session.save() for session in sessions])
        first, *others = tasks
        await asyncio.wait(others, timeout=10)
        assert {type(each.exception()) for each in others} == {BackendError}
        assert self.vault.calls == []

        gate.set()
        await first
        # Each can be tried again.
        for session in sessions[1:]:
            await session.save()
        assert len(await self.values(state_of(sessions[0]).token)) == 22

    async def test_a_function_that_takes_its_time_fails_nobody(self) -> None:
        """Behaviours 37, 80: it is not the store for which the others wait."""
        self.vault.timeout = 0.01
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
        await asyncio.wait([saved], timeout=0.1)
        assert not saved.done()

        count.go_on.set()
        await asyncio.gather(counted, saved)
        assert await self.values(token) == {"n": 1, "a": 1, "b": 1}

    async def test_transactions_fail_at_once_as_well(self) -> None:
        """Behaviour 80: those that wait are not run any more."""
        token = await self.stored({"n": 0})
        sessions = [await self.sessions.load(token) for _ in range(20)]

        runs: list[Session] = []

        async def count(session: Session) -> None:
            session["n"] += 1
            runs.append(session)
            if len(runs) == 20:
                # So that nobody can save what they have loaded.
                await self.change_elsewhere(token, a=1)
            if len(runs) > 20:
                self.vault.failing = {"save"}
            while len(runs) < 20:  # noqa: ASYNC110
                await asyncio.sleep(0)

        errors = await asyncio.gather(
            *(each.transact(count) for each in sessions), return_exceptions=True
        )

        assert {type(error) for error in errors} == {BackendError}
        assert len(runs) == 21
        assert await self.values(token) == {"n": 0, "a": 1}

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

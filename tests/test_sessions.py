"""Tests of loading and saving: what the store holds when several write at once."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import unittest
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any
from unittest import mock

import msgspec
import pytest
import tornado.web
from tornado_sessions_memory import MemoryBackend

from tornado_sessions import (
    BackendError,
    ConflictError,
    Record,
    Session,
    SessionDataError,
    SessionError,
    SessionGoneError,
    SessionLimitError,
    Sessions,
    Vault,
    registry,
)
from tornado_sessions.codec import FORMAT, Envelope, decode, encode
from tornado_sessions.sessions import base, commits, users
from tornado_sessions.testing import FaultyVault

START = 1_000_000.0
IDLE = 1_000.0
LIFETIME = 10_000.0
UNKNOWN = "A" * 43


class SessionsCase(unittest.IsolatedAsyncioTestCase):
    """Sessions in memory, with a clock that stands still, and all calls counted."""

    suspends = False

    def setUp(self) -> None:
        self.clock = START
        self.backend = MemoryBackend()
        self.vault = FaultyVault(Vault(self.backend), suspends=self.suspends)
        self.sessions = self.make(self.vault)
        # Another process, on the same store.
        self.elsewhere = self.make(Vault(self.backend))

    async def asyncTearDown(self) -> None:
        await self.sessions.close()
        await self.elsewhere.close()

    def make(self, vault: Vault, **settings: Any) -> Sessions:
        settings = {"idle_timeout": IDLE, "lifetime": LIFETIME, **settings}
        sessions = Sessions(vault, **settings)
        sessions.now = lambda: self.clock
        return sessions

    async def stored(self, values: dict[str, Any] | None = None) -> str:
        """Answers the token of a session that was stored a while ago."""
        session = await self.elsewhere.load(None)
        session.update(values or {"kept": 0})
        await self.elsewhere.commit(session)
        assert session._token is not None
        return session._token

    async def change_elsewhere(self, token: str, **values: Any) -> None:
        session = await self.elsewhere.load(token)
        session.update(values)
        await self.elsewhere.commit(session)

    async def end_elsewhere(self, token: str) -> None:
        session = await self.elsewhere.load(token)
        session.destroy()
        await self.elsewhere.commit(session)

    async def values(self, token: str | None) -> dict[str, Any]:
        """Answers what the next request sees, in whatever process."""
        return dict(await self.elsewhere.load(token))

    async def is_alive(self, token: str) -> bool:
        return not (await self.elsewhere.load(token)).is_new

    async def envelope(self, token: str | None) -> Envelope:
        assert token is not None
        record = await self.vault.inner.load(token)
        assert record is not None
        return decode(record.data)


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
            await self.sessions.commit(session)

            assert session._token not in (None, token)
            assert await self.values(token) == {}

    async def test_a_known_token_is_loaded_with_one_call(self) -> None:
        """Where the store is called, it is called once."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        await self.sessions.commit(session)

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
        token = await self.vault.inner.save(None, Record(b"secret rubbish"))
        with self.assertLogs("tornado_sessions") as logged:
            session = await self.sessions.load(token)
        session["a"] = 1
        await self.sessions.commit(session)

        (logged_record,) = logged.records
        assert logged_record.getMessage() == (
            f"The record of session {self.vault.fingerprint(token)} cannot be decoded; it is"
            " treated as no session and left as it is."
        )
        assert session._token != token
        record = await self.vault.inner.load(token)
        assert record is not None
        assert record.data == b"secret rubbish"

    async def test_a_newer_format_is_an_error(self) -> None:
        """Behaviour 32: it is left as it is."""
        data = encode(Envelope(START, START, START + 1, {}, format=FORMAT + 1))
        token = await self.vault.inner.save(None, Record(data))
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


class CommitTest(SessionsCase):
    async def test_a_new_session_that_was_not_written_is_not_stored(self) -> None:
        """Behaviours 13, 14: reading, and writing what is taken back."""
        session = await self.sessions.load(None)
        session["a"] = 1
        del session["a"]
        await self.sessions.commit(session)

        assert session.is_new
        assert self.vault.calls == []

    async def test_a_written_new_session_is_stored_once(self) -> None:
        """Behaviour 15: with a token for the client."""
        session = await self.sessions.load(None)
        session["a"] = 1
        await self.sessions.commit(session)
        await self.sessions.commit(session)

        assert self.vault.calls == ["save"]
        assert await self.values(session._token) == {"a": 1}

    async def test_an_unchanged_session_is_not_written(self) -> None:
        """Behaviours 18, 22: neither read nor assigned an equal value."""
        token = await self.stored({"a": {"b": 1}})
        session = await self.sessions.load(token)
        session["a"] = {"b": 1}
        await self.sessions.commit(session)

        assert self.vault.calls == ["load"]

    async def test_a_change_is_written_once(self) -> None:
        """Behaviour 21: under the token that the client has."""
        token = await self.stored({"a": {"b": 1}})
        session = await self.sessions.load(token)
        session["a"]["b"] = 2
        await self.sessions.commit(session)

        assert self.vault.calls == ["load", "save"]
        assert session._token == token
        assert await self.values(token) == {"a": {"b": 2}}

    async def test_emptying_keeps_the_record(self) -> None:
        """Behaviour 17: and its token."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session.clear()
        await self.sessions.commit(session)

        assert session._token == token
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
        await self.sessions.commit(session)

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
        packed = session._pack()
        session["a"] = 3
        await self.sessions.commit(session, packed)

        assert await self.values(token) == {"a": 2}
        assert session.modified

    async def test_a_user_of_a_new_session_is_stored(self) -> None:
        """Behaviour 15: a login alone is worth a record, and the store is told."""
        session = await self.sessions.load(None)
        session.login("ada")
        await self.sessions.commit(session)

        loaded = await self.elsewhere.load(session._token)
        assert loaded.user == "ada"
        assert len([key async for key in self.backend.find("ada")]) == 1

    async def test_two_cookies_of_our_name_store_nothing(self) -> None:
        """Behaviour 35: no session is guessed."""
        session = await self.sessions.load(None)
        session._ambiguous = ["one", "two"]
        await self.sessions.commit(session)
        session["a"] = 1
        with pytest.raises(SessionError) as caught:
            await session.save()

        assert str(caught.value) == (
            "The request came with two different session ids, so there is no"
            " telling whose session this is; nothing is stored."
        )
        assert self.vault.calls == []

    async def test_a_new_token_cannot_be_sent_any_more(self) -> None:
        """Behaviour 28: what was written before the headers left is too late."""
        session = await self.sessions.load(None)
        session["a"] = 1
        session._sent = True
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
        session._sent = True
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

        again = await self.sessions.load(session._token)
        assert again.id == handle
        again.regenerate()
        await again.save()
        assert (await self.sessions.load(again._token)).id == handle

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
            session = await self.sessions.load(session._token)
            session["a"] = 2
            if after is not None:
                session.persistent = after
            await session.save()

            assert session._cookie_due is due


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
        await self.sessions.commit(session)

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

    async def test_a_late_save_does_not_bring_an_expired_session_back(self) -> None:
        """Behaviour 39: though its record is still in the store."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        self.clock += IDLE
        with pytest.raises(SessionGoneError):
            await session.save()

        self.clock -= 1
        assert await self.values(token) == {"a": 1}

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
        await self.elsewhere.commit(other)
        for change in (
            lambda: session.update(a=2),
            session.regenerate,
            lambda: session.login("ada"),
        ):
            change()
            with pytest.raises(SessionGoneError):
                await session.save()
            session._drop_changes()

        assert await self.values(other._token) == {"a": 1}

    async def test_messages_of_two_requests_are_all_shown(self) -> None:
        """Behaviour 38: oldest first, as far as each request is concerned."""
        token = await self.stored()
        session = await self.sessions.load(token)
        for number in range(10):
            session.flash(f"mine {number}")
        other = await self.elsewhere.load(token)
        other.flash("theirs")
        await self.elsewhere.commit(other)
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

    async def save(self, token: str | None, record: Record) -> str:
        if token is not None and self.won < self.rivals:
            self.won += 1
            rival = await self.elsewhere.load(token)
            rival["rival"] = self.won
            await self.elsewhere.commit(rival)
        return await super().save(token, record)


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

        assert await self.values(session._token) == {"a": 2, "rival": 5}

    async def test_a_transaction_tries_again(self) -> None:
        """Behaviour 37: on what the other one saved."""
        sessions = self.contested(rivals=5)
        session = await sessions.load(await self.stored({"a": 1}))

        def add(session: Session) -> None:
            session["sum"] = session["a"] + session.get("rival", 0)

        await session.transact(add)

        assert await self.values(session._token) == {"a": 1, "rival": 5, "sum": 6}

    async def test_patience_has_an_end(self) -> None:
        """Behaviour 37: after so long it is a failure, with a hint."""
        sessions = self.contested(rivals=float("inf"))
        session = await sessions.load(await self.stored({"a": 1}))
        with mock.patch.object(commits, "PATIENCE", 0.0):
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
        assert (await self.values(session._token))["a"] == 1

    async def test_the_clock_of_the_sessions_is_no_measure(self) -> None:
        """Behaviour 53: time that stands still is no reason to try for ever."""
        sessions = self.contested(rivals=3)
        session = await sessions.load(await self.stored({"a": 1}))
        session["a"] = 2
        with mock.patch.object(commits, "PATIENCE", 60.0):
            await session.save()

        assert self.contest.won == 3


class MovingVault(FaultyVault):
    """A vault that notes which tokens are alive when one is replaced, or fails then."""

    def __init__(self, inner: Vault, old: str, fails: str = "nothing") -> None:
        super().__init__(inner)
        self.tokens = [old]
        self.alive: list[list[bool]] = []
        self.failing = {fails}

    async def save(self, token: str | None, record: Record) -> str:
        if token is not None:
            self.alive.append(
                [await self.inner.load(t) is not None for t in self.tokens]
            )
        token = await super().save(token, record)
        self.tokens.append(token)
        return token


class MeanwhileVault(FaultyVault):
    """A vault where something happens between the two saves of a regenerate."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def save(self, token: str | None, record: Record) -> str:
        if token is not None and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            await meanwhile()
        return await super().save(token, record)


class RegenerateTest(SessionsCase):
    async def test_the_new_token_holds_and_the_old_is_dead(self) -> None:
        """Behaviour 9: with all values and the user."""
        session = await self.sessions.load(None)
        session["a"] = 1
        session.login("ada")
        await session.save()
        old = session._token
        assert old is not None
        session = await self.sessions.load(old)
        session.regenerate()
        session.regenerate()
        await session.save()

        assert session._token not in (None, old)
        assert not await self.is_alive(old)
        loaded = await self.sessions.load(session._token)
        assert dict(loaded) == {"a": 1}
        assert loaded.user == "ada"

    async def test_it_is_done_once(self) -> None:
        """Behaviour 9: the next commit finds nothing to do."""
        session = await self.sessions.load(await self.stored())
        session.regenerate()
        await session.save()
        token = session._token
        await session.save()

        assert session._token == token

    async def test_the_new_record_exists_before_the_old_one_goes(self) -> None:
        """Behaviour 10: a crash in between loses nothing."""
        token = await self.stored({"a": 1})
        vault = MovingVault(Vault(self.backend), token)
        session = await self.make(vault).load(token)
        session.regenerate()
        session["a"] = 2
        await session.save()

        assert vault.alive == [[True, True]]
        assert vault.calls == ["load", "save", "save", "delete"]
        assert not await self.is_alive(token)
        assert await self.values(session._token) == {"a": 2}

    async def test_where_the_old_stays_the_new_one_goes(self) -> None:
        """Behaviour 10: the client will never learn of it."""
        token = await self.stored({"a": 1})
        vault = MovingVault(Vault(self.backend), token, fails="replace")
        session = await self.make(vault).load(token)
        session.regenerate()
        session["a"] = 2
        with pytest.raises(BackendError, match="Cannot replace"):
            await session.save()

        assert session._token == token
        assert await self.values(token) == {"a": 1}
        assert vault.calls == ["load", "save", "save", "delete"]
        assert repr(self.backend).startswith("<MemoryBackend 1 of")

        # What failed is still to be done.
        vault.failing.clear()
        await session.save()
        assert not await self.is_alive(token)
        assert await self.values(session._token) == {"a": 2}

    async def test_where_neither_can_be_removed_the_first_error_is_raised(self) -> None:
        """Behaviour 10: the old one goes on."""
        token = await self.stored({"a": 1})
        vault = MovingVault(Vault(self.backend), token, fails="replace")
        vault.failing.add("delete")
        session = await self.make(vault).load(token)
        session.regenerate()
        with pytest.raises(BackendError, match="Cannot replace"):
            await session.save()

        assert session._token == token
        assert await self.is_alive(token)

    async def test_what_is_left_of_the_old_record_does_no_harm(self) -> None:
        """Behaviour 9: it has ended already when it cannot be removed."""
        token = await self.stored({"a": 1})
        vault = MovingVault(Vault(self.backend), token, fails="delete")
        session = await self.make(vault).load(token)
        session.regenerate()
        with self.assertLogs("tornado_sessions", "WARNING"):
            await session.save()

        assert not await self.is_alive(token)
        assert await self.values(session._token) == {"a": 1}

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

        assert await self.values(session._token) == {"a": 1, "b": 1, "c": 1}
        assert repr(self.backend).startswith("<MemoryBackend 1 of")

    async def test_it_takes_what_others_have_saved(self) -> None:
        """Behaviour 38: nothing is lost on the way."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session.regenerate()
        session["b"] = 1
        await self.change_elsewhere(token, a=2, c=1)
        await session.save()

        assert await self.values(session._token) == {"a": 2, "b": 1, "c": 1}

    async def test_it_can_be_destroyed_at_once(self) -> None:
        """Behaviour 9: nothing is left in the store."""
        token = await self.stored()
        session = await self.sessions.load(token)
        session.regenerate()
        session.destroy()
        await session.save()

        assert session.is_new
        assert not await self.is_alive(token)
        assert self.vault.calls == ["load", "delete"]

    async def test_a_login_as_another_user_takes_nothing_along(self) -> None:
        """Behaviour 41: neither values, messages nor the handle of the other."""
        session = await self.sessions.load(None)
        session.login("ada")
        session["secret"] = 1
        session.flash("Hello Ada.")
        await session.save()
        adas = session.id
        session = await self.sessions.load(session._token)
        session.login("grace")
        await session.save()
        graces = session.id
        loaded = await self.sessions.load(session._token)

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
        token = session._token
        assert token is not None
        session = await self.sessions.load(token)
        await self.change_elsewhere(token, secret=1)
        session.login("grace")
        await session.save()

        assert await self.values(session._token) == {}

    async def test_a_transaction_of_another_user_takes_nothing_along_either(
        self,
    ) -> None:
        """Behaviour 41: neither what came late, nor the handle, nor the label."""
        session = await self.sessions.load(None)
        session.login("ada")
        session.label = "Ada's phone"
        await session.save()
        token, adas = session._token, session.id
        assert token is not None
        session = await self.sessions.load(token)
        session.login("grace")
        await self.change_elsewhere(token, secret=1)
        await session.transact(lambda session: session.update(mine=1))
        loaded = await self.elsewhere.load(session._token)

        assert (loaded.user, loaded.label, dict(loaded)) == ("grace", "", {"mine": 1})
        assert loaded.id != adas

    async def test_a_login_that_is_taken_back_loses_nothing_of_others(self) -> None:
        """Behaviour 29: as where the response fails while it is being stored."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        before = session._pack()
        session.login("ada")
        session["b"] = 1
        await self.change_elsewhere(token, c=1)
        await session.save()
        await self.sessions.commit(session, before, session._adopted)
        loaded = await self.elsewhere.load(session._token)

        assert (loaded.user, dict(loaded)) == (None, {"a": 1, "c": 1})

    async def test_two_users_in_one_request_share_no_handle_either(self) -> None:
        """Behaviour 41: the handle that the request shows is that of the session."""
        session = await self.sessions.load(None)
        session["a"] = 1
        await session.save()
        session.login("ada")
        session.login("grace")
        await session.save()
        loaded = await self.elsewhere.load(session._token)

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
        assert session._destroyed
        assert session.is_new

    async def test_where_it_cannot_be_removed_it_is_still_to_be_done(self) -> None:
        """Behaviour 45: the store has to confirm it."""
        token = await self.stored()
        session = await self.sessions.load(token)
        session.destroy()
        self.vault.failing.add("delete")
        with pytest.raises(BackendError):
            await session.save()
        assert await self.is_alive(token)

        self.vault.failing.clear()
        await session.save()
        assert not await self.is_alive(token)

    async def test_a_write_after_it_is_a_new_session(self) -> None:
        """Behaviour 43: under a new token, without the old values."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session.destroy()
        session["b"] = 2
        await session.save()

        assert not await self.is_alive(token)
        assert session._token != token
        assert await self.values(session._token) == {"b": 2}

    async def test_several_can_be_ended_in_one_request(self) -> None:
        """Behaviour 43: each one that came into being."""
        token = await self.stored()
        session = await self.sessions.load(token)
        session.destroy()
        session["a"] = 1
        await session.save()
        second = session._token
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


class UsersTest(SessionsCase):
    """The sessions of a user, and what comes between a listing and a delete."""

    async def asyncSetUp(self) -> None:
        self.store = InterruptedVault(Vault(self.backend), suspends=self.suspends)
        self.sessions.vault = self.store

    async def signed_in(self, user: str = "ada", **values: Any) -> str:
        session = await self.elsewhere.load(None)
        session.update(values)
        session.login(user)
        await self.elsewhere.commit(session)
        assert session._token is not None
        return session._token

    async def regenerate_elsewhere(self, token: str) -> str:
        session = await self.elsewhere.load(token)
        session.regenerate()
        await self.elsewhere.commit(session)
        assert session._token is not None
        return session._token

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

            self.store.before_delete = move
            assert await revoke() == count
            assert not await self.is_alive(moved[0])
            token = other

    async def test_a_session_is_counted_once(self) -> None:
        """Behaviour 46: while it moves it has two records."""
        token = await self.signed_in()
        found = await self.vault.inner.load(token)
        assert found is not None
        copy = await self.vault.inner.save(None, Record(found.data, user="ada"))

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
                await self.vault.inner.save(None, Record(encode(envelope), user="ada"))
            self.sessions.lifetime = 2 * START

            (listed,) = await self.sessions.of_user("ada")
            assert listed.auth_time == 2.0
            self.store.calls.clear()
            assert await self.sessions.revoke_all("ada") == 1
            assert self.store.calls == ["find", "delete", "delete", "find"]

    async def test_a_move_that_loses_leaves_nothing(self) -> None:
        """Behaviour 46: the old record was deleted before it could be overwritten."""
        token = await self.signed_in()
        session = await self.sessions.load(token)
        session.regenerate()

        async def revoke() -> None:
            await self.elsewhere.revoke_all("ada")

        self.store.before_replace = revoke
        with pytest.raises(SessionGoneError):
            await self.sessions.commit(session)

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
        self.sessions.idle_timeout = 10.0

        (listed,) = await self.sessions.of_user("ada")
        assert listed.expires == START + 10.0

    async def test_what_cannot_be_decoded_is_not_listed(self) -> None:
        """Behaviour 32: it is no session, and stays as it is."""
        await self.vault.inner.save(None, Record(b"{}", user="ada"))

        assert await self.sessions.of_user("ada") == []
        assert await self.sessions.revoke_all("ada") == 0
        assert len([key async for key, _ in self.backend.find("ada")]) == 1

    async def test_what_is_newer_is_not_passed_over(self) -> None:
        """Behaviour 32: to say that all are gone would not be true."""
        await self.vault.inner.save(None, Record(b'{"format":99}', user="ada"))

        with pytest.raises(BackendError, match="a newer version"):
            await self.sessions.revoke_all("ada")

    async def test_a_record_is_that_of_the_user_inside_it(self) -> None:
        """Behaviour 33: whatever the store says beside it."""
        token = await self.signed_in("eve")
        found = await self.vault.inner.load(token)
        assert found is not None
        await self.vault.inner.save(None, Record(found.data, user="ada"))

        assert await self.sessions.of_user("ada") == []
        assert await self.sessions.revoke_all("ada") == 0

    async def test_another_namespace_has_other_users(self) -> None:
        """Two applications on one store never see each other's sessions."""
        shop = self.make(Vault(self.backend, "shop"))
        session = await shop.load(None)
        session.login("ada")
        await shop.commit(session)
        await self.signed_in("ada")

        assert len(await shop.of_user("ada")) == 1
        assert await self.sessions.revoke_all("ada") == 1
        assert await self.sessions.revoke_all("shop:ada") == 0
        assert len(await shop.of_user("ada")) == 1

    async def test_whoever_keeps_signing_in_is_told_of(self) -> None:
        """Behaviour 46: it does not go on for ever."""
        await self.signed_in()

        async def come_again() -> None:
            await self.signed_in()
            self.store.before_delete = come_again

        self.store.before_delete = come_again
        with (
            mock.patch.object(users, "PATIENCE", -1.0),
            pytest.raises(BackendError, match="Not all sessions of the user could be"),
        ):
            await self.sessions.revoke_all("ada")
        self.store.before_delete = None

    async def test_what_is_no_user_is_an_error(self) -> None:
        """Behaviour 46: 42 has no sessions, and to answer 0 would mislead."""
        for work, name in (
            (self.sessions.of_user(42), "of_user"),  # type: ignore[arg-type]
            (self.sessions.revoke(42, "x"), "revoke"),  # type: ignore[arg-type]
            (self.sessions.revoke_all(42), "revoke_all"),  # type: ignore[arg-type]
        ):
            with pytest.raises(TypeError) as caught:
                await work
            assert (
                str(caught.value) == f"{name}() takes the user's id as a str, not int:"
                " as in str(row.id)."
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

    async def test_a_login_in_place_never_waits(self) -> None:
        """Behaviour 27: however many sessions a limit finds too many."""
        for policy in ("oldest", "refuse"):
            sessions = Sessions(Vault(MemoryBackend()))
            for _ in range(250):
                session = await sessions.load(None)
                session.login("ada")
                await sessions.commit(session)
            sessions.max_per_user, sessions.max_per_user_policy = 1, policy
            session = await sessions.load(None)
            session.login("ada")
            with pytest.raises((StopIteration, SessionLimitError)):
                sessions.commit(session).send(None)

    async def test_what_is_spared_is_a_session(self) -> None:
        """A handle would spare nothing, or everything."""
        with pytest.raises(TypeError) as caught:
            await self.sessions.revoke_all("ada", but="x")  # type: ignore[arg-type]
        assert str(caught.value) == (
            "revoke_all() takes the session to spare, such as but=self.session, and"
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
        users.own.set(session)
        await self.sessions.revoke_all("ada")

        assert dict(session) == {"a": 1}


class LimitTest(SessionsCase):
    """How many sessions a user may have, where another process is as fast."""

    suspends = True

    def setUp(self) -> None:
        super().setUp()
        self.store = InterruptedVault(Vault(self.backend), suspends=True)
        self.sessions.vault = self.store
        for sessions in (self.sessions, self.elsewhere):
            sessions.max_per_user, sessions.max_per_user_policy = 1, "refuse"

    async def sign_in(self, sessions: Sessions) -> str:
        session = await sessions.load(None)
        session.login("ada")
        await sessions.commit(session)
        assert session._token is not None
        return session._token

    async def test_of_two_for_one_place_the_older_waits(self) -> None:
        """Behaviour 46: until the newer one has gone, which is not stored for good."""
        newer = Envelope(START, START, START + IDLE, {}, id="newer", format=FORMAT)
        newer.user, newer.auth_time = "ada", START + 1
        tokens: list[str] = []

        async def come() -> None:
            record = Record(encode(newer), expires=newer.expires, user="ada")
            tokens.append(await self.vault.inner.save(None, record))
            self.store.before_find = go

        async def go() -> None:
            await self.vault.inner.delete(tokens[0])

        self.store.before_find = come

        assert await self.is_alive(await self.sign_in(self.sessions))

    async def test_logins_in_one_process_take_turns(self) -> None:
        """Behaviour 46: the second is stored when the first is through."""
        self.sessions.max_per_user_policy = "oldest"
        later: list[asyncio.Task[str]] = []

        async def come_as_well() -> None:
            later.append(asyncio.ensure_future(self.sign_in(self.sessions)))
            for _ in range(50):
                await asyncio.sleep(0)
            assert self.store.calls.count("save") == 1

        self.store.before_find = come_as_well
        await self.sign_in(self.sessions)
        await later[0]

        assert self.store.calls.count("save") == 2
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
        self.sessions.max_per_user_policy = "oldest"
        token = await self.sign_in(self.elsewhere)
        self.clock += 1

        async def move() -> None:
            session = await self.elsewhere.load(token)
            session.regenerate()
            await self.elsewhere.commit(session)

        self.store.before_delete = move
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


class InterruptedVault(FaultyVault):
    """Lets another request come and go at the worst moment, once."""

    before_find: Callable[[], Awaitable[None]] | None = None
    before_delete: Callable[[], Awaitable[None]] | None = None
    before_replace: Callable[[], Awaitable[None]] | None = None

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        interrupt, self.before_find = self.before_find, None
        if interrupt is not None:
            await interrupt()
        async for found in super().find(user):
            yield found

    async def delete_found(self, key: bytes) -> None:
        interrupt, self.before_delete = self.before_delete, None
        if interrupt is not None:
            await interrupt()
        await super().delete_found(key)

    async def save(self, token: str | None, record: Record) -> str:
        if token is not None and self.before_replace is not None:
            interrupt, self.before_replace = self.before_replace, None
            await interrupt()
        return await super().save(token, record)


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
        await self.sessions.commit(await self.sessions.load(token))
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
            await self.sessions.commit(session)

    async def test_activity_does_not_push_the_lifetime_forward(self) -> None:
        """Behaviour 48: it ends so long after it began, whatever happens."""
        token = await self.stored()
        while self.clock + IDLE / 2 < START + LIFETIME:
            self.clock += IDLE / 2
            session = await self.sessions.load(token)
            session["at"] = self.clock
            await self.sessions.commit(session)
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
            await self.sessions.commit(await self.sessions.load(token))
        session = await self.sessions.load(token)
        session.login("ada")
        await self.sessions.commit(session)
        login = self.clock
        assert (await self.envelope(session._token)).expires == login + IDLE

        while self.clock + IDLE / 2 < login + LIFETIME:
            self.clock += IDLE / 2
            await self.sessions.commit(await self.sessions.load(session._token))
        assert session._token is not None
        self.clock = login + LIFETIME - 0.001
        assert await self.is_alive(session._token)
        self.clock = login + LIFETIME
        assert not await self.is_alive(session._token)

    async def test_busy_reading_costs_few_writes(self) -> None:
        """Behaviour 49: at most one per tenth of the idle timeout."""
        token = await self.stored()
        for _ in range(1_000):
            self.clock += IDLE / 1_000
            await self.sessions.commit(await self.sessions.load(token))

        assert self.vault.calls.count("save") == 10

    async def test_a_write_is_a_renewal(self) -> None:
        """Behaviour 49: the read after it costs none."""
        token = await self.stored()
        self.clock += IDLE / 10
        session = await self.sessions.load(token)
        session["a"] = 1
        await self.sessions.commit(session)
        await self.sessions.commit(await self.sessions.load(token))

        assert self.vault.calls.count("save") == 1
        assert (await self.envelope(token)).expires == self.clock + IDLE

    async def test_a_renewal_is_done_once(self) -> None:
        """Behaviour 49: and it is not a version that a later save trusts."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 10
        session = await self.sessions.load(token)
        await self.sessions.commit(session)
        await self.sessions.commit(session)
        assert self.vault.calls == ["load", "save"]

        session["a"] = 2
        await self.sessions.commit(session)
        assert await self.values(token) == {"a": 2}

    async def test_a_renewal_overwrites_nothing(self) -> None:
        """Behaviour 40: whoever was first has renewed it as well."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 10
        session = await self.sessions.load(token)
        await self.change_elsewhere(token, a=2)
        await self.sessions.commit(session)

        assert await self.values(token) == {"a": 2}

    async def test_a_renewal_brings_nothing_back(self) -> None:
        """Behaviour 39: neither what was destroyed nor what has expired."""
        token, other = await self.stored(), await self.stored()
        self.clock += IDLE / 10
        session, late = await self.sessions.load(token), await self.sessions.load(other)
        await self.end_elsewhere(token)
        await self.sessions.commit(session)
        assert not await self.is_alive(token)

        self.clock = START + IDLE
        await self.sessions.commit(late)
        assert not await self.is_alive(other)

    async def test_a_renewal_that_fails_is_logged(self) -> None:
        """Behaviour 30: a pure read goes out all the same."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 10
        session = await self.sessions.load(token)
        self.vault.failing.add("save")
        with self.assertLogs("tornado_sessions", "WARNING") as logged:
            await self.sessions.commit(session)

        assert [record.getMessage() for record in logged.records] == [
            "A session could not be renewed: Cannot save the session."
        ]
        assert dict(session) == {"a": 1}

    async def test_a_renewal_that_no_longer_fits_is_logged(self) -> None:
        """Behaviour 63: such as after the limit was lowered."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 10
        session = await self.sessions.load(token)
        self.backend.max_bytes = 1
        with self.assertLogs("tornado_sessions", "WARNING"):
            await self.sessions.commit(session)

        assert await self.values(token) == {"a": 1}

    async def test_a_store_may_ask_for_a_record_to_be_saved_again(self) -> None:
        """Behaviour 60: though nothing changed, and at once."""
        token = await self.stored({"a": 1})

        class LeavingVault(FaultyVault):
            async def load(self, token: str) -> Record | None:
                record = await super().load(token)
                assert record is not None
                return msgspec.structs.replace(record, renew=True)

        vault = LeavingVault(Vault(self.backend))
        sessions = self.make(vault)
        await sessions.commit(await sessions.load(token))

        assert vault.calls == ["load", "save"]
        assert await self.values(token) == {"a": 1}

    async def test_an_end_of_its_own_survives_the_next_request(self) -> None:
        """Behaviour 50: in both directions."""
        token = await self.stored()
        session = await self.sessions.load(token)
        session.set_expiry(idle=5 * IDLE, lifetime=6 * IDLE)
        await self.sessions.commit(session)
        assert (await self.envelope(token)).expires == START + 5 * IDLE

        self.clock = START + 4 * IDLE
        session = await self.sessions.load(token)
        assert session.expires_in == IDLE
        session["a"] = 1
        await self.sessions.commit(session)
        assert (await self.envelope(token)).expires == START + 6 * IDLE

        self.clock = START + 6 * IDLE
        assert not await self.is_alive(token)

    async def test_an_end_of_zero_ends_it_at_once(self) -> None:
        """Behaviour 52: the record is removed."""
        token = await self.stored()
        session = await self.sessions.load(token)
        session.set_expiry(lifetime=0)
        await self.sessions.commit(session)

        assert self.vault.calls == ["load", "delete"]
        assert not await self.is_alive(token)

    async def test_a_long_life_is_told_to_the_store_as_a_date(self) -> None:
        """Behaviour 52: in seconds since the epoch, however far."""
        year = 365 * 86_400.0
        sessions = self.make(self.vault, idle_timeout=year, lifetime=2 * year)
        with mock.patch.object(self.backend, "save", wraps=self.backend.save) as save:
            session = await sessions.load(None)
            session["a"] = 1
            await sessions.commit(session)

        (_, record), _ = save.call_args
        assert record.expires == START + year
        self.clock += year - 1
        assert not (await sessions.load(session._token)).is_new

    async def test_settings_that_became_shorter_count(self) -> None:
        """Behaviour 47: where record and settings disagree, the earlier end."""
        token = await self.stored()
        self.clock += IDLE / 2
        shorter = self.make(self.vault, idle_timeout=IDLE / 2)
        briefer = self.make(self.vault, lifetime=IDLE / 2)

        assert (await shorter.load(token)).is_new
        assert (await briefer.load(token)).is_new
        assert not (await self.sessions.load(token)).is_new

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

        old = Envelope(START - 900, START, START + IDLE, {}, format=FORMAT)
        token = await self.vault.inner.save(None, Record(encode(old)))
        assert (await self.sessions.load(token)).is_new


class ReloadTest(SessionsCase):
    async def test_it_takes_the_newest_values(self) -> None:
        """What this request changed is dropped."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["b"] = 1
        session.persistent = True
        await self.change_elsewhere(token, a=2)
        await session.reload()

        assert dict(session) == {"a": 2}
        assert not session.modified
        session["a"] = 3
        await session.save()
        assert self.vault.calls == ["load", "load", "save"]

    async def test_it_drops_a_regenerate(self) -> None:
        """A verb is a change like any other; only `destroy` holds."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session.login("ada")
        await session.reload()
        await session.save()

        assert session.user is None
        assert session._token == token

    async def test_the_session_is_in_use_all_the_same(self) -> None:
        """Behaviour 48: a request that reloads and only reads is activity, too."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 2
        session = await self.sessions.load(token)
        await session.reload()
        await self.sessions.commit(session)
        self.clock += IDLE / 2

        assert await self.is_alive(token)

    async def test_of_a_new_session_nothing_is_left(self) -> None:
        """There is nothing in the store, so nothing is asked."""
        session = await self.sessions.load(None)
        session["a"] = 1
        await session.reload()

        assert dict(session) == {}
        assert self.vault.calls == []

    async def test_of_a_session_that_ended_it_raises(self) -> None:
        """Behaviour 72: that is how a WebSocket notices."""
        token = await self.stored()
        session = await self.sessions.load(token)
        await self.end_elsewhere(token)
        with pytest.raises(SessionGoneError):
            await session.reload()


class TransactTest(SessionsCase):
    async def test_it_runs_on_the_newest_values(self) -> None:
        """Behaviour 37: and answers what the function answered."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)
        await self.change_elsewhere(token, n=5)

        def count(session: Session) -> int:
            session["n"] += 1
            return int(session["n"])

        assert await session.transact(count) == 6
        assert await self.values(token) == {"n": 6}
        assert self.vault.calls == ["load", "load", "save"]

    async def test_it_awaits_a_coroutine_function(self) -> None:
        """Behaviour 37: plain or async."""
        session = await self.sessions.load(await self.stored({"n": 1}))

        async def count(session: Session) -> str:
            await asyncio.sleep(0)
            session["n"] += 1
            return "done"

        assert await session.transact(count) == "done"
        assert await self.values(session._token) == {"n": 2}

    async def test_it_stores_a_new_session(self) -> None:
        """Behaviour 15: with what was written before."""
        session = await self.sessions.load(None)
        session["a"] = 1
        await session.transact(lambda session: session.update(b=2))

        assert await self.values(session._token) == {"a": 1, "b": 2}
        assert self.vault.calls == ["save"]

    async def test_a_new_session_without_a_change_is_not_stored(self) -> None:
        """Behaviour 14: nothing has come of it."""
        session = await self.sessions.load(None)
        await session.transact(lambda session: None)

        assert session.is_new
        assert self.vault.calls == []

    async def test_without_a_change_nothing_is_written(self) -> None:
        """Behaviour 40: it was a read."""
        session = await self.sessions.load(await self.stored({"n": 1}))

        assert await session.transact(lambda session: session["n"]) == 1
        assert self.vault.calls == ["load", "load"]

    async def test_earlier_changes_are_saved_with_it(self) -> None:
        """Behaviour 26: also where the function touches none of them."""
        token = await self.stored({"a": 1, "b": 1, "gone": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        session["new"] = 1
        del session["gone"]
        await session.transact(lambda session: session.update(b=2))

        assert await self.values(token) == {"a": 2, "b": 2, "new": 1}

    async def test_an_earlier_change_alone_is_saved(self) -> None:
        """Behaviour 26: though the function does nothing at all."""
        token = await self.stored({"a": 1, "b": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        await session.transact(lambda session: None)
        await session.save()

        assert await self.values(token) == {"a": 2, "b": 1}

    async def test_what_a_failing_function_changed_is_dropped(self) -> None:
        """What was changed before it is still to be saved."""
        token = await self.stored({"a": 1, "b": 1})
        session = await self.sessions.load(token)
        session["a"] = 2

        def fail(session: Session) -> None:
            session["b"] = 2
            session.login("ada")
            raise LookupError("out of stock")

        with pytest.raises(LookupError, match="out of stock"):
            await session.transact(fail)
        assert dict(session) == {"a": 2, "b": 1}
        assert session.user is None
        assert session.modified

        await session.save()
        assert await self.values(token) == {"a": 2, "b": 1}
        assert session._token == token

    async def test_a_bad_value_drops_what_the_function_changed(self) -> None:
        """Behaviour 25: the previous record stays intact."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        with pytest.raises(SessionDataError, match="'a' cannot be stored"):
            await session.transact(lambda session: session.update(a={1}))

        assert dict(session) == {"a": 1}
        await session.save()
        assert await self.values(token) == {"a": 1}

    async def test_a_failing_store_drops_what_the_function_changed(self) -> None:
        """Behaviour 30: whoever catches it may try again."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)
        self.vault.failing.add("save")
        with pytest.raises(BackendError):
            await session.transact(lambda session: session.update(n=session["n"] + 1))
        assert dict(session) == {"n": 1}

        self.vault.failing.clear()
        await session.transact(lambda session: session.update(n=session["n"] + 1))
        assert await self.values(token) == {"n": 2}

    async def test_a_failing_store_leaves_a_new_session_as_it_was(self) -> None:
        """Behaviour 50: with the expiry and the label that it was given before."""
        session = await self.sessions.load(None)
        session.set_expiry(idle=10)
        session.label = "a phone"
        self.vault.failing.add("save")
        with pytest.raises(BackendError):
            await session.transact(lambda session: session.update(n=1))
        self.vault.failing.clear()
        await session.transact(lambda session: session.update(n=1))

        envelope = await self.envelope(session._token)
        assert (envelope.idle, envelope.label) == (10, "a phone")

    async def test_a_session_that_ended_is_not_brought_back(self) -> None:
        """Behaviour 39: the function is not even run."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)
        await self.end_elsewhere(token)
        runs: list[Session] = []
        with pytest.raises(SessionGoneError):
            await session.transact(runs.append)

        assert runs == []
        assert not await self.is_alive(token)

    async def test_the_function_may_sign_in(self) -> None:
        """Behaviour 9: the token changes with it."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)

        def sign_in(session: Session) -> None:
            session["n"] = 2
            session.login("ada")

        await session.transact(sign_in)

        assert not await self.is_alive(token)
        loaded = await self.elsewhere.load(session._token)
        assert (loaded.user, dict(loaded)) == ("ada", {"n": 2})

    async def test_the_function_may_destroy(self) -> None:
        """Behaviour 42: the record is removed at once."""
        token = await self.stored()
        session = await self.sessions.load(token)
        await session.transact(lambda session: session.destroy())

        assert not await self.is_alive(token)
        assert session.is_new

    async def test_a_destroy_holds_though_the_function_fails(self) -> None:
        """Behaviour 29: only `destroy` does."""
        token = await self.stored()
        session = await self.sessions.load(token)

        def fail(session: Session) -> None:
            session.destroy()
            session["begun"] = "anew"
            raise LookupError

        with pytest.raises(LookupError):
            await session.transact(fail)
        await session.save()

        assert not await self.is_alive(token)
        assert dict(session) == {}
        assert session.is_new

    async def test_two_of_one_object_take_turns(self) -> None:
        """Behaviour 37: such as of two messages on one WebSocket."""
        token = await self.stored({"n": 0})
        session = await self.sessions.load(token)

        async def count(session: Session) -> None:
            n = session["n"]
            await asyncio.sleep(0)
            session["n"] = n + 1

        await asyncio.gather(*(session.transact(count) for _ in range(10)))

        assert await self.values(token) == {"n": 10}

    async def test_the_function_saves_nothing_itself(self) -> None:
        """It would wait for itself for ever."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)

        async def nested(session: Session) -> None:
            await session.transact(lambda session: None)

        for function in (
            lambda session: session.save(),
            lambda session: session.reload(),
            nested,
        ):
            with pytest.raises(SessionError) as caught:
                await session.transact(function)

            assert str(caught.value) == (
                "The function given to transact() called save(), reload() or"
                " transact() on the same session. It is to change values only:"
                " transact() saves them."
            )
        await session.save()

    async def test_a_save_meanwhile_is_no_mistake(self) -> None:
        """Another task may save the same object; both changes stay."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def count(session: Session) -> None:
            n = session["n"]
            inside.set()
            await go_on.wait()
            session["n"] = n + 1

        counting = asyncio.ensure_future(session.transact(count))
        await inside.wait()
        saving = asyncio.ensure_future(session.save())
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(counting, saving)

        assert await self.values(token) == {"n": 2}

    async def test_a_response_that_is_finished_meanwhile_undoes_nothing(self) -> None:
        """Behaviours 28, 40: it was packed before, and what it changed is kept."""
        token = await self.stored({"n": 1, "a": 1})
        session = await self.sessions.load(token)
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def count(session: Session) -> None:
            n = session["n"]
            inside.set()
            await go_on.wait()
            session["n"] = n + 1

        counting = asyncio.ensure_future(session.transact(count))
        await inside.wait()
        session["a"] = 2
        packed = session._pack()
        committing = asyncio.ensure_future(self.sessions.commit(session, packed))
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(counting, committing)

        assert await self.values(token) == {"n": 2, "a": 2}

    async def test_a_save_meanwhile_stores_no_half_of_it(self) -> None:
        """Behaviour 37: it would be counted twice, on what the half has stored."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def count(session: Session) -> None:
            session["n"] += 1
            inside.set()
            await go_on.wait()
            session["counted"] = True

        counting = asyncio.ensure_future(session.transact(count))
        await inside.wait()
        saving = asyncio.ensure_future(session.save())
        await asyncio.sleep(0)
        assert await self.values(token) == {"n": 1}
        go_on.set()
        await asyncio.gather(counting, saving)

        assert await self.values(token) == {"n": 2, "counted": True}

    async def test_a_move_to_a_fresh_token_loses_no_count(self) -> None:
        """Behaviour 37: what is new to it, the function runs on as well."""
        token = await self.stored({"n": 0})
        session = await self.sessions.load(token)
        session.regenerate()
        others = [10, 20]

        async def count(session: Session) -> None:
            session["n"] += 1
            if others:
                await self.change_elsewhere(token, n=others.pop(0))

        await session.transact(count)

        assert await self.values(session._token) == {"n": 21}
        assert not await self.is_alive(token)

    async def test_it_may_move_after_it_has_met_another_request(self) -> None:
        """Behaviour 37: it does not wait for the turn that it has."""
        token = await self.stored({"n": 0})
        session = await self.sessions.load(token)
        others = [10, 20]

        async def count(session: Session) -> None:
            session["n"] += 1
            if others:
                await self.change_elsewhere(token, n=others.pop(0))
            if session["n"] > 1:
                session.regenerate()

        await asyncio.wait_for(session.transact(count), 2)

        assert await self.values(session._token) == {"n": 21}

    async def test_a_session_that_ends_while_it_runs_stays_so(self) -> None:
        """Behaviour 39: the store may have it still."""
        token = await self.stored({"n": 0})
        session = await self.sessions.load(token)

        def count(session: Session) -> None:
            session["n"] += 1
            self.clock += IDLE

        with pytest.raises(SessionGoneError):
            await session.transact(count)

        self.clock -= IDLE
        assert await self.values(token) == {"n": 0}

    async def test_what_was_packed_before_a_transaction_does_not_undo_it(self) -> None:
        """Behaviours 28, 37: it has ended when the commit begins."""
        token = await self.stored({"n": 1, "a": 1})
        session = await self.sessions.load(token)

        def count(session: Session) -> None:
            session["n"] += 1

        session["a"] = 2
        packed, adopted = session._pack(), session._adopted
        await session.transact(count)
        await self.sessions.commit(session, packed, adopted)

        assert await self.values(token) == {"n": 2, "a": 2}

    async def test_what_was_packed_during_a_transaction_does_not_undo_it(self) -> None:
        """Behaviours 28, 37: nor if it has ended when the commit begins."""
        for token in (await self.stored({"n": 1}), None):
            session = await self.sessions.load(token)
            inside, go_on = asyncio.Event(), asyncio.Event()
            counting = asyncio.ensure_future(session.transact(_counting(inside, go_on)))
            await inside.wait()
            session["a"] = 2
            packed, adopted = session._pack(), session._adopted
            go_on.set()
            await counting
            await self.sessions.commit(session, packed, adopted)

            n = 1 if token is None else 2
            assert await self.values(session._token) == {"n": n, "a": 2}


def _counting(
    inside: asyncio.Event, go_on: asyncio.Event
) -> Callable[[Session], Awaitable[None]]:
    async def count(session: Session) -> None:
        inside.set()
        await go_on.wait()
        session["n"] = session.get("n", 0) + 1

    return count


class SuspendingTransactTest(TransactTest):
    suspends = True

    async def test_what_another_task_changes_while_it_loads_is_kept(self) -> None:
        """Behaviours 27, 37: also where the function is run again."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)
        others = [10]

        async def count(session: Session) -> None:
            session["n"] += 1
            if others:
                await self.change_elsewhere(token, n=others.pop())

        counting = asyncio.ensure_future(session.transact(count))
        await asyncio.sleep(0)
        session["a"] = 1
        await counting

        assert await self.values(token) == {"n": 11, "a": 1}

    async def test_a_session_that_is_destroyed_while_it_loads_stays_so(self) -> None:
        """Behaviour 39: its values and its user do not come back in a new one."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)
        runs: list[Session] = []
        running = asyncio.ensure_future(session.transact(runs.append))
        await asyncio.sleep(0)
        session.destroy()
        with pytest.raises(SessionGoneError) as caught:
            await running
        await session.save()

        assert str(caught.value) == (
            "The session was destroyed while transact() loaded it; the function was not"
            " run."
        )
        assert runs == []
        assert dict(session) == {}
        assert session.is_new
        assert not await self.is_alive(token)


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
        self.sessions = Sessions(self.vault)
        self.sessions.now = lambda: START

    async def asyncTearDown(self) -> None:
        await self.sessions.close()

    def due_in(self, sessions: Sessions) -> float:
        """Answers in how many seconds the next clean-up is due."""
        assert sessions._purge_timer is not None
        return sessions._purge_timer.when() - asyncio.get_running_loop().time()

    async def test_what_has_expired_goes_and_nothing_else(self) -> None:
        """Behaviour 65: by the clock of the sessions."""
        for number in range(10):
            await self.vault.save(None, Record(b"x", None, START - 10 * number - 5))
            await self.vault.save(None, Record(b"x", None, START + 10 * number + 5))

        assert await self.sessions.purge() == 10
        assert await self.sessions.purge() == 0
        assert repr(self.backend).startswith("<MemoryBackend 10 of")

    async def test_it_goes_in_batches(self) -> None:
        """Behaviours 65, 70: with a turn for everybody else in between."""
        for _ in range(1_100):
            await self.vault.save(None, Record(b"x", None, START - 5))

        assert await self.sessions.purge() == 1_100
        assert len(self.backend.purged) > 2
        assert self.backend.ticks_seen == list(range(len(self.backend.purged)))

    async def test_it_runs_by_itself_time_and_again(self) -> None:
        """Behaviour 65: once sessions are in use."""
        with mock.patch.object(base, "PURGE_INTERVAL", 0.0):
            await self.sessions.load(UNKNOWN)
            await asyncio.wait_for(self.backend.twice.wait(), 10)

        assert self.backend.purged[:2] == [START, START]

    async def test_it_keeps_nothing_of_the_request_that_came_first(self) -> None:
        """Behaviour 41: such as what that has put in its context."""
        request = contextvars.ContextVar[object]("request")
        context, kept = contextvars.copy_context(), asyncio.Event()
        context.run(request.set, kept)
        context.run(self.sessions._schedule_purge)
        gone = weakref.ref(kept)
        del context, kept

        assert gone() is None

    async def test_a_write_starts_it_as_well(self) -> None:
        """Behaviour 65: a process that only begins sessions cleans up."""
        session = await self.sessions.load(None)
        assert self.sessions._purge_timer is None
        session["a"] = 1
        await self.sessions.commit(session)

        assert self.sessions._purge_timer is not None

    async def test_it_is_due_once(self) -> None:
        """Behaviour 65: however many requests there are."""
        await self.sessions.load(UNKNOWN)
        timer = self.sessions._purge_timer
        await self.sessions.load(UNKNOWN)

        assert self.sessions._purge_timer is timer

    async def test_a_failure_is_logged_and_not_the_last_word(self) -> None:
        """Behaviour 65: the store may be back the next time."""
        self.backend.fails = 1
        with (
            mock.patch.object(base, "PURGE_INTERVAL", 0.0),
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
            sessions = Sessions(self.vault)
            await sessions.load(UNKNOWN)
            due.append(self.due_in(sessions))
            assert sessions._purge_timer is not None
            sessions._purge_timer.cancel()

        # What a slow machine needs between the two readings of the clock.
        assert min(due) > 590
        assert max(due) <= 1200
        # Of a hundred, all within a third of the range: one in 10^40.
        assert max(due) - min(due) > 200

    async def test_it_ends_with_close(self) -> None:
        """Behaviour 65: nothing is due any more, whoever asks."""
        await self.sessions.load(UNKNOWN)
        timer = self.sessions._purge_timer
        assert timer is not None
        await self.sessions.close()
        assert timer.cancelled()

        session = await self.sessions.load(UNKNOWN)
        session["a"] = 1
        await self.sessions.commit(session)
        assert self.sessions._purge_timer is None

    async def test_one_under_way_is_waited_for_and_is_the_last(self) -> None:
        """Behaviour 65: `close` in the middle of it, whatever is still to be removed."""
        for _ in range(1_100):
            await self.vault.save(None, Record(b"x", None, START - 5))
        self.backend.gate = asyncio.Event()
        with mock.patch.object(base, "PURGE_INTERVAL", 0.0):
            await self.sessions.load(UNKNOWN)
            await asyncio.wait_for(self.backend.begun.wait(), 10)
            closing = asyncio.ensure_future(self.sessions.close())
            for _ in range(3):
                await asyncio.sleep(0)
            assert not closing.done()

            self.backend.gate.set()
            await closing

        assert len(self.backend.purged) == 1
        assert self.sessions._purge_timer is None


class CloseTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        self.backend = MemoryBackend()
        self.sessions = Sessions(Vault(self.backend))
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
            self.sessions.start(second())
            done.append("first")

        self.sessions.start(work())
        closing = asyncio.ensure_future(self.sessions.close())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not closing.done()

        go_on.set()
        await closing
        assert done == ["first", "second"]

    async def test_it_closes_the_store(self) -> None:
        """And may be called twice."""
        session = await self.sessions.load(None)
        session["a"] = 1
        await self.sessions.commit(session)
        await self.sessions.close()
        await self.sessions.close()

        assert (await self.sessions.load(session._token)).is_new

    async def test_an_error_of_a_task_is_told_to_whoever_waits(self) -> None:
        """Behaviour 34: and to nobody else, when the client has hung up."""

        async def fail() -> None:
            raise LookupError("of ours")

        task = self.sessions.start(fail())
        with pytest.raises(LookupError, match="of ours"):
            await task
        self.sessions.start(fail())
        await self.sessions.close()
        del task
        gc.collect()

        assert self.unretrieved == []

    async def test_a_task_may_be_cancelled(self) -> None:
        """Behaviour 34: `close` does not wait for it any longer."""
        task = self.sessions.start(asyncio.sleep(3600))
        await asyncio.sleep(0)
        task.cancel()
        await self.sessions.close()

        assert task.cancelled()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert self.unretrieved == []


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

        assert sessions.cookie.name == "__Host-Http-sid"
        assert sessions.loopback_cookie.name == "sid"
        assert sessions.idle_timeout == 5
        assert sessions.lifetime == 6
        assert sessions.persistent is True

    def test_it_opens_the_backend_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Behaviour 74: nothing is looked up per request."""
        opened = []

        class Counted(MemoryBackend):
            @classmethod
            def from_url(cls, url: str, settings: Mapping[str, Any]) -> Counted:
                opened.append(url)
                return cls()

        def find(name: str) -> type[Counted]:
            opened.append(name)
            return Counted

        monkeypatch.setattr(registry, "_find", find)
        application = tornado.web.Application(session_backend="counted:")
        for _ in range(3):
            Sessions.of(application)

        assert opened == ["counted", "counted:"]

    def test_an_error_is_told_at_every_call(self) -> None:
        """Behaviour 54: nothing half made is kept."""
        application = tornado.web.Application(session_backend=7)
        for _ in range(2):
            with pytest.raises(ValueError, match="is of type int"):
                Sessions.of(application)

    def test_its_representation_shows_no_secret(self) -> None:
        """Behaviour 8: where it keeps them, and no more."""
        sessions = Sessions(Vault(MemoryBackend()))

        assert repr(sessions) == "<Sessions in MemoryBackend>"

    def test_it_is_used_outside_of_handlers(self) -> None:
        """In a loop of one's own, which begins later."""
        sessions = Sessions.of(tornado.web.Application(session_backend=MemoryBackend()))

        async def use() -> dict[str, Any]:
            session = await sessions.load(None)
            session["a"] = 1
            await session.save()
            values = dict(await sessions.load(session._token))
            await sessions.close()
            return values

        assert asyncio.run(use()) == {"a": 1}

    def test_something_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """Behaviour 58: not with every request."""
        sessions = Sessions(Vault(MemoryBackend()))
        with caplog.at_level("INFO", "tornado_sessions"):
            for number in range(3):
                sessions.tell_once(20, "The cookie is %r.", number)
            sessions.tell_once(30, "Something else.")

        assert caplog.messages == ["The cookie is 0.", "Something else."]

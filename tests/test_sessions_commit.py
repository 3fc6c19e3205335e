"""Tests of a commit: what it stores, and how often."""

from __future__ import annotations

import asyncio

import pytest

from tests.sessions_case import IDLE, START, UNKNOWN, SessionsCase
from tornado_sessions import (
    BackendError,
    Session,
    SessionDataError,
    SessionError,
)
from tornado_sessions.core.values import state_of


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

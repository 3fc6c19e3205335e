"""Tests of reload and transact: the newest values, and nobody's change lost."""

from __future__ import annotations

import asyncio
from unittest import mock

import pytest

from tests.sessions_case import IDLE, SessionsCase, SlowCount
from tornado_sessions import (
    BackendError,
    ConflictError,
    Session,
    SessionDataError,
    SessionError,
    SessionGoneError,
)
from tornado_sessions.core.values import state_of


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
        assert state_of(session).token == token

    async def test_the_session_is_in_use_all_the_same(self) -> None:
        """Behaviour 48: a request that reloads and only reads is activity, too."""
        token = await self.stored({"a": 1})
        self.clock += IDLE / 2
        session = await self.sessions.load(token)
        await session.reload()
        await self.sessions.commits.commit(state_of(session))
        self.clock += IDLE / 2

        assert await self.is_alive(token)

    async def test_a_save_after_it_asks_for_nothing_again(self) -> None:
        """Behaviour 26: what was loaded is the newest, also after another save."""
        token = await self.stored({"a": 1})
        session = await self.sessions.load(token)
        session["a"] = 2
        await session.save()
        await session.reload()
        self.vault.calls.clear()
        session["a"] = 3
        await session.save()

        assert self.vault.calls == ["save"]
        assert await self.values(token) == {"a": 3}

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
        assert await self.values(state_of(session).token) == {"n": 2}

    async def test_it_stores_a_new_session(self) -> None:
        """Behaviour 15: with what was written before."""
        session = await self.sessions.load(None)
        session["a"] = 1
        await session.transact(lambda session: session.update(b=2))

        assert await self.values(state_of(session).token) == {"a": 1, "b": 2}
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
        assert state_of(session).token == token

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

        envelope = await self.envelope(state_of(session).token)
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
        loaded = await self.elsewhere.load(state_of(session).token)
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

    async def test_a_new_session_is_not_reloaded_inside_either(self) -> None:
        """Behaviour 80: what the function has changed would be lost."""
        session = await self.sessions.load(None)

        async def change(session: Session) -> None:
            session["a"] = 1
            await session.reload()

        with pytest.raises(SessionError):
            await session.transact(change)

    async def test_another_object_of_the_session_saves_nothing_inside_either(
        self,
    ) -> None:
        """Behaviour 80: they would wait for each other for ever."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)

        async def save(session: Session) -> None:
            session["a"] = 1
            other = await self.sessions.load(token)
            other["b"] = 1
            await other.save()

        async def transact(session: Session) -> None:
            session["a"] = 1
            other = await self.sessions.load(token)
            await other.transact(lambda session: session.update(b=1))

        async def save_in_a_task(session: Session) -> None:
            await asyncio.ensure_future(save(session))

        async def transact_further_inside(session: Session) -> None:
            inner = await self.sessions.load(await self.stored())
            await inner.transact(transact)

        for function in (save, transact, save_in_a_task, transact_further_inside):
            with pytest.raises(SessionError, match="on the same session"):
                await asyncio.wait_for(session.transact(function), 30)
            assert await self.values(token) == {"n": 1}

    async def test_a_transaction_may_run_one_of_another_session(self) -> None:
        """Behaviour 80: each saves its own, and neither is in the other's way."""
        token, another = await self.stored({"n": 1}), await self.stored({"n": 1})
        session = await self.sessions.load(token)

        async def count(session: Session) -> None:
            session["n"] += 1
            other = await self.sessions.load(another)
            await other.transact(lambda session: session.update(n=7))
            other["m"] = 1
            await other.save()

        await session.transact(count)

        assert await self.values(token) == {"n": 2}
        assert await self.values(another) == {"n": 7, "m": 1}

    async def test_what_a_transaction_started_may_save_after_it(self) -> None:
        """Behaviour 80: also while another transaction of the session runs."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)
        go_on = asyncio.Event()

        async def save_later() -> None:
            await go_on.wait()
            other = await self.sessions.load(token)
            other["late"] = 1
            await other.save()

        tasks: list[asyncio.Task[None]] = []
        await session.transact(
            lambda session: tasks.append(asyncio.create_task(save_later()))
        )
        count = SlowCount()
        counting = asyncio.ensure_future(session.transact(count))
        await count.begun.wait()
        go_on.set()
        await tasks[0]
        count.go_on.set()
        await counting

        assert await self.values(token) == {"n": 2, "late": 1}

    async def test_an_error_of_the_function_is_no_conflict(self) -> None:
        """Behaviour 81: whichever it is, the function is not run again."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)
        for error in (ConflictError("of its own"), BackendError("of its own")):
            function = mock.Mock(side_effect=error)
            with pytest.raises(SessionError) as caught:
                await session.transact(function)
            assert caught.value is error
            function.assert_called_once_with(session)
        assert await self.values(token) == {"n": 1}

    async def test_a_save_meanwhile_is_no_mistake(self) -> None:
        """Another task may save the same object; both changes stay."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)
        count = SlowCount()
        counting = asyncio.ensure_future(session.transact(count))
        await count.begun.wait()
        saving = asyncio.ensure_future(session.save())
        await asyncio.sleep(0)
        count.go_on.set()
        await asyncio.gather(counting, saving)

        assert await self.values(token) == {"n": 2}

    async def test_a_save_after_another_transaction_is_no_mistake(self) -> None:
        """Behaviour 80: the task has left its own one, whatever others are in."""
        token = await self.stored({"n": 1})
        session = await self.sessions.load(token)
        await session.transact(lambda session: None)
        count = SlowCount()
        counting = asyncio.ensure_future(session.transact(count))
        await count.begun.wait()
        asyncio.get_running_loop().call_soon(count.go_on.set)
        await session.save()
        await counting

        assert await self.values(token) == {"n": 2}

    async def test_a_response_that_is_finished_meanwhile_undoes_nothing(self) -> None:
        """Behaviours 28, 40: it was packed before, and what it changed is kept."""
        token = await self.stored({"n": 1, "a": 1})
        session = await self.sessions.load(token)
        count = SlowCount()
        counting = asyncio.ensure_future(session.transact(count))
        await count.begun.wait()
        session["a"] = 2
        packed = state_of(session).pack()
        committing = asyncio.ensure_future(
            self.sessions.commits.commit(state_of(session), packed)
        )
        await asyncio.sleep(0)
        count.go_on.set()
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

        assert await self.values(state_of(session).token) == {"n": 21}
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

        await asyncio.wait_for(session.transact(count), 30)

        assert await self.values(state_of(session).token) == {"n": 21}

    async def test_a_session_may_expire_while_it_runs(self) -> None:
        """Behaviour 47: it was alive when the request began."""
        token = await self.stored({"n": 0})
        session = await self.sessions.load(token)

        def count(session: Session) -> None:
            session["n"] += 1
            self.clock += IDLE

        await session.transact(count)

        assert await self.values(token) == {"n": 1}

    async def test_what_was_packed_before_a_transaction_does_not_undo_it(self) -> None:
        """Behaviours 28, 37: it has ended when the commit begins."""
        token = await self.stored({"n": 1, "a": 1})
        session = await self.sessions.load(token)

        def count(session: Session) -> None:
            session["n"] += 1

        session["a"] = 2
        packed, era = state_of(session).pack(), state_of(session).generation
        await session.transact(count)
        await self.sessions.commits.commit(state_of(session), packed, era)

        assert await self.values(token) == {"n": 2, "a": 2}

    async def test_what_was_packed_during_a_transaction_does_not_undo_it(self) -> None:
        """Behaviours 28, 37: nor if it has ended when the commit begins."""
        for token in (await self.stored({"n": 1}), None):
            session = await self.sessions.load(token)
            count = SlowCount()
            counting = asyncio.ensure_future(session.transact(count))
            await count.begun.wait()
            session["a"] = 2
            packed, era = state_of(session).pack(), state_of(session).generation
            count.go_on.set()
            await counting
            await self.sessions.commits.commit(state_of(session), packed, era)

            n = 1 if token is None else 2
            assert await self.values(state_of(session).token) == {"n": n, "a": 2}


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

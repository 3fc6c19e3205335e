"""Tests over HTTP that parallel requests of one session lose no update."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any

from tornado.httpclient import HTTPResponse

from tornado_sessions.errors import SessionGoneError
from tornado_sessions.session import Session
from tornado_sessions.testing.applications import (
    Act,
    Crowd,
    Site,
    destroy,
    login,
    look,
    put,
    regenerate,
)
from tornado_sessions.testing.faults import FaultyVault
from tornado_sessions.testing.visitors import Visitor, VisitorTests
from tornado_sessions.web import SessionMixin

#: How many requests of one session come at once.
MANY = 50


class ConcurrencyContract(VisitorTests):
    """Tests of requests that run in parallel on one session."""

    def test_a_second_save_writes_nothing_back_that_was_only_read(self) -> None:
        """Behaviour 26: what another request saved in the meantime stays."""
        self.require_revocable()
        ada = self.visitor()
        ada.does(put(read=1, mine=1))
        other = ada.copy()

        async def save_twice(handler: SessionMixin) -> None:
            handler.session["mine"] = handler.session["read"] + 1
            await handler.session.save()
            await other.send(put(read=9))
            handler.session["again"] = 1
            await handler.session.save()
            handler.session["end"] = 1

        self.assertEqual(ada.does(save_twice).code, 200)
        self.assertEqual(ada.sees(), {"read": 9, "mine": 2, "again": 1, "end": 1})

    def test_fifty_parallel_writes_all_survive(self) -> None:
        """Behaviour 36: each its own key, and each a product of one cart."""
        self.require_revocable()
        self.write_in_parallel([self.site])

    def test_fifty_parallel_writes_in_two_processes_all_survive(self) -> None:
        """Behaviour 36: each its own key, and each a product of one cart."""
        self.require_revocable()
        self.write_in_parallel([self.site, self.serve_another_process()])

    def test_fifty_parallel_transactions_are_all_counted(self) -> None:
        """Behaviour 37: with a suspension inside."""
        self.require_revocable()
        self.count_in_parallel([self.site])

    def test_fifty_parallel_transactions_in_two_processes_are_counted(self) -> None:
        """Behaviour 37: with a suspension inside."""
        self.require_revocable()
        self.count_in_parallel([self.site, self.serve_another_process()])

    def test_a_transaction_sees_the_newest_values(self) -> None:
        """Behaviour 37: whatever the request saw before; it returns the result."""
        self.require_revocable()
        ada = self.visitor()
        ada.does(put(n=1))
        other = ada.copy()

        async def outdated(handler: SessionMixin) -> None:
            handler.session["seen"] = handler.session["n"]
            await other.send(put(n=10))
            handler.write(str(await handler.session.transact(_count)))

        self.assertEqual(ada.does(outdated).body, b"11")
        self.assertEqual(ada.sees(), {"n": 11, "seen": 1})

    def test_of_two_writes_the_last_wins(self) -> None:
        """Behaviour 38: and nothing else is lost, at any depth."""
        self.require_revocable()
        ada = self.visitor()
        ada.does(put(n=1, s="1", li=[1], d={"x": {"n": 1, "m": 1, "gone": 1}}))
        late = ada.copy()

        def change(value: int, key: str) -> Act:
            def act(handler: SessionMixin) -> None:
                handler.session.update(n=value, s=str(value), li=[value])
                handler.session["d"]["x"]["n"] = value
                handler.session["d"]["x"][key] = {"deep": value}

            return act

        async def meanwhile(handler: SessionMixin) -> None:
            change(3, "late")(handler)
            await ada.send(change(2, "early"), _pop_gone)

        late.does(meanwhile)
        self.assertEqual(
            ada.sees(),
            {
                "n": 3,
                "s": "3",
                "li": [3],
                "d": {"x": {"n": 3, "m": 1, "early": {"deep": 2}, "late": {"deep": 3}}},
            },
        )

    def test_a_save_brings_no_destroyed_session_back(self) -> None:
        """Behaviour 39: save() raises; else the response goes out without it."""
        self.require_revocable()
        raised: list[Exception] = []

        async def try_to_save(handler: SessionMixin) -> None:
            try:
                await handler.session.save()
            except SessionGoneError as error:
                raised.append(error)

        for acts in ((look,), (try_to_save,), (regenerate,)):
            ada = self.visitor()
            ada.does(put(a=1))
            late = ada.copy()
            response = late.does(put(a=2), self.meanwhile(ada.copy(), destroy), *acts)
            self.assertEqual(response.code, 200)
            self.assert_cookie_lines(response, 0)
            self.assertEqual(ada.sees(), {})
            self.assertEqual(late.sees(), {})
        self.assertEqual(len(raised), 1)
        self.assertIn("The session was ended elsewhere", str(raised[0]))

    def test_a_save_that_is_cancelled_loses_no_session(self) -> None:
        """Behaviour 10: wherever the move to a new id is when it is cancelled."""
        self.require_revocable()
        vault = self.sessions.vault = _CancellingVault(self.sessions.vault, True)

        async def save(handler: SessionMixin) -> None:
            await self.cancelled(vault, handler.session.save())

        async def transact(handler: SessionMixin) -> None:
            session = handler.session
            await self.cancelled(vault, session.transact(Session.regenerate))

        for verb in (regenerate, login("ada")):
            # The new record is stored, the old one is overwritten.
            for calls_left in (1, 2):
                ada = self.visitor()
                ada.does(put(a=1))
                vault.calls_left = calls_left
                self.assertEqual(ada.does(put(b=2), verb, save).code, 200)
                self.assertEqual(ada.sees(), {"a": 1, "b": 2})
        for calls_left in (2, 3):
            ada = self.visitor()
            ada.does(put(a=1))
            vault.calls_left = calls_left
            self.assertEqual(ada.does(put(b=2), transact).code, 200)
            self.assertEqual(ada.sees(), {"a": 1, "b": 2})

    def test_a_late_request_sends_no_cookie(self) -> None:
        """Behaviour 11: after a regenerate() or destroy(), unless it destroys."""
        self.require_revocable()
        self.sessions.rules.persistent = True
        for verb in (regenerate, destroy):
            for act, lines in ((put(a=2), 0), (look, 0), (regenerate, 0), (destroy, 1)):
                ada = self.visitor()
                ada.does(put(a=1))
                late = ada.copy()
                # So that a renewal is due as well.
                self.time += self.sessions.rules.idle_timeout / 2
                response = late.does(act, self.meanwhile(ada, verb))
                self.assertEqual(response.code, 200)
                self.assert_cookie_lines(response, lines)
                ends = destroy in (act, verb)
                self.assertEqual(ada.sees(), {} if ends else {"a": 1})

    def test_a_logout_with_an_old_id_ends_the_session(self) -> None:
        """Behaviour 77: whichever came first, the load or the new id."""
        self.require_ending_of_copies()
        for verb in (regenerate, login("ada")):
            for loads_first in (True, False):
                ada = self.visitor()
                ada.does(put(a=1))
                late, thief = ada.copy(), ada.copy()
                if loads_first:
                    response = late.does(self.meanwhile(ada, verb, regenerate), destroy)
                else:
                    ada.does(verb)
                    ada.does(regenerate)
                    self.assertEqual(thief.sees(), {})
                    response = late.does(destroy)
                self.assertEqual(response.code, 200)
                self.assert_cookie_lines(response, 1)
                self.assertEqual(ada.sees(), {})

    def test_a_logout_in_another_process_ends_the_session(self) -> None:
        """Behaviour 77: whatever the one it went through knows of it."""
        elsewhere = self.serve_another_process()
        self.require_ending_of_copies()
        ada = self.visitor()
        ada.does(put(a=1))
        late = ada.copy(elsewhere)
        late.does(self.meanwhile(ada, login("ada")), destroy)
        self.assertEqual(ada.sees(), {})

    def test_logouts_and_new_ids_in_parallel_leave_nothing(self) -> None:
        """Behaviour 77: whatever the order of what the store is asked."""
        self.require_ending_of_copies()
        for number in range(10):
            ada = self.visitor()
            ada.does(put(a=1))
            acts = [regenerate, regenerate, destroy, regenerate, destroy]
            acts = acts[number % 5 :] + acts[: number % 5]
            others = [ada.copy() for _ in acts]
            crowd = Crowd(len(acts))

            async def all_at_once(
                others: list[Visitor] = others,
                crowd: Crowd = crowd,
                acts: Sequence[Act] = acts,
            ) -> None:
                await asyncio.gather(
                    *(
                        other.send(look, crowd.join, act)
                        for other, act in zip(others, acts, strict=True)
                    )
                )

            self.complete(all_at_once())
            for other in (ada, *others):
                self.assertEqual(other.sees(), {})

    def test_two_logins_of_one_visitor_at_once_both_hold(self) -> None:
        """Behaviour 76: as of a double click, and each with the cart."""
        for user in ("ada", "grace"):
            ada = self.visitor()
            ada.does(put(cart=1))
            other = ada.copy()
            response = other.does(self.meanwhile(ada, login("ada")), login(user))
            self.assertEqual(response.code, 200)
            self.assert_cookie_lines(response, 1)
            self.assertNotEqual(ada.token, other.token)
            for visitor, name in ((ada, "ada"), (other, user)):
                who = visitor.asks(lambda handler: handler.session.user)
                self.assertEqual((who, visitor.sees()), (name, {"cart": 1}))

    def test_a_login_holds_where_the_session_has_ended(self) -> None:
        """Behaviour 76: with what its own request has set, and nothing else."""
        self.require_ending_of_copies()
        ada = self.visitor()
        ada.does(put(a=1))
        late = ada.copy()
        response = late.does(put(b=2), self.meanwhile(ada, destroy), login("ada"))
        self.assertEqual(response.code, 200)
        self.assert_cookie_lines(response, 1)
        self.assertEqual(late.sees(), {"b": 2})
        self.assertEqual(late.asks(lambda handler: handler.session.user), "ada")

    def test_a_pure_read_overwrites_nothing(self) -> None:
        """Behaviour 40: also where it renews the expiry."""
        ada = self.visitor()
        ada.does(put(a=1))
        self.time += self.sessions.rules.idle_timeout / 2
        if self.sessions.rules.revocable:
            ada.does(look, self.meanwhile(ada.copy(), put(a=2)))
            self.assertEqual(ada.sees(), {"a": 2})
        else:
            ada.does(look)
            self.assertEqual(ada.sees(), {"a": 1})

    def test_requests_share_no_values(self) -> None:
        """Behaviour 41: copies in, copies out."""
        kept: list[Any] = []

        def keep(handler: SessionMixin) -> None:
            kept.append(handler.session.setdefault("list", [1]))

        ada = self.visitor()
        ada.does(keep)
        ada.does(keep)
        for values in kept:
            values.append("leaked")
        self.assertEqual(ada.sees(), {"list": [1]})
        self.assertEqual(self.visitor().sees(), {})

    # How it is done.

    def write_in_parallel(self, sites: list[Site]) -> None:
        ada = self.visitor()
        ada.does(put(first=True))

        def write(number: int) -> Act:
            def act(handler: SessionMixin) -> None:
                handler.session[f"key {number}"] = number
                handler.session.setdefault("cart", {})[f"product {number}"] = 1

            return act

        self.crowd(ada, sites, [write(number) for number in range(MANY)])
        expected: dict[str, Any] = {f"key {number}": number for number in range(MANY)}
        expected["cart"] = {f"product {number}": 1 for number in range(MANY)}
        self.assertEqual(ada.sees(), expected | {"first": True})

    def count_in_parallel(self, sites: list[Site]) -> None:
        ada = self.visitor()
        ada.does(put(n=0))

        async def count(handler: SessionMixin) -> None:
            await handler.session.transact(_count)

        self.crowd(ada, sites, [count] * MANY)
        self.assertEqual(ada.sees(), {"n": MANY})

    async def cancelled(
        self, vault: _CancellingVault, work: Coroutine[Any, Any, object]
    ) -> None:
        vault.victim = asyncio.ensure_future(work)
        await asyncio.wait([vault.victim])
        self.assertTrue(vault.victim.cancelled())

    def crowd(self, visitor: Visitor, sites: list[Site], acts: list[Act]) -> None:
        """Runs each act in a separate request; all begin before one ends."""
        crowd = Crowd(len(acts))

        async def send() -> list[HTTPResponse]:
            requests: list[Awaitable[HTTPResponse]] = [
                visitor.copy(sites[number % len(sites)]).send(look, crowd.join, act)
                for number, act in enumerate(acts)
            ]
            return await asyncio.gather(*requests)

        responses = self.complete(send())
        self.assertEqual({response.code for response in responses}, {200})


class _CancellingVault(FaultyVault):
    """Cancels a task after a number of calls of the store."""

    calls_left = 0
    victim: asyncio.Future[object] | None = None

    async def _enter(self, operation: str) -> None:
        if self.victim is not None and not self.victim.done():
            self.calls_left -= 1
            if self.calls_left == 0:
                self.victim.cancel()
        await super()._enter(operation)


async def _count(session: Session) -> int:
    n: int = session["n"]
    await asyncio.sleep(0)
    session["n"] = n + 1
    return n + 1


def _pop_gone(handler: SessionMixin) -> None:
    del handler.session["d"]["x"]["gone"]

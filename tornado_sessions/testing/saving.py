"""Tests over HTTP that changes are saved before the response is sent."""

from __future__ import annotations

import asyncio

import tornado.web
from tornado.testing import gen_test

from tornado_sessions.errors import (
    SessionError,
)
from tornado_sessions.testing.applications import (
    Act,
    destroy,
    fail,
    login,
    look,
    put,
    regenerate,
    save,
)
from tornado_sessions.testing.visitors import VisitorTests
from tornado_sessions.testing.ways import WAYS, not_found, stream, values_of
from tornado_sessions.web import SessionMixin


class SavingContract(VisitorTests):
    """Tests of when a session is saved, and how often."""

    # In order.

    @gen_test(timeout=30)
    async def test_the_record_is_stored_before_a_byte_leaves(self) -> None:
        """Behaviour 27: whichever way the response is finished."""
        vault = self.watch(suspends=True)
        for way, act, method, status in WAYS:
            with self.subTest(way=way):
                gate = self.hold(vault)
                ada = self.visitor()
                received: list[str] = []
                response = asyncio.ensure_future(
                    ada.send(
                        put(a=1), act, method=method, header_callback=received.append
                    )
                )
                await gate.reached.wait()
                # Another request meanwhile is served: there was time to send.
                await self.visitor().send(path="/plain")
                await self.visitor().send(path="/plain")
                self.assertEqual(received, [])
                gate.set()
                self.assertEqual((await response).code, status)
                self.assertEqual(await values_of(ada), {"a": 1})

    def test_a_response_is_saved_once(self) -> None:
        """Behaviour 28: however often it is flushed."""
        vault = self.watch()
        for way, act, method, _ in WAYS:
            with self.subTest(way=way):
                vault.calls.clear()
                self.visitor().does(put(a=1), act, method=method)
                self.assertEqual(vault.calls, ["save"])

    def test_a_second_finish_is_tornados_own_error(self) -> None:
        """Behaviour 28: as it is without a session."""

        def finish_twice(handler: tornado.web.RequestHandler) -> None:
            handler.finish("once")
            handler.finish("twice")

        response = self.visitor().does(put(a=1), finish_twice)
        self.assertEqual(response.body, b"once")
        self.visitor().does(finish_twice, path="/plain")
        self.assertEqual(len(self.log.find("RuntimeError: finish() called twice")), 2)

    def test_a_change_after_the_first_flush_is_saved_at_the_end(self) -> None:
        """Behaviour 28: no cookie is needed for it."""
        self.require_revocable()
        ada = self.visitor()
        ada.does(put(a=1))
        vault = self.watch()
        response = ada.does(put(b=1), stream, put(c=1))
        self.assertEqual(response.body, b"One part, another.")
        self.assertEqual(vault.calls.count("save"), 2)
        self.assertEqual(ada.sees(), {"a": 1, "b": 1, "c": 1})

    def test_what_needs_a_cookie_raises_after_the_first_flush(self) -> None:
        """Behaviour 28: a first write, a regenerate(), a login()."""
        raised: list[SessionError] = []

        def attempt(act: Act) -> Act:
            def caught(handler: SessionMixin) -> None:
                try:
                    act(handler)
                except SessionError as error:
                    raised.append(error)

            return caught

        ada = self.visitor()
        response = ada.does(look, stream, attempt(put(a=1)))
        self.assertEqual(response.body, b"One part, another.")
        ada.does(put(a=1))
        response = ada.does(stream, attempt(regenerate), attempt(login("ada")))
        self.assertEqual(response.code, 200)
        self.assertEqual(len(raised), 3)
        for error in raised:
            self.assertRegex(
                str(error), "headers of the response are out.* before flush"
            )
        self.assertEqual(ada.sees(), {"a": 1})

    def test_a_nested_change_that_needs_a_cookie_is_told(self) -> None:
        """Behaviours 21, 28: where each save does, and the headers are out."""
        if self.sessions.rules.revocable:
            self.skipTest("a save needs no new cookie")
        ada = self.visitor()
        ada.does(put(cart={}))
        response = ada.does(
            stream, lambda handler: handler.session["cart"].update(apple=1)
        )
        self.assertEqual(response.body, b"One part, another.")
        self.assertEqual(ada.sees(), {"cart": {}})
        message = "SessionError: This backend keeps the session in the cookie"
        self.assertEqual(len(self.log.find(message)), 1)

    def test_destroying_after_the_first_flush_ends_the_record(self) -> None:
        """Behaviour 28: though its cookie cannot be expired any more."""
        self.require_revocable()
        ada = self.visitor()
        ada.does(put(a=1))
        self.assert_cookie_lines(ada.does(stream, destroy), 0)
        self.assertEqual(ada.sees(), {})

    def test_an_error_drops_everything(self) -> None:
        """Behaviour 29: a login and a regenerate with it."""

        def status(handler: SessionMixin) -> None:
            handler.set_status(500)

        for end in (fail, status):
            ada = self.visitor()
            ada.does(put(a=1))
            for act in (put(a=2), login("ada"), regenerate):
                response = ada.does(act, put(b=1), end)
                self.assertEqual(response.code, 500)
                self.assert_cookie_lines(response, 0)
                self.assertEqual(ada.sees(), {"a": 1})
                self.assertIsNone(ada.asks(lambda handler: handler.session.user))

    def test_an_error_undoes_no_destroy(self) -> None:
        """Behaviour 29: it holds, and what was written after it does not."""
        ada = self.visitor()
        ada.does(put(a=1))
        captured = ada.copy()
        response = ada.does(destroy, put(b=1), fail)
        self.assertEqual(response.code, 500)
        self.assert_cookie_lines(response, 1)
        self.assertIsNone(ada.cookie)
        if self.ends_copies:
            self.assertEqual(captured.sees(), {})

    def test_what_came_before_an_http_error_is_saved(self) -> None:
        """Behaviour 29: where its status is below 500."""
        ada = self.visitor()
        response = ada.does(put(a=1), login("ada"), not_found)
        self.assertEqual(response.code, 404)
        self.assertEqual(ada.sees(), {"a": 1})
        self.assertEqual(ada.asks(lambda handler: handler.session.user), "ada")

    # In the middle of a request.

    def test_a_save_in_the_middle_is_the_only_one(self) -> None:
        """Behaviour 26: unless something changes after it."""
        ada = self.visitor()
        ada.does(put(a=1))
        vault = self.watch()
        ada.does(put(a=2), save, look)
        self.assertEqual(vault.calls, ["load", "save"])
        vault.calls.clear()
        ada.does(put(a=3), save, put(b=1))
        self.assertEqual(vault.calls, ["load", "save", "load", "save"])
        self.assertEqual(ada.sees(), {"a": 3, "b": 1})

    def test_values_in_memory_stay_after_a_save(self) -> None:
        """Behaviour 26: what a handler holds is still part of the session."""

        async def keep(handler: SessionMixin) -> None:
            cart = handler.session.setdefault("cart", {})
            cart["apple"] = 1
            await handler.session.save()
            cart["pear"] = 2

        ada = self.visitor()
        ada.does(keep)
        self.assertEqual(ada.sees(), {"cart": {"apple": 1, "pear": 2}})

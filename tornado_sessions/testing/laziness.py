"""Tests over HTTP that a session is stored when it is written, and not before."""

from __future__ import annotations

import inspect

from tornado_sessions.testing.applications import (
    Act,
    destroy,
    login,
    look,
    put,
    regenerate,
    save,
)
from tornado_sessions.testing.visitors import VisitorTests
from tornado_sessions.web import SessionMixin


class LazinessContract(VisitorTests):
    """Tests of what a session costs before anything is in it."""

    def test_a_request_without_a_session_costs_nothing(self) -> None:
        """Behaviour 12: no store call, no cookie, no Vary."""
        vault = self.watch()
        response = self.visitor().does()
        self.assert_cookie_lines(response, 0)
        self.assertNotIn("Vary", response.headers)
        self.assertEqual(vault.calls, [])

    def test_reading_an_absent_session_creates_nothing(self) -> None:
        """Behaviour 13: neither a record nor a cookie."""
        vault = self.watch()
        response = self.visitor().does(look)
        self.assert_cookie_lines(response, 0)
        self.assertEqual(vault.calls, [])

    def test_a_new_session_without_values_is_not_stored(self) -> None:
        """Behaviour 14: nor is one that was emptied again."""
        vault = self.watch()
        undos: tuple[Act, ...] = (
            lambda handler: handler.session.clear(),
            lambda handler: handler.session.popitem(),
        )
        for undo in undos:
            self.assert_cookie_lines(self.visitor().does(put(a=1), undo), 0)
        response = self.visitor().does(
            lambda handler: handler.session.set_expiry(idle=60)
        )
        self.assert_cookie_lines(response, 0)
        self.assertEqual(vault.calls, [])

    def test_a_new_session_is_stored_once(self) -> None:
        """Behaviour 15: with one Set-Cookie."""
        vault = self.watch()
        self.assert_cookie_lines(self.visitor().does(put(a=1), put(b=2)), 1)
        self.assertEqual(vault.calls, ["save"])

    def test_the_session_is_one_object_throughout_a_request(self) -> None:
        """Behaviour 16: whatever becomes of it."""

        async def same(handler: SessionMixin) -> None:
            first = handler.session
            for act in (put(a=1), save, regenerate, login("ada"), save, destroy):
                done = act(handler)
                if inspect.isawaitable(done):
                    await done
                if handler.session is not first:
                    raise AssertionError(act)

        ada = self.visitor()
        self.assertEqual(ada.does(same).code, 200)
        ada.does(put(a=1))
        self.assertEqual(ada.does(same).code, 200)

    def test_emptying_a_session_keeps_it(self) -> None:
        """Behaviour 17: its record and its id stay."""
        ada = self.visitor()
        ada.does(put(a=1))
        before = ada.token
        handle = ada.asks(lambda handler: handler.session.id)
        ada.does(lambda handler: handler.session.clear())
        self.assertEqual(ada.asks(lambda handler: handler.session.id), handle)
        self.assertFalse(ada.asks(lambda handler: handler.session.is_new))
        self.assertEqual(ada.sees(), {})
        if self.sessions.rules.revocable:
            self.assertEqual(ada.token, before)

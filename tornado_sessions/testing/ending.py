"""Tests over HTTP that a session that was ended stays ended."""

from __future__ import annotations

from tornado_sessions.testing.applications import (
    destroy,
    fail,
    login,
    put,
)
from tornado_sessions.testing.visitors import VisitorTests, session_cookies


class EndingContract(VisitorTests):
    """Tests of destroy() and logout()."""

    def test_destroying_ends_the_session(self) -> None:
        """Behaviour 42: the values are gone at once, and the cookie expires."""
        ada = self.visitor()
        ada.does(put(a=1))
        token = ada.token
        left: list[object] = []
        response = ada.does(
            destroy, lambda handler: left.extend([dict(handler.session)])
        )
        self.assertEqual(left, [{}])
        self.assertEqual(
            "\n".join(session_cookies(response)),
            "session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT;"
            " Path=/; HttpOnly; SameSite=Lax",
        )
        if self.ends_copies:
            self.assertIsNone(self.complete(self.sessions.vault.load(token)))

    def test_a_cookie_expires_with_the_attributes_it_was_set_with(self) -> None:
        """Behaviour 42: else the browser would keep it."""
        site = self.serve(
            session_cookie_kwargs={
                "domain": "example.com",
                "path": "/shop",
                "samesite": "None",
                "partitioned": True,
            }
        )
        ada = self.visitor(site, https=True)
        (set_line,) = session_cookies(ada.does(put(a=1)))
        (expired_line,) = session_cookies(ada.does(destroy))
        attributes = set_line.partition(";")[2]
        self.assertEqual(
            expired_line,
            "__Secure-session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT;"
            + attributes,
        )
        self.assertEqual(
            attributes,
            " Path=/shop; Domain=example.com; Secure; HttpOnly; SameSite=None;"
            " Partitioned",
        )

    def test_destroying_what_never_had_a_cookie_sends_none(self) -> None:
        """Behaviour 43: there is nothing to expire."""
        self.assert_cookie_lines(self.visitor().does(destroy), 0)
        self.assert_cookie_lines(self.visitor().does(put(a=1), destroy), 0)

    def test_a_write_after_destroying_begins_a_new_session(self) -> None:
        """Behaviour 43: with a new id, and nothing of the old one."""
        ada = self.visitor()
        ada.does(put(a=1), login("ada"))
        before = ada.token
        handle = ada.asks(lambda handler: handler.session.id)
        self.assert_cookie_lines(ada.does(destroy, put(b=2)), 1)
        self.assertNotEqual(ada.token, before)
        self.assertNotEqual(ada.asks(lambda handler: handler.session.id), handle)
        self.assertIsNone(ada.asks(lambda handler: handler.session.user))
        self.assertEqual(ada.sees(), {"b": 2})

    def test_a_captured_cookie_is_dead_after_logout(self) -> None:
        """Behaviour 44: at once."""
        self.require_ending_of_copies()
        ada = self.visitor()
        ada.does(put(a=1), login("ada"))
        thief = ada.copy()
        ada.does(lambda handler: handler.session.logout())
        self.assertIsNone(thief.asks(lambda handler: handler.session.user))
        self.assertEqual(thief.sees(), {})

    def test_a_captured_cookie_is_dead_in_every_process(self) -> None:
        """Behaviour 44: also where the session was used before."""
        elsewhere = self.serve_another_process()
        ada = self.visitor()
        ada.does(put(a=1), login("ada"))
        thief = ada.copy(elsewhere)
        self.assertEqual(thief.sees(), {"a": 1})
        ada.does(lambda handler: handler.session.logout())
        self.assertEqual(thief.sees(), {})

    def test_a_removal_that_cannot_be_confirmed_is_no_success(self) -> None:
        """Behaviour 45: the browser's cookie is cleared all the same."""
        self.require_ending_of_copies()
        for acts in ((destroy,), (destroy, put(b=2)), (destroy, fail)):
            with self.subTest(acts=len(acts)):
                ada = self.visitor()
                ada.does(put(a=1))
                vault = self.watch()
                vault.failing = {"delete"}
                response = ada.does(*acts)
                self.assertEqual(response.code, 503)
                self.assert_cookie_lines(response, 1)
                self.assertIsNone(ada.cookie)
                vault.failing.clear()

"""Tests over HTTP of a login, and of pages that ask for one."""

from __future__ import annotations

from tornado.httpclient import HTTPResponse

from tornado_sessions.testing.applications import (
    login,
    look,
    put,
    regenerate,
)
from tornado_sessions.testing.devices import (
    UserTests,
    call_it,
    new_user,
    remember,
    revoke_others,
)
from tornado_sessions.testing.visitors import Visitor
from tornado_sessions.web import SessionMixin


class AuthenticationContract(UserTests):
    """Tests of what a login takes along, and of what it opens."""

    def test_authenticated_works_as_it_stands(self) -> None:
        """Tornado's own: to the login_url with ``next``, or 403."""
        visitor = self.visitor()
        visitor.does(put(a=1))
        self.assert_turned_away(visitor, "/members")
        visitor.does(login("ada"))
        for method in ("GET", "HEAD", "POST"):
            response = self.asks_for(visitor, "/members", method)
            self.assertEqual(response.code, 200)
        visitor.does(lambda handler: handler.session.logout())
        self.assert_turned_away(visitor, "/members")

    def test_a_recent_login_is_asked_for(self) -> None:
        """Behaviour 48: a sign-in counts for so long, however busy the session."""
        visitor = self.visitor()
        self.assert_turned_away(visitor, "/recent")
        visitor.does(put(a=1))
        self.assert_turned_away(visitor, "/recent")
        for _ in range(2):
            visitor.does(login("ada"))
            for seconds in (0, 299):
                self.time += seconds
                for method in ("GET", "HEAD", "POST"):
                    response = self.asks_for(visitor, "/recent", method)
                    self.assertEqual(response.code, 200)
            visitor.does(put(a=2), regenerate)
            self.time += 1
            self.assert_turned_away(visitor, "/recent")
            self.assertEqual(self.user_of(visitor), "ada")

    def test_whoever_asks_to_be_remembered_is(self) -> None:
        """Behaviour 51: through all that becomes of the session, until they do not."""
        visitor = self.visitor()
        visitor.does(put(a=1))
        life = int(self.sessions.rules.idle_timeout)
        visitor.does(login("ada"))
        for act in (remember, regenerate, login("ada"), put(a=2)):
            self.assertEqual(self.max_age(visitor.does(act)), life)
        self.time += life / 2
        self.assertEqual(self.max_age(visitor.does(look)), life)
        self.assertTrue(visitor.asks(lambda handler: handler.session.persistent))
        response = visitor.does(_forget)
        self.assert_cookie_lines(response, 1)
        self.assertIsNone(self.max_age(response))
        self.assertFalse(visitor.asks(lambda handler: handler.session.persistent))
        self.assertIsNone(self.max_age(visitor.does(regenerate)))

    def test_a_login_takes_nothing_but_values_along(self) -> None:
        """Behaviour 79: what else an anonymous visitor had may have been planted."""
        visitor = self.visitor()
        visitor.does(put(a=1, b=2), remember, call_it("Planted"))
        visitor.does(lambda handler: handler.session.flash("Planted."))
        handle = self.handle(visitor)
        response = visitor.does(login("ada"))
        self.assertIsNone(self.max_age(response))
        self.assertEqual(visitor.sees(), {"a": 1, "b": 2})
        label = visitor.asks(lambda handler: handler.session.label)
        flashes = visitor.asks(lambda handler: handler.session.flashes())
        self.assertEqual((label, flashes), ("", []))
        self.assertNotEqual(self.handle(visitor), handle)

    def test_a_login_keeps_the_keys_that_it_names(self) -> None:
        """Behaviour 79: and what the same request has set besides values."""
        visitor = self.visitor()
        visitor.does(put(a=1, b=2))

        def sign_in(handler: SessionMixin) -> None:
            handler.session.persistent = True
            handler.session.login("ada", keep=["a"])

        life = int(self.sessions.rules.idle_timeout)
        self.assertEqual(self.max_age(visitor.does(sign_in)), life)
        self.assertEqual(visitor.sees(), {"a": 1})

    def test_two_logins_out_of_one_session_share_no_handle(self) -> None:
        """Behaviours 46, 79: so "all but this one" spares one of them alone."""
        self.require_ending()
        user = new_user()
        planted = self.visitor()
        planted.does(put(a=1))
        thief, owner = planted.copy(), planted.copy()
        thief.does(look, self.meanwhile(owner, login(user)), login(user))
        self.time += 1
        owner.does(revoke_others(user))
        self.assertEqual(self.user_of(owner), user)
        self.assertIsNone(self.user_of(thief))

    def asks_for(self, visitor: Visitor, path: str, method: str) -> HTTPResponse:
        return visitor.does(
            path=path, method=method, allow_nonstandard_methods=True, body=None
        )

    def assert_turned_away(self, visitor: Visitor, path: str) -> None:
        """Checks that ``path`` is for others."""
        for method in ("GET", "HEAD"):
            response = self.asks_for(visitor, f"{path}?a=1&b", method)
            self.assertEqual(response.code, 302)
            self.assertEqual(
                response.headers["Location"],
                f"/login?next=%2F{path[1:]}%3Fa%3D1%26b",
            )
        self.assertEqual(self.asks_for(visitor, path, "POST").code, 403)


def _forget(handler: SessionMixin) -> None:
    handler.session.persistent = False

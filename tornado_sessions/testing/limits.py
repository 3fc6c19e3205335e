"""Tests over HTTP of the limit on the sessions of a user."""

from __future__ import annotations

from tornado_sessions.errors import (
    SessionLimitError,
)
from tornado_sessions.testing.applications import (
    Crowd,
    Site,
    login,
    put,
    regenerate,
    save,
)
from tornado_sessions.testing.devices import (
    MANY,
    UserTests,
    gather,
    new_user,
)
from tornado_sessions.web import SessionMixin


class LimitContract(UserTests):
    """Tests of a login that would exceed the limit."""

    def test_the_oldest_sign_in_makes_room(self) -> None:
        """Behaviour 46: where a user may have only so many sessions."""
        self.require_listing()
        self.limit(2)
        user = new_user()
        devices = []
        for _ in range(3):
            devices.append(self.device(user))
            self.time += 1
        self.assertEqual(
            [self.user_of(device) for device in devices], [None, user, user]
        )
        devices[1].does(login(user), put(a=1))
        self.time += 1
        self.device(user)
        self.assertEqual(devices[1].sees(), {"a": 1})
        self.assertIsNone(self.user_of(devices[2]))

    def test_a_login_too_many_is_refused(self) -> None:
        """Behaviour 46: with 403, and the visitor's session is as it was."""
        self.require_listing()
        self.limit(1, "refuse")
        user = new_user()
        first, second, third = self.device(user), self.visitor(), self.visitor()
        second.does(put(cart=1))
        before = second.token
        for visitor, act in ((second, put(a=1)), (third, put(a=1)), (third, save)):
            response = visitor.does(login(user), act)
            self.assertEqual(response.code, 403)
            self.assert_cookie_lines(response, 0)
        self.assertEqual(second.sees(), {"cart": 1})
        self.assertEqual(second.token, before)
        self.assertEqual(len(self.sessions_of(user)), 1)
        self.assertEqual(self.log.find("ERROR"), [])
        first.does(login(user))
        self.assertEqual(self.user_of(first), user)
        first.does(lambda handler: handler.session.logout())
        self.assertEqual(second.does(login(user)).code, 200)
        self.assertEqual((self.user_of(second), second.sees()), (user, {"cart": 1}))

    def test_a_refused_login_can_be_told_on_a_page(self) -> None:
        """Behaviour 46: save() raises, and what comes after it is saved."""
        self.require_listing()
        self.limit(1, "refuse")
        user = new_user()
        self.device(user)

        async def try_to_sign_in(handler: SessionMixin) -> None:
            handler.session.login(user)
            try:
                await handler.session.save()
            except SessionLimitError as error:
                handler.session["told"] = True
                handler.write(str(error))

        for known in (False, True):
            visitor = self.visitor()
            if known:
                visitor.does(put(cart=1))
            response = visitor.does(try_to_sign_in)
            self.assertEqual(response.code, 200)
            self.assertIn(b"has 1 session already", response.body)
            self.assertIsNone(self.user_of(visitor))
            cart = {"cart": 1} if known else {}
            self.assertEqual(visitor.sees(), cart | {"told": True})
        self.assertEqual(len(self.sessions_of(user)), 1)

    def test_fifty_parallel_logins_stay_within_the_limit(self) -> None:
        """Behaviour 46: whichever the policy."""
        self.require_listing()
        self.log_in_in_parallel([self.site])

    def test_fifty_parallel_logins_in_two_processes_do(self) -> None:
        """Behaviour 46: whichever the policy."""
        elsewhere = self.serve_another_process()
        self.require_listing()
        self.log_in_in_parallel([self.site, elsewhere])

    def test_only_a_login_looks_for_others(self) -> None:
        """Behaviour 46: what else is saved costs what it did."""
        self.require_listing()
        self.limit(2)
        device = self.device(new_user())
        vault = self.watch()
        device.does(put(a=1), save)
        device.does(regenerate)
        self.visitor().does(put(a=1))
        self.assertNotIn("find", vault.calls)

    def test_a_limit_that_cannot_be_held_is_no_success(self) -> None:
        """Behaviours 30, 46: 503, and the visitor's session is as it was."""
        self.require_listing()
        vault = self.watch()
        for policy in ("oldest", "refuse"):
            self.limit(1, policy)
            user = new_user()
            device = self.device(user)
            for visitor in (self.visitor(), self.visitor()):
                visitor.does(put(cart=1))
                vault.failing = {"find"}
                response = visitor.does(login(user))
                vault.failing.clear()
                self.assertEqual(response.code, 503)
                self.assert_cookie_lines(response, 0)
                self.assertEqual(visitor.sees(), {"cart": 1})
            self.assertEqual(len(self.sessions_of(user)), 1)
            self.assertEqual(self.user_of(device), user)

    def test_a_limit_needs_a_store_that_finds_by_user(self) -> None:
        """Behaviour 46: it says so at the start, and names both."""
        if self.sessions.vault.finds_by_user:
            self.skipTest("this store lists the sessions of a user")
        with self.assertRaisesRegex(
            ValueError, r"session_max_per_user=3 needs .* session_backend is a \w+"
        ):
            self.make_application(session_max_per_user=3)

    def limit(self, count: int, policy: str = "oldest") -> None:
        """Lets a user have so many sessions, on every site."""
        for site in self.sites:
            site.sessions.logins.limit = count
            site.sessions.logins.policy = policy

    def tick(self, handler: SessionMixin) -> None:
        """Lets a moment pass."""
        self.time += 0.001

    def log_in_in_parallel(self, sites: list[Site]) -> None:
        for policy in ("oldest", "refuse"):
            self.limit(3, policy)
            user = new_user()
            crowd = Crowd(MANY)
            visitors = [self.visitor(sites[n % len(sites)]) for n in range(MANY)]
            responses = self.complete(
                gather(visitors, crowd.join, self.tick, login(user))
            )
            codes = [response.code for response in responses]
            signed_in = [self.user_of(visitor) for visitor in visitors].count(user)
            self.assertEqual(len(self.sessions_of(user)), signed_in)
            if policy == "oldest":
                self.assertEqual(set(codes), {200})
                self.assertEqual(signed_in, 3)
            else:
                self.assertEqual(set(codes), {200, 403})
                self.assertEqual(signed_in, codes.count(200))
                self.assertLessEqual(signed_in, 3)
                self.assertTrue(signed_in == 3 or len(sites) > 1)

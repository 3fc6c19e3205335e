"""Proves over HTTP when sessions end."""

from __future__ import annotations

import secrets

from tornado_sessions.testing.applications import (
    Act,
    destroy,
    login,
    look,
    put,
    regenerate,
    save,
)
from tornado_sessions.testing.visitors import Visitor, VisitorTests, session_cookies
from tornado_sessions.web import SessionMixin

DAY = 24 * 3600


class ExpiryContract(VisitorTests):
    """What holds of time; the only clock is the one that the test sets."""

    def guest(self, idle: float = 1000, lifetime: float = 5000) -> Visitor:
        """Returns a visitor whose session begins now, with timeouts in seconds."""
        self.sessions.rules.idle_timeout, self.sessions.rules.lifetime = idle, lifetime
        visitor = self.visitor()
        visitor.does(put(a=1))
        return visitor

    def assert_alive(self, visitor: Visitor) -> None:
        self.assertEqual(visitor.sees(), {"a": 1})

    def assert_ended(self, visitor: Visitor) -> None:
        self.assertEqual(visitor.sees(), {})

    def test_an_idle_session_ends(self) -> None:
        """Behaviour 47: 90 to 100 % of the timeout after the last request."""
        early, late = self.guest(), self.guest()
        self.time += 99
        self.assert_alive(early)
        self.assert_alive(late)
        self.time += 900
        self.assert_alive(early)
        self.time += 101
        self.assert_ended(late)

    def test_the_lifetime_ends_a_busy_session(self) -> None:
        """Behaviours 47, 48: activity extends the idle timeout alone."""
        ada = self.guest()
        for _ in range(9):
            self.time += 500
            self.assert_alive(ada)
            ada.does(put(a=2), put(a=1))
        self.time += 499
        self.assert_alive(ada)
        self.time += 1
        self.assert_ended(ada)

    def test_a_login_replaces_the_timeouts_of_anonymous_visitors(self) -> None:
        """Behaviours 47, 48: those of others hold from there, until the logout."""
        rules = self.sessions.rules
        rules.anonymous_idle_timeout, rules.anonymous_lifetime = 100, 300
        ada, bob, eve = self.guest(), self.guest(), self.guest()
        ada.does(login("ada"))
        self.time += 99
        self.assert_alive(bob)
        self.time += 1
        self.assert_ended(eve)
        self.assert_alive(ada)
        self.time += 98
        self.assert_alive(bob)
        self.time += 98
        self.assert_alive(bob)
        self.time += 5
        self.assert_ended(bob)
        self.time += 797
        self.assert_alive(ada)
        ada.does(destroy, put(a=1))
        self.time += 100
        self.assert_ended(ada)

    def test_of_two_settings_the_earlier_end_counts(self) -> None:
        """Behaviour 47: those of when it was stored, and those of today."""
        ada, eve = self.guest(), self.guest()
        self.sessions.rules.idle_timeout = 200
        self.time += 150
        self.assert_alive(ada)
        self.time += 51
        self.assert_ended(eve)
        self.sessions.rules.idle_timeout = 100_000
        self.sessions.rules.lifetime = 100_000
        self.time += 150
        self.assert_ended(ada)

    def test_a_request_that_began_in_time_loses_nothing(self) -> None:
        """Behaviour 47: what it does takes longer than the session would have."""
        verbs: tuple[Act, ...] = (put(b=1), save, regenerate, login("ada"), _count)
        for verb in verbs:
            ada = self.guest()
            self.time += 600
            ada.does(self._take(500), put(c=1), verb)
            self.assertEqual(ada.sees().get("c"), 1)
            self.time += 899
            self.assertEqual(ada.sees().get("a"), 1)

    def test_a_login_that_began_in_time_holds(self) -> None:
        """Behaviour 47: such as one that takes long to check a password."""
        ada = self.guest()
        self.time += 950
        ada.does(self._take(100), login("ada"))
        self.assertEqual(ada.asks(lambda handler: handler.session.user), "ada")

    def test_a_slow_request_counts_as_use(self) -> None:
        """Behaviours 47, 48: also where it only reads."""
        ada = self.guest()
        self.time += 600
        ada.does(look, self._take(500))
        self.time += 899
        self.assert_alive(ada)

    def test_a_slow_request_counts_as_use_of_what_was_just_saved(self) -> None:
        """Behaviours 40, 47, 49: what was noted before counts at its end."""
        acts = [(look,), (), (save,), (look, _unchanged)]
        for before in acts:
            ada = self.guest()
            vault = self.watch()
            ada.does(*before, self._take(1100))
            self.assertLessEqual(vault.calls.count("save"), 1)
            self.time += 899
            self.assert_alive(ada)

    def test_a_long_response_counts_as_use(self) -> None:
        """Behaviour 47: though its headers were sent long ago."""
        if not self.sessions.rules.revocable:
            self.skipTest("a new cookie cannot be sent after the headers")
        ada = self.guest()
        ada.does(look, _flush, self._take(1100))
        self.time += 899
        self.assert_alive(ada)

    def test_a_slow_request_does_not_extend_the_lifetime(self) -> None:
        """Behaviour 47: it gets a normal response, and is the last one."""
        ada = self.guest(lifetime=500)
        self.time += 400
        self.assertEqual(ada.does(self._take(200), put(b=1), save).code, 200)
        self.assert_ended(ada)

    def test_a_request_that_came_too_late_saves_nothing(self) -> None:
        """Behaviours 2, 39, 47: it begins with an expired session."""
        ada = self.guest()
        self.time += 1000
        ada.does(put(b=1))
        self.assertEqual(ada.sees(), {"b": 1})

    def test_a_login_restarts_both_clocks(self) -> None:
        """Behaviour 48: the idle timeout and the lifetime."""
        ada = self.guest(idle=4000)
        self.time += 3900
        ada.does(login("ada"))
        self.time += 3900
        self.assert_alive(ada)
        self.time += 1099
        self.assert_alive(ada)
        self.time += 1
        self.assert_ended(ada)

    def test_busy_reading_costs_few_writes(self) -> None:
        """Behaviour 49: at most one per tenth of the idle timeout."""
        ada = self.guest()
        vault = self.watch()
        for _ in range(50):
            self.time += 10
            self.assert_alive(ada)
        self.assertEqual(vault.calls.count("load"), 50)
        self.assertEqual(vault.calls.count("save"), 5)

    def test_an_expiry_of_its_own_survives(self) -> None:
        """Behaviour 50: it moves the cookie and the record alike."""
        ada = self.guest()

        def remember(handler: SessionMixin) -> None:
            handler.session.set_expiry(idle=3000, lifetime=3500)
            handler.session.persistent = True

        self.assertEqual(self.max_age(ada.does(remember)), 3000)
        self.time += 2900
        self.assertEqual(self.max_age(ada.does(look)), 600)
        self.assertTrue(ada.asks(lambda handler: handler.session.persistent))
        self.time += 599
        self.assert_alive(ada)
        self.time += 1
        self.assert_ended(ada)

    def test_a_cookie_of_the_browser_session_has_no_age(self) -> None:
        """Behaviour 51: neither Max-Age nor Expires."""
        (line,) = session_cookies(self.visitor().does(put(a=1)))
        self.assertNotRegex(line, "(?i)max-age|expires")

    def test_a_persistent_cookie_lives_as_long_as_its_record(self) -> None:
        """Behaviour 51: rounded up, and renewed when the record is."""
        self.sessions.rules.persistent = True
        self.time = float(int(self.time)) + 0.5
        ada = self.guest(idle=1000.25)
        self.time += 90
        self.assertIsNone(self.max_age(ada.does(look)))
        self.time += 20
        self.assertEqual(self.max_age(ada.does(look)), 1001)
        self.assertEqual(self.max_age(ada.does(put(b=1))), 1001)
        self.time += 10
        self.assertEqual(ada.asks(lambda handler: handler.session.expires_in), 991)

    def test_the_cookie_of_an_anonymous_visitor_lives_as_long_as_its_record(
        self,
    ) -> None:
        """Behaviour 51: with a login it is as old as that of a user."""
        rules = self.sessions.rules
        rules.persistent, rules.anonymous_idle_timeout = True, 100
        rules.idle_timeout = 1000
        ada = self.visitor()
        self.assertEqual(self.max_age(ada.does(put(a=1))), 100)
        self.assertEqual(self.max_age(ada.does(login("ada"))), 1000)

    def test_no_cookie_outlives_400_days(self) -> None:
        """Behaviour 51: the browsers' own limit."""
        self.sessions.rules.persistent = True
        self.sessions.rules.idle_timeout = self.sessions.rules.lifetime = 1000 * DAY
        age = self.max_age(self.visitor().does(put(a=1)))
        self.assertEqual(age, 400 * DAY)

    def test_a_session_lasts_for_more_than_thirty_days(self) -> None:
        """Behaviour 52: which some stores take for a date."""
        ada = self.guest(idle=60 * DAY, lifetime=90 * DAY)
        self.assert_alive(ada)
        self.time += 50 * DAY
        self.assert_alive(ada)

    def test_an_expiry_of_zero_ends_the_session(self) -> None:
        """Behaviour 52: less than zero does, too."""
        for idle in (0, -1):
            ada = self.guest()
            self.assertEqual(self.max_age(ada.does(_expire_in(idle))), 0)
            self.assert_ended(ada)

    def test_the_remaining_time_stays_within_bounds(self) -> None:
        """Behaviour 53: also where the clock was set back."""
        ada = self.guest()
        self.time -= 299
        self.assertEqual(ada.asks(lambda handler: handler.session.expires_in), 1000)
        self.time += 299 + 95

        def late(handler: SessionMixin) -> int:
            self.time += 5000
            return handler.session.expires_in

        self.assertEqual(ada.asks(late), 0)

    def test_a_record_from_the_future_is_expired(self) -> None:
        """Behaviour 53: from more than five minutes ahead."""
        ada = self.guest()
        self.time -= 299
        self.assert_alive(ada)
        self.time -= 2
        self.assert_ended(ada)

    def test_a_clock_that_is_behind_shortens_no_session(self) -> None:
        """Behaviours 47, 48: the servers' clocks differ by up to five minutes."""
        verbs: tuple[Act, ...] = (put(b=1), save, regenerate, login("ada"), _count)
        for verb in (look, *verbs):
            ada = self.guest()
            self.time -= 290
            ada.does(verb, put(c=1))
            left = ada.asks(lambda handler: handler.session.expires_in)
            self.assertEqual(left, 1000)
            self.time += 290 + 999
            self.assertEqual(ada.sees().get("a"), 1)

    def test_a_clock_that_was_ahead_extends_no_session(self) -> None:
        """Behaviours 47, 53: it is set right while a request is in progress."""
        ada = self.guest()
        self.time += 900
        ada.does(put(b=1))
        ada.does(look, self._take(-900), put(b=2))
        self.assertEqual(ada.sees(), {"a": 1, "b": 2})
        self.time += 1000
        self.assert_ended(ada)

    def test_what_a_wrong_clock_takes_for_expired_can_be_ended(self) -> None:
        """Behaviours 42, 44: it is dead when the clock is right again."""
        self.require_revocable()
        for seconds in (-600, 2000):
            ada, bob = self.guest(), self.guest()
            captured, both = (
                ada.copy(),
                f"{bob.cookie}; session={self.altered('A' * 43)}",
            )
            self.time += seconds
            ada.does(destroy)
            bob.does(destroy, headers={"Cookie": both})
            self.time -= seconds
            self.assert_ended(captured)
            self.assert_ended(bob)

    def test_a_logout_ends_all_sessions_that_a_request_came_with(self) -> None:
        """Behaviours 35, 42: those that are alive, and those that the clock denies."""
        self.require_revocable()
        for alive in (1, 2):
            early = self.guest()
            self.time -= 600
            ids = [early, *(self.guest() for _ in range(alive))]
            both = "; ".join(f"session={each.token}" for each in ids)
            self.visitor().does(destroy, headers={"Cookie": both})
            self.time += 600
            for each in ids:
                self.assert_ended(each)

    def test_what_a_wrong_clock_takes_for_expired_can_be_revoked(self) -> None:
        """Behaviours 46, 78: by its handle, or together with all others."""
        self.require_listing()
        for seconds in (-600, 2000):
            for by_handle in (True, False):
                user = f"user {secrets.token_hex(8)}"
                ada = self.guest()
                ada.does(login(user))
                handle = ada.asks(lambda handler: handler.session.id)
                self.time += seconds
                revoked = (
                    self.sessions.revoke(user, handle)
                    if by_handle
                    else self.sessions.revoke_all(user)
                )
                self.complete(revoked)
                self.time -= seconds
                self.assert_ended(ada)

    def _take(self, seconds: float) -> Act:
        """Returns an act during which so much time passes."""

        def wait(handler: SessionMixin) -> None:
            self.time += seconds

        return wait


async def _count(handler: SessionMixin) -> None:
    await handler.session.transact(lambda session: session.update(n=1))


async def _unchanged(handler: SessionMixin) -> None:
    await handler.session.transact(lambda session: None)


async def _flush(handler: SessionMixin) -> None:
    handler.write("begun")
    await handler.flush()


def _expire_in(seconds: float) -> Act:
    return lambda handler: handler.session.set_expiry(idle=seconds)

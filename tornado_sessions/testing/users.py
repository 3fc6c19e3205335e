"""Proves over HTTP that a user's sessions can be listed and ended."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

from tornado.httpclient import HTTPResponse

from tornado_sessions.core.users import UserSession
from tornado_sessions.errors import (
    SessionError,
    SessionGoneError,
    SessionLimitError,
)
from tornado_sessions.testing.applications import (
    Act,
    Crowd,
    Site,
    login,
    look,
    put,
    regenerate,
    save,
)
from tornado_sessions.testing.visitors import Visitor, VisitorTests
from tornado_sessions.web import SessionMixin

#: How many devices of one user are busy at once.
MANY = 50


class UsersContract(VisitorTests):
    """What holds of the sessions of one user, of which there may be many."""

    # Signing in.

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
        for act in (_remember, regenerate, login("ada"), put(a=2)):
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
        visitor.does(put(a=1, b=2), _remember, _call_it("Planted"))
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
        user = _new_user()
        planted = self.visitor()
        planted.does(put(a=1))
        thief, owner = planted.copy(), planted.copy()
        thief.does(look, self.meanwhile(owner, login(user)), login(user))
        self.time += 1
        owner.does(_revoke_others(user))
        self.assertEqual(self.user_of(owner), user)
        self.assertIsNone(self.user_of(thief))

    # Listing.

    def test_a_users_live_sessions_are_listed(self) -> None:
        """Behaviour 46: the latest sign-in first, and nobody else's."""
        self.require_listing()
        self.time = float(int(self.time))
        ada, eve = _new_user(), _new_user()
        began = self.time
        first, second = self.device(ada), self.visitor()
        second.does(put(a=1))
        self.device(eve)
        self.time += 100
        second.does(login(ada), _call_it("Firefox on Linux"), _remember)
        handles = [self.handle(second), self.handle(first)]
        lifetime = self.sessions.rules.idle_timeout
        self.assertEqual(
            self.sessions_of(ada),
            [
                UserSession(
                    id=handles[0],
                    created=began,
                    last_seen=self.time,
                    expires=self.time + lifetime,
                    auth_time=self.time,
                    persistent=True,
                    label="Firefox on Linux",
                ),
                UserSession(
                    id=handles[1],
                    created=began,
                    last_seen=began,
                    expires=began + lifetime,
                    auth_time=began,
                    persistent=False,
                    label="",
                ),
            ],
        )
        self.time = began + lifetime
        self.assertEqual([each.id for each in self.sessions_of(ada)], handles[:1])
        second.does(lambda handler: handler.session.logout())
        self.assertEqual(self.sessions_of(ada), [])

    def test_a_handle_is_worthless_as_a_cookie(self) -> None:
        """Behaviour 46: it opens nothing, and stays when the id changes."""
        self.require_listing()
        user = _new_user()
        visitor = self.device(user)
        (entry,) = self.sessions_of(user)
        self.assertIsNone(self.user_of(self.visitor(token=entry.id)))
        visitor.does(regenerate)
        self.assertEqual([each.id for each in self.sessions_of(user)], [entry.id])

    def test_a_label_is_kept_and_merged(self) -> None:
        """Behaviour 46: as a value is, whatever another request changes."""
        visitor = self.device(_new_user())
        visitor.does(_call_it("A phone"))
        visitor.does(regenerate, put(a=1))
        self.assertEqual(visitor.asks(lambda handler: handler.session.label), "A phone")
        if self.sessions.rules.revocable:
            other = visitor.copy()
            visitor.does(_call_it("Mine"), self.meanwhile(other, put(b=2)))
            label = visitor.asks(lambda handler: handler.session.label)
            self.assertEqual((label, visitor.sees()), ("Mine", {"a": 1, "b": 2}))

    # Revoking.

    def test_one_session_is_revoked_by_its_handle(self) -> None:
        """Behaviour 46: at once, and no other with it."""
        self.require_revoking()
        user = _new_user()
        lost, kept = self.device(user), self.device(user)
        handle = self.handle(lost)
        self.assertTrue(self.complete(self.sessions.revoke(user, handle)))
        self.assertIsNone(self.user_of(lost))
        self.assertEqual(lost.sees(), {})
        self.assertEqual(self.user_of(kept), user)
        self.assertFalse(self.complete(self.sessions.revoke(user, handle)))

    def test_a_user_cannot_revoke_anothers_session(self) -> None:
        """Behaviour 46: its handle is that of no session of theirs."""
        self.require_revoking()
        ada, eve = _new_user(), _new_user()
        victim, guest = self.device(ada), self.visitor()
        guest.does(put(a=1))
        self.device(eve)
        for handle in (self.handle(victim), self.handle(guest)):
            revoked = self.complete(self.sessions.revoke(eve, handle))
            # What a store that lists nobody's sessions cannot know.
            self.assertEqual(revoked, not self.sessions.vault.finds_by_user)
        for handle in (victim.token, "", "no such handle", 300 * "a"):
            self.assertFalse(self.complete(self.sessions.revoke(eve, handle)))
        self.assertEqual(self.user_of(victim), ada)
        self.assertEqual(guest.sees(), {"a": 1})

    def test_fifty_logouts_of_one_user_all_hold(self) -> None:
        """Behaviours 44, 46: though they are noted at one moment, in two processes."""
        elsewhere = self.serve_another_process()
        self.require_ending_of_copies()
        user = _new_user()
        devices = [self.device(user) for _ in range(MANY)]
        kept = self.device(user)
        copies = [
            device.copy(elsewhere if number % 2 else None)
            for number, device in enumerate(devices)
        ]
        crowd = Crowd(MANY)
        responses = self.complete(_gather(copies, crowd.join, _log_out))
        self.assertEqual({response.code for response in responses}, {200})
        self.assertEqual({self.user_of(device) for device in devices}, {None})
        self.assertEqual(self.user_of(kept), user)

    def test_all_sessions_of_a_user_are_revoked(self) -> None:
        """Behaviour 46: or all but one, and they are counted."""
        self.require_listing()
        user, other = _new_user(), _new_user()
        devices = [self.device(user) for _ in range(3)]
        stranger = self.device(other)

        async def revoke_others(handler: SessionMixin) -> None:
            count = await handler.sessions.revoke_all(user, keep=handler.session)
            handler.write(str(count))

        response = devices[1].does(revoke_others)
        self.assertEqual(response.body, b"2")
        self.assert_cookie_lines(response, 0)
        self.assertEqual(
            [self.user_of(device) for device in devices], [None, user, None]
        )
        self.assertEqual(self.complete(self.sessions.revoke_all(user)), 1)
        self.assertIsNone(self.user_of(devices[1]))
        self.assertEqual(self.user_of(stranger), other)

    def test_a_user_is_logged_out_everywhere(self) -> None:
        """Behaviour 46: by a store that lists nobody's sessions, too."""
        self.require_ending()
        user = _new_user()
        device, late, spared = (self.device(user) for _ in range(3))
        stranger, guest = self.device(_new_user()), self.visitor()
        guest.does(put(a=1))
        self.time += 1

        async def revoke_others(handler: SessionMixin) -> None:
            await handler.sessions.revoke_all(user, keep=handler.session)

        late.does(put(a=2), self.meanwhile(spared, revoke_others))
        self.assertEqual(late.sees(), {})
        self.assertEqual(self.user_of(spared), user)
        for dead in (device, late):
            self.assertIsNone(self.user_of(dead))
        device.does(login(user))
        self.assertEqual(self.user_of(device), user)
        self.time += 1
        copy = device.copy()
        response = device.does(self.revokes(user))
        self.assert_cookie_lines(response, 1)
        self.assertIsNone(device.cookie)
        for dead in (copy, spared):
            self.assertIsNone(self.user_of(dead))
        self.assertIsNotNone(self.user_of(stranger))
        self.assertEqual(guest.sees(), {"a": 1})
        device.does(login(user), self.revokes(user), login(user))
        self.assertEqual(self.user_of(device), user)
        self.time += 1
        self.assert_cookie_lines(stranger.does(self.revokes(user)), 0)
        self.assertIsNone(self.user_of(device))
        self.assertIsNotNone(self.user_of(stranger))

    def test_a_spared_session_goes_on_under_another_id(self) -> None:
        """Behaviours 9, 46: and a copy of its cookie does not."""
        self.require_ending()
        user = _new_user()
        other, device = self.device(user), self.device(user)
        self.time += 1
        device.does(_revoke_others(user))
        for acts in ((regenerate,), (save, regenerate), (put(a=1),)):
            device.does(*acts)
            self.assertEqual(self.user_of(device), user)
        copy = device.copy()
        device.does(_revoke_others(user), regenerate)
        self.assertEqual(self.user_of(device), user)
        for dead in (other, copy):
            self.assertIsNone(self.user_of(dead))
        copy = device.copy()
        response = copy.does(
            look, self.meanwhile(device, regenerate), _revoke_others(user)
        )
        self.assertEqual(response.code, 200)
        self.assertEqual(self.user_of(device), user)

    def test_a_clock_that_is_behind_logs_out_everywhere(self) -> None:
        """Behaviours 46, 78: also sessions whose login is in the future by this clock."""
        self.require_ending()
        for spares in (False, True):
            user = _new_user()
            other, device = self.device(user), self.device(user)
            copy = device.copy()
            self.time -= 200
            device.does(_revoke_others(user) if spares else self.revokes(user))
            self.time += 200
            self.assertIsNone(self.user_of(other))
            self.assertEqual(self.user_of(copy), user if spares else None)
            self.time -= 200
            device.does(login(user))
            self.time += 200
            self.assertEqual(self.user_of(device), user)

    def test_somebody_else_with_a_clock_behind_logs_a_user_out(self) -> None:
        """Behaviours 46, 78: the process has seen a session of a better clock."""
        self.require_ending()
        user = _new_user()
        device, admin = self.device(user), self.device(_new_user())
        self.time -= 200
        admin.does(look, self.revokes(user))
        self.time += 200
        self.assertIsNone(self.user_of(device))
        self.assertIsNotNone(self.user_of(admin))

    def test_a_revoked_session_is_dead_in_every_process(self) -> None:
        """Behaviour 46: also where it was used before."""
        elsewhere = self.serve_another_process()
        self.require_listing()
        user = _new_user()
        device = self.device(user).copy(elsewhere)
        self.assertEqual(self.user_of(device), user)
        self.assertEqual(self.complete(self.sessions.revoke_all(user)), 1)
        self.assertIsNone(self.user_of(device))

    def test_a_request_under_way_brings_no_revoked_session_back(self) -> None:
        """Behaviours 39, 46: save() and transact() raise; else nothing is kept."""
        self.require_listing()
        raised: list[str] = []

        async def transact(handler: SessionMixin) -> None:
            await handler.session.transact(lambda session: session.clear())

        def caught(act: Callable[[SessionMixin], Any]) -> Act:
            async def catch(handler: SessionMixin) -> None:
                try:
                    await act(handler)
                except SessionGoneError:
                    raised.append(act.__name__)

            return catch

        for act in (look, caught(save), caught(transact), regenerate):
            user = _new_user()
            device = self.device(user)
            late = device.copy()
            revoke = self.meanwhile(self.visitor(), self.revokes(user))
            response = late.does(put(a=2), revoke, act)
            self.assertEqual(response.code, 200)
            self.assert_cookie_lines(response, 0)
            self.assertIsNone(self.user_of(device))
            self.assertEqual(self.sessions_of(user), [])
        self.assertEqual(raised, ["save", "transact"])

    def test_a_session_that_is_regenerated_meanwhile_is_revoked(self) -> None:
        """Behaviour 46: under whichever id it is found."""
        self.require_listing()
        user = _new_user()
        devices = [self.device(user) for _ in range(MANY)]
        crowd = Crowd(MANY + 1)

        async def revoke() -> None:
            await crowd.join()
            await self.sessions.revoke_all(user)

        async def all_at_once() -> None:
            await asyncio.gather(
                *(device.send(look, crowd.join, regenerate) for device in devices),
                revoke(),
            )

        self.complete(all_at_once())
        self.assertEqual(self.sessions_of(user), [])
        self.assertEqual({self.user_of(device) for device in devices}, {None})

    def test_revoking_ones_own_session_expires_its_cookie(self) -> None:
        """Behaviours 42, 46: as destroy() does, and a write begins a new one."""
        self.require_revoking()
        for by_handle in (False, True):
            for acts, values in (((), {}), ((put(b=2),), {"b": 2})):
                user = _new_user()
                device = self.device(user)
                device.does(put(a=1))
                before = device.token
                act = _revoke_own if by_handle else self.revokes(user)
                response = device.does(put(a=2), act, *acts)
                self.assertEqual(response.code, 200)
                self.assert_cookie_lines(response, 1)
                self.assertNotEqual(device.token, before)
                self.assertEqual(device.sees(), values)
                self.assertIsNone(self.user_of(device))

    def test_a_login_after_revoking_everything_holds(self) -> None:
        """Behaviour 46: as on a page where a password is changed."""
        self.require_listing()
        user = _new_user()
        stolen, device = self.device(user), self.device(user)
        device.does(self.revokes(user), login(user))
        self.assertEqual(self.user_of(device), user)
        self.assertIsNone(self.user_of(stolen))

    def test_a_store_that_fails_revokes_nothing_in_silence(self) -> None:
        """Behaviours 30, 46: 503, and the client keeps its cookie."""
        self.require_ending()
        user = _new_user()
        device = self.device(user)
        self.time += 1
        vault = self.watch()
        for operation in ("find", "replace") if vault.finds_by_user else ("save",):
            vault.failing = {operation}
            response = device.does(self.revokes(user))
            self.assertEqual(response.code, 503)
            self.assert_cookie_lines(response, 0)
        vault.failing.clear()
        self.assertEqual(self.user_of(device), user)

    def test_what_spares_a_session_that_has_ended_ends_nothing(self) -> None:
        """Behaviour 78: a revoked session cannot revoke the others."""
        self.require_ending()
        user = _new_user()
        thief, owner = self.device(user), self.device(user)
        self.time += 1
        response = thief.does(
            look,
            self.meanwhile(owner, self.revokes(user), login(user)),
            _revoke_others(user),
        )
        self.assertEqual(response.code, 409)
        self.assertIsNone(self.user_of(thief))
        self.assertEqual(self.user_of(owner), user)

    def test_a_login_holds_in_the_request_that_revokes_everything(self) -> None:
        """Behaviour 78: whichever of them comes first, saved or not."""
        self.require_ending()
        for acts in ((look,), (save,)):
            user = _new_user()
            stolen, device = self.device(user), self.device(user)
            self.time += 1

            def wait(handler: SessionMixin) -> None:
                self.time += 1

            device.does(login(user), *acts, wait, self.revokes(user))
            self.assertEqual(self.user_of(device), user)
            self.assertIsNone(self.user_of(stolen))

    def test_a_login_holds_though_its_clock_is_behind(self) -> None:
        """Behaviour 78: everything was revoked by a machine that is ahead."""
        self.require_ending()
        user = _new_user()
        self.time += 100
        self.complete(self.sessions.revoke_all(user))
        self.time -= 100
        self.assertEqual(self.user_of(self.device(user)), user)

    # How many there may be.

    def test_the_oldest_sign_in_makes_room(self) -> None:
        """Behaviour 46: where a user may have only so many sessions."""
        self.require_listing()
        self.limit(2)
        user = _new_user()
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
        user = _new_user()
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
        user = _new_user()
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
        device = self.device(_new_user())
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
            user = _new_user()
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

    def test_without_finds_by_user_nobody_is_listed(self) -> None:
        """Behaviour 46: an error says so, rather than an empty list."""
        if self.sessions.vault.finds_by_user:
            self.skipTest("this store lists the sessions of a user")
        work: list[Coroutine[Any, Any, object]] = [self.sessions.of_user("ada")]
        if not self.sessions.rules.ends_copies:
            work.append(self.sessions.revoke("ada", "handle"))
        for each in work:
            with self.assertRaisesRegex(SessionError, "cannot look up the sessions of"):
                self.complete(each)

    def test_what_cannot_end_all_sessions_of_a_user_says_so(self) -> None:
        """Behaviour 46: to answer 0 would mislead."""
        if self.sessions.vault.ends_users:
            self.skipTest("this store ends the sessions of a user")
        with self.assertRaisesRegex(SessionError, "cannot end the sessions of a user"):
            self.complete(self.sessions.revoke_all("ada"))

    # How it is done.

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
            user = _new_user()
            crowd = Crowd(MANY)
            visitors = [self.visitor(sites[n % len(sites)]) for n in range(MANY)]
            responses = self.complete(
                _gather(visitors, crowd.join, self.tick, login(user))
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

    def device(self, user: str) -> Visitor:
        """Returns a visitor who has signed in as ``user``."""
        visitor = self.visitor()
        visitor.does(login(user))
        return visitor

    def sessions_of(self, user: str) -> list[UserSession]:
        return self.complete(self.sessions.of_user(user))

    def user_of(self, visitor: Visitor) -> Any:  # noqa: ANN401
        return visitor.asks(lambda handler: handler.session.user)

    def handle(self, visitor: Visitor) -> Any:  # noqa: ANN401
        return visitor.asks(lambda handler: handler.session.id)

    def revokes(self, user: str) -> Act:
        """Ends all sessions of ``user``."""

        async def act(handler: SessionMixin) -> None:
            await handler.sessions.revoke_all(user)

        return act


async def _gather(visitors: list[Visitor], *acts: Act) -> list[HTTPResponse]:
    return await asyncio.gather(*(visitor.send(*acts) for visitor in visitors))


def _new_user() -> str:
    # The store may hold sessions of other tests.
    return f"user {secrets.token_hex(8)}"


def _log_out(handler: SessionMixin) -> None:
    handler.session.logout()


def _call_it(label: str) -> Act:
    return lambda handler: setattr(handler.session, "label", label)


def _remember(handler: SessionMixin) -> None:
    handler.session.persistent = True


def _forget(handler: SessionMixin) -> None:
    handler.session.persistent = False


async def _revoke_own(handler: SessionMixin) -> None:
    session = handler.session
    assert session.user is not None
    assert await handler.sessions.revoke(session.user, session.id)


def _revoke_others(user: str) -> Act:
    async def revoke(handler: SessionMixin) -> None:
        await handler.sessions.revoke_all(user, keep=handler.session)

    return revoke

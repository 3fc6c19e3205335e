"""Tests over HTTP that a session stays ended, and that its user can end it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tornado_sessions.errors import (
    SessionGoneError,
)
from tornado_sessions.testing.applications import (
    Act,
    Crowd,
    login,
    look,
    put,
    regenerate,
    save,
)
from tornado_sessions.testing.devices import (
    MANY,
    UserTests,
    gather,
    new_user,
    revoke_all,
    revoke_others,
)
from tornado_sessions.web import SessionMixin


class RevokedContract(UserTests):
    """Tests of revocations, of one session and of all those of a user."""

    def test_one_session_is_revoked_by_its_handle(self) -> None:
        """Behaviour 46: at once, and no other with it."""
        self.require_revoking()
        user = new_user()
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
        ada, eve = new_user(), new_user()
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
        user = new_user()
        devices = [self.device(user) for _ in range(MANY)]
        kept = self.device(user)
        copies = [
            device.copy(elsewhere if number % 2 else None)
            for number, device in enumerate(devices)
        ]
        crowd = Crowd(MANY)
        responses = self.complete(gather(copies, crowd.join, _log_out))
        self.assertEqual({response.code for response in responses}, {200})
        self.assertEqual({self.user_of(device) for device in devices}, {None})
        self.assertEqual(self.user_of(kept), user)

    def test_all_sessions_of_a_user_are_revoked(self) -> None:
        """Behaviour 46: or all but one, and they are counted."""
        self.require_listing()
        user, other = new_user(), new_user()
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
        user = new_user()
        device, late, spared = (self.device(user) for _ in range(3))
        stranger, guest = self.device(new_user()), self.visitor()
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
        response = device.does(revoke_all(user))
        self.assert_cookie_lines(response, 1)
        self.assertIsNone(device.cookie)
        for dead in (copy, spared):
            self.assertIsNone(self.user_of(dead))
        self.assertIsNotNone(self.user_of(stranger))
        self.assertEqual(guest.sees(), {"a": 1})
        device.does(login(user), revoke_all(user), login(user))
        self.assertEqual(self.user_of(device), user)
        self.time += 1
        self.assert_cookie_lines(stranger.does(revoke_all(user)), 0)
        self.assertIsNone(self.user_of(device))
        self.assertIsNotNone(self.user_of(stranger))

    def test_a_spared_session_goes_on_under_another_id(self) -> None:
        """Behaviours 9, 46: and a copy of its cookie does not."""
        self.require_ending()
        user = new_user()
        other, device = self.device(user), self.device(user)
        self.time += 1
        device.does(revoke_others(user))
        for acts in ((regenerate,), (save, regenerate), (put(a=1),)):
            device.does(*acts)
            self.assertEqual(self.user_of(device), user)
        copy = device.copy()
        device.does(revoke_others(user), regenerate)
        self.assertEqual(self.user_of(device), user)
        for dead in (other, copy):
            self.assertIsNone(self.user_of(dead))
        copy = device.copy()
        response = copy.does(
            look, self.meanwhile(device, regenerate), revoke_others(user)
        )
        self.assertEqual(response.code, 200)
        self.assertEqual(self.user_of(device), user)

    def test_a_clock_that_is_behind_logs_out_everywhere(self) -> None:
        """Behaviours 46, 78: also sessions whose login is in the future by this clock."""
        self.require_ending()
        for spares in (False, True):
            user = new_user()
            other, device = self.device(user), self.device(user)
            copy = device.copy()
            self.time -= 200
            device.does(revoke_others(user) if spares else revoke_all(user))
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
        user = new_user()
        device, admin = self.device(user), self.device(new_user())
        self.time -= 200
        admin.does(look, revoke_all(user))
        self.time += 200
        self.assertIsNone(self.user_of(device))
        self.assertIsNotNone(self.user_of(admin))

    def test_a_revoked_session_is_dead_in_every_process(self) -> None:
        """Behaviour 46: also where it was used before."""
        elsewhere = self.serve_another_process()
        self.require_listing()
        user = new_user()
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
            user = new_user()
            device = self.device(user)
            late = device.copy()
            revoke = self.meanwhile(self.visitor(), revoke_all(user))
            response = late.does(put(a=2), revoke, act)
            self.assertEqual(response.code, 200)
            self.assert_cookie_lines(response, 0)
            self.assertIsNone(self.user_of(device))
            self.assertEqual(self.sessions_of(user), [])
        self.assertEqual(raised, ["save", "transact"])

    def test_a_session_that_is_regenerated_meanwhile_is_revoked(self) -> None:
        """Behaviour 46: under whichever id it is found."""
        self.require_listing()
        user = new_user()
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
                user = new_user()
                device = self.device(user)
                device.does(put(a=1))
                before = device.token
                act = _revoke_own if by_handle else revoke_all(user)
                response = device.does(put(a=2), act, *acts)
                self.assertEqual(response.code, 200)
                self.assert_cookie_lines(response, 1)
                self.assertNotEqual(device.token, before)
                self.assertEqual(device.sees(), values)
                self.assertIsNone(self.user_of(device))

    def test_a_login_after_revoking_everything_holds(self) -> None:
        """Behaviour 46: as on a page where a password is changed."""
        self.require_listing()
        user = new_user()
        stolen, device = self.device(user), self.device(user)
        device.does(revoke_all(user), login(user))
        self.assertEqual(self.user_of(device), user)
        self.assertIsNone(self.user_of(stolen))

    def test_a_store_that_fails_revokes_nothing_in_silence(self) -> None:
        """Behaviours 30, 46: 503, and the client keeps its cookie."""
        self.require_ending()
        user = new_user()
        device = self.device(user)
        self.time += 1
        vault = self.watch()
        for operation in ("find", "replace") if vault.finds_by_user else ("save",):
            vault.failing = {operation}
            response = device.does(revoke_all(user))
            self.assertEqual(response.code, 503)
            self.assert_cookie_lines(response, 0)
        vault.failing.clear()
        self.assertEqual(self.user_of(device), user)

    def test_what_spares_a_session_that_has_ended_ends_nothing(self) -> None:
        """Behaviour 78: a revoked session cannot revoke the others."""
        self.require_ending()
        user = new_user()
        thief, owner = self.device(user), self.device(user)
        self.time += 1
        response = thief.does(
            look,
            self.meanwhile(owner, revoke_all(user), login(user)),
            revoke_others(user),
        )
        self.assertEqual(response.code, 409)
        self.assertIsNone(self.user_of(thief))
        self.assertEqual(self.user_of(owner), user)

    def test_a_session_that_expires_during_its_request_can_end_the_others(self) -> None:
        """Behaviour 47: it was alive when the request loaded it."""
        self.require_ending()
        user = new_user()
        other, device = self.device(user), self.device(user)

        def expire_soon(handler: SessionMixin) -> None:
            handler.session.set_expiry(idle=100)

        def wait(handler: SessionMixin) -> None:
            self.time += 101

        device.does(expire_soon)
        response = device.does(look, wait, revoke_others(user))
        self.assertEqual(response.code, 200)
        self.assertIsNone(self.user_of(other))
        self.assertEqual(self.user_of(device), user)

    def test_a_login_holds_in_the_request_that_revokes_everything(self) -> None:
        """Behaviour 78: whichever of them comes first, saved or not."""
        self.require_ending()
        for acts in ((look,), (save,)):
            user = new_user()
            stolen, device = self.device(user), self.device(user)
            self.time += 1

            def wait(handler: SessionMixin) -> None:
                self.time += 1

            device.does(login(user), *acts, wait, revoke_all(user))
            self.assertEqual(self.user_of(device), user)
            self.assertIsNone(self.user_of(stolen))

    def test_a_login_holds_though_its_clock_is_behind(self) -> None:
        """Behaviour 78: everything was revoked by a machine that is ahead."""
        self.require_ending()
        user = new_user()
        self.time += 100
        self.complete(self.sessions.revoke_all(user))
        self.time -= 100
        self.assertEqual(self.user_of(self.device(user)), user)


def _log_out(handler: SessionMixin) -> None:
    handler.session.logout()


async def _revoke_own(handler: SessionMixin) -> None:
    session = handler.session
    assert session.user is not None
    assert await handler.sessions.revoke(session.user, session.id)

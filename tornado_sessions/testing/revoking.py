"""Tests over HTTP of revocations that meet each other, or a login, in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tornado_sessions.core.claims import STALE_AFTER
from tornado_sessions.testing.applications import (
    Crowd,
    Site,
    login,
    put,
    regenerate,
)
from tornado_sessions.testing.devices import (
    UserTests,
    new_user,
    revoke_all,
    revoke_others,
)
from tornado_sessions.testing.interruptions import InterruptedVault
from tornado_sessions.testing.visitors import Visitor
from tornado_sessions.web import SessionMixin


class RevokingContract(UserTests):
    """What holds of parallel requests that end the sessions of one user."""

    def test_of_two_sessions_that_end_each_other_one_stays(self) -> None:
        """Behaviour 78: the other request gets 409, and its session has ended."""
        self.require_ending()
        self.end_each_other(self.site)

    def test_of_two_that_end_each_other_in_two_processes_one_stays(self) -> None:
        """Behaviour 78: the other request gets 409, and its session has ended."""
        elsewhere = self.serve_another_process()
        self.require_ending()
        self.end_each_other(elsewhere)

    def test_two_requests_that_spare_one_session_both_succeed(self) -> None:
        """Behaviour 78: as when somebody clicks twice."""
        self.require_ending()
        user = new_user()
        others = [self.device(user) for _ in range(3)]
        device = self.device(user)
        self.time += 1
        crowd = Crowd(2)

        async def revoke_twice() -> list[int]:
            responses = await asyncio.gather(
                *(
                    each.send(_load, crowd.join, revoke_others(user))
                    for each in (device.copy(), device.copy())
                )
            )
            return [response.code for response in responses]

        self.assertEqual(self.complete(revoke_twice()), [200, 200])
        self.assertEqual(self.user_of(device), user)
        self.assertEqual({self.user_of(other) for other in others}, {None})

    def test_a_revocation_does_not_wait_for_one_that_has_failed(self) -> None:
        """Behaviour 66: neither of the same session nor of another one."""
        self.require_listing()
        for is_own in (True, False):
            user = new_user()
            devices = [self.device(user) for _ in range(3)]
            vault = self._interrupt()

            async def fail(vault: InterruptedVault = vault) -> None:
                vault.failing = {"load", "find", "save"}

            async def fail_at_the_next_listing(
                vault: InterruptedVault = vault,
                fail: Callable[[], Awaitable[None]] = fail,
            ) -> None:
                vault.before_find = fail

            # The first record that is replaced is its own.
            vault.before_end = fail_at_the_next_listing
            self.assertEqual(devices[0].does(revoke_others(user)).code, 503)
            vault.failing.clear()
            self.time += STALE_AFTER + 2
            vault.calls.clear()
            kept = devices[0 if is_own else 1]
            self.assertEqual(kept.does(revoke_others(user)).code, 200)
            self.assertEqual(vault.calls.count("find"), 3)
            self.assertEqual(
                [self.user_of(device) for device in devices],
                [user if device is kept else None for device in devices],
            )

    def test_what_a_spared_session_becomes_meanwhile_is_spared(self) -> None:
        """Behaviours 76, 78: its new record is stored, its old one is not replaced yet."""
        self.require_listing()
        for act in (login, lambda user: regenerate):
            user = new_user()
            other, device = self.device(user), self.device(user)
            copy = device.copy()
            vault = self._interrupt()
            codes: list[int] = []

            async def revoke_meanwhile(
                user: str = user, copy: Visitor = copy, codes: list[int] = codes
            ) -> None:
                codes.append((await copy.send(revoke_others(user))).code)

            vault.before_replace = revoke_meanwhile
            codes.append(device.does(act(user), put(a=1)).code)
            self.assertEqual(codes, [200, 200])
            self.assertEqual(self.user_of(device), user)
            self.assertEqual(device.sees(), {"a": 1})
            self.assertIsNone(self.user_of(other))

    def test_a_login_while_everything_is_revoked_holds(self) -> None:
        """Behaviour 76: with a session before, or without; the others are ended."""
        self.require_listing()
        for keeps in (False, True):
            user = new_user()
            other, device = self.device(user), self.device(user)
            fresh, visitor = self.visitor(), self.visitor()
            visitor.does(put(a=1))
            vault = self._interrupt()

            async def sign_in(
                user: str = user, both: tuple[Visitor, Visitor] = (fresh, visitor)
            ) -> None:
                for each in both:
                    self.assertEqual((await each.send(login(user))).code, 200)

            vault.before_end = sign_in
            act = revoke_others(user) if keeps else revoke_all(user)
            self.assertEqual(device.does(act).code, 200)
            self.assertIsNone(self.user_of(other))
            self.assertEqual(self.user_of(device), user if keeps else None)
            self.assertEqual(
                [self.user_of(each) for each in (fresh, visitor)], [user] * 2
            )

    def end_each_other(self, elsewhere: Site) -> None:
        """Lets two requests end all sessions but their own, both as far at a time."""
        for _ in range(3):
            user = new_user()
            devices = [self.device(user) for _ in range(3)]
            own, other = devices[0], devices[1].copy(elsewhere)
            self.time += 1
            first_calls = Crowd(2)
            for site in (self.site, elsewhere):
                self._interrupt(site).before_end = first_calls.join

            async def end_each_other(
                user: str = user, both: tuple[Visitor, Visitor] = (own, other)
            ) -> list[int]:
                crowd = Crowd(2)
                act = revoke_others(user)
                sent = (each.send(_load, crowd.join, act) for each in both)
                return [each.code for each in await asyncio.gather(*sent)]

            codes = self.complete(end_each_other())
            alive = [self.user_of(device) for device in devices]
            self.assertEqual(sorted(codes), [200, 409])
            self.assertEqual(
                alive, [user if code == 200 else None for code in codes] + [None]
            )

    def _interrupt(self, site: Site | None = None) -> InterruptedVault:
        sessions = (site or self.site).sessions
        vault = sessions.vault = InterruptedVault(sessions.vault)
        return vault


def _load(handler: SessionMixin) -> None:
    handler.session.get("loaded before")

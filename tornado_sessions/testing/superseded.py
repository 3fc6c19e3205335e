"""Tests over HTTP of what ends by the id or the handle that a session had before."""

from __future__ import annotations

from tornado_sessions.testing.applications import (
    Act,
    destroy,
    login,
    look,
    put,
    regenerate,
    save,
)
from tornado_sessions.testing.devices import UserTests, new_user, revoke_others
from tornado_sessions.web import SessionMixin


class SupersededContract(UserTests):
    """Tests of a logout with an old id, and of a revocation by an old handle."""

    def test_revoking_ones_own_former_handle_expires_the_cookie(self) -> None:
        """Behaviours 11, 77: the session has ended, whichever handle it has now."""
        self.require_revoking()
        for moves in ((regenerate,), (regenerate, save, regenerate)):
            user = new_user()
            device = self.device(user)
            handle = self.handle(device)
            device.does(*moves)
            response = device.does(put(a=2), _revoke_handle(user, handle))
            self.assertEqual(response.code, 200)
            self.assert_cookie_lines(response, 1)
            self.assertIsNone(device.cookie)
        device = self.device(user)
        handle = self.handle(device)
        late = device.copy()
        response = late.does(
            look,
            self.meanwhile(device, regenerate),
            put(a=2),
            _revoke_handle(user, handle),
        )
        self.assert_cookie_lines(response, 1)
        self.assertIsNone(late.cookie)
        self.assertIsNone(self.user_of(device))

    def test_a_revocation_stops_where_another_user_has_signed_in(self) -> None:
        """Behaviours 46, 77: the session is that of the other user from then on."""
        self.require_revoking()
        ada, eve = new_user(), new_user()
        browser = self.device(ada)
        handle = self.handle(browser)
        browser.does(login(eve))
        self.assertFalse(self.complete(self.sessions.revoke(ada, handle)))
        self.assertEqual(self.user_of(browser), eve)
        browser.does(login(ada))
        self.assertFalse(self.complete(self.sessions.revoke(ada, handle)))
        self.assertEqual(self.user_of(browser), ada)

    def test_a_logout_with_an_old_id_ends_another_users_session_as_well(self) -> None:
        """Behaviour 77: it comes from the browser in which that user has signed in."""
        self.require_ending_of_copies()
        browser = self.device(new_user())
        old = browser.copy()
        browser.does(login(new_user()))
        old.does(destroy)
        self.assertIsNone(self.user_of(browser))

    def test_a_logout_with_an_old_id_ends_a_session_that_was_spared(self) -> None:
        """Behaviour 77: what the old id has become is not forgotten by a revocation."""
        self.require_ending()
        self.require_ending_of_copies()
        user = new_user()
        for move in (regenerate, login(user)):
            device = self.device(user)
            old = device.copy()
            device.does(move)
            self.time += 1
            device.does(revoke_others(user))
            self.assertIsNone(self.user_of(old.copy()))
            old.does(destroy)
            self.assertIsNone(self.user_of(device))


def _revoke_handle(user: str, handle: str) -> Act:
    async def revoke(handler: SessionMixin) -> None:
        assert await handler.sessions.revoke(user, handle)

    return revoke

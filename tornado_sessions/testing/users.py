"""Tests over HTTP that the sessions of a user can be listed."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from tornado_sessions.core.users import UserSession
from tornado_sessions.errors import (
    SessionError,
)
from tornado_sessions.testing.applications import (
    login,
    put,
    regenerate,
)
from tornado_sessions.testing.devices import (
    UserTests,
    call_it,
    new_user,
    remember,
)


class UsersContract(UserTests):
    """Tests of the list of a user's sessions, and of stores that have none."""

    def test_a_users_live_sessions_are_listed(self) -> None:
        """Behaviour 46: the latest sign-in first, and nobody else's."""
        self.require_listing()
        self.time = float(int(self.time))
        ada, eve = new_user(), new_user()
        began = self.time
        first, second = self.device(ada), self.visitor()
        second.does(put(a=1))
        self.device(eve)
        self.time += 100
        second.does(login(ada), call_it("Firefox on Linux"), remember)
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
                    user=ada,
                ),
                UserSession(
                    id=handles[1],
                    created=began,
                    last_seen=began,
                    expires=began + lifetime,
                    auth_time=began,
                    persistent=False,
                    label="",
                    user=ada,
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
        user = new_user()
        visitor = self.device(user)
        (entry,) = self.sessions_of(user)
        self.assertIsNone(self.user_of(self.visitor(token=entry.id)))
        visitor.does(regenerate)
        self.assertEqual([each.id for each in self.sessions_of(user)], [entry.id])

    def test_a_label_is_kept_and_merged(self) -> None:
        """Behaviour 46: as a value is, whatever another request changes."""
        visitor = self.device(new_user())
        visitor.does(call_it("A phone"))
        visitor.does(regenerate, put(a=1))
        self.assertEqual(visitor.asks(lambda handler: handler.session.label), "A phone")
        if self.sessions.rules.revocable:
            other = visitor.copy()
            visitor.does(call_it("Mine"), self.meanwhile(other, put(b=2)))
            label = visitor.asks(lambda handler: handler.session.label)
            self.assertEqual((label, visitor.sees()), ("Mine", {"a": 1, "b": 2}))

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

"""Tests of the recipes in docs/users.md, as they are printed there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tornado.testing import AsyncHTTPTestCase
from tornado_sessions_memory import MemoryBackend

import tornado_sessions
from tornado_sessions.testing.devices import UserTests, new_user

page = (Path(__file__).parent.parent / "docs/users.md").read_text()


def shown(heading: str, **names: Any) -> dict[str, Any]:
    """Runs the block under ``heading``, and returns what it defines."""
    found = re.search(rf"\n## {heading}\n.*?```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    names |= {"tornado_sessions": tornado_sessions}
    names |= {"SessionMixin": tornado_sessions.SessionMixin}
    exec(found[1], names)  # noqa: S102 - it is ours
    return names


class PasswordTest(UserTests, AsyncHTTPTestCase):
    def make_session_backend(self) -> MemoryBackend:
        return MemoryBackend()

    def test_a_new_password_ends_all_sessions_but_that_of_the_request(self) -> None:
        """Behaviours 9, 46: which has another id from then on."""
        passwords: dict[str, str] = {}

        async def set_password(user: str, password: str) -> None:
            passwords[user] = password

        names = shown("When the password changes", set_password=set_password)
        handlers = [("/password", names["PasswordHandler"])]
        self.site.application.add_handlers(".*", handlers)
        ada, phone = self.device(user := new_user()), self.device(user)
        thief = ada.copy()

        response = ada.does(path="/password", method="POST", body="password=new")

        self.assertEqual(response.headers["Location"], "/account")
        self.assertEqual(passwords, {user: "new"})
        self.assertEqual(self.user_of(ada), user)
        self.assertIsNone(self.user_of(phone))
        self.assertIsNone(self.user_of(thief))

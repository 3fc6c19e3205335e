"""Proves over HTTP how sessions are changed from outside of their requests."""

from __future__ import annotations

import asyncio

from tornado_sessions.errors import SessionGoneError
from tornado_sessions.testing.applications import Act, destroy, put, regenerate
from tornado_sessions.testing.devices import UserTests, new_user
from tornado_sessions.web import SessionMixin

# How many edits and how many requests change one session at once.
_AT_ONCE = 20


class EditingContract(UserTests):
    """What `.Sessions.edit` does, where the store can look up users."""

    def test_an_edit_is_seen_by_the_next_request(self) -> None:
        """Behaviour 92: in every process, also after a change of the id."""
        self.require_listing()
        ada = self.device(user := new_user())
        ada.does(put(role="admin", other=1))
        for number, act in enumerate((put(other=2), regenerate)):
            self.complete(self._edit(user, self.handle(ada), role=number))
            self.assertEqual(ada.sees()["role"], number)
            ada.does(act)
            self.assertEqual(ada.sees(), {"role": number, "other": 2})

    def test_edits_and_requests_at_once_lose_nothing(self) -> None:
        """Behaviours 36, 92: each adds another product to one cart."""
        self.require_listing()
        ada = self.device(user := new_user())
        ada.does(put(cart={}))
        handle = self.handle(ada)

        async def edit(product: str) -> None:
            async with self.sessions.edit(user, handle) as session:
                session["cart"][product] = 1

        async def do_all() -> None:
            await asyncio.gather(
                *(edit(f"edit {number}") for number in range(_AT_ONCE)),
                *(ada.send(_add(f"request {number}")) for number in range(_AT_ONCE)),
            )

        self.complete(do_all())
        self.assertEqual(len(ada.sees()["cart"]), 2 * _AT_ONCE)

    def test_an_edit_brings_no_session_back(self) -> None:
        """Behaviours 39, 92: one that ends while it is edited."""
        self.require_listing()
        ada = self.device(user := new_user())
        captured, handle = ada.copy(), self.handle(ada)

        async def edit() -> None:
            async with self.sessions.edit(user, handle) as session:
                session["role"] = "admin"
                await ada.send(destroy)

        with self.assertRaises(SessionGoneError):
            self.complete(edit())
        self.assertIsNone(self.user_of(captured))

    async def _edit(self, user: str, handle: str, **values: object) -> None:
        async with self.sessions.edit(user, handle) as session:
            session.update(values)


def _add(product: str) -> Act:
    def add(handler: SessionMixin) -> None:
        handler.session["cart"][product] = 1

    return add

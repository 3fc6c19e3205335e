"""Helpers for tests of a user who has signed in on several devices."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from tornado.httpclient import HTTPResponse

from tornado_sessions.core.users import UserSession
from tornado_sessions.testing.applications import (
    Act,
    login,
)
from tornado_sessions.testing.visitors import Visitor, VisitorTests
from tornado_sessions.web import SessionMixin

#: How many devices of one user are busy at once.
MANY = 50


class UserTests(VisitorTests):
    """Tests of the sessions of one user, of which there may be many."""

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


async def gather(visitors: list[Visitor], *acts: Act) -> list[HTTPResponse]:
    """Lets all visitors send one request at once."""
    return await asyncio.gather(*(visitor.send(*acts) for visitor in visitors))


def new_user() -> str:
    # The store may hold sessions of other tests.
    return f"user {secrets.token_hex(8)}"


def call_it(label: str) -> Act:
    return lambda handler: setattr(handler.session, "label", label)


def remember(handler: SessionMixin) -> None:
    handler.session.persistent = True


def revoke_all(user: str) -> Act:
    """Ends all sessions of ``user``."""

    async def revoke(handler: SessionMixin) -> None:
        await handler.sessions.revoke_all(user)

    return revoke


def revoke_others(user: str) -> Act:
    """Ends all sessions of ``user`` but that of the request."""

    async def revoke(handler: SessionMixin) -> None:
        await handler.sessions.revoke_all(user, keep=handler.session)

    return revoke

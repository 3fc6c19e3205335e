"""The schemas of the tests of typed sessions, and how these ask a handler."""

# As in any class of msgspec, an empty dict here is not shared.
# ruff: noqa: RUF012

from __future__ import annotations

import datetime
import enum
import inspect
import uuid
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from tests.sites import UNCAUGHT, Site
from tornado_sessions import Session, SessionData, SessionMixin


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Line(msgspec.Struct, omit_defaults=True):
    product: str = ""
    count: int = 1


class Shop(SessionData):
    cart: dict[str, int] = {}
    theme: Literal["light", "dark"] = "light"
    lines: list[Line] = []
    first: Line = msgspec.field(default_factory=Line)
    tags: set[str] = set()
    since: datetime.datetime | None = None
    color: Color = Color.RED
    pair: tuple[int, str] = (1, "a")
    visitor: uuid.UUID | None = None
    by_day: dict[datetime.date, list[Line]] = {}

    def total(self) -> int:
        return sum(self.cart.values())


#: What a test has a handler do with its session.
Use = Callable[[Session[Any]], Any]


def handler_of(use: Use, schema: type[SessionData] = Shop) -> type[SessionMixin[Any]]:
    """Returns a handler that replies what ``use`` returns of its session."""

    class Handler(SessionMixin[Shop]):
        async def get(self) -> None:
            result = use(self.session)
            if inspect.isawaitable(result):
                result = await result
            self.write(msgspec.json.encode(result))

    Handler.session_schema = schema
    return Handler


async def ask(site: Site, use: Use, schema: type[SessionData] = Shop) -> Any:  # noqa: ANN401
    """Returns what ``use`` returns, in a request of the visitor that succeeds."""
    response = await site.fetch(handler_of(use, schema))
    assert response.code == 200, response.body
    return msgspec.json.decode(response.body)


async def fail(
    site: Site, errors: list[str], use: Use, schema: type[SessionData] = Shop
) -> Exception:
    """Returns what ``use`` raises, in a request of the visitor that fails."""
    raised: list[Exception] = []

    async def try_to_use(session: Session[Any]) -> None:
        try:
            result = use(session)
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            raised.append(error)
            raise

    response = await site.fetch(handler_of(try_to_use, schema))
    errors.append(UNCAUGHT)
    assert response.code == 500
    (error,) = raised
    return error

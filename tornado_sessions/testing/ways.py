"""The ways to finish a response, for tests of what is saved before it leaves."""

from __future__ import annotations

from typing import Any

import tornado.web

from tornado_sessions.testing.applications import (
    Act,
    look,
)
from tornado_sessions.testing.visitors import Visitor
from tornado_sessions.web import SessionMixin


def not_found(handler: SessionMixin) -> None:
    raise tornado.web.HTTPError(404)


def _stop(handler: SessionMixin) -> None:
    raise tornado.web.Finish("So far.")


def _flush(handler: SessionMixin) -> None:
    handler.write("One part, ")
    handler.flush()
    handler.write("another.")


async def stream(handler: SessionMixin) -> None:
    handler.write("One part, ")
    await handler.flush()
    handler.write("another.")
    await handler.flush()


async def _finish(handler: SessionMixin) -> None:
    await handler.finish("Done.")


#: Every way to finish a response: its act, its method and its status.
WAYS: tuple[tuple[str, Act, str, int], ...] = (
    ("auto-finish", look, "GET", 200),
    ("write", lambda handler: handler.write({"a": 1}), "GET", 200),
    ("finish", _finish, "GET", 200),
    ("redirect", lambda handler: handler.redirect("/"), "GET", 302),
    ("render", lambda handler: handler.render("page.html"), "GET", 200),
    ("HTTPError", not_found, "GET", 404),
    ("send_error", lambda handler: handler.send_error(403), "GET", 403),
    ("Finish", _stop, "GET", 200),
    ("HEAD", lambda handler: handler.write("unseen"), "HEAD", 200),
    ("204", lambda handler: handler.set_status(204), "GET", 204),
    ("304", lambda handler: handler.set_status(304), "GET", 304),
    ("flush", _flush, "GET", 200),
    ("streaming", stream, "GET", 200),
)


async def values_of(visitor: Visitor) -> dict[str, Any]:
    """Returns what the visitor's next request sees."""
    seen: dict[str, Any] = {}
    response = await visitor.send(lambda handler: seen.update(handler.session))
    assert response.code == 200, response.code
    return seen

"""Defines an application for tests, whose handlers run the functions of a test."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import tornado.httpserver
import tornado.template
import tornado.web
import tornado.websocket

from tornado_sessions.errors import SessionError
from tornado_sessions.sessions import Sessions
from tornado_sessions.storage.backend import Backend, Record, Version
from tornado_sessions.web import SessionMixin, recent_login

#: A function that a handler runs for a visitor: it may be a coroutine function.
Act = Callable[[SessionMixin], object]


#: A page that reads everything of a session.
ERROR_PAGE = """\
{% for text, category in handler.session.flashes() %}{{ text }} {% end %}\
Status {{ status }}, user {{ current_user }}, {{ len(handler.session) }} values,\
 {{ session_url("/next") }}, {{ locale.code }}, {{ bool(handler.xsrf_token) }}"""


class ActingHandler(tornado.web.RequestHandler):
    """Runs the functions that its visitor has named in the header ``Acts``."""

    async def get(self) -> None:
        for act in self.settings["acts"].get(self.request.headers.get("Acts"), ()):
            done = act(self)
            if inspect.isawaitable(done):
                await done

    head = post = get


class ActingSessionHandler(SessionMixin, ActingHandler):
    """Does the same with a session. Only the acts use the session."""


class ActingSocketHandler(SessionMixin, tornado.websocket.WebSocketHandler):
    """Runs the functions that each message names, and sends the last result.

    An error of the session is sent by its name. Before the handshake it runs the
    functions of its visitor, as an `ActingHandler` does.
    """

    async def get(self, *args: str, **kwargs: str) -> None:
        for act in self.settings["acts"].get(self.request.headers.get("Acts"), ()):
            done = act(self)
            if inspect.isawaitable(done):
                await done
        await super().get(*args, **kwargs)

    async def on_message(self, message: str | bytes) -> None:
        answer: object = None
        try:
            for act in self.settings["acts"][message]:
                answer = act(self)
                if inspect.isawaitable(answer):
                    answer = await answer
        except SessionError as error:
            answer = type(error).__name__
        await self.write_message(json.dumps(answer))


class MemberHandler(ActingSessionHandler):
    """Does the same for users who have signed in."""

    # Tornado types what it decorates as a method of any handler.
    get = head = post = tornado.web.authenticated(ActingHandler.get)  # type: ignore[assignment]


class HookedHandler(ActingSessionHandler):
    """Also runs functions on the page of an error and in `on_finish`.

    They are named in the headers ``Error-Acts`` and ``Finish-Acts``.
    """

    def get_user_locale(self) -> None:
        self.session.get("locale")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        name = self.request.headers.get("Error-Acts")
        for act in self.settings["acts"].get(name, ()):
            act(self)
        self.render("error.html", status=status_code)

    def on_finish(self) -> None:
        name = self.request.headers.get("Finish-Acts")
        for act in self.settings["acts"].get(name, ()):
            act(self)


class RecentHandler(ActingSessionHandler):
    """Does the same for users who have signed in within the last five minutes."""

    get = head = post = recent_login(max_age=300)(ActingHandler.get)


@dataclasses.dataclass
class Site:
    """An application that is being served."""

    application: tornado.web.Application
    server: tornado.httpserver.HTTPServer
    url: str

    @property
    def sessions(self) -> Sessions:
        return Sessions.of(self.application)


def make_application(acts: dict[str, Any], **settings: Any) -> tornado.web.Application:
    """Creates the application: ``/`` has a session, and ``/plain`` has none.

    At ``/socket`` it has one on a WebSocket.
    """
    return tornado.web.Application(
        [
            ("/", ActingSessionHandler),
            ("/plain", ActingHandler),
            ("/socket", ActingSocketHandler),
            ("/members", MemberHandler),
            ("/recent", RecentHandler),
            ("/hooks", HookedHandler),
        ],
        acts=acts,
        login_url="/login",
        template_loader=tornado.template.DictLoader(
            {"page.html": "A page.", "error.html": ERROR_PAGE}
        ),
        **settings,
    )


# Acts that many tests need.


def put(**values: Any) -> Act:
    """Sets values of the session."""
    return lambda handler: handler.session.update(values)


def login(user: str) -> Act:
    """Signs ``user`` in."""
    return lambda handler: handler.session.login(user)


def regenerate(handler: SessionMixin) -> None:
    handler.session.regenerate()


def destroy(handler: SessionMixin) -> None:
    handler.session.destroy()


async def save(handler: SessionMixin) -> None:
    await handler.session.save()


def look(handler: SessionMixin) -> None:
    """Reads the session and changes nothing."""
    handler.session.get("nothing of that name")


def fail(handler: SessionMixin) -> None:
    """Raises an unexpected error."""
    raise ArithmeticError("The handler failed.")


class Gate(asyncio.Event):
    """An event that also signals when a task begins to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def wait(self) -> Any:  # noqa: ANN401
        self.reached.set()
        return await super().wait()


class Crowd:
    """A barrier: delays each caller until all have arrived."""

    def __init__(self, size: int) -> None:
        self._missing = size
        self._complete = asyncio.Event()

    async def join(self, handler: SessionMixin | None = None) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._complete.set()
        await self._complete.wait()


class WatchedBackend(Backend):
    """Records all calls of another backend."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        #: The keys of the calls, in order.
        self.keys: list[bytes] = []
        #: The data that was stored.
        self.stored: list[bytes] = []

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> Backend:
        """Raises an error: this class wraps an existing backend."""
        raise TypeError("WatchedBackend is put around a backend, and has no URL.")

    async def load(self, key: bytes) -> Record | None:
        self.keys.append(key)
        return await self.inner.load(key)

    async def insert(self, key: bytes, record: Record) -> Version | None:
        self.keys.append(key)
        self.stored.append(record.data)
        return await self.inner.insert(key, record)

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        self.keys.append(key)
        self.stored.append(record.data)
        return await self.inner.replace(key, record, version)

    async def delete(self, key: bytes) -> None:
        self.keys.append(key)
        await self.inner.delete(key)

    def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        return self.inner.find(user)

    def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        return self.inner.find_all()

    async def close(self) -> None:
        await self.inner.close()

"""Defines `Visitor`, a client of the application under test, and `VisitorTests`."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.testing import bind_unused_port
from tornado.web import Application

from tornado_sessions.sessions import Sessions
from tornado_sessions.storage.backend import Backend
from tornado_sessions.storage.vault import Vault
from tornado_sessions.testing.applications import (
    Act,
    Gate,
    Site,
    WatchedBackend,
    make_application,
)
from tornado_sessions.testing.faults import FaultyVault
from tornado_sessions.web import SessionMixin

if TYPE_CHECKING:
    from tornado.testing import AsyncHTTPTestCase
else:
    # A mixin: only its combination with a test case is collected as a test.
    AsyncHTTPTestCase = object

T = TypeVar("T")


class Visitor:
    """A client that sends the session cookie as it was set, and no other cookie.

    With ``https`` its requests look like those of a proxy that terminates https.
    """

    def __init__(
        self,
        site: Site,
        client: AsyncHTTPClient,
        complete: Callable[[Coroutine[Any, Any, HTTPResponse]], HTTPResponse],
        cookie: str | None = None,
        https: bool = False,
    ) -> None:
        self.site = site
        #: The cookie as it is sent, such as ``session=…``; None for none.
        self.cookie = cookie
        self._client = client
        self._complete = complete
        self._headers = {"X-Forwarded-Proto": "https"} if https else {}

    @property
    def token(self) -> str:
        """The value of the cookie; empty without one."""
        return (self.cookie or "").partition("=")[2]

    def does(self, *acts: Act, **request: Any) -> HTTPResponse:
        """Sends one request and waits for its response."""
        return self._complete(self.send(*acts, **request))

    def asks(self, question: Callable[[SessionMixin], object]) -> Any:  # noqa: ANN401
        """Returns the result of ``question``, which runs in a new request."""
        response = self.does(
            lambda handler: handler.write(json.dumps(question(handler)))
        )
        return json.loads(response.body)

    def sees(self) -> Any:  # noqa: ANN401
        """Returns the values of the session."""
        return self.asks(lambda handler: dict(handler.session))

    async def send(
        self,
        *acts: Act,
        path: str = "/",
        headers: Mapping[str, str] | None = None,
        **request: Any,
    ) -> HTTPResponse:
        """Sends one request, and updates the cookie from the response."""
        response = await self._client.fetch(
            self.site.url + path,
            headers=self.headers(*acts) | dict(headers or {}),
            follow_redirects=False,
            raise_error=False,
            request_timeout=30,
            **request,
        )
        for line in session_cookies(response):
            cookie, _, attributes = line.partition(";")
            self.cookie = None if "Max-Age=0;" in attributes else cookie
        return response

    def headers(self, *acts: Act) -> dict[str, str]:
        """Returns the headers that make a handler run ``acts``."""
        scripts = self.site.application.settings["acts"]
        name = str(len(scripts))
        scripts[name] = acts
        cookie = {"Cookie": self.cookie} if self.cookie else {}
        return {"Acts": name} | cookie | self._headers

    def copy(self, site: Site | None = None) -> Visitor:
        """Returns another visitor with the same cookie, by default on the same site."""
        other = Visitor(site or self.site, self._client, self._complete, self.cookie)
        other._headers = self._headers
        return other


def session_cookies(response: HTTPResponse) -> list[str]:
    """Returns the Set-Cookie lines of the session."""
    lines = response.headers.get_list("Set-Cookie")
    return [line for line in lines if line.partition("=")[0].endswith("session")]


class VisitorTests(AsyncHTTPTestCase):
    """Serves an application, and controls its clock, its store and its visitors."""

    def make_session_backend(self) -> str | Backend | Vault:
        """Returns the ``session_backend`` setting: a URL or an instance.

        It is called once for each application of a test. If the store is
        shared, all of them must use the same one.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define make_session_backend(), and answer"
            " the session_backend setting from it."
        )

    def setUp(self) -> None:
        self.log = _Log()
        self.log.start()
        #: The time of every clock in the test.
        self.time = time.time()
        self.acts: dict[str, Any] = {}
        self.secret = secrets.token_urlsafe(32)
        self.sites: list[Site] = []
        self.gates: list[Gate] = []
        super().setUp()
        self.site = Site(self._app, self.http_server, self.get_url(""))
        self.sites.append(self.site)

    def tearDown(self) -> None:
        for gate in self.gates:
            gate.set()
        for site in self.sites:
            site.server.stop()
            self.complete(site.sessions.close())
        super().tearDown()
        self.log.stop()
        self.assertFalse(self.log.find("never retrieved"), "An error was lost.")

    def get_app(self) -> Application:
        return self.make_application()

    def get_http_client(self) -> AsyncHTTPClient:
        return SimpleAsyncHTTPClient(force_instance=True, max_clients=100)

    def get_httpserver_options(self) -> dict[str, Any]:
        # Room for the longest of hostile cookies.
        return {"xheaders": True, "max_header_size": 1 << 20}

    def make_application(self, **settings: Any) -> Application:
        application = make_application(
            self.acts,
            session_backend=self.make_session_backend(),
            cookie_secret=self.secret,
            **settings,
        )
        Sessions.of(application).now = lambda: self.time
        return application

    def serve(self, **settings: Any) -> Site:
        """Serves another application, with other settings."""
        application = self.make_application(**settings)
        server = HTTPServer(application, **self.get_httpserver_options())
        socket, port = bind_unused_port()
        server.add_sockets([socket])
        site = Site(application, server, f"http://127.0.0.1:{port}")
        self.sites.append(site)
        return site

    def visitor(
        self,
        site: Site | None = None,
        token: str | None = None,
        https: bool = False,
    ) -> Visitor:
        """Returns a new visitor, with a cookie if there is a ``token``."""
        cookie = None if token is None else f"session={token}"
        return Visitor(
            site or self.site, self.http_client, self.complete, cookie, https
        )

    def complete(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs the loop until ``coroutine`` is done."""
        result: T = self.io_loop.run_sync(lambda: coroutine, timeout=30)
        return result

    # Requirements of a test.

    @property
    def sessions(self) -> Sessions:
        return self.site.sessions

    @property
    def backend(self) -> Backend | None:
        """The backend behind the vault; None if the vault needs none."""
        vault = self.sessions.vault
        while isinstance(vault, FaultyVault):
            vault = vault.inner
        return getattr(vault, "backend", None)

    def require_revocable(self) -> None:
        """Skips the test if the server cannot end a session."""
        if not self.sessions.rules.revocable:
            self.skipTest("the server cannot revoke these sessions")

    @property
    def ends_copies(self) -> bool:
        """Whether no copy of a cookie works after its session was ended."""
        rules = self.sessions.rules
        return rules.revocable or rules.ends_copies

    def require_ending_of_copies(self) -> None:
        """Skips the test if the copies of a cookie cannot be ended."""
        if not self.ends_copies:
            self.skipTest("the copies of these cookies live on")

    def require_backend(self) -> Backend:
        """Skips the test if the client holds the record itself."""
        backend = self.backend
        if backend is None:
            self.skipTest("the client holds the record itself")
        return backend

    def require_listing(self) -> None:
        """Skips the test if the sessions of a user cannot be looked up."""
        if not self.sessions.vault.finds_by_user:
            self.skipTest("this store does not list the sessions of a user")

    def require_revoking(self) -> None:
        """Skips the test if a session of a user cannot be ended by its handle."""
        if not (self.sessions.vault.finds_by_user or self.sessions.rules.ends_copies):
            self.skipTest("this store ends no session by its handle")

    def require_ending(self) -> None:
        """Skips the test if the sessions of a user cannot be ended."""
        if not self.sessions.vault.ends_users:
            self.skipTest("this store does not end the sessions of a user")

    def serve_another_process(self) -> Site:
        """Serves the same sessions once more; skips the test if it is not possible."""
        if not (self.sessions.rules.ends_copies or self.require_backend().shared):
            self.skipTest("processes do not share these sessions")
        return self.serve()

    # Wrappers of the vault and of the backend.

    def watch(self, site: Site | None = None, suspends: bool = False) -> FaultyVault:
        """Returns a vault that counts the calls of the store, and can fail or delay them."""
        sessions = (site or self.site).sessions
        vault = sessions.vault = FaultyVault(sessions.vault, suspends=suspends)
        return vault

    def watch_backend(self) -> WatchedBackend:
        """Returns a backend that records all calls."""
        watched = WatchedBackend(self.require_backend())
        vault = self.sessions.vault
        while isinstance(vault, FaultyVault):
            vault = vault.inner
        vault.backend = watched
        return watched

    def hold(self, vault: FaultyVault) -> Gate:
        """Delays every operation of ``vault`` until the gate is set."""
        gate = vault.gate = Gate()
        self.gates.append(gate)
        return gate

    # Helpers.

    def meanwhile(self, visitor: Visitor, *acts: Act) -> Act:
        """Runs a complete request of another visitor during this one."""

        async def act(handler: SessionMixin) -> None:
            handler.session.get("loaded before")
            await visitor.send(*acts)

        return act

    def altered(self, token: str) -> str:
        """Returns a token that is well formed and unknown."""
        if self.sessions.rules.revocable:
            return secrets.token_urlsafe(32)
        middle = len(token) // 2
        other = "A" if token[middle] != "A" else "B"
        return token[:middle] + other + token[middle + 1 :]

    def max_age(self, response: HTTPResponse) -> int | None:
        """Returns the Max-Age of the session's cookie; None if there is none."""
        for line in session_cookies(response):
            if found := re.search("Max-Age=([0-9]+)", line):
                return int(found[1])
        return None

    def assert_cookie_lines(self, response: HTTPResponse, count: int) -> None:
        self.assertEqual(len(session_cookies(response)), count, response.code)


class _Log(logging.Handler):
    """Keeps all log records, from DEBUG on."""

    def start(self) -> None:
        self.lines: list[str] = []
        root = logging.getLogger()
        self._level = root.level
        root.setLevel(logging.DEBUG)
        root.addHandler(self)

    def stop(self) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        root.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name} {self.format(record)}")

    def find(self, text: str) -> list[str]:
        """Returns the logged lines that contain ``text``."""
        return [line for line in self.lines if text in line]

"""Tests of the address and the user agent that events have, over HTTP."""

from __future__ import annotations

from tornado.testing import AsyncHTTPTestCase
from tornado_sessions_memory import MemoryBackend

from tornado_sessions import Backend, SessionEvent
from tornado_sessions.testing.applications import login, look, put
from tornado_sessions.testing.visitors import VisitorTests
from tornado_sessions.web import SessionMixin

UNKNOWN = "A" * 43


class RequestDataTest(VisitorTests, AsyncHTTPTestCase):
    def make_session_backend(self) -> Backend:
        return MemoryBackend()

    def setUp(self) -> None:
        super().setUp()
        self.told: list[SessionEvent] = []
        self.asking = self.serve(
            session_listener=self.told.append,
            session_listener_requests=True,
            # Some requests come from elsewhere.
            session_cookie_kwargs={"secure": False},
        )

    def from_where(self) -> list[tuple[str, str | None, str | None]]:
        """Returns the events since the last call, each with what the request had."""
        told = [(event.name, event.address, event.user_agent) for event in self.told]
        self.told.clear()
        return told

    def test_an_event_has_them_if_the_setting_says_so(self) -> None:
        """Behaviour 99: the address that Tornado has found behind a proxy."""
        visitor = self.visitor(self.asking)
        headers = {"User-Agent": "Firefox", "X-Real-Ip": "203.0.113.9"}
        visitor.does(login("ada"), headers=headers)
        self.visitor(self.asking, token=UNKNOWN).does(look, headers=headers)

        assert self.from_where() == [
            ("created", "203.0.113.9", "Firefox"),
            ("refused", "203.0.113.9", "Firefox"),
        ]

    def test_without_the_setting_it_has_none(self) -> None:
        """Behaviour 99: they are personal data."""
        site = self.serve(session_listener=self.told.append)
        self.visitor(site).does(login("ada"), headers={"User-Agent": "Firefox"})

        assert self.from_where() == [("created", None, None)]

    def test_another_application_of_the_process_has_none(self) -> None:
        """Behaviour 99: one without the setting, used by a handler of one with it."""
        other = self.serve(session_listener=self.told.append)
        self.visitor(other).does(login("ada"))
        self.told.clear()

        async def revoke(handler: SessionMixin) -> None:
            await other.sessions.revoke_all("ada")

        self.visitor(self.asking).does(revoke)
        assert self.from_where() == [("revoked", None, None)]

    def test_a_user_agent_is_500_characters_long_at_most(self) -> None:
        """Behaviour 85: a client can send as much as the server takes."""
        headers = {"User-Agent": "x" * 501}
        self.visitor(self.asking).does(put(a=1), headers=headers)

        [(_, address, agent)] = self.from_where()
        assert (address, agent) == ("127.0.0.1", "x" * 500)

    def test_requests_at_once_are_not_mixed_up(self) -> None:
        """Behaviours 41, 99: one that ends while another one is in progress."""
        outer, inner = self.visitor(self.asking), self.visitor(self.asking)

        async def meanwhile(handler: SessionMixin) -> None:
            await inner.send(login("bob"), headers={"User-Agent": "inner"})

        outer.does(login("ada"), meanwhile, headers={"User-Agent": "outer"})
        assert [event.user_agent for event in self.told] == ["inner", "outer"]

    def test_one_connection_has_those_of_each_request(self) -> None:
        """Behaviours 41, 99: without the header there is none."""
        visitor = self.visitor(self.asking)
        for agent in ("one", "", "two"):
            visitor.does(login("ada"), headers={"User-Agent": agent})

        assert [event.user_agent for event in self.told] == ["one", None, "two"]

    def test_outside_of_a_request_it_has_none(self) -> None:
        """Behaviour 99: such as for a command of an administrator."""
        self.visitor(self.asking).does(login("ada"))
        self.told.clear()
        self.complete(self.asking.sessions.revoke_all("ada"))

        assert self.from_where() == [("revoked", None, None)]

"""Tests of the events that a listener is told, over HTTP where they come from."""

from __future__ import annotations

import logging
import secrets
from typing import Any
from unittest import mock

import pytest
from tornado.testing import AsyncHTTPTestCase, ExpectLog
from tornado_sessions_cookie import CookieBackend
from tornado_sessions_memory import MemoryBackend

from tornado_sessions import (
    Backend,
    Record,
    Session,
    SessionEvent,
    SessionMixin,
    Sessions,
    Vault,
)
from tornado_sessions.core.events import Events
from tornado_sessions.core.rules import Rules
from tornado_sessions.events import Listener
from tornado_sessions.logs import LimitedLog
from tornado_sessions.settings import Settings
from tornado_sessions.testing import FaultyVault
from tornado_sessions.testing.applications import (
    Act,
    destroy,
    login,
    look,
    put,
    regenerate,
)
from tornado_sessions.testing.visitors import Visitor, VisitorTests

UNKNOWN = "A" * 43


class EventsTest(VisitorTests, AsyncHTTPTestCase):
    def make_session_backend(self) -> str | Backend | Vault:
        return "memory"

    def setUp(self) -> None:
        super().setUp()
        self.told: list[SessionEvent] = []
        self.sessions.events.listener = self.told.append

    def tells(self) -> list[tuple[Any, ...]]:
        """Returns the events since the last call, without the times."""
        told = self.told[:]
        self.told.clear()
        assert {event.time for event in told} <= {self.time}
        return [
            (event.name, event.fingerprint, event.former, event.user, event.reason)
            for event in told
        ]

    def mark(self, visitor: Visitor) -> str:
        return self.sessions.vault.fingerprint(visitor.token)

    def handles(self) -> list[tuple[str, str | None]]:
        """Returns the events since the last call, each with the handle."""
        told = [(event.name, event.handle) for event in self.told]
        self.told.clear()
        return told

    def handle(self, visitor: Visitor) -> Any:  # noqa: ANN401
        return visitor.asks(lambda handler: handler.session.id)

    def signed_in(self, user: str = "ada") -> Visitor:
        visitor = self.visitor()
        visitor.does(login(user))
        self.told.clear()
        return visitor

    def test_a_new_session_is_created(self) -> None:
        """Once it is stored, and with its user where it begins with a login."""
        ada, guest = self.visitor(), self.visitor()
        ada.does(look)
        assert self.tells() == []
        guest.does(put(a=1))
        ada.does(login("ada"))
        assert self.tells() == [
            ("created", self.mark(guest), None, None, None),
            ("created", self.mark(ada), None, "ada", "login"),
        ]

    def test_an_event_has_the_handle_of_its_session(self) -> None:
        """Behaviour 99: the one of `Session.id`, which a login changes."""
        ada = self.visitor()
        ada.does(login("ada"))
        handle, late = self.handle(ada), ada.copy()
        ada.does(regenerate)
        late.does(look)
        ada.does(put(a=1), self.meanwhile(ada.copy(), put(b=1)))
        names = ["created", "regenerated", "superseded", "conflict"]
        assert self.handles() == [(name, handle) for name in names]

        ada.does(login("ada"))
        assert handle != self.handle(ada)
        handle = self.handle(ada)
        ada.does(_conflicting(ada.copy()))
        ada.does(destroy)
        names = ["regenerated", "conflict", "destroyed"]
        assert self.handles() == [(name, handle) for name in names]

    def test_an_event_of_a_session_that_ends_elsewhere_has_its_handle(self) -> None:
        """Behaviour 99: whatever ends it, and None for an id that is not known."""
        users = ("ada", "bob", "eve", "fay")
        _, bob, eve, fay = visitors = [self.signed_in(user) for user in users]
        handles = [self.handle(each) for each in visitors]
        self.complete(self.sessions.revoke_all("ada"))
        bob.does(put(a=1), self.meanwhile(bob.copy(), destroy))
        late = fay.copy()
        fay.does(regenerate)
        late.does(destroy)
        self.time += self.sessions.rules.idle_timeout
        eve.does(look)
        self.visitor(token=UNKNOWN).does(look)
        assert self.handles() == [
            ("revoked", handles[0]),
            ("destroyed", handles[1]),
            ("conflict", handles[1]),
            ("regenerated", handles[3]),
            ("superseded", handles[3]),
            ("destroyed", handles[3]),
            ("expired", handles[2]),
            ("refused", None),
        ]

    def test_a_login_that_is_refused_has_the_handle_of_the_session_that_stays(
        self,
    ) -> None:
        """Behaviour 99: that of the login was never stored."""
        self.sessions.logins.limit, self.sessions.logins.policy = 1, "refuse"
        self.signed_in("ada")
        guest = self.visitor()
        guest.does(put(a=1))
        handle = self.handle(guest)
        guest.does(login("ada"))
        assert self.handles() == [("created", handle), ("refused", handle)]

    def test_nothing_is_told_of_what_is_only_saved(self) -> None:
        """Nor of a read, nor of a renewal."""
        ada = self.signed_in()
        ada.does(put(a=1))
        ada.does(look)
        self.time += self.sessions.rules.idle_timeout / 2
        ada.does(look)
        assert self.tells() == []

    def test_a_session_is_regenerated(self) -> None:
        """With the fingerprint that it had before, so that it can be followed."""
        ada = self.visitor()
        ada.does(put(a=1))
        self.told.clear()
        marks = [self.mark(ada)]
        for act in (regenerate, login("ada"), regenerate):
            ada.does(act)
            marks.append(self.mark(ada))
        assert self.tells() == [
            ("regenerated", marks[1], marks[0], None, None),
            ("regenerated", marks[2], marks[1], "ada", "login"),
            ("regenerated", marks[3], marks[2], "ada", None),
        ]

    def test_a_session_is_destroyed(self) -> None:
        """With the user that it was of."""
        ada = self.signed_in()
        mark = self.mark(ada)
        ada.does(destroy)
        assert self.tells() == [("destroyed", mark, None, "ada", None)]

    def test_a_login_that_is_taken_back_by_a_destroy_names_nobody(self) -> None:
        """The session that ends is that of the user whom the store has."""
        ada = self.signed_in()
        mark = self.mark(ada)
        ada.does(login("grace"), destroy)
        assert self.tells() == [("destroyed", mark, None, "ada", None)]

    def test_a_login_of_the_same_user_is_a_login(self) -> None:
        """Such as one for which a password was asked again."""
        ada = self.signed_in()
        former = self.mark(ada)
        self.time += 1
        ada.does(login("ada"))
        assert self.tells() == [
            ("regenerated", self.mark(ada), former, "ada", "login"),
        ]

    def test_a_session_has_expired(self) -> None:
        """With the reason, whenever its cookie comes."""
        marks = []
        for seconds, reason, act in (
            (self.sessions.rules.idle_timeout, "idle", look),
            (100.0, "lifetime", _end_in(100.0)),
            (-1000.0, "clock", look),
        ):
            ada = self.signed_in()
            ada.does(act)
            marks.append(self.mark(ada))
            self.time += seconds
            ada.does(look)
            ada.does(look)
            assert self.tells() == 2 * [
                ("expired", self.mark(ada), None, "ada", reason)
            ]

    def test_the_lifetime_of_a_session_counts_from_the_login(self) -> None:
        """Behaviour 48: until then it is the idle timeout that ends one."""
        idle = self.sessions.rules.idle_timeout
        self.sessions.rules.lifetime = 1.5 * idle
        ada = self.visitor()
        ada.does(put(a=1))
        self.time += 0.9 * idle
        ada.does(login("ada"))
        self.told.clear()
        self.time += idle
        ada.does(look)
        assert self.tells() == [("expired", self.mark(ada), None, "ada", "idle")]

    def test_a_session_is_revoked(self) -> None:
        """Under the fingerprint that it had as it was made."""
        ada, other = self.signed_in(), self.signed_in()
        marks = {self.mark(ada), self.mark(other)}
        self.complete(self.sessions.revoke_all("ada"))
        told = self.tells()
        assert {each[1] for each in told} == marks
        assert {each[:1] + each[2:] for each in told} == {
            ("revoked", None, "ada", None)
        }

    def test_what_had_expired_is_not_revoked(self) -> None:
        """It was none any more."""
        self.signed_in()
        self.time += self.sessions.rules.idle_timeout
        self.complete(self.sessions.revoke_all("ada"))
        assert self.tells() == []

    def test_a_session_that_ends_while_it_is_used_is_not_refused(self) -> None:
        """Its request was let in."""
        ada = self.signed_in()
        mark = self.mark(ada)
        ada.does(put(a=1), self.meanwhile(ada.copy(), destroy))
        assert self.tells() == [
            ("destroyed", mark, None, "ada", None),
            ("conflict", mark, None, "ada", None),
        ]

    def test_a_session_made_room(self) -> None:
        """It is revoked, for a reason of its own."""
        self.sessions.logins.limit = 1
        ada = self.signed_in()
        mark = self.mark(ada)
        self.time += 1
        other = self.visitor()
        other.does(login("ada"))
        assert self.tells() == [
            ("revoked", mark, None, "ada", "limit"),
            ("created", self.mark(other), None, "ada", "login"),
        ]

    def test_a_conflict(self) -> None:
        """Once for each save that met one."""
        ada = self.signed_in()
        conflict = ("conflict", self.mark(ada), None, "ada", None)
        ada.does(put(a=1), self.meanwhile(ada.copy(), put(b=1)))
        assert self.tells() == [conflict]

        ada.copy().does(_conflicting(ada))
        assert self.tells() == [conflict]
        assert ada.sees() == {"a": 1, "b": 1, "c": 1, "n": 1}

    def test_a_request_is_refused(self) -> None:
        """A cookie that opens nothing: unknown, malformed, unreadable, foreign or two."""
        for token, reason in ((UNKNOWN, "unknown"), ("x", "malformed")):
            self.visitor(token=token).does(look)
            mark = self.sessions.vault.fingerprint(token)
            assert self.tells() == [("refused", mark, None, None, reason)]
        broken = self.complete(self.sessions.vault.insert(Record(b"{"))).token
        self.visitor(token=broken).does(look)
        mark = self.sessions.vault.fingerprint(broken)
        assert self.tells() == [("refused", mark, None, None, "undecodable")]
        key = self.sessions.vault.key_of(UNKNOWN)
        self.complete(self.require_backend().insert(key, Record(b"{")))
        self.visitor(token=UNKNOWN).does(look)
        mark = self.sessions.vault.fingerprint(UNKNOWN)
        assert self.tells() == [("refused", mark, None, None, "foreign")]
        visitors = [self.signed_in(), self.signed_in()]
        self.tells()
        cookies = "; ".join(str(visitor.cookie) for visitor in visitors)
        self.visitor().does(look, headers={"Cookie": cookies})
        assert self.tells() == [("refused", None, None, None, "two cookies")]

    def test_two_ids_in_another_way_are_refused(self) -> None:
        """Behaviours 35, 73: as two cookies are."""
        site = self.serve(
            session_transports=("header",), session_listener=self.told.append
        )
        ids = ", ".join(secrets.token_urlsafe(32) for _ in range(5))
        self.visitor(site).does(look, headers={"X-Session-Token": ids})
        assert self.tells() == [("refused", None, None, None, "two ids")]

    def test_the_remains_of_a_session_that_has_ended_are_unknown(self) -> None:
        """The store could not remove them, and they are no session."""
        ada = self.signed_in()
        late = ada.copy()
        vault = self.watch()
        vault.failing = {"delete"}
        ada.does(destroy)
        vault.failing.clear()
        self.told.clear()
        late.does(look)
        assert self.tells() == [("refused", self.mark(late), None, None, "unknown")]

    def test_an_id_that_was_replaced_is_superseded(self) -> None:
        """Behaviour 77: whoever still has it may have stolen it."""
        ada = self.signed_in()
        late = ada.copy()
        ada.does(regenerate)
        self.told.clear()
        late.does(look)
        assert self.tells() == [("superseded", self.mark(late), None, "ada", None)]

    def test_the_end_of_a_session_is_told_once(self) -> None:
        """Behaviour 77: by whichever request it ends, and under its newest id."""
        ada = self.signed_in()
        late = ada.copy()
        ada.does(regenerate)
        newest = self.mark(ada)
        self.told.clear()
        late.does(destroy, self.meanwhile(late.copy(), destroy))
        ada.does(destroy)
        told = [event for event in self.tells() if event[0] == "destroyed"]
        assert told == [("destroyed", newest, None, "ada", None)]

    def test_a_login_too_many_is_refused(self) -> None:
        """With the user who has too many."""
        self.sessions.logins.limit = 1
        self.sessions.logins.policy = "refuse"
        self.signed_in()
        guest = self.visitor()
        guest.does(login("ada"))
        assert self.tells() == [("refused", None, None, "ada", "limit")]
        guest.does(put(a=1))
        self.told.clear()
        guest.does(login("ada"))
        assert self.tells() == [("refused", self.mark(guest), None, "ada", "limit")]

    def test_the_store_is_down_and_up_again(self) -> None:
        """Once each, however many requests there are in between."""
        vault = self.watch()
        for operation, act in (
            ("load", look),
            ("save", put(a=1)),
            ("replace", destroy),
        ):
            ada = self.signed_in()
            vault.failing = {operation}
            for _ in range(3):
                assert ada.copy().does(act).code == 503
            why = f"Cannot {operation} the session."
            assert self.tells() == [("store_down", None, None, None, why)]
            vault.failing.clear()
            for _ in range(2):
                ada.does(put(b=1))
                ada.does(put(b=2))
            assert self.tells() == [("store_up", None, None, None, None)]

    def test_a_store_that_fails_altogether_is_down_once(self) -> None:
        """And up when both reading and writing have worked again."""
        ada = self.signed_in()
        vault = self.watch()
        vault.failing = {"save"}
        ada.does(put(a=1))
        vault.failing = {"load", "save"}
        ada.does(put(a=1))
        vault.failing.clear()
        ada.does(look)
        assert [each[0] for each in self.tells()] == ["store_down"]
        ada.does(put(a=1))
        assert [each[0] for each in self.tells()] == ["store_up"]

    def test_a_store_that_fails_in_the_middle_is_down(self) -> None:
        """Between the insertion of a fresh id and the end of the old one."""
        ada = self.signed_in()
        self.watch().failing = {"replace"}
        ada.does(regenerate)
        why = "Cannot replace the session."
        # It is up again for the removal of the fresh one.
        assert self.tells() == [
            ("store_down", None, None, None, why),
            ("store_up", None, None, None, None),
        ]

    def test_a_listener_that_raises_stops_nothing(self) -> None:
        """It is logged, and the response goes out."""

        def fail(event: SessionEvent) -> None:
            raise ArithmeticError("The listener failed.")

        self.sessions.events.listener = fail
        ada = self.visitor()
        assert ada.does(put(a=1)).code == 200
        assert ada.sees() == {"a": 1}
        (line,) = self.log.find("The session_listener failed")
        assert line.startswith(
            "ERROR tornado_sessions The session_listener failed over the event"
            " 'created'."
        )
        assert "ArithmeticError: The listener failed." in line

    def test_a_flood_of_its_errors_is_summed_up(self) -> None:
        """Behaviour 85: each visitor can cause an event."""

        def fail(event: SessionEvent) -> None:
            raise ArithmeticError

        self.sessions.events.listener = fail
        for _ in range(15):
            self.visitor().does(put(a=1))
        assert len(self.log.find("The session_listener failed")) == 10

    def test_the_setting_names_it(self) -> None:
        """For all that the application does."""
        told: list[SessionEvent] = []
        site = self.serve(session_listener=told.append)
        self.visitor(site).does(put(a=1))
        assert [event.name for event in told] == ["created"]

    def test_without_a_listener_nothing_is_made(self) -> None:
        """Neither an event nor a fingerprint."""
        self.sessions.events.listener = None
        ada = self.visitor()
        with mock.patch.object(self.watch(), "fingerprint", None):
            for act in (put(a=1), regenerate, login("ada"), destroy):
                assert ada.does(act).code == 200
            assert self.visitor(token=UNKNOWN).does(look).code == 200


class SuspendingEventsTest(EventsTest):
    def make_session_backend(self) -> str | Backend | Vault:
        return FaultyVault(Vault(MemoryBackend()), suspends=True)


class CookieEventsTest(VisitorTests, AsyncHTTPTestCase):
    """A vault that has neither keys nor tokens of the usual form."""

    def make_session_backend(self) -> str | Backend | Vault:
        return CookieBackend({0: self.secret}, 0, not_before=MemoryBackend())

    def test_it_tells_what_it_can(self) -> None:
        """A cookie that was altered could have been one of ours."""
        told: list[SessionEvent] = []
        self.sessions.events.listener = told.append
        ada = self.visitor()
        ada.does(put(a=1))
        self.visitor(token=self.altered(ada.token)).does(look)
        self.visitor(token=UNKNOWN).does(look)
        assert [(event.name, event.reason) for event in told] == [
            ("created", None),
            ("refused", "unknown"),
            ("refused", "malformed"),
        ]
        assert told[0].fingerprint == self.sessions.vault.fingerprint(ada.token)

    def test_the_end_of_one_session_has_its_handle(self) -> None:
        """Behaviour 99: where the server can end a cookie."""
        told: list[SessionEvent] = []
        self.sessions.events.listener = told.append
        handles = []
        for end in (
            lambda ada, handle: ada.does(destroy),
            lambda ada, handle: self.complete(self.sessions.revoke("ada", handle)),
        ):
            ada = self.visitor()
            ada.does(login("ada"))
            handles.append(ada.asks(lambda handler: handler.session.id))
            end(ada, handles[-1])
        assert [(event.name, event.handle) for event in told] == [
            ("created", handles[0]),
            ("destroyed", handles[0]),
            ("created", handles[1]),
            ("revoked", handles[1]),
        ]

    def test_a_user_is_logged_out_everywhere(self) -> None:
        """In one event: nobody knows how many sessions there were."""
        told: list[SessionEvent] = []
        self.sessions.events.listener = told.append
        self.complete(self.sessions.revoke_all("ada"))
        assert told == [SessionEvent("revoked", self.time, user="ada")]


class TellTest:
    def tell(self, listener: Listener, **fields: str) -> None:
        """Tells ``listener`` that a session was created."""
        logs = LimitedLog(logging.getLogger("tornado_sessions"))
        vault = Vault(MemoryBackend())
        Events(listener, Rules(), lambda: vault, logs).tell("created", **fields)

    def test_what_ends_the_process_ends_it(self) -> None:
        """Only an error of the listener is caught."""

        def leave(event: SessionEvent) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            self.tell(leave)

    def test_an_error_is_logged_with_the_event_alone(self) -> None:
        """Behaviour 8: by its name."""

        def fail(event: SessionEvent) -> None:
            raise ValueError("no")

        with ExpectLog(
            logging.getLogger("tornado_sessions"),
            r"The session_listener failed over the event 'created'\.",
            level=logging.ERROR,
        ):
            self.tell(fail, user="ada")


def _end_in(seconds: float) -> Act:
    return lambda handler: handler.session.set_expiry(lifetime=seconds)


def _conflicting(other: Visitor) -> Act:
    """Runs a transaction during which another process saves, at its first run."""

    async def act(handler: SessionMixin) -> None:
        elsewhere = Sessions(Settings(handler.sessions.vault))
        elsewhere.now = handler.sessions.now
        runs: list[Session] = []

        async def change(session: Session) -> None:
            session["n"] = len(runs)
            runs.append(session)
            if len(runs) == 1:
                rival = await elsewhere.load(other.token)
                rival["c"] = 1
                await rival.save()

        await handler.session.transact(change)
        elsewhere.cleanup.close()

    return act

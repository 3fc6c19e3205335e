"""What every application's sessions must do over HTTP, as tests.

A whole test module, for `unittest` and for pytest::

    import unittest

    from tornado.testing import AsyncHTTPTestCase
    from tornado_sessions.testing import HandlerContract


    class MemoryHandlerTest(HandlerContract, AsyncHTTPTestCase):
        def make_session_backend(self):
            return "memory"


    if __name__ == "__main__":
        unittest.main()

The numbers in the docstrings are those of the library's list of behaviours.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from typing import Any

from tornado_sessions.errors import SessionDataError
from tornado_sessions.testing.applications import (
    Act,
    destroy,
    fail,
    login,
    look,
    put,
    regenerate,
    save,
)
from tornado_sessions.testing.concurrency import ConcurrencyContract
from tornado_sessions.testing.expiry import ExpiryContract
from tornado_sessions.testing.identity import IdentityContract
from tornado_sessions.testing.responses import ResponseContract
from tornado_sessions.testing.revoking import RevokingContract
from tornado_sessions.testing.saving import SavingContract
from tornado_sessions.testing.several import SeveralIdsContract
from tornado_sessions.testing.sockets import SocketContract
from tornado_sessions.testing.transports import TransportContract
from tornado_sessions.testing.users import UsersContract
from tornado_sessions.testing.visitors import session_cookies
from tornado_sessions.testing.xsrf import XSRFContract
from tornado_sessions.web import SessionMixin

START = {"a": 1, "b": {"c": [1, 2]}}

READS: tuple[Act, ...] = (
    lambda handler: handler.session.get("a"),
    lambda handler: handler.session["b"],
    lambda handler: "a" in handler.session,
    lambda handler: len(handler.session),
    lambda handler: list(handler.session),
    lambda handler: bool(handler.session),
    lambda handler: dict(handler.session.items()),
    lambda handler: handler.session.pop("nothing", None),
    lambda handler: handler.session.setdefault("a", 5),
    lambda handler: handler.session.update(a=1),
    lambda handler: handler.session.update(b={"c": [1, 2]}),
    lambda handler: handler.session.update(a=handler.session.pop("a")),
)


def _merge_in_place(handler: SessionMixin) -> None:
    handler.session |= {"a": 2, "d": 3}


WRITES: tuple[tuple[Act, dict[str, Any]], ...] = (
    (put(a=2), {"a": 2, "b": {"c": [1, 2]}}),
    (lambda handler: handler.session.__delitem__("a"), {"b": {"c": [1, 2]}}),
    (lambda handler: handler.session.pop("a"), {"b": {"c": [1, 2]}}),
    (lambda handler: handler.session.popitem(), {"a": 1}),
    (_merge_in_place, {"a": 2, "b": {"c": [1, 2]}, "d": 3}),
    (lambda handler: handler.session.setdefault("d", 0), START | {"d": 0}),
    (lambda handler: handler.session.clear(), {}),
    (
        lambda handler: handler.session["b"]["c"].append(3),
        {"a": 1, "b": {"c": [1, 2, 3]}},
    ),
    (
        lambda handler: handler.session["b"].update(d=None),
        {"a": 1, "b": {"c": [1, 2], "d": None}},
    ),
)


class HandlerContract(
    IdentityContract,
    SeveralIdsContract,
    ResponseContract,
    SavingContract,
    ConcurrencyContract,
    ExpiryContract,
    TransportContract,
    SocketContract,
    XSRFContract,
    UsersContract,
    RevokingContract,
):
    """Tests an application's sessions; beside it goes Tornado's own test case.

    The store may hold anything: no test uses a session of another. What the
    vault and its backend declare, such as ``revocable`` and ``shared``, decides
    which tests run; one that is skipped says so.
    """

    # Laziness.

    def test_a_request_without_a_session_costs_nothing(self) -> None:
        """Behaviour 12: no store call, no cookie, no Vary."""
        vault = self.watch()
        response = self.visitor().does()
        self.assert_cookie_lines(response, 0)
        self.assertNotIn("Vary", response.headers)
        self.assertEqual(vault.calls, [])

    def test_reading_an_absent_session_creates_nothing(self) -> None:
        """Behaviour 13: neither a record nor a cookie."""
        vault = self.watch()
        response = self.visitor().does(look)
        self.assert_cookie_lines(response, 0)
        self.assertEqual(vault.calls, [])

    def test_a_new_session_without_values_is_not_stored(self) -> None:
        """Behaviour 14: nor is one that was emptied again."""
        vault = self.watch()
        undos: tuple[Act, ...] = (
            lambda handler: handler.session.clear(),
            lambda handler: handler.session.popitem(),
        )
        for undo in undos:
            self.assert_cookie_lines(self.visitor().does(put(a=1), undo), 0)
        response = self.visitor().does(
            lambda handler: handler.session.set_expiry(idle=60)
        )
        self.assert_cookie_lines(response, 0)
        self.assertEqual(vault.calls, [])

    def test_a_new_session_is_stored_once(self) -> None:
        """Behaviour 15: with one Set-Cookie."""
        vault = self.watch()
        self.assert_cookie_lines(self.visitor().does(put(a=1), put(b=2)), 1)
        self.assertEqual(vault.calls, ["save"])

    def test_the_session_is_one_object_throughout_a_request(self) -> None:
        """Behaviour 16: whatever becomes of it."""

        async def same(handler: SessionMixin) -> None:
            first = handler.session
            for act in (put(a=1), save, regenerate, login("ada"), save, destroy):
                done = act(handler)
                if inspect.isawaitable(done):
                    await done
                if handler.session is not first:
                    raise AssertionError(act)

        ada = self.visitor()
        self.assertEqual(ada.does(same).code, 200)
        ada.does(put(a=1))
        self.assertEqual(ada.does(same).code, 200)

    def test_emptying_a_session_keeps_it(self) -> None:
        """Behaviour 17: its record and its id stay."""
        ada = self.visitor()
        ada.does(put(a=1))
        before = ada.token
        handle = ada.asks(lambda handler: handler.session.id)
        ada.does(lambda handler: handler.session.clear())
        self.assertEqual(ada.asks(lambda handler: handler.session.id), handle)
        self.assertFalse(ada.asks(lambda handler: handler.session.is_new))
        self.assertEqual(ada.sees(), {})
        if self.sessions.rules.revocable:
            self.assertEqual(ada.token, before)

    # Noticing change.

    def test_reading_changes_nothing(self) -> None:
        """Behaviours 18, 19, 20, 22: nor does what comes out as it was."""
        ada = self.visitor()
        ada.does(put(**START))
        vault = self.watch()
        for number, act in enumerate(READS):
            with self.subTest(number=number):
                vault.calls.clear()
                response = ada.does(act)
                self.assertEqual(response.code, 200)
                self.assertEqual(response.headers["Vary"], "Cookie")
                self.assert_cookie_lines(response, 0)
                self.assertEqual(vault.calls, ["load"])

    def test_writing_is_noticed(self) -> None:
        """Behaviours 19, 21: at any depth, whatever it is done with."""
        vault = self.watch()
        for number, (act, values) in enumerate(WRITES):
            with self.subTest(number=number):
                ada = self.visitor()
                ada.does(put(**START))
                vault.calls.clear()
                self.assertEqual(ada.does(act).code, 200)
                self.assertEqual(vault.calls, ["load", "save"])
                self.assertEqual(ada.sees(), values)

    def test_popping_a_missing_key_is_a_key_error(self) -> None:
        """Behaviour 20: as it is with a dict."""

        def pop(handler: SessionMixin) -> str:
            try:
                handler.session.pop("nothing")
            except KeyError:
                return "KeyError"
            return "no error"

        self.assertEqual(self.visitor().asks(pop), "KeyError")

    def test_falsy_values_are_values(self) -> None:
        """Behaviour 23: they are stored, and read back as present."""
        values: dict[str, Any] = {
            "zero": 0,
            "text": "",
            "list": [],
            "dict": {},
            "none": None,
            "false": False,
        }
        for key, value in values.items():
            visitor = self.visitor()
            visitor.does(put(**{key: value}))
            self.assertEqual(visitor.sees(), {key: value})

    def test_every_string_is_a_key(self) -> None:
        """Behaviour 24: also what we call fields and methods of our own."""
        names = ("id", "user", "save", "_flash", "values", "expires", "a.b", "$c", "")
        values = {name: f"the value of {name!r}" for name in names}
        ada = self.visitor()
        ada.does(lambda handler: handler.session.update(values))
        self.assertEqual(ada.sees(), values)
        self.assertIsNone(ada.asks(lambda handler: handler.session.user))

    def test_a_value_that_cannot_be_stored_fails_the_request(self) -> None:
        """Behaviour 25: 500, the error names key and type, the record stays."""
        ada = self.visitor()
        ada.does(put(a=1))
        for acts in (
            (put(a=2, tags={"x"}),),
            (put(a=2, tags={"x"}), lambda handler: handler.send_error(404)),
            (put(a=2, tags={"x"}), lambda handler: handler.redirect("/")),
            (put(a=2, tags={"x"}), save),
        ):
            response = ada.does(*acts)
            self.assertEqual(response.code, 500)
            self.assert_cookie_lines(response, 0)
            self.assertEqual(ada.sees(), {"a": 1})
        message = "The session value 'tags' cannot be stored as JSON: set."
        self.assertEqual(len(self.log.find(f"SessionDataError: {message}")), 4)
        # The one that was raised by save() has the handler in its traceback.
        named = "the session of ActingSessionHandler cannot be stored"
        self.assertEqual(len(self.log.find(named)), 3)

    def test_a_flood_of_values_that_cannot_be_stored_is_summed_up(self) -> None:
        """Behaviour 85: a form or a JSON body of a visitor may hold them."""
        ada = self.visitor()
        for _ in range(15):
            self.assertEqual(ada.does(put(tags={"x"})).code, 500)
        self.assertEqual(len(self.log.find("cannot be stored as JSON: set.")), 10)
        self.log.lines.clear()
        self.sessions.logs.close()
        (line,) = self.log.find("cannot be stored as JSON: set.")
        self.assertIn("(The last of 5 more since the line before.)", line)

    def test_a_handler_that_removes_the_bad_value_is_answered(self) -> None:
        """Behaviour 25: and so is one that reloads; one that does neither fails."""
        ada = self.visitor()
        ada.does(put(a=1))

        async def save_badly(handler: SessionMixin) -> None:
            handler.session.update(a=2, tags={"x"})
            with contextlib.suppress(SessionDataError):
                await handler.session.save()

        def remove(handler: SessionMixin) -> None:
            del handler.session["tags"]

        async def reload(handler: SessionMixin) -> None:
            await handler.session.reload()

        self.assertEqual(ada.does(save_badly).code, 500)
        self.assertEqual(ada.sees(), {"a": 1})
        self.assertEqual(ada.does(save_badly, reload).code, 200)
        self.assertEqual(ada.sees(), {"a": 1})
        self.assertEqual(ada.does(save_badly, remove).code, 200)
        self.assertEqual(ada.sees(), {"a": 2})
        self.assertEqual(len(self.log.find("has to remove the value or call")), 1)

    # Ending.

    def test_destroying_ends_the_session(self) -> None:
        """Behaviour 42: the values are gone at once, and the cookie expires."""
        ada = self.visitor()
        ada.does(put(a=1))
        token = ada.token
        left: list[object] = []
        response = ada.does(
            destroy, lambda handler: left.extend([dict(handler.session)])
        )
        self.assertEqual(left, [{}])
        self.assertEqual(
            "\n".join(session_cookies(response)),
            "session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT;"
            " Path=/; HttpOnly; SameSite=Lax",
        )
        if self.sessions.rules.revocable:
            self.assertIsNone(self.complete(self.sessions.vault.load(token)))

    def test_a_cookie_expires_with_the_attributes_it_was_set_with(self) -> None:
        """Behaviour 42: else the browser would keep it."""
        site = self.serve(
            session_cookie_kwargs={
                "domain": "example.com",
                "path": "/shop",
                "samesite": "None",
                "partitioned": True,
            }
        )
        ada = self.visitor(site, https=True)
        (set_line,) = session_cookies(ada.does(put(a=1)))
        (expired_line,) = session_cookies(ada.does(destroy))
        attributes = set_line.partition(";")[2]
        self.assertEqual(
            expired_line,
            "__Secure-session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT;"
            + attributes,
        )
        self.assertEqual(
            attributes,
            " Path=/shop; Domain=example.com; Secure; HttpOnly; SameSite=None;"
            " Partitioned",
        )

    def test_destroying_what_never_had_a_cookie_sends_none(self) -> None:
        """Behaviour 43: there is nothing to expire."""
        self.assert_cookie_lines(self.visitor().does(destroy), 0)
        self.assert_cookie_lines(self.visitor().does(put(a=1), destroy), 0)

    def test_a_write_after_destroying_begins_a_new_session(self) -> None:
        """Behaviour 43: with a new id, and nothing of the old one."""
        ada = self.visitor()
        ada.does(put(a=1), login("ada"))
        before = ada.token
        handle = ada.asks(lambda handler: handler.session.id)
        self.assert_cookie_lines(ada.does(destroy, put(b=2)), 1)
        self.assertNotEqual(ada.token, before)
        self.assertNotEqual(ada.asks(lambda handler: handler.session.id), handle)
        self.assertIsNone(ada.asks(lambda handler: handler.session.user))
        self.assertEqual(ada.sees(), {"b": 2})

    def test_a_captured_cookie_is_dead_after_logout(self) -> None:
        """Behaviour 44: at once."""
        self.require_revocable()
        ada = self.visitor()
        ada.does(put(a=1), login("ada"))
        thief = ada.copy()
        ada.does(lambda handler: handler.session.logout())
        self.assertIsNone(thief.asks(lambda handler: handler.session.user))
        self.assertEqual(thief.sees(), {})

    def test_a_captured_cookie_is_dead_in_every_process(self) -> None:
        """Behaviour 44: also where the session was used before."""
        elsewhere = self.serve_another_process()
        ada = self.visitor()
        ada.does(put(a=1), login("ada"))
        thief = ada.copy(elsewhere)
        self.assertEqual(thief.sees(), {"a": 1})
        ada.does(lambda handler: handler.session.logout())
        self.assertEqual(thief.sees(), {})

    def test_a_removal_that_cannot_be_confirmed_is_no_success(self) -> None:
        """Behaviour 45: the browser's cookie is cleared all the same."""
        self.require_revocable()
        for acts in ((destroy,), (destroy, put(b=2)), (destroy, fail)):
            with self.subTest(acts=len(acts)):
                ada = self.visitor()
                ada.does(put(a=1))
                vault = self.watch()
                vault.failing = {"delete"}
                response = ada.does(*acts)
                self.assertEqual(response.code, 503)
                self.assert_cookie_lines(response, 1)
                self.assertIsNone(ada.cookie)
                vault.failing.clear()

    # The cookie.

    def test_the_cookie_is_as_safe_as_browsers_make_it(self) -> None:
        """Behaviour 54: by default, over https."""
        ada = self.visitor(https=True)
        (line,) = session_cookies(ada.does(put(a=1)))
        self.assertEqual(
            line,
            f"__Host-Http-session={ada.token}; Path=/; Secure; HttpOnly; SameSite=Lax",
        )
        self.assertEqual(ada.sees(), {"a": 1})

    def test_the_cookie_goes_out_without_secure_on_loopback(self) -> None:
        """Behaviour 58: over plain http, and one line of the log says so."""
        ada = self.visitor()
        (line,) = session_cookies(ada.does(put(a=1)))
        self.visitor().does(put(a=1))
        self.assertEqual(line, f"session={ada.token}; Path=/; HttpOnly; SameSite=Lax")
        (told,) = self.log.find("Over plain http on loopback")
        self.assertRegex(told, r"\AINFO tornado_sessions .*xheaders=True")

    def test_the_cookie_is_withheld_over_plain_http(self) -> None:
        """Behaviour 58: beyond loopback; one warning says what to set."""
        ada = self.visitor()
        ada.does(put(a=1))
        for headers in (
            {"X-Real-Ip": "203.0.113.9"},
            {"X-Forwarded-Proto": "http"},
            {"Host": "shop.example"},
            {"Via": "1.1 proxy"},
            {"Forwarded": "for=203.0.113.9"},
        ):
            for visitor in (self.visitor(), ada.copy()):
                response = visitor.does(put(b=2), headers=headers)
                self.assertEqual(response.code, 200)
                self.assert_cookie_lines(response, 0)
        (told,) = self.log.find("The session cookie is withheld")
        self.assertRegex(told, r"\AWARNING tornado_sessions .*xheaders=True")
        self.assertEqual(ada.sees(), {"a": 1})

    def test_other_headers_of_the_application_survive(self) -> None:
        """Behaviour 56: its cookies and its Vary; but what sets ours is not kept."""

        def head(handler: SessionMixin) -> None:
            handler.set_cookie("theme", "dark")
            handler.set_header("Vary", "Accept-Encoding")
            handler.set_header("Cache-Control", "public, max-age=60")

        for act, cache in (
            (put(a=1), "no-store"),
            (destroy, "no-store"),
            (look, "public, max-age=60"),
        ):
            ada = self.visitor()
            ada.does(put(a=0))
            response = ada.does(head, act, regenerate if act is not look else look)
            lines = response.headers.get_list("Set-Cookie")
            self.assertIn("theme=dark; Path=/", lines)
            vary = ",".join(response.headers.get_list("Vary"))
            self.assertEqual(set(re.split(", *", vary)), {"Accept-Encoding", "Cookie"})
            self.assertEqual(response.headers.get_list("Cache-Control"), [cache])

"""Tests over HTTP that every change of a value is noticed, and nothing else."""

from __future__ import annotations

import contextlib
from typing import Any

from tornado_sessions.errors import SessionDataError
from tornado_sessions.testing.applications import (
    Act,
    put,
    save,
)
from tornado_sessions.testing.visitors import VisitorTests
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


class ChangeContract(VisitorTests):
    """Tests of values that are read, changed, and cannot be stored."""

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

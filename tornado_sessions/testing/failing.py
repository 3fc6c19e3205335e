"""Tests over HTTP that a store which fails is never taken for success."""

from __future__ import annotations

from tornado_sessions.errors import (
    BackendError,
)
from tornado_sessions.testing.applications import (
    Act,
    destroy,
    login,
    look,
    put,
    regenerate,
    save,
)
from tornado_sessions.testing.visitors import Visitor, VisitorTests
from tornado_sessions.testing.ways import WAYS, not_found
from tornado_sessions.web import SessionMixin


def _own_cookie(handler: SessionMixin) -> None:
    handler.set_cookie("theme", "dark")


class FailureContract(VisitorTests):
    """Tests of what the client and the log get when something cannot be stored."""

    def test_a_failed_save_is_no_success(self) -> None:
        """Behaviour 30: 503, without our cookie, with the application's own."""
        vault = self.watch()
        for way, act, method, _ in WAYS:
            for known in (False, True):
                with self.subTest(way=way, known=known):
                    ada = self.visitor()
                    if known:
                        ada.does(put(a=1))
                    vault.failing = {"save"}
                    response = ada.does(_own_cookie, put(a=2), act, method=method)
                    self.assertEqual(response.code, 503)
                    self.assert_cookie_lines(response, 0)
                    self.assertEqual(
                        response.headers.get_list("Set-Cookie"), ["theme=dark; Path=/"]
                    )
                    vault.failing.clear()
                    self.assertEqual(ada.sees(), {"a": 1} if known else {})

    def test_a_bad_value_is_no_success(self) -> None:
        """Behaviour 25: whichever way the response is finished."""
        for way, act, method, _ in WAYS:
            for known in (False, True):
                with self.subTest(way=way, known=known):
                    ada = self.visitor()
                    if known:
                        ada.does(put(a=1))
                    response = ada.does(put(a=2, tags={"x"}), act, method=method)
                    self.assertEqual(response.code, 500)
                    self.assert_cookie_lines(response, 0)
                    self.assertEqual(ada.sees(), {"a": 1} if known else {})

    def test_a_session_ended_elsewhere_fails_no_response(self) -> None:
        """Behaviour 39: it goes out as it was meant, without the changes."""
        self.require_revocable()
        for way, act, method, status in WAYS:
            with self.subTest(way=way):
                ada = self.visitor()
                ada.does(put(a=1))

                elsewhere = _has_ended(ada.copy())
                response = ada.does(put(a=2), elsewhere, act, method=method)
                self.assertEqual(response.code, status)
                self.assert_cookie_lines(response, 0)
                self.assertEqual(ada.sees(), {})

    def test_a_failed_load_changes_nothing(self) -> None:
        """Behaviour 30: 503 and Retry-After; the same session goes on after it."""
        ada = self.visitor()
        ada.does(put(a=1), login("ada"))
        before = ada.cookie
        vault = self.watch()
        vault.failing = {"load"}
        for act in (look, put(a=2), destroy, _own_cookie):
            response = ada.does(act)
            self.assertEqual(response.code, 503)
            self.assertRegex(response.headers["Retry-After"], r"\A[1-9][0-9]*\Z")
            self.assertNotIn("Set-Cookie", response.headers)
        self.assertEqual(self.visitor().does(look).code, 200)
        vault.failing.clear()
        self.assertEqual(ada.cookie, before)
        self.assertEqual(ada.sees(), {"a": 1})
        self.assertEqual(ada.asks(lambda handler: handler.session.user), "ada")

    def test_a_failed_renewal_fails_no_reader(self) -> None:
        """Behaviour 30: it is logged, and the response goes out."""
        ada = self.visitor()
        ada.does(put(a=1))
        self.time += self.sessions.rules.idle_timeout / 2
        vault = self.watch()
        vault.failing = {"save"}
        self.assertEqual(ada.sees(), {"a": 1})
        self.assertEqual(vault.calls, ["load", "save"])
        (line,) = self.log.find("could not be renewed")
        self.assertIn("WARNING tornado_sessions", line)

    def test_the_stores_own_words_stay_on_the_server(self) -> None:
        """Behaviour 31: in debug mode, too, whichever call failed."""

        async def raise_it(handler: SessionMixin) -> None:
            raise BackendError("Cannot save.") from OSError(vault.reason)

        site = self.serve(debug=True, autoreload=False, serve_traceback=True)
        vault = self.watch(site)
        for operation, acts in (
            ("load", (look,)),
            ("save", (put(a=2),)),
            ("save", (put(a=2), save)),
            ("save", (put(a=2), not_found)),
            ("delete", (destroy,)),
            ("save", (regenerate,)),
            ("nothing", (raise_it,)),
        ):
            ada = self.visitor(site)
            ada.does(put(a=1))
            if operation == "delete" and not self.ends_copies:
                continue
            vault.failing = {operation}
            response = ada.does(*acts)
            vault.failing.clear()
            self.assertEqual(response.code, 503)
            shown = response.body.decode() + str(response.headers)
            for word in ("fire", "OSError", "Traceback", "Cannot"):
                self.assertNotIn(word, shown)
        self.assertTrue(self.log.find(vault.reason))


def _has_ended(visitor: Visitor) -> Act:
    """Ends the visitor's session in a request of its own."""

    async def act(handler: SessionMixin) -> None:
        await visitor.send(destroy)

    return act

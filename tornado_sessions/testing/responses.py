"""Proves over HTTP what a response may ask of its session, and when."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

from tornado.httpclient import HTTPResponse
from tornado.web import Finish, HTTPError, RequestHandler

from tornado_sessions.errors import SessionError
from tornado_sessions.session import Session
from tornado_sessions.testing.applications import (
    Act,
    Site,
    destroy,
    login,
    look,
    put,
    save,
)
from tornado_sessions.testing.visitors import VisitorTests
from tornado_sessions.web import SessionMixin

#: What changes a session, as a coroutine function where it has to be awaited.
CHANGES: tuple[Act, ...] = (
    put(a=2),
    login("eve"),
    lambda handler: handler.session.regenerate(),
    lambda handler: handler.session.destroy(),
    lambda handler: handler.session.flash("Hello."),
    lambda handler: handler.session.setdefault("b", 2),
    lambda handler: setattr(handler.session, "label", "A label"),
    lambda handler: setattr(handler.session, "persistent", True),
    lambda handler: handler.session.set_expiry(idle=60),
)

ANSWERED = (
    "The function given to transact() answered the request, with finish(), flush() or"
    " what calls these: redirect(), render(), send_error(). It may run more than once."
    " Answer after 'await self.session.transact(…)', by what the function returns."
)


class ResponseContract(VisitorTests):
    """Tests of a session during and after its response."""

    # Pages of errors.

    def errors_before_the_session(
        self, site: Site, act: Act
    ) -> Iterator[tuple[int, HTTPResponse]]:
        """Sends a request that fails before a session is loaded; its page runs ``act``."""
        ada = self.visitor(site)
        ada.does(put(a=1), login("ada"))
        headers = {"Error-Acts": ada.headers(act)["Acts"]}
        if site.sessions.settings.transports is not None:
            headers["X-Session-Token"] = "malformed"
        there: dict[str, Any] = {"path": "/hooks", "headers": headers}
        yield 403, ada.does(method="POST", body="a=1", **there)
        yield (
            405,
            ada.does(method="BREW", allow_nonstandard_methods=True, **there),
        )
        vault = self.watch(site)
        vault.failing = {"load"}
        yield 503, ada.does(**there)
        vault.failing.clear()
        self.assertEqual(ada.sees(), {"a": 1})

    def test_an_error_page_can_read_a_session_that_was_not_loaded(self) -> None:
        """Behaviour 75: it is empty, and the page does not come out blank."""
        users: list[object] = []

        def log(handler: RequestHandler) -> None:
            if isinstance(handler, SessionMixin) and handler.get_status() >= 400:
                users.append(handler.session.user)

        for settings in (
            {},
            {"session_xsrf": True},
            {"session_transports": ("header", "cookie")},
        ):
            site = self.serve(xsrf_cookies=True, log_function=log, **settings)
            same: list[bool] = []

            def compare(handler: SessionMixin, same: list[bool] = same) -> None:
                same.append(handler.session is handler.session)

            for code, response in self.errors_before_the_session(site, compare):
                self.assertEqual(response.code, code)
                self.assertEqual(
                    response.body.decode(),
                    f"Status {code}, user None, 0 values, /next, en_US, True",
                )
                self.assert_cookie_lines(response, 0)
                self.assertIn("Cookie", response.headers["Vary"])
            self.assertEqual(same, [True] * 3)
        self.assertEqual(users, [None] * 9)
        self.assertEqual(self.log.find("Uncaught exception"), [])

    def test_a_session_that_was_not_loaded_cannot_be_changed(self) -> None:
        """Behaviour 75: the error says why."""
        told: list[str] = []

        def change(handler: SessionMixin) -> None:
            for act in CHANGES:
                with self.assertRaises(SessionError) as caught:
                    act(handler)
                told.append(str(caught.exception))

        site = self.serve(xsrf_cookies=True)
        for code, response in self.errors_before_the_session(site, change):
            self.assertIn("0 values", response.body.decode())
            message = (
                f"The session cannot be changed: the request was answered {code} before"
                " its session was loaded. On the page of such an error it is empty and"
                " can only be read."
            )
            self.assertEqual(told, [message] * len(CHANGES))
            told.clear()

    def test_an_error_page_after_the_load_has_the_session(self) -> None:
        """Behaviour 75: as it was loaded, or as the request has changed it."""
        ada = self.visitor()
        ada.does(put(a=1), login("ada"))
        response = ada.does(lambda handler: handler.send_error(404), path="/hooks")
        self.assertEqual(
            response.body.decode(),
            "Status 404, user ada, 1 values, /next, en_US, True",
        )

    # Changes after the response.

    def assert_lost(self, handler: str, what: str | None) -> None:
        """Asserts what the log says of changes after the response of ``handler``."""
        # The server lets go of a handler when its connection brings the next request.
        self.visitor().does()
        gc.collect()
        told = (
            f"WARNING tornado_sessions The session was changed after the response of"
            f" {handler} was finished, and that is lost: {what}. Change it before"
            " finish(), or call 'await self.session.save()' after the change."
        )
        lines = self.log.find("after the response of")
        self.assertEqual(lines, [told] if what else [])
        self.log.lines.clear()

    def test_a_change_after_the_response_is_told(self) -> None:
        """Behaviours 23, 85: one warning names the handler, and no key or value."""
        self.require_revocable()
        secret = {"late-key": "late-value"}

        async def finish(handler: SessionMixin) -> None:
            await handler.finish("x")

        def finish_unawaited(handler: SessionMixin) -> None:
            handler.session["a"] = 2
            handler.finish("x")

        def drop(handler: SessionMixin) -> None:
            del handler.session["a"]

        def flash(handler: SessionMixin) -> None:
            handler.session.flash("late-value")

        for acts, lost in (
            ((finish, put(**secret)), "1 key"),
            ((finish_unawaited, put(**secret)), "1 key"),
            ((finish, put(b=3, **secret), drop), "3 keys"),
            ((finish, lambda handler: handler.session.clear()), "1 key"),
            ((finish, flash), "a message or setting of the session"),
            (
                (finish, put(b={1}), flash),
                "1 key and a message or setting of the session",
            ),
            ((finish, destroy), "its end"),
            ((finish, put(**secret), save), None),
            ((finish, put(b=1), lambda handler: handler.session.pop("b")), None),
            ((finish, look), None),
            ((finish, put(a=1)), None),
            ((put(**secret),), None),
        ):
            ada = self.visitor()
            ada.does(put(a=1))
            self.assertEqual(ada.does(*acts).code, 200)
            self.assertEqual(self.log.find("late-key"), [])
            self.assertEqual(self.log.find("late-value"), [])
            self.assert_lost("ActingSessionHandler", lost)

    def test_a_flood_of_changes_after_the_response_is_summed_up(self) -> None:
        """Behaviour 85: each request of such a handler makes one."""
        self.require_revocable()
        ada = self.visitor()
        ada.does(put(a=0))
        for _ in range(15):
            ada.does(lambda handler: handler.finish("x") and None, put(a=1))
        self.visitor().does()
        gc.collect()
        self.assertEqual(len(self.log.find("after the response of")), 10)

    def test_a_change_in_on_finish_is_told(self) -> None:
        """Behaviour 85: as one after finish() is."""
        self.require_revocable()
        ada = self.visitor()
        ada.does(put(a=1))
        acts = ada.headers(put(late=1))["Acts"]
        ada.does(path="/hooks", headers={"Finish-Acts": acts})
        self.assert_lost("HookedHandler", "1 key")

    def test_a_change_in_a_task_is_told(self) -> None:
        """Behaviour 85: unless the task saves it."""
        self.require_revocable()
        go_on = asyncio.Event()
        tasks: list[asyncio.Task[None]] = []

        async def change(handler: SessionMixin, saves: bool) -> None:
            await go_on.wait()
            handler.session["late"] = 1
            if saves:
                await handler.session.save()

        for saves in (True, False):
            ada = self.visitor()
            ada.does(put(a=1))

            def begin(handler: SessionMixin, saves: bool = saves) -> None:
                handler.session["b"] = 2
                tasks.append(asyncio.ensure_future(change(handler, saves)))

            ada.does(begin)
            go_on.set()
            self.complete(asyncio.wait_for(tasks.pop(), 30))
            go_on.clear()
            self.assertEqual("late" in ada.sees(), saves)
            self.assert_lost("ActingSessionHandler", None if saves else "1 key")

    def test_what_needs_a_cookie_is_refused_after_the_headers(self) -> None:
        """Behaviour 28: also where it is not the session's values that change."""
        ada = self.visitor()
        ada.does(put(a=1), lambda handler: setattr(handler.session, "persistent", True))
        changes = {
            "persistent": lambda handler: setattr(handler.session, "persistent", False),
            "expiry": lambda handler: handler.session.set_expiry(idle=60),
        }
        if not self.sessions.rules.revocable:
            changes |= {
                "end": destroy,
                "clear": lambda handler: handler.session.clear(),
                "del": lambda handler: handler.session.pop("a"),
            }
        refused: list[str] = []
        for name, change in changes.items():

            async def late(handler: SessionMixin, change: Act = change) -> None:
                await handler.flush()
                with self.assertRaises(SessionError) as caught:
                    change(handler)
                refused.append(str(caught.exception))

            self.assertEqual(ada.does(late).code, 200, name)
        self.assertEqual(len(refused), len(changes))
        for message in refused:
            self.assertIn("headers of the response are", message)
        self.assertEqual(ada.sees(), {"a": 1})
        self.assertTrue(ada.asks(lambda handler: handler.session.persistent))

    # Answering in a transaction.

    def test_a_transaction_cannot_answer_the_request(self) -> None:
        """Behaviour 81: at the first run, and nothing of it is stored or sent."""
        answers: tuple[Act, ...] = (
            lambda handler: handler.finish("early"),
            lambda handler: handler.flush(),
            lambda handler: handler.redirect("/early"),
            lambda handler: handler.render("page.html"),
            lambda handler: handler.send_error(404),
        )
        for begun in (True, False):
            for answer in answers:
                ada = self.visitor()
                if begun:
                    ada.does(put(a=1))
                told: list[str] = []

                async def act(
                    handler: SessionMixin,
                    answer: Act = answer,
                    told: list[str] = told,
                ) -> None:
                    def change(session: Session) -> None:
                        session["a"] = 2
                        answer(handler)

                    try:
                        await handler.session.transact(change)
                    except SessionError as error:
                        told.append(str(error))
                    handler.write("late")

                response = ada.does(act)
                self.assertEqual((response.code, response.body), (200, b"late"))
                self.assertNotIn("Location", response.headers)
                self.assertEqual(told, [ANSWERED])
                self.assertEqual(ada.sees(), {"a": 1} if begun else {})

                async def fail(handler: SessionMixin, answer: Act = answer) -> None:
                    await handler.session.transact(lambda session: answer(handler))

                self.assertEqual(ada.does(fail).code, 500)

    def test_an_error_out_of_a_transaction_stores_nothing(self) -> None:
        """Behaviour 81: it is passed on, whatever Tornado makes of it."""

        def raising(error: Exception) -> Act:
            def change(session: Session) -> None:
                session["a"] = 2
                raise error

            return lambda handler: handler.session.transact(change)

        for error, code in ((Finish("done"), 200), (HTTPError(418), 418)):
            for begun in (True, False):
                ada = self.visitor()
                if begun:
                    ada.does(put(a=1))
                self.assertEqual(ada.does(raising(error)).code, code)
                self.assertEqual(ada.sees(), {"a": 1} if begun else {})
                self.assertEqual(ada.does(put(b=3), raising(error)).code, code)
                values = {"a": 1, "b": 3} if begun else {"b": 3}
                self.assertEqual(ada.sees(), values)

    def test_a_request_is_answered_after_its_transaction(self) -> None:
        """Behaviour 81: also where another task of the handler does it."""

        def count(session: Session) -> int:
            session["a"] = session["a"] + 1
            return int(session["a"])

        async def act(handler: SessionMixin) -> None:
            handler.redirect(f"/{await handler.session.transact(count)}")

        ada = self.visitor()
        ada.does(put(a=1))
        response = ada.does(act)
        self.assertEqual((response.code, response.headers["Location"]), (302, "/2"))

"""Tests over HTTP that changes are saved before the response is sent."""

from __future__ import annotations

import asyncio
import gc
from typing import Any
from urllib.parse import urlsplit

import tornado.web
from tornado.httpclient import HTTPResponse
from tornado.iostream import IOStream
from tornado.tcpclient import TCPClient
from tornado.testing import gen_test

from tornado_sessions.errors import (
    BackendError,
    SessionError,
)
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
from tornado_sessions.testing.visitors import Visitor, VisitorTests
from tornado_sessions.web import SessionMixin


def _not_found(handler: SessionMixin) -> None:
    raise tornado.web.HTTPError(404)


def _stop(handler: SessionMixin) -> None:
    raise tornado.web.Finish("So far.")


def _flush(handler: SessionMixin) -> None:
    handler.write("One part, ")
    handler.flush()
    handler.write("another.")


async def _stream(handler: SessionMixin) -> None:
    handler.write("One part, ")
    await handler.flush()
    handler.write("another.")
    await handler.flush()


async def _finish(handler: SessionMixin) -> None:
    await handler.finish("Done.")


def _own_cookie(handler: SessionMixin) -> None:
    handler.set_cookie("theme", "dark")


#: Every way to finish a response: its act, its method and its status.
WAYS: tuple[tuple[str, Act, str, int], ...] = (
    ("auto-finish", look, "GET", 200),
    ("write", lambda handler: handler.write({"a": 1}), "GET", 200),
    ("finish", _finish, "GET", 200),
    ("redirect", lambda handler: handler.redirect("/"), "GET", 302),
    ("render", lambda handler: handler.render("page.html"), "GET", 200),
    ("HTTPError", _not_found, "GET", 404),
    ("send_error", lambda handler: handler.send_error(403), "GET", 403),
    ("Finish", _stop, "GET", 200),
    ("HEAD", lambda handler: handler.write("unseen"), "HEAD", 200),
    ("204", lambda handler: handler.set_status(204), "GET", 204),
    ("304", lambda handler: handler.set_status(304), "GET", 304),
    ("flush", _flush, "GET", 200),
    ("streaming", _stream, "GET", 200),
)


class SavingContract(VisitorTests):
    """Tests of saving, of its failures, and of how Tornado behaves meanwhile."""

    # In order.

    @gen_test(timeout=30)
    async def test_the_record_is_stored_before_a_byte_leaves(self) -> None:
        """Behaviour 27: whichever way the response is finished."""
        vault = self.watch(suspends=True)
        for way, act, method, status in WAYS:
            with self.subTest(way=way):
                gate = self.hold(vault)
                ada = self.visitor()
                received: list[str] = []
                response = asyncio.ensure_future(
                    ada.send(
                        put(a=1), act, method=method, header_callback=received.append
                    )
                )
                await gate.reached.wait()
                # Another request meanwhile is served: there was time to send.
                await self.visitor().send(path="/plain")
                await self.visitor().send(path="/plain")
                self.assertEqual(received, [])
                gate.set()
                self.assertEqual((await response).code, status)
                self.assertEqual(await self.values(ada), {"a": 1})

    def test_a_response_is_saved_once(self) -> None:
        """Behaviour 28: however often it is flushed."""
        vault = self.watch()
        for way, act, method, _ in WAYS:
            with self.subTest(way=way):
                vault.calls.clear()
                self.visitor().does(put(a=1), act, method=method)
                self.assertEqual(vault.calls, ["save"])

    def test_a_second_finish_is_tornados_own_error(self) -> None:
        """Behaviour 28: as it is without a session."""

        def finish_twice(handler: tornado.web.RequestHandler) -> None:
            handler.finish("once")
            handler.finish("twice")

        response = self.visitor().does(put(a=1), finish_twice)
        self.assertEqual(response.body, b"once")
        self.visitor().does(finish_twice, path="/plain")
        self.assertEqual(len(self.log.find("RuntimeError: finish() called twice")), 2)

    def test_a_change_after_the_first_flush_is_saved_at_the_end(self) -> None:
        """Behaviour 28: no cookie is needed for it."""
        self.require_revocable()
        ada = self.visitor()
        ada.does(put(a=1))
        vault = self.watch()
        response = ada.does(put(b=1), _stream, put(c=1))
        self.assertEqual(response.body, b"One part, another.")
        self.assertEqual(vault.calls.count("save"), 2)
        self.assertEqual(ada.sees(), {"a": 1, "b": 1, "c": 1})

    def test_what_needs_a_cookie_raises_after_the_first_flush(self) -> None:
        """Behaviour 28: a first write, a regenerate(), a login()."""
        raised: list[SessionError] = []

        def attempt(act: Act) -> Act:
            def caught(handler: SessionMixin) -> None:
                try:
                    act(handler)
                except SessionError as error:
                    raised.append(error)

            return caught

        ada = self.visitor()
        response = ada.does(look, _stream, attempt(put(a=1)))
        self.assertEqual(response.body, b"One part, another.")
        ada.does(put(a=1))
        response = ada.does(_stream, attempt(regenerate), attempt(login("ada")))
        self.assertEqual(response.code, 200)
        self.assertEqual(len(raised), 3)
        for error in raised:
            self.assertRegex(
                str(error), "headers of the response are out.* before flush"
            )
        self.assertEqual(ada.sees(), {"a": 1})

    def test_a_nested_change_that_needs_a_cookie_is_told(self) -> None:
        """Behaviours 21, 28: where each save does, and the headers are out."""
        if self.sessions.rules.revocable:
            self.skipTest("a save needs no new cookie")
        ada = self.visitor()
        ada.does(put(cart={}))
        response = ada.does(
            _stream, lambda handler: handler.session["cart"].update(apple=1)
        )
        self.assertEqual(response.body, b"One part, another.")
        self.assertEqual(ada.sees(), {"cart": {}})
        message = "SessionError: This backend keeps the session in the cookie"
        self.assertEqual(len(self.log.find(message)), 1)

    def test_destroying_after_the_first_flush_ends_the_record(self) -> None:
        """Behaviour 28: though its cookie cannot be expired any more."""
        self.require_revocable()
        ada = self.visitor()
        ada.does(put(a=1))
        self.assert_cookie_lines(ada.does(_stream, destroy), 0)
        self.assertEqual(ada.sees(), {})

    def test_an_error_drops_everything(self) -> None:
        """Behaviour 29: a login and a regenerate with it."""

        def status(handler: SessionMixin) -> None:
            handler.set_status(500)

        for end in (fail, status):
            ada = self.visitor()
            ada.does(put(a=1))
            for act in (put(a=2), login("ada"), regenerate):
                response = ada.does(act, put(b=1), end)
                self.assertEqual(response.code, 500)
                self.assert_cookie_lines(response, 0)
                self.assertEqual(ada.sees(), {"a": 1})
                self.assertIsNone(ada.asks(lambda handler: handler.session.user))

    def test_an_error_undoes_no_destroy(self) -> None:
        """Behaviour 29: it holds, and what was written after it does not."""
        ada = self.visitor()
        ada.does(put(a=1))
        captured = ada.copy()
        response = ada.does(destroy, put(b=1), fail)
        self.assertEqual(response.code, 500)
        self.assert_cookie_lines(response, 1)
        self.assertIsNone(ada.cookie)
        if self.sessions.rules.revocable:
            self.assertEqual(captured.sees(), {})

    def test_what_came_before_an_http_error_is_saved(self) -> None:
        """Behaviour 29: where its status is below 500."""
        ada = self.visitor()
        response = ada.does(put(a=1), login("ada"), _not_found)
        self.assertEqual(response.code, 404)
        self.assertEqual(ada.sees(), {"a": 1})
        self.assertEqual(ada.asks(lambda handler: handler.session.user), "ada")

    # In the middle of a request.

    def test_a_save_in_the_middle_is_the_only_one(self) -> None:
        """Behaviour 26: unless something changes after it."""
        ada = self.visitor()
        ada.does(put(a=1))
        vault = self.watch()
        ada.does(put(a=2), save, look)
        self.assertEqual(vault.calls, ["load", "save"])
        vault.calls.clear()
        ada.does(put(a=3), save, put(b=1))
        self.assertEqual(vault.calls, ["load", "save", "load", "save"])
        self.assertEqual(ada.sees(), {"a": 3, "b": 1})

    def test_values_in_memory_stay_after_a_save(self) -> None:
        """Behaviour 26: what a handler holds is still part of the session."""

        async def keep(handler: SessionMixin) -> None:
            cart = handler.session.setdefault("cart", {})
            cart["apple"] = 1
            await handler.session.save()
            cart["pear"] = 2

        ada = self.visitor()
        ada.does(keep)
        self.assertEqual(ada.sees(), {"cart": {"apple": 1, "pear": 2}})

    # The store fails.

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
            ("save", (put(a=2), _not_found)),
            ("delete", (destroy,)),
            ("save", (regenerate,)),
            ("nothing", (raise_it,)),
        ):
            ada = self.visitor(site)
            ada.does(put(a=1))
            if operation == "delete" and not self.sessions.rules.revocable:
                continue
            vault.failing = {operation}
            response = ada.does(*acts)
            vault.failing.clear()
            self.assertEqual(response.code, 503)
            shown = response.body.decode() + str(response.headers)
            for word in ("fire", "OSError", "Traceback", "Cannot"):
                self.assertNotIn(word, shown)
        self.assertTrue(self.log.find(vault.reason))

    # As Tornado has it.

    def test_responses_are_as_without_a_session(self) -> None:
        """Behaviour 34: status, ETag, Content-Length and body are the same."""

        def write(handler: tornado.web.RequestHandler) -> None:
            handler.write("The same body.")

        known = self.visitor()
        known.does(put(a=0))
        for method in ("GET", "HEAD"):
            plain = self.visitor().does(write, path="/plain", method=method)
            for visitor, acts in (
                (self.visitor(), (look, write)),
                (self.visitor(), (put(a=1), write)),
                (known, (look, write)),
            ):
                response = visitor.does(*acts, method=method)
                self.assertEqual(_outside(response), _outside(plain))
                again = visitor.does(
                    *acts,
                    method=method,
                    headers={"If-None-Match": plain.headers["Etag"]},
                )
                self.assertEqual(again.code, 304)
                self.assertEqual(again.body, b"")

    @gen_test(timeout=30)
    async def test_a_connection_is_kept_alive(self) -> None:
        """Behaviour 34: a second request on it is answered, too."""
        ada = self.visitor()
        stream = await self.connect()
        for _ in range(2):
            await stream.write(_raw_request(ada, put(a=1)))
            head = await stream.read_until(b"\r\n\r\n")
            self.assertTrue(head.startswith(b"HTTP/1.1 200 OK"), head)
            self.assertIn(b"Set-Cookie: session=", head)
            self.assertIn(b"Content-Length: 0", head)
        stream.close()

    @gen_test(timeout=30)
    async def test_what_a_client_wrote_that_hung_up_is_saved(self) -> None:
        """Behaviour 34: and no error of ours is left unretrieved."""
        self.require_revocable()
        ada = self.visitor()
        await ada.send(put(a=1))
        vault = self.watch(suspends=True)
        for act in (look, _stream):
            gate = self.hold(vault)
            stream = await self.connect()
            await stream.write(_raw_request(ada, put(b=act.__name__), act))
            await gate.reached.wait()
            stream.close()
            # By the next answer the server has noticed.
            await self.visitor().send(path="/plain")
            gate.set()
            while (await self.values(ada)).get("b") != act.__name__:
                pass
        gc.collect()  # So that asyncio tells of what nobody asked for.

    # How it is done.

    async def values(self, visitor: Visitor) -> dict[str, Any]:
        """Returns what the visitor's next request sees."""
        seen: dict[str, Any] = {}
        response = await visitor.send(lambda handler: seen.update(handler.session))
        self.assertEqual(response.code, 200)
        return seen

    async def connect(self) -> IOStream:
        """Opens a connection to the site."""
        address = urlsplit(self.site.url)
        assert address.hostname is not None
        assert address.port is not None
        return await TCPClient().connect(address.hostname, address.port)


def _has_ended(visitor: Visitor) -> Act:
    """Ends the visitor's session in a request of its own."""

    async def act(handler: SessionMixin) -> None:
        await visitor.send(destroy)

    return act


def _raw_request(visitor: Visitor, *acts: Act) -> bytes:
    headers = {"Host": urlsplit(visitor.site.url).netloc} | visitor.headers(*acts)
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode()


def _outside(response: HTTPResponse) -> tuple[object, ...]:
    """Returns what a client sees of a response, without the session's headers."""
    headers = response.headers
    names = ("Etag", "Content-Length", "Content-Type", "Connection")
    return (response.code, response.body, [headers.get(name) for name in names])

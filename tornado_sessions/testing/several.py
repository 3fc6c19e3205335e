"""Tests over HTTP which session a request with several ids gets."""

from __future__ import annotations

import http.cookiejar
import json
import urllib.request
from collections.abc import Callable
from typing import Any, cast

from tornado.httpclient import HTTPResponse
from tornado.httputil import HTTPHeaders

from tornado_sessions.testing.applications import (
    Act,
    ActingSessionHandler,
    Site,
    destroy,
    login,
    look,
    put,
    regenerate,
    save,
)
from tornado_sessions.testing.visitors import VisitorTests, session_cookies
from tornado_sessions.web import SessionMixin

HEADER = "X-Session-Token"

#: Sends one request with several ids, all in the same transport.
Send = Callable[..., HTTPResponse]


def values(handler: SessionMixin) -> None:
    """Writes the values of the session."""
    handler.write(json.dumps(dict(handler.session)))


def double(session: Any) -> None:  # noqa: ANN401
    """Changes the session in a transaction."""
    session["a"] = session.get("a", 1) * 2


WRITES: tuple[tuple[Act, ...], ...] = (
    (put(a=3),),
    (put(a=3), save),
    (login("ada"),),
    (lambda handler: handler.session.flash("Hello."),),
    (lambda handler: handler.session.transact(double),),
)


class SeveralIdsContract(VisitorTests):
    """What holds where a request has several different ids of our name."""

    def each_transport(self) -> list[tuple[Site, Send]]:
        """Serves with each transport, and returns what sends several ids there."""
        cookies = self.serve()

        def send_cookies(tokens: list[str], *acts: Act) -> HTTPResponse:
            pairs = "; ".join(f"session={token}" for token in tokens)
            return self.visitor(cookies).does(*acts, headers={"Cookie": pairs})

        header = self.serve(session_transports=("header", "cookie"))

        def send_header(tokens: list[str], *acts: Act) -> HTTPResponse:
            return self.visitor(header).does(*acts, headers={HEADER: ", ".join(tokens)})

        senders = [(cookies, send_cookies), (header, send_header)]
        if not self.sessions.rules.revocable:
            return senders
        query = self.serve(session_transports=("cookie", "query"))

        def send_query(tokens: list[str], *acts: Act) -> HTTPResponse:
            pairs = "&".join(f"session={token}" for token in tokens)
            return self.visitor(query).does(*acts, path=f"/?{pairs}")

        return [*senders, (query, send_query)]

    def begin(self, site: Site, **what: Any) -> str:
        """Begins a session that holds ``what``, and returns its id."""
        visitor = self.visitor(site)
        visitor.does(put(**what))
        return visitor.token

    def assert_dropped(self, response: HTTPResponse, dropped: bool = True) -> None:
        """Asserts whether the client was told to drop the id that it sent.

        Nothing can tell it to drop one that is in a URL.
        """
        if "?session=" in response.request.url:
            dropped = False
        emptied = [response.headers.get(HEADER) == ""]
        emptied += ["; Max-Age=0;" in line for line in session_cookies(response)]
        self.assertEqual(any(emptied), dropped, emptied)

    def test_the_only_id_that_is_alive_is_taken(self) -> None:
        """Behaviour 35: in whatever place, and nothing is expired."""
        for site, send in self.each_transport():
            alive = self.begin(site, a=1)
            dead = [self.altered(alive), "malformed", self.altered(alive)]
            for tokens in ([alive, *dead], [*dead, alive]):
                response = send(tokens, values)
                self.assertEqual(json.loads(response.body), {"a": 1})
                self.assert_dropped(response, False)
                self.assert_cookie_lines(response, 0)
            response = send([*dead, alive], put(b=2))
            self.assertEqual(response.code, 200)
            self.assert_dropped(response, False)
            if site.sessions.rules.revocable:
                response = send([*dead, alive], values)
                self.assertEqual(json.loads(response.body), {"a": 1, "b": 2})
            self.assert_dropped(send([*dead, alive], login("ada")), False)
            told = self.log.find("of which one is alive; that one is taken")
            self.assertEqual(len(told), 1)
            self.assertRegex(told[0], r"\AWARNING tornado_sessions .*partitioned")
            self.log.lines.clear()

    def test_the_cookie_is_named_where_one_of_several_is_alive(self) -> None:
        """Behaviour 35: the log says where to look."""
        ada = self.visitor()
        ada.does(put(a=1))
        dead = self.altered(ada.token)
        ada.does(look, headers={"Cookie": f"session={dead}; {ada.cookie}"})
        self.assertEqual(len(self.log.find("2 different cookies named session, of")), 1)

    def test_ids_of_which_none_is_alive_are_no_session(self) -> None:
        """Behaviour 35: as for a visitor without one; nothing is expired."""
        for site, send in self.each_transport():
            dead = [self.altered(self.begin(site, a=1)) for _ in range(4)]
            response = send(dead, values)
            self.assertEqual(json.loads(response.body), {})
            self.assert_dropped(response, False)
            self.assert_cookie_lines(response, 0)
            response = send(dead, put(b=2), values)
            self.assertEqual((response.code, response.body), (200, b'{"b": 2}'))
            self.assert_dropped(response, False)
        response = self.visitor().does(
            put(b=2), headers={"Cookie": "session=malformed; session=other"}
        )
        self.assert_cookie_lines(response, 1)

    def test_of_two_ids_that_are_alive_none_is_taken(self) -> None:
        """Behaviour 35: nothing is written, and the client drops its own."""
        for site, send in self.each_transport():
            alive = [self.begin(site, a=number) for number in (1, 2)]
            tokens = [self.altered(alive[0]), *alive]
            vault = self.watch(site)
            response = send(tokens, values)
            self.assertEqual((response.code, response.body), (200, b"{}"))
            self.assert_dropped(response)
            self.assertEqual(vault.calls, ["load"] * 3)
            for acts in WRITES:
                vault.calls.clear()
                response = send(tokens, *acts)
                self.assertEqual(response.code, 400)
                self.assert_dropped(response)
                self.assertEqual(vault.calls, ["load"] * 3)
            for number, token in enumerate(alive, 1):
                self.assertEqual(self.visitor(site, token).sees(), {"a": number})

    def test_a_client_that_dropped_its_own_cookie_goes_on(self) -> None:
        """Behaviour 35: the cookie is expired with our own attributes."""
        ada, eve = self.visitor(), self.visitor()
        ada.does(put(a=1))
        eve.does(put(a=2))
        both = {"Cookie": f"{eve.cookie}; {ada.cookie}"}
        (line,) = session_cookies(self.visitor().does(look, headers=both))
        self.assertRegex(line, r"\Asession=; Max-Age=0; .*Path=/; HttpOnly")

    def test_to_destroy_one_of_several_ends_all_that_are_alive(self) -> None:
        """Behaviours 35, 44: and a write after that begins a new session."""
        for site, send in self.each_transport():
            for acts in ((destroy,), (destroy, put(b=2))):
                alive = [self.begin(site, a=number) for number in (1, 2)]
                tokens = [*alive, self.altered(alive[0]), "malformed"]
                vault = self.watch(site)
                response = send(tokens, *acts)
                self.assertEqual(response.code, 200)
                self.assertEqual(vault.calls.count("delete"), 2)
                self.assert_dropped(response, len(acts) == 1)
                if site.sessions.rules.revocable:
                    for token in alive:
                        self.assertEqual(self.visitor(site, token).sees(), {})

    def test_of_more_than_four_ids_none_is_looked_up(self) -> None:
        """Behaviour 35: whatever the request does, no call depends on their number."""
        for site, send in self.each_transport():
            alive = self.begin(site, a=1)
            for count in (5, 900 if site.sessions.rules.revocable else 6):
                tokens = [*(self.altered(alive) for _ in range(count - 1)), alive]
                if not site.sessions.rules.revocable:
                    tokens = [self.begin(site, a=number) for number in range(count)]
                vault = self.watch(site)
                response = send(tokens, look)
                self.assertEqual(response.code, 200)
                self.assert_dropped(response)
                for acts in (*WRITES, (regenerate, put(b=2))):
                    response = send(tokens, *acts)
                    self.assertEqual(response.code, 400)
                    self.assert_dropped(response)
                self.assertEqual(vault.calls, [])
            self.assertEqual(self.visitor(site, alive).sees(), {"a": 1})

    def test_a_logout_with_more_than_four_ids_is_no_success(self) -> None:
        """Behaviours 35, 45: the one that is alive could not be ended."""
        for site, send in self.each_transport():
            alive = self.begin(site, a=1)
            tokens = [*(self.altered(alive) for _ in range(4)), alive]
            if not site.sessions.rules.revocable:
                tokens = [self.begin(site, a=number) for number in range(5)]
            vault = self.watch(site)
            for acts in (
                (destroy,),
                (destroy, save),
                (destroy, put(b=2)),
                (destroy, login("ada")),
                (lambda handler: handler.session.logout(),),
                (lambda handler: handler.session.set_expiry(idle=0),),
            ):
                response = send(tokens, *acts)
                self.assertEqual(response.code, 400)
                self.assert_dropped(response)
            self.assertEqual(vault.calls, [])
            self.assertEqual(self.visitor(site, alive).sees(), {"a": 1})

    def test_malformed_ids_do_not_count(self) -> None:
        """Behaviour 35: however many there are."""
        for site, send in self.each_transport():
            alive = self.begin(site, a=1)
            malformed = [f"malformed{number}" for number in range(400)]
            vault = self.watch(site)
            response = send([*malformed, alive, *malformed], values)
            self.assertEqual(json.loads(response.body), {"a": 1})
            self.assert_cookie_lines(response, 0)
            self.assertEqual(vault.calls, ["load"])

    def test_one_id_twice_is_one_id(self) -> None:
        """Behaviour 35: it does no harm."""
        for site, send in self.each_transport():
            alive = self.begin(site, a=1)
            response = send([alive, alive], values)
            self.assertEqual(json.loads(response.body), {"a": 1})
            self.assert_dropped(response, False)
        self.assertEqual(self.log.find("A request came with"), [])

    def test_several_ids_and_a_store_that_is_down_change_nothing(self) -> None:
        """Behaviours 30, 35: 503, and the client keeps what it has."""
        for site, send in self.each_transport():
            alive = [self.begin(site, a=number) for number in (1, 2)]
            vault = self.watch(site)
            vault.failing = {"load"}
            response = send(alive, put(b=3))
            self.assertEqual(response.code, 503)
            self.assert_dropped(response, False)
            self.assertEqual(len(self.log.find("tornado_sessions 503 GET")), 1)
            self.log.lines.clear()

    def test_a_bad_request_writes_two_log_lines(self) -> None:
        """Behaviour 85: and many of them no more; tracebacks count line by line."""
        for site, send in self.each_transport():
            alive = [self.begin(site, a=number) for number in range(5)]
            for tokens in (alive[:2], alive):
                self.log.lines.clear()
                for acts in WRITES * 2:
                    self.assertEqual(send(tokens, *acts).code, 400)
                lines = [
                    line
                    for entry in self.log.lines
                    for line in entry.splitlines()
                    if "DEBUG" not in line and "tornado.access" not in line
                ]
                self.assertLessEqual(len(lines), 2, lines)
                for token in alive:
                    self.assertEqual(self.log.find(token), [])
            self.log.lines.clear()
            site.sessions.logs.close()
            self.assertEqual(len(self.log.find("more since the line before")), 2)

    def test_two_applications_on_one_host_do_not_put_each_other_out(self) -> None:
        """Behaviour 35: at ``/`` and at ``/admin``, with one jar of cookies."""
        shop = self.serve(session_namespace="shop")
        admin = self.serve(session_cookie_kwargs={"path": "/admin"})
        for site in (shop, admin):
            site.application.add_handlers(".*", [("/admin/.*", ActingSessionHandler)])
        jar = http.cookiejar.CookieJar()
        self.browses(jar, shop, "/", put(a=1))

        def who(handler: SessionMixin) -> None:
            handler.write(str(handler.session.user))

        for _ in range(2):
            self.assertEqual(self.browses(jar, admin, "/admin/", who).body, b"None")
            response = self.browses(jar, admin, "/admin/login", login("ada"))
            self.assertEqual(response.code, 200)
            for _ in range(2):
                response = self.browses(jar, admin, "/admin/account", who)
                self.assertEqual(response.body, b"ada")
                self.assert_cookie_lines(response, 0)
            self.assertEqual(len(jar), 2)
            self.assertEqual(self.browses(jar, shop, "/", values).body, b'{"a": 1}')
            self.browses(jar, admin, "/admin/logout", destroy)
            self.assertEqual(len(jar), 1)

    def browses(
        self, jar: http.cookiejar.CookieJar, site: Site, path: str, *acts: Act
    ) -> HTTPResponse:
        """Sends one request as a browser whose cookies are in ``jar``."""
        request = urllib.request.Request(site.url + path)
        jar.add_cookie_header(request)
        cookies = request.get_header("Cookie", "")
        response = self.visitor(site).does(
            *acts, path=path, headers={"Cookie": str(cookies)}
        )
        jar.extract_cookies(cast("Any", _Answer(response.headers)), request)
        return response


class _Answer:
    """A response, as `http.cookiejar` reads it."""

    def __init__(self, headers: HTTPHeaders) -> None:
        self._headers = headers

    def info(self) -> _Answer:
        return self

    def get_all(self, name: str, default: Any) -> list[str]:  # noqa: ANN401
        return self._headers.get_list(name) or default

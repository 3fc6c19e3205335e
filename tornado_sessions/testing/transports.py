"""Proves over HTTP that an id is as good, and as bad, outside of a cookie."""

from __future__ import annotations

from tornado.httpclient import HTTPResponse

from tornado_sessions.testing.applications import (
    Act,
    Site,
    destroy,
    login,
    look,
    put,
    regenerate,
    save,
)
from tornado_sessions.testing.identity import MALFORMED
from tornado_sessions.testing.visitors import VisitorTests, session_cookies
from tornado_sessions.web import SessionMixin

HEADER = "X-Session-Token"


def link(handler: SessionMixin) -> None:
    """Writes a link to ``/next``, as a page does."""
    handler.write(handler.session_url("/next?a=1#b"))


class TransportContract(VisitorTests):
    """What holds of ids in the header and in the URL, and where they are off."""

    def sends(self, site: Site, token: str, *acts: Act, **request: str) -> HTTPResponse:
        """Sends one request with ``token`` in the header, and without a cookie."""
        headers = {HEADER: token} | request
        return self.visitor(site).does(*acts, headers=headers)

    def follows(self, site: Site, token: str, *acts: Act) -> HTTPResponse:
        """Sends one request with ``token`` in the URL, and without a cookie."""
        return self.visitor(site).does(*acts, path=f"/?session={token}")

    def assert_no_cookie(self, response: HTTPResponse) -> None:
        self.assertEqual(session_cookies(response), [])

    def require_query(self) -> Site:
        """Serves with ids in URLs; skips the test where they cannot be there."""
        self.require_revocable()
        return self.serve(session_transports=("cookie", "query"))

    # Off by default.

    def test_an_id_outside_a_cookie_is_none_by_default(self) -> None:
        """Behaviour 73: neither in the header nor in the URL."""
        ada = self.visitor()
        ada.does(put(a=1))
        read = [lambda handler: handler.write(str(dict(handler.session)))]
        for response in (
            self.sends(self.site, ada.token, *read),
            self.follows(self.site, ada.token, *read),
        ):
            self.assertEqual(response.body, b"{}")
            self.assertNotIn(HEADER, response.headers)
            self.assertNotIn("Referrer-Policy", response.headers)
            self.assertEqual(response.headers["Vary"], "Cookie")
        response = self.visitor().does(put(a=1), save, link)
        self.assertEqual(response.body, b"/next?a=1#b")

    # The header.

    def test_a_client_of_the_header_gets_its_id_there(self) -> None:
        """Behaviour 73: even with an empty one, and never a cookie."""
        site = self.serve(session_transports=("cookie", "header"))
        begun = self.sends(site, "", put(a=1))
        token = begun.headers[HEADER]
        self.assert_no_cookie(begun)
        self.assertEqual(begun.headers["Cache-Control"], "no-store")
        self.assertEqual(begun.headers["Vary"], "Cookie, X-Session-Token")
        read = self.sends(
            site, token, lambda handler: handler.write(dict(handler.session))
        )
        self.assertEqual(read.body, b'{"a": 1}')
        self.assertNotIn(HEADER, read.headers)
        changed = self.sends(site, token, login("ada"))
        self.assert_no_cookie(changed)
        self.assertNotIn(changed.headers[HEADER], ("", token))
        token = changed.headers[HEADER]
        ended = self.sends(site, token, destroy)
        self.assert_no_cookie(ended)
        self.assertEqual(ended.headers[HEADER], "")

    def test_an_unknown_id_in_the_header_is_never_adopted(self) -> None:
        """Behaviours 1, 4, 73: what is written goes under a fresh one."""
        site = self.serve(session_transports=("header",))
        token = self.sends(site, "", put(a=1)).headers[HEADER]
        planted = self.altered(token)
        looked = self.sends(site, planted, look)
        self.assertNotIn(HEADER, looked.headers)
        written = self.sends(site, planted, put(b=2))
        self.assertNotIn(written.headers[HEADER], ("", planted))

    def test_all_dead_ids_in_the_header_are_answered_alike(self) -> None:
        """Behaviours 2, 3, 73: unknown, revoked, malformed."""
        site = self.serve(session_transports=("header",))
        token = self.sends(site, "", put(a=1)).headers[HEADER]
        dead = [self.altered(token), *(t for t in MALFORMED if t and "," not in t)]
        if site.sessions.rules.revocable:
            self.sends(site, token, destroy)
            dead.append(token)
        answers = set()
        for token in dead:
            response = self.sends(site, token, look)
            headers = str(sorted(response.headers.get_all()))
            headers = headers.replace(response.headers["Date"], "")
            answers.add((response.code, response.body, headers))
        self.assertEqual(len(answers), 1, answers)

    def test_the_old_id_of_the_header_is_dead_after_regenerating(self) -> None:
        """Behaviours 9, 73: as it is with a cookie."""
        self.require_revocable()
        site = self.serve(session_transports=("header",))
        for act in (regenerate, login("ada")):
            old = self.sends(site, "", put(a=1)).headers[HEADER]
            new = self.sends(site, old, act).headers[HEADER]
            for token, values in ((old, b"{}"), (new, b'{"a": 1}')):
                response = self.sends(
                    site, token, lambda handler: handler.write(dict(handler.session))
                )
                self.assertEqual(response.body, values)

    def test_the_order_of_the_setting_decides_between_cookie_and_header(self) -> None:
        """Behaviour 73: on the way back as well; a script cannot read the cookie's id."""
        for names, values in (
            (("cookie", "header"), b'{"a": 1}'),
            (("header", "cookie"), b"{}"),
        ):
            site = self.serve(session_transports=names)
            ada = self.visitor(site)
            ada.does(put(a=1))
            before = ada.token
            response = ada.does(
                lambda handler: handler.write(dict(handler.session)),
                put(b=2),
                regenerate,
                headers={HEADER: ""},
            )
            self.assertEqual(response.body, values)
            self.assertEqual(HEADER in response.headers, names[0] == "header")
            self.assertEqual(ada.token == before, names[0] == "header")

    def test_the_first_transport_with_a_well_formed_id_decides(self) -> None:
        """Behaviours 35, 73: what is malformed does not count, wherever it is."""
        site = self.serve(session_transports=("header", "cookie"))
        ada, eve = self.visitor(site), self.visitor(site)
        ada.does(put(a=1))
        token = self.sends(site, "", put(a=2)).headers[HEADER]
        eve.cookie = "session=malformed"
        read = [lambda handler: handler.write(dict(handler.session))]
        for visitor, header, values in (
            (ada, "malformed", b'{"a": 1}'),
            (ada, "malformed, malformed too", b'{"a": 1}'),
            (ada, token, b'{"a": 2}'),
            (ada, self.altered(token), b"{}"),
            (eve, token, b'{"a": 2}'),
            (eve, "malformed", b"{}"),
        ):
            response = visitor.does(*read, headers={HEADER: header})
            self.assertEqual(response.body, values)
        written = ada.does(put(b=3), headers={HEADER: "malformed"})
        self.assertNotIn(HEADER, written.headers)
        self.assertEqual(ada.sees(), {"a": 1, "b": 3})

    def test_a_client_that_sends_no_header_gets_none(self) -> None:
        """Behaviour 73: nor a cookie, where there is no other transport."""
        site = self.serve(session_transports=("header",))
        response = self.visitor(site).does(put(a=1))
        self.assert_no_cookie(response)
        self.assertNotIn(HEADER, response.headers)

    def test_an_id_in_the_header_is_withheld_over_plain_http(self) -> None:
        """Behaviours 58, 73: beyond loopback, both ways; one warning says so."""
        site = self.serve(session_transports=("header",))
        token = self.sends(site, "", put(a=1)).headers[HEADER]
        for acts in ((put(b=2),), (regenerate, put(b=2))):
            response = self.sends(site, token, *acts, Host="shop.example")
            self.assertEqual(response.code, 200)
            self.assertNotIn(HEADER, response.headers)
            self.assert_no_cookie(response)
        (told,) = self.log.find("The session id is withheld")
        self.assertRegex(told, r"\AWARNING tornado_sessions .*xheaders=True")
        response = self.sends(
            site, token, lambda handler: handler.write(dict(handler.session))
        )
        self.assertEqual(response.body, b'{"a": 1}')

    # The URL.

    def test_an_id_in_the_url_opens_its_session(self) -> None:
        """Behaviour 73: it never becomes a cookie, and is told to nobody else."""
        site = self.require_query()
        begun = self.visitor(site).does(put(a=1), save, link)
        path, _, token = begun.body.decode().partition("?a=1&session=")
        self.assertEqual((path, token[43:]), ("/next", "#b"))
        for act in (look, put(b=2)):
            response = self.follows(site, token[:43], act, link)
            self.assert_no_cookie(response)
            self.assertEqual(response.body, begun.body)
            self.assertEqual(response.headers["Referrer-Policy"], "no-referrer")
            self.assertEqual(response.headers["Cache-Control"], "no-store")
            self.assertEqual(response.headers["Vary"], "Cookie")
        for name in ("Referrer-Policy", "Cache-Control"):
            self.assertIn(name, begun.headers)

    def test_a_client_with_the_cookie_gets_clean_links(self) -> None:
        """Behaviour 73: the id is added for a client without it only."""
        site = self.require_query()
        ada = self.visitor(site)
        ada.does(put(a=1))
        response = ada.does(put(a=2), link)
        self.assertEqual(response.body, b"/next?a=1#b")
        self.assertNotIn("Referrer-Policy", response.headers)

    def test_a_link_does_not_displace_the_session_of_a_cookie(self) -> None:
        """Behaviour 73: the cookie comes first."""
        site = self.require_query()
        ada, eve = self.visitor(site), self.visitor(site)
        ada.does(put(a=1))
        eve.does(put(a=2))
        response = ada.does(
            lambda handler: handler.write(dict(handler.session)),
            path=f"/?session={eve.token}",
        )
        self.assertEqual(response.body, b'{"a": 1}')

    def test_an_id_from_a_url_is_regenerated_at_login(self) -> None:
        """Behaviours 9, 73: the sender of the link has no access."""
        site = self.require_query()
        eve = self.visitor(site)
        eve.does(put(a=1))
        response = self.follows(site, eve.token, login("ada"), save, link)
        self.assert_no_cookie(response)
        token = response.body.decode().partition("session=")[2][:43]
        self.assertNotEqual(token, eve.token)
        self.assertEqual(eve.sees(), {})
        response = self.follows(
            site, token, lambda handler: handler.write(str(handler.session.user))
        )
        self.assertEqual(response.body, b"ada")

    def test_an_unknown_id_in_a_url_is_never_adopted(self) -> None:
        """Behaviours 1, 2, 3, 4, 73: and it is no error, whatever it is."""
        site = self.require_query()
        planted = self.altered("")
        for token in (planted, "", "%00", "A" * 42, "..%2F", "%24ne", "%FF"):
            response = self.follows(site, token, look, link)
            self.assertEqual(response.code, 200)
            self.assertEqual(response.body, b"/next?a=1#b")
        response = self.follows(site, planted, put(b=2), save, link)
        self.assert_no_cookie(response)
        self.assertRegex(response.body, rb"\A/next\?a=1&session=[\w-]{43}#b\Z")
        self.assertNotIn(planted.encode(), response.body)

    def test_an_id_in_a_url_is_withheld_over_plain_http(self) -> None:
        """Behaviours 58, 73: beyond loopback it neither counts nor is given out."""
        site = self.require_query()
        ada = self.visitor(site)
        ada.does(put(a=1))
        for path in ("/", f"/?session={ada.token}"):
            response = self.visitor(site).does(
                put(a=2), save, link, path=path, headers={"Host": "shop.example"}
            )
            self.assertEqual(response.body, b"/next?a=1#b")
            self.assert_no_cookie(response)
        self.assertEqual(ada.sees(), {"a": 1})

    def test_no_log_line_holds_an_id_from_a_url(self) -> None:
        """Behaviours 8, 73: Tornado's own access log and its errors included."""
        site = self.require_query()
        ada = self.visitor(site)
        ada.does(put(a=1))

        def fail(handler: object) -> None:
            raise ArithmeticError("The handler failed.")

        for act in (look, login("ada"), fail):
            self.follows(site, ada.token, act)
        self.visitor(site).does(
            path=f"/?b=1&session={ada.token}",
            method="BREW",
            allow_nonstandard_methods=True,
        )
        vault = self.watch(site)
        vault.failing = {"load"}
        response = self.follows(site, ada.token, look)
        self.assertEqual(response.code, 503)
        self.assertEqual(response.headers["Referrer-Policy"], "no-referrer")
        self.assertGreater(len(self.log.find("GET / (127.0.0.1)")), 3)
        self.assertEqual(len(self.log.find("405 BREW /?b=1 (")), 1)
        self.assertEqual(self.log.find(ada.token), [])

"""Proves over HTTP that Tornado's XSRF tokens go with sessions, and bind to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from tornado.httpclient import HTTPResponse

from tornado_sessions.testing.applications import (
    Act,
    Site,
    destroy,
    login,
    look,
    put,
    regenerate,
)
from tornado_sessions.testing.visitors import Visitor, VisitorTests
from tornado_sessions.web import SessionMixin


def form(handler: SessionMixin) -> None:
    """Writes what a form would hold."""
    handler.write(handler.xsrf_token)


class Browser:
    """A visitor who keeps all cookies, and sends forms."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.cookies: dict[str, str] = {}

    def gets(self, *acts: Act, **request: Any) -> HTTPResponse:
        headers = request.pop("headers", {})
        if self.cookies:
            pairs = [f"{name}={value}" for name, value in self.cookies.items()]
            headers = headers | {"Cookie": "; ".join(pairs)}
        response = self.visitor.does(*acts, headers=headers, **request)
        for line in response.headers.get_list("Set-Cookie"):
            name, _, rest = line.partition("=")
            value, _, attributes = rest.partition(";")
            self.cookies[name] = value.strip('"')
            if "Max-Age=0;" in attributes:
                del self.cookies[name]
        return response

    def posts(self, token: str, *acts: Act) -> int:
        """Sends a form with ``token``, and returns the status."""
        response = self.gets(*acts, method="POST", body=f"_xsrf={token}")
        return response.code

    def form(self, *acts: Act) -> str:
        """Returns the token of a page with a form."""
        return self.gets(*acts, form).body.decode()


class XSRFContract(VisitorTests):
    """What holds of ``xsrf_cookies``, by itself and with ``session_xsrf``."""

    def browser(self, site: Site | None = None) -> Browser:
        return Browser(self.visitor(site or self.serve_bound()))

    def serve_bound(self) -> Site:
        return self.serve(xsrf_cookies=True, session_xsrf=True)

    def test_xsrf_cookies_work_as_without_sessions(self) -> None:
        """One token is good for all: before a session, with it, after a login."""
        site = self.serve(xsrf_cookies=True)
        ada = self.browser(site)
        self.assertEqual(ada.posts("", put(a=1)), 403)
        token = ada.form()
        for act in (put(a=1), login("ada"), regenerate, put(a=2), destroy, put(a=3)):
            self.assertEqual(ada.posts(token, act), 200)
        self.assertEqual(self.browser(site).posts(token, put(a=1)), 403)

    def test_a_form_from_before_the_session_is_good_for_it(self) -> None:
        """A visitor's first page, in two tabs, is not to annoy anybody."""
        ada = self.browser()
        token = ada.form()
        self.assertEqual(ada.posts(token, put(a=1)), 200)
        self.assertIn("session", ada.cookies)
        self.assertEqual(ada.posts(token, put(a=2)), 200)

    def test_a_session_may_begin_on_a_page_without_a_form(self) -> None:
        """What was handed out before is bound to it all the same."""
        ada = self.browser()
        token = ada.form()
        ada.gets(put(a=1))
        self.assertEqual(ada.posts(token, put(a=2)), 200)

    def test_a_form_is_good_however_often_its_session_is_saved(self) -> None:
        """Also where each save makes another id."""
        ada = self.browser()
        token = ada.form(put(a=0))
        for number in range(3):
            ada.gets(put(b=number))
            self.assertEqual(ada.posts(token, put(a=number)), 200)

    def test_a_token_from_before_the_login_is_refused(self) -> None:
        """It may have been planted; so is one from before a regenerate()."""
        for act in (login("ada"), regenerate):
            ada = self.browser()
            token = ada.form(put(a=1))
            self.assertEqual(ada.posts(token, act), 200)
            self.assertEqual(ada.posts(token, put(a=2)), 403)
            self.assertEqual(ada.posts(ada.form(), put(a=2)), 200)

    def test_a_visitor_who_begins_with_a_login_gets_another_token(self) -> None:
        """What an attacker has planted in front of it is worth nothing after it."""
        ada = self.browser()
        token = ada.form()
        self.assertEqual(ada.posts(token, login("ada")), 200)
        self.assertEqual(ada.posts(token, put(a=2)), 403)

    def test_a_form_in_the_response_of_a_login_is_good(self) -> None:
        """Though the new id is drawn after it was rendered."""
        for acts in ((login("ada"),), (put(a=1), login("ada")), (regenerate, put(b=1))):
            ada = self.browser()
            for _ in range(2):
                token = ada.form(*acts)
                self.assertEqual(ada.posts(token, put(a=2)), 200)

    def test_a_token_of_another_session_is_refused(self) -> None:
        """Also with the cookie that it came with."""
        site = self.serve_bound()
        ada, eve = self.browser(site), self.browser(site)
        ada.form(login("ada"))
        token = eve.form(login("eve"))
        self.assertEqual(ada.posts(token, put(a=1)), 403)
        ada.cookies["_xsrf"] = eve.cookies["_xsrf"]
        self.assertEqual(ada.posts(token, put(a=1)), 403)
        self.assertEqual(ada.posts(ada.form(), put(a=1)), 200)

    def test_a_cookie_that_was_planted_is_refused(self) -> None:
        """Where there is a session; a visitor without one has nothing to lose."""
        site = self.serve_bound()
        ada, eve = self.browser(site), self.browser(site)
        token = eve.form()
        ada.gets(login("ada"))
        ada.cookies["_xsrf"] = eve.cookies["_xsrf"]
        self.assertEqual(ada.posts(token, put(a=1)), 403)

    def test_a_token_from_before_the_logout_is_refused(self) -> None:
        """And the next page has another one."""
        ada = self.browser()
        token = ada.form(login("ada"))
        self.assertEqual(ada.posts(token, destroy), 200)
        self.assertEqual(ada.posts(token, put(a=1)), 403)
        self.assertEqual(ada.posts(ada.form(), put(a=1)), 200)

    def test_a_session_that_has_expired_keeps_its_forms(self) -> None:
        """A visitor whose session has expired can sign in with the page that is open."""
        ada = self.browser()
        token = ada.form(login("ada"))
        self.time += ada.visitor.site.sessions.rules.lifetime + 1
        self.assertEqual(ada.posts(token, look), 200)
        self.assertEqual(ada.posts(token, login("ada")), 200)
        self.assertEqual(ada.posts(token, put(a=1)), 403)

    def test_a_script_sends_the_cookie_in_the_header(self) -> None:
        """After a login as well, without a page in between."""
        ada = self.browser()
        ada.form()
        for act in (put(a=1), login("ada"), put(a=2), destroy, put(a=3), regenerate):
            header = {"X-Xsrftoken": ada.cookies["_xsrf"]}
            response = ada.gets(act, method="POST", body="", headers=header)
            self.assertEqual(response.code, 200)

    def test_an_xsrf_cookie_is_set_where_there_is_something_to_learn(self) -> None:
        """A page that hands none out sets none, and neither does a reading one."""
        ada = self.browser()
        ada.gets(put(a=1))
        self.assertNotIn("_xsrf", ada.cookies)
        token = ada.form()
        response = ada.gets(look, form)
        self.assertEqual(response.headers.get_list("Set-Cookie"), [])
        self.assertNotEqual(response.body.decode(), token)

    def test_a_name_that_is_ours_only_after_stripping_is_not_ours(self) -> None:
        """Behaviour 83: nobody can plant an XSRF cookie in front of ours."""
        site = self.serve_bound()
        ada, eve = self.browser(site), self.browser(site)
        token, planted = ada.form(login("ada")), eve.form()
        own = ada.cookies
        for name in ("\xa0_xsrf", "\x85_xsrf"):
            plant = {name: eve.cookies["_xsrf"]}
            for ada.cookies in (plant | own, own | plant):
                self.assertEqual(ada.posts(token, look), 200)
            nobody = self.browser(site)
            nobody.cookies = plant
            self.assertEqual(nobody.posts(planted, login("eve")), 403)

    def test_malformed_xsrf_cookies_do_not_count(self) -> None:
        """Behaviour 83: whoever plants them in front of ours locks nobody out."""
        ada = self.browser()
        token = ada.form(login("ada"))
        own = ada.cookies["_xsrf"]
        short = own.split("|")[2][:30]
        for planted in ("{}", f"2|0000000{{}}|{short}|1"):
            values = [planted.format(number) for number in range(9)]
            # A Browser joins its cookies in this form.
            ada.cookies["_xsrf"] = "; _xsrf=".join([*values, own])
            self.assertEqual(ada.posts(token, look), 200)

    def test_a_token_in_the_url_counts_for_nothing(self) -> None:
        """Behaviour 83: a link is followed with whatever is in it."""
        ada = self.browser()
        for acts in ((), (login("ada"),)):
            token = ada.form(*acts)
            path = f"/?_xsrf={quote(token)}"
            response = ada.gets(put(a=1), method="POST", body="", path=path)
            self.assertEqual(response.code, 403)
            self.assertEqual(ada.posts(token, put(a=1)), 200)

    def test_of_several_ids_a_token_counts_for_the_one_that_is_alive(self) -> None:
        """Behaviours 35, 83: whether it is the first one or not."""
        site = self.serve_bound()
        ada, gone, eve = (self.browser(site) for _ in range(3))
        tokens = {
            browser: browser.form(login(user))
            for browser, user in ((ada, "ada"), (gone, "gone"))
        }
        tokens[eve] = eve.form()
        both = (ada.cookies["session"], gone.cookies["session"])
        self.assertEqual(gone.visitor.does(destroy).code, 200)
        if not self.sessions.rules.revocable:
            both = (both[0], both[1][:-8] + "A" * 8)
        for sent in (both, both[::-1]):
            for browser, token in tokens.items():
                code = self.post(site, sent, browser, token, look)
                self.assertEqual(code, 200 if browser is ada else 403)

    def test_where_none_of_several_ids_is_alive_any_token_is_good(self) -> None:
        """Behaviours 35, 83: as for a visitor without a session, who can sign in."""
        site = self.serve_bound()
        nobody, ids = self.browser(site), []
        token = nobody.form()
        for user in ("ada", "eve"):
            browser = self.browser(site)
            browser.gets(login(user))
            ids.append(browser.cookies["session"])
        self.time += site.sessions.rules.lifetime + 1
        self.assertEqual(self.post(site, ids, nobody, token, look), 200)
        self.assertEqual(self.post(site, ids, nobody, "", look), 403)
        self.assertEqual(self.post(site, ids, nobody, token, login("ada")), 200)

    def test_a_planted_token_signs_nobody_out(self) -> None:
        """Behaviours 35, 83: it has to be signed for one of those that would end."""
        site = self.serve_bound()
        ada, eve, nobody = (self.browser(site) for _ in range(3))
        token, planted = ada.form(login("ada")), nobody.form()
        eve.form(login("eve"))
        ids = [browser.cookies["session"] for browser in (eve, ada)]
        self.assertEqual(self.post(site, ids, nobody, planted, destroy), 403)
        for browser, user in ((ada, "ada"), (eve, "eve")):
            user_of = ada.visitor.copy()
            user_of.cookie = f"session={browser.cookies['session']}"
            self.assertEqual(user_of.asks(lambda h: h.session.user), user)
        self.assertEqual(self.post(site, ids, ada, token, destroy), 200)
        ids += [f"{id_[:-1]}{last}" for id_ in ids for last in "AQgw"]
        self.assertEqual(self.post(site, ids, nobody, planted, destroy), 403)

    def post(
        self, site: Site, ids: Sequence[str], browser: Browser, token: str, *acts: Act
    ) -> int:
        """Sends a form with several session cookies and the XSRF cookie of one."""
        pairs = [f"session={id_}" for id_ in ids]
        cookies = "; ".join([*pairs, f"_xsrf={browser.cookies['_xsrf']}"])
        response = self.visitor(site).does(
            *acts, method="POST", body=f"_xsrf={token}", headers={"Cookie": cookies}
        )
        return response.code

    def test_the_xsrf_cookie_has_the_attributes_of_ours(self) -> None:
        """Behaviour 83: all but HttpOnly; what hands out a token is not cached."""
        kwargs = {"domain": "x.example", "samesite": "None", "partitioned": True}
        mine = "Path=/; Domain=x.example; Secure; SameSite=None; Partitioned"
        on_loopback = "Path=/; Domain=x.example; SameSite=Lax"
        theirs = "Path=/form; Domain=x.example; Secure; SameSite=Strict; Partitioned"
        for xsrf_kwargs, https, attributes in (
            ({}, True, mine),
            ({}, False, on_loopback),
            ({"path": "/form", "samesite": "Strict"}, True, theirs),
            ({"httponly": True}, False, on_loopback.replace("; S", "; HttpOnly; S")),
            ({"max_age": 60}, True, f"Max-Age=60; {mine}"),
            ({"expires_days": 1}, False, f"Max-Age=86400; {on_loopback}"),
        ):
            site = self.serve(
                xsrf_cookies=True,
                session_xsrf=True,
                session_cookie_kwargs=kwargs,
                xsrf_cookie_kwargs=xsrf_kwargs,
            )
            visitor = self.visitor(site, https=https)
            response = visitor.does(
                form, lambda h: h.set_header("Cache-Control", "max-age=9")
            )
            (line,) = response.headers.get_list("Set-Cookie")
            self.assertEqual(line.partition("; ")[2], attributes)
            self.assertEqual(response.headers["Cache-Control"], "no-store")
            cookie = {"Cookie": line.partition(";")[0]}
            again = visitor.does(form, headers=cookie)
            self.assertEqual(again.headers.get_list("Set-Cookie"), [])
            self.assertEqual(again.headers["Cache-Control"], "no-store")

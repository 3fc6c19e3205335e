"""Tests over HTTP of the line that sets the cookie, and of headers beside it."""

from __future__ import annotations

import re

from tornado_sessions.testing.applications import (
    destroy,
    look,
    put,
    regenerate,
)
from tornado_sessions.testing.visitors import VisitorTests, session_cookies
from tornado_sessions.web import SessionMixin


class CookieContract(VisitorTests):
    """Tests of the attributes of the cookie, and of where none is sent."""

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

"""Tests of the URLs of the cookie backend, and of the store that one names."""

from __future__ import annotations

import tempfile
import unittest
from typing import Any

from tornado_sessions_cookie import CookieBackend
from tornado_sessions_sqlite import SQLiteBackend

SECRET = "a secret, 32 bytes or longer, of tests"


class CookieUrlTest(unittest.TestCase):
    def test_a_url_names_it(self) -> None:
        """Any backend there is, with its own options."""
        with tempfile.TemporaryDirectory() as directory:
            url = f"cookie:?not_before=sqlite:///{directory}/a.db?timeout=7%26x=1"
            with self.assertRaisesRegex(ValueError, "backend 'sqlite' does not have"):
                _from_url(url)
            vault = _from_url(url.removesuffix("%26x=1"))
            assert vault._ends is not None
            store: Any = vault._ends.backend
            self.assertIs(type(store), SQLiteBackend)
            self.assertEqual(store.timeout, 7.0)

    def test_its_url_is_taken_as_it_stands(self) -> None:
        """Its own escapes, and a plus sign, reach the backend that it names."""
        vault = _from_url("cookie:?not_before=sqlite:////tmp/a+b%40%23%2526.db")

        assert vault._ends is not None
        store: Any = vault._ends.backend
        self.assertEqual(store.path, "/tmp/a+b@#%26.db")

    def test_a_password_in_its_url_is_not_repeated(self) -> None:
        """Behaviour 8: neither what follows an ampersand in it."""
        for password in ("lo&hush", "lo&hush=1", "lo&hush&2"):
            with self.assertRaises(ValueError) as caught:
                _from_url(f"cookie:?not_before=mongodb://me:{password}@host/ends")

            self.assertEqual(
                str(caught.exception),
                "The option 'not_before' of the cookie session backend is a URL, in"
                " which '&' is written as '%26', and there is an '@' after the first"
                " '&'.",
            )

    def test_a_store_that_forgets_is_told(self) -> None:
        """Behaviour 46: at the start, for sessions would live again."""
        with self.assertLogs("tornado_sessions", "WARNING") as logged:
            _from_url("cookie:?not_before=memory:")
        self.assertEqual(
            logged.records[0].getMessage(),
            "MemoryBackend does not survive a restart, and what it keeps is which"
            " sessions have ended: those will live again. Use another backend for the"
            " option not_before, such as 'sqlite'.",
        )

    def test_it_cannot_be_another_cookie(self) -> None:
        """Behaviour 46: a cookie keeps nothing on the server."""
        with self.assertRaises(ValueError) as caught:
            _from_url("cookie:?not_before=cookie:")
        self.assertEqual(
            str(caught.exception),
            "The option 'not_before' of the cookie session backend names a"
            " CookieBackend, which keeps nothing on the server. Use another one, such"
            " as not_before=sqlite:///ends.db.",
        )


def _from_url(url: str) -> CookieBackend:
    return CookieBackend.from_url(url, {"cookie_secret": SECRET})

"""Tests of the options in a backend's URL."""

from __future__ import annotations

import unittest
from urllib.parse import urlsplit

from tornado_sessions.storage.options import read_options, split_url

_KINDS = {"loft": str, "eggs": int, "timeout": float, "homing": bool}


class OptionsTest(unittest.TestCase):
    def test_each_has_the_type_that_it_is_to_have(self) -> None:
        """None of them need be there, and what a URL escapes is a character."""
        self.assertEqual(read_options("pigeon", "", _KINDS), {})
        self.assertEqual(
            read_options("pigeon", "loft=a%26b&eggs=2&timeout=.5&homing=true", _KINDS),
            {"loft": "a&b", "eggs": 2, "timeout": 0.5, "homing": True},
        )
        self.assertEqual(
            read_options("pigeon", "loft=&homing=false", _KINDS),
            {"loft": "", "homing": False},
        )

    def test_an_unknown_one_is_refused(self) -> None:
        """Behaviour 89: the error lists what there is, and does not repeat the name."""
        for option, guess in (
            ("tiemout", " Did you mean 'timeout'?"),
            ("hunter2", ""),
        ):
            self._assert_refused(
                f"{option}=1",
                "The URL has an option that the session backend 'pigeon' does not have."
                f"{guess} Its options are 'loft', 'eggs', 'timeout', 'homing'.",
            )

    def test_one_that_is_there_twice_is_refused(self) -> None:
        """Nobody could tell which of them counts."""
        self._assert_refused(
            "eggs=1&loft=a&eggs=2",
            "The option 'eggs' of the session backend 'pigeon' is there twice. Remove"
            " one.",
        )

    def test_what_is_no_value_of_its_type_is_refused(self) -> None:
        """Behaviour 89: the error says what it must be, and does not repeat it."""
        for option, must_be in {
            "eggs=many": "'eggs' must be a whole number",
            "eggs=1.5": "'eggs' must be a whole number",
            "eggs=": "'eggs' must be a whole number",
            "eggs": "'eggs' must be a whole number",
            "timeout=soon": "'timeout' must be a number",
            "homing=yes": "'homing' must be 'true' or 'false'",
        }.items():
            with self.subTest(option):
                self._assert_refused(option, f"The option {must_be}.")

    def _assert_refused(self, query: str, message: str) -> None:
        with self.assertRaises(ValueError) as refused:
            read_options("pigeon", query, _KINDS)
        self.assertEqual(str(refused.exception), message)
        self.assertIsNone(refused.exception.__cause__)
        self.assertIsNone(refused.exception.__context__)


class SplitTest(unittest.TestCase):
    def test_a_url_is_split(self) -> None:
        """As urlsplit does it."""
        url = "pigeon://host/loft?eggs=2#x"
        self.assertEqual(split_url(url), urlsplit(url))

    def test_what_is_malformed_raises_nothing(self) -> None:
        """Behaviour 89: the errors of urlsplit repeat parts of the URL."""
        for url in ("pigeon://[x", "pigeon://hunter2\u2100@x"):
            self.assertIsNone(split_url(url))

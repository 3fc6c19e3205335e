"""Tests of the options in a backend's URL."""

from __future__ import annotations

import unittest

from tornado_sessions.options import read_options

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
        """The error names it and lists what there is."""
        self._assert_refused(
            "tiemout=1",
            "The session backend 'pigeon' has no option 'tiemout'. Its options are"
            " 'loft', 'eggs', 'timeout', 'homing'.",
        )

    def test_one_that_is_there_twice_is_refused(self) -> None:
        """Nobody could tell which of them counts."""
        self._assert_refused(
            "eggs=1&loft=a&eggs=2",
            "The option 'eggs' of the session backend 'pigeon' is there twice. Remove"
            " one.",
        )

    def test_what_is_no_value_of_its_type_is_refused(self) -> None:
        """The error shows it, and says what it is to be."""
        for option, must_be in {
            "eggs=many": "'eggs' must be a whole number, not 'many'",
            "eggs=1.5": "'eggs' must be a whole number, not '1.5'",
            "eggs=": "'eggs' must be a whole number, not ''",
            "eggs": "'eggs' must be a whole number, not ''",
            "timeout=soon": "'timeout' must be a number, not 'soon'",
            "homing=yes": "'homing' must be 'true' or 'false', not 'yes'",
        }.items():
            with self.subTest(option):
                self._assert_refused(option, f"The option {must_be}.")

    def _assert_refused(self, query: str, message: str) -> None:
        with self.assertRaises(ValueError) as refused:
            read_options("pigeon", query, _KINDS)
        self.assertEqual(str(refused.exception), message)

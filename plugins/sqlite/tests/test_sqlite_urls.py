"""What the URL of the SQLite backend may be."""

from __future__ import annotations

import os
import unittest

from tornado_sessions_sqlite import SQLiteBackend


class UrlTest(unittest.TestCase):
    def test_three_slashes_are_a_relative_path(self) -> None:
        """The path counts from the directory of the process at that moment."""
        backend = SQLiteBackend.from_url("sqlite:///data/s.db", {})

        self.assertEqual(backend.path, os.path.join(os.getcwd(), "data/s.db"))

    def test_four_slashes_are_an_absolute_path(self) -> None:
        """The fourth slash is the path's own."""
        backend = SQLiteBackend.from_url("sqlite:////var/lib/s.db", {})

        self.assertEqual(backend.path, "/var/lib/s.db")

    def test_the_path_is_percent_decoded(self) -> None:
        """Any file name can be written, also one that is no UTF-8."""
        backend = SQLiteBackend.from_url("sqlite:////a%20%23b%3f%ff.db", {})

        self.assertEqual(os.fsencode(backend.path), b"/a #b?\xff.db")

    def test_options_have_defaults(self) -> None:
        """Two seconds, WAL's usual durability, a mebibyte."""
        backend = SQLiteBackend.from_url("sqlite:///s.db", {})

        self.assertEqual(backend.timeout, 2.0)
        self.assertEqual(backend.synchronous, "normal")
        self.assertEqual(backend.table, "sessions")
        self.assertEqual(backend.max_bytes, 65_536)

    def test_options_follow_a_question_mark(self) -> None:
        """They are those of the constructor."""
        backend = SQLiteBackend.from_url(
            "sqlite:///s.db?timeout=0.5&synchronous=full&table=web&max_bytes=1000", {}
        )

        self.assertEqual(backend.timeout, 0.5)
        self.assertEqual(backend.synchronous, "full")
        self.assertEqual(backend.table, "web")
        self.assertEqual(backend.max_bytes, 1000)

    def test_an_unknown_option_is_refused(self) -> None:
        """The error lists what there is, and names the closest."""
        self._assert_refused(
            "sqlite:///s.db?tiemout=1",
            "Did you mean 'timeout'? Its options are 'synchronous', 'table', 'timeout',"
            " 'max_bytes'.",
        )

    def test_values_that_make_no_sense_are_refused(self) -> None:
        """Behaviour 89: the error names the option, and does not repeat the value."""
        for option, told in {
            "timeout=soon": "'timeout' must be a number.",
            "timeout=0": "'timeout' must be a finite number of seconds above 0.",
            "timeout=nan": "'timeout' must be a finite number of seconds above 0.",
            "timeout=inf": "'timeout' must be a finite number of seconds above 0.",
            "synchronous=off": "'synchronous' must be 'normal' or 'full'.",
            "table=": "'table' must be a name of ASCII letters, digits and underscores"
            " that begins with neither a digit nor 'sqlite_'.",
            "table=web-sessions": "'table' must be a name",
            "table=a%22b": "'table' must be a name",
            "table=1a": "'table' must be a name",
            "table=SQLite_a": "'table' must be a name",
            "max_bytes=1.5": "'max_bytes' must be a whole number.",
            "max_bytes=0": "'max_bytes' must be a number above 0.",
        }.items():
            with self.subTest(option):
                self._assert_refused(f"sqlite:///s.db?{option}", told)

    def test_a_url_without_a_path_is_refused(self) -> None:
        """Two slashes, a bare name, a host: the error shows how it is written."""
        for url in ("sqlite", "sqlite:", "sqlite://s.db", "sqlite://host/s.db#x"):
            with self.subTest(url):
                self._assert_refused(url, "'sqlite:///relative.db' with three slashes")

    def test_a_path_that_is_no_file_is_refused(self) -> None:
        """SQLite's own memory would differ in each thread: use that backend."""
        for url in ("sqlite:///", "sqlite:///:memory:", "sqlite:///a%00b"):
            with self.subTest(url):
                self._assert_refused(url, "use the backend 'memory'")

    def _assert_refused(self, url: str, told: str) -> None:
        with self.assertRaises(ValueError) as caught:
            SQLiteBackend.from_url(url, {})
        self.assertIn(told, str(caught.exception))

"""What the URL of the PostgreSQL backend says, and what is refused."""

from __future__ import annotations

import os
import unittest
from unittest import mock

from tornado_sessions_postgresql import PostgreSQLBackend

_FORM = "cannot use its URL. It is to be of the form postgresql://user:password@host"


class URLTest(unittest.TestCase):
    def test_a_url_names_hosts_and_database(self) -> None:
        """Messages have them, and neither user nor password."""
        for url, address in {
            "postgresql://ann:hunter2@db.example:5433/shop": "db.example:5433/shop",
            "postgresql://a:1,b:2,[::1]:3/shop": "a:1,b:2,[::1]:3/shop",
            "postgresql://%2Frun%2Fpg/shop": "/run/pg/shop",
            "postgresql:///shop?host=/run/pg": "/run/pg/shop",
            "postgresql://db?dbname=shop": "db/shop",
            "postgresql://db?database=shop&password=hunter2": "db/shop",
            "postgresql://db": "db",
        }.items():
            with self.subTest(url):
                backend = PostgreSQLBackend.from_url(url, {})
                self.assertEqual(backend.address, address)
                self.assertNotIn("hunter2", repr(backend))

    def test_the_name_alone_is_what_the_environment_says(self) -> None:
        """The driver reads the rest from there, as psql does."""
        for url in ("postgresql", "postgresql:", "postgresql://"):
            with mock.patch.dict(os.environ, {"PGHOST": "db.example"}):
                self.assertEqual(_open(url).address, "db.example")
            with mock.patch.dict(os.environ):
                os.environ.pop("PGHOST", None)
                self.assertEqual(_open(url).address, "localhost")

    def test_options_have_defaults(self) -> None:
        """Two seconds, 64 KiB, and the driver's cache of statements."""
        backend = _open("postgresql://a")

        self.assertEqual(backend.timeout, 2.0)
        self.assertEqual(backend.max_bytes, 65_536)
        self.assertEqual(backend.table, "sessions")
        self.assertEqual(backend.statement_cache_size, 100)

    def test_options_follow_a_question_mark(self) -> None:
        """Ours are not passed to the driver, which would send them to the server."""
        url = "postgresql://a?timeout=0.5&sslmode=require&table=web&max_bytes=1000"
        backend = _open(url + "&application_name=shop&statement_cache_size=0")

        self.assertEqual(backend.timeout, 0.5)
        self.assertEqual(backend.max_bytes, 1000)
        self.assertEqual(backend.table, "web")
        self.assertEqual(backend.statement_cache_size, 0)
        self.assertEqual(
            backend.url, "postgresql://a?sslmode=require&application_name=shop"
        )

    def test_an_option_that_nobody_has_is_refused(self) -> None:
        """The error names the closest."""
        self.assertEqual(
            self._refused("postgresql://a?sslmod=require"),
            "The URL has an option that neither the session backend 'postgresql' nor its"
            " driver has. Did you mean 'sslmode'? A parameter of the server is written"
            " options=-c%20name=value.",
        )
        self.assertIn("'timeout'", self._refused("postgresql://a?tiemout=1"))

    def test_values_that_make_no_sense_are_refused(self) -> None:
        """Behaviour 89: the error names the option, and does not repeat the value."""
        for option, told in {
            "timeout=soon": "The option 'timeout' must be a number.",
            "timeout=0": "The option 'timeout' must be a finite number of seconds above"
            " 0.",
            "max_bytes=0": "The option 'max_bytes' must be a number above 0.",
            "statement_cache_size=-1": "The option 'statement_cache_size' must not be"
            " below 0.",
            "statement_cache_size=no": "The option 'statement_cache_size' must be a"
            " whole number.",
            "table=a&table=b": "The option 'table' of the session backend 'postgresql'"
            " is there twice. Remove one.",
            "port=many": "The option 'port' must be a number.",
            "sslmode=yes": "The option 'sslmode' must be one of 'disable', 'allow',"
            " 'prefer', 'require', 'verify-ca', 'verify-full'.",
            "target_session_attrs=standby": "Sessions are kept on the primary: on a"
            " standby one that has ended may still be there, and none can be stored. The"
            " option 'target_session_attrs' must be one of 'any', 'primary',"
            " 'read-write'.",
        }.items():
            with self.subTest(option):
                self.assertEqual(self._refused(f"postgresql://a?{option}"), told)

    def test_a_name_of_a_table_that_cannot_be_one_is_refused(self) -> None:
        """Nothing in it can end the quotes, and its indexes have names as well."""
        for name in ("", 'a"b', "a b", "1a", "pg_a", "é", "a.b", 56 * "a", "a%00"):
            with self.subTest(name):
                self.assertEqual(
                    self._refused(f"postgresql://a?table={name}"),
                    "The option 'table' must be a name of at most 55 ASCII letters,"
                    " digits and underscores that begins with neither a digit nor"
                    " 'pg_'.",
                )

    def test_a_url_that_is_none_is_refused_without_its_password(self) -> None:
        """Behaviour 89: whatever is not escaped in it."""
        for rest in (
            *("ann:hunter2@a@b/c", "ann:hun/ter2@b/c", "ann:1/ter2@b/c", "ann:hunter2"),
            *("ann:hunter2?x=y@b", "ann:hun#ter2@b", "ann:1?timeout=hunter2@b"),
            *("ann:hunter2@[::1", "ann:hunter2@::1", "ann:hunter2@b:port"),
        ):
            with self.subTest(rest):
                message = self._refused(f"postgresql://{rest}")
                self.assertNotIn("ter2", message)
        self.assertIn(_FORM, self._refused("postgresql://ann:hunter2@a@b/c"))

    def test_a_backend_takes_either_a_url_or_a_pool(self) -> None:
        """Both would be two stores."""
        with self.assertRaisesRegex(ValueError, "takes either a url or a pool"):
            PostgreSQLBackend()

    def _refused(self, url: str) -> str:
        with self.assertRaises(ValueError) as caught:
            _open(url)
        self.assertIsNone(caught.exception.__cause__)
        self.assertIsNone(caught.exception.__context__)
        return str(caught.exception)


def _open(url: str) -> PostgreSQLBackend:
    return PostgreSQLBackend.from_url(url, {})


if __name__ == "__main__":
    unittest.main()

"""Which URLs and options the Redis backend takes, and what it says of others."""

from __future__ import annotations

import re
import unittest

from tornado_sessions_redis import RedisBackend
from tornado_sessions_redis.urls import read_url

from tornado_sessions.storage.registry import open_backend


class UrlTest(unittest.TestCase):
    def test_a_url_names_a_store(self) -> None:
        """Every scheme is an entry point; the address shows no password."""
        for url, address in {
            "redis": "localhost:6379",
            "redis:": "localhost:6379",
            "redis://": "localhost:6379",
            "redis://Cache-1.example.com/": "Cache-1.example.com:6379",
            "redis://:secret@10.0.0.1:6380/3": "10.0.0.1:6380",
            "REDIS://u:secret@[::1]:6380": "[::1]:6380",
            "rediss://[fe80::1%eth0]": "[fe80::1%eth0]:6379",
            "redis+unix:///run/redis/redis.sock": "/run/redis/redis.sock",
            "redis+unix://u:secret@/run/r%20s.sock": "/run/r s.sock",
            "redis+sentinel://a,b:1/main": "a:26379,b:1/main",
            "rediss+sentinel://:secret@a/main/2": "a:26379/main",
            "redis+cluster://a:1,b": "a:1,b:6379",
            "rediss+cluster://a": "a:6379",
        }.items():
            with self.subTest(url):
                backend = open_backend(url, {})

                assert isinstance(backend, RedisBackend)
                self.assertEqual(backend.address, address)

    def test_a_url_has_a_user_a_password_and_a_database(self) -> None:
        """What is escaped in them is special in a URL."""
        target = read_url("redis://a%40b:p%2F%3A%3F@h/12")

        self.assertEqual(target.username, "a@b")
        self.assertEqual(target.password, "p/:?")
        self.assertEqual(target.database, 12)

    def test_a_password_needs_no_user(self) -> None:
        """It is that of the user 'default'."""
        target = read_url("redis://:secret@h")

        self.assertIsNone(target.username)
        self.assertEqual(target.password, "secret")

    def test_options_have_defaults(self) -> None:
        """Those that the README names."""
        backend = RedisBackend()

        self.assertEqual(backend.prefix, "session:")
        self.assertEqual(backend.timeout, 2.0)
        self.assertEqual(backend.max_bytes, 65_536)
        self.assertEqual(backend.max_connections, 10)

    def test_options_follow_a_question_mark(self) -> None:
        """They are those of the constructor."""
        backend = RedisBackend.from_url(
            "redis://h?prefix=shop:&timeout=0.5&max_bytes=1000&max_connections=3", {}
        )

        self.assertEqual(backend.prefix, "shop:")
        self.assertEqual(backend.timeout, 0.5)
        self.assertEqual(backend.max_bytes, 1000)
        self.assertEqual(backend.max_connections, 3)

    def test_an_option_that_makes_no_sense_is_refused(self) -> None:
        """Behaviour 89: the error names the option, and does not repeat the value."""
        for option, told in {
            "timeout=soon": "'timeout' must be a number.",
            "timeout=0": "'timeout' must be a finite number of seconds above 0.",
            "max_bytes=0": "'max_bytes' must be a number above 0.",
            "max_connections=0": "'max_connections' must be a number above 0.",
            "max_connections=two": "'max_connections' must be a whole number.",
            "db=-1": "The number of the database must be a whole number.",
            "db=two": "'db' must be a whole number.",
            "client_name=a%20b": "'client_name' must be visible ASCII characters.",
            "ssl_check_hostname=perhaps": "'ssl_check_hostname' must be 'true' or",
            "sentinel_password=x": "'sentinel_password' is for the URL of Sentinels.",
            "ssl_keyfile=secret.pem": "'ssl_keyfile' is for an encrypted connection.",
            "retry=5": "Its options are 'prefix', 'db', ",
            "prefx=a:": "Did you mean 'prefix'?",
        }.items():
            with self.subTest(option):
                self._assert_refused(f"redis://h?{option}", told)

    def test_a_check_of_certificates_that_is_unknown_is_refused(self) -> None:
        """Behaviour 89: it would otherwise fail with each request."""
        self._assert_refused(
            "rediss://h?ssl_cert_reqs=secret",
            "'ssl_cert_reqs' must be 'required', 'optional' or 'none'.",
        )

    def test_a_file_of_certificates_that_cannot_be_used_is_refused(self) -> None:
        """Behaviour 89: when the application starts, and without the path."""
        for option, told in {
            "ssl_ca_certs=/secret.pem": "'ssl_ca_certs' cannot be used: No such file",
            f"ssl_ca_certs={__file__}": "'ssl_ca_certs' cannot be used: [X509",
            "ssl_certfile=/secret.pem": "'ssl_certfile' cannot be used: No such file",
            "ssl_keyfile=/secret.pem": "'ssl_keyfile' needs the option 'ssl_certfile'.",
        }.items():
            with self.subTest(option):
                self._assert_refused(f"rediss://h?{option}", told)

    def test_an_unknown_argument_is_refused(self) -> None:
        """As Python does, with the name."""
        with self.assertRaisesRegex(TypeError, "no option named 'retry'"):
            RedisBackend("redis://h", retry=True)

    def test_a_url_that_makes_no_sense_is_refused(self) -> None:
        """Behaviour 89: the error says how one is written, and repeats nothing."""
        for url, told in {
            "redis://secret:": "'redis' cannot use the host of its URL.",
            "redis://h:0": "cannot use the host",
            "redis://h:70000": "cannot use the host",
            "redis://u:secret@": "cannot use the host",
            "redis://a b": "cannot use the host",
            "redis://::1": "cannot use the host",
            "redis://u:secret@a,b": "takes one host. For several write 'redis+sentinel:",
            "redis://h/secret": "The number of the database must be a whole number.",
            "redis://h/1/2": "The number of the database must be a whole number.",
            "redis://u:sec?ret@h": "has an '@' after its '?'. Escape the user",
            "redis+unix://h/path": "The URL of a socket has an absolute path",
            "redis+unix://": "The URL of a socket has an absolute path",
            "redis+sentinel://a,b": "needs the name of the primary after the hosts",
            "redis+sentinel://a/main/secret": "The number of the database must be",
            "redis+cluster://a/1": "A cluster has only the database 0.",
            "redis+cluster://a?db=1": "A cluster has only the database 0.",
            "secret://h": "needs a URL of the form 'redis://user:password@host:6379/0'",
        }.items():
            with self.subTest(url):
                self._assert_refused(url, told)

    def _assert_refused(self, url: str, told: str) -> None:
        with self.assertRaisesRegex(ValueError, re.escape(told)) as caught:
            RedisBackend.from_url(url, {})
        error: BaseException | None = caught.exception
        while error is not None:
            self.assertNotIn("secret", str(error))
            error = error.__cause__ or error.__context__

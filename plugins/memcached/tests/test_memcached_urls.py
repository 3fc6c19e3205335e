"""What the URL of the memcached backend may be."""

from __future__ import annotations

import unittest

from tornado_sessions_memcached import MemcachedBackend, MemcachedPool


class UrlTest(unittest.TestCase):
    def test_a_url_names_a_server(self) -> None:
        """The port is memcached's own where there is none."""
        for url, server in {
            "memcached://10.0.0.1:11212": ("10.0.0.1", 11212),
            "memcached://Cache-1.example.com": ("cache-1.example.com", 11211),
            "memcached://localhost/": ("localhost", 11211),
            "memcached://[::1]:11212": ("::1", 11212),
            "memcached://[fe80::1%eth0]": ("fe80::1%eth0", 11211),
        }.items():
            with self.subTest(url):
                backend = _one(url)
                self.assertEqual((backend.host, backend.port), server)

    def test_commas_separate_the_servers_of_a_pool(self) -> None:
        """Names and addresses of all kinds may stand together."""
        url = "memcached://a:1,10.0.0.1,[::1]:2?max_bytes=1000"
        for kind in (MemcachedBackend, MemcachedPool):
            pool = kind.from_url(url, {})

            assert isinstance(pool, MemcachedPool)
            addresses = [server.address for server in pool.servers]
            self.assertEqual(addresses, ["a:1", "10.0.0.1:11211", "[::1]:2"])
            self.assertEqual(pool.max_bytes, 1000)

    def test_options_have_defaults(self) -> None:
        """Two seconds, and what fits into memcached's mebibyte."""
        backend = _one("memcached://a")

        self.assertEqual(backend.timeout, 2.0)
        self.assertEqual(backend.prefix, "session:")
        self.assertEqual(backend.max_bytes, 65_536)

    def test_options_follow_a_question_mark(self) -> None:
        """They are those of the constructor."""
        backend = _one("memcached://a?timeout=0.5&prefix=shop/&max_bytes=1000")

        self.assertEqual(backend.timeout, 0.5)
        self.assertEqual(backend.prefix, "shop/")
        self.assertEqual(backend.max_bytes, 1000)

    def test_an_unknown_option_is_refused(self) -> None:
        """The error lists what there is, and names the closest."""
        self._assert_refused(
            "memcached://a?tiemout=1",
            "Did you mean 'timeout'? Its options are 'prefix', 'timeout', 'max_bytes'.",
        )

    def test_values_that_make_no_sense_are_refused(self) -> None:
        """Behaviour 89: the error names the option, and does not repeat the value."""
        for option, told in {
            "timeout=soon": "'timeout' must be a number.",
            "timeout=0": "'timeout' must be a finite number of seconds above 0.",
            "timeout=nan": "'timeout' must be a finite number of seconds above 0.",
            "timeout=inf": "'timeout' must be a finite number of seconds above 0.",
            "prefix=a%20b": "'prefix' must be at most 186 visible ASCII characters.",
            "prefix=a%0d%0a": "'prefix' must be at most 186 visible ASCII characters.",
            "prefix=%c3%a9": "'prefix' must be at most 186 visible ASCII characters.",
            "prefix=" + 187 * "x": "'prefix' must be at most 186",
            "max_bytes=many": "'max_bytes' must be a whole number.",
            "max_bytes=0": "'max_bytes' must be a number above 0.",
        }.items():
            with self.subTest(option):
                self._assert_refused(f"memcached://a?{option}", told)

    def test_what_is_no_server_is_refused(self) -> None:
        """Behaviour 89: the error says how one is written, and repeats nothing.

        Where the host was forgotten, a password stands for the port.
        """
        for server in (
            *("", ":1", "a:0", "a:65536", "a b", "a/1", "::1", "[::1"),
            *("me:hunter2", "me:11,hunter 2"),
        ):
            with self.subTest(server):
                message = self._assert_refused(
                    f"memcached://{server}", "needs servers, each with a host and a"
                )
                self.assertNotIn("hunter", message)

    def test_a_prefix_may_have_an_at_sign(self) -> None:
        """It is no sign of a password where the server is one."""
        self.assertEqual(_one("memcached://a?prefix=b@c:").prefix, "b@c:")

    def test_a_missing_server_is_refused(self) -> None:
        """Also between two others."""
        self._assert_refused("memcached://a,,b", "needs servers, each with a host")
        self._assert_refused("memcached", "as in 'memcached://10.0.0.1:11211'")

    def test_a_server_that_is_named_twice_is_refused(self) -> None:
        """However it is written: half of its connections would be in vain."""
        self._assert_refused("memcached://a,A:11211", "each only once")

    def test_a_pool_without_servers_is_refused(self) -> None:
        """A URL always names one, be it the empty name."""
        with self.assertRaisesRegex(ValueError, "needs a server"):
            MemcachedPool()

    def test_a_password_is_refused_and_not_repeated(self) -> None:
        """Behaviours 8, 89: memcached is protected otherwise."""
        for url in (
            "memcached://me:hunter2@a",
            "memcached://me:hunter2%40a",
            "memcached://me:why?hunter2@a",
            "memcached://me:why?hunter2=2@a",
            "memcached://me:why?timeout=hunter2@a",
            "memcached://me:why?timeout=hunter2%40a",
            "memcached://me:why?max_bytes=1&prefix=hunter2@a",
        ):
            with self.subTest(url):
                message = self._assert_refused(url, "no password")

                self.assertNotIn("hunter2", message)

    def _assert_refused(self, url: str, told: str) -> str:
        with self.assertRaises(ValueError) as caught:
            MemcachedBackend.from_url(url, {})
        self.assertIn(told, str(caught.exception))
        return str(caught.exception)


def _one(url: str) -> MemcachedBackend:
    backend = MemcachedBackend.from_url(url, {})
    assert isinstance(backend, MemcachedBackend)
    return backend

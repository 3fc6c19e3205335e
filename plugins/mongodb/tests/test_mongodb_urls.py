"""What the URL of the MongoDB backend may be, and its other arguments."""

from __future__ import annotations

import sys
import unittest
from typing import Any
from unittest import mock

import pymongo
import tornado.web
from tornado_sessions_mongodb import MongoDBBackend

from tornado_sessions import Sessions
from tornado_sessions.testing.records import messages_of


class URLTest(unittest.TestCase):
    def test_a_bare_name_is_the_server_of_this_machine(self) -> None:
        """All else is at its default, as the README says."""
        for url in ("mongodb", "mongodb:", "mongodb://", "mongodb://localhost"):
            backend = MongoDBBackend.from_url(url, {})
            self.assertEqual(backend.url, "mongodb://localhost")
            self.assertEqual(backend.address, "sessions.sessions")
            self.assertEqual(backend.driver, "motor")
            self.assertEqual(backend.timeout, 2.0)
            self.assertEqual(backend.max_bytes, 65_536)

    def test_our_options_are_taken_out_of_the_url(self) -> None:
        """What is left is the driver's, as it was written."""
        for scheme in ("mongodb", "mongodb+srv"):
            backend = MongoDBBackend.from_url(
                f"{scheme}://me:p%40ss@a.example/shop?collection=visits&retryWrites=true"
                "&driver=pymongo&appName=a%20b&timeout=3&max_bytes=99",
                {},
            )
            self.assertEqual(
                backend.url,
                f"{scheme}://me:p%40ss@a.example/shop?retryWrites=true&appName=a%20b",
            )
            self.assertEqual(backend.address, "shop.visits")
            self.assertEqual(repr(backend), "<MongoDBBackend 'shop.visits'>")
            self.assertEqual(backend.driver, "pymongo")
            self.assertEqual(backend.timeout, 3.0)
            self.assertEqual(backend.max_bytes, 99)

    def test_the_drivers_options_need_no_database(self) -> None:
        """The driver wants a slash in front of them; it gets one."""
        backend = MongoDBBackend.from_url(
            "mongodb://a,b:1?replicaSet=rs&driver=motor", {}
        )

        self.assertEqual(backend.url, "mongodb://a,b:1/?replicaSet=rs")
        self.assertEqual(backend.address, "sessions.sessions")

    def test_the_drivers_own_time_limit_is_ours(self) -> None:
        """``timeoutMS`` counts where there is no ``timeout``."""
        for options, timeout in (
            ("timeoutMS=1500", 1.5),
            ("timeoutMS=1500&timeout=3", 3.0),
        ):
            backend = MongoDBBackend.from_url(f"mongodb://a/?{options}", {})
            self.assertEqual(backend.timeout, timeout)

    def test_options_of_the_srv_scheme_are_the_drivers(self) -> None:
        """They are good for nothing else, and no name server is asked yet."""
        backend = MongoDBBackend.from_url(
            "mongodb+srv://cluster.example/?srvServiceName=other", {}
        )

        self.assertEqual(
            backend.url, "mongodb+srv://cluster.example/?srvServiceName=other"
        )

    def test_the_srv_scheme_needs_dnspython(self) -> None:
        """It is said when the application starts, and what to do."""
        application = tornado.web.Application(
            session_backend="mongodb+srv://cluster.example/shop"
        )
        missing: Any = {"dns": None}
        with (
            mock.patch.dict(sys.modules, missing),
            self.assertRaises(ValueError) as refused,
        ):
            Sessions.of(application)

        self.assertEqual(
            str(refused.exception),
            "A URL that begins with 'mongodb+srv://' needs dnspython. Install it with:"
            " pip install dnspython",
        )
        Sessions.of(application)

    def test_what_cannot_be_used_is_refused(self) -> None:
        """The message says what is wrong and what to do."""
        # Where the driver has more to say, that comes behind it.
        for options, message in _REFUSED.items():
            with self.subTest(options=options):
                self._assert_refused(
                    f"mongodb://me:hunter2@host/shop?{options}", message
                )

    def test_a_url_that_is_malformed_keeps_its_password(self) -> None:
        """Behaviour 8: wherever the driver takes the password to be."""
        for url in (
            "mongodb://me:hunter2/x@host/shop",
            "mongodb://me:hunter2:x@host/shop",
            "mongodb://me:hunter2@host:port/shop",
            "mongodb://me:hunter2@host/shop.visits",
            "mongodb://me:hunter2@/shop",
            "mongodb://me:hunter2@host/sh op",
        ):
            with self.subTest(url=url):
                self._assert_refused(
                    url,
                    "The session backend 'mongodb' cannot use its URL. It is to be of"
                    " the form mongodb://user:password@host1,host2/database?option="
                    "value, with what is special in the password escaped by"
                    " urllib.parse.quote_plus().",
                )
        self._assert_refused(
            "mongodb://me:w=x?hunter2=1@host/shop",
            "The URL of the session backend 'mongodb' has an '@' after its '?'. Escape"
            " the user name and the password with urllib.parse.quote_plus().",
        )
        self._assert_refused(
            "postgresql://me:hunter2@host/shop",
            "The session backend 'mongodb' needs a URL that begins with 'mongodb://' or"
            " 'mongodb+srv://'.",
        )

    def test_either_a_url_or_a_client_is_taken(self) -> None:
        """And a client that does not block the loop."""
        client = pymongo.MongoClient[dict[str, Any]](connect=False)
        self.addCleanup(client.close)
        blocking: Any = client
        for arguments, message in (
            ({}, "MongoDBBackend takes either a url or a client."),
            (
                {"url": "mongodb://a", "client": blocking},
                "MongoDBBackend takes either a url or a client.",
            ),
            (
                {"url": "mongodb://a", "database": "shop"},
                "The URL names the database: mongodb://host/database.",
            ),
            (
                {"client": blocking},
                "A MongoClient would block the loop. Give MongoDBBackend a motor"
                + " client or an AsyncMongoClient.",
            ),
            (
                {"client": object(), "database": "a.b"},
                "MongoDB does not take the name of the database. It has at most 63"
                + ' characters, and no space and none of /\\."$*<>:|? among them.',
            ),
        ):
            with self.assertRaises(ValueError) as refused:
                MongoDBBackend(**arguments)
            self.assertEqual(str(refused.exception), message)

    def _assert_refused(self, url: str, message: str) -> None:
        with self.assertRaises(ValueError) as refused:
            MongoDBBackend.from_url(url, {})
        self.assertEqual(str(refused.exception)[: len(message)], message)
        self.assertNotIn("hunter2", messages_of(refused.exception))


_REFUSED = {
    "timeout=soon": "The option 'timeout' must be a number.",
    "max_bytes=1.5": "The option 'max_bytes' must be a whole number.",
    "timeout=1&timeout=2": "The option 'timeout' of the session backend 'mongodb' is"
    " there twice. Remove one.",
    "timeout=0": "The option 'timeout' must be a finite number of seconds above 0.",
    "timeout=inf": "The option 'timeout' must be a finite number of seconds above 0.",
    "timeout=1e6": "The option 'timeout' must be a number of seconds below a million.",
    "max_bytes=0": "The option 'max_bytes' must be a number above 0.",
    "max_bytes=16000001": "The option 'max_bytes' must be at most 16000000.",
    "driver=mongo": "The option 'driver' must be 'motor' or 'pymongo'.",
    "collection=": "The option 'collection' must be a name that MongoDB takes for a"
    " collection.",
    "collection=system.users": "The option 'collection' must be a name that MongoDB"
    " takes for a collection.",
    "readPreference=secondary": "Sessions are read from the primary: elsewhere one that"
    " has ended may still be there. Remove the option readPreference from the URL.",
    "w=0": "With w=0 nobody would know whether a session was stored. Remove the option"
    " from the URL.",
    "maxPoolSize=many": "MongoDB's driver does not take the value of the option"
    " 'maxpoolsize'.",
    "tls=true&authMechanism=w0rd": "MongoDB's driver does not take the value of the"
    " option 'authmechanism'.",
    "tlsCAFile=/no/such/file": "MongoDB's driver does not take the value of the option"
    " 'tlscafile'.",
    "no_such_option=1": "The URL has an option that neither the session backend"
    " 'mongodb' nor MongoDB's driver has.",
    "maxPolSize=1": "The URL has an option that neither the session backend 'mongodb'"
    " nor MongoDB's driver has. Did you mean 'maxpoolsize'?",
    "ssl=true&tls=false": "MongoDB's driver does not take the options of the URL"
    " together. Compare them with its documentation.",
}

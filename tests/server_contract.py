"""What holds for each server that keeps data: it is killed, paused, started again."""

from __future__ import annotations

import abc
import concurrent.futures
import socket
import unittest
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from servers import Server

if TYPE_CHECKING:
    _Case = unittest.TestCase
else:
    _Case = object


class ServerContract(_Case, metaclass=abc.ABCMeta):
    """Tests a server with a client of its own. Beside it goes `unittest.TestCase`."""

    @abc.abstractmethod
    def make_server(self) -> Server:
        """Returns a server that is not running. The test starts and stops it."""

    @abc.abstractmethod
    def store(self) -> None:
        """Stores a value."""

    @abc.abstractmethod
    def has_stored(self) -> bool:
        """Whether the server still has what `store` has stored."""

    @abc.abstractmethod
    def is_refused_without_password(self) -> bool:
        """Whether the server refuses a client that does not give the password."""

    def setUp(self) -> None:
        self.server = self.make_server()
        self.addCleanup(self.server.stop)
        self.server.start()

    def test_a_killed_server_refuses_connections(self) -> None:
        """Nobody listens on its port any more."""
        self.server.kill()

        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.server.port), 5)

    def test_a_killed_server_starts_again_with_its_data(self) -> None:
        """It is the same server under the same URL."""
        url = self.server.url
        self.store()

        self.server.kill()
        self.server.start()

        self.assertTrue(self.has_stored())
        self.assertEqual(self.server.url, url)

    def test_a_paused_server_hangs_until_it_is_resumed(self) -> None:
        """It accepts connections, and answers when it goes on."""
        self.store()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            self.server.pause()
            reply = pool.submit(self.has_stored)
            with self.assertRaises(concurrent.futures.TimeoutError):
                reply.result(0.3)

            self.server.resume()

            self.assertTrue(reply.result(30))

    def test_a_client_without_the_password_is_refused(self) -> None:
        """So a test can look for the password where it must not be."""
        self.assertTrue(urlsplit(self.server.url).password)
        self.assertTrue(self.is_refused_without_password())

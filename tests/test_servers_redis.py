"""Kills, pauses and restarts Redis and Valkey, alone and in groups."""

from __future__ import annotations

import os
import socket
import unittest

from servers import Redis, RedisSentinel, Valkey, ValkeyCluster
from servers.redis import Reply
from tests.server_contract import ServerContract


@unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_REDIS_URL"), "SESSIONS_TEST_REDIS_URL is not set."
)
class RedisTest(ServerContract, unittest.TestCase):
    def make_server(self) -> Redis:
        return Redis()

    def store(self) -> None:
        self._ask("SET", "cart", "apples")

    def has_stored(self) -> bool:
        return self._ask("GET", "cart") == b"apples"

    def is_refused_without_password(self) -> bool:
        with socket.create_connection(("127.0.0.1", self.server.port), 30) as client:
            client.sendall(b"GET cart\r\n")
            return client.recv(7) == b"-NOAUTH"

    def test_options_are_passed_on(self) -> None:
        """The arguments of the constructor are on the server's command line."""
        with Redis("--maxmemory", "3mb") as server:
            self.assertEqual(
                server.ask("CONFIG", "GET", "maxmemory"), [b"maxmemory", b"3145728"]
            )

    def _ask(self, *command: str) -> Reply:
        assert isinstance(self.server, Redis)
        return self.server.ask(*command)


@unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_VALKEY_URL"), "SESSIONS_TEST_VALKEY_URL is not set."
)
class ValkeyTest(RedisTest):
    def make_server(self) -> Valkey:
        return Valkey()

    def test_it_is_no_redis(self) -> None:
        """It names itself, and takes the same commands."""
        info = self._ask("INFO", "server")

        assert isinstance(info, bytes)
        self.assertIn(b"valkey_version:9", info)


@unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_VALKEY_URL"), "SESSIONS_TEST_VALKEY_URL is not set."
)
class ValkeyClusterTest(unittest.TestCase):
    def start(self, node_timeout: float) -> None:
        self.cluster = ValkeyCluster(node_timeout=node_timeout).start_for(self)

    def test_each_key_is_on_one_member(self) -> None:
        """The others name that one."""
        # On a busy machine a member may be silent for seconds.
        self.start(node_timeout=15)
        for number in range(20):
            takers = self._takers("SET", f"cart-{number}", "apples")

            self.assertEqual(len(takers), 1)

    def test_the_keys_of_a_killed_member_come_back_with_it(self) -> None:
        """Meanwhile the cluster refuses all keys."""
        self.start(node_timeout=2)
        (home,) = self._takers("SET", "cart", "apples")
        (other, _) = (member for member in self.cluster.members if member is not home)

        home.kill()
        while b"cluster_state:ok" in self._info(other):
            pass
        self.assertEqual(self._takers("GET", "cart"), [])
        home.start()
        self.cluster.wait()

        self.assertEqual(home.ask("GET", "cart"), b"apples")

    def _takers(self, *command: str) -> list[Valkey]:
        """Returns the members that carry out a command."""
        takers = []
        for member in self.cluster.members:
            try:
                member.ask(*command)
            except (RuntimeError, ConnectionRefusedError) as error:  # noqa: PERF203
                self.assertRegex(str(error), "MOVED|CLUSTERDOWN|refused")
            else:
                takers.append(member)
        return takers

    def _info(self, member: Valkey) -> bytes:
        info = member.ask("CLUSTER", "INFO")
        assert isinstance(info, bytes)
        return info


@unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_REDIS_URL"), "SESSIONS_TEST_REDIS_URL is not set."
)
class RedisSentinelTest(unittest.TestCase):
    def test_a_replica_becomes_the_primary_when_that_is_killed(self) -> None:
        """It has what the primary had passed on to it."""
        with RedisSentinel() as group:
            first = group.primary()
            first.ask("SET", "cart", "apples")
            self.assertEqual(first.ask("WAIT", 2, 30_000), 2)

            first.kill()
            second = group.primary()

            self.assertIsNot(second, first)
            self.assertEqual(second.ask("GET", "cart"), b"apples")

"""How all records are listed: among the keys of others, and on servers that change."""

from __future__ import annotations

import asyncio
import os
import secrets
import unittest
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from redis.crc import key_slot
from tornado_sessions_redis import RedisBackend

from servers import Redis, RedisSentinel, Valkey, ValkeyCluster
from servers.processes import PASSWORD, free_port, wait_until
from tornado_sessions import BackendError, Record
from tornado_sessions.testing.records import run_together
from tornado_sessions.testing.stores import answered

needs_redis = unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_REDIS_URL"), "SESSIONS_TEST_REDIS_URL is not set."
)
needs_valkey = unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_VALKEY_URL"), "SESSIONS_TEST_VALKEY_URL is not set."
)

# Stores and removes that many keys of others, at once.
_FILL = "for n = 1, ARGV[1] do redis.call('SET', 'other:' .. n, '') end"
_EMPTY = "for n = 1, ARGV[1] do redis.call('DEL', 'other:' .. n) end"

if TYPE_CHECKING:
    _Case = unittest.IsolatedAsyncioTestCase
else:
    _Case = object


class Listing(_Case):
    def open(self, url: str, **options: Any) -> RedisBackend:
        backend = RedisBackend(url, timeout=30, **options)
        self.addAsyncCleanup(backend.close)
        return backend

    async def store(self, backend: RedisBackend, count: int) -> list[bytes]:
        keys = [secrets.token_bytes(32) for _ in range(count)]
        await run_together(
            backend.insert(key, Record(b"one", user=f"user {number}"))
            for number, key in enumerate(keys)
        )
        return sorted(keys)

    async def listed(
        self, backend: RedisBackend, meanwhile: Callable[[], object] | None = None
    ) -> list[bytes]:
        """Returns the keys that are listed; calls ``meanwhile`` after the first."""
        keys = []
        async for key, _ in backend.find_all():
            keys.append(key)
            if meanwhile is not None:
                # In a thread, so that the backend notices what is closed.
                await asyncio.to_thread(meanwhile)
                meanwhile = None
        return sorted(keys)


class ServerListing(Listing):
    """What goes for Redis and for Valkey."""

    kind: ClassVar[type[Redis]]
    server: Redis

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = cls.kind()
        cls.server.start()
        cls.addClassCleanup(cls.server.stop)

    def setUp(self) -> None:
        self.server.ask("FLUSHALL")

    async def test_keys_of_others_are_left_alone(self) -> None:
        """Behaviour 101: the set of a user, and what only looks like a session."""
        backend = self.open(self.server.url)
        key = secrets.token_bytes(32)
        # The key of this user's set is as long as that of a session.
        await backend.insert(key, Record(b"one", user="u" * 59))
        self.assertEqual(self.server.ask("EXISTS", f"session:user:{'u' * 59}"), 1)
        for name in (f"shop:{'a' * 64}", f"session:{'A' * 64}", f"session:{'a' * 65}"):
            self.server.ask("SET", name, "not a session")

        self.assertEqual(await self.listed(backend), [key])

    async def test_a_prefix_is_no_pattern(self) -> None:
        """Behaviour 101: what it would match as one belongs to others."""
        backend = self.open(self.server.url, prefix="a?*[b-d]\\:")
        (key,) = await self.store(backend, 1)
        others = ["axyc\\:", "a?*[b-d]:", "axyb:", "a??[b-d]\\:"]
        for prefix in others:
            await self.store(self.open(self.server.url, prefix=prefix), 1)

        self.assertEqual(await self.listed(backend), [key])

    async def test_no_record_comes_twice_from_a_table_that_becomes_smaller(
        self,
    ) -> None:
        """Behaviour 101: the server itself returns some keys twice then."""
        backend = self.open(self.server.url)
        keys = await self.store(backend, 1000)
        # At each another place has been reached.
        for last in range(20, 820, 40):
            self.server.ask("EVAL", _FILL, 0, 20_000)
            listed = []
            async for key, _ in backend.find_all():
                listed.append(key)
                if len(listed) == last:
                    self.server.ask("EVAL", _EMPTY, 0, 20_000)
                    # Older servers make their tables smaller ten times a second.
                    await asyncio.sleep(0.2)

            self.assertEqual(sorted(listed), keys)

    async def test_a_server_that_is_restarted_is_an_error(self) -> None:
        """Behaviour 101: it has its keys in another order, and some would be missing."""
        backend = self.open(self.server.url)
        await self.store(backend, 3000)

        def restart() -> None:
            self.server.kill()
            self.server.start()

        with self.assertRaisesRegex(
            BackendError,
            "failed: The server was restarted or replaced while its keys were listed."
            " Some sessions may be missing: list them again when it is stable.",
        ):
            await self.listed(backend, restart)

        self.assertEqual(len(await self.listed(backend)), 3000)

    async def test_a_replica_is_an_error(self) -> None:
        """Behaviour 101: it may lack the newest sessions."""
        (key,) = await self.store(self.open(self.server.url), 1)
        with type(self.server)(replica_of=self.server.port) as replica:
            name = f"session:{key.hex()}"
            wait_until(lambda: replica.ask("EXISTS", name) == 1, "It has no session.")

            with self.assertRaisesRegex(
                BackendError,
                "failed: READONLY The server may lack the newest sessions. It is a replica.",
            ):
                await self.listed(self.open(replica.url))

    async def test_a_server_that_is_down_is_an_error(self) -> None:
        """Behaviour 101: and no short list."""
        backend = self.open(self.server.url)
        await self.store(backend, 3000)
        self.addCleanup(self.server.start)

        with self.assertRaisesRegex(BackendError, "Check that it runs"):
            await self.listed(backend, self.server.kill)


@needs_redis
class RedisListingTest(ServerListing, unittest.IsolatedAsyncioTestCase):
    kind = Redis


@needs_valkey
class ValkeyListingTest(ServerListing, unittest.IsolatedAsyncioTestCase):
    kind = Valkey


@needs_valkey
class ClusterListingTest(Listing, unittest.IsolatedAsyncioTestCase):
    """A cluster whose keys are moved, and of which a node is down."""

    cluster: ValkeyCluster

    @classmethod
    def setUpClass(cls) -> None:
        cls.cluster = ValkeyCluster(node_timeout=15)
        cls.addClassCleanup(cls.cluster.stop)
        cls.cluster.start()

    async def asyncSetUp(self) -> None:
        for node in self.cluster.members:
            node.ask("FLUSHALL")
        self.backend = self.open(_url(self.cluster))
        self.keys = await self.store(self.backend, 300)

    async def test_slots_that_are_exchanged_meanwhile_are_an_error(self) -> None:
        """Behaviour 101: their keys may be missing. The next list is whole."""

        def exchange() -> None:
            _give_slot(*self.cluster.members[:2])

        with self.assertRaisesRegex(
            BackendError,
            "failed: The nodes of the cluster have exchanged keys while they were listed."
            " Some sessions may be missing: list them again when it is stable.",
        ):
            await self.listed(self.backend, exchange)

        self.assertEqual(await self.listed(self.backend), self.keys)

    async def test_slots_that_are_on_their_way_are_an_error(self) -> None:
        """Behaviour 101: their keys are on two nodes, and may be missing from both."""
        source, target = self.cluster.members[:2]
        slot = _slot_of(source)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(target))

        with self.assertRaisesRegex(
            BackendError,
            "failed: The cluster is moving keys between its nodes."
            " Some sessions may be missing: list them again when it is stable.",
        ):
            await self.listed(self.backend)

        source.ask("CLUSTER", "SETSLOT", slot, "STABLE")
        self.assertEqual(await self.listed(self.backend), self.keys)

    async def test_a_slot_without_a_node_is_an_error(self) -> None:
        """Behaviour 101: a cluster may go on without a part of its keys."""
        for node in self.cluster.members:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        node = self.cluster.members[0]
        slot = _slot_of(node)
        node.ask("CLUSTER", "DELSLOTS", slot)

        with self.assertRaisesRegex(
            BackendError,
            "failed: The nodes of the cluster do not have each slot once."
            " Some sessions may be missing: list them again when it is stable.",
        ):
            await self.listed(self.backend)

        node.ask("CLUSTER", "ADDSLOTS", slot)
        self.cluster.wait()
        self.assertEqual(await self.listed(self.backend), self.keys)

    async def test_a_node_that_is_down_is_an_error(self) -> None:
        """Behaviour 101: and no short list. It is whole when the node is back."""
        node = self.cluster.members[2]
        with self.assertRaises(BackendError):
            await self.listed(self.backend, node.kill)

        node.start()
        self.cluster.wait()
        self.assertEqual(await self.listed(self.backend), self.keys)

    async def test_a_node_that_has_joined_is_listed_as_well(self) -> None:
        """Behaviour 101: no request has had a key of it so far."""
        cluster = ValkeyCluster().start_for(self)
        backend, other = self.open(_url(cluster)), self.open(_url(cluster))
        await backend.ping()
        bus = str(free_port())
        node = Valkey("--cluster-enabled", "yes", "--cluster-port", bus).start_for(self)
        for member in cluster.members:
            member.ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_until(
            lambda: all(_knows(member, node) for member in cluster.members),
            "The nodes have not met.",
        )
        slot = _give_slot(cluster.members[0], node)
        wait_until(
            lambda: all(map(_is_one_of_four, [*cluster.members, node])),
            "The node has not joined.",
        )
        key = secrets.token_bytes(32)
        while key_slot(f"session:{key.hex()}".encode()) != slot:
            key = secrets.token_bytes(32)
        await other.insert(key, Record(b"one", user="ann"))

        self.assertEqual(await self.listed(backend), [key])


@needs_redis
class SentinelListingTest(Listing, unittest.IsolatedAsyncioTestCase):
    """A primary that Sentinels watch."""

    async def test_a_replica_that_takes_over_is_an_error(self) -> None:
        """Behaviour 101: it has its keys in another order, and some would be missing."""
        group = RedisSentinel(down_after=60).start_for(self)
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in group.sentinels)
        backend = self.open(f"redis+sentinel://:{PASSWORD}@{hosts}/{group.name}")
        keys = await self.store(backend, 3000)
        self.assertEqual(await self.listed(backend), keys)
        first = group.primary()

        def replace() -> None:
            group.sentinels[0].ask("SENTINEL", "FAILOVER", group.name)
            wait_until(
                lambda: group.primary() is not first and not first.is_primary(),
                "No replica has taken over.",
            )

        # It may be loading what the new primary has sent.
        with self.assertRaises(BackendError):
            await self.listed(backend, replace)

        listed = await answered(lambda: self.listed(backend))
        self.assertEqual(listed, keys)


def _url(cluster: ValkeyCluster) -> str:
    hosts = ",".join(f"127.0.0.1:{member.port}" for member in cluster.members)
    return f"redis+cluster://:{PASSWORD}@{hosts}"


def _id(node: Valkey) -> str:
    name = node.ask("CLUSTER", "MYID")
    assert isinstance(name, bytes)
    return name.decode()


def _knows(node: Valkey, other: Valkey) -> bool:
    nodes = node.ask("CLUSTER", "NODES")
    assert isinstance(nodes, bytes)
    return _id(other) in nodes.decode()


def _is_one_of_four(node: Valkey) -> bool:
    info = node.ask("CLUSTER", "INFO")
    assert isinstance(info, bytes)
    return {b"cluster_state:ok", b"cluster_size:4"} <= {*info.splitlines()}


def _slot_of(node: Valkey) -> int:
    """Returns a slot of ``node`` in which there is no key."""
    ranges = node.ask("CLUSTER", "SLOTS")
    assert isinstance(ranges, list)
    for each in ranges:
        assert isinstance(each, list)
        first, last, home, *_ = each
        assert isinstance(first, int)
        assert isinstance(last, int)
        assert isinstance(home, list)
        if home[1] == node.port:
            slots = range(first, last + 1)
            return next(slot for slot in slots if _is_empty(node, slot))
    raise AssertionError("The node has no slots.")


def _is_empty(node: Valkey, slot: int) -> bool:
    return node.ask("CLUSTER", "COUNTKEYSINSLOT", slot) == 0


def _give_slot(source: Valkey, target: Valkey) -> int:
    """Moves a slot without keys, and returns its number."""
    slot, source_id, target_id = _slot_of(source), _id(source), _id(target)
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
    for node in (target, source):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
    return slot

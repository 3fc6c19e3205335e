"""Redis with Sentinel and Valkey as a cluster: contracts, and servers that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import time
import unittest
from collections.abc import Callable
from typing import ClassVar

from tornado_sessions_redis import RedisBackend

from servers import Redis, RedisSentinel, Valkey, ValkeyCluster
from servers.processes import PASSWORD
from tornado_sessions import Backend, BackendError, Record
from tornado_sessions.testing import BackendContract
from tornado_sessions.testing.stores import answered

needs_redis = unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_REDIS_URL"), "SESSIONS_TEST_REDIS_URL is not set."
)
needs_valkey = unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_VALKEY_URL"), "SESSIONS_TEST_VALKEY_URL is not set."
)


def cluster_url(cluster: ValkeyCluster) -> str:
    hosts = ",".join(f"127.0.0.1:{member.port}" for member in cluster.members)
    return f"redis+cluster://:{PASSWORD}@{hosts}"


def sentinel_url(group: RedisSentinel) -> str:
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in group.sentinels)
    return f"redis+sentinel://:{PASSWORD}@{hosts}/{group.name}"


class OnCluster(unittest.TestCase):
    cluster: ClassVar[ValkeyCluster]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # Longer than a test pauses a node: the others would refuse all keys.
        cls.cluster = ValkeyCluster(node_timeout=15)
        cls.addClassCleanup(cls.cluster.stop)
        cls.cluster.start()


@needs_valkey
class ClusterContractTest(OnCluster, BackendContract, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends, in a cluster."""

    def make_backend(self) -> Backend:
        # Hundreds of operations at once take long on a busy machine.
        return RedisBackend(cluster_url(self.cluster), timeout=20)


@needs_redis
class SentinelTest(unittest.IsolatedAsyncioTestCase):
    """Servers that are killed, with Sentinel."""

    async def test_a_replica_takes_over_under_load(self) -> None:
        """Requests work again, and no session is lost that the replicas have."""
        group = RedisSentinel().start_for(self)
        backend = RedisBackend(sentinel_url(group))
        self.addAsyncCleanup(backend.close)
        async with Load(backend) as load:
            await load.until(load.has_written(500))
            await load.until(lambda: all(map(load.is_stored_in, group.redis)))
            # Asked for this late: on a busy machine a replica may have taken over.
            first = group.primary()
            first.kill()
            load.good_in_a_row = 0
            await load.until(load.works_again)

        # How many writes are lost depends on how far the replica was behind.
        primaries = [*filter(Redis.is_primary, group.redis)]
        self.assertTrue(any(map(load.is_stored_in, primaries)))

    async def test_each_sentinel_is_still_asked_after_concurrent_failures(self) -> None:
        """Behaviour 66: one that was down is asked when the others are down."""
        # A busy machine must not have them look for another primary.
        group = RedisSentinel(down_after=60).start_for(self)
        backend = RedisBackend(sentinel_url(group), timeout=30)
        self.addAsyncCleanup(backend.close)
        down, *others = group.sentinels
        await backend.load(secrets.token_bytes(32))

        down.kill()
        # Each search has a connection of its own, which the Sentinels are asked for.
        await asyncio.gather(*(_find(backend, "ann") for _ in range(5)))
        down.start()
        for other in others:
            other.kill()

        await asyncio.gather(*(_find(backend, "ann") for _ in range(10)))


@needs_valkey
class ClusterOutageTest(OnCluster, unittest.IsolatedAsyncioTestCase):
    """A node of a cluster that is killed."""

    async def test_a_node_is_killed_under_load(self) -> None:
        """Requests fail until it is back, and nothing that was acknowledged is lost."""
        backend = RedisBackend(cluster_url(self.cluster), timeout=20)
        self.addAsyncCleanup(backend.close)
        # All visitors need this one.
        node = self._home(f"session:user:{Load.user}")
        async with Load(backend) as load:
            await load.until(load.has_written(500))
            node.kill()
            await load.until(load.has_failed)
            node.start()
            self.cluster.wait()
            await load.until(load.works_again)

        self.assertEqual(load.lost, 0)

    async def test_no_operation_fails_once_the_nodes_answer_again(self) -> None:
        """Behaviour 66: an idle connection of before is not used."""
        backend = RedisBackend(cluster_url(self.cluster), timeout=30)
        self.addAsyncCleanup(backend.close)
        keys = [secrets.token_bytes(32) for _ in range(30)]
        await asyncio.gather(*(backend.insert(key, Record(key)) for key in keys))

        for node in self.cluster.members:
            node.kill()
        for node in self.cluster.members:
            node.start()
        self.cluster.wait()

        for key in keys:
            record = await backend.load(key)
            assert record is not None
            self.assertEqual(record.data, key)

    async def test_a_node_that_hangs_is_used_again(self) -> None:
        """Behaviour 66: what it has fails meanwhile, and the rest can be used."""
        backend = RedisBackend(cluster_url(self.cluster), timeout=0.5)
        self.addAsyncCleanup(backend.close)
        keys = [secrets.token_bytes(32) for _ in range(12)]
        for key in keys:
            await answered(functools.partial(backend.insert, key, Record(key)))
        node = self.cluster.members[1]
        hung = {key for key in keys if self._home(f"session:{key.hex()}") is node}

        node.pause()
        for key in keys:
            if key in hung:
                with self.assertRaises(BackendError):
                    await backend.load(key)
            else:
                # On a busy machine some are not in time.
                await self._assert_loads(backend, key)
        node.resume()
        self.cluster.wait()

        for key in keys:
            await self._assert_loads(backend, key)

    async def _assert_loads(self, backend: Backend, key: bytes) -> None:
        record = await answered(lambda: backend.load(key))
        assert record is not None
        self.assertEqual(record.data, key)

    async def test_a_slot_that_moves_is_followed(self) -> None:
        """The node that has left it names the other one, and no request fails."""
        backend = RedisBackend(cluster_url(self.cluster), timeout=30)
        self.addAsyncCleanup(backend.close)
        key, user = secrets.token_bytes(32), secrets.token_hex(8)
        version = await backend.insert(key, Record(b"0", user=user))
        name = f"session:{key.hex()}"
        slot = self._slot(name)
        source = self._home(name)
        target = next(node for node in self.cluster.members if node is not source)
        source_id, target_id = map(_id, (source, target))

        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        version = await backend.replace(key, Record(b"1", user=user), version)
        place = ("127.0.0.1", target.port, name, 0, 5000)
        source.ask("MIGRATE", *place, "AUTH", PASSWORD)
        target.ask("SCRIPT", "FLUSH")
        # Asked for at its new node.
        version = await backend.replace(key, Record(b"2", user=user), version)
        self.assertIsNotNone(version)
        self.assertEqual([each async for each, _ in backend.find(user)], [key])
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        # It has moved for good.
        version = await backend.replace(key, Record(b"3", user=user), version)

        record = await backend.load(key)
        assert record is not None
        self.assertEqual(record.data, b"3")

    def _slot(self, key: str) -> int:
        slot = self.cluster.members[0].ask("CLUSTER", "KEYSLOT", key)
        assert isinstance(slot, int)
        return slot

    def _home(self, key: str) -> Valkey:
        """Returns the node that has ``key``."""
        slot = self._slot(key)
        (home,) = [node for node in self.cluster.members if _has(node, slot)]
        return home


class Load:
    """Visitors who each count in a session of their own, as fast as they can."""

    visitors = 20
    user = "ann"

    def __init__(self, backend: RedisBackend) -> None:
        self.acknowledged = 0
        self.failed = 0
        #: How many acknowledged writes were gone at the next load.
        self.lost = 0
        #: How many requests have worked since the last one that failed.
        self.good_in_a_row = 0
        self._backend = backend
        self._keys = [secrets.token_bytes(32) for _ in range(self.visitors)]
        # What each visitor was told is stored.
        self._counts = dict.fromkeys(self._keys, 0)
        self._ended = False
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._running = [asyncio.create_task(self._visit(key)) for key in self._keys]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        await asyncio.gather(*self._running)

    async def until(self, condition: Callable[[], bool]) -> None:
        # On a busy machine the Sentinels stop for half a minute, more than once.
        deadline = time.monotonic() + 180
        while not condition():
            assert time.monotonic() < deadline, "It does not come to that."
            await asyncio.sleep(0.001)

    def has_written(self, number: int) -> Callable[[], bool]:
        return lambda: self.acknowledged >= number

    def is_stored_in(self, server: Redis) -> bool:
        """Whether ``server`` has the sessions of all visitors."""
        names = [f"session:{key.hex()}" for key in self._keys]
        # It may be loading what its primary has sent.
        with contextlib.suppress(OSError, RuntimeError):
            return server.ask("EXISTS", *names) == len(names)
        return False

    def has_failed(self) -> bool:
        return self.failed >= self.visitors

    def works_again(self) -> bool:
        return self.good_in_a_row >= 10 * self.visitors

    async def _visit(self, key: bytes) -> None:
        while not self._ended:
            try:
                stored = await self._count(key)
            except BackendError:
                self.failed += 1
                self.good_in_a_row = 0
                await asyncio.sleep(0.02)
                continue
            if stored:
                self.acknowledged += 1
                self.good_in_a_row += 1
                self._counts[key] += 1

    async def _count(self, key: bytes) -> bool:
        record = await self._backend.load(key)
        count = 0 if record is None else int(record.data)
        # It may be more: an answer was lost.
        self.lost += max(self._counts[key] - count, 0)
        self._counts[key] = count
        following = Record(b"%d" % (count + 1), user=self.user)
        if record is None:
            return await self._backend.insert(key, following) is not None
        version = record.version
        return await self._backend.replace(key, following, version) is not None


async def _find(backend: RedisBackend, user: str) -> None:
    async for _ in backend.find(user):
        pass


def _has(node: Valkey, slot: int) -> bool:
    ranges = node.ask("CLUSTER", "SLOTS")
    assert isinstance(ranges, list)
    for each in ranges:
        assert isinstance(each, list)
        first, last, home = each[:3]
        assert isinstance(first, int)
        assert isinstance(last, int)
        assert isinstance(home, list)
        if first <= slot <= last:
            return home[1] == node.port
    return False


def _id(node: Valkey) -> str:
    name = node.ask("CLUSTER", "MYID")
    assert isinstance(name, bytes)
    return name.decode()

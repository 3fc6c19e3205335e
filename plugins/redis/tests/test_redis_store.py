"""What the Redis backend stores, and how it sends its commands."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tornado_sessions_redis import RedisBackend

from servers import Redis, Valkey
from tornado_sessions import BackendError, Record
from tornado_sessions.testing.proxies import LossyProxy

needs_redis = unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_REDIS_URL"), "SESSIONS_TEST_REDIS_URL is not set."
)
needs_valkey = unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_VALKEY_URL"), "SESSIONS_TEST_VALKEY_URL is not set."
)

README = Path(__file__).parent.parent / "README.md"

if TYPE_CHECKING:
    _Case = unittest.IsolatedAsyncioTestCase
else:
    _Case = object


class StoreFacts(_Case):
    """What goes for Redis and for Valkey."""

    kind: ClassVar[type[Redis]]
    server: Redis

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = cls.kind()
        cls.server.start()
        cls.addClassCleanup(cls.server.stop)

    def open(self, url: str | None = None, **options: Any) -> RedisBackend:
        options.setdefault("timeout", 30.0)
        backend = RedisBackend(url or self.server.url, **options)
        self.addAsyncCleanup(backend.close)
        return backend

    # What is stored.

    async def test_a_record_is_one_string(self) -> None:
        """The README says how it looks, so that others can read it."""
        backend, key = self.open(), secrets.token_bytes(32)

        version = await backend.insert(key, Record(b"data", user="ann"))

        assert version is not None
        stored = self.server.ask("GET", f"session:{key.hex()}")
        self.assertEqual(stored, version.to_bytes(8, "big") + b"\0\0\0\3anndata")

    async def test_a_record_without_a_user_says_so(self) -> None:
        """Its length of the user is -1, and not that of an empty name."""
        backend, key = self.open(), secrets.token_bytes(32)

        await backend.insert(key, Record(b"data"))

        stored = self.server.ask("GET", f"session:{key.hex()}")
        assert isinstance(stored, bytes)
        self.assertEqual(stored[8:], b"\xff\xff\xff\xffdata")

    async def test_the_version_that_is_returned_is_the_one_that_is_loaded(self) -> None:
        """Of an insert and of a replacement, with a user and without."""
        backend = self.open()
        for user in (None, "ann"):
            key = secrets.token_bytes(32)
            version = await backend.insert(key, Record(b"one", user=user))
            record = await backend.load(key)
            assert record is not None
            self.assertEqual(record.version, version)

            version = await backend.replace(key, Record(b"two", user=user), version)
            record = await backend.load(key)
            assert record is not None
            self.assertEqual(record.version, version)

    async def test_keys_begin_with_the_prefix(self) -> None:
        """Also those of the users' sets."""
        backend = self.open(f"{self.server.url}/5", prefix="shop/é:")
        key = secrets.token_bytes(32)

        await backend.insert(key, Record(b"data", user="ann"))

        self.assertEqual(self.server.ask("EXISTS", f"shop/é:{key.hex()}"), 0)
        keys = await self._ask(5, "KEYS", "*")
        names = ["shop/é:" + key.hex(), "shop/é:user:ann"]
        self.assertEqual(sorted(keys), sorted(name.encode() for name in names))

    async def test_the_time_of_expiry_is_that_of_the_record(self) -> None:
        """Behaviour 65: rounded up to a millisecond, and set with the record."""
        backend, key = self.open(), secrets.token_bytes(32)
        expires = int(time.time()) + 3600.12345
        milliseconds = int(expires) * 1000 + 124

        for user in (None, "bob"):
            await backend.delete(key)
            version = await backend.insert(key, Record(b"one", None, expires, user))
            self.assertEqual(self._expires(f"session:{key.hex()}"), milliseconds)
            record = Record(b"two", None, expires + 1, user)
            version = await backend.replace(key, record, version)
            self.assertEqual(self._expires(f"session:{key.hex()}"), milliseconds + 1000)
            await backend.replace(key, Record(b"three", user=user), version)
            self.assertEqual(self._expires(f"session:{key.hex()}"), -1)

    async def test_a_time_that_is_too_far_away_is_never(self) -> None:
        """Behaviour 52: the store has no number for it."""
        backend = self.open()
        for expires in (1e13, sys.maxsize, sys.float_info.max):
            for user in (None, "far"):
                key = secrets.token_bytes(32)
                version = await backend.insert(key, Record(b"", None, expires, user))
                await backend.replace(key, Record(b"", None, expires, user), version)
                self.assertEqual(self._expires(f"session:{key.hex()}"), -1)

    # The sets of users.

    async def test_a_set_expires_after_its_last_member(self) -> None:
        """With five minutes, as servers of a cluster have clocks of their own."""
        backend, user = self.open(), secrets.token_hex(8)
        now = int(time.time())
        keys = [secrets.token_bytes(32) for _ in range(3)]
        for key, seconds in zip(keys, (100, 300, 200), strict=True):
            await backend.insert(key, Record(b"", None, now + seconds, user))

        expires = self._expires(f"session:user:{user}")
        self.assertEqual(expires, (now + 600) * 1000)

        await backend.insert(secrets.token_bytes(32), Record(b"", user=user))
        self.assertEqual(self._expires(f"session:user:{user}"), -1)

    async def test_a_set_can_expire_again(self) -> None:
        """The session that never expired has gone."""
        backend, user = self.open(), secrets.token_hex(8)
        key, other = secrets.token_bytes(32), secrets.token_bytes(32)
        await backend.insert(key, Record(b"", user=user))
        await backend.delete(key)

        await backend.insert(other, Record(b"", None, time.time() + 100, user))

        self.assertGreater(self._expires(f"session:user:{user}"), 0)

    async def test_a_member_leaves_its_set_with_its_record(self) -> None:
        """Where it is deleted, or is another user's or nobody's from now on."""
        backend, user = self.open(), secrets.token_hex(8)
        for ending in ("delete", "nobody", "another"):
            key = secrets.token_bytes(32)
            version = await backend.insert(key, Record(b"", user=user))
            self.assertEqual(self._members(user), [key.hex().encode()])

            if ending == "delete":
                await backend.delete(key)
            else:
                other = None if ending == "nobody" else f"{user}-2"
                await backend.replace(key, Record(b"", user=other), version)

            self.assertEqual(self._members(user), [])

    async def test_expired_members_leave_with_the_next_write(self) -> None:
        """A user who signs in every day has no set that only grows."""
        backend, user = self.open(), secrets.token_hex(8)
        members = [secrets.token_hex(32) for _ in range(300)]
        for member in members:
            self.server.ask("ZADD", f"session:user:{user}", 1000, member)
        key = secrets.token_bytes(32)

        await backend.insert(key, Record(b"", None, time.time() + 9, user))

        self.assertEqual(self._members(user), [key.hex().encode()])

    async def test_a_member_without_a_record_leaves_with_find(self) -> None:
        """The server has evicted it, or a failover has lost it."""
        backend, user = self.open(), secrets.token_hex(8)
        keys = [secrets.token_bytes(32) for _ in range(250)]
        for key in keys:
            await backend.insert(key, Record(key, user=user))
        for key in keys[1:]:
            self.server.ask("DEL", f"session:{key.hex()}")

        found = [record.data async for _, record in backend.find(user)]

        self.assertEqual(found, keys[:1])
        self.assertEqual(self._members(user), [keys[0].hex().encode()])

    async def test_a_set_that_names_too_many_does_no_harm(self) -> None:
        """Behaviour 46: the user in the record decides."""
        backend, user = self.open(), secrets.token_hex(8)
        mine, other = secrets.token_bytes(32), secrets.token_bytes(32)
        await backend.insert(mine, Record(b"mine", user=user))
        await backend.insert(other, Record(b"other", user=f"{user}x"))
        self.server.ask("ZADD", f"session:user:{user}", "+inf", other.hex())

        self.assertEqual([key async for key, _ in backend.find(user)], [mine])

    async def test_users_that_look_alike_are_different(self) -> None:
        """Behaviour 46: neither case nor space nor NUL is lost, however long it is."""
        backend = self.open()
        base = secrets.token_hex(4)
        endings = [
            "ada",
            "Ada",
            "ada ",
            "ada\0",
            "ada\0b",
            "ada{x}",
            "🍎",
            "é",
            "e\u0301",
        ]
        endings += ["x" * 1000, "x" * 1000 + "y"]
        keys = {base + ending: secrets.token_bytes(32) for ending in endings}
        for user, key in keys.items():
            await backend.insert(key, Record(user.encode(), user=user))

        for user, key in keys.items():
            found = [found async for found, _ in backend.find(user)]
            self.assertEqual(found, [key], user[:20])

    # What a server does.

    async def test_a_script_that_the_server_has_forgotten_is_sent(self) -> None:
        """A restart forgets all scripts, and so does an administrator."""
        backend, key = self.open(), secrets.token_bytes(32)
        await backend.insert(key, Record(b"0"))
        record = await backend.load(key)
        assert record is not None
        version = record.version
        for number in range(1, 20):
            self.server.ask("SCRIPT", "FLUSH", "ASYNC" if number % 2 else "SYNC")
            data = b"%d" % number
            version = await backend.replace(key, Record(data, user="ann"), version)
            self.assertIsNotNone(version)

        record = await backend.load(key)
        assert record is not None
        self.assertEqual(record.data, b"19")

    async def test_scripts_are_forgotten_in_the_middle(self) -> None:
        """No write of many at once fails or happens twice."""
        backend = self.open()
        key = secrets.token_bytes(32)
        await backend.insert(key, Record(b"0"))
        done = 0

        async def count() -> None:
            nonlocal done
            for _ in range(20):
                while True:
                    record = await backend.load(key)
                    assert record is not None
                    data = b"%d" % (int(record.data) + 1)
                    if await backend.replace(key, Record(data), record.version):
                        break
                done += 1

        async def flush() -> None:
            while done < 100:
                self.server.ask("SCRIPT", "FLUSH")
                await asyncio.sleep(0.002)

        await asyncio.gather(flush(), *(count() for _ in range(5)))

        record = await backend.load(key)
        assert record is not None
        self.assertEqual(record.data, b"100")

    async def test_a_script_is_called_by_its_digest(self) -> None:
        """Its text is sent once."""
        self.server.ask("SCRIPT", "FLUSH")
        self.server.ask("CONFIG", "RESETSTAT")
        backend = self.open()
        for _ in range(5):
            await backend.insert(secrets.token_bytes(32), Record(b"", user="ann"))

        self.assertEqual(self._calls("eval"), 1)
        self.assertEqual(self._calls("evalsha"), 5)

    async def test_a_command_whose_reply_is_lost_is_sent_once(self) -> None:
        """Behaviour 30: redis-py would send it again, and it would be a conflict."""
        self.server.ask("CONFIG", "RESETSTAT")
        with LossyProxy(self.server.port) as proxy:
            url = f"redis://:{self.server.password}@127.0.0.1:{proxy.port}"
            backend = self.open(url)
            key = secrets.token_bytes(32)
            version = await backend.insert(key, Record(b"", user="ann"))
            # Now the server knows the script.
            version = await backend.replace(key, Record(b"one", user="ann"), version)
            sent = self._calls("evalsha")
            proxy.lose_replies()

            with self.assertRaises(BackendError):
                await backend.replace(key, Record(b"two", user="ann"), version)

            self.assertEqual(self._calls("evalsha"), sent + 1)
            # So that another connection is there to lose a reply.
            await backend.load(key)
            loads = self._calls("get")
            proxy.lose_replies()
            with self.assertRaises(BackendError):
                await backend.load(key)
            self.assertEqual(self._calls("get"), loads + 1)
        stored = self.server.ask("GET", f"session:{key.hex()}")
        assert isinstance(stored, bytes)
        self.assertTrue(stored.endswith(b"two"))

    async def test_no_more_connections_than_allowed_are_opened(self) -> None:
        """Further operations wait, and each gets its own reply."""
        name = secrets.token_hex(8)
        backend = self.open(max_connections=1, client_name=name)
        keys = [secrets.token_bytes(32) for _ in range(200)]
        await asyncio.gather(*(backend.insert(key, Record(key)) for key in keys))

        records = await asyncio.gather(*(backend.load(key) for key in keys))

        self.assertEqual([record and record.data for record in records], keys)
        clients = self.server.ask("CLIENT", "LIST")
        assert isinstance(clients, bytes)
        self.assertEqual(clients.decode().count(f" name={name} "), 1)

    async def test_waiting_operations_can_be_cancelled(self) -> None:
        """Behaviour 68: no place is lost with them."""
        backend = self.open(max_connections=2)
        key = secrets.token_bytes(32)
        await backend.insert(key, Record(b"one"))
        for _ in range(20):
            tasks = [asyncio.ensure_future(backend.load(key)) for _ in range(20)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            for record in outcomes[1::2]:
                assert isinstance(record, Record), record
                self.assertEqual(record.data, b"one")

    # Helpers.

    async def _ask(self, database: int, *command: str) -> list[bytes]:
        backend = self.open(f"{self.server.url}/{database}")
        reply: list[bytes] = await (await backend.connection()).ask(*command)
        return reply

    def _expires(self, key: str) -> int:
        reply = self.server.ask("PEXPIRETIME", key)
        assert isinstance(reply, int)
        return reply

    def _members(self, user: str) -> list[Any]:
        reply = self.server.ask("ZRANGE", f"session:user:{user}", 0, -1)
        assert isinstance(reply, list)
        return reply

    def _calls(self, command: str) -> int:
        for line in _text(self.server.ask("INFO", "commandstats")).splitlines():
            if line.startswith(f"cmdstat_{command}:calls="):
                return int(line.partition("=")[2].partition(",")[0])
        return 0


@needs_redis
class RedisStoreTest(StoreFacts, unittest.IsolatedAsyncioTestCase):
    kind = Redis


@needs_valkey
class ValkeyStoreTest(StoreFacts, unittest.IsolatedAsyncioTestCase):
    kind = Valkey


def _text(reply: object) -> str:
    assert isinstance(reply, bytes)
    return reply.decode()

"""What the Redis backend says of a server that fails or that may lose sessions."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import subprocess
import tempfile
import time
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from tornado_sessions_redis import RedisBackend

from servers import Redis, Valkey
from servers.processes import free_port, wait_until
from tornado_sessions import BackendError, Record

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


class ServerFacts(_Case):
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

    # What goes wrong.

    async def test_a_wrong_password_is_named(self) -> None:
        """Behaviour 66: and is not repeated."""
        url = f"redis://ann:wr0ng@127.0.0.1:{self.server.port}"
        await self._assert_fails(url, "WRONGPASS", "Check the user and the password")

    async def test_a_missing_password_is_named(self) -> None:
        """Behaviour 66: with the form of a URL that has one."""
        url = f"redis://127.0.0.1:{self.server.port}"
        await self._assert_fails(url, "NOAUTH", "It wants a password")

    async def test_a_missing_permission_is_named(self) -> None:
        """Behaviour 66: without the key that must not be used."""
        self.server.ask("ACL", "SETUSER", "ann", "on", ">pw", "~other:*", "+@all")
        url = f"redis://ann:pw@127.0.0.1:{self.server.port}"
        await self._assert_fails(url, "NOPERM", "lacks a permission")
        self.server.ask("ACL", "SETUSER", "ann", "allkeys", "-set", "-evalsha")
        await self._assert_fails(url, "NOPERM", "lacks a permission")

    async def test_a_replica_is_named(self) -> None:
        """Behaviour 66: and Sentinel as the way to the primary."""
        with type(self.server)(replica_of=self.server.port) as replica:
            backend = self.open(replica.url)
            wait_until(
                lambda: "master_link_status:up" in _text(replica.ask("INFO")),
                "The replica has not found its primary.",
            )
            await self._assert_fails(replica.url, "READONLY", "It is a replica.")

            replica.ask("REPLICAOF", "NO", "ONE")
            await backend.insert(secrets.token_bytes(32), Record(b"one"))

    async def test_a_full_server_is_named(self) -> None:
        """Behaviour 66: nothing that is stored is lost, and it can be read."""
        backend, key = self.open(), secrets.token_bytes(32)
        await backend.insert(key, Record(b"one"))
        with self._config(maxmemory="1"):
            await self._assert_fails(self.server.url, "OOM", "Its memory is full.")

            record = await backend.load(key)
            assert record is not None
            self.assertEqual(record.data, b"one")

    async def test_a_key_of_another_kind_is_named(self) -> None:
        """Behaviour 66: somebody else uses the prefix."""
        backend, key = self.open(), secrets.token_bytes(32)
        self.server.ask("RPUSH", f"session:{key.hex()}", "one")

        with self.assertRaisesRegex(BackendError, "WRONGTYPE .*Choose another with"):
            await backend.load(key)
        with self.assertRaisesRegex(BackendError, "WRONGTYPE .*Choose another with"):
            await backend.replace(key, Record(b"two"), 1)

    async def test_an_unknown_command_is_named_without_its_key(self) -> None:
        """Behaviour 8: the server repeats the command with its arguments."""
        with type(self.server)("--rename-command", "GET", "") as server:
            backend, key = self.open(server.url), secrets.token_bytes(32)
            with self.assertRaisesRegex(
                BackendError, "unknown command 'GET'"
            ) as caught:
                await backend.load(key)

        error: BaseException | None = caught.exception
        while error is not None:
            self.assertNotIn(key.hex()[:8], f"{error} {error!r}")
            error = error.__cause__ or error.__context__

    async def test_the_permissions_of_the_readme_are_enough(self) -> None:
        """They are all that it needs, to list the sessions of a user as well."""
        (rule,) = [
            " ".join(block.split())
            for block in README.read_text().split("\n\n")
            if "ACL SETUSER" in block
        ]
        self.server.ask("SCRIPT", "FLUSH")
        self.server.ask(*rule.replace("password", "pw").split())
        url = f"redis://shop:pw@127.0.0.1:{self.server.port}/1"
        with self.assertNoLogs("tornado_sessions"):
            backend = self.open(url)
            key, user = secrets.token_bytes(32), secrets.token_hex(8)
            expires = time.time() + 100
            for name in (user, None):
                version = await backend.insert(key, Record(b"", None, expires, user))
                record = Record(b"", None, 0, name)
                await backend.replace(key, record, version)
                self.assertIsNotNone(await backend.load(key))
                [_ async for _ in backend.find(user)]
                self.server.ask("ZADD", f"session:user:{user}", 10**15, "ab" * 32)
                [_ async for _ in backend.find(user)]
                await backend.delete(key)
                await backend.ping()

    async def test_the_permissions_of_the_readme_are_enough_for_all_users(self) -> None:
        """Others than those of requests, and the message says that one is missing."""
        *others, listing = ["+@all", "-scan", "-info", "+scan +info"]
        self.assertIn(f"`{listing}`", README.read_text())
        user = ("ACL", "SETUSER", "lister", "on", ">pw", "~session:*")
        url = f"redis://lister:pw@127.0.0.1:{self.server.port}/1"
        self.server.ask(*user, *others)
        backend, key = self.open(url), secrets.token_bytes(32)
        await backend.insert(key, Record(b"", user="ann"))

        with self.assertRaisesRegex(BackendError, "NOPERM .*lacks a permission"):
            [_ async for _ in backend.find_all()]

        self.server.ask(*user, *listing.split())
        self.assertEqual([found async for found, _ in backend.find_all()], [key])

    # Warnings.

    async def test_a_server_that_evicts_is_warned_of_once(self) -> None:
        """Its policy, and what to set it to."""
        policy = {"maxmemory_policy": "volatile-lru", "maxmemory": "100mb"}
        with self._config(**policy):
            warnings = await self._warnings()

        (warning,) = warnings
        self.assertIn("maxmemory-policy is 'volatile-lru'. Set it to", warning)

    async def test_a_policy_without_a_limit_is_no_danger(self) -> None:
        """Without maxmemory no server evicts anything."""
        with self._config(maxmemory_policy="allkeys-lru"):
            self.assertEqual(await self._warnings(), [])

    async def test_a_server_that_stores_nothing_is_warned_of_once(self) -> None:
        """What to write into its configuration."""
        with self._config(appendonly="no"):
            (warning,) = await self._warnings()

        self.assertIn("stores nothing on disk. Set 'appendonly yes'", warning)

    async def _warnings(self) -> list[str]:
        backend = self.open()
        with self.assertLogs("tornado_sessions", logging.WARNING) as logs:
            logging.getLogger("tornado_sessions").warning("This one is always there.")
            await backend.ping()
            await backend.close()
            await backend.ping()
        return [record.getMessage() for record in logs.records[1:]]

    # Helpers.

    @contextlib.contextmanager
    def _config(self, **values: str) -> Iterator[None]:
        before = {}
        for name, value in values.items():
            option = name.replace("_", "-")
            reply = self.server.ask("CONFIG", "GET", option)
            assert isinstance(reply, list)
            before[option] = _text(reply[1])
            self.server.ask("CONFIG", "SET", option, value)
        try:
            yield
        finally:
            for option, value in before.items():
                self.server.ask("CONFIG", "SET", option, value)

    async def _assert_fails(self, url: str, code: str, advice: str) -> None:
        """Asserts that a write fails, and that its error says no secret."""
        backend, key = self.open(url), secrets.token_bytes(32)
        for user in (None, "ann"):
            with self.assertRaisesRegex(BackendError, f"{code} .*{advice}") as caught:
                await backend.insert(key, Record(b"hunter2", user=user))
            error: BaseException | None = caught.exception
            while error is not None:
                text = f"{error} {error!r}"
                for secret in (
                    key.hex(),
                    "hunter2",
                    "wr0ng",
                    str(self.server.password),
                ):
                    self.assertNotIn(secret, text)
                error = error.__cause__ or error.__context__


@needs_redis
class RedisServerTest(ServerFacts, unittest.IsolatedAsyncioTestCase):
    kind = Redis


@needs_valkey
class ValkeyServerTest(ServerFacts, unittest.IsolatedAsyncioTestCase):
    kind = Valkey


@needs_redis
class TransportTest(unittest.IsolatedAsyncioTestCase):
    """Other ways to a server than plain TCP."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.folder = Path(directory.name)

    async def test_a_server_is_reached_through_its_socket(self) -> None:
        """With the password, and the number of the database as an option."""
        path = self.folder / "redis.sock"
        with Redis("--unixsocket", str(path)) as server:
            url = f"redis+unix://:{server.password}@{quote(str(path))}?db=2&timeout=30"
            await self._use(RedisBackend.from_url(url, {}))

            self.assertIn("db2:keys=1", _text(server.ask("INFO", "keyspace")))

    async def test_a_connection_is_encrypted(self) -> None:
        """The certificate of the server is checked."""
        port, files = free_port(), self._certify()
        options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
        options += ["--tls-cert-file", files["cert"], "--tls-key-file", files["key"]]
        with Redis(*options, "--tls-ca-cert-file", files["cert"]) as server:
            url = f"rediss://:{server.password}@127.0.0.1:{port}"
            await self._use(self._open(url, ssl_ca_certs=files["cert"]))
            await self._use(self._open(url, ssl_cert_reqs="none"))
            with self.assertRaisesRegex(BackendError, "CERTIFICATE_VERIFY_FAILED"):
                await self._use(self._open(url))

    def _open(self, url: str, **options: Any) -> RedisBackend:
        return RedisBackend(url, timeout=30.0, **options)

    async def _use(self, backend: RedisBackend) -> None:
        self.addAsyncCleanup(backend.close)
        key = secrets.token_bytes(32)
        await backend.insert(key, Record(b"one"))
        record = await backend.load(key)
        assert record is not None
        self.assertEqual(record.data, b"one")

    def _certify(self) -> dict[str, str]:
        """Makes a key, and a certificate of 127.0.0.1 that it has signed itself."""
        files = {name: str(self.folder / name) for name in ("cert", "key")}
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]
        command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=redis"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", files["key"], "-out", files["cert"]]
        subprocess.run(command, check=True, capture_output=True)
        return files


def _text(reply: object) -> str:
    assert isinstance(reply, bytes)
    return reply.decode()

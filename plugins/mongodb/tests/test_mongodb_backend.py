"""What the MongoDB backend does beyond the contract of all backends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import io
import logging
import os
import random
import re
import secrets
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
import warnings
from collections.abc import Awaitable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import pymongo
import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from tornado.testing import AsyncHTTPTestCase
from tornado_sessions_mongodb import MongoDBBackend
from tornado_sessions_mongodb.connection import Connection
from tornado_sessions_mongodb.indexes import Indexes

from servers import MongoDB, MongoReplicaSet
from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Backend, Record
from tornado_sessions.testing import BackendContract, HandlerContract, OutageContract
from tornado_sessions.testing.timers import LoopClock

SERVER = os.environ.get("SESSIONS_TEST_MONGODB_URL", "")
# Test runs may share a server.
DATABASE = f"tornado_sessions_test_{os.getpid()}"
NAME = f"{DATABASE}.sessions"

needs_server = unittest.skipUnless(SERVER, "SESSIONS_TEST_MONGODB_URL is not set")

_STAY = "expired sessions stay"
_SLOW = "the sessions of a user are found slowly, or a user may have only one"

if TYPE_CHECKING:
    _Case = unittest.IsolatedAsyncioTestCase
else:
    _Case = object

# PyMongo's asynchronous client leaves a socket behind where a connection fails. When
# the garbage collector finds it, another test may run.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed (<socket|transport):ResourceWarning"
)


class ContractFacts(BackendContract):
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(_collect_sockets)


def tearDownModule() -> None:
    if SERVER:
        with pymongo.MongoClient[dict[str, Any]](SERVER) as client:
            client.drop_database(DATABASE)


@needs_server
class MotorContractTest(ContractFacts, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends, on motor."""

    def make_backend(self) -> Backend:
        return _backend("motor")


@needs_server
class PyMongoContractTest(ContractFacts, unittest.IsolatedAsyncioTestCase):
    """The contract of all backends, on PyMongo's own asynchronous client."""

    def make_backend(self) -> Backend:
        return _backend("pymongo")


@needs_server
class MotorHandlerTest(HandlerContract, AsyncHTTPTestCase):
    """The contract over HTTP, on motor."""

    def make_session_backend(self) -> Backend:
        return _backend("motor")


@needs_server
class PyMongoHandlerTest(HandlerContract, AsyncHTTPTestCase):
    """The contract over HTTP, on PyMongo's own asynchronous client."""

    def make_session_backend(self) -> Backend:
        return _backend("pymongo")


class OutageFacts(OutageContract):
    """The contract of all backends whose store fails."""

    driver: str

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(_collect_sockets)

    def make_server(self) -> MongoDB:
        return MongoDB()

    def make_backend(self, port: int, timeout: float) -> Backend:
        url = f"mongodb://127.0.0.1:{port}"
        return _backend(self.driver, url, timeout=timeout)


@needs_server
class MotorOutageTest(OutageFacts, unittest.IsolatedAsyncioTestCase):
    driver = "motor"


@needs_server
class PyMongoOutageTest(OutageFacts, unittest.IsolatedAsyncioTestCase):
    driver = "pymongo"


class DriverFacts(_Case):
    """What goes for either driver."""

    driver: str

    def open(self, url: str = SERVER, **options: object) -> MongoDBBackend:
        backend = _backend(self.driver, url, **options)
        self.addAsyncCleanup(backend.close)
        return backend

    def make_client(self, url: str = SERVER) -> Any:  # noqa: ANN401
        """Answers a client as an application would make it for itself."""
        if self.driver == "motor":
            client: Any = AsyncIOMotorClient(url)
            self.addCleanup(client.close)
        else:
            client = pymongo.AsyncMongoClient(url)
            self.addAsyncCleanup(client.close)
        return client

    # What is stored.

    async def test_a_record_is_one_document(self) -> None:
        """The README says how it looks, so that others can read it."""
        backend, key = self.open(), secrets.token_bytes(32)

        await backend.insert(key, Record(b"data", expires=4e9, user="ann"))

        with _documents() as documents:
            document = documents.find_one({"_id": key})
            raw = documents.find_one({"_id": key, "data": {"$type": "binData"}})
        self.assertIsNotNone(raw)
        assert document is not None
        self.assertEqual(document["_id"], key)
        self.assertEqual(document["data"], b"data")
        self.assertEqual(document["user"], "ann")
        self.assertEqual(document["expires"].timestamp(), 4e9 + time.timezone)
        self.assertLess(document["version"], 2**62)
        self.assertEqual(len(document), 5)

    async def test_a_record_without_expiry_and_user_has_no_such_fields(self) -> None:
        """MongoDB keeps what has no date, and neither index holds it."""
        backend, key = self.open(), secrets.token_bytes(32)
        await backend.insert(key, Record(b"data", expires=4e9, user="ann"))
        record = await backend.load(key)
        assert record is not None

        await backend.replace(key, Record(b"data"), record.version)

        with _documents() as documents:
            document = documents.find_one({"_id": key})
        self.assertEqual(set(document or ()), {"_id", "data", "version"})

    async def test_the_first_save_creates_the_indexes(self) -> None:
        """One lets MongoDB forget what has expired, one finds a user's sessions."""
        collection = f"indexed_{self.driver}"
        backend = self.open(collection=collection)

        await backend.insert(secrets.token_bytes(32), Record(b"data"))
        # It waits for the indexes, which the save did not.
        await backend.close()

        with _documents(collection) as documents:
            indexes = documents.index_information()
        self.assertEqual(indexes["expires_1"]["expireAfterSeconds"], 0)
        self.assertEqual(indexes["user_1"]["key"], [("user", 1)])
        self.assertIs(indexes["user_1"]["sparse"], True)

    async def test_close_leaves_no_task_that_creates_indexes(self) -> None:
        """Behaviour 65: of a large collection it would go on for hours."""
        begun = asyncio.Event()

        async def create(*arguments: object) -> None:
            begun.set()
            await asyncio.Event().wait()

        backend = self.open()
        with mock.patch("tornado_sessions_mongodb.indexes.Indexes.create", create):
            await backend.insert(secrets.token_bytes(32), Record(b"data"))
            await begun.wait()
            task = await backend.run(_creation_of_indexes)
            await LoopClock().outlast(backend.close(), 10)

        self.assertTrue(task.done())

    async def test_the_indexes_of_a_dropped_collection_are_created_again(self) -> None:
        """Behaviour 65: before long, or what expires from then on would stay."""
        collection = f"dropped_{self.driver}"
        backend = self.open(collection=collection)
        with mock.patch("tornado_sessions_mongodb.indexes.INTERVAL", 0.0):
            await backend.insert(secrets.token_bytes(32), Record(b"data"))
            await (await backend.run(_creation_of_indexes))
        with _documents(collection) as documents:
            documents.drop()

        await backend.insert(secrets.token_bytes(32), Record(b"data"))
        await backend.close()

        with _documents(collection) as documents:
            self.assertIn("expires_1", documents.index_information())

    # What somebody else has in our place.

    async def test_an_index_in_the_place_of_ours_is_told_once(self) -> None:
        """Behaviour 88: it is named, with what to do, and the other one is made."""
        for number, (field, key, options, name, consequence) in enumerate(
            (
                ("expires", "expires", {}, "expires_1", _STAY),
                ("expires", "expires", {"expireAfterSeconds": 60}, "expires_1", _STAY),
                ("expires", "expires", {"name": "expires"}, "expires", _STAY),
                ("expires", "other", {"name": "expires_1"}, "expires_1", _STAY),
                ("user", "user", {"unique": True, "sparse": True}, "user_1", _SLOW),
            )
        ):
            with self.subTest(field=field, key=key, options=options):
                collection = f"taken_{self.driver}_{number}"
                with _documents(collection) as documents:
                    documents.create_index(key, **cast("dict[str, Any]", options))
                backend = self.open(collection=collection)

                with (
                    self.assertLogs("tornado_sessions", logging.WARNING) as log,
                    mock.patch("tornado_sessions_mongodb.indexes.INTERVAL", -1.0),
                ):
                    for _ in range(2):
                        await backend.insert(secrets.token_bytes(32), Record(b"data"))
                        await backend.close()

                [record] = log.records
                self.assertEqual(
                    record.getMessage(),
                    f"The MongoDB collection '{DATABASE}.{collection}' has an index"
                    f" '{name}' with another key or other options than ours on"
                    f" '{field}'. Until it is dropped, {consequence}. Drop it with"
                    f" db.getCollection('{collection}').dropIndex('{name}'), or name"
                    " another collection with the option 'collection'.",
                )
                with _documents(collection) as documents:
                    self.assertIn(
                        "user_1" if field == "expires" else "expires_1",
                        documents.index_information(),
                    )
                    # What the message says to do.
                    documents.drop_index(name)
                await backend.insert(secrets.token_bytes(32), Record(b"data"))
                await backend.close()
                with _documents(collection) as documents:
                    indexes = documents.index_information()
                self.assertEqual(indexes["expires_1"].get("expireAfterSeconds"), 0)
                self.assertNotIn("unique", indexes["user_1"])

    async def test_an_index_that_does_the_same_is_not_told(self) -> None:
        """Behaviour 88: whatever it is called, and though it is not sparse."""
        collection = f"equivalent_{self.driver}"
        with _documents(collection) as documents:
            documents.create_index("expires", name="ttl", expireAfterSeconds=0)
            documents.create_index("user", name="by_user")
        backend = self.open(collection=collection)

        with self.assertNoLogs("tornado_sessions", logging.WARNING):
            await backend.insert(secrets.token_bytes(32), Record(b"data"))
            await backend.close()

    async def test_a_unique_index_that_is_not_ours_is_named(self) -> None:
        """Behaviour 88: it is no conflict of keys, and no value comes with it."""
        collection = f"unique_{self.driver}"
        with _documents(collection) as documents:
            documents.create_index("user", name="one each", unique=True, sparse=True)
        backend = self.open(collection=collection)
        key, other = secrets.token_bytes(32), secrets.token_bytes(32)
        await backend.insert(key, Record(b"data", expires=0, user="hunter2"))
        await backend.insert(other, Record(b"data"))
        stored = await backend.load(other)
        assert stored is not None

        for refused in (
            backend.insert(
                secrets.token_bytes(32), Record(b"data", expires=0, user="hunter2")
            ),
            backend.replace(
                other, Record(b"data", expires=0, user="hunter2"), stored.version
            ),
        ):
            with self.assertRaises(BackendError) as failed:
                await refused
            self.assertEqual(
                str(failed.exception),
                f"MongoDB '{DATABASE}.{collection}' failed: The unique index 'one each'"
                " refuses the session. It is not ours: drop it, or name another"
                " collection with the option 'collection'.",
            )
            self.assertNotIn("hunter2", _traceback(failed.exception))
        self.assertIsNone(
            await backend.insert(key, Record(b"data", expires=0, user="ann"))
        )
        await backend.close()

    async def test_a_clustered_collection_has_conflicts_as_any_other(self) -> None:
        """The server names no index there, as the key has none of its own."""
        collection = f"clustered_{self.driver}"
        with _documents(collection) as documents:
            documents.database.create_collection(
                collection, clusteredIndex={"key": {"_id": 1}, "unique": True}
            )
        backend = self.open(collection=collection)
        await backend.insert(bytes(32), Record(b"data"))

        self.assertIsNone(await backend.insert(bytes(32), Record(b"data")))

    async def test_what_is_no_ordinary_collection_is_told(self) -> None:
        """Behaviour 88: a view, a capped and a time-series collection."""
        for kind, options in {
            "view": {"viewOn": "others", "pipeline": []},
            "capped collection": {"capped": True, "size": 100_000},
            "time-series collection": {"timeseries": {"timeField": "expires"}},
        }.items():
            with self.subTest(kind=kind):
                collection = f"{kind.split()[0]}_{self.driver}"
                with _documents(collection) as documents:
                    documents.database.create_collection(
                        collection, **cast("dict[str, Any]", options)
                    )
                backend = self.open(collection=collection)

                with self.assertLogs("tornado_sessions", logging.WARNING) as log:
                    with contextlib.suppress(BackendError):
                        await backend.insert(bytes(32), Record(b"data", expires=4e9))
                    await backend.close()

                [record] = log.records
                self.assertEqual(
                    record.getMessage(),
                    f"The MongoDB collection '{DATABASE}.{collection}' is a {kind},"
                    " which cannot keep sessions. Name another with the option"
                    " 'collection'.",
                )
                if kind != "capped collection":
                    with self.assertRaisesRegex(
                        BackendError, kind + ".*with the option 'collection'"
                    ):
                        await backend.delete(bytes(32))
                    await backend.close()

    async def test_a_replica_set_of_another_name_is_told(self) -> None:
        """Behaviour 88: the server answers, so nobody need look at the network."""
        for options in ("", "&directConnection=true"):
            with self.subTest(options=options):
                backend = self.open(f"{SERVER}/?replicaSet=wrong{options}", timeout=1)

                await _assert_told(
                    self,
                    backend,
                    f"\\AMongoDB '{NAME}' failed: No server of the URL is in a replica"
                    " set named 'wrong', though they answered. Check the option"
                    r" replicaSet of the URL\.",
                )

    async def test_close_waits_until_a_dropped_client_is_closed(self) -> None:
        """One that can use no server is replaced, and leaves no task behind."""
        before = asyncio.all_tasks()
        backend = self.open(f"{SERVER}/?replicaSet=wrong", timeout=1)
        with self.assertRaises(BackendError):
            await backend.load(bytes(32))

        await backend.close()

        self.assertEqual(asyncio.all_tasks(), before)

    async def test_purging_is_left_to_mongodb(self) -> None:
        """Behaviour 65: there is nothing to do, so nothing is asked of the server."""
        backend = self.open("mongodb://127.0.0.1:1")

        self.assertEqual(await backend.purge(time.time()), 0)

    # Secrets.

    async def test_the_drivers_log_shows_neither_keys_nor_data(self) -> None:
        """Behaviour 8: nor the password, with everything logged at DEBUG."""
        backend = self.open()
        key, other = secrets.token_bytes(32), secrets.token_bytes(32)
        user = secrets.token_hex(16)

        with _debug_log() as log:
            await _use_all_of(backend, key, b"hunter2", user)
            for secret in (key, b"hunter2", user.encode()):
                _assert_absent(self, secret, log.getvalue())
            await self.make_client()[DATABASE]["others"].insert_one({"_id": other})

        lines = log.getvalue().splitlines()
        ours = [line for line in lines if '"commandName": "find"' in line]
        self.assertIn('"command": "left out"', ours[0])
        self.assertIn('"reply": "left out"', ours[1])
        # What is not ours is logged as it was.
        self.assertIn(base64.b64encode(other).decode(), log.getvalue())

    async def test_a_logged_line_that_is_no_json_is_dropped(self) -> None:
        """Behaviour 8: whatever a driver to come logs of our operations."""
        backend = self.open()
        await backend.load(bytes(32))

        with (
            _debug_log() as log,
            mock.patch("pymongo.logger.LogMessage.__str__", return_value="hunter2"),
        ):
            await backend.load(bytes(32))

        self.assertNotIn("pymongo.command", log.getvalue())
        self.assertIn("pymongo.connection", log.getvalue())

    async def test_no_error_shows_the_password(self) -> None:
        """Behaviour 8: neither one of the server nor one of the network."""
        self.addCleanup(_collect_sockets)
        for server in (SERVER, "mongodb://127.0.0.1:1"):
            url = server.replace("://", "://me:hunter2@")
            backend = self.open(url, timeout=0.5)
            shown = repr(backend) + str(vars(backend).get("address"))

            with self.assertRaises(BackendError) as failed:
                await backend.load(bytes(32))

            self.assertNotIn("hunter2", shown + _traceback(failed.exception))

    # Clients, loops, processes.

    async def test_a_client_that_was_handed_in_stays_open(self) -> None:
        """It closes only what it opened."""
        client = self.make_client()
        backend = MongoDBBackend(client=client, database=DATABASE)
        key = secrets.token_bytes(32)
        await backend.insert(key, Record(b"data"))

        await backend.close()

        found = await client[DATABASE]["sessions"].find_one({"_id": key})
        self.assertEqual(found["data"], b"data")
        self.assertIsNotNone(await backend.load(key))
        await backend.close()

    async def test_a_client_that_was_handed_in_is_used_safely(self) -> None:
        """Whatever the rest of the application makes do with."""
        options = "?w=1&journal=false&readPreference=secondaryPreferred"
        client = self.make_client(f"{SERVER}/{options}")
        backend = MongoDBBackend(client=client, database=DATABASE)
        collection = (await backend.connect()).collection

        concern = {"w": "majority", "j": True}
        self.assertEqual(collection.write_concern.document, concern)
        self.assertEqual(collection.read_preference, pymongo.ReadPreference.PRIMARY)
        await backend.close()

    async def test_a_client_of_its_own_waits_for_a_majority(self) -> None:
        """Unless the URL says otherwise, which goes for the driver's limits too."""
        for options, concern in (
            ("", {"w": "majority", "j": True}),
            ("&w=1&journal=false", {"w": 1, "j": False}),
        ):
            url = f"{SERVER}/?serverSelectionTimeoutMS=345{options}"
            backend = self.open(url)
            connection = await backend.connect()
            self.addAsyncCleanup(backend.disconnect, connection)
            collection = connection.collection
            limit = connection.client.options.server_selection_timeout

            self.assertEqual(collection.write_concern.document, concern)
            self.assertEqual(collection.read_preference, pymongo.ReadPreference.PRIMARY)
            self.assertEqual(limit, 0.345)

    # Cancellation.

    async def test_a_thousand_cancellations_mix_up_no_answers(self) -> None:
        """Behaviour 68: each key is answered with its own record, then and later."""
        # Few connections, so that those who are cancelled wait for one, or for an
        # answer, and others get the connection after them.
        backend = self.open(maxPoolSize=5, timeout=60)
        keys = [secrets.token_bytes(32) for _ in range(60)]
        await asyncio.gather(*(backend.insert(key, Record(key)) for key in keys))
        chance = random.Random(68)

        cancelled = 0
        while cancelled < 1000:
            loads = [asyncio.ensure_future(backend.load(key)) for key in keys]
            await asyncio.wait(loads, timeout=chance.uniform(0, 0.03))
            cancelled += sum(load.cancel() for load in chance.sample(loads, 45))
            records = await asyncio.gather(*loads, return_exceptions=True)
            for key, record in zip(keys, records, strict=True):
                if not isinstance(record, asyncio.CancelledError):
                    assert isinstance(record, Record)
                    self.assertEqual(record.data, key)
        for key in keys:
            record = await backend.load(key)
            assert record is not None
            self.assertEqual(record.data, key)


@needs_server
class MotorTest(DriverFacts, unittest.IsolatedAsyncioTestCase):
    driver = "motor"


@needs_server
class PyMongoTest(DriverFacts, unittest.IsolatedAsyncioTestCase):
    driver = "pymongo"

    def test_a_loop_may_end_before_what_a_cancelled_request_began(self) -> None:
        """Behaviour 34: it is cancelled then, and nobody is told."""
        self.addCleanup(_collect_sockets)
        backend = _backend("pymongo", "mongodb://127.0.0.1:1", timeout=60)

        async def cancel_a_load() -> None:
            load = asyncio.ensure_future(backend.load(bytes(32)))
            await asyncio.wait([load], timeout=0.05)
            load.cancel()
            await asyncio.wait([load])

        with self.assertNoLogs(level=logging.WARNING):
            asyncio.run(cancel_a_load())


class CancellationTest(unittest.IsolatedAsyncioTestCase):
    async def test_an_error_that_comes_with_a_cancellation_is_not_told(self) -> None:
        """Behaviour 34: nor what the server says in it, which may be all it was sent."""
        backend = _backend("pymongo", "mongodb://127.0.0.1:1")
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: told.append(context)
        )

        async def fail() -> None:
            waiting.cancel()
            raise pymongo.errors.OperationFailure("all it was sent")

        async def call(connection: Connection) -> None:
            await connection.call(fail)

        waiting = asyncio.ensure_future(backend.run(call))
        with self.assertRaises(asyncio.CancelledError):
            await waiting
        gc.collect()

        self.assertEqual(told, [])


class FaultFacts(_Case):
    """Behaviour 66, with a server that is killed, hangs, and comes back."""

    driver: str

    async def asyncSetUp(self) -> None:
        self.server = MongoDB()
        self.addCleanup(self.server.stop)
        self.addCleanup(_collect_sockets)
        # By itself the driver would look at the server again after two minutes.
        options = {"timeout": 1, "heartbeatFrequencyMS": 120_000}
        url = _url(self.driver, self.server.url, **options)
        self.backend = MongoDBBackend.from_url(url, {})
        self.addAsyncCleanup(self.backend.close)
        self.key = secrets.token_bytes(32)

    async def test_a_server_that_hangs_and_goes_on(self) -> None:
        """Behaviour 66: more requests than motor has threads fail in time, too."""
        await self._start_and_store()

        self.server.pause()
        try:
            await self._assert_down(at_once=60)
            # Nor does anything go on behind them.
            if abandoned := await self.backend.run(_abandoned):
                _, pending = await asyncio.wait(abandoned, timeout=30)
                self.assertEqual(pending, set())
        finally:
            self.server.resume()

        await self._assert_good_again()

    async def test_indexes_may_take_longer_than_an_operation(self) -> None:
        """A collection may be large; they are not begun again with each save."""
        await self._start_and_store()
        backend = _backend(self.driver, self.server.url, timeout=0.5)
        await _until_good(backend)
        indexes = await backend.run(_indexes)

        self.server.pause()
        indexing = asyncio.ensure_future(indexes.create())
        await asyncio.wait([indexing], timeout=2)
        self.server.resume()
        await asyncio.wait_for(indexing, 30)

        self.assertGreater(indexes.due, time.monotonic())
        await backend.close()

    async def test_closing_does_not_wait_for_a_server_that_hangs(self) -> None:
        """Behaviour 66: not the loop either."""
        await self._start_and_store()
        backend = _backend(self.driver, self.server.url, timeout=3)
        await _until_good(backend)

        self.server.pause()
        try:
            closing = asyncio.ensure_future(backend.close())
            ticks = 0
            while not closing.done():
                await asyncio.sleep(0.01)
                ticks += 1
            await closing
            # It waits for one and a half seconds, elsewhere.
            self.assertGreater(ticks, 5)
        finally:
            self.server.resume()

    async def test_a_server_that_joins_the_replica_set_later_is_used(self) -> None:
        """Behaviour 66: the driver has forgotten it until then, for good."""
        for hosts in ("", "127.0.0.1:1,"):
            with self.subTest(hosts=hosts), warnings.catch_warnings():
                # PyMongo forgets a socket when it is closed while it connects.
                warnings.simplefilter("ignore", ResourceWarning)
                await asyncio.to_thread(self.server.start)
                url = f"mongodb://{hosts}127.0.0.1:{self.server.port}"
                backend = _backend(
                    self.driver, f"{url}/?replicaSet=sessions", timeout=1
                )
                with self.assertRaises(BackendError):
                    await backend.load(self.key)
                self.server.kill()

                await self._assert_joins(backend)

                await backend.close()
                _collect_sockets()

    async def _assert_joins(self, backend: MongoDBBackend) -> None:
        member = MongoDB("--replSet", "sessions")
        member.port = self.server.port
        try:
            await asyncio.to_thread(member.start)
            told = r"option 'timeout'\. No server that answers is the primary"
            await _assert_told(self, backend, told)
            await asyncio.to_thread(_initiate, member)
            await asyncio.wait_for(_until_good(backend), 60)
        finally:
            await asyncio.to_thread(member.stop)

    async def _assert_down(self, at_once: int = 1) -> None:
        operations = [self.backend.load(self.key) for _ in range(at_once)]
        work = asyncio.gather(
            *operations,
            self.backend.insert(secrets.token_bytes(32), Record(b"data")),
            self.backend.delete(secrets.token_bytes(32)),
            self.backend.ping(),
            anext(self.backend.find("ann"), None),
            return_exceptions=True,
        )
        for outcome in await asyncio.wait_for(work, 30):
            self.assertIsInstance(outcome, BackendError)
            self.assertRegex(
                str(outcome),
                f"\\AMongoDB '{NAME}' did not answer within 1 seconds. Check"
                f"|\\AMongoDB '{NAME}' failed: [A-Za-z]+. The next request connects",
            )
            assert isinstance(outcome, BackendError)
            self.assertIsNotNone(outcome.__cause__)

    async def test_an_error_says_what_the_driver_knows_of_each_server(self) -> None:
        """Why none of them can be used, whoever sees first that time is up."""
        backend = _backend(self.driver, "mongodb://127.0.0.1:1,127.0.0.1:2", timeout=1)

        await _assert_told(
            self,
            backend,
            r"option 'timeout'\. The driver says: 127\.0\.0\.1:1: [^:]*111[^:]*\."
            r" The driver says: 127\.0\.0\.1:2: [^:]*111[^:]*\.\Z",
        )

        await backend.close()

    async def test_hosts_that_a_name_server_does_not_know(self) -> None:
        """It is asked at the first request, and the error is the store's."""
        backend = _backend(self.driver, "mongodb+srv://db.nowhere.invalid", timeout=2)

        with self.assertRaises(BackendError) as failed:
            await backend.load(bytes(32))

        # Where there is no name server at all, it does not answer in time.
        self.assertRegex(
            str(failed.exception),
            f"\\AMongoDB '{NAME}' (failed: The hosts cannot be found: [^\n]+"
            "|did not answer within 2 seconds.+)\\Z",
        )
        await backend.close()

    async def _assert_good_again(self) -> None:
        await asyncio.wait_for(_until_good(self.backend), 60)

    async def _start_and_store(self) -> None:
        await asyncio.to_thread(self.server.start)
        unhurried = _backend(self.driver, self.server.url)
        await unhurried.insert(self.key, Record(b"before"))
        await unhurried.close()
        await _until_good(self.backend)


@needs_server
class MotorFaultTest(FaultFacts, unittest.IsolatedAsyncioTestCase):
    driver = "motor"

    async def test_it_fails_in_time_while_others_take_all_threads(self) -> None:
        """Behaviour 66: every motor client of a process shares one set of threads."""
        await asyncio.to_thread(self.server.start)
        hanging: Any = AsyncIOMotorClient(self.server.url)
        self.addCleanup(hanging.close)
        await hanging.admin.command("ping")

        self.server.pause()
        try:
            pings = [hanging.admin.command("ping") for _ in range(200)]
            backend = _backend("motor", timeout=0.5)
            with self.assertRaisesRegex(BackendError, "MongoDB .* did not answer"):
                await asyncio.wait_for(backend.load(self.key), 30)
        finally:
            self.server.resume()
        await asyncio.gather(*pings)
        await _until_good(backend)
        await backend.close()


@needs_server
class PyMongoFaultTest(FaultFacts, unittest.IsolatedAsyncioTestCase):
    driver = "pymongo"

    async def test_nothing_goes_on_for_long_behind_a_load(self) -> None:
        """Behaviour 66: whatever a URL says, and though there is one connection."""
        await self._start_and_store()
        for option in ("socketTimeoutMS=60000", "maxPoolSize=1"):
            backend = _backend(self.driver, f"{self.server.url}/?{option}", timeout=1)
            await _until_good(backend)

            self.server.pause()
            try:
                loads = [backend.load(self.key) for _ in range(20)]
                for outcome in await asyncio.gather(*loads, return_exceptions=True):
                    self.assertIsInstance(outcome, BackendError)
                if abandoned := await backend.run(_abandoned):
                    _, pending = await asyncio.wait(abandoned, timeout=10)
                    self.assertEqual(pending, set(), option)
            finally:
                self.server.resume()
            await backend.close()


@needs_server
class RightsTest(unittest.IsolatedAsyncioTestCase):
    """What becomes of a user that may not do everything."""

    async def asyncSetUp(self) -> None:
        self.server = MongoDB("--auth")
        self.addCleanup(self.server.stop)
        await asyncio.to_thread(self.server.start)
        await asyncio.to_thread(self._create_users)

    async def test_without_the_right_to_create_indexes_it_works(self) -> None:
        """The one who is to create them is told once, and no request fails."""
        for driver in ("motor", "pymongo"):
            backend = self.open(driver, "writer")
            with self.assertLogs("tornado_sessions", logging.WARNING) as log:
                for _ in range(3):
                    key = secrets.token_bytes(32)
                    await backend.insert(key, Record(b"data"))
                    self.assertIsNotNone(await backend.load(key))
                await backend.close()
            [line] = log.output
            self.assertEqual(
                line,
                f"WARNING:tornado_sessions:The indexes of the MongoDB collection {NAME!r}"
                " cannot be created: Unauthorized (code 13). Until somebody who may"
                " creates them, expired sessions stay and the sessions of a user are"
                " found slowly.",
            )

    async def test_a_refusal_shows_neither_keys_nor_data(self) -> None:
        """Behaviour 8: the server repeats the whole command when it refuses it."""
        for driver in ("motor", "pymongo"):
            backend, key = self.open(driver, "nobody"), secrets.token_bytes(32)
            for work in (
                backend.insert(key, Record(b"hunter2")),
                backend.replace(key, Record(b"hunter2"), 1),
                backend.load(key),
                backend.delete(key),
            ):
                with self.assertRaises(BackendError) as refused:
                    await work
                self.assertEqual(
                    str(refused.exception),
                    f"MongoDB '{NAME}' failed: Unauthorized (code 13). Grant"
                    " the user of the URL the role readWrite on the database.",
                )
                shown = _traceback(refused.exception)
                _assert_absent(self, key, shown)
                _assert_absent(self, b"hunter2", shown)
            await backend.close()

    async def test_a_wrong_password_is_said_to_be_one(self) -> None:
        """The message names what to check, and not the password."""
        for driver in ("motor", "pymongo"):
            backend = self.open(driver, "writer", "hunter2")
            with self.assertRaises(BackendError) as refused:
                await backend.load(bytes(32))
            self.assertEqual(
                str(refused.exception),
                f"MongoDB '{NAME}' failed: AuthenticationFailed (code 18). Check"
                " the user, the password and the option authSource of the URL.",
            )
            self.assertNotIn("hunter2", _traceback(refused.exception))
            await backend.close()

    def open(self, driver: str, user: str, password: str = "secret") -> MongoDBBackend:
        url = self.server.url.replace("://", f"://{user}:{password}@")
        return _backend(driver, url, authSource="admin")

    def _create_users(self) -> None:
        actions = ["find", "insert", "update", "remove"]
        actions += ["listCollections", "listIndexes"]
        resource = {"db": DATABASE, "collection": ""}
        with pymongo.MongoClient[dict[str, Any]](self.server.url) as client:
            client.admin.command(
                "createUser",
                "root",
                pwd="secret",
                roles=["root"],
            )
        url = self.server.url.replace("://", "://root:secret@")
        with pymongo.MongoClient[dict[str, Any]](url) as client:
            client.admin.command(
                "createRole",
                "writer",
                privileges=[{"resource": resource, "actions": actions}],
                roles=[],
            )
            for user, roles in (("writer", ["writer"]), ("nobody", [])):
                client.admin.command("createUser", user, pwd="secret", roles=roles)


@needs_server
class TLSTest(unittest.IsolatedAsyncioTestCase):
    """A server that takes encrypted connections only."""

    async def asyncSetUp(self) -> None:
        self.addCleanup(_collect_sockets)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.certificate = Path(folder.name, "certificate.pem")
        await asyncio.to_thread(self._start_server, self.certificate)

    async def test_the_options_of_the_url_open_an_encrypted_connection(self) -> None:
        """They are the driver's own."""
        for driver in ("motor", "pymongo"):
            with self.subTest(driver=driver):
                backend = self._backend(driver, tls="true", tlsCAFile=self.certificate)
                key = secrets.token_bytes(32)

                await backend.insert(key, Record(b"data"))

                record = await backend.load(key)
                assert record is not None
                self.assertEqual(record.data, b"data")
                await backend.close()

    async def test_a_certificate_that_nobody_vouches_for_is_refused(self) -> None:
        """The error says that this is why there is no server."""
        for driver in ("motor", "pymongo"):
            with self.subTest(driver=driver):
                backend = self._backend(driver, tls="true", timeout=1)

                await _assert_told(
                    self,
                    backend,
                    "MongoDB .* did not answer.* The driver says:"
                    ".*CERTIFICATE_VERIFY_FAILED",
                )

                await backend.close()

    def _start_server(self, certificate: Path) -> None:
        """Starts a server with a key of its own and writes its certificate."""
        key = certificate.with_name("key.pem")
        command = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost"
        command += " -addext subjectAltName=IP:127.0.0.1"
        subprocess.run(
            [*command.split(), "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
        both = certificate.with_name("both.pem")
        both.write_bytes(key.read_bytes() + certificate.read_bytes())
        self.server = MongoDB(
            *["--tlsMode", "requireTLS", "--tlsCertificateKeyFile", str(both)],
            *["--tlsCAFile", str(certificate)],
            "--tlsAllowConnectionsWithoutCertificates",
        )
        self.addCleanup(self.server.stop)
        self.server.start()

    def _backend(self, driver: str, **options: object) -> MongoDBBackend:
        return _backend(driver, self.server.url, **options)


@needs_server
class ReplicaSetTest(unittest.IsolatedAsyncioTestCase):
    """Three servers, of which the primary is killed under load."""

    async def test_no_acknowledged_write_is_lost(self) -> None:
        """Behaviour 66: sessions go on when another primary has been elected."""
        self.addCleanup(_collect_sockets)
        replica_set = MongoReplicaSet(3, election_timeout=2.0)
        self.addCleanup(replica_set.stop)
        await asyncio.to_thread(replica_set.start)
        for driver in ("motor", "pymongo"):
            with self.subTest(driver=driver):
                backend = _backend(driver, replica_set.url)
                await self._kill_primary_under_load(replica_set, backend)
                await backend.close()

    async def _kill_primary_under_load(
        self, replica_set: MongoReplicaSet, backend: MongoDBBackend
    ) -> None:
        visitors = [_Visitor(backend) for _ in range(20)]
        load = [asyncio.ensure_future(visitor.count()) for visitor in visitors]
        primary = await asyncio.to_thread(replica_set.primary)
        await _all(visitor.stored.wait() for visitor in visitors)

        await asyncio.to_thread(primary.kill)
        killed = time.monotonic()
        for visitor in visitors:
            visitor.watched_since = killed
        await _all(visitor.stored_again.wait() for visitor in visitors)
        for visitor in visitors:
            visitor.goes_on = False
        await _all(load)

        for visitor in visitors:
            record = await backend.load(visitor.key)
            assert record is not None
            self.assertGreaterEqual(int(record.data), visitor.acknowledged)
            self.assertLessEqual(int(record.data), visitor.tried)
        await asyncio.to_thread(primary.start)
        first = min(visitor.first for visitor in visitors) - killed
        failed = sum(visitor.failed for visitor in visitors)
        print(
            f"{backend.driver}: the first good answer came {first:.1f} s after the"
            f" death of the primary; {failed} operations of 20 visitors failed."
        )


class _Visitor:
    """Counts in a session of its own, as fast as it can."""

    def __init__(self, backend: MongoDBBackend) -> None:
        self.backend = backend
        self.key = secrets.token_bytes(32)
        self.goes_on = True
        #: What was answered to be stored at last, and what may be stored.
        self.acknowledged = self.tried = 0
        self.failed = 0
        self.stored = asyncio.Event()
        #: When it was first told "stored" of what began since then.
        self.watched_since = self.first = float("inf")
        self.stored_again = asyncio.Event()

    async def count(self) -> None:
        await self.backend.insert(self.key, Record(b"0"))
        while self.goes_on:
            await self._count_once()

    async def _count_once(self) -> None:
        began = time.monotonic()
        try:
            record = await self.backend.load(self.key)
            assert record is not None
            self.tried = int(record.data) + 1
            data = b"%d" % self.tried
            await self.backend.replace(self.key, Record(data), record.version)
        except BackendError:
            self.failed += 1
            return
        self.acknowledged = self.tried
        self.stored.set()
        if began > self.watched_since:
            self.first = min(self.first, time.monotonic())
            self.stored_again.set()


async def _all(work: Iterable[Awaitable[object]]) -> None:
    await asyncio.wait_for(asyncio.gather(*work), 60)


async def _assert_told(case: unittest.TestCase, backend: Backend, pattern: str) -> None:
    """Asserts that the error of a load matches ``pattern``.

    It is tried again, as a server may answer too late on a busy machine.
    """
    message = ""
    for _ in range(30):
        with case.assertRaises(BackendError) as failed:
            await backend.load(bytes(32))
        message = str(failed.exception)
        if re.search(pattern, message):
            return
    case.assertRegex(message, pattern)


async def _until_good(backend: Backend) -> None:
    """Uses a backend until an operation is in time."""
    while True:
        with contextlib.suppress(BackendError):
            await backend.insert(secrets.token_bytes(32), Record(b"good"))
            return


async def _indexes(connection: Connection) -> Indexes:
    return connection.indexes


async def _creation_of_indexes(connection: Connection) -> asyncio.Task[None]:
    assert connection.indexes.task is not None
    return connection.indexes.task


async def _abandoned(connection: Connection) -> list[asyncio.Future[Any]]:
    """Returns the operations that nobody waits for any more."""
    return [*connection.abandoned]


def _url(driver: str, server: str = SERVER, **options: object) -> str:
    """Answers the URL of the tests' database, with more options."""
    address, _, query = server.partition("?")
    pairs = [query] if query else []
    # The tests are about answers; a busy machine is no reason to fail.
    options = {"driver": driver, "timeout": 20, **options}
    pairs += [f"{name}={value}" for name, value in options.items()]
    return f"{address.rstrip('/')}/{DATABASE}?{'&'.join(pairs)}"


def _backend(driver: str, server: str = SERVER, **options: object) -> MongoDBBackend:
    return MongoDBBackend.from_url(_url(driver, server, **options), {})


def _initiate(member: MongoDB) -> None:
    """Makes a server the only member of its replica set."""
    host = f"127.0.0.1:{member.port}"
    config = {"_id": "sessions", "members": [{"_id": 0, "host": host}]}
    with pymongo.MongoClient[dict[str, Any]](
        member.url, directConnection=True
    ) as client:
        client.admin.command("replSetInitiate", config)


@contextlib.contextmanager
def _documents(collection: str = "sessions") -> Iterator[Any]:
    """Answers the collection as anybody else sees it."""
    with pymongo.MongoClient[dict[str, Any]](SERVER) as client:
        yield client[DATABASE][collection]


async def _use_all_of(
    backend: MongoDBBackend, key: bytes, data: bytes, user: str
) -> None:
    """Has the driver log all that there is to log."""
    await backend.insert(key, Record(data, expires=4e9, user=user))
    assert await backend.insert(key, Record(data, expires=4e9, user=user)) is None
    record = await backend.load(key)
    assert record is not None
    await backend.replace(key, Record(data, expires=4e9, user=user), record.version)
    assert (
        await backend.replace(key, Record(data, expires=4e9, user=user), record.version)
        is None
    )
    for _ in range(150):
        await backend.insert(
            secrets.token_bytes(32), Record(data, expires=4e9, user=user)
        )
    found = [found async for found in backend.find(user)]
    assert len(found) == 151
    await backend.delete(key)
    await backend.close()


@contextlib.contextmanager
def _debug_log() -> Iterator[io.StringIO]:
    """Collects what anybody logs, at DEBUG."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def _assert_absent(case: unittest.TestCase, secret: bytes, text: str) -> None:
    """Looks for a secret in all the ways in which bytes are written."""
    for form in (
        secret.decode("latin-1"),
        repr(secret)[2:-1],
        secret.hex(),
        secret.hex().upper(),
        base64.b64encode(secret).decode(),
        base64.urlsafe_b64encode(secret).decode().rstrip("="),
    ):
        case.assertNotIn(form, text)


def _traceback(error: BaseException) -> str:
    """Answers all that a log would show of an error, whatever it hides."""
    lines = []
    seen: BaseException | None = error
    while seen is not None:
        lines.append(f"{seen!r} {seen} {getattr(seen, 'details', '')}")
        seen = seen.__cause__ or seen.__context__
    return "\n".join(lines)


def _run(script: str) -> str:
    """Runs a script in a process of its own and answers what it printed."""
    done = subprocess.run(
        # A fork beside threads is what is tested.
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout + done.stderr


def _collect_sockets() -> None:
    """Collects what PyMongo forgets when it is closed while it tries to connect.

    And the clients of event loops that have gone, which nobody can close.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


if __name__ == "__main__":
    unittest.main()

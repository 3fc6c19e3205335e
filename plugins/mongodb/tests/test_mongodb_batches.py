"""What the MongoDB backend does with loads that begin together."""

from __future__ import annotations

import asyncio
import os
import secrets
import unittest
from typing import TYPE_CHECKING, Any

import bson
import pymongo
from bson.raw_bson import RawBSONDocument
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)
from tornado_sessions_mongodb import MongoDBBackend

from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import Record

SERVER = os.environ.get("SESSIONS_TEST_MONGODB_URL", "")

DATABASE = f"tornado_sessions_batches_{os.getpid()}"

needs_server = unittest.skipUnless(SERVER, "SESSIONS_TEST_MONGODB_URL is not set")

if TYPE_CHECKING:
    _Case = unittest.IsolatedAsyncioTestCase
else:
    _Case = object


class Commands(CommandListener):
    """Notes the names of the commands that a client sends."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Notes nothing."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Notes nothing."""


class BatchFacts(_Case):
    """What goes for either driver."""

    driver: str

    async def asyncSetUp(self) -> None:
        self.commands = Commands()
        self.client: Any
        if self.driver == "motor":
            self.client = AsyncIOMotorClient(SERVER, event_listeners=[self.commands])
            self.addCleanup(self.client.close)
        else:
            self.client = pymongo.AsyncMongoClient(
                SERVER, event_listeners=[self.commands]
            )
            self.addAsyncCleanup(self.client.close)
        self.addAsyncCleanup(self.client.drop_database, DATABASE)
        self.backend = MongoDBBackend(client=self.client, database=DATABASE, timeout=20)
        self.addAsyncCleanup(self.backend.close)

    async def store(self, count: int, data: bytes) -> list[bytes]:
        """Stores records. Returns their keys. The last operation is no load."""
        keys = [secrets.token_bytes(32) for _ in range(count)]
        await asyncio.gather(*(self.backend.insert(key, Record(data)) for key in keys))
        return keys

    async def test_the_longest_records_of_a_batch_come_in_one_reply(self) -> None:
        """A hundred of 64 KiB, without a getMore."""
        data = secrets.token_bytes(65_536)
        keys = await self.store(100, data)
        self.commands.names.clear()

        loaded = await asyncio.gather(*map(self.backend.load, keys))

        self.assertEqual({record and record.data for record in loaded}, {data})
        # The indexes are created in the background.
        loads = [name for name in self.commands.names if name != "createIndexes"]
        self.assertEqual(loads, ["find"])

    async def test_a_document_that_is_not_ours_fails_alone(self) -> None:
        """Behaviour 32: the others of its batch are loaded."""
        keys = await self.store(5, b"data")
        documents = self.client[DATABASE]["sessions"]
        damaged = bson.encode({"_id": keys[2], "user": "ann"}).replace(
            b"ann", b"\xff!!"
        )
        for number, foreign in ((1, {"_id": keys[1]}), (2, RawBSONDocument(damaged))):
            await documents.delete_one({"_id": keys[number]})
            await documents.insert_one(foreign)

        loaded = await asyncio.gather(
            *map(self.backend.load, keys), return_exceptions=True
        )

        self.assertEqual(
            [isinstance(record, Record) for record in loaded],
            [True, False, False, True, True],
        )
        advice = "Remove it, or name another collection with the option 'collection'."
        for error, text in zip(
            loaded[1:3],
            (
                "The document with the key of a session is not one of this library.",
                "A document cannot be decoded.",
            ),
            strict=True,
        ):
            self.assertIsInstance(error, BackendError)
            self.assertTrue(str(error).endswith(f"failed: {text} {advice}"))


@needs_server
class MotorBatchTest(BatchFacts, unittest.IsolatedAsyncioTestCase):
    driver = "motor"


@needs_server
class PyMongoBatchTest(BatchFacts, unittest.IsolatedAsyncioTestCase):
    driver = "pymongo"


if __name__ == "__main__":
    unittest.main()

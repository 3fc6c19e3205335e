"""Keeps sessions in MongoDB."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pymongo
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.write_concern import WriteConcern

from tornado_sessions.storage.backend import Backend, Record, Version
from tornado_sessions.storage.batches import NothingAppliedError
from tornado_sessions.storage.driver import COMMON_OPTIONS, DriverBackend
from tornado_sessions.storage.versions import new_version
from tornado_sessions_mongodb.connection import Connection, collection_of
from tornado_sessions_mongodb.errors import (
    ADVICE,
    ForeignDocumentError,
    code_of,
    describe,
    unique_index,
    without_documents,
)
from tornado_sessions_mongodb.indexes import Indexes
from tornado_sessions_mongodb.logs import install_filter
from tornado_sessions_mongodb.servers import doubts, is_stuck, missing_replica_set
from tornado_sessions_mongodb.urls import (
    Target,
    driver_defaults,
    read_url,
    split_options,
)

if TYPE_CHECKING:
    Client = AsyncIOMotorClient[Any] | pymongo.AsyncMongoClient[Any]

__all__ = ["MongoDBBackend"]

# A document may have 16 MiB, with its other fields and their names.
_MOST_BYTES = 16_000_000

# A date is 64 bits of milliseconds. What expires later stays for good.
_LAST_DATE = 2**63 // 1000 - 1

# How many records `find` reads at a time.
_PAGE = 100

_is_collection_name = re.compile(r"(?!system\.)[^$\0.]+(\.[^$\0.]+)*").fullmatch
_is_database_name = re.compile(r'[^/\\. "$*<>:|?\0]{1,63}').fullmatch


class MongoDBBackend(DriverBackend[Connection]):
    """Keeps sessions in a collection of MongoDB.

    ``url`` is MongoDB's own connection string, ``mongodb://…`` or
    ``mongodb+srv://…``, with all of its options; it names the database.
    ``driver`` is ``"motor"`` or ``"pymongo"``, which is
    `pymongo.AsyncMongoClient`. Instead of a URL a ``client`` of either kind can
    be given, with the name of the ``database``. It is not closed here.

    A write is acknowledged when it is in the journals of a majority of the replica
    set.
    """

    finds_by_user = finds_all = True
    store = "MongoDB"
    errors = (PyMongoError, BSONError)
    options: ClassVar[Mapping[str, type]] = {"collection": str, "driver": str}
    advice = ADVICE
    # MongoDB removes expired records itself.
    purge = Backend.purge

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Client | None = None,
        database: str | None = None,
        collection: str = "sessions",
        driver: str = "motor",
        timeout: float | None = None,
        max_bytes: int = 65_536,
    ) -> None:
        if (url is None) == (client is None):
            raise ValueError("MongoDBBackend takes either a url or a client.")
        if isinstance(client, pymongo.MongoClient):
            raise ValueError(
                "A MongoClient would block the loop. Give MongoDBBackend a motor client"
                " or an AsyncMongoClient."
            )
        target = Target(database, frozenset(), {})
        if url is not None:
            if database is not None:
                raise ValueError("The URL names the database: mongodb://host/database.")
            target = read_url(url)
        self.database = target.database or "sessions"
        self.collection = collection
        self.driver = driver
        if timeout is None:
            timeout = target.options.get("timeoutms", 2.0)
        super().__init__(
            f"{self.database}.{collection}", timeout=timeout, max_bytes=max_bytes
        )
        self._check()
        self.url = url
        self._client = client
        self._hosts = target.hosts
        self._defaults = {} if client else driver_defaults(target.options, timeout)
        # The driver's own timeout takes a good part of the time of a load, and that
        # of its sockets costs nothing. With it the driver tries a load twice at most.
        self._limits_sockets = "socketTimeoutMS" in self._defaults
        self._warned: set[str] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> MongoDBBackend:
        """Returns the backend of ``mongodb://host/database`` or ``mongodb+srv://…``.

        Of the options after the question mark ``collection``, ``driver``,
        ``timeout`` and ``max_bytes`` are those of the constructor. All others
        are the driver's. Raises `ValueError` for what neither can use.
        """
        if url in ("mongodb", "mongodb:", "mongodb://"):
            url = "mongodb://localhost"
        url, query = split_options(url, {**cls.options, **COMMON_OPTIONS})
        return cls(url, **cls.read_options("mongodb", query))

    def _check(self) -> None:
        if not _is_database_name(self.database):
            raise ValueError(
                "MongoDB does not take the name of the database. It has at most 63"
                ' characters, and no space and none of /\\."$*<>:|? among them.'
            )
        if not _is_collection_name(self.collection):
            raise ValueError(
                "The option 'collection' must be a name that MongoDB takes for a"
                " collection."
            )
        if self.driver not in ("motor", "pymongo"):
            raise ValueError("The option 'driver' must be 'motor' or 'pymongo'.")
        # More is too much for the driver, which says so with each operation.
        if self.timeout >= 1_000_000:
            raise ValueError(
                "The option 'timeout' must be a number of seconds below a million."
            )
        if self.max_bytes > _MOST_BYTES:
            raise ValueError(f"The option 'max_bytes' must be at most {_MOST_BYTES}.")

    async def connect(self) -> Connection:
        install_filter()
        owns_client = self._client is None
        collection = collection_of(
            self._client or self._new_client(),
            self.database,
            self.collection,
            # The rest of the application may be content with less.
            {} if owns_client else {"write_concern": WriteConcern("majority", j=True)},
        )
        indexes = Indexes(collection, self._warned)
        return Connection(collection, indexes, self.timeout, owns_client=owns_client)

    def _new_client(self) -> Client:
        if self.driver == "pymongo":
            return pymongo.AsyncMongoClient(self.url, **self._defaults)
        loop = asyncio.get_running_loop()
        return AsyncIOMotorClient(self.url, io_loop=loop, **self._defaults)

    async def disconnect(self, connection: Connection) -> None:
        await connection.close()

    async def load_from(self, connection: Connection, key: bytes) -> Record | None:
        document = await connection.call(
            connection.collection.find_one,
            {"_id": key},
            is_limited=self._limits_sockets,
        )
        return None if document is None else _record(document)

    async def load_many(
        self, connection: Connection, keys: Sequence[bytes]
    ) -> Sequence[Record | None]:
        cursor = connection.collection.find({"_id": {"$in": [*keys]}})
        try:
            # One reply holds them all: a batch has 100 records and 8 MiB at the most.
            found = await connection.call(
                cursor.to_list, len(keys), is_limited=self._limits_sockets
            )
            records = {document["_id"]: _record(document) for document in found}
        except (BSONError, ForeignDocumentError) as error:
            # So that this one fails alone.
            raise NothingAppliedError from error
        return [records.get(key) for key in keys]

    async def insert_into(
        self, connection: Connection, key: bytes, record: Record
    ) -> Version | None:
        connection.indexes.ensure()
        document = {"_id": key, **_fields(record)}
        try:
            await connection.call(connection.collection.insert_one, document)
        except DuplicateKeyError as error:
            if unique_index(error) != "_id_":
                raise
            return None
        return document["version"]

    async def replace_in(
        self, connection: Connection, key: bytes, record: Record, version: Version
    ) -> Version | None:
        connection.indexes.ensure()
        fields = _fields(record)
        # Never an upsert. If the connection breaks, the driver sends the replacement
        # again under the same transaction number, and a server that has applied it
        # already answers as it did the first time.
        result = await connection.call(
            connection.collection.replace_one,
            {"_id": key, "version": version},
            fields,
        )
        return fields["version"] if result.matched_count else None

    async def delete_from(self, connection: Connection, key: bytes) -> None:
        await connection.call(connection.collection.delete_one, {"_id": key})

    async def find_in(
        self, connection: Connection, user: str
    ) -> AsyncIterator[list[tuple[bytes, Record]]]:
        cursor = connection.collection.find({"user": user}, batch_size=_PAGE)
        try:
            while page := await connection.call(cursor.to_list, _PAGE):
                yield [(document["_id"], _record(document)) for document in page]
        finally:
            if cursor.alive:
                connection.begin(cursor.close)

    async def find_all_in(
        self, connection: Connection
    ) -> AsyncIterator[list[tuple[bytes, Record]]]:
        last, collection = b"", connection.collection
        while True:
            # A query for each page: the server forgets a cursor that waits for long.
            cursor = collection.find({"_id": {"$gt": last}}).sort("_id").limit(_PAGE)
            page = await connection.call(cursor.to_list, _PAGE)
            if not page:
                return
            yield [
                (document["_id"], _record(document, document["user"]))
                for document in page
                if document.get("user") is not None
            ]
            last = page[-1]["_id"]

    # What is said of errors, and done about them.

    def is_broken(self, connection: Connection, error: BaseException) -> bool:
        return self._client is None and is_stuck(connection.client, self._hosts)

    def dropped(self, connection: Connection) -> None:
        closing = asyncio.ensure_future(connection.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        await super().close()
        loop = asyncio.get_running_loop()
        if closing := [task for task in self._closing if task.get_loop() is loop]:
            await asyncio.wait(closing, timeout=self.timeout)

    def is_timeout(self, error: Exception) -> bool:
        return super().is_timeout(error) or (
            isinstance(error, PyMongoError) and error.timeout
        )

    def code_of(self, error: Exception) -> int | str | None:
        return code_of(error)

    def describe(self, error: Exception) -> str:
        return describe(error)

    def cause_of(self, error: Exception) -> Exception:
        return without_documents(error)

    def explain(self, error: Exception, connection: Connection | None) -> str:
        message = super().explain(error, connection)
        if connection is None or not self.is_timeout(error):
            return message
        if name := missing_replica_set(connection.client):
            message = (
                f"MongoDB {self.address!r} failed: No server of the URL is in a replica"
                f" set named {name!r}, though they answered. Check the option"
                " replicaSet of the URL."
            )
        return message + doubts(connection.client)


def _fields(record: Record) -> dict[str, Any]:
    """Returns the document of ``record`` with a new version, without its key."""
    fields: dict[str, Any] = {"data": record.data, "version": new_version()}
    if record.expires and record.expires < _LAST_DATE:
        fields["expires"] = DatetimeMS(int(record.expires * 1000))
    if record.user is not None:
        fields["user"] = record.user
    return fields


def _record(document: Mapping[str, Any], user: str | None = None) -> Record:
    try:
        return Record(document["data"], document["version"], user=user)
    except KeyError:
        raise ForeignDocumentError from None

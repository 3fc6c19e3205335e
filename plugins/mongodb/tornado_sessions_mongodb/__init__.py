"""Keeps sessions in MongoDB."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib.util
import itertools
import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.common import VALIDATORS
from pymongo.errors import (
    ConfigurationError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
)
from pymongo.read_preferences import ReadPreference
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from tornado_sessions.backend import Backend, Record
from tornado_sessions.deadlines import Deadlines
from tornado_sessions.errors import BackendError, ConflictError
from tornado_sessions.options import did_you_mean, read_options

if TYPE_CHECKING:
    Client = AsyncIOMotorClient[Any] | pymongo.AsyncMongoClient[Any]

__all__ = ["MongoDBBackend"]

logger = logging.getLogger("tornado_sessions")

T = TypeVar("T")

_INDEXES = [
    # MongoDB itself removes what is past its date, and keeps what has none.
    pymongo.IndexModel("expires", expireAfterSeconds=0),
    # Sparse: anonymous sessions are not in it.
    pymongo.IndexModel("user", sparse=True),
]

# What comes of a lack of them.
_CONSEQUENCES = {
    "expires": "expired sessions stay",
    "user": "the sessions of a user are found slowly, or a user may have only one",
}

# What there is besides ordinary collections, by the option that tells of it.
_KINDS = {
    "viewOn": "view",
    "timeseries": "time-series collection",
    "capped": "capped collection",
}

# A document may have 16 MiB, with its other fields and their names.
_MOST_BYTES = 16_000_000

# A date is 64 bits of milliseconds. What expires later stays for good.
_LAST_DATE = 2**63 // 1000 - 1

# After how many seconds the indexes are seen to again: they go with their
# collection, should somebody drop that, or with a server that comes back empty.
_INDEX_INTERVAL = 900.0

# How many seconds they may take. Without a number the socket's limit would count.
_INDEX_TIMEOUT = 7 * 24 * 3600.0

# How many records `find` reads at a time.
_PAGE = 100

# The part of the time limit that the driver gets. It knows best why it failed, so
# it is to have the first word. What it does not limit, such as a name server that
# hangs or motor's threads being taken, ends at the limit itself, give or take a
# twentieth.
_DRIVERS_PART = 0.9

# What to do about an error, by the server's code for it.
_ADVICE = {
    13: "Grant the user of the URL the role readWrite on the database.",
    18: "Check the user, the password and the option authSource of the URL.",
    72: "If it is a time-series collection, name another with the option 'collection'.",
    166: "It is a view: name a collection with the option 'collection'.",
}

_is_collection_name = re.compile(r"(?!system\.)[^$\0.]+(\.[^$\0.]+)*").fullmatch
_is_database_name = re.compile(r'[^/\\. "$*<>:|?\0]{1,63}').fullmatch

# True in the context of our own operations; motor hands it on to its threads.
_ours: contextvars.ContextVar[bool] = contextvars.ContextVar("ours", default=False)


class MongoDBBackend(Backend):
    """Keeps sessions in a collection of MongoDB.

    ``url`` is a connection string of MongoDB's own, ``mongodb://…`` or
    ``mongodb+srv://…``, and what it says goes; the database is the one that it
    names. ``driver`` is ``"motor"`` or ``"pymongo"``, which is PyMongo's own
    `pymongo.AsyncMongoClient`. Instead of a URL a ``client`` of either kind may
    be given, with the name of the ``database``; it is not closed here.

    Each operation ends within ``timeout`` seconds. A write is acknowledged
    when it is in the journals of a majority of the replica set.

    MongoDB forgets expired sessions by itself, so there is no `purge`.
    """

    durable = True
    shared = True
    lists_users = True

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
        options: Mapping[str, Any] = {}
        if url is not None:
            if database is not None:
                raise ValueError("The URL names the database: mongodb://host/database.")
            database, options = _read(url)
        database = database or "sessions"
        if timeout is None:
            timeout = options.get("timeoutms", 2.0)
        _check(database, collection, driver, timeout, max_bytes)
        self.name = f"{database}.{collection}"
        self.timeout: float = timeout
        self.driver = driver
        self.max_bytes: int = max_bytes
        self._url = url
        self._client = client
        self._defaults = {} if client else _defaults(options, timeout)
        # The driver's own limit takes a good part of the time of a load, and the one
        # of its sockets costs nothing. It tries a load twice at the most then.
        self._limits_sockets = "socketTimeoutMS" in self._defaults
        self._database = database
        self._collection = collection
        self._opened: _Opened | None = None
        self._indexing: asyncio.Task[None] | None = None
        # When they are next, by the monotonic clock.
        self._index_due = 0.0
        self._warned: set[str] = set()
        self._deadlines = Deadlines(timeout)
        # Operations that nobody waits for any more.
        self._left: set[asyncio.Future[Any]] = set()

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> MongoDBBackend:
        """Makes the backend of ``mongodb://host/database`` or ``mongodb+srv://…``.

        Of the options after the question mark ``collection``, ``driver``,
        ``timeout`` and ``max_bytes`` are those of the constructor; all others
        are the driver's. Raises `ValueError` for what neither can use.
        """
        if url in ("mongodb", "mongodb:", "mongodb://"):
            url = "mongodb://localhost"
        address, _, query = url.partition("?")
        ours: list[str] = []
        drivers: list[str] = []
        for option in query.split("&") if query else ():
            is_ours = option.partition("=")[0] in _OPTIONS
            (ours if is_ours else drivers).append(option)
        options = read_options("mongodb", "&".join(ours), _OPTIONS)
        if drivers:
            # The driver wants a slash in front of the question mark.
            slash = "" if "/" in address.partition("://")[2] else "/"
            address += slash + "?" + "&".join(drivers)
        return cls(address, **options)

    def __repr__(self) -> str:
        return f"<MongoDBBackend {self.name!r}>"

    async def load(self, key: bytes) -> Record | None:
        document = await self._run(
            self._open().collection.find_one,
            {"_id": key},
            is_limited=self._limits_sockets,
        )
        if document is None:
            return None
        return Record(document["data"], document["version"])

    async def save(self, key: bytes, record: Record) -> None:
        self.check_size(record)
        opened = self._open()
        collection = opened.collection
        if self._indexing is None or time.monotonic() > self._index_due:
            self._index_due = math.inf
            self._indexing = asyncio.ensure_future(self._create_indexes(collection))
        document: dict[str, Any] = {
            "data": record.data,
            "version": next(opened.versions),
        }
        if record.expires and record.expires < _LAST_DATE:
            document["expires"] = DatetimeMS(int(record.expires * 1000))
        if record.user is not None:
            document["user"] = record.user
        if record.version is None:
            document["_id"] = key
            stored = await self._run(collection.insert_one, document) is not None
        else:
            # Never an upsert. Should the connection break, the driver sends the
            # replacement again under the same transaction number, and a server
            # that has applied it already answers as it did the first time.
            replaced = {"_id": key, "version": record.version}
            result = await self._run(collection.replace_one, replaced, document)
            stored = result is not None and result.matched_count > 0
        if not stored:
            raise ConflictError("Another version of the record is stored, or none.")

    async def delete(self, key: bytes) -> None:
        await self._run(self._open().collection.delete_one, {"_id": key})

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        cursor = self._open().collection.find({"user": user}, batch_size=_PAGE)
        try:
            while page := await self._run(cursor.to_list, _PAGE):
                for document in page:
                    record = Record(document["data"], document["version"])
                    yield document["_id"], record
        finally:
            with contextlib.suppress(BackendError):
                await self._run(cursor.close)

    async def close(self) -> None:
        """Closes the client, if it was opened here; another use opens it again."""
        opened, self._opened = self._opened, None
        if opened is None or opened.place != _place():
            return
        if under_way := [*self._left, *([self._indexing] if self._indexing else ())]:
            await asyncio.wait(under_way, timeout=self.timeout)
        if self._client is None:
            with contextlib.suppress(BackendError):
                await self._run(self._close, opened.client)
        if self._indexing is not None and not self._indexing.done():
            # An index may take hours, which the server goes on with. The client is
            # closed first: on Python 3.10 a cancellation can lock its pool.
            self._indexing.cancel()
            await asyncio.wait([self._indexing], timeout=self.timeout)

    async def _close(self, client: Any) -> None:  # noqa: ANN401
        # Half of the time to tell the server, and the rest to close all the same.
        with pymongo.timeout(self.timeout / 2):
            if self.driver == "pymongo":
                await client.close()
            else:
                # It waits for the network where it is called.
                await asyncio.to_thread(client.close)

    def _open(self) -> _Opened:
        """Answers what is connected in this loop and in this process."""
        place = _place()
        if self._opened is None or self._opened.place != place:
            # A client belongs to one loop, and does not survive a fork. What was
            # opened elsewhere is left to those who opened it there.
            logging.getLogger("pymongo.command").addFilter(_leave_out_documents)
            client = self._client or self._connect()
            collection = self._collection_of(client)
            versions = itertools.count(secrets.randbits(62))
            self._opened = _Opened(place, client, collection, versions)
            self._indexing, self._left = None, set()
        return self._opened

    def _connect(self) -> Client:
        if self.driver == "pymongo":
            return pymongo.AsyncMongoClient(self._url, **self._defaults)
        loop = asyncio.get_running_loop()
        return AsyncIOMotorClient(self._url, io_loop=loop, **self._defaults)

    def _collection_of(self, client: Client) -> Any:  # noqa: ANN401
        shared: dict[str, Any] = {}
        if self._client is not None:
            # The rest of the application may be content with less.
            shared["write_concern"] = WriteConcern("majority", j=True)
        return client[self._database].get_collection(
            self._collection,
            # What a shared client makes of documents is not for ours. No date is
            # out of range for this one.
            codec_options=CodecOptions(
                datetime_conversion=DatetimeConversion.DATETIME_MS
            ),
            read_preference=ReadPreference.PRIMARY,
            **shared,
        )

    async def _run(
        self,
        operation: Callable[..., Awaitable[T]],
        *arguments: object,
        is_limited: bool = False,
    ) -> T | None:
        """Runs one operation of the driver. Returns None if the key exists.

        It need not have the driver's time limit where it ``is_limited`` otherwise.
        """
        try:
            return await self._in_time(self._begin(operation, arguments, is_limited))
        except DuplicateKeyError as error:
            if _unique_index(error) == "_id_":
                return None
            failure: PyMongoError | asyncio.TimeoutError = error
        except (PyMongoError, asyncio.TimeoutError) as error:
            failure = error
        # Out here, as what the server said would come along as the context.
        raise BackendError(self._explain(failure)) from _without_documents(failure)

    def _begin(
        self,
        operation: Callable[..., Awaitable[T]],
        arguments: tuple[object, ...],
        is_limited: bool,
    ) -> asyncio.Future[T]:
        # The context of the operation is a copy of the one in which it begins.
        token = _ours.set(True)
        try:
            if is_limited:
                return asyncio.ensure_future(operation(*arguments))
            with pymongo.timeout(self.timeout * _DRIVERS_PART):
                return asyncio.ensure_future(operation(*arguments))
        finally:
            _ours.reset(token)

    async def _in_time(self, running: asyncio.Future[T]) -> T:
        """Answers what ``running`` answers, unless that takes too long.

        It goes on, at the time limit as when the request that waits for it is
        cancelled. It ends at the driver's own limit, having read its answer, so the
        connection is good for others. With PyMongo on Python 3.10 a cancellation
        can leave the pool of connections locked for ever.
        """
        if not isinstance(running, asyncio.Task):
            # Of motor: what a thread does goes on though its future is cancelled.
            return await self._deadlines.run(running)
        try:
            return await self._deadlines.outcome(running)
        finally:
            if not running.done():
                self._left.add(running)
                running.add_done_callback(self._left.discard)

    async def _create_indexes(self, collection: Any) -> None:  # noqa: ANN401
        # In a task of its own and with all the time in the world: no request waits
        # for the index of a collection that is large already.
        _ours.set(True)
        try:
            with pymongo.timeout(_INDEX_TIMEOUT):
                for index in _INDEXES:
                    await self._create_index(collection, index)
            self._index_due = time.monotonic() + _INDEX_INTERVAL
        except PyMongoError:
            # The save that is under way says so; the next one tries again.
            self._indexing = None

    async def _create_index(self, collection: Any, index: pymongo.IndexModel) -> None:  # noqa: ANN401
        try:
            await collection.create_indexes([index])
        except OperationFailure as error:
            warning = await self._obstacle(collection, index.document)
            if warning is None:
                warning = (
                    f"The indexes of the MongoDB collection {self.name!r} cannot be"
                    f" created: {_name_of(error)}. Until somebody who may creates them,"
                    " expired sessions stay and the sessions of a user are found slowly."
                )
            if warning and warning not in self._warned:
                self._warned.add(warning)
                logger.warning("%s", warning)

    async def _obstacle(self, collection: Any, wanted: Mapping[str, Any]) -> str | None:  # noqa: ANN401
        """Returns a warning that says why an index cannot be created, if that is known.

        It is empty if an index that is there does the same.
        """
        try:
            if kind := _kind_of(await collection.options()):
                return (
                    f"The MongoDB collection {self.name!r} is a {kind}, which cannot"
                    " keep sessions. Name another with the option 'collection'."
                )
            found = await collection.index_information()
        except OperationFailure:
            # This user may not look.
            return None
        key = [*wanted["key"].items()]
        there = {
            name: index
            for name, index in found.items()
            if name == wanted["name"] or index["key"] == key
        }
        if not there:
            return None
        if any(_is_as_good(index, wanted) for index in there.values()):
            return ""
        name, field = next(iter(there)), key[0][0]
        return (
            f"The MongoDB collection {self.name!r} has an index {name!r} with another"
            f" key or other options than ours on {field!r}. Until it is dropped,"
            f" {_CONSEQUENCES[field]}. Drop it with"
            f" db.getCollection({self._collection!r}).dropIndex({name!r}), or name"
            " another collection with the option 'collection'."
        )

    def _explain(self, error: PyMongoError | asyncio.TimeoutError) -> str:
        if isinstance(error, DuplicateKeyError):
            return (
                f"The unique index {_unique_index(error)!r} of the MongoDB collection"
                f" {self.name!r} refuses the session. It is not ours: drop it, or name"
                " another collection with the option 'collection'."
            )
        if isinstance(error, OperationFailure) and not error.timeout:
            advice = _ADVICE.get(error.code or 0, "")
            text = f"MongoDB refused to use {self.name!r}: {_name_of(error)}. {advice}"
            return text.rstrip()
        if isinstance(error, asyncio.TimeoutError) or error.timeout:
            if (replica_set := self._missing_set()) is not None:
                return (
                    f"No MongoDB server of the URL for {self.name!r} is in a replica"
                    f" set named {replica_set!r}, though they answered. Check the option"
                    f" replicaSet of the URL.{self._doubts()}"
                )
            return (
                f"No MongoDB server answered for {self.name!r} within {self.timeout:g}"
                " seconds. Check that the hosts of the URL are up and can be reached,"
                " and that one of them is the primary; or raise the option 'timeout'."
                f"{self._doubts()}"
            )
        if isinstance(error, ConfigurationError):
            # Of a URL with mongodb+srv:// it is known only now.
            return f"The hosts of MongoDB for {self.name!r} cannot be found: {error}"
        return (
            f"The connection to MongoDB for {self.name!r} failed:"
            f" {type(error).__name__}. The next request connects anew."
        )

    def _missing_set(self) -> str | None:
        """Returns the replica set of the URL if no server turned out to be in it."""
        topology = self._opened and self._opened.client.topology_description
        if not topology or topology.replica_set_name is None:
            return None
        # The driver forgets a server that is in another set, or in none. One that is
        # connected to directly has this error.
        servers = topology.server_descriptions().values()
        if all(isinstance(server.error, ConfigurationError) for server in servers):
            name: str = topology.replica_set_name
            return name
        return None

    def _doubts(self) -> str:
        """Returns why the driver cannot use the servers, as far as it knows."""
        opened = self._opened
        topology = opened and opened.client.topology_description
        servers = topology.server_descriptions().values() if topology else ()
        # Behind it are the driver's own limits, which are not those that count here.
        errors = {str(s.error).partition(" (configured")[0] for s in servers if s.error}
        return "".join(f" The driver says: {error}." for error in sorted(errors))


# What the driver raises for a URL that it does not take.
_URL_ERRORS = (PyMongoError, ValueError, TypeError, OSError)

_DRIVERS_OPTIONS = frozenset(name.lower() for name in VALIDATORS)

_OPTIONS = {"collection": str, "driver": str, "timeout": float, "max_bytes": int}


class _Opened(NamedTuple):
    """A client that is connected, and where it can be used."""

    place: tuple[int, asyncio.AbstractEventLoop]
    # Both drivers have the methods that we call.
    client: Any
    collection: Any
    # A version is one that no other save has. They do not begin again with a record
    # that is deleted and inserted under the same key: a save that saw the first one
    # could then replace the second. So each process begins with a random number.
    versions: Iterator[int]


def _place() -> tuple[int, asyncio.AbstractEventLoop]:
    return os.getpid(), asyncio.get_running_loop()


def _read(url: str) -> tuple[str | None, Mapping[str, Any]]:
    """Answers the database and the driver's options of a URL, without any I/O."""
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    if scheme not in ("mongodb", "mongodb+srv"):
        raise ValueError(
            "The session backend 'mongodb' needs a URL that begins with 'mongodb://' or"
            " 'mongodb+srv://'."
        )
    if "@" in query:
        raise ValueError(
            "The URL of the session backend 'mongodb' has an '@' after its '?'. Escape"
            " the user name and the password with urllib.parse.quote_plus()."
        )
    if scheme == "mongodb+srv":
        if importlib.util.find_spec("dns") is None:
            raise ValueError(
                "A URL that begins with 'mongodb+srv://' needs dnspython. Install it"
                " with: pip install dnspython"
            )
        # To look at such a URL the driver asks the name server. What comes from
        # there changes nothing of this.
        kept = (option for option in query.split("&") if not option.startswith("srv"))
        query = "&".join(kept)
    # By themselves first, so that the error can say which option it is.
    options = _drivers_options(query)
    if options is None:
        raise ValueError(_refused_options(query))
    with contextlib.suppress(*_URL_ERRORS):
        parsed = parse_uri(f"mongodb://{rest}?{query}", warn=False)
        if parsed["collection"] is None:
            return parsed["database"], {name.lower(): options[name] for name in options}
    # What the driver said is dropped: it may have repeated the password.
    raise ValueError(
        "The session backend 'mongodb' cannot use its URL. It is to be of the form"
        " mongodb://user:password@host1,host2/database?option=value, with what is"
        " special in the password escaped by urllib.parse.quote_plus()."
    )


def _drivers_options(query: str) -> Mapping[str, Any] | None:
    """Returns the driver's options in ``query``; None if it does not take them."""
    with contextlib.suppress(*_URL_ERRORS):
        options: Mapping[str, Any]
        options = parse_uri(f"mongodb://localhost/?{query}", warn=False)["options"]
        return options
    return None


def _refused_options(query: str) -> str:
    """Returns why the driver does not take the options in ``query``.

    What the driver says of them may repeat a part of the URL.
    """
    for option in query.split("&"):
        if _drivers_options(option) is not None:
            continue
        name = option.partition("=")[0].lower()
        if name in _DRIVERS_OPTIONS:
            return f"MongoDB's driver does not take the value of the option {name!r}."
        return (
            "The URL has an option that neither the session backend 'mongodb' nor"
            f" MongoDB's driver has.{did_you_mean(name, _DRIVERS_OPTIONS)}"
        )
    return (
        "MongoDB's driver does not take the options of the URL together. Compare them"
        " with its documentation."
    )


def _check(
    database: str, collection: str, driver: str, timeout: float, max_bytes: int
) -> None:
    if not _is_database_name(database):
        raise ValueError(
            "MongoDB does not take the name of the database. It has at most 63"
            ' characters, and no space and none of /\\."$*<>:|? among them.'
        )
    if not _is_collection_name(collection):
        raise ValueError(
            "The option 'collection' must be a name that MongoDB takes for a"
            " collection."
        )
    if driver not in ("motor", "pymongo"):
        raise ValueError("The option 'driver' must be 'motor' or 'pymongo'.")
    # More is too much for the driver, which says so with each operation.
    if not 0 < timeout < 1_000_000:
        raise ValueError(
            "The option 'timeout' must be a number of seconds above 0 and below a"
            " million."
        )
    if not 0 < max_bytes <= _MOST_BYTES:
        raise ValueError(
            f"The option 'max_bytes' must be a number from 1 to {_MOST_BYTES}."
        )


def _defaults(options: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Answers what is set for the driver where the URL says nothing of it."""
    if options.get("readpreference", "primary").lower() != "primary":
        raise ValueError(
            "Sessions are read from the primary: elsewhere one that has ended may still"
            " be there. Remove the option readPreference from the URL."
        )
    if options.get("w") == 0:
        raise ValueError(
            "With w=0 nobody would know whether a session was stored. Remove the option"
            " from the URL."
        )
    milliseconds = max(1, int(timeout * 1000))
    defaults = {
        "w": "majority",
        "journal": True,
        # The driver's checks of its servers have no other limit.
        "connectTimeoutMS": milliseconds,
        "socketTimeoutMS": milliseconds,
        "serverSelectionTimeoutMS": milliseconds,
        "waitQueueTimeoutMS": milliseconds,
    }
    return {
        name: value for name, value in defaults.items() if name.lower() not in options
    }


def _without_documents(error: Exception) -> Exception:
    """Answers an error of the same kind that repeats nothing of the command.

    Of a command that is refused the server says all of it: key and data.
    """
    if not isinstance(error, OperationFailure):
        return error
    return type(error)(_name_of(error), error.code)


def _unique_index(error: DuplicateKeyError) -> str:
    """Returns the name of the index that has refused a duplicate."""
    text = str((error.details or {}).get("errmsg", ""))
    # Of a clustered collection the server names none: it is the key.
    found = re.search(" index: (.+?) dup key", text)
    return found[1] if found else "_id_"


def _kind_of(options: Mapping[str, Any]) -> str | None:
    """Returns what a collection is, unless it is an ordinary one."""
    return next((kind for name, kind in _KINDS.items() if options.get(name)), None)


def _is_as_good(index: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether an index has the key and, but for ``sparse``, the options of another."""
    ignored = {"v", "ns", "name", "key", "sparse", "background"}
    options = {name: index[name] for name in index.keys() - ignored}
    return index["key"] == [*wanted["key"].items()] and options == {
        name: wanted[name] for name in wanted.keys() - ignored
    }


def _name_of(error: OperationFailure) -> str:
    name = (error.details or {}).get("codeName", type(error).__name__)
    return f"{name} (code {error.code})"


def _leave_out_documents(record: logging.LogRecord) -> bool:
    """Takes keys and data out of what the driver logs of our operations.

    At DEBUG it logs every command and every reply, as JSON.
    """
    if _ours.get():
        try:
            fields = json.loads(record.getMessage())
            left_out = dict.fromkeys(fields.keys() & _DOCUMENTS, "left out")
            record.msg, record.args = json.dumps(fields | left_out), ()
        except (ValueError, AttributeError, TypeError):
            return False
    return True


_DOCUMENTS = {"command", "reply", "failure"}

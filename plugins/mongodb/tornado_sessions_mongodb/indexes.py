"""Creates the indexes of a collection, and says what is in their place."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from tornado_sessions_mongodb.errors import name_of
from tornado_sessions_mongodb.logs import is_ours

logger = logging.getLogger("tornado_sessions")

#: After how many seconds the indexes are created again: they go with their
#: collection when that is dropped, or with a server that comes back empty.
INTERVAL = 900.0

# How many seconds it may take. Without a number the timeout of a socket would count.
_TIMEOUT = 7 * 24 * 3600.0

_INDEXES = [
    # MongoDB itself removes what is past its date, and keeps what has none.
    pymongo.IndexModel("expires", expireAfterSeconds=0),
    # Sparse: anonymous sessions are not in it.
    pymongo.IndexModel("user", sparse=True),
]

# What happens without them.
_CONSEQUENCES = {
    "expires": "expired sessions stay",
    "user": "the sessions of a user are found slowly, or a user may have only one",
}

# What there is besides ordinary collections, by the option that shows it.
_KINDS = {
    "viewOn": "view",
    "timeseries": "time-series collection",
    "capped": "capped collection",
}


class Indexes:
    """Creates the indexes of a collection in the background.

    Each warning is logged once: those of ``warned`` have been.
    """

    def __init__(self, collection: Any, warned: set[str]) -> None:  # noqa: ANN401
        self.collection = collection
        #: The task that creates them, or has.
        self.task: asyncio.Task[None] | None = None
        #: When they are created again, by the monotonic clock.
        self.due = 0.0
        self._warned = warned
        self._name = f"{collection.database.name}.{collection.name}"

    def ensure(self) -> None:
        """Starts to create them if it is time to. To be called with each save."""
        if self.task is None or time.monotonic() > self.due:
            self.due = math.inf
            # No request waits for the index of a collection that is large already.
            self.task = asyncio.ensure_future(self.create())

    async def create(self) -> None:
        """Creates those that are missing."""
        is_ours.set(True)
        try:
            with pymongo.timeout(_TIMEOUT):
                for index in _INDEXES:
                    await self._create(index)
            self.due = time.monotonic() + INTERVAL
        except PyMongoError:
            # The save that started this fails as well. The next one tries again.
            self.task = None

    async def _create(self, index: pymongo.IndexModel) -> None:
        try:
            await self.collection.create_indexes([index])
        except OperationFailure as error:
            warning = await self._obstacle(index.document)
            if warning is None:
                warning = (
                    f"The indexes of the MongoDB collection {self._name!r} cannot be"
                    f" created: {name_of(error)}. Until somebody who may creates them,"
                    " expired sessions stay and the sessions of a user are found slowly."
                )
            if warning and warning not in self._warned:
                self._warned.add(warning)
                logger.warning("%s", warning)

    async def _obstacle(self, wanted: Mapping[str, Any]) -> str | None:
        """Returns a warning that says why an index cannot be created, if that is known.

        It is empty if an index that is there does the same.
        """
        try:
            if kind := _kind_of(await self.collection.options()):
                return (
                    f"The MongoDB collection {self._name!r} is a {kind}, which cannot"
                    " keep sessions. Name another with the option 'collection'."
                )
            found = await self.collection.index_information()
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
            f"The MongoDB collection {self._name!r} has an index {name!r} with another"
            f" key or other options than ours on {field!r}. Until it is dropped,"
            f" {_CONSEQUENCES[field]}. Drop it with"
            f" db.getCollection({self.collection.name!r}).dropIndex({name!r}), or name"
            " another collection with the option 'collection'."
        )


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

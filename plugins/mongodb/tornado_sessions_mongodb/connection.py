"""A client of either driver, and how its operations run."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo.errors import PyMongoError
from pymongo.read_preferences import ReadPreference

from tornado_sessions.storage.timeouts import shielded
from tornado_sessions_mongodb.indexes import Indexes
from tornado_sessions_mongodb.logs import is_ours

T = TypeVar("T")

# The part of the timeout that the driver gets. It comes first, as the driver knows
# why it failed. What the driver does not limit, such as a name server that hangs or
# motor's threads being in use, ends at the timeout itself.
_DRIVERS_PART = 0.9


def collection_of(
    client: Any,  # noqa: ANN401 - of either driver
    database: str,
    name: str,
    options: Mapping[str, Any],
) -> Any:  # noqa: ANN401
    """Returns a collection, of which every read is of the primary."""
    return client[database].get_collection(
        name,
        # The codec options of a shared client are not for our documents. No date is
        # out of range for these.
        codec_options=CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS),
        read_preference=ReadPreference.PRIMARY,
        **options,
    )


class Connection:
    """A client in one event loop, and its collection of sessions.

    The client is closed with it if it ``owns_client``.
    """

    def __init__(
        self,
        collection: Any,  # noqa: ANN401 - both drivers have the methods that we call
        indexes: Indexes,
        timeout: float,
        *,
        owns_client: bool,
    ) -> None:
        self.client: Any = collection.database.client
        self.collection = collection
        self.indexes = indexes
        #: Operations that nobody waits for any more.
        self.abandoned: set[asyncio.Future[Any]] = set()
        self._timeout = timeout
        self._owns_client = owns_client

    async def call(
        self,
        operation: Callable[..., Awaitable[T]],
        *arguments: object,
        is_limited: bool = False,
    ) -> T:
        """Runs one operation of the driver, with the driver's own timeout.

        It needs none where it ``is_limited`` otherwise.

        An operation of PyMongo is never cancelled. It ends at the driver's timeout,
        having read its reply, so others can use its connection. On Python 3.10 a
        cancellation can leave the connection pool locked for ever.
        """
        running = self._begin(operation, arguments, is_limited)
        if not isinstance(running, asyncio.Task):
            # Motor's: its thread goes on when the future is cancelled.
            return await running
        try:
            return await shielded(running)
        finally:
            if not running.done():
                self._abandon(running)

    def begin(self, operation: Callable[[], Awaitable[object]]) -> None:
        """Starts an operation that only `close` waits for."""
        self._abandon(self._begin(operation, (), is_limited=False))

    def _abandon(self, running: asyncio.Future[Any]) -> None:
        def end(_: object) -> None:
            self.abandoned.discard(running)
            if not running.cancelled():
                # asyncio logs an error that was never looked at.
                running.exception()

        self.abandoned.add(running)
        running.add_done_callback(end)

    def _begin(
        self,
        operation: Callable[..., Awaitable[T]],
        arguments: tuple[object, ...],
        is_limited: bool,
    ) -> asyncio.Future[T]:
        # The context of the operation is a copy of the one in which it begins.
        token = is_ours.set(True)
        try:
            if is_limited:
                return asyncio.ensure_future(operation(*arguments))
            with pymongo.timeout(self._timeout * _DRIVERS_PART):
                return asyncio.ensure_future(operation(*arguments))
        finally:
            is_ours.reset(token)

    async def close(self) -> None:
        """Waits for what still runs, and closes the client.

        Each has a little less than half of the timeout.
        """
        running = {*self.abandoned}
        if self.indexes.task is not None:
            running.add(self.indexes.task)
        if running:
            await asyncio.wait(running, timeout=0.45 * self._timeout)
        if self._owns_client:
            with contextlib.suppress(PyMongoError):
                await self.call(self._close_client)
        if self.indexes.task is not None and not self.indexes.task.done():
            # The server goes on with an index, which may take hours. The client is
            # closed first: on Python 3.10 a cancellation can lock its pool.
            self.indexes.task.cancel()
            await asyncio.wait([self.indexes.task], timeout=0.05 * self._timeout)

    async def _close_client(self) -> None:
        # The client tells the server, and closes whether it answers or not.
        with pymongo.timeout(0.45 * self._timeout):
            if isinstance(self.client, pymongo.AsyncMongoClient):
                await self.client.close()
            else:
                # Motor's close() blocks while it waits for the server.
                await asyncio.to_thread(self.client.close)

"""The base class for a backend whose store has a client library.

It connects at the first use, once in each event loop and process, has a timeout
for each operation, and turns the driver's errors into `.BackendError`. The page
docs/writing-a-backend.md has a complete backend, and explains the connections.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar

from tornado_sessions.errors import BackendError, SessionError
from tornado_sessions.storage.backend import Backend, Record, Version
from tornado_sessions.storage.connector import Connector
from tornado_sessions.storage.operations import Operations, Write
from tornado_sessions.storage.options import read_options
from tornado_sessions.storage.timeouts import Timeouts

C = TypeVar("C")
T = TypeVar("T")
P = ParamSpec("P")

#: What `DriverBackend` reads from a URL for every backend.
COMMON_OPTIONS: Mapping[str, type] = {"timeout": float, "max_bytes": int}


class DriverBackend(Backend, Generic[C]):
    """A backend on a client library; ``C`` is the type of its connection.

    A connection may be a pool or a client that holds several. It serves all
    operations at once. `address` names the store in messages, so it must hold no
    password. Each operation ends
    within ``timeout`` seconds. Raises `ValueError` for a ``timeout`` or
    ``max_bytes`` that is not above zero.
    """

    #: What the store is called at the beginning of a message.
    store: ClassVar[str]
    #: The errors that the driver raises when the store fails. `OSError` and
    #: `asyncio.TimeoutError` count as well.
    errors: ClassVar[tuple[type[Exception], ...]] = ()
    #: What to do about an error, by its code (see `code_of`) or by a word of its
    #: text.
    advice: ClassVar[Mapping[int | str, str]] = {}
    #: The URL options of this backend besides ``timeout`` and ``max_bytes``.
    options: ClassVar[Mapping[str, type]] = {}
    #: Whether a child process can connect while the parent is connected.
    opens_after_fork: ClassVar[bool] = True
    #: Whether a connection can be used only in the event loop that opened it.
    opens_per_loop: ClassVar[bool] = True
    #: What to do about a timeout.
    timeout_advice: ClassVar[str] = (
        "Check that it runs and can be reached, or raise the option 'timeout'."
    )

    #: How many operations a batch has at the most; see `load_many`. It has fewer if
    #: ``max_bytes`` is so large that its records could exceed 8 MiB together.
    largest_batch: ClassVar[int] = 100
    #: How many batches of loads are in progress at the most, and how many of writes.
    batches_at_once: ClassVar[int] = 2

    def __init__(
        self, address: str, *, timeout: float = 2.0, max_bytes: int = 65_536
    ) -> None:
        if not 0 < timeout < float("inf"):
            raise ValueError(
                "The option 'timeout' must be a finite number of seconds above 0."
            )
        if max_bytes < 1:
            raise ValueError("The option 'max_bytes' must be a number above 0.")
        self.address = address
        self.timeout: float = timeout
        self.max_bytes: int = max_bytes
        self._timeouts = Timeouts(timeout)
        self._failures: tuple[type[Exception], ...] = (
            *self.errors,
            OSError,
            asyncio.TimeoutError,
        )
        self._connector = Connector[C](
            f"{self.store} {address!r}",
            self._timeouts,
            self.connect,
            self.is_closed,
            self.dropped,
            after_fork=self.opens_after_fork,
            per_loop=self.opens_per_loop,
        )
        self._operations = Operations[C](
            self,
            self._run_batch,
            loads_many=type(self).load_many is not DriverBackend.load_many,
            writes_many=type(self).write_many is not DriverBackend.write_many,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address!r}>"

    @classmethod
    def read_options(cls, name: str, query: str) -> dict[str, Any]:
        """Returns the options in ``query``, which follows the question mark of a URL.

        ``name`` is that of the backend. Raises `ValueError` as `.read_options`.
        """
        return read_options(name, query, {**cls.options, **COMMON_OPTIONS})

    # What a backend implements.

    @abc.abstractmethod
    async def connect(self) -> C:
        """Connects to the store and returns the connection.

        It has ``timeout`` seconds. Concurrent operations wait for one call.
        """

    @abc.abstractmethod
    async def disconnect(self, connection: C) -> None:
        """Closes what `connect` returned; it has ``timeout`` seconds."""

    @abc.abstractmethod
    async def load_from(self, connection: C, key: bytes) -> Record | None:
        """See `.Backend.load`."""

    @abc.abstractmethod
    async def insert_into(
        self, connection: C, key: bytes, record: Record
    ) -> Version | None:
        """See `.Backend.insert` and `.new_version`."""

    @abc.abstractmethod
    async def replace_in(
        self, connection: C, key: bytes, record: Record, version: Version
    ) -> Version | None:
        """See `.Backend.replace` and `.new_version`."""

    @abc.abstractmethod
    async def delete_from(self, connection: C, key: bytes) -> None:
        """See `.Backend.delete`."""

    async def load_many(
        self, connection: C, keys: Sequence[bytes]
    ) -> Sequence[Record | Exception | None]:
        """Returns the records of two keys or more, in one round trip.

        Override it if the store can do that; a lone load still goes to `load_from`. The
        keys are sorted and distinct. Returns an entry for each, in their order: the
        record, None, or a driver's error if this key alone has failed.
        """
        raise NotImplementedError

    async def write_many(
        self, connection: C, writes: Sequence[Write]
    ) -> Sequence[Version | Exception | None]:
        """Does two writes or more in one round trip.

        Override it if the store can do that and tell the outcome of each. The writes
        are sorted by key, and the keys are distinct. Returns an entry for each, in their
        order: what `insert_into` or `replace_in` would have returned, None for a
        removal, or a driver's error if this write alone has failed. If none of them can
        have been applied, raise `.NothingAppliedError`: each is then sent by itself.
        """
        raise NotImplementedError

    async def purge_in(self, connection: C, now: float) -> int:
        """See `.Backend.purge`.

        For a store that expires records itself, write ``purge = Backend.purge`` into
        the class: then it is not called, and the contracts do not test it.
        """
        return 0

    def find_in(
        self, connection: C, user: str
    ) -> AsyncIterator[list[tuple[bytes, Record]]]:
        """Yields the records of ``user``, one page at a time. See `.Backend.find`.

        Each page has ``timeout`` seconds.
        """
        raise SessionError(
            f"{type(self).__name__} cannot look up the sessions of a user."
        )

    def find_all_in(self, connection: C) -> AsyncIterator[list[tuple[bytes, Record]]]:
        """Yields the records of all users, one page at a time. See `.Backend.find_all`.

        Each page has ``timeout`` seconds. A page may be empty.
        """
        raise SessionError(
            f"{type(self).__name__} cannot list the sessions of all users."
        )

    def is_broken(self, connection: C, error: BaseException) -> bool:
        """Whether the connection must not be used after ``error``.

        The error is one of the driver, a timeout or a cancellation. A pool that
        replaces its broken connections by itself is never broken. Other operations
        may be in progress on the connection: they keep it, see `dropped`.
        """
        return False

    def is_closed(self, connection: C) -> bool:
        """Whether the store has closed the connection, as far as the driver knows.

        It is asked before each operation, and does no I/O. A pool is never closed.
        """
        return False

    def dropped(self, connection: C) -> None:
        """Called when a broken or closed connection gets no new operation.

        `disconnect` is not called for it: free its sockets here, without I/O. The
        operations in progress on it then fail with the driver's error.
        """
        return

    def is_timeout(self, error: Exception) -> bool:
        """Whether ``error`` says that the store did not answer in time.

        Override it where the driver has timeouts of its own, with its own errors.
        """
        return isinstance(error, asyncio.TimeoutError)

    def code_of(self, error: Exception) -> int | str | None:
        """Returns the driver's code for ``error``, to look up in `advice`."""
        return None

    def describe(self, error: Exception) -> str:
        """Returns what a message may say of ``error``.

        Override it where the text of an error can hold a key, data or a password.
        """
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        return str(error) or type(error).__name__

    def cause_of(self, error: Exception) -> Exception:
        """Returns the cause of the `.BackendError`: ``error``, or one without secrets."""
        return error

    # Not coroutine functions: each would cost every operation a part of a microsecond.

    def load(self, key: bytes) -> Coroutine[Any, Any, Record | None]:
        return self.run(self._operations.load, key)

    def insert(self, key: bytes, record: Record) -> Coroutine[Any, Any, Version | None]:
        return self.run(self._operations.write, Write(key, record))

    def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Coroutine[Any, Any, Version | None]:
        return self.run(self._operations.write, Write(key, record, version))

    async def delete(self, key: bytes) -> None:
        await self.run(self._operations.write, Write(key))

    async def purge(self, now: float) -> int:
        return await self.run(self.purge_in, now)

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        async for found in self._run_pages(self.find_in(await self.connection(), user)):
            yield found

    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        async for found in self._run_pages(self.find_all_in(await self.connection())):
            yield found

    async def _run_pages(
        self, pages: AsyncIterator[list[tuple[bytes, Record]]]
    ) -> AsyncIterator[tuple[bytes, Record]]:
        try:
            while (page := await self.run(_next, pages)) is not None:
                for found in page:
                    yield found
        finally:
            if isinstance(pages, AsyncGenerator):
                # At once, and not when it is collected as garbage.
                with contextlib.suppress(*self._failures):
                    await self._timeouts.run(pages.aclose())

    async def close(self) -> None:
        """Closes the connection. It opens again at the next use.

        The operations in progress have ``timeout`` seconds to end.
        """
        with contextlib.suppress(*self._failures):
            # If the store is down, the connection is closed as well.
            await self._connector.close(self.disconnect)

    async def run(
        self,
        operation: Callable[Concatenate[C, P], Awaitable[T]],
        *arguments: P.args,
        **keywords: P.kwargs,
    ) -> T:
        """Calls ``operation`` with the connection and returns its result.

        Raises `.BackendError` where the driver fails, or does not answer within
        ``timeout`` seconds, the time to connect included.
        """
        loop = asyncio.get_running_loop()
        opened = self._connector.opened(loop)
        connection = opened.connection
        opened.running += 1
        try:
            if connection is not None and not self.is_closed(connection):
                return await self._timeouts.run(
                    operation(connection, *arguments, **keywords)
                )
            deadline = loop.time() + self.timeout
            connection = None
            connection = await self._timeouts.run(
                self._connector.connected(opened), deadline
            )
            return await self._timeouts.run(
                operation(connection, *arguments, **keywords), deadline
            )
        except self._failures as error:
            failure: Exception = error
        except asyncio.CancelledError as error:
            self._drop_if_broken(connection, error)
            raise
        finally:
            opened.note_end()
        self._drop_if_broken(connection, failure)
        # Out here, so that the driver's error is the cause and not the context:
        # `cause_of` may return another one.
        message = self.explain(failure, connection)
        raise BackendError(message) from self.cause_of(failure)

    async def connection(self) -> C:
        """Returns the connection, and connects first if there is none."""
        return await self.run(_itself)

    def drop(self, connection: C) -> bool:
        """Has the next operation connect anew.

        Returns False if ``connection`` is not the one in use any more.
        """
        return self._connector.drop(connection)

    def has_timed_out(self) -> bool:
        """Whether the running operation is being cancelled for its timeout.

        An operation that handles `asyncio.CancelledError` may then raise one of `errors`.
        """
        return self._timeouts.is_expired()

    def explain(self, error: Exception, connection: C | None) -> str:
        """Returns the message for ``error``, with the connection that failed, if any."""
        if self.is_timeout(error):
            return (
                f"{self.store} {self.address!r} did not answer within"
                f" {self.timeout:g} seconds. {self.timeout_advice}"
            )
        text = self.describe(error)
        words = (
            self.advice[word]
            for word in self.advice
            if isinstance(word, str) and word in text
        )
        advice = self.advice.get(self.code_of(error) or "") or next(words, "")
        return f"{self.store} {self.address!r} failed: {text.rstrip('.')}. {advice}".rstrip()

    async def _run_batch(self, connection: C, batch: Awaitable[None]) -> None:
        # Its callers may all have gone: the batch itself counts as in progress.
        opened = self._connector.opened(asyncio.get_running_loop())
        opened.running += 1
        try:
            await self._timeouts.run(batch)
        except self._failures as error:
            self._drop_if_broken(connection, error)
            raise
        finally:
            opened.note_end()

    def _drop_if_broken(self, connection: C | None, error: BaseException) -> None:
        if connection is not None and self.is_broken(connection, error):
            self.drop(connection)


async def _itself(connection: C) -> C:
    return connection


async def _next(connection: object, pages: AsyncIterator[T]) -> T | None:
    return await anext(pages, None)

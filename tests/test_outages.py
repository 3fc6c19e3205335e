"""Tests of the contracts themselves: each fault that is planted here is found."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import socket
import time
import unittest
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from tests.shelf import BatchShelfBackend, Client, ShelfBackend, ShelfError, ShelfServer
from tornado_sessions.errors import BackendError
from tornado_sessions.storage.backend import UNKNOWN, Record, Version
from tornado_sessions.storage.batches import NothingAppliedError
from tornado_sessions.storage.operations import Write
from tornado_sessions.testing import BackendContract, OutageContract


class ShelfContractTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """The backend that the faults are planted in is a good one."""

    server: ShelfServer

    @classmethod
    def setUpClass(cls) -> None:
        cls.server = ShelfServer()
        cls.server.start()
        cls.addClassCleanup(cls.server.stop)

    def make_backend(self) -> ShelfBackend:
        # Hundreds of operations at once take long on a busy machine.
        return ShelfBackend(self.server.port, timeout=20)


class ShelfOutageTest(OutageContract, unittest.IsolatedAsyncioTestCase):
    def make_server(self) -> ShelfServer:
        return ShelfServer()

    def make_backend(self, port: int, timeout: float) -> ShelfBackend:
        return ShelfBackend(port, timeout=timeout)


class BatchShelfContractTest(ShelfContractTest):
    """So is the one that sends batches."""

    def make_backend(self) -> ShelfBackend:
        return BatchShelfBackend(self.server.port, timeout=20)


class BatchShelfOutageTest(ShelfOutageTest):
    def make_backend(self, port: int, timeout: float) -> ShelfBackend:
        return BatchShelfBackend(port, timeout=timeout)


class SwallowsErrorsOfLoad(ShelfBackend):
    async def load(self, key: bytes) -> Record | None:
        try:
            return await super().load(key)
        except BackendError:
            return None


class SwallowsErrorsOfSave(ShelfBackend):
    async def insert(self, key: bytes, record: Record) -> Version | None:
        with contextlib.suppress(BackendError):
            return await super().insert(key, record)
        return UNKNOWN


class SwallowsErrorsOfDelete(ShelfBackend):
    async def delete(self, key: bytes) -> None:
        with contextlib.suppress(BackendError):
            await super().delete(key)


class SwallowsErrorsOfPurge(ShelfBackend):
    async def purge(self, now: float) -> int:
        try:
            return await super().purge(now)
        except BackendError:
            return 0


class SwallowsErrorsOfFind(ShelfBackend):
    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        with contextlib.suppress(BackendError):
            async for found in super().find(user):
                yield found


class LetsTheDriversErrorBy(ShelfBackend):
    async def load(self, key: bytes) -> Record | None:
        return await self.load_from(Client(self.port), key)


class LosesTheCause(ShelfBackend):
    async def load(self, key: bytes) -> Record | None:
        try:
            return await super().load(key)
        except BackendError as error:
            raise BackendError(str(error)) from None


class MakesACancellationAnError(ShelfBackend):
    async def load(self, key: bytes) -> Record | None:
        try:
            return await super().load(key)
        except asyncio.CancelledError as error:
            raise BackendError("It failed.") from error


class HasNoTimeout(ShelfBackend):
    async def load(self, key: bytes) -> Record | None:
        try:
            return await self.load_from(Client(self.port), key)
        except (OSError, ShelfError) as error:
            raise BackendError("It failed.") from error


class RepeatsAWrite(ShelfBackend):
    async def insert_into(
        self, client: Client, key: bytes, record: Record
    ) -> Version | None:
        try:
            return await super().insert_into(client, key, record)
        except (OSError, ShelfError):
            return await super().insert_into(client, key, record)


class RepeatsABatch(BatchShelfBackend):
    async def write_many(
        self, client: Client, writes: Sequence[Write]
    ) -> Sequence[Version | Exception | None]:
        try:
            return await super().write_many(client, writes)
        except (OSError, ShelfError) as error:
            # As if it knew.
            raise NothingAppliedError from error


class PutsTheKeyIntoAMessage(ShelfBackend):
    async def load(self, key: bytes) -> Record | None:
        try:
            return await super().load(key)
        except BackendError as error:
            raise BackendError(f"{key.hex()} cannot be loaded.") from error


class LogsTheKey(ShelfBackend):
    async def load(self, key: bytes) -> Record | None:
        logging.getLogger("shelf").debug("loading %s", key.hex())
        return await super().load(key)


class ReusesAConnectionAfterATimeout(ShelfBackend):
    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(port, **options)
        self._streams: Any = None

    async def load_from(self, client: Client, key: bytes) -> Record | None:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        writer.write(json.dumps(["load", {"key": key.hex()}]).encode() + b"\n")
        found = json.loads(await reader.readline())
        return (
            None
            if found is None
            else Record(base64.b64decode(found["data"]), found["version"])
        )

    async def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        await super().close()


class ConnectsTwice(ShelfBackend):
    """Each of the first operations connects, and the last one's pool stays."""

    connected = False

    async def load(self, key: bytes) -> Record | None:
        if not self.connected:
            client = Client(self.port)
            _left_open.append(client)
            await client.ask("load", key=key.hex())
        self.connected = True
        return await super().load(key)


class ConnectsInTheConstructor(ShelfBackend):
    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(port, **options)
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()


class UsesIdleConnectionsOfBefore(ShelfBackend):
    async def connect(self) -> Client:
        return _TrustingClient(self.port)


class _TrustingClient(Client):
    async def _acquire(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self._idle.pop() if self._idle else await super()._acquire()


class LeavesConnectionsOpen(ShelfBackend):
    async def disconnect(self, client: Client) -> None:
        _left_open.append(client)


_left_open: list[Client] = []


class BlocksWhileItConnects(ShelfBackend):
    async def load_from(self, client: Client, key: bytes) -> Record | None:
        time.sleep(0.03)  # noqa: ASYNC251 - that is the fault
        return await super().load_from(client, key)


class AcknowledgesWhatIsNotDurable(ShelfBackend):
    async def insert_into(
        self, client: Client, key: bytes, record: Record
    ) -> Version | None:
        data = base64.b64encode(record.data).decode()
        asked = {"data": data, "expires": record.expires, "user": record.user}
        return bool(await client.ask("insert_for_now", key=key.hex(), **asked))


class HasASynchronousDriver(ShelfBackend):
    """It waits for the answer to a deletion on the event loop."""

    async def delete_from(self, client: Client, key: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.port), 0.1) as connection:
            asked = json.dumps(["delete", {"key": key.hex()}])
            connection.sendall(asked.encode() + b"\n")
            connection.recv(100)


_FAULTS = {
    AcknowledgesWhatIsNotDurable: "an_acknowledged_write_survives_a_killed_server",
    HasASynchronousDriver: "the_event_loop_goes_on_while_it_connects",
    SwallowsErrorsOfLoad: "a_store_that_is_down_fails_every_operation",
    SwallowsErrorsOfSave: "a_store_that_is_down_fails_every_operation",
    SwallowsErrorsOfDelete: "a_store_that_is_down_fails_every_operation",
    SwallowsErrorsOfPurge: "a_store_that_is_down_fails_every_operation",
    SwallowsErrorsOfFind: "a_store_that_is_down_fails_every_operation",
    LetsTheDriversErrorBy: "a_server_of_another_kind_fails_every_operation",
    LosesTheCause: "a_store_that_hangs_up_fails_every_operation",
    MakesACancellationAnError: "a_cancelled_operation_is_cancelled",
    HasNoTimeout: "a_store_that_never_answers_fails_every_operation",
    RepeatsAWrite: "a_write_whose_reply_is_lost_is_not_repeated",
    RepeatsABatch: "a_batch_whose_reply_is_lost_is_not_repeated",
    PutsTheKeyIntoAMessage: "a_store_that_is_down_fails_every_operation",
    LogsTheKey: "a_store_that_is_down_fails_every_operation",
    ReusesAConnectionAfterATimeout: "a_store_that_hangs_fails_what_is_in_progress",
    ConnectsTwice: "closing_leaves_nothing_open",
    ConnectsInTheConstructor: "a_constructor_connects_to_nothing",
    UsesIdleConnectionsOfBefore: ("no_operation_fails_once_a_restarted_store_answers"),
    LeavesConnectionsOpen: "closing_leaves_nothing_open",
    BlocksWhileItConnects: "the_event_loop_goes_on_while_it_connects",
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(fault: type[ShelfBackend]) -> None:
    """The test that it names fails, and for no other reason: the good one passes."""

    class FaultTest(OutageContract, unittest.IsolatedAsyncioTestCase):
        patience = 3.0

        def make_server(self) -> ShelfServer:
            return ShelfServer()

        def make_backend(self, port: int, timeout: float) -> ShelfBackend:
            return fault(port, timeout=timeout)

        async def asyncTearDown(self) -> None:
            while _left_open:
                _left_open.pop().close()

    result = unittest.TestResult()
    FaultTest(f"test_{_FAULTS[fault]}").run(result)

    assert not result.wasSuccessful()

"""Tests of the contract of a backend: each fault that is planted here is found."""

from __future__ import annotations

import abc
import asyncio
import collections
import itertools
import json
import math
import os
import secrets
import socket
import threading
import time
import unittest
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from tornado_sessions_memory import MemoryBackend

from tests.shelf import BatchShelfBackend, Client, ShelfBackend, ShelfServer
from tornado_sessions.storage.backend import Backend, Record, Version
from tornado_sessions.storage.batches import NothingAppliedError
from tornado_sessions.storage.operations import Write
from tornado_sessions.testing import BackendContract


@pytest.fixture(scope="module")
def server() -> Iterator[ShelfServer]:
    with ShelfServer() as server:
        yield server


# Event loops and processes.


class IsGoodInOneEventLoop(ShelfBackend):
    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(port, **options)
        self._first: Client | None = None

    async def connect(self) -> Client:
        self._first = self._first or await super().connect()
        return self._first

    async def disconnect(self, client: Client) -> None:
        """Keeps it: the backend may be used again."""


class LoadsNothingOnceClosed(ShelfBackend):
    is_closed_now = False

    async def load(self, key: bytes) -> Record | None:
        return None if self.is_closed_now else await super().load(key)

    async def close(self) -> None:
        self.is_closed_now = True
        await super().close()


class DeletesNothingOnceClosed(LoadsNothingOnceClosed):
    async def load(self, key: bytes) -> Record | None:
        return await ShelfBackend.load(self, key)

    async def delete(self, key: bytes) -> None:
        if not self.is_closed_now:
            await super().delete(key)


class FindsNothingOnceClosed(DeletesNothingOnceClosed):
    async def delete(self, key: bytes) -> None:
        await ShelfBackend.delete(self, key)

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        if not self.is_closed_now:
            async for found in super().find(user):
                yield found


class PurgesNothingOnceClosed(DeletesNothingOnceClosed):
    async def delete(self, key: bytes) -> None:
        await ShelfBackend.delete(self, key)

    async def purge(self, now: float) -> int:
        return 0 if self.is_closed_now else await super().purge(now)


class _BlockingClient(Client):
    """Has one socket, of which no event loop knows."""

    _socket: socket.socket | None = None

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self._lock = threading.Lock()

    async def ask(self, name: str, **arguments: Any) -> Any:  # noqa: ANN401 - JSON
        return self.ask_at_once(name, arguments)

    def ask_at_once(self, name: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
        with self._lock:
            if self._socket is None:
                address = "127.0.0.1", self.port
                self._socket = socket.create_connection(address, timeout=1)
            self._socket.sendall(json.dumps([name, arguments]).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                answer += self._socket.recv(2**20)
            return json.loads(answer)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


class _ThreadedClient(_BlockingClient):
    async def ask(self, name: str, **arguments: Any) -> Any:  # noqa: ANN401 - JSON
        try:
            return await asyncio.to_thread(self.ask_at_once, name, arguments)
        except ValueError as error:
            raise OSError from error


class SharesAConnectionAfterAFork(ShelfBackend):
    """The socket of the parent is used in the child as well."""

    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(port, **options)
        self._client = _ThreadedClient(port)

    async def connect(self) -> Client:
        return self._client

    async def disconnect(self, client: Client) -> None:
        """Keeps it."""


class ClosesTheConnectionOfItsParent(ShelfBackend):
    """That takes its sockets out of the parent's event loop."""

    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(port, **options)
        self._clients: dict[int, Client] = {}

    async def connect(self) -> Client:
        client = self._clients[os.getpid()] = await super().connect()
        for process, other in self._clients.items():
            if process != os.getpid():
                other.close()
        return client


class HasItsRecordsInEachProcess(MemoryBackend):
    """Declares what it is not. The child loses what the parent has."""

    durable = shared = True

    def __init__(self) -> None:
        super().__init__(any_process=True)
        self._used_in = os.getpid()

    async def load(self, key: bytes) -> Record | None:
        return await super().load(key) if os.getpid() == self._used_in else None


# Time.


class PurgesByTheMinuteBefore(MemoryBackend):
    async def purge(self, now: float) -> int:
        return await super().purge(now // 60 * 60)


class PurgesByTheNextMinute(MemoryBackend):
    async def purge(self, now: float) -> int:
        return await super().purge(math.ceil(now / 60) * 60)


class PurgesByTheNearestMinute(MemoryBackend):
    async def purge(self, now: float) -> int:
        return await super().purge(round(now / 60) * 60)


class PurgesFiveMinutesEarly(MemoryBackend):
    async def purge(self, now: float) -> int:
        return await super().purge(now + 299)


class PurgesFiveMinutesLate(MemoryBackend):
    async def purge(self, now: float) -> int:
        return await super().purge(now - 300)


class RoundsTheExpiryDown(MemoryBackend):
    async def insert(self, key: bytes, record: Record) -> Version | None:
        expires = float(int(record.expires))
        record = Record(record.data, expires=expires, user=record.user)
        return await super().insert(key, record)


class SelectsAndThenDeletes(ShelfBackend):
    async def purge_in(self, client: Client, now: float) -> int:
        expired = await client.ask("expired", now=now)
        for key in expired:
            await client.ask("delete", key=key)
        return len(expired)


class PostponesTheExpiryWithEachLoad(MemoryBackend):
    async def load(self, key: bytes) -> Record | None:
        record = await super().load(key)
        if record is None:
            return None
        user = record.version.owner.name
        later = time.time() + 7200
        await self.replace(
            key, Record(record.data, expires=later, user=user), record.version
        )
        return await super().load(key)


class ForgetsByTheSecond(MemoryBackend):
    def __init__(self) -> None:
        super().__init__()
        self._seconds: dict[bytes, int] = {}

    async def insert(self, key: bytes, record: Record) -> Version | None:
        self._seconds[key] = int(record.expires)
        return await super().insert(key, record)

    async def load(self, key: bytes) -> Record | None:
        forgotten = time.time() > self._seconds.get(key, 0)
        return None if forgotten else await super().load(key)


# The event loop.


class BlocksWhilePurging(MemoryBackend):
    async def purge(self, now: float) -> int:
        time.sleep(0.025)  # noqa: ASYNC251 - that is the fault
        return await super().purge(now)


class BlocksWithALongRecord(MemoryBackend):
    async def load(self, key: bytes) -> Record | None:
        record = await super().load(key)
        if record is not None and len(record.data) > 60_000:
            time.sleep(0.025)  # noqa: ASYNC251 - that is the fault
        return record


class HasASynchronousDriver(ShelfBackend):
    async def connect(self) -> Client:
        return _BlockingClient(self.port)


# Data.


class FindsTheFirstThousand(MemoryBackend):
    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        count = 0
        async for found in super().find(user):
            if count < 1000:
                yield found
            count += 1


class FindsTheFirstMegabyte(MemoryBackend):
    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        length = 0
        async for key, record in super().find(user):
            length += len(record.data)
            if length <= 2**20:
                yield key, record


class ListsTheFirstThousand(MemoryBackend):
    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        count = 0
        async for found in super().find_all():
            if count < 1000:
                yield found
            count += 1


class ListsPagesByTheirNumber(MemoryBackend):
    """What follows a deleted record moves to the page before, which was read already."""

    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        for start in itertools.count(0, 100):
            found = [each async for each in MemoryBackend.find_all(self)]
            for each in found[start : start + 100]:
                yield each
            if start >= len(found):
                return


class ListsWithoutUsers(MemoryBackend):
    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        async for key, record in super().find_all():
            yield key, Record(record.data, record.version)


class ListsUsersInLowerCase(MemoryBackend):
    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        async for key, record in super().find_all():
            user = (record.user or "").lower()
            yield key, Record(record.data, record.version, user=user)


class ListsNewVersions(MemoryBackend):
    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        async for key, record in super().find_all():
            yield key, Record(record.data, object(), user=record.user)


class _NotesRecords(MemoryBackend):
    def __init__(self) -> None:
        super().__init__()
        self.noted: dict[bytes, Record] = {}

    async def insert(self, key: bytes, record: Record) -> Version | None:
        self.noted[key] = record
        return await super().insert(key, record)


class ListsAnonymousRecords(_NotesRecords):
    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        for key, record in self.noted.items():
            await asyncio.sleep(0)
            yield key, record


class ListsAsInserted(_NotesRecords):
    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        for key, record in self.noted.items():
            await asyncio.sleep(0)
            if record.user is not None:
                yield key, record


class BlocksWhileListing(_NotesRecords):
    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        for key, record in self.noted.items():
            if record.user is not None:
                yield key, record


class StoresTheUserAfterTheRecord(ShelfBackend):
    async def insert_into(
        self, client: Client, key: bytes, record: Record
    ) -> Version | None:
        anonymous = Record(record.data, expires=record.expires)
        version = await super().insert_into(client, key, anonymous)
        if version is None or record.user is None:
            return version
        return await self.replace_in(client, key, record, version)


class LeavesUsersBehind(MemoryBackend):
    """Its index keeps what was deleted, and ``find`` leaves it out."""

    def __init__(self) -> None:
        super().__init__()
        self._index: dict[str, set[bytes]] = collections.defaultdict(set)

    async def insert(self, key: bytes, record: Record) -> Version | None:
        if record.user is not None:
            self._index[record.user].add(key)
        return await super().insert(key, record)

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        for keys in self._index.values():
            keys.discard(key)
        if record.user is not None:
            self._index[record.user].add(key)
        return await super().replace(key, record, version)

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        for key in list(self._index[user]):
            record = await self.load(key)
            if record is not None:
                yield key, record


class StripsSpaces(MemoryBackend):
    stripped = b" "

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        async for key, record in super().find(user):
            yield key.rstrip(self.stripped), record


class StripsZeros(StripsSpaces):
    stripped = b"\0"


class _OwnVersions(MemoryBackend, abc.ABC):
    def __init__(self) -> None:
        super().__init__()
        self._versions: dict[bytes, int] = {}

    @abc.abstractmethod
    def next_version(self) -> int:
        """Returns the version of the record that is being stored."""

    async def load(self, key: bytes) -> Record | None:
        record = await super().load(key)
        return None if record is None else Record(record.data, self._versions[key])

    async def insert(self, key: bytes, record: Record) -> Version | None:
        if await super().insert(key, record) is None:
            return None
        return self._note(key)

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        stored = await super().load(key)
        if stored is None or self._versions[key] != version:
            return None
        await super().replace(key, record, stored.version)
        return self._note(key)

    def _note(self, key: bytes) -> int:
        self._versions[key] = self.next_version()
        return self._versions[key]


class HasRandomVersionsOf16Bits(_OwnVersions):
    def next_version(self) -> int:
        return secrets.randbits(16)


class CountsVersionsIn16Bits(_OwnVersions):
    _count = 0

    def next_version(self) -> int:
        self._count += 1
        return self._count % 2**16


class CountsVersionsInEachProcess(ShelfBackend):
    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(port, **options)
        self._count = itertools.count(1)

    async def insert_into(
        self, client: Client, key: bytes, record: Record
    ) -> Version | None:
        return await client.ask(
            "insert",
            key=key.hex(),
            data="",
            expires=0,
            user=None,
            new_version=next(self._count),
        )


class AsksForTheVersionAfterTheWrite(ShelfBackend):
    """Another write may have come in between."""

    async def replace_in(
        self, client: Client, key: bytes, record: Record, version: Version
    ) -> Version | None:
        if await super().replace_in(client, key, record, version) is None:
            return None
        # As on a busy network.
        await asyncio.sleep(0.005)
        stored = await self.load_from(client, key)
        return None if stored is None else stored.version


class ReturnsTheVersionThatItReplaced(ShelfBackend):
    async def replace_in(
        self, client: Client, key: bytes, record: Record, version: Version
    ) -> Version | None:
        stored = await super().replace_in(client, key, record, version)
        return None if stored is None else version


class ReturnsWhetherItHasStored(MemoryBackend):
    """False is not None: the core takes it for a version."""

    async def insert(self, key: bytes, record: Record) -> Version | None:
        return await super().insert(key, record) is not None


class CutsLongRecords(MemoryBackend):
    def __init__(self) -> None:
        super().__init__()
        # The memory backend always has a limit; the fault is in one that has none.
        self.max_bytes = None  # type: ignore[assignment]

    async def insert(self, key: bytes, record: Record) -> Version | None:
        data = record.data[:187_000]
        record = Record(data, expires=record.expires, user=record.user)
        return await super().insert(key, record)


# Batches.

_Records = Sequence[Record | Exception | None]
_Outcomes = Sequence[Version | Exception | None]


class ReturnsTheRecordOfAnotherKey(BatchShelfBackend):
    async def load_many(self, client: Client, keys: Sequence[bytes]) -> _Records:
        first, *others = await super().load_many(client, keys)
        return [*others, first]


class LeavesOutWhatIsMissing(BatchShelfBackend):
    async def load_many(self, client: Client, keys: Sequence[bytes]) -> _Records:
        found = await super().load_many(client, keys)
        return [record for record in found if record is not None]


class FailsAsAWholeForOneKey(BatchShelfBackend):
    """Where a record is missing, it takes that for an error."""

    async def load_many(self, client: Client, keys: Sequence[bytes]) -> _Records:
        found = await super().load_many(client, keys)
        if None in found:
            raise OSError("A record is missing.")
        return found


class SwapsOutcomes(BatchShelfBackend):
    async def write_many(self, client: Client, writes: Sequence[Write]) -> _Outcomes:
        return [*await super().write_many(client, writes)][::-1]


class ReturnsTheVersionsOfOthers(BatchShelfBackend):
    """Who has stored is right."""

    async def write_many(self, client: Client, writes: Sequence[Write]) -> _Outcomes:
        outcomes = await super().write_many(client, writes)
        versions = [version for version in outcomes if version is not None]
        return [version and versions.pop() for version in outcomes]


class TellsAllThatTheyAreStored(BatchShelfBackend):
    async def write_many(self, client: Client, writes: Sequence[Write]) -> _Outcomes:
        outcomes = await super().write_many(client, writes)
        return [outcome or 1 for outcome in outcomes]


class RepeatsWhatWasApplied(BatchShelfBackend):
    async def write_many(self, client: Client, writes: Sequence[Write]) -> _Outcomes:
        await super().write_many(client, writes)
        raise NothingAppliedError


class TellsTwoWritesOfOneKeyThatTheyAreStored(BatchShelfBackend):
    """The second one is taken for the first."""

    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(port, **options)
        self._writing: dict[bytes, asyncio.Task[Version | None]] = {}

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        if key not in self._writing:
            writing = asyncio.ensure_future(super().replace(key, record, version))
            self._writing[key] = writing
            writing.add_done_callback(lambda _: self._writing.pop(key))
        return await self._writing[key]


class CancelsAllWithOne(BatchShelfBackend):
    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(port, **options)
        self._writing: set[asyncio.Task[Any]] = set()

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        writing = asyncio.ensure_future(super().replace(key, record, version))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        try:
            return await writing
        except asyncio.CancelledError:
            for other in self._writing:
                other.cancel()
            raise


class JoinsALoadInProgress(BatchShelfBackend):
    """That has begun before the write whose result it should see."""

    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(port, **options)
        self._loading: dict[bytes, asyncio.Task[Record | None]] = {}

    async def load(self, key: bytes) -> Record | None:
        if key not in self._loading:
            loading = asyncio.ensure_future(self._load_slowly(key))
            self._loading[key] = loading
            loading.add_done_callback(lambda _: self._loading.pop(key))
        return await self._loading[key]

    async def _load_slowly(self, key: bytes) -> Record | None:
        record = await super().load(key)
        # As on a busy network.
        await asyncio.sleep(0.01)
        return record


_AFTER_CLOSING = "a_closed_backend_never_claims_what_is_not_so"
_AFTER_A_FORK = "parent_and_child_do_not_disturb_each_other"
_OUTCOMES = "writes_that_begin_together_have_each_its_own_outcome"
_EXACT = "purging_is_exact_to_a_second"

_FAULTS: dict[type[Backend], str] = {
    IsGoodInOneEventLoop: "a_backend_works_in_one_event_loop_after_another",
    LoadsNothingOnceClosed: _AFTER_CLOSING,
    DeletesNothingOnceClosed: _AFTER_CLOSING,
    FindsNothingOnceClosed: _AFTER_CLOSING,
    PurgesNothingOnceClosed: _AFTER_CLOSING,
    SharesAConnectionAfterAFork: _AFTER_A_FORK,
    ClosesTheConnectionOfItsParent: _AFTER_A_FORK,
    HasItsRecordsInEachProcess: _AFTER_A_FORK,
    PurgesByTheMinuteBefore: _EXACT,
    PurgesByTheNextMinute: _EXACT,
    PurgesByTheNearestMinute: _EXACT,
    PurgesFiveMinutesEarly: _EXACT,
    PurgesFiveMinutesLate: _EXACT,
    RoundsTheExpiryDown: _EXACT,
    SelectsAndThenDeletes: "what_is_renewed_during_a_purge_stays",
    PostponesTheExpiryWithEachLoad: "loading_does_not_postpone_the_expiry",
    ForgetsByTheSecond: "a_record_is_kept_until_it_expires",
    BlocksWhilePurging: "purging_does_not_block_the_event_loop",
    BlocksWithALongRecord: "a_long_record_does_not_block_the_event_loop",
    HasASynchronousDriver: "a_save_lets_the_event_loop_go_on",
    FindsTheFirstThousand: "find_answers_all_records_of_a_user_and_no_others",
    FindsTheFirstMegabyte: "find_yields_long_records",
    ListsTheFirstThousand: "find_all_yields_the_records_of_all_users",
    ListsWithoutUsers: "find_all_yields_the_records_of_all_users",
    ListsUsersInLowerCase: "find_all_yields_names_unchanged",
    ListsPagesByTheirNumber: "what_is_deleted_meanwhile_hides_no_other_record",
    ListsNewVersions: "a_version_that_find_all_yields_can_be_used",
    ListsAnonymousRecords: "find_all_leaves_out_what_has_no_user",
    ListsAsInserted: "find_all_yields_the_newest_user_and_no_deleted_record",
    BlocksWhileListing: "other_tasks_run_while_records_are_listed",
    StoresTheUserAfterTheRecord: ("a_record_of_a_cancelled_save_is_found_for_its_user"),
    LeavesUsersBehind: "a_key_that_is_used_again_has_no_user_of_before",
    StripsSpaces: "find_yields_whole_keys",
    StripsZeros: "find_yields_whole_keys",
    HasRandomVersionsOf16Bits: "a_version_is_never_used_again",
    CountsVersionsIn16Bits: "a_version_is_never_used_again",
    CountsVersionsInEachProcess: (
        "a_version_of_another_process_is_stale_after_a_deletion"
    ),
    AsksForTheVersionAfterTheWrite: "a_write_never_returns_the_version_of_another_write",
    ReturnsTheVersionThatItReplaced: "a_write_returns_the_version_that_it_has_stored",
    ReturnsWhetherItHasStored: "inserting_never_overwrites",
    ReturnsTheRecordOfAnotherKey: "loads_that_begin_together_return_each_its_own",
    LeavesOutWhatIsMissing: "loads_that_begin_together_return_each_its_own",
    FailsAsAWholeForOneKey: "loads_that_begin_together_return_each_its_own",
    SwapsOutcomes: _OUTCOMES,
    ReturnsTheVersionsOfOthers: (
        "a_version_that_a_write_returned_is_that_of_its_own_key"
    ),
    TellsAllThatTheyAreStored: _OUTCOMES,
    RepeatsWhatWasApplied: _OUTCOMES,
    TellsTwoWritesOfOneKeyThatTheyAreStored: (
        "of_two_writes_of_one_key_together_one_is_stored"
    ),
    CancelsAllWithOne: "a_cancelled_write_does_not_harm_those_beside_it",
    JoinsALoadInProgress: "a_load_that_begins_after_a_write_sees_it",
    CutsLongRecords: "without_max_bytes_long_records_are_stored_whole",
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("fault", _FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(
    fault: type[MemoryBackend | ShelfBackend], server: ShelfServer
) -> None:
    """The test that it names fails, which a good backend passes."""

    class FaultTest(BackendContract, unittest.IsolatedAsyncioTestCase):
        patience = 3.0

        def make_backend(self) -> Backend:
            if issubclass(fault, ShelfBackend):
                return fault(server.port)
            return fault()

    result = unittest.TestResult()
    FaultTest(f"test_{_FAULTS[fault]}").run(result)

    assert not result.wasSuccessful()
    assert not result.skipped

"""A store of its own for the tests of the contracts: server, driver, backend.

The server runs as ``python -m tests.shelf PORT FILE`` and answers each line of
JSON with one. What it has acknowledged is in the file.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from servers.processes import Server
from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.driver import DriverBackend
from tornado_sessions.storage.operations import Write

# How many records `find` sends at a time, and `purge` removes.
_PAGE = 100


class ShelfServer(Server):
    """The server program."""

    scheme = "shelf"

    def _program(self) -> str:
        return sys.executable

    def _arguments(self, folder: Path) -> list[str]:
        return ["-m", "tests.shelf", str(self.port), str(folder / "records")]


class ShelfError(Exception):
    """The error of the driver."""


class Client:
    """The driver: a pool of connections, each with one request at a time."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, name: str, **arguments: Any) -> Any:  # noqa: ANN401 - JSON
        reader, writer = await self._acquire()
        try:
            writer.write(json.dumps([name, arguments]).encode() + b"\n")
            answer = json.loads(await reader.readline())
        except BaseException as error:
            # An answer that is still to come must not meet the next request.
            writer.transport.abort()
            if isinstance(error, ValueError):
                raise ShelfError("The server answered no JSON.") from None
            raise
        self._idle.append((reader, writer))
        return answer

    async def _acquire(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return reader, writer
            writer.transport.abort()
        return await asyncio.open_connection("127.0.0.1", self.port, limit=2**25)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.transport.abort()


class ShelfBackend(DriverBackend[Client]):
    """A good backend: it passes both contracts."""

    durable = shared = finds_by_user = True
    store = "The shelf"
    errors = (ShelfError,)

    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(f"127.0.0.1:{port}", **options)
        self.port = port

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> ShelfBackend:
        port, _, query = url.rpartition(":")[2].partition("?")
        if not port.isdigit():
            raise ValueError("The URL of a shelf ends with the port.")
        return cls(int(port), **cls.read_options("shelf", query))

    async def connect(self) -> Client:
        return Client(self.port)

    async def disconnect(self, client: Client) -> None:
        client.close()

    async def load_from(self, client: Client, key: bytes) -> Record | None:
        found = await client.ask("load", key=key.hex())
        return None if found is None else _record(found)

    async def insert_into(
        self, client: Client, key: bytes, record: Record
    ) -> Version | None:
        return await client.ask("insert", key=key.hex(), **_fields(record))

    async def replace_in(
        self, client: Client, key: bytes, record: Record, version: Version
    ) -> Version | None:
        return await client.ask(
            "replace", key=key.hex(), version=version, **_fields(record)
        )

    async def delete_from(self, client: Client, key: bytes) -> None:
        await client.ask("delete", key=key.hex())

    async def purge_in(self, client: Client, now: float) -> int:
        return int(await client.ask("purge", now=now))

    async def find_in(
        self, client: Client, user: str
    ) -> AsyncIterator[list[tuple[bytes, Record]]]:
        last = ""
        while page := await client.ask("find", user=user, last=last):
            yield [(bytes.fromhex(key), _record(found)) for key, found in page]
            last = page[-1][0]


class BatchShelfBackend(ShelfBackend):
    """A good backend that sends what begins together in batches.

    The operations on the keys in `failing` fail, and those on the keys in `hanging`
    get no answer, whether alone or in a batch.
    """

    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(port, **options)
        self.failing: set[bytes] = set()
        self.hanging: set[bytes] = set()
        #: How many operations each batch had.
        self.batches: list[int] = []

    async def load_from(self, client: Client, key: bytes) -> Record | None:
        await self._admit([key])
        return await super().load_from(client, key)

    async def insert_into(
        self, client: Client, key: bytes, record: Record
    ) -> Version | None:
        await self._admit([key])
        return await super().insert_into(client, key, record)

    async def replace_in(
        self, client: Client, key: bytes, record: Record, version: Version
    ) -> Version | None:
        await self._admit([key])
        return await super().replace_in(client, key, record, version)

    async def load_many(
        self, client: Client, keys: Sequence[bytes]
    ) -> Sequence[Record | Exception | None]:
        self.batches.append(len(keys))
        good = await self._admit(keys)
        calls = [["load", {"key": key.hex()}] for key in good]
        answers = await client.ask("answer_all", calls=calls)
        found = dict(zip(good, answers, strict=True))
        return [
            self._error()
            if key in self.failing
            else None
            if found[key] is None
            else _record(found[key])
            for key in keys
        ]

    async def write_many(
        self, client: Client, writes: Sequence[Write]
    ) -> Sequence[Version | Exception | None]:
        self.batches.append(len(writes))
        good = await self._admit([write.key for write in writes])
        calls = [_call(write) for write in writes if write.key in good]
        answers = await client.ask("answer_all", calls=calls)
        stored = dict(zip(good, answers, strict=True))
        return [
            self._error() if write.key in self.failing else stored[write.key]
            for write in writes
        ]

    async def _admit(self, keys: Sequence[bytes]) -> list[bytes]:
        """Returns the keys that do not fail, unless one of them hangs."""
        if not self.hanging.isdisjoint(keys):
            await asyncio.Event().wait()
        if len(keys) == 1 and keys[0] in self.failing:
            raise self._error()
        return [key for key in keys if key not in self.failing]

    def _error(self) -> ShelfError:
        return ShelfError("The server refuses this key.")


def _call(write: Write) -> list[Any]:
    """Returns what the server is asked for a write."""
    key = {"key": write.key.hex()}
    if write.record is None:
        return ["delete", key]
    if write.version is None:
        return ["insert", {**key, **_fields(write.record)}]
    return ["replace", {**key, "version": write.version, **_fields(write.record)}]


def _fields(record: Record) -> dict[str, Any]:
    return {
        "data": base64.b64encode(record.data).decode(),
        "expires": record.expires,
        "user": record.user,
    }


def _record(found: Mapping[str, Any]) -> Record:
    return Record(base64.b64decode(found["data"]), found["version"])


class _Shelf:
    """The records of the server, and what it answers."""

    def __init__(self, path: Path) -> None:
        self._records: dict[str, dict[str, Any]] = {}
        # Never one that was there before, whatever a restart has forgotten.
        self._versions = itertools.count(int.from_bytes(os.urandom(6), "big"))
        if path.exists():
            for line in path.read_text().splitlines():
                key, record = json.loads(line)
                self._put_back(key, record)
        self._file = path.open("a")

    def answer(self, name: str, arguments: dict[str, Any]) -> object:
        method: Callable[..., object] = getattr(self, name)
        return method(**arguments)

    def answer_all(self, calls: list[tuple[str, dict[str, Any]]]) -> list[object]:
        return [self.answer(*call) for call in calls]

    def load(self, key: str) -> dict[str, Any] | None:
        return self._records.get(key)

    def insert(self, key: str, **record: Any) -> int | None:
        return None if key in self._records else self._put(key, record)

    def insert_for_now(self, key: str, **record: Any) -> int:
        """Acknowledges what is not in the file."""
        version = next(self._versions)
        self._records[key] = {**record, "version": version}
        return version

    def replace(self, key: str, version: int, **record: Any) -> int | None:
        stored = self._records.get(key)
        if stored is None or stored["version"] != version:
            return None
        return self._put(key, record)

    def delete(self, key: str) -> None:
        self._note(key, None)

    def purge(self, now: float) -> int:
        expired = self.expired(now)
        for key in expired:
            self._note(key, None)
        return len(expired)

    def expired(self, now: float) -> list[str]:
        return [
            key
            for key, record in self._records.items()
            if record["expires"] and record["expires"] < now
        ][:_PAGE]

    def find(self, user: str, last: str) -> list[Any]:
        found = sorted(
            (key, record)
            for key, record in self._records.items()
            if record["user"] == user and key > last
        )
        return found[:_PAGE]

    def _put(self, key: str, record: dict[str, Any]) -> int:
        version: int = record.pop("new_version", None) or next(self._versions)
        self._note(key, {**record, "version": version})
        return version

    def _note(self, key: str, record: dict[str, Any] | None) -> None:
        self._put_back(key, record)
        self._file.write(json.dumps([key, record]) + "\n")
        self._file.flush()

    def _put_back(self, key: str, record: dict[str, Any] | None) -> None:
        if record is None:
            self._records.pop(key, None)
        else:
            self._records[key] = record


async def _serve(port: int, path: Path) -> None:
    shelf = _Shelf(path)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            answer = shelf.answer(*json.loads(line))
            writer.write(json.dumps(answer).encode() + b"\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", port, limit=2**25)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))

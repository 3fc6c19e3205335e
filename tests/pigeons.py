"""A store of its own for the tests of `DriverBackend`: server, driver, backend.

The store is a server in this process that keeps notes, and can be told to fail and
to hang. Its driver does what a driver does, no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.driver import DriverBackend

KEY = b"k" * 32


class PigeonError(Exception):
    """The driver's own error, with a code and a text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Loft:
    """The server: its notes, and what is wrong with it."""

    def __init__(self) -> None:
        self.notes: dict[bytes, tuple[int, bytes, str | None, float]] = {}
        self.number = 0
        self.error: PigeonError | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.connected = self.disconnected = self.finding = 0


class Pigeon:
    """The driver: a connection to a loft."""

    def __init__(self, loft: Loft) -> None:
        self.loft = loft
        self.loop = asyncio.get_running_loop()

    async def fly(self) -> dict[bytes, tuple[int, bytes, str | None, float]]:
        assert self.loop is asyncio.get_running_loop()
        await asyncio.sleep(0)
        await self.loft.answers.wait()
        if self.loft.error is not None:
            raise self.loft.error
        return self.loft.notes


class PigeonBackend(DriverBackend[Pigeon]):
    durable = shared = finds_by_user = True
    store = "The loft"
    errors = (PigeonError,)
    advice: ClassVar[Mapping[int | str, str]] = {
        13: "Grant it the roof.",
        "no seeds": "Feed them.",
    }
    options: ClassVar[Mapping[str, type]] = {"colour": str}

    def __init__(self, address: str, loft: Loft, **options: Any) -> None:
        super().__init__(address, **options)
        self.loft = loft

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> PigeonBackend:
        _, _, query = url.partition("?")
        options = cls.read_options("pigeon", query)
        options.pop("colour", None)
        return cls("roof", Loft(), **options)

    async def connect(self) -> Pigeon:
        pigeon = Pigeon(self.loft)
        await pigeon.fly()
        self.loft.connected += 1
        return pigeon

    async def disconnect(self, connection: Pigeon) -> None:
        await connection.fly()
        self.loft.disconnected += 1

    async def load_from(self, connection: Pigeon, key: bytes) -> Record | None:
        note = (await connection.fly()).get(key)
        return None if note is None else Record(note[1], note[0])

    async def insert_into(
        self, connection: Pigeon, key: bytes, record: Record
    ) -> Version | None:
        notes = await connection.fly()
        return None if key in notes else self._put(notes, key, record)

    async def replace_in(
        self, connection: Pigeon, key: bytes, record: Record, version: Version
    ) -> Version | None:
        notes = await connection.fly()
        if key not in notes or notes[key][0] != version:
            return None
        return self._put(notes, key, record)

    def _put(self, notes: dict[bytes, Any], key: bytes, record: Record) -> int:
        self.loft.number += 1
        notes[key] = (
            self.loft.number,
            bytes(record.data),
            record.user,
            record.expires,
        )
        return self.loft.number

    async def delete_from(self, connection: Pigeon, key: bytes) -> None:
        (await connection.fly()).pop(key, None)

    async def purge_in(self, connection: Pigeon, now: float) -> int:
        notes = await connection.fly()
        expired = [k for k, note in notes.items() if note[3] and note[3] < now][:100]
        for key in expired:
            del notes[key]
        return len(expired)

    async def find_in(
        self, connection: Pigeon, user: str
    ) -> AsyncIterator[list[tuple[bytes, Record]]]:
        notes = await connection.fly()
        found = [(k, Record(n[1], n[0])) for k, n in notes.items() if n[2] == user]
        self.loft.finding += 1
        try:
            for begin in range(0, len(found), 2):
                await connection.fly()
                yield found[begin : begin + 2]
        except GeneratorExit:
            await connection.fly()
            raise
        finally:
            self.loft.finding -= 1

    def code_of(self, error: Exception) -> int | None:
        return error.code if isinstance(error, PigeonError) else None

    def is_timeout(self, error: Exception) -> bool:
        return super().is_timeout(error) or self.code_of(error) == 110

    def is_broken(self, connection: Pigeon, error: BaseException) -> bool:
        return isinstance(error, (asyncio.TimeoutError, asyncio.CancelledError))

"""A store with as many sessions as it is to be measured with."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Iterator

from tornado.web import Application

from benchmarks.scale.servers import STORES
from benchmarks.scale.timing import mean_us
from benchmarks.values import VALUES
from tornado_sessions import Sessions
from tornado_sessions.storage.backend import Backend, Record
from tornado_sessions.storage.registry import open_backend
from tornado_sessions.testing import start_session

#: How many sessions a user has.
PER_USER = 10

#: How many sessions of each step are known by their ids, so that they can be loaded.
KNOWN = 3000

#: Until the first session ends, in seconds, and within which time all of them do.
FIRST_END = 7200
ENDS_WITHIN = 86_400

# How many seconds the inserts of one step may take.
_PATIENCE = 40

_INSERTS = 200

# How many bytes of a record are those of its key, which a vault adds.
_BOUND = 16


class Filling:
    """A store that is filled.

    Most of its sessions are copies of one, with other values, because some stores
    compress, and are inserted without the work of a sign-in.
    """

    def __init__(self, url: str) -> None:
        self.name = url.partition(":")[0]
        self.store = STORES[self.name](url)
        backend = open_backend(self.store.url, {})
        assert isinstance(backend, Backend)
        self.backend = backend
        self.app = Application(
            [], session_backend=backend, cookie_secret=secrets.token_hex()
        )
        self.sessions = Sessions.of(self.app)
        self.began = time.time()
        self.count = 0
        self.tokens: list[str] = []
        # How many seconds an insert of the last step took.
        self._pace = 0.0
        self._template = b""

    @property
    def purges(self) -> bool:
        """Whether this process removes what has expired."""
        return type(self.backend).purge is not Backend.purge

    async def fill(self, count: int, known: int = KNOWN) -> bool:
        """Inserts sessions until there are ``count``; so many of them are known.

        Returns False, and inserts none, if it would take too long.
        """
        added = count - self.count
        if self._pace * added > _PATIENCE:
            print(
                f"{self.name}: no more than {self.count:,} sessions, because an insert"
                f" takes {1e6 * self._pace:.0f} µs",
                flush=True,
            )
            return False
        self._template = self._template or await _template()
        numbers = iter(range(self.count, count))
        step = max(2, added // known)
        began = time.perf_counter()
        await asyncio.gather(*(self._insert(numbers, step) for _ in range(_INSERTS)))
        self._pace = (time.perf_counter() - began) / added
        self.count = count
        return True

    async def expire(self, count: int) -> None:
        """Inserts as many sessions that have expired."""

        async def insert(number: int) -> None:
            await self._insert_copy("expired", self.began - random.uniform(1, 600))

        await mean_us(insert, range(count), _INSERTS)

    async def _insert(self, numbers: Iterator[int], step: int) -> None:
        for number in numbers:
            user = user_of(number)
            if number % step:
                end = self.began + FIRST_END + random.uniform(0, ENDS_WITHIN)
                await self._insert_copy(user, end)
            else:
                session = await start_session(self.app, user, **VALUES)
                self.tokens.append(session.expose_token())

    async def _insert_copy(self, user: str, expires: float) -> None:
        noise = random.randbytes(96).hex().encode()
        values = [noise[n : n + 15] for n in range(0, 150, 15)]
        id = secrets.token_urlsafe(12).encode()
        data = self._template % (*values, id, user.encode())
        await self.sessions.vault.insert(Record(data, expires=expires, user=user))


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[Filling]:
    """Yields an empty store, and removes what was put there."""
    filling = Filling(url)
    try:
        yield filling
    finally:
        await filling.sessions.close()
        await filling.store.clear()


def user_of(number: int) -> str:
    """Returns the user of the session with this number."""
    return f"user{number // PER_USER}"


async def _template() -> bytes:
    """Returns the data of a session, with a place for each value, its id and user."""
    backend = open_backend("memory:", {})
    assert isinstance(backend, Backend)
    app = Application([], session_backend=backend, cookie_secret=secrets.token_hex())
    session = await start_session(app, "ada", **VALUES)
    ((_, record),) = [found async for found in backend.find("ada")]
    data = record.data[_BOUND:]
    for text in (*VALUES.values(), session.id, "ada"):
        data = data.replace(f'"{text}"'.encode(), b'"%b"', 1)
    await Sessions.of(app).close()
    return data

"""Lists the keys of all records of a server, page by page."""

from __future__ import annotations

import re

from redis.exceptions import ReadOnlyError

from tornado_sessions_redis.connection import Pool
from tornado_sessions_redis.errors import MovedKeysError
from tornado_sessions_redis.layout import Keys

# How many keys the server looks at for one page, those of others included.
_SCANNED = 500

# How many keys are remembered at the least, so that none is listed twice. The server
# repeats a key only if its hash table has become smaller, and soon after the first
# time: those are the keys of several buckets that have become one.
_REMEMBERED = 10_000

# What says that a server is the same as before, and a primary.
_identify = re.compile(rb"^(?:run_id|role):\w+", re.MULTILINE).findall


class Listing:
    """Lists the keys of all records of ``server``, each once."""

    def __init__(self, server: Pool, keys: Keys) -> None:
        self._server = server
        self._keys = keys
        # None at the beginning, and zero at the end.
        self._cursor: int | None = None
        self._identity: list[bytes] = []
        self._recent: set[bytes] = set()
        self._older: set[bytes] = set()

    def has_ended(self) -> bool:
        return self._cursor == 0

    async def read(self) -> list[bytes]:
        """Returns the keys of the next page, which may be empty.

        Raises `.MovedKeysError` if the server is another one than before, and
        `ReadOnlyError` if it is a replica, which may lack the newest keys.
        """
        cursor, pattern = self._cursor or 0, self._keys.pattern
        replies = await self._server.ask_many(
            [
                ("SCAN", cursor, "MATCH", pattern, "COUNT", _SCANNED),
                # From the same connection, so from the same server.
                ("INFO", "server", "replication"),
            ]
        )
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        (following, names), info = replies
        await self._check(_identify(info))
        self._cursor = int(following)
        page = []
        for name in names:
            key = self._keys.read(name)
            if key is None or key in self._recent or key in self._older:
                continue
            self._recent.add(key)
            page.append(key)
        if len(self._recent) >= _REMEMBERED:
            self._recent, self._older = set(), self._recent
        return page

    async def _check(self, identity: list[bytes]) -> None:
        if b"role:slave" in identity:
            await self._server.leave()
            raise ReadOnlyError("The server may lack the newest sessions")
        if self._cursor is not None and identity != self._identity:
            # There the cursor means another place.
            raise MovedKeysError(
                "The server was restarted or replaced while its keys were listed"
            )
        self._identity = identity

"""The table of the sessions: its statements, and how it is created."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import asyncmy

from tornado_sessions.errors import BackendError
from tornado_sessions_mysql.errors import TABLE_EXISTS, code_of

T = TypeVar("T")

logger = logging.getLogger("tornado_sessions")

# Which schema this release reads and writes. The comment of the table says it.
_VERSION = 1

_schema_of = re.compile(r"tornado_sessions, schema (\d+)").search

# In lower case, as the server or the file system may not tell the cases apart. A name
# has at most 64 characters, with "_expires" for an index.
_is_name = re.compile(r"[a-z_][a-z0-9_]{0,55}").fullmatch

# Keys and users are binary, so every byte counts: a collation would take 'ada', 'Ada'
# and 'ada ' for one, and the two servers have none in common that does not.
_TABLE = """\
CREATE TABLE `{0}` (
    `key`          BINARY(32) PRIMARY KEY,
    version        BIGINT NOT NULL,
    data           LONGBLOB NOT NULL,
    expires        DOUBLE NOT NULL,
    expires_minute DOUBLE,
    user           MEDIUMBLOB,
    user_digest    BINARY(32),
    INDEX `{0}_expires` (expires_minute),
    INDEX `{0}_user` (user_digest)
) ENGINE=InnoDB COMMENT='tornado_sessions, schema {1}'"""

# What happens without an index by a column.
_CONSEQUENCES = {
    "expires_minute": "what has expired is found slowly",
    "user_digest": "the sessions of a user are found slowly",
}

_LOAD = "SELECT data, version FROM `{0}` WHERE `key` = ?"

# By the digest of the user, as an entry of an index has at most 3,072 bytes.
_FIND = """
SELECT `key`, data, version FROM `{0}`
WHERE user_digest = ? AND user = ? AND `key` > ?
ORDER BY `key` LIMIT ?
"""

# One page of all rows, so that no page takes longer for those that have no user.
_FIND_ALL = """
SELECT `key`, CASE WHEN user IS NULL THEN NULL ELSE data END, version, user
FROM `{0}` WHERE `key` > ? ORDER BY `key` LIMIT ?
"""

_INSERT = """
INSERT INTO `{0}`
    (version, data, expires, expires_minute, user, user_digest, `key`)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""

_REPLACE = """
UPDATE `{0}` SET
    version = ?, data = ?, expires = ?, expires_minute = ?, user = ?, user_digest = ?
WHERE `key` = ? AND version = ?
"""

_LOAD_MANY = "SELECT `key`, data, version FROM `{0}` WHERE `key` IN ({1})"

_VERSIONS = "SELECT `key`, version FROM `{0}` WHERE `key` IN ({1})"

# MySQL does not know the type of a parameter by itself here.
_ROW = """
SELECT CAST(? AS SIGNED) AS version, CAST(? AS BINARY) AS data,
    CAST(? AS DOUBLE) AS expires, CAST(? AS DOUBLE) AS expires_minute,
    CAST(? AS BINARY) AS user, CAST(? AS BINARY) AS user_digest,
    CAST(? AS BINARY) AS `key`, CAST(? AS SIGNED) AS old_version
"""

_INSERT_MANY = """
INSERT INTO `{0}`
    (version, data, expires, expires_minute, user, user_digest, `key`)
SELECT version, data, expires, expires_minute, user, user_digest, `key`
FROM ({2}) AS new WHERE `key` IS NOT NULL
"""

# In both, rows that others have locked are left out. The limit has the server find the
# others first. It then joins them by their keys, in this order: a scan would wait for
# the locks of others.
_REPLACE_MANY = """
UPDATE ({2}) AS new STRAIGHT_JOIN (
    SELECT `key` FROM `{0}` WHERE `key` IN ({1}) LIMIT 1000 FOR UPDATE SKIP LOCKED
) AS free ON free.`key` = new.`key`
STRAIGHT_JOIN `{0}` AS old ON old.`key` = free.`key` AND old.version = new.old_version
SET old.version = new.version, old.data = new.data, old.expires = new.expires,
    old.expires_minute = new.expires_minute, old.user = new.user,
    old.user_digest = new.user_digest
"""

_DELETE_MANY = """
DELETE FROM `{0}` USING (
    SELECT `key` FROM `{0}` WHERE `key` IN ({1}) LIMIT 1000 FOR UPDATE SKIP LOCKED
) AS free STRAIGHT_JOIN `{0}` ON `{0}`.`key` = free.`key`
"""

_DELETE = "DELETE FROM `{0}` WHERE `key` = ?"

# What another process purges, or a request writes, is left to it. The rows are found
# first and then deleted by their keys alone, in this order: in a scan the deletion would
# wait for rows that are locked.
_PURGE = """
DELETE FROM `{0}` USING (
    SELECT `key` FROM `{0}` WHERE expires_minute <= ? AND expires <= ?
    LIMIT ? FOR UPDATE SKIP LOCKED
) AS expired STRAIGHT_JOIN `{0}` ON `{0}`.`key` = expired.`key`
"""

_LOOK = """
SELECT table_name, table_type, engine, table_comment
FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?
"""

# The columns of the table with which an index begins.
_INDEXED = """
SELECT column_name FROM information_schema.statistics
WHERE table_schema = DATABASE() AND table_name = ? AND seq_in_index = 1
"""

_LARGEST_PACKET = "SELECT @@max_allowed_packet"

# In bytes. More would block the event loop.
_LARGEST_BATCH = 500_000

# What a packet has beside the data of a session, such as the name of a user.
_BESIDE_DATA = 8192


class Database(Protocol):
    """What executes statements."""

    async def fetch(self, sql: str, *values: object) -> Sequence[Any]:
        """Executes one statement and returns its rows."""

    async def execute(self, sql: str, *values: object) -> int:
        """Executes one statement and returns how many rows it matched."""


class Table:
    """The statements for the table ``name``.

    Raises `ValueError` for a name that is not made of lower-case ASCII letters, digits
    and underscores, or is too long.
    """

    def __init__(self, name: str) -> None:
        if not _is_name(name):
            raise ValueError(
                "The option 'table' must be a name of at most 56 lower-case ASCII"
                " letters, digits and underscores that does not begin with a digit."
            )
        self.name = name
        self.load = _LOAD.format(name)
        self.find = _FIND.format(name)
        self.find_all = _FIND_ALL.format(name)
        self.insert = _INSERT.format(name)
        self.replace = _REPLACE.format(name)
        self.delete = _DELETE.format(name)
        self.purge = _PURGE.format(name)
        self._create = _TABLE.format(name, _VERSION)
        #: How many bytes of data are written together at the most.
        self.largest_batch = 0
        self._statements: dict[tuple[str, int], str] = {}
        self._warned: set[str] = set()

    def load_many(self, count: int) -> str:
        """Returns the statement that loads ``count`` keys, as `padded` makes them."""
        return self._repeat(_LOAD_MANY, count)

    def versions(self, count: int) -> str:
        """Returns the statement that finds the versions of ``count`` keys."""
        return self._repeat(_VERSIONS, count)

    def insert_many(self, count: int) -> str:
        """Returns the statement that inserts ``count`` rows.

        The values of a row are those of `replace`.
        """
        return self._repeat(_INSERT_MANY, count)

    def replace_many(self, count: int) -> str:
        """Returns the statement that replaces ``count`` rows which are not locked.

        The values of a row are those of `replace`. The keys follow.
        """
        return self._repeat(_REPLACE_MANY, count)

    def delete_many(self, count: int) -> str:
        """Returns the statement that deletes ``count`` keys which are not locked."""
        return self._repeat(_DELETE_MANY, count)

    def _repeat(self, template: str, count: int) -> str:
        count = _padded_length(count)
        statement = self._statements.get((template, count))
        if statement is None:
            keys, rows = ", ".join("?" * count), "UNION ALL".join([_ROW] * count)
            statement = template.format(self.name, keys, rows)
            self._statements[template, count] = statement
        return statement

    async def set_up(self, database: Database, address: str, max_bytes: int) -> None:
        """Creates the table if there is none.

        Raises `.BackendError` if something else has its name. Logs a warning, once, if
        the server does not take records of ``max_bytes``.
        """
        while not await self._is_there(database, address):
            try:
                await database.execute(self._create)
            except asyncmy.MySQLError as error:  # noqa: PERF203
                # Another process may be faster.
                if code_of(error) != TABLE_EXISTS:
                    raise
        [[largest]] = await database.fetch(_LARGEST_PACKET)
        self.largest_batch = min(_LARGEST_BATCH, largest // 2)
        if largest < max_bytes + _BESIDE_DATA:
            self._warn(
                f"MySQL {address!r} takes packets of {largest} bytes, which is too few"
                f" for a session of {max_bytes}. Raise max_allowed_packet on the server,"
                " or lower the option 'max_bytes'."
            )

    async def _is_there(self, database: Database, address: str) -> bool:
        rows = await database.fetch(_LOOK, self.name)
        found = [row for row in rows if row[0] == self.name]
        if not found:
            return False
        [(_, kind, engine, comment)] = found
        ours = _schema_of(comment or "") if kind == "BASE TABLE" else None
        if ours is None:
            what = "table" if kind == "BASE TABLE" else "view"
            raise BackendError(
                f"MySQL {address!r} has a {what} {self.name!r} that is not ours. Name"
                " another table with the option 'table', such as '?table=web_sessions'"
                " in the URL."
            )
        if int(ours[1]) != _VERSION:
            raise BackendError(
                f"The table {self.name!r} of MySQL {address!r} has the schema {ours[1]},"
                f" and this release knows {_VERSION}. Upgrade tornado-sessions-mysql, or"
                " name another table with the option 'table'."
            )
        if engine != "InnoDB":
            raise BackendError(
                f"The table {self.name!r} of MySQL {address!r} has the engine"
                f" {engine!r}, which has no transactions. Run: ALTER TABLE"
                f" `{self.name}` ENGINE=InnoDB"
            )
        await self._look_at_indexes(database, address)
        return True

    async def _look_at_indexes(self, database: Database, address: str) -> None:
        indexed = {row[0] for row in await database.fetch(_INDEXED, self.name)}
        for column, consequence in _CONSEQUENCES.items():
            if column not in indexed:
                self._warn(
                    f"The table {self.name!r} of MySQL {address!r} has no index on"
                    f" {column!r}, so {consequence}. Run: ALTER TABLE `{self.name}`"
                    f" ADD INDEX ({column})"
                )

    def _warn(self, text: str) -> None:
        """Logs a warning, once."""
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s", text)


def padded(items: Sequence[T], filler: T) -> list[T]:
    """Returns ``items`` and as many fillers as a power of two lacks.

    A statement is prepared for each number of them, which are few then.
    """
    return [*items, *[filler] * (_padded_length(len(items)) - len(items))]


def _padded_length(count: int) -> int:
    return 1 << (count - 1).bit_length()

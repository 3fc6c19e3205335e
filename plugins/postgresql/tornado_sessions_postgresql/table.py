"""The table of the sessions: its statements, and how it is created."""

from __future__ import annotations

import logging
import re
from typing import Any, Protocol

import asyncpg

from tornado_sessions.errors import BackendError

logger = logging.getLogger("tornado_sessions")

# Which schema this release reads and writes. The comment of the table says it.
_VERSION = 1

_schema_of = re.compile(r"tornado_sessions, schema (\d+)").search

# A name has at most 63 characters, with "_expires" for an index.
_is_name = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,54}", re.IGNORECASE).fullmatch

# A user is kept as UTF-8: text cannot hold a NUL, and the database may have another
# encoding. The free space on each page is for a new version of a row beside the old
# one, which leaves the indexes alone.
_TABLE = """\
CREATE TABLE "{0}" (
    key            bytea PRIMARY KEY,
    version        bigint NOT NULL,
    data           bytea NOT NULL,
    expires        double precision NOT NULL,
    expires_minute double precision,
    "user"         bytea
) WITH (fillfactor = 70);
COMMENT ON TABLE "{0}" IS 'tornado_sessions, schema {1}';"""

# By the digest of the user, as an entry of an index has at most 2,704 bytes.
_INDEXES = {
    "{0}_expires": 'CREATE INDEX "{0}_expires" ON "{0}" (expires_minute)'
    " WHERE expires_minute IS NOT NULL;",
    "{0}_user": 'CREATE INDEX "{0}_user" ON "{0}" (sha256("user"), key)'
    ' WHERE "user" IS NOT NULL;',
}

# What happens without them, by their columns.
_CONSEQUENCES = {
    "expires_minute": "what has expired is found slowly",
    "user": "the sessions of a user are found slowly",
}

_kinds = {
    b"r": " table",
    b"v": " view",
    b"m": " materialized view",
    b"f": " foreign table",
    b"S": " sequence",
    b"i": "n index",
    b"c": " type",
}

# What a transaction meets that creates a table which another one creates as well.
_EXISTS = (
    asyncpg.DuplicateObjectError,
    asyncpg.DuplicateTableError,
    asyncpg.UniqueViolationError,
)

_LOAD = 'SELECT data, version FROM "{0}" WHERE key = $1'

_FIND = """
SELECT key, data, version FROM "{0}"
WHERE sha256("user") = sha256($1) AND "user" = $1 AND key > $2
ORDER BY key LIMIT $3
"""

# One page of all rows, so that no page takes longer for those that have no user.
_FIND_ALL = """
SELECT key, CASE WHEN "user" IS NULL THEN NULL ELSE data END, version, "user"
FROM "{0}" WHERE key > $1 ORDER BY key LIMIT $2
"""

_INSERT = """
INSERT INTO "{0}" (key, version, data, expires, expires_minute, "user")
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (key) DO NOTHING RETURNING version
"""

_REPLACE = """
UPDATE "{0}" SET version = $3, data = $4, expires = $5, expires_minute = $6, "user" = $7
WHERE key = $1 AND version = $2 RETURNING version
"""

_DELETE = 'DELETE FROM "{0}" WHERE key = $1'

# What another process purges, or a request writes, is left to it.
_PURGE = """
DELETE FROM "{0}" WHERE key IN (
    SELECT key FROM "{0}" WHERE expires_minute <= $1 AND expires <= $2
    LIMIT $3 FOR UPDATE SKIP LOCKED
) RETURNING 1
"""

_LOOK = """
SELECT relkind, obj_description(oid, 'pg_class') AS comment
FROM pg_class WHERE oid = to_regclass(quote_ident($1))
"""

# The columns of the table by which there is an index.
_INDEXED = """
SELECT DISTINCT attname FROM pg_index
JOIN pg_depend ON objid = indexrelid AND refobjid = indrelid
    AND classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
JOIN pg_attribute ON attrelid = indrelid AND attnum = refobjsubid
WHERE indrelid = to_regclass(quote_ident($1)) AND indisvalid
"""


class Database(Protocol):
    """What executes statements."""

    async def fetch(self, sql: str, *values: object) -> list[Any]:
        """Executes one statement and returns its rows."""

    async def execute(self, sql: str) -> None:
        """Executes several statements, as one transaction."""


class Table:
    """The statements for the table ``name``.

    Raises `ValueError` for a name that is not made of ASCII letters, digits and
    underscores, or is too long.
    """

    def __init__(self, name: str) -> None:
        if not _is_name(name):
            raise ValueError(
                "The option 'table' must be a name of at most 55 ASCII letters, digits"
                " and underscores that begins with neither a digit nor 'pg_'."
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
        self._indexes = {
            index.format(name): create.format(name)
            for index, create in _INDEXES.items()
        }
        #: The statements that create the table and its indexes.
        self.schema = "\n".join([self._create, *self._indexes.values()])
        self._warned: set[str] = set()

    async def set_up(self, database: Database, address: str) -> None:
        """Creates the table and its indexes if there is no such table.

        Raises `.BackendError` if something else has its name.
        """
        if await self._is_there(database, address):
            return
        try:
            await database.execute(await self._statements(database, address))
        except _EXISTS:
            # Another process may have been faster.
            if not await self._is_there(database, address):
                raise

    async def _is_there(self, database: Database, address: str) -> bool:
        found = await database.fetch(_LOOK, self.name)
        if not found:
            return False
        [row] = found
        kind, comment = _kinds.get(row["relkind"], "n object"), row["comment"]
        ours = _schema_of(comment or "")
        if ours is None:
            raise BackendError(
                f"PostgreSQL {address!r} has a{kind} {self.name!r} that is not ours."
                " Name another table with the option 'table', such as"
                " '?table=web_sessions' in the URL."
            )
        if int(ours[1]) != _VERSION:
            raise BackendError(
                f"The table {self.name!r} of PostgreSQL {address!r} has the schema"
                f" {ours[1]}, and this release knows {_VERSION}. Upgrade"
                " tornado-sessions-postgresql, or name another table with the option"
                " 'table'."
            )
        rows = await database.fetch(_INDEXED, self.name)
        indexed = {row["attname"] for row in rows}
        for (column, consequence), create in zip(
            _CONSEQUENCES.items(), self._indexes.values(), strict=True
        ):
            if column not in indexed:
                self._warn(
                    f"The table {self.name!r} of PostgreSQL {address!r} has no index on"
                    f" {column!r}, so {consequence}. Run: {create}"
                )
        return True

    async def _statements(self, database: Database, address: str) -> str:
        """Returns what creates the table, and those indexes whose names are free."""
        statements = [self._create]
        for (index, create), consequence in zip(
            self._indexes.items(), _CONSEQUENCES.values(), strict=True
        ):
            if not await database.fetch(_LOOK, index):
                statements.append(create)
                continue
            self._warn(
                f"PostgreSQL {address!r} has something else under the name {index!r},"
                f" so the table {self.name!r} lacks that index and {consequence}."
                " Rename that, or name another table with the option 'table'."
            )
        return "\n".join(statements)

    def _warn(self, text: str) -> None:
        """Logs a warning, once."""
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s", text)

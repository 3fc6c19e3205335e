"""Batches of loads and of writes, each as one statement with a row for each key."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import asyncpg

from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.batches import NothingAppliedError
from tornado_sessions.storage.operations import Write
from tornado_sessions.storage.versions import new_version
from tornado_sessions_postgresql.connections import Connections
from tornado_sessions_postgresql.errors import ROLLED_BACK, breaks_connection

_LOAD = 'SELECT key, data, version FROM "{table}" WHERE key IN ({rows})'

# Returns the key of each row that was written, with true, and of each that another
# transaction has locked, with false. A write without data is a removal, and one without an old version an insert. What
# another transaction has locked is left alone: if it waited for several rows, two
# statements could wait for each other.
_WRITE = """
WITH input (key, old, version, data, expires, expires_minute, "user") AS MATERIALIZED (
    VALUES {rows}
), free AS MATERIALIZED (
    SELECT input.* FROM input JOIN "{table}" AS stored USING (key)
    WHERE stored.version = old OR input.data IS NULL
    FOR UPDATE OF stored SKIP LOCKED
), inserted AS (
    INSERT INTO "{table}" (key, version, data, expires, expires_minute, "user")
    SELECT key, version, data, expires, expires_minute, "user" FROM input
    WHERE old IS NULL AND data IS NOT NULL
    ON CONFLICT (key) DO NOTHING RETURNING key
), replaced AS (
    UPDATE "{table}" AS stored SET version = free.version, data = free.data,
        expires = free.expires, expires_minute = free.expires_minute,
        "user" = free."user"
    FROM free WHERE stored.key = free.key AND free.data IS NOT NULL
    RETURNING stored.key
), removed AS (
    DELETE FROM "{table}" AS stored USING free
    WHERE stored.key = free.key AND free.data IS NULL RETURNING stored.key
)
SELECT key, true FROM inserted
UNION ALL SELECT key, true FROM replaced
UNION ALL SELECT key, true FROM removed
UNION ALL SELECT key, false FROM input JOIN "{table}" AS stored USING (key)
    WHERE (stored.version = old OR input.data IS NULL)
    AND NOT EXISTS (SELECT FROM free WHERE free.key = input.key)
"""

_TYPES = {
    _LOAD: ("bytea",),
    _WRITE: ("bytea", "bigint", "bigint", "bytea", "float8", "float8", "bytea"),
}


def columns(record: Record) -> tuple[object, ...]:
    """Returns the columns of ``record`` without its key and version."""
    minute = record.expires // 60 if record.expires else None
    user = None if record.user is None else record.user.encode()
    return record.data, record.expires, minute, user


async def load_many(
    connections: Connections, table: str, keys: Sequence[bytes]
) -> list[Record | Exception | None]:
    """Loads all ``keys``. See `.DriverBackend.load_many`."""
    rows = await _fetch(connections, _LOAD, table, [(key,) for key in keys])
    records = {row[0]: Record(row[1], row[2]) for row in rows}
    return [records.get(key) for key in keys]


async def write_many(
    connections: Connections, table: str, writes: Sequence[Write]
) -> list[Version | Exception | None]:
    """Does all ``writes``. See `.DriverBackend.write_many`.

    The outcome is an error of `ROLLED_BACK` where another transaction has a lock.
    """
    rows = [_row(write) for write in writes]
    try:
        found = await _fetch(connections, _WRITE, table, rows)
    except asyncpg.PostgresError as error:
        if isinstance(error, ROLLED_BACK) or breaks_connection(error):
            raise
        raise NothingAppliedError from error
    is_written = {row[0]: row[1] for row in found}
    return [_outcome(is_written.get(row[0]), row[2]) for row in rows]


def _outcome(is_written: bool | None, version: Version) -> Version | Exception | None:
    """Returns what became of a write; ``is_written`` is None at a conflict."""
    if is_written is False:
        return asyncpg.LockNotAvailableError("another transaction has locked the row")
    return version if is_written else None


def _row(write: Write) -> tuple[object, ...]:
    key, record, version = write
    if record is None:
        return key, None, None, None, None, None, None
    return key, version, new_version(), *columns(record)


async def _fetch(
    connections: Connections,
    template: str,
    table: str,
    rows: Sequence[tuple[object, ...]],
) -> list[asyncpg.Record]:
    # In few sizes, as the server prepares the statement of each.
    size = 1 << (len(rows) - 1).bit_length()
    sql = _statement(template, table, size)
    missing = [None] * (size - len(rows)) * len(rows[0])
    return await connections.fetch(sql, *_flat(rows), *missing)


def _flat(rows: Iterable[tuple[object, ...]]) -> list[object]:
    return [value for row in rows for value in row]


@functools.cache
def _statement(template: str, table: str, size: int) -> str:
    """Returns the statement for a batch of ``size``.

    Each value is a parameter of its own. For an array the driver asks the server
    what it is, which takes seconds behind a pooler.
    """
    types = _TYPES[template]
    width = len(types)
    rows = (
        ", ".join(f"${row * width + n}::{kind}" for n, kind in enumerate(types, 1))
        for row in range(size)
    )
    return template.format(table=table, rows=", ".join(f"({row})" for row in rows))

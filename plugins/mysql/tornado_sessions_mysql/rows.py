"""Records as rows of the table, and batches of writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from hashlib import sha256
from itertools import chain
from typing import Any

import asyncmy

from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.batches import NothingAppliedError
from tornado_sessions.storage.operations import Write
from tornado_sessions.storage.versions import new_version
from tornado_sessions_mysql.connections import Connection, Connections
from tornado_sessions_mysql.errors import (
    DUPLICATE,
    LOCKED,
    breaks_connection,
    code_of,
    index_of,
)
from tornado_sessions_mysql.table import Table, padded

# In seconds, before each attempt: how long a batch waits for the locks of others.
_PAUSES = (0, 0.005, 0.02, 0.05)

_Outcomes = dict[bytes, Version | Exception | None]

# Returns the outcomes but for those whose rows others have locked.
_Work = Callable[[Table, Sequence[Write], Connection], Awaitable[_Outcomes]]


def columns(record: Record) -> tuple[object, ...]:
    """Returns the columns of ``record`` without its key and version."""
    minute = record.expires // 60 if record.expires else None
    user = None if record.user is None else record.user.encode()
    digest = None if user is None else sha256(user).digest()
    return record.data, record.expires, minute, user, digest


async def insert(
    connections: Connections, table: Table, key: bytes, record: Record
) -> Version | None:
    """Inserts a row. Returns its version, or None if there is one with that key."""
    version = new_version()
    try:
        await connections.execute(table.insert, version, *columns(record), key)
    except asyncmy.IntegrityError as error:
        if code_of(error) != DUPLICATE or index_of(error) != "PRIMARY":
            raise
        return None
    return version


async def replace(
    connections: Connections, table: Table, key: bytes, record: Record, version: Version
) -> Version | None:
    """Replaces a version of a row. Returns the new one, or None if it is not stored."""
    new = new_version()
    values = new, *columns(record), key, version
    return new if await connections.execute(table.replace, *values) else None


async def write_many(
    connections: Connections, table: Table, writes: Sequence[Write]
) -> list[Version | Exception | None]:
    """Does all ``writes`` of a kind together. See `.DriverBackend.write_many`.

    A row that somebody else has locked holds up none of the others: its write is tried
    again in a moment, and its outcome may be that it is locked.
    """
    length = sum(len(write.record.data) for write in writes if write.record)
    if length > table.largest_batch:
        raise NothingAppliedError
    kinds: dict[_Work, list[Write]] = {_insert: [], _replace: [], _delete: []}
    for write in writes:
        kind = _delete if write.record is None else _replace
        kinds[_insert if kind is _replace and write.version is None else kind] += [
            write
        ]
    outcomes: _Outcomes = {}
    for work, some in kinds.items():
        if some:
            outcomes |= await _write_all(connections, table, work, some)
    return [outcomes[write.key] for write in writes]


async def _write_all(
    connections: Connections, table: Table, work: _Work, writes: list[Write]
) -> _Outcomes:
    outcomes: _Outcomes = {}
    left = writes
    failure: Exception = asyncmy.OperationalError(LOCKED, "Others have locked the row")
    for pause in _PAUSES:
        await asyncio.sleep(pause)
        try:
            outcomes |= await connections.run(partial(work, table, left))
        except asyncmy.MySQLError as error:
            if not breaks_connection(error):
                # The server has refused one of them, and so has not done the others.
                return outcomes | await _write_each(connections, table, left)
            failure = error
            break
        left = [write for write in left if write.key not in outcomes]
        if not left:
            break
    return outcomes | {write.key: failure for write in left}


async def _write_each(
    connections: Connections, table: Table, writes: list[Write]
) -> _Outcomes:
    outcomes: _Outcomes = {}
    for key, record, version in writes:
        try:
            if record is None:
                await connections.execute(table.delete, key)
                outcomes[key] = None
            elif version is None:
                outcomes[key] = await insert(connections, table, key, record)
            else:
                outcomes[key] = await replace(connections, table, key, record, version)
        except asyncmy.MySQLError as error:  # noqa: PERF203
            outcomes[key] = error
    return outcomes


async def _insert(
    table: Table, writes: Sequence[Write], connection: Connection
) -> _Outcomes:
    rows = [_row(write) for write in writes]
    nothing = (None,) * len(rows[0])
    sql = table.insert_many(len(rows))
    await connection.execute(sql, *chain(*padded(rows, nothing)))
    return {write.key: row[0] for write, row in zip(writes, rows, strict=True)}


async def _delete(
    table: Table, writes: Sequence[Write], connection: Connection
) -> _Outcomes:
    keys = [write.key for write in writes]
    padded_keys = padded(keys, keys[0])
    locked: set[object] = set()
    if await connection.execute(table.delete_many(len(keys)), *padded_keys) < len(keys):
        rows = await connection.fetch(table.versions(len(keys)), *padded_keys)
        locked = {row[0] for row in rows}
    return {key: None for key in keys if key not in locked}


async def _replace(
    table: Table, writes: Sequence[Write], connection: Connection
) -> _Outcomes:
    rows = [_row(write) for write in writes]
    keys = [write.key for write in writes]
    values = *chain(*padded(rows, rows[0])), *padded(keys, keys[0])
    outcomes: _Outcomes = {
        write.key: row[0] for write, row in zip(writes, rows, strict=True)
    }
    await connection.execute("START TRANSACTION")
    matched = await connection.execute(table.replace_many(len(rows)), *values)
    if matched != len(rows):
        # In the same transaction, as nobody can change what it has changed.
        sql = table.versions(len(keys))
        stored = dict(await connection.fetch(sql, *padded(keys, keys[0])))
        for write in writes:
            found = stored.get(write.key)
            if found == write.version:
                # Others have locked it, and not changed it yet.
                del outcomes[write.key]
            elif found != outcomes[write.key]:
                outcomes[write.key] = None
    await connection.execute("COMMIT")
    return outcomes


def _row(write: Write) -> tuple[Any, ...]:
    assert write.record is not None
    return new_version(), *columns(write.record), write.key, write.version

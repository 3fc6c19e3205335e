"""Writes records, many of them in one round trip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tornado_sessions.storage.backend import Record, Version
from tornado_sessions.storage.operations import Write
from tornado_sessions.storage.versions import new_version
from tornado_sessions_redis.connection import Command, Connection, copies
from tornado_sessions_redis.errors import ERRORS
from tornado_sessions_redis.layout import (
    Keys,
    encode_user,
    encode_version,
    milliseconds,
    pack,
    user_of,
)
from tornado_sessions_redis.scripts import ENLIST, INSERT, REPLACE, call


async def write_all(
    connection: Connection, keys: Keys, writes: Sequence[Write]
) -> list[Version | Exception | None]:
    """Does all writes, and returns the outcome of each.

    A record is never missing from the set of its user. So in a cluster, where they may
    be on two servers, the set is written first. It may name too many records.
    """
    outcomes: list[Version | Exception | None] = [None] * len(writes)
    places: Iterable[int] = range(len(writes))
    if connection.is_cluster:
        listed = await _ask(
            connection,
            {
                place: _enlist(keys, write.key, write.record)
                for place, write in enumerate(writes)
                if write.record is not None and write.record.user is not None
            },
        )
        for place, reply in listed.items():
            if isinstance(reply, Exception):
                outcomes[place] = reply
        places = [place for place in places if outcomes[place] is None]
    versions = {place: new_version() for place in places}
    commands = {
        place: _command(keys, writes[place], version, connection.is_cluster)
        for place, version in versions.items()
    }
    replies = await _ask(connection, commands)
    left = {}
    for place, reply in replies.items():
        write = writes[place]
        if isinstance(reply, Exception):
            outcomes[place] = reply
        elif write.record is None:
            if reply is not None and (user := user_of(reply)) is not None:
                left[place] = _delist(keys, write.key, user)
        elif reply is not None:
            outcomes[place] = versions[place]
            if write.version is not None and reply:
                left[place] = _delist(keys, write.key, reply)
    if left:
        # If this fails, the set names too many, and that does no harm.
        await _ask(connection, left)
    return outcomes


async def _ask(
    connection: Connection, commands: Mapping[int, Command]
) -> dict[int, Any]:
    """Returns the reply to each command, or its error."""
    if len(commands) == 1:
        ((place, command),) = commands.items()
        try:
            return {place: await connection.ask(*command)}
        except ERRORS as error:
            return {place: error}
    if not commands:
        return {}
    try:
        replies = await connection.ask_many(list(commands.values()))
    except ERRORS as error:
        replies = copies(error, len(commands))
    return dict(zip(commands, replies, strict=True))


def _command(keys: Keys, write: Write, version: Version, is_cluster: bool) -> Command:
    """Returns the command for a write, with the ``version`` that it stores."""
    name, record = keys.of(write.key), write.record
    if record is None:
        return ("GETDEL", name)
    value, expires = pack(record, version), milliseconds(record.expires)
    names = [name]
    if record.user is not None and not is_cluster:
        names.append(keys.of_user(encode_user(record.user)))
    arguments = (value, "" if expires is None else expires, write.key.hex())
    if write.version is not None:
        return call(REPLACE, names, *arguments, encode_version(write.version))
    if len(names) > 1:
        return call(INSERT, names, *arguments)
    until = () if expires is None else ("PXAT", expires)
    return ("SET", name, value, "NX", *until)


def _enlist(keys: Keys, key: bytes, record: Record) -> Command:
    assert record.user is not None
    expires = milliseconds(record.expires)
    users = keys.of_user(encode_user(record.user))
    return call(ENLIST, [users], key.hex(), "" if expires is None else expires)


def _delist(keys: Keys, key: bytes, user: bytes) -> Command:
    return ("ZREM", keys.of_user(user), key.hex())

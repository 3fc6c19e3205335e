"""What is stored under a key: the version and the user of a record, and its data."""

from __future__ import annotations

import math
import re
import struct

from tornado_sessions.storage.backend import Record

# The version, and the length of the user in bytes, or -1 if there is none. Then come
# the user and the data. `scripts` reads the same.
_head = struct.Struct(">qi")

# The last time that is stored, in milliseconds. It is more than 100,000 years ahead,
# and the largest number that a script has exactly. What expires later stays for good.
_LAST = 2**53

_match_digits = re.compile(rb"[0-9a-f]{64}").fullmatch
_special = re.compile(rb"[\\*?\[]")


class Keys:
    """The keys of records and of users' sets, which begin with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        #: Matches the keys of records, and few others.
        self.pattern = _special.sub(rb"\\\g<0>", self._prefix) + b"?" * 64

    def of(self, key: bytes) -> bytes:
        """Returns the key of a record in the store."""
        return self._prefix + key.hex().encode()

    def read(self, name: bytes) -> bytes | None:
        """Returns the key whose record is under ``name``; None if that is no record."""
        digits = name[len(self._prefix) :]
        return bytes.fromhex(digits.decode()) if _match_digits(digits) else None

    def of_member(self, member: bytes) -> bytes:
        """Returns the key of the record that a user's set names."""
        return self._prefix + member

    def of_user(self, user: bytes) -> bytes:
        """Returns the key of a user's set."""
        return self._prefix + b"user:" + user


def pack(record: Record, version: int) -> bytes:
    """Returns the value to store for ``record``."""
    if record.user is None:
        return _head.pack(version, -1) + record.data
    user = encode_user(record.user)
    return _head.pack(version, len(user)) + user + record.data


def unpack(value: bytes) -> Record:
    """Returns the record that is stored as ``value``."""
    version, length = _head.unpack_from(value)
    return Record(value[_head.size + max(length, 0) :], version)


def unpack_with_user(value: bytes) -> Record | None:
    """Returns the record that is stored as ``value``; None if it has no user."""
    user, record = user_of(value), unpack(value)
    if user is None:
        return None
    name = user.decode("utf-8", "surrogatepass")
    return Record(record.data, record.version, user=name)


def user_of(value: bytes) -> bytes | None:
    """Returns the user of the record that is stored as ``value``."""
    _, length = _head.unpack_from(value)
    return None if length < 0 else value[_head.size : _head.size + length]


def encode_user(user: str) -> bytes:
    return user.encode("utf-8", "surrogatepass")


def encode_version(version: int) -> bytes:
    """Returns the version as it stands at the beginning of a value."""
    return version.to_bytes(8, "big")


def milliseconds(expires: float) -> int | None:
    """Returns when the store may remove a record, never early; None for never."""
    if not 0 < expires < _LAST / 1000:
        return None
    return math.ceil(expires * 1000)

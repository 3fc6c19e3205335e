"""What messages say of the driver's errors, without keys and data."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator, Mapping

import asyncmy

DUPLICATE = 1062
DEADLOCK = 1213
LOCKED = 1205
NO_TABLE = 1146
TABLE_EXISTS = 1050

# The server is of another kind. It is the driver's number for another version.
_STRANGER = 2007

_LOGIN = (
    "Check the user, the password and the database of the URL, and whether the server"
    " requires TLS, which is the option 'ssl_mode'."
)

_GRANT = (
    "Let an administrator run the SQL in the README of tornado-sessions-mysql, and grant"
    " this user SELECT, INSERT, UPDATE and DELETE on the table."
)

_PRIMARY = "Name the primary in the URL: sessions are not kept on a replica."

_SPACE = "Check the disk and the memory of the server."

_CONNECTIONS = "Raise the limit of connections, or use fewer processes."

_STRANGE = (
    "It is not as this release has created it: drop it, or name another table with the"
    " option 'table'."
)

_CONSTRAINT = "It is not ours: drop it, or name another table with the option 'table'."

_NEXT = "The next request connects anew."

#: What to do about an error, by the number that MySQL and MariaDB give it.
ADVICE: Mapping[int | str, str] = {
    1021: _SPACE,
    1030: _SPACE,
    1037: _SPACE,
    1038: _SPACE,
    1040: _CONNECTIONS,
    1041: _SPACE,
    1044: _LOGIN,
    1045: _LOGIN,
    1049: _LOGIN,
    1054: _STRANGE,
    DUPLICATE: _CONSTRAINT,
    1064: "It takes MySQL 8.0.17 or MariaDB 10.6, or a newer one of either.",
    1114: _SPACE,
    1142: _GRANT,
    1143: _GRANT,
    NO_TABLE: "The next request creates it.",
    1153: "Raise max_allowed_packet on the server, or lower the option 'max_bytes'.",
    1203: _CONNECTIONS,
    LOCKED: "Another transaction holds a lock, perhaps an open mysql shell; end that, or"
    " raise the option 'timeout'.",
    1226: _CONNECTIONS,
    1290: _PRIMARY,
    1364: _STRANGE,
    1406: _STRANGE,
    1452: _CONSTRAINT,
    1461: "Raise max_prepared_stmt_count on the server, or use fewer processes.",
    1665: "Set binlog_format to MIXED or ROW on the server.",
    1698: _LOGIN,
    1792: _PRIMARY,
    1836: _PRIMARY,
    _STRANGER: "Check the host and the port of the URL.",
    2003: "Check that it runs, and the host, the port and the TLS options of the URL.",
    2006: _NEXT,
    2013: _NEXT,
    2059: "Give the user of the URL another authentication plugin.",
    3159: _LOGIN,
    3819: _CONSTRAINT,
    4025: _CONSTRAINT,
}

# What the server says with other numbers may repeat a value of the statement.
_HARMLESS = frozenset(ADVICE) | {1053, DEADLOCK, 1317, 1615, 1927, 4031}

# The server does not serve the connection any more after these, or a statement has to
# be prepared again.
_BREAKING = frozenset((1053, 1080, *range(1152, 1162), 1184, 1243, 1615, 1927, 4031))

_index_of = re.compile(r"for key '(?:[^']*\.)?([^'.]+)'$").search


def code_of(error: BaseException) -> int | None:
    """Returns the number of ``error``. Those from 2000 to 2999 are of the driver."""
    code = error.args[0] if isinstance(error, asyncmy.MySQLError) and error.args else 0
    return code if isinstance(code, int) and code > 0 else None


def index_of(error: Exception) -> str:
    """Returns the name of the index that has refused a duplicate.

    It is the last word of the text, which begins with the value.
    """
    found = _index_of(str(error.args[-1]))
    return found[1] if found else "?"


def breaks_connection(error: BaseException) -> bool:
    """Whether the connection must not be used after ``error``.

    After a cancellation the next thing to read is the rest of a reply.
    """
    code = code_of(error)
    return code is None or code in _BREAKING or 2000 <= code < 3000


def describe(error: Exception) -> str:
    """Returns what a message may say of ``error``.

    The text of some errors repeats keys and values.
    """
    if isinstance(error, asyncmy.MySQLError):
        code = code_of(error)
        if code is None:
            return type(error).__name__
        if code == DUPLICATE:
            text = f"The index {index_of(error)!r} refuses the session"
        elif code in _HARMLESS or 2000 <= code < 3000:
            text = str(error.args[-1])
        else:
            text = type(error).__name__
        return f"{text} (error {code})"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return type(error).__name__


def without_values(error: Exception) -> Exception:
    """Returns an error of the same kind that repeats nothing of the statement."""
    if isinstance(error, asyncmy.MySQLError):
        return type(error)(code_of(error) or 0, describe(error))
    return error


@contextlib.contextmanager
def protocol_errors() -> Iterator[None]:
    """Raises an error of the driver where it does not understand the server."""
    try:
        yield
    except (LookupError, ValueError, struct.error) as error:
        raise asyncmy.InterfaceError(
            _STRANGER, "The server does not speak MySQL's protocol"
        ) from error

"""What messages say of the driver's errors, without keys and data."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

import asyncpg

_POOLER = (
    "Behind a pooler such as pgbouncer add the option 'statement_cache_size=0' to the"
    " URL. A pool of the application needs it as an argument of create_pool()."
)

_UNREACHABLE = "Check that it runs, and the host and the port of the URL."

_LOGIN = "Check the user, the password and the database of the URL."

#: What to do about an error, by `code_of` or by words of what `describe` returns for it.
ADVICE: Mapping[int | str, str] = {
    "unreachable": _UNREACHABLE,
    "Connect call failed": _UNREACHABLE,
    "rejected SSL upgrade": "Turn TLS on at the server, or remove the option 'sslmode'"
    " from the URL.",
    "unsupported startup parameter": _POOLER,
    "SQLSTATE 26000": _POOLER,
    "SQLSTATE 42P05": _POOLER,
    "SQLSTATE 25006": "Sessions are not kept on a standby: name the primary in the URL.",
    "SQLSTATE 28": _LOGIN,
    "SQLSTATE 3D000": _LOGIN,
    "SQLSTATE 3F000": "Create that schema, or change the search_path of the user.",
    "SQLSTATE 42501": "Let an administrator run the SQL in the README of"
    " tornado-sessions-postgresql, and grant this user SELECT, INSERT, UPDATE and DELETE"
    " on the table.",
    "SQLSTATE 42704": "Check the options of the URL.",
    "SQLSTATE 42710": "Name another table with the option 'table'.",
    "SQLSTATE 42P01": "The next request creates it.",
    "SQLSTATE 53": "Check the disk, the memory and max_connections of the server.",
    "SQLSTATE 55P03": "Another transaction holds a lock, perhaps that of an open psql"
    " shell; end it, or raise the option 'timeout'.",
    "SQLSTATE 57P": "The next request connects anew.",
    "SQLSTATE 08": "The next request connects anew.",
    "SQLSTATE 23": "It is not ours: drop it, or name another table with the option"
    " 'table'.",
    "No such file": "Check the directory of the server's socket, or the files that the"
    " options sslrootcert, sslcert and sslkey name.",
    "CERTIFICATE_VERIFY_FAILED": "Check the option sslrootcert of the URL, and whether"
    " the certificate has the name of the host.",
    "ClientConfigurationError": "Check the options of the URL.",
}

# Classes of errors whose message has names at most, and no values.
_HARMLESS = ("08", "25", "26", "28", "3D", "3F", "40", "42", "53", "55", "57", "58")

# The server, or the pooler, no longer serves a connection after these.
_BREAKING = ("08", "25006", "26000", "42P05", "57P")

#: The server has rolled a statement back because of another transaction: it holds a
#: lock, there was a deadlock, or the isolation level is above "read committed".
ROLLED_BACK = (
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.SerializationError,
)


def code_of(error: Exception) -> str | None:
    """Returns a word of `ADVICE`, if the kind of ``error`` is enough for it."""
    # The text depends on the operating system.
    is_unreachable = isinstance(error, (ConnectionRefusedError, socket.gaierror))
    return "unreachable" if is_unreachable else None


def describe(error: Exception) -> str:
    """Returns what a message may say of ``error``.

    The details of an error repeat keys, and so do some messages.
    """
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state.startswith("23") and error.constraint_name:
            text = f"The constraint {error.constraint_name!r} refuses the session"
        elif state.startswith(_HARMLESS):
            text = str(error.args[0])
        else:
            text = type(error).__name__
        return f"{text} (SQLSTATE {state})"
    if isinstance(error, asyncpg.ClientConfigurationError):
        return f"{type(error).__name__}: {error.args[0]}"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return type(error).__name__


def without_values(error: Exception) -> Exception:
    """Returns an error of the same kind that repeats no key and no data."""
    if isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError)):
        harmless: Exception = type(error)(describe(error))
        return harmless
    return error


def breaks_connection(error: BaseException) -> bool:
    """Whether a connection must not be used after ``error``.

    After a timeout or a cancellation the driver still has to cancel the statement.
    """
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_BREAKING)
    return isinstance(
        error,
        (
            asyncio.CancelledError,
            asyncio.TimeoutError,
            OSError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        ),
    )

"""What messages say of the driver's errors, without keys and data."""

from __future__ import annotations

from collections.abc import Mapping

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MaxConnectionsError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError


class MovedKeysError(RedisError):
    """Raised when keys may be missing from a list, because others have them now."""


#: What the driver raises, and the above.
ERRORS = (RedisError, RedisClusterException)

_PASSWORD = "Check the user and the password of the URL."

#: What to do about an error, by the word with which the server begins it.
ADVICE: Mapping[int | str, str] = {
    "CLUSTERDOWN": "A node that holds a part of the keys is down. Start it, or let a"
    " replica take its place.",
    "LOADING": "It is reading its data from disk. The next requests try again.",
    "MASTERDOWN": "It is a replica that has lost its primary. Check the primary.",
    "MISCONF": "It cannot write to its disk. Its log has the reason.",
    "NOAUTH": "It wants a password: write it into the URL, as in"
    " 'redis://:password@host'.",
    "NOPERM": "The user of the URL lacks a permission. The README of"
    " tornado-sessions-redis lists those that it needs.",
    "NOREPLICAS": "It has fewer replicas than its option min-replicas-to-write asks for.",
    "OOM": "Its memory is full. Raise maxmemory, or let sessions expire sooner.",
    "READONLY": "It is a replica. Name the primary in the URL, or the Sentinels with"
    " 'redis+sentinel://'.",
    "WRONGPASS": _PASSWORD,
    "WRONGTYPE": "Something else has stored a key that begins with the prefix. Choose"
    " another with the option 'prefix'.",
    "moved keys": "Some sessions may be missing: list them again when it is stable.",
    "connections": "Raise the option 'max_connections'.",
    "unreachable": "Check that it runs there and can be reached.",
}

# In this order: some are subclasses of others.
_WORDS: Mapping[type[Exception], str] = {
    MasterDownError: "MASTERDOWN",
    ClusterDownError: "CLUSTERDOWN",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    BusyLoadingError: "LOADING",
    NoPermissionError: "NOPERM",
    TryAgainError: "TRYAGAIN",
    MaxConnectionsError: "connections",
    MovedKeysError: "moved keys",
}


def code_of(error: Exception) -> str | None:
    """Returns the word with which the server begins its error, or one of `ADVICE`."""
    text = str(error)
    if isinstance(error, AuthenticationError):
        return "NOAUTH" if "required" in text else "WRONGPASS"
    for kind, word in _WORDS.items():
        if isinstance(error, kind):
            return word
    if isinstance(error, ResponseError):
        return text.partition(" ")[0]
    if isinstance(error, (RedisConnectionError, OSError)):
        return "unreachable"
    return None


def describe(error: Exception) -> str:
    """Returns what a message may say of ``error``."""
    if isinstance(error, RedisClusterException):
        # It may repeat the whole command.
        return "The nodes of the cluster cannot be found"
    # An unknown command is repeated with its arguments. Of an error in a script there
    # are digest and line.
    text = str(error).partition(", with args")[0].partition(" script: ")[0]
    code = code_of(error)
    if code and code.isupper() and not text.startswith(code):
        text = f"{code} {text}"
    return text or type(error).__name__


def without_keys(error: Exception) -> Exception:
    """Returns an error of the same kind that repeats nothing of the command."""
    text = describe(error)
    if isinstance(error, (RedisClusterException, ResponseError)) and text != str(error):
        return RedisError(text)
    return error

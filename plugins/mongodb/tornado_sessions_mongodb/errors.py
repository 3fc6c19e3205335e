"""What messages say of the driver's errors, without keys and data."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bson.errors import BSONError
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
)

_DUPLICATE = 11000

#: What to do about an error, by what `code_of` returns for it.
ADVICE: Mapping[int | str, str] = {
    13: "Grant the user of the URL the role readWrite on the database.",
    18: "Check the user, the password and the option authSource of the URL.",
    72: "If it is a time-series collection, name another with the option 'collection'.",
    166: "It is a view: name a collection with the option 'collection'.",
    _DUPLICATE: "It is not ours: drop it, or name another collection with the option"
    " 'collection'.",
    "ConnectionFailure": "The next request connects anew.",
    "BSONError": "Remove it, or name another collection with the option 'collection'.",
}


class ForeignDocumentError(PyMongoError):
    """A document that this backend has not stored."""


def code_of(error: Exception) -> int | str | None:
    """Returns the server's code for ``error``."""
    if isinstance(error, DuplicateKeyError):
        return _DUPLICATE
    if isinstance(error, OperationFailure):
        return error.code
    if isinstance(error, (ForeignDocumentError, BSONError)):
        return "BSONError"
    return "ConnectionFailure" if isinstance(error, ConnectionFailure) else None


def describe(error: Exception) -> str:
    """Returns what a message may say of ``error``."""
    if isinstance(error, DuplicateKeyError):
        return f"The unique index {unique_index(error)!r} refuses the session"
    if isinstance(error, OperationFailure):
        return name_of(error)
    if isinstance(error, ConfigurationError):
        # Those of a URL with mongodb+srv:// are known only now.
        return f"The hosts cannot be found: {error}"
    if isinstance(error, ForeignDocumentError):
        return "The document with the key of a session is not one of this library"
    if isinstance(error, BSONError):
        return "A document cannot be decoded"
    return type(error).__name__


def without_documents(error: Exception) -> Exception:
    """Returns an error of the same kind that repeats nothing of the command.

    A server that refuses a command repeats all of it: key and data.
    """
    if isinstance(error, OperationFailure):
        return type(error)(name_of(error), error.code)
    if isinstance(error, BSONError):
        # Its text repeats some of the document.
        return type(error)()
    return error


def name_of(error: OperationFailure) -> str:
    """Returns the server's name and code for ``error``."""
    name = (error.details or {}).get("codeName", type(error).__name__)
    return f"{name} (code {error.code})"


def unique_index(error: DuplicateKeyError) -> str:
    """Returns the name of the index that has refused a duplicate."""
    text = str((error.details or {}).get("errmsg", ""))
    # Of a clustered collection the server names none: it is the key.
    found = re.search(" index: (.+?) dup key", text)
    return found[1] if found else "_id_"

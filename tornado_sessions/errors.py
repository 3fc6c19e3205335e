"""Defines the exceptions of this library."""

from __future__ import annotations


class SessionError(Exception):
    """The base class of all errors of this library.

    Raised itself for an operation that is not possible, such as one that needs a
    new cookie after the headers of the response were sent.
    """


class SessionDataError(SessionError, ValueError):
    """Raised when a value, or a session as a whole, cannot be stored.

    The stored session does not change. A handler that catches this error from
    `.Session.save` must remove the value or call `.Session.reload`; otherwise the
    response fails with the same error.
    """


class SessionGoneError(SessionError):
    """Raised when another request has ended the session during this request."""


class SessionLimitError(SessionError):
    """Raised when a login would exceed the limit of sessions of the user.

    See the setting ``session_max_per_user``. Nothing was stored, and the changes
    of the request are dropped: the visitor's session is as it was before.
    """


class BackendError(SessionError):
    """Raised when the store failed or did not reply within the timeout.

    Its ``__cause__`` is the driver's error. After a failed save it is not known
    whether the record was stored.
    """


class ConflictError(SessionError):
    """Raised by a `.Vault` when the store has another version of a record, or none.

    A backend returns None instead. Handlers never see it.
    """


class BackendNotFoundError(SessionError, LookupError):
    """Raised when no session backend of that name can be used."""

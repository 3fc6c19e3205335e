"""Names everything that can go wrong with a session."""

from __future__ import annotations


class SessionError(Exception):
    """The base of all errors of this library.

    Raised itself where something needs a new cookie and the headers of the
    response are out already.
    """


class SessionDataError(SessionError, ValueError):
    """Raised when a value, or a session as a whole, cannot be stored.

    What was stored before stays as it is. A handler that catches it from
    `.Session.save` removes the value or calls `.Session.reload`; otherwise the
    response fails for the same reason.
    """


class SessionGoneError(SessionError):
    """Raised when the session was ended elsewhere while this request used it."""


class SessionLimitError(SessionError):
    """Raised when a user who signs in has as many sessions as they may have.

    See the setting ``session_max_per_user``. Nothing was stored, and what the
    request changed is dropped: the visitor's session is as it was before.
    """


class BackendError(SessionError):
    """Raised when the store failed or did not answer in time.

    The driver's own error is its ``__cause__``. After a failed save it is not
    known whether the record was stored.
    """


class ConflictError(SessionError):
    """Raised by a backend's ``save`` when another version is stored, or none.

    A backend raises it; no handler ever sees it.
    """


class BackendNotFoundError(SessionError, LookupError):
    """Raised when no session backend of that name can be used."""

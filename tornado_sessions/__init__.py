"""Sessions for Tornado: a visitor's data, kept across requests."""

from tornado_sessions.core.schema import SessionData
from tornado_sessions.core.users import UserSession
from tornado_sessions.errors import (
    BackendError,
    BackendNotFoundError,
    ConflictError,
    SessionDataError,
    SessionError,
    SessionGoneError,
    SessionLimitError,
)
from tornado_sessions.events import SessionEvent
from tornado_sessions.session import Session
from tornado_sessions.sessions import Sessions
from tornado_sessions.storage.backend import UNKNOWN, Backend, Record, Version
from tornado_sessions.storage.batches import NothingAppliedError
from tornado_sessions.storage.driver import DriverBackend
from tornado_sessions.storage.operations import Write
from tornado_sessions.storage.vault import Saved, Vault
from tornado_sessions.storage.versions import new_version
from tornado_sessions.web import (
    SessionBinding,
    SessionMixin,
    SessionStatusHandler,
    bind_session,
    recent_login,
)

version = "0.1.0"

#: As Tornado has it: the fourth number is zero for a release, negative before.
version_info = (0, 1, 0, 0)

__all__ = [
    "UNKNOWN",
    "Backend",
    "BackendError",
    "BackendNotFoundError",
    "ConflictError",
    "DriverBackend",
    "NothingAppliedError",
    "Record",
    "Saved",
    "Session",
    "SessionBinding",
    "SessionData",
    "SessionDataError",
    "SessionError",
    "SessionEvent",
    "SessionGoneError",
    "SessionLimitError",
    "SessionMixin",
    "SessionStatusHandler",
    "Sessions",
    "UserSession",
    "Vault",
    "Version",
    "Write",
    "bind_session",
    "new_version",
    "recent_login",
    "version",
    "version_info",
]

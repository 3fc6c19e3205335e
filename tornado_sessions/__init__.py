"""Sessions for Tornado: a visitor's data, kept across requests."""

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
from tornado_sessions.storage.backend import Backend, Record
from tornado_sessions.storage.driver import DriverBackend
from tornado_sessions.storage.vault import Vault
from tornado_sessions.web import SessionMixin, recent_login

version = "0.1.0"

#: As Tornado has it: the fourth number is zero for a release, negative before.
version_info = (0, 1, 0, 0)

__all__ = [
    "Backend",
    "BackendError",
    "BackendNotFoundError",
    "ConflictError",
    "DriverBackend",
    "Record",
    "Session",
    "SessionDataError",
    "SessionError",
    "SessionEvent",
    "SessionGoneError",
    "SessionLimitError",
    "SessionMixin",
    "Sessions",
    "UserSession",
    "Vault",
    "recent_login",
    "version",
    "version_info",
]

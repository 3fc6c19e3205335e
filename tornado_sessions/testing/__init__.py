"""Proves a backend right, with the tests that the library's own must pass."""

from __future__ import annotations

from tornado_sessions.testing.backends import BackendContract
from tornado_sessions.testing.faults import FaultyVault
from tornado_sessions.testing.handlers import HandlerContract
from tornado_sessions.testing.outages import OutageContract
from tornado_sessions.testing.stores import StoreServer

__all__ = [
    "BackendContract",
    "FaultyVault",
    "HandlerContract",
    "OutageContract",
    "StoreServer",
]

"""Proves a backend right, with the tests that the library's own must pass."""

from __future__ import annotations

from tornado_sessions.testing.backends import BackendContract

__all__ = ["BackendContract"]

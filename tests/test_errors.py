"""Tests of the errors: who catches what."""

from __future__ import annotations

import pytest

from tornado_sessions import (
    BackendError,
    BackendNotFoundError,
    ConflictError,
    SessionDataError,
    SessionError,
    SessionGoneError,
    SessionLimitError,
)


class ErrorsTest:
    @pytest.mark.parametrize(
        "error",
        [
            BackendError,
            BackendNotFoundError,
            ConflictError,
            SessionDataError,
            SessionGoneError,
            SessionLimitError,
        ],
    )
    def test_every_error_is_a_session_error(self, error: type[Exception]) -> None:
        """One ``except`` is enough for whoever does not care which."""
        assert issubclass(error, SessionError)

    def test_a_bad_value_is_a_value_error(self) -> None:
        """Code that knows nothing of this library can tell what it means."""
        assert issubclass(SessionDataError, ValueError)

    def test_a_missing_backend_is_a_lookup_error(self) -> None:
        """Code that knows nothing of this library can tell what it means."""
        assert issubclass(BackendNotFoundError, LookupError)

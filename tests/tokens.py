"""The tokens of sessions, which an application does not see."""

from __future__ import annotations

from tornado_sessions import Session
from tornado_sessions.core.values import state_of


def token_of(session: Session) -> str:
    """Returns the token of a session that is stored."""
    token = state_of(session).token
    assert token is not None
    return token

"""Hands out the token of a session."""

from __future__ import annotations

from tornado_sessions.core.edits import EditedState
from tornado_sessions.core.state import SessionState
from tornado_sessions.errors import SessionError


def exposed_token(state: SessionState) -> str:
    """Returns the token of a session. See `.Session.expose_token`."""
    if isinstance(state, EditedState):
        raise SessionError(
            "The id of a session that is edited is not known: the store has a digest"
            " of it, and only the visitor has the id."
        )
    if (
        state.token is None
        or state.needs_new_id
        # Each change makes another cookie there.
        or (not state.rules.revocable and state.is_changed)
    ):
        raise SessionError(
            "expose_token() needs the session's id, which is drawn when the session is"
            " saved. Call 'await session.save()' before it; an empty session is not"
            " saved."
        )
    return state.token

"""Common code of the tests of a session as a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tornado_sessions_memory import MemoryBackend

from tornado_sessions import Session, Sessions, Vault
from tornado_sessions.core.codec import decode, encode, encode_value
from tornado_sessions.core.envelope import FORMAT, Envelope
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import Settings

TOKEN = "A" * 43
START = 1_000_000.0
IDLE = 3_600.0
LIFETIME = 36_000.0


def view(sessions: Any, *args: Any, **kwargs: Any) -> Session:  # noqa: ANN401
    """Returns a session with a state that is made of the rest."""
    rules = getattr(sessions, "rules", sessions)
    store = getattr(sessions, "transactions", sessions)
    return Session(store, SessionState(rules, *args, **kwargs))


class Clock:
    def __init__(self) -> None:
        self.now = START


def make_sessions(clock: Clock) -> Sessions:
    """Returns sessions in memory whose time is that of ``clock``."""
    sessions = Sessions(
        Settings(Vault(MemoryBackend()), idle_timeout=IDLE, lifetime=LIFETIME)
    )
    sessions.now = lambda: clock.now
    return sessions


def load(
    sessions: Sessions, values: dict[str, Any] | None = None, **fields: Any
) -> Session:
    """Returns a session of the values that the store is said to hold."""
    encoded = {k: encode_value(k, value) for k, value in (values or {}).items()}
    envelope = Envelope(
        START, START, START + IDLE, encoded, id="handle", format=FORMAT, **fields
    )
    return view(sessions, decode(encode(envelope)), TOKEN, version=1)


#: Makes a session of the values that the store is said to hold.
Loaded = Callable[..., Session]


def values_after(session: Session) -> dict[str, Any]:
    """Returns the values that a commit would store, as the next request sees them."""
    return dict(view(state_of(session).rules, decode(encode(state_of(session).pack()))))

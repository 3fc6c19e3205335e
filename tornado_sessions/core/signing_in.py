"""What a login changes in the state of a request."""

from __future__ import annotations

from typing import Any

import msgspec

from tornado_sessions.core.envelope import Envelope, keep_only
from tornado_sessions.core.expiry import seen_at
from tornado_sessions.core.merge import reapplied, rebase
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.typed import migrated
from tornado_sessions.core.verbs import Login

#: By how many seconds a sign-in is later than one that it has to come after.
SIGN_IN_STEP = 0.001

# The fields that a login does not take along, and what they begin with.
_SETTINGS = {
    "idle": None,
    "lifetime": None,
    "persistent": None,
    "label": "",
    "claim": None,
}


def sign_in(state: SessionState, user: str, keep: frozenset[str] | None) -> None:
    """Signs ``user`` in, with the values of ``keep``. See `.Session.login`."""
    state.regenerate()
    if state.current.user not in (None, user):
        keep = frozenset()
    if keep is not None:
        for key in [key for key in state.values if key not in keep]:
            state.remove(key)
    if state.login is not None and state.login.keep is not None and state.signs_in:
        # An earlier login of this request, not stored yet, has kept these alone.
        keep = state.login.keep if keep is None else state.login.keep & keep
    if state.current.user != user:
        _forget_settings(state)
    now = since = state.rules.now()
    if state.base.auth_time is not None and state.base.auth_time >= since:
        # The clock has gone back. A sign-in is later than the one before.
        since = state.base.auth_time + SIGN_IN_STEP
    state.login = Login(since, keep)
    # Whoever has a copy of the session from before does not share the handle.
    seen = seen_at(state.current, now)
    state.set_fields(id="", user=user, auth_time=since, seen=seen)
    state.update_expiry()


def move_sign_in(
    state: SessionState, before: float | None, since: float | None
) -> None:
    """Notes that a sign-in at ``before`` counts from ``since``."""
    if since == before or since is None:
        return
    if state.login is not None and state.login.since == before:
        state.login = Login(since, state.login.keep)
    if state.current.auth_time == before:
        state.set_fields(auth_time=since)


def applied(state: SessionState, mine: Envelope, newest: Envelope) -> Envelope:
    """Returns ``newest`` with what the request has changed since it loaded."""
    base, mine, newest = migrated(state, state.base, mine, newest)
    if mine.auth_time == base.auth_time:
        return reapplied(base, mine, newest)
    # A login: what another request has saved meanwhile comes along where the login
    # would have taken it along.
    keep = None if state.login is None else state.login.keep
    if keep is not None:
        base, newest = keep_only(base, keep), keep_only(newest, keep)
    merged = rebase(base, mine, newest)
    if mine.user == base.user:
        return msgspec.structs.replace(merged, id=mine.id)
    return msgspec.structs.replace(mine, values=merged.values)


def _forget_settings(state: SessionState) -> None:
    """Drops flashes and settings that this request has not set itself."""
    fields: dict[str, Any] = {
        name: default for name, default in _SETTINGS.items() if name not in state.own
    }
    flashes = state.current.flashes.items()
    kept = {key: flash for key, flash in flashes if key in state.own}
    state.set_fields(flashes=kept, **fields)

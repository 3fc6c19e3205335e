"""Which transactions the running code is part of."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

from tornado_sessions.core.rules import Rules
from tornado_sessions.core.state import SessionState
from tornado_sessions.errors import SessionError


class _Transaction:
    __slots__ = ("runs", "state", "token")

    def __init__(self, state: SessionState) -> None:
        self.state = state
        self.token = state.token
        self.runs = True


# The tasks that a function starts inherit its transactions.
_inside: contextvars.ContextVar[tuple[_Transaction, ...]] = contextvars.ContextVar(
    "tornado_sessions_inside", default=()
)


@contextlib.contextmanager
def inside(state: SessionState) -> Iterator[None]:
    """Marks the code that runs as part of a transaction of ``state``."""
    transaction = _Transaction(state)
    reset = _inside.set((*_inside.get(), transaction))
    try:
        yield
    finally:
        transaction.runs = False
        _inside.reset(reset)


def is_inside(state: SessionState) -> bool:
    """Whether the caller runs inside of a `.Session.transact` of ``state``.

    Of this object, or of another one that has the same record.
    """
    return any(
        transaction.runs
        and (
            transaction.state is state
            or (
                transaction.token is not None
                and transaction.token == state.token
                and transaction.state.rules is state.rules
            )
        )
        for transaction in _inside.get()
    )


def is_inside_handle(rules: Rules, handle: str) -> bool:
    """Whether the caller runs inside of a transaction of the session with ``handle``."""
    return any(
        transaction.runs
        and transaction.state.rules is rules
        and transaction.state.base.id == handle
        for transaction in _inside.get()
    )


def refuse_inside(state: SessionState) -> None:
    """Raises `.SessionError` where the function of a transaction commits by itself."""
    if _inside.get() and is_inside(state):
        raise SessionError(
            "The function given to transact() called save(), reload() or"
            " transact() on the same session. It is to change values only:"
            " transact() saves them."
        )

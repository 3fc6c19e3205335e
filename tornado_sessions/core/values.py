"""The values of a session, as the mapping that an application uses."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NoReturn

from msgspec import Raw

from tornado_sessions.core.state import SessionState
from tornado_sessions.errors import SessionDataError, SessionError
from tornado_sessions.frames import hide_frames, hides_frames

if TYPE_CHECKING:
    from typing_extensions import Self

#: What other libraries call what a session has here.
_elsewhere = {
    "cycle_key": "regenerate()",
    "invalidate": "destroy()",
    "new": "is_new",
    "permanent": "persistent",
}


class Values(MutableMapping[str, Any]):
    """A mapping of the values of a `.SessionState`; see `.Session`."""

    __slots__ = ("_state",)

    if TYPE_CHECKING:
        # Set around `__setattr__`, which says what to write for any other name.
        _state: SessionState

    def __init__(self, state: SessionState) -> None:
        set_state(self, state)

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401
        return self._state.get(key)

    def __setitem__(self, key: str, value: Any) -> None:  # noqa: ANN401
        state = self._state
        if (
            type(key) is not str
            or type(value) is Raw
            or state.headers_sent
            or state.finished_by
        ):
            try:
                self._check_item(key, type(value))
            except SessionError as error:
                # It would be in this frame of the error.
                value = None
                hide_frames(error)
                raise
        state.set(key, value)

    def _check_item(self, key: object, kind: type) -> None:
        if type(key) is not str:
            raise SessionDataError(
                f"The session key {key!r} cannot be stored: keys are strings,"
                f" and this is of type {type(key).__name__}."
            )
        self._state.check_change()
        if kind is Raw:
            # It would be taken for one that was loaded, and not be checked.
            raise SessionDataError(
                f"The session value {key!r} cannot be stored as JSON: Raw."
            )

    def __delitem__(self, key: str) -> None:
        self._state.check_removal()
        self._state.remove(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._state.values)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._state.values)

    def __len__(self) -> int:
        return len(self._state.values)

    def __contains__(self, key: object) -> bool:
        return key in self._state.values

    @hides_frames
    def __ior__(self, other: Mapping[str, Any]) -> Self:
        self.update(other)
        return self

    @hides_frames
    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**self, **other}

    @hides_frames
    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**other, **self}

    @hides_frames
    def copy(self) -> dict[str, Any]:
        """Returns the values as a plain dict.

        A list or dict in it is the session's own: what is changed there is saved.
        """
        return dict(self)

    if not TYPE_CHECKING:
        # Its frames have the values that were to be set.
        update = hides_frames(MutableMapping.update)

    def __reduce__(self) -> Any:  # noqa: ANN401
        raise TypeError(
            "A session cannot be pickled, nor copied by the module copy. Use"
            " dict(session), or copy.deepcopy(dict(session))."
        )

    def __sentry_repr__(self) -> str:
        # Sentry would walk through the values of a mapping.
        return repr(self)

    # These two are spelled out as an error of a value would else be told as one
    # that came up while a KeyError was handled.

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """Returns the value of ``key``, or ``default`` if there is none."""
        state = self._state
        return state.get(key) if key in state.values else default

    @hides_frames
    def setdefault(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """Returns the value of ``key``, and sets it to ``default`` first if needed."""
        if key not in self._state.values:
            self[key] = default
        return self[key]

    def popitem(self) -> tuple[str, Any]:
        """Removes and answers the last item, as a dict does."""
        key = next(reversed(self._state.values), None)
        if key is None:
            raise KeyError("popitem(): the session is empty")
        return key, self.pop(key)

    @hides_frames
    def clear(self) -> None:
        """Removes all values, and keeps the session itself; see `destroy`."""
        if self._state.values:
            self._state.check_removal()
        for key in tuple(self._state.values):
            self._state.remove(key)

    if not TYPE_CHECKING:
        # Type checkers would let every name pass.

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_") or hasattr(type(self), name):
                # Not a value's name; or an error from inside a property.
                object.__getattribute__(self, name)
            raise AttributeError(
                f"A session has no attribute {name!r}.{_did_you_mean(type(self), name)} Read a"
                f' value with session["{name}"] or session.get("{name}").'
            )

        def __setattr__(self, name: str, value: object) -> None:
            try:
                object.__setattr__(self, name, value)
            except BaseException as error:
                # It would be in this frame of the error.
                value = None
                known = name.startswith("_") or hasattr(type(self), name)
                if known or not isinstance(error, AttributeError):
                    raise
                raise AttributeError(
                    f"A session has no attribute {name!r}.{_did_you_mean(type(self), name)} Set a"
                    f' value with session["{name}"] = ….'
                ) from None


#: Sets the state of a session, as `object.__setattr__` does, and in a fifth of the time.
set_state: Callable[[Values, SessionState], None] = Values.__dict__["_state"].__set__


def state_of(session: Values) -> SessionState:
    """Returns the state of a session, for the core and the response."""
    return session._state


def _did_you_mean(kind: type, name: str) -> str:
    ours = [name for name in dir(kind) if not name.startswith("_")]
    close = difflib.get_close_matches(name, ours, n=1, cutoff=0.7)
    meant = _elsewhere.get(name) or (close[0] if close else None)
    return f" Did you mean session.{meant}?" if meant else ""

"""The declared fields of one session, and the object that a handler reads them from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from tornado_sessions.core.codec import decode_value
from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.schema import Field, Schema, SessionData, schema_of
from tornado_sessions.core.values import Values, state_of
from tornado_sessions.frames import calls_application, hides_frames

if TYPE_CHECKING:
    from tornado_sessions.core.state import SessionState


class TypedValues:
    """What a request knows of the fields that its handler declares.

    The values themselves are in ``SessionState.values``, as those of any session: there
    is one place for ``session["cart"]`` and ``session.data.cart``.
    """

    __slots__ = ("_defaults", "_migrated", "schema")

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        # The defaults that were put among the values, by key.
        self._defaults: dict[str, Any] = {}
        # The values that were migrated. Others take their place with a reload, a
        # transaction, and the end of the session.
        self._migrated: dict[str, Any] | None = None

    def decode(self, key: str, raw: Raw) -> Any:  # noqa: ANN401
        """Returns a value, by the type of its field if it has one.

        Raises `.SessionDataError` if it does not fit.
        """
        field = self.schema.fields.get(key)
        return decode_value(raw) if field is None else field.decode(raw)

    @hides_frames
    @calls_application
    def default(self, field: Field, values: dict[str, Any]) -> Any:  # noqa: ANN401
        """Returns the default of a field that ``values`` lack.

        One that can be changed is put among them, so that a change is noticed.
        """
        if field.make is None:
            return field.default
        values[field.key] = self._defaults[field.key] = default = field.make()
        return default

    def encoded(
        self, values: Mapping[str, Any], loaded: Mapping[str, Raw]
    ) -> dict[str, Any]:
        """Returns ``values`` with those of the fields encoded.

        What is the same as in ``loaded`` is that very object, and a default that nobody
        has changed is left out. Raises `.SessionDataError` for what does not fit.
        """
        self.schema.refuse_others(values.keys())
        encoded = {}
        for key, value in values.items():
            field = self.schema.fields.get(key)
            if field is None or type(value) is Raw:
                encoded[key] = value
                continue
            data = field.encode(value)
            old = loaded.get(key)
            if old is not None:
                encoded[key] = old if data == old or field.is_same(data, old) else data
            elif data != field.default_data or value is not self._defaults.get(key):
                encoded[key] = data
        return encoded

    @calls_application
    def migrate(self, values: dict[str, Any]) -> None:
        """Has the schema migrate ``values``, unless it has done so already.

        Raises `.SessionDataError` if what it returns does not fit, and for keys that
        the schema forbids.
        """
        if self._migrated is values:
            return
        self._migrate(values)
        self.schema.refuse_others(values.keys())
        self._migrated = values

    @calls_application
    def migrated(self, values: dict[str, Any]) -> dict[str, Any]:
        """Returns a migrated copy of stored ``values``; themselves if none is needed.

        Only if the request has migrated its own. Raises as `migrate` does.
        """
        if self._migrated is None or self.schema.migrate is None:
            return values
        values = dict(values)
        self._migrate(values)
        return values

    @calls_application
    def _migrate(self, values: dict[str, Any]) -> None:
        schema = self.schema
        if schema.migrate is None or not values:
            return
        stored = {
            key: decode_value(
                value if type(value) is Raw else schema.encode(key, value)
            )
            for key, value in values.items()
        }
        before = {key: msgspec.json.encode(value) for key, value in stored.items()}
        after = schema.migrated(schema.migrate(stored), before)
        for key in before.keys() - after.keys():
            del values[key]
        values |= {key: raw for key, raw in after.items() if raw is not None}


def declare(state: SessionState, data: type[SessionData] | None) -> None:
    """Has the values of ``state`` be those that ``data`` declares, unless it is None."""
    if data is not None:
        state.typed = TypedValues(schema_of(data))


@hides_frames
def migrate(state: SessionState) -> None:
    """Migrates the values of ``state``, if a schema is declared and has not done so."""
    if state.typed is not None:
        state.typed.migrate(state.values)


def migrated(state: SessionState, *envelopes: Envelope) -> tuple[Envelope, ...]:
    """Returns ``envelopes`` with their values migrated as those of ``state`` were.

    That is for a merge. Of records of which only some are migrated, what the migration
    has made would look like a change of this request, and replace that of another.
    """
    typed = state.typed
    if typed is None or typed.schema.migrate is None:
        return envelopes
    return tuple(
        msgspec.structs.replace(each, values=typed.migrated(each.values))
        for each in envelopes
    )


def view_of(state: SessionState) -> Any:  # noqa: ANN401
    """Returns the object whose attributes are the fields that ``state`` declares.

    Raises `AttributeError` if it declares none.
    """
    if state.typed is None:
        raise AttributeError(
            "session.data needs a schema. Declare one: class CartHandler("
            "SessionMixin[Shop]), where Shop is a subclass of SessionData."
        )
    migrate(state)
    return _view_class(state.typed.schema)(_session_values=Values(state))


# A view of a subclass of `SessionData` is an instance of a subclass of that. So it has
# the methods that the application has defined, and a type checker is told the truth.
# What it has inherited as fields are properties: they read and set the session.


class NotInCopy:
    """What a view has in place of each field, so that nothing encodes it by mistake.

    msgspec would find the defaults there. ``copy.copy(session.data)`` has the values.
    """

    __slots__ = ()


@functools.cache
def _view_class(schema: Schema) -> Callable[..., Any]:
    """Returns a function that makes a view of the ``_session_values`` it is given."""
    data = schema.data

    def of_view(view: Any) -> Any:  # noqa: ANN401
        return data(**{name: getattr(view, name) for name in names})

    def is_equal(view: Any, other: object) -> Any:  # noqa: ANN401
        return of_view(view) == (of_view(other) if isinstance(other, cls) else other)

    names = [field.name for field in schema.fields.values()]
    namespace: dict[str, Any] = {
        "__copy__": of_view,
        "__eq__": is_equal,
        "__hash__": None,
        "__post_init__": lambda view: None,
        "__qualname__": data.__qualname__,
        # No values, as in that of a session.
        "__repr__": lambda view: f"<{data.__name__} of a session>",
        "__rich_repr__": lambda view: iter(()),
        # Also of a pickle, and of a copy with copy.deepcopy().
        "__reduce__": lambda view: of_view(view).__reduce__(),
        **{field.name: _property(field) for field in schema.fields.values()},
    }
    cls: Any = msgspec.defstruct(
        data.__name__,
        [("_session_values", Any, None)],
        bases=(data,),
        module=data.__module__,
        namespace=namespace,
    )
    return functools.partial(cls, **dict.fromkeys(names, NotInCopy()))


def _property(field: Field) -> property:
    key = field.key

    def read(view: Any) -> Any:  # noqa: ANN401
        values: Values = view._session_values
        if key in values:
            return values[key]
        state = state_of(values)
        assert state.typed is not None
        return state.typed.default(field, state.values)

    def write(view: Any, value: Any) -> None:  # noqa: ANN401
        try:
            view._session_values[key] = value
        except BaseException:
            # It would be in this frame of the error.
            value = None
            raise

    def delete(view: Any) -> None:  # noqa: ANN401
        if key in view._session_values:
            del view._session_values[key]

    return property(read, write, delete)

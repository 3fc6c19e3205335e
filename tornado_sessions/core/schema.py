"""`SessionData`, and what the core has to know of its fields."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, get_args, get_origin

import msgspec
from msgspec import Raw

from tornado_sessions.core.codec import PLAIN, encode_value
from tornado_sessions.core.depth import is_too_deep
from tornado_sessions.core.misfits import explain_stored, explain_unfit
from tornado_sessions.errors import SessionDataError

_encode = msgspec.json.Encoder().encode


class SessionData(msgspec.Struct):
    """The base class of a schema: the fields that `.Session.data` has.

    A subclass is a `msgspec.Struct
    <https://jcristharif.com/msgspec/structs.html>`_ whose fields are keys of the
    session. Each has a type that JSON can hold or that msgspec converts, and a
    default, which is used until something is stored. Values of other keys are left
    alone, unless the class is declared with ``forbid_unknown_fields=True``. Each
    field is checked by itself: ``__post_init__`` of the subclass is called for a copy
    alone, see `.Session.data`.
    """

    @classmethod
    def migrate(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Returns the values of the session in the form that this schema declares.

        Override it if sessions were stored by an earlier version of the application.
        It is called each time a request has loaded a session, so it must return
        values that are up to date as they are. ``values`` are all that are stored, as
        JSON has them, and may be changed. What this method changes is stored with
        the response.
        """
        return values


if TYPE_CHECKING:
    from typing_extensions import TypeVar

    #: The schema of a session and of a handler.
    Data_co = TypeVar("Data_co", bound=SessionData, covariant=True, default=SessionData)
else:
    # The one of Python 3.10 knows no default.
    from typing import TypeVar

    Data_co = TypeVar("Data_co", bound=SessionData, covariant=True)


class Field:
    """One field of a schema: the type and the default of one value."""

    __slots__ = ("_decode", "default", "default_data", "key", "make", "name", "schema")

    def __init__(self, schema: str, field: msgspec.structs.FieldInfo) -> None:
        #: The name of the schema, for messages.
        self.schema = schema
        #: The name of the attribute, and the key in the session: another one where an
        #: option of msgspec renames the field.
        self.name, self.key = field.name, field.encode_name
        self._decode = msgspec.json.Decoder(field.type).decode
        #: The default, if nobody can change it. Otherwise ``make`` makes one.
        self.default: Any = field.default
        self.make: Callable[[], Any] | None = None
        if field.default_factory is not msgspec.NODEFAULT:
            self.make = field.default_factory
            self.default = None
        elif self.default is msgspec.NODEFAULT:
            raise TypeError(
                f"The field {field.name!r} of {schema} has no default, and a new"
                " session has no values. Give it one, such as None."
            )
        try:
            # One that can be changed would be shared by all visitors.
            hash(self.default)
            self.default_data = self.encode(self.make() if self.make else self.default)
        except (SessionDataError, TypeError) as error:
            raise TypeError(
                f"The default of the field {field.name!r} of {schema} cannot be used:"
                " it has to be a value of the declared type, and if it can be changed,"
                " it has to come from a default_factory."
            ) from error

    def decode(self, data: Raw) -> Any:  # noqa: ANN401
        """Returns a stored value. Raises `.SessionDataError` if it does not fit."""
        try:
            return self._decode(data)
        except Exception:  # noqa: BLE001 - the type's own checks may raise anything
            message = explain_stored(self.schema, self.key, bytes(data), self._decode)
        # Not above: the error of msgspec may contain the value.
        raise SessionDataError(message)

    def encode(self, value: Any) -> Raw:  # noqa: ANN401
        """Returns ``value`` as JSON.

        Raises `.SessionDataError`, with the path and the type, if decoding it by the
        declared type would not return an equal value.
        """
        data = None
        with contextlib.suppress(Exception):
            data = _encode(value)
            if self._decode(data) == value and (
                type(value) in PLAIN or not is_too_deep(data)
            ):
                return Raw(data)
        raise SessionDataError(
            explain_unfit(self.schema, self.key, value, data, self._decode)
        )

    def is_same(self, data: Raw, loaded: Raw) -> bool:
        """Whether ``loaded`` is the value of ``data``, perhaps in another form.

        As a time with ``Z`` in place of ``+00:00``, or a nested field that is left
        out because it has its default.
        """
        try:
            return _encode(self._decode(loaded)) == bytes(data)
        except Exception:  # noqa: BLE001 - it does not fit, so it is another value
            return False


class Schema:
    """What the core knows of a subclass of `SessionData`. Get it with `schema_of`."""

    def __init__(self, data: type[SessionData]) -> None:
        self.data = data
        self.name = data.__name__
        fields = [Field(self.name, each) for each in msgspec.structs.fields(data)]
        self.fields = {field.key: field for field in fields}
        self.forbids_others = data.__struct_config__.forbid_unknown_fields
        migrate: Any = data.migrate
        is_own = (
            inspect.ismethod(migrate)
            and migrate.__func__ is not SessionData.migrate.__func__  # type: ignore[attr-defined]
        )
        self.migrate: Callable[[dict[str, Any]], Any] | None = (
            migrate if is_own else None
        )

    def encode(self, key: str, value: Any) -> Raw:  # noqa: ANN401
        """Returns any value of the session as JSON.

        Raises `.SessionDataError` if it cannot be stored or does not fit.
        """
        field = self.fields.get(key)
        return encode_value(key, value) if field is None else field.encode(value)

    def migrated(
        self, values: object, before: Mapping[str, bytes]
    ) -> dict[str, Raw | None]:
        """Returns the JSON of what `migrate` returned; None if it is that in ``before``.

        A value has the declared type or the form that it has in JSON. Raises
        `.SessionDataError` for one that has neither, and `TypeError` if ``values`` are
        no dict.
        """
        if not isinstance(values, dict) or any(type(key) is not str for key in values):
            raise TypeError(
                f"{self.name}.migrate() returned an object of type"
                f" {type(values).__name__}. It has to return the dict of all values,"
                " whose keys are of type str."
            )
        return {key: self._migrated(key, values[key], before) for key in values}

    def _migrated(
        self, key: str, value: object, before: Mapping[str, bytes]
    ) -> Raw | None:
        try:
            data = _encode(value)
        except Exception:  # noqa: BLE001 - explained below
            return self.encode(key, value)
        if data == before.get(key):
            return None
        field = self.fields.get(key)
        # Also of the declared type, it is checked in the form that it has in JSON.
        return self.encode(key, value if field is None else field.decode(Raw(data)))

    def refuse_others(self, keys: AbstractSet[str]) -> None:
        """Raises `.SessionDataError` for a key that the schema forbids."""
        if self.forbids_others and (others := keys - self.fields.keys()):
            raise SessionDataError(
                f"The session has values that the schema {self.name} forbids:"
                f" {', '.join(map(repr, sorted(others)))}. Declare them, remove them in"
                f" {self.name}.migrate(), or leave out forbid_unknown_fields."
            )


@functools.cache
def schema_of(data: type[SessionData]) -> Schema:
    """Returns the schema of a class, always the same object.

    Raises `TypeError` for what is no subclass of `SessionData`, for a field without a
    default or with one that does not fit, and for a type that msgspec cannot decode.
    """
    if not _is_schema(data):
        raise TypeError(
            "SessionMixin[…] takes a subclass of SessionData, such as"
            f" SessionMixin[Shop], not {data!r}."
        )
    return Schema(data)


def declared_by(handler: type, base: type) -> type[SessionData] | None:
    """Returns the schema that a class names in its bases, as in ``base[Shop]``.

    Returns None if it names none. Raises as `schema_of` does.
    """
    for each in vars(handler).get("__orig_bases__", ()):
        origin = get_origin(each)
        if isinstance(origin, type) and issubclass(origin, base):
            for argument in get_args(each):
                if isinstance(argument, TypeVar):
                    continue
                # A generic handler of the application may have other parameters.
                if origin is base or _is_schema(argument):
                    return schema_of(argument).data
    return None


def _is_schema(argument: object) -> bool:
    return isinstance(argument, type) and issubclass(argument, SessionData)

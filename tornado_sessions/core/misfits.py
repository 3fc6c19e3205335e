"""Says why a value does not fit the schema of a session."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from tornado_sessions.core.depth import DEEPEST, is_too_deep
from tornado_sessions.core.unstorable import culprit, shorten

#: Decodes JSON by a type, or raises.
Decode = Callable[[bytes], Any]

# Where an error of msgspec says what is wrong: "$.lines[0].count", with "[...]" for any
# value of a dict. With "key" in front it is a key of the dict.
_place = re.compile(r" - at `(key` in `)?\$([^`]*)`$")
_step = re.compile(r"\.([^.\[]+)|\[(\d+)\]|\[\.\.\.\]")
# The only messages of msgspec that repeat a value.
_with_value = re.compile(r"(Invalid (?:enum )?value) .*", re.DOTALL)


def explain_stored(schema: str, key: str, data: bytes, decode: Decode) -> str:
    """Returns the message for stored JSON that does not fit. It contains no values."""
    path, reason = _explain_data(key, data, decode)
    return (
        f"The stored session value {path} does not fit the schema {schema}: {reason}."
        f" The record was not changed. Convert the value in {schema}.migrate()."
    )


def explain_unfit(
    schema: str,
    key: str,
    value: Any,  # noqa: ANN401
    data: bytes | None,
    decode: Decode,
) -> str:
    """Returns the message for a value that was set and does not fit.

    ``data`` is its JSON, or None if it has none. The message contains the path and
    the types, and no values.
    """
    if data is None:
        path, what = culprit(key, value, _encoded)
        reason = f"JSON cannot hold {what}"
    else:
        path, reason = _explain_data(key, data, decode)
        if not reason and is_too_deep(data):
            reason = f"it is nested deeper than {DEEPEST} levels"
        elif not reason:
            steps, reason = _difference(value, decode(data))
            path += steps
    return (
        f"The session value {path} does not fit the schema {schema}: {reason}. Store a"
        " value of the declared type."
    )


def _encoded(value: Any) -> bytes | None:  # noqa: ANN401
    try:
        return msgspec.json.encode(value)
    except Exception:  # noqa: BLE001 - of a class of the application
        return None


def _difference(value: Any, decoded: Any) -> tuple[str, str]:  # noqa: ANN401
    """Returns where and why ``value`` is not what JSON and its type make of it."""
    path = ""
    while type(value) is type(decoded):
        for step, part, other in _parts(value, decoded):
            if part != other:
                path += step
                value, decoded = part, other
                break
        else:
            return path, f"this {type(value).__name__} would come back as another value"
    names = (type(decoded).__name__, type(value).__name__)
    return path, "expected `{}`, got `{}`".format(*names)


def _parts(value: Any, decoded: Any) -> list[tuple[str, Any, Any]]:  # noqa: ANN401
    """Returns the parts of two values of one type, each pair with its step."""
    if isinstance(value, dict) and value.keys() == decoded.keys():
        return [(f"[{shorten(key)!r}]", value[key], decoded[key]) for key in value]
    if isinstance(value, (list, tuple)):
        pairs = enumerate(zip(value, decoded, strict=False))
        return [(f"[{i}]", part, other) for i, (part, other) in pairs]
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
        return [(f".{n}", getattr(value, n), getattr(decoded, n)) for n in names]
    return []


def _explain_data(key: str, data: bytes, decode: Decode) -> tuple[str, str]:
    """Returns the path and the reason; the reason is empty if ``data`` fits."""
    error = _error_of(data, decode)
    if error is None:
        return repr(shorten(key)), ""
    message = str(error)
    place = _place.search(message)
    path = repr(shorten(key))
    if place is not None:
        path += _path(data, place[2], place[0], decode)
        message = message[: place.start()]
    if error.__cause__ is not None or not isinstance(error, msgspec.DecodeError):
        # The words of a class of the application, which may repeat the value.
        reason = "a check of its type refuses it"
    else:
        reason = _lower(_with_value.sub(r"\1", message))
    if place is not None and place[1]:
        reason += " as a key"
    return path, reason


def _error_of(data: bytes, decode: Decode) -> Exception | None:
    try:
        decode(data)
    except Exception as error:  # noqa: BLE001 - the type's own checks may raise anything
        return error
    return None


def _path(data: bytes, steps: str, place: str, decode: Decode) -> str:
    """Returns how Python code reaches ``steps``, with the keys that "[...]" leaves out."""
    content = at = msgspec.json.decode(data)
    path = ""
    for step in _step.finditer(steps):
        name: str | int | None = step[1] or (int(step[2]) if step[2] else None)
        text = step[0]
        if name is None:
            name = _only_culprit(content, at, place, decode)
            text = f"[{shorten(name)!r}]"
        path += text
        try:
            at = at[name]
        except LookupError:
            # There is a dot or a bracket in a name.
            return steps
    return path


def _only_culprit(content: Any, at: dict[str, Any], place: str, decode: Decode) -> str:  # noqa: ANN401
    """Returns the key of the value that does not fit, and removes the others of ``at``.

    Without the others ``content`` still has the same error at ``place``.
    """
    items = dict(at)

    def still_fails(key: str) -> bool:
        at.clear()
        at[key] = items[key]
        error = _error_of(msgspec.json.encode(content), decode)
        return str(error).endswith(place)

    return next(filter(still_fails, items), "")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]

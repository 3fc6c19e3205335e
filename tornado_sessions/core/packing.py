"""Encodes the values that a request has looked at, and finds out what has changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from tornado_sessions.core.codec import encode_value
from tornado_sessions.errors import SessionDataError

if TYPE_CHECKING:
    from tornado_sessions.core.typed import TypedValues


def encode_values(
    values: Mapping[str, Any],
    touched: Iterable[str],
    loaded: dict[str, Raw],
    is_merged: bool,
    typed: TypedValues | None = None,
) -> dict[str, Raw]:
    """Returns ``values`` in their encoded form: ``loaded`` itself if they are equal.

    Only those of ``touched`` keys may not be encoded; with ``typed`` any. If it
    ``is_merged``, the others may differ from ``loaded`` as well. Raises
    `.SessionDataError` for a value that cannot be stored, or that does not fit what
    ``typed`` declares.
    """
    if typed is not None:
        values, is_merged = typed.encoded(values, loaded), True
        touched = values
    encoded = {
        key: encode_value(key, values[key])
        for key in touched
        if key in values and type(values[key]) is not Raw
    }
    compared = {**values, **encoded} if is_merged else encoded
    if len(values) == len(loaded) and compared.items() <= loaded.items():
        return loaded
    return {**values, **encoded}


def count_changes(
    values: Mapping[str, Any],
    loaded: Mapping[str, Raw],
    typed: TypedValues | None = None,
) -> int:
    """Returns how many keys were set, changed or removed since ``loaded``."""
    if typed is not None:
        with contextlib.suppress(SessionDataError):
            values = typed.encoded(values, loaded)
    changed = sum(key not in values for key in loaded)
    for key, value in values.items():
        try:
            encoded = value if type(value) is Raw else encode_value(key, value)
        except SessionDataError:
            encoded = None
        changed += encoded is None or loaded.get(key) != encoded
    return changed

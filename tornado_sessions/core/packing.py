"""Encodes the values that a request has looked at, and finds out what has changed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from tornado_sessions.core.codec import encode_value
from tornado_sessions.core.merge import different
from tornado_sessions.errors import SessionDataError

if TYPE_CHECKING:
    from tornado_sessions.core.typed import TypedValues


def encode_values(
    values: Mapping[str, Any],
    loaded: dict[str, Raw],
    merged: Mapping[str, Raw],
    typed: TypedValues | None = None,
) -> dict[str, Raw]:
    """Returns ``values`` in their encoded form: ``loaded`` itself if they are equal.

    Only those that a request has looked at are not encoded. ``merged`` is what they
    were decoded from; it is ``loaded`` itself unless there was a merge. Raises
    `.SessionDataError` for a value that cannot be stored, or that does not fit what
    ``typed`` declares.
    """
    is_compared = merged is not loaded
    if typed is not None:
        values, is_compared = typed.encoded(values, loaded), True
    encoded = {
        key: encode_value(key, value)
        for key, value in values.items()
        if type(value) is not Raw
    }
    # After a merge, what nobody looked at may differ, too.
    compared = {**values, **encoded} if is_compared else encoded
    if len(values) == len(loaded) and not different(compared, loaded):
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

"""Checks of what an application passes to a session."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable

from tornado_sessions.core.codec import encode_value
from tornado_sessions.errors import SessionDataError

#: How many characters a `.Session.label` has at the most.
LONGEST_LABEL = 200


def check_user(user: object, what: str) -> None:
    """Raises for what is not the id of a user; ``what`` is who was given it."""
    if user is None:
        # Not str(None), which would sign everybody in who was not found.
        raise TypeError(
            f"{what} takes the user's id as a str, not None. Find the user first, and"
            " refuse the request if there is none."
        )
    if type(user) is not str:
        raise TypeError(
            f"{what} takes the user's id as a str, not {type(user).__name__}:"
            " as in str(row.id)."
        )
    if not user:
        raise ValueError(f"{what} takes the user's id; it is empty.")
    check_unicode(user, f"{what} takes the user's id as Unicode text.")


def check_unicode(text: str, message: str) -> None:
    """Raises `ValueError` with ``message`` for text that has surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(message) from error


def check_label(label: object) -> None:
    """Raises for what is not a label; see `.Session.label`."""
    if type(label) is not str:
        raise TypeError(f"label is a str, not {type(label).__name__}.")
    if len(label) > LONGEST_LABEL:
        raise ValueError(
            f"A label has at most {LONGEST_LABEL} characters; this one has"
            f" {len(label)}. Shorten it."
        )
    check_unicode(label, "label is Unicode text.")


def check_flash(text: object, category: object) -> None:
    """Raises for what is not a message; see `.Session.flash`."""
    for part in (text, category):
        if not isinstance(part, str):
            raise SessionDataError(
                f"flash() takes a text and a category, not {type(part).__name__}."
            )
        encode_value("flash", part)


def checked_keys(keep: Iterable[str]) -> frozenset[str]:
    """Returns the keys that `Session.login` is to keep."""
    if isinstance(keep, (str, bytes)) or not isinstance(keep, Iterable):
        raise TypeError(
            'login() takes keep as a list of keys, such as keep=["cart"], not'
            f" {type(keep).__name__}."
        )
    keys = frozenset(keep)
    for key in keys:
        if type(key) is not str:
            raise TypeError(
                "login() takes the keys to keep as str, and one of them is of type"
                f" {type(key).__name__}."
            )
    return keys


def seconds_of(name: str, value: object) -> float:
    """Returns a time that `.Session.set_expiry` was given as ``name``, in seconds.

    Raises `TypeError` for what is no time, and `ValueError` for infinity.
    """
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"set_expiry() takes {name} in seconds or as a timedelta, not {value!r}."
        )
    if not math.isfinite(value):
        raise ValueError(f"set_expiry() takes {name} in seconds, and not {value!r}.")
    return float(value)

"""Reads the URL of the cookie backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tornado_sessions import Backend
from tornado_sessions.storage.registry import open_backend


def read_url(url: str) -> str | None:
    """Returns the option ``not_before``, and refuses whatever else is there."""
    address, _, query = url.partition("?")
    pairs = [option.partition("=")[::2] for option in query.split("&") if option]
    if [name for name, _ in pairs].count("not_before") > 1:
        raise ValueError(
            "The option 'not_before' of the session backend 'cookie' is there twice."
            " Remove one."
        )
    options = dict(pairs)
    not_before = options.pop("not_before", None)
    if any("@" in name + text for name, text in options.items()):
        # They are the rest of a password, which is not repeated.
        raise ValueError(
            "The option 'not_before' of the cookie session backend is a URL, in which"
            " '&' is written as '%26', and there is an '@' after the first '&'."
        )
    if options:
        raise ValueError(
            "The URL has an option that the cookie session backend does not have. Its"
            " only one is 'not_before', a URL, in which '&' is written as '%26'."
        )
    # What else is there is not repeated: it may be a secret that was put there.
    if address.partition(":")[2] not in ("", "//"):
        raise ValueError(
            "The cookie session backend takes nothing after its name but the option"
            " 'not_before'. Use session_backend='cookie:'."
        )
    # Whatever else is escaped in it is for the backend that it names.
    return None if not_before is None else not_before.replace("%26", "&")


def open_store(url: str, settings: Mapping[str, Any]) -> Backend:
    opened = open_backend(url, settings)
    if not isinstance(opened, Backend):
        raise ValueError(
            "The option 'not_before' of the cookie session backend names a"
            f" {type(opened).__name__}, which keeps nothing on the server. Use another"
            " one, such as not_before=sqlite:///ends.db."
        )
    return opened

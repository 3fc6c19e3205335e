"""Recognizes settings that are misspelt, or called as in another framework."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from tornado_sessions.http.cookies import ATTRIBUTES

_ages = (
    "session_idle_timeout, which ends a session after so many seconds without a"
    " request, and session_lifetime, which ends it in any case; with"
    " session_persistent=True the cookie lasts as long"
)
_renewed = "Remove it: each request extends the idle timeout by itself"
_saved = "Remove it: what has changed is saved by itself, and nothing else"
_stored = 'session_backend, such as "sqlite:///sessions.db"'

#: The names of settings in Flask, Django, Laravel, express and others, with advice
#: what to use here. For the attributes of a cookie see `_cookie_attribute`.
_elsewhere = {
    "permanent_session_lifetime": _ages,
    "session_age": _ages,
    "session_autosave": _saved,
    "session_cookie": "session_cookie_name",
    "session_cookie_age": _ages,
    "session_cookie_expires": _ages,
    "session_cookie_max_age": _ages,
    "session_driver": _stored,
    "session_engine": _stored,
    "session_expire_at_browser_close": (
        "session_persistent=False, which is the default, or True for the contrary"
    ),
    "session_expires": _ages,
    "session_interface": _stored,
    "session_key_prefix": "session_namespace",
    "session_max_age": _ages,
    "session_mongodb": 'session_backend="mongodb://localhost/sessions"',
    "session_memcached": 'session_backend="memcached://localhost"',
    "session_name": "session_cookie_name",
    "session_permanent": "session_persistent",
    "session_prefix": "session_namespace",
    "session_refresh_each_request": _renewed,
    "session_resave": _saved,
    "session_rolling": _renewed,
    "session_save_every_request": _saved,
    "session_save_uninitialized": _saved,
    "session_secret": "cookie_secret",
    "session_secret_key": "cookie_secret",
    "session_store": _stored,
    "session_ttl": _ages,
    "session_type": _stored,
}


def refuse_misspelt(settings: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises `ValueError` for a setting that is nearly one of those that are ``known``.

    Other libraries may use the prefix ``session_`` as well, so it refuses only names
    that are similar to ours, and those of other frameworks.
    """
    for name in settings:
        lower = name.lower()
        if name in known or "session_" not in lower:
            continue
        attribute = _cookie_attribute(lower)
        if attribute is not None:
            raise ValueError(
                f"There is no setting {name!r}. Write:"
                f" session_cookie_kwargs={{{attribute!r}: {settings[name]!r}}}"
            )
        if lower in _elsewhere:
            # Without the value, which may be a secret.
            advice = _elsewhere[lower]
            verb = "" if advice.startswith("Remove") else "Use "
            raise ValueError(f"There is no setting {name!r}. {verb}{advice}.")
        if lower.startswith("session_"):
            close = difflib.get_close_matches(lower, known, n=1, cutoff=0.85)
            if close:
                raise ValueError(
                    f"There is no setting {name!r}. Did you mean {close[0]!r}?"
                )


def _cookie_attribute(name: str) -> str | None:
    """Returns the cookie attribute that a setting with this name would set."""
    # An application may use "session_path" for something else.
    if not name.startswith("session_") or name == "session_path":
        return None
    words = name.removeprefix("session_").removeprefix("cookie_")
    attribute = words.removesuffix("_cookie").replace("_", "")
    return attribute if attribute in ATTRIBUTES else None

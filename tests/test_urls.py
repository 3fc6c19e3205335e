"""Tests that no error repeats a password of a URL, on all installed backends."""

from __future__ import annotations

import importlib.metadata
import logging
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tornado_sessions import SessionError
from tornado_sessions.storage.registry import GROUP, open_backend

_BACKENDS = sorted(
    {point.name for point in importlib.metadata.entry_points(group=GROUP)}
)

# No piece of this length that is made of these characters alone is in a message. They
# are neither digits nor letters of the ASCII alphabet but for a few.
_PIECE = 4
_LETTERS = "ŵøřðQZXJ7"

# A password as somebody types it who does not escape it. `@` before the host ends it.
_passwords = st.lists(
    st.sampled_from(
        [
            *("?", "&", "#", "/", "@", ":", "%", "=", " ", "%40", "%2", "[", "]", ","),
            *("timeout=", "&max_bytes=", "?collection=", "&table=", "&prefix="),
            *("&driver=", "&synchronous=", "&max_records=", "&maxPoolSize=", "&tls="),
            *("?not_before=", "&authMechanism=", "&readPreference=", "\u2100", "\0"),
        ]
    )
    | st.text(_LETTERS, min_size=_PIECE, max_size=8),
    min_size=1,
    max_size=8,
).map("".join)

_PLACES = (
    "{name}://user:{password}@host/db",
    "{name}://user:{password}@host:1/db?timeout=1",
    "{name}://{password}@host",
    "{name}://user:{password}",
    "{name}://{password}",
    "{name}:user:{password}@host",
    "{name}:{password}",
    "{name}///{password}@host",
    "{name}:///{password}",
    "{name}+srv://user:{password}@host/db",
    "{name}://host,{password}",
    "{name}://host/{password}",
    "{name}://host/db?{password}",
    "{name}://host/db?timeout={password}",
    "{name}:///s.db?synchronous={password}&x=1",
    "{name}:?{password}=1",
    "{name}:?max_records={password}",
    "{name}:?not_before={password}",
    "{name}:?not_before=mongodb://user:{password}@host/db",
    "user:{password}@host/{name}",
)


@pytest.mark.parametrize("name", _BACKENDS)
@settings(deadline=None, max_examples=200)
@given(st.sampled_from(_PLACES), _passwords)
@example("{name}://user:{password}@host/db", "p?timeout=ŵøřð")
@example("{name}://user:{password}@host/db", "p?ŵøřð=1")
@example("{name}://user:{password}@host/db", "p?timeout=1&ŵøřð")
@example("{name}://user:{password}@host/db", "p[ŵøřð]")
@example("{name}://user:{password}@host/db", "ŵøřð\u2100")
@example("{name}://user:{password}", "p?maxPoolSize=ŵøřð")
@example("{name}:///s.db?{password}", "ŵøřð=1")
def test_no_error_repeats_a_password(name: str, place: str, password: str) -> None:
    """Behaviour 89: neither the message nor a cause, in whatever place it is."""
    # A word by itself is the name of a backend there, and statement 74 has it named.
    assume(not (place.endswith("not_before={password}") and password.isalnum()))
    url = place.format(name=name, password=password)
    for told in _told(url):
        assert not _pieces(password) & _windows(told), told


def _told(url: str) -> Iterator[str]:
    """Yields what an application that has this URL shows and logs."""
    app_settings: dict[str, Any] = {"cookie_secret": "x" * 32}
    lines: list[str] = []
    handler = logging.Handler()
    # A subclass for one line would say no more.
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            open_backend(url, app_settings)
    except (ValueError, SessionError) as error:
        pending: list[BaseException | None] = [error]
        while pending:
            each = pending.pop()
            if each is not None:
                yield str(each)
                yield repr(each)
                pending += [each.__cause__, each.__context__]
        yield "".join(traceback.format_exception(error))
    finally:
        root.removeHandler(handler)
    yield from (str(warning.message) for warning in caught)
    yield from lines


def _pieces(password: str) -> set[str]:
    """Returns the pieces of a password that no message has by itself."""
    return {piece for piece in _windows(password) if set(piece) <= set(_LETTERS)}


def _windows(text: str) -> set[str]:
    return {text[i : i + _PIECE] for i in range(len(text) - _PIECE + 1)}

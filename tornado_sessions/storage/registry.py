"""Finds a session backend by name or URL through entry points."""

from __future__ import annotations

import difflib
import importlib.metadata
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tornado_sessions.errors import BackendNotFoundError
from tornado_sessions.storage.backend import Backend

if TYPE_CHECKING:
    from tornado_sessions.storage.vault import Vault

GROUP = "tornado_sessions.backends"

#: Advice for a file name in place of a URL.
FILE_ADVICE = (
    "For a file of SQLite write 'sqlite:///sessions.db', or with an absolute path"
    " 'sqlite:////var/lib/sessions.db'."
)

_distribution = "tornado-sessions"

# Which backend serves a store that is known by another name.
_same_as = {"mariadb": "mysql", "postgres": "postgresql", "valkey": "redis"}

_name_characters = re.compile(r"[a-z][a-z0-9+._-]*", re.IGNORECASE).fullmatch
# A file name in place of a URL, such as "/var/s.db" and "C:\\s.db".
_names_file = re.compile(r"(?!.*://).*\.(db3?|sqlite3?)", re.IGNORECASE).fullmatch


def open_backend(url: str, settings: Mapping[str, Any]) -> Backend | Vault:
    """Returns the backend for ``url``: its scheme, or a bare name.

    Imports only the distribution that provides the backend. Raises
    `.BackendNotFoundError` if none or several provide it, or if it cannot be
    imported; also raises what its ``from_url`` raises.
    """
    opened: Backend | Vault = _find(url).from_url(url, settings)
    return opened


def _find(url: str) -> Any:  # noqa: ANN401
    # Messages contain only the scheme: the rest may contain a password.
    name = url.partition(":")[0].lower()
    installed = importlib.metadata.entry_points(group=GROUP)
    # An editable install may list a distribution twice, so compare values.
    found = {point.value: point for point in installed if point.name == name}
    if not found:
        raise BackendNotFoundError(
            _not_found(
                name,
                {p.name for p in installed},
                is_file=bool(_names_file(url)),
                # Without slashes it may be a user or part of a password.
                may_be_shown="@" not in url or url.startswith("://", len(name)),
            )
        )
    if len(found) > 1:
        providers = sorted(_provider(point) for point in found.values())
        raise BackendNotFoundError(
            f"Both {' and '.join(providers)} provide the session backend {name!r}."
            " Uninstall one."
        )
    (point,) = found.values()
    try:
        return point.load()
    except Exception as error:
        raise BackendNotFoundError(
            f"The session backend {name!r} of {_provider(point)} cannot be imported:"
            f" {type(error).__name__}, see above. Is the distribution installed whole?"
        ) from error


def _not_found(
    name: str, installed: set[str], *, is_file: bool, may_be_shown: bool
) -> str:
    if not _name_characters(name) or not may_be_shown:
        advice = (
            FILE_ADVICE
            if is_file
            else "It is a name such as 'memory' or a URL such as 'sqlite:///sessions.db'."
        )
        return f"The session_backend setting names no backend. {advice}"
    extras = _extras()
    parts = [f"No session backend named {name!r} is installed."]
    known = sorted(installed | extras)
    close = [each for each in known if each == _same_as.get(name)]
    close += difflib.get_close_matches(name, known, n=1)
    wanted = name if name in extras else close[0] if close else None
    if wanted is not None and wanted != name:
        parts.append(f"Did you mean {wanted!r}?")
    if is_file:
        parts.append(FILE_ADVICE)
    elif wanted is None:
        parts.append("The README of tornado-sessions says how to write one.")
    names = ", ".join(map(repr, sorted(installed))) or "none"
    listed = f"Installed backends: {names}."
    # The command is at the end of a line, so that it can be copied.
    if wanted in extras - installed:
        install = f'Install it with: pip install "{_distribution}[{wanted}]"\n'
    elif not installed and "sqlite" in extras:
        install = f'Install one, such as: pip install "{_distribution}[sqlite]"\n'
    else:
        install = ""
    return f"{' '.join(parts)} {install}{listed}"


def _extras() -> set[str]:
    try:
        metadata = importlib.metadata.metadata(_distribution)
    except importlib.metadata.PackageNotFoundError:
        return set()
    return set(metadata.get_all("Provides-Extra") or ())


def _provider(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else point.value

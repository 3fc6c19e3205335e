"""Checks that no other user can have made or replaced a file."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from collections.abc import Iterator

from tornado_sessions.errors import BackendError

#: What SQLite keeps beside a file, and reads before the file itself.
BESIDE = ("-wal", "-shm", "-journal")

# More entries than the path of any file has. Links that lead in a circle end here.
_MOST_ENTRIES = 4096


def check_directories(path: str) -> list[str]:
    """Returns the directories through which others could interfere with the file.

    Those are the directories that their group may write, and that of the file itself
    where everybody may write it and its sticky bit is set. Raises `.BackendError` if
    everybody may replace the file or a directory on the way to it, or if another user
    may: who owns a directory, or has made a link in one with the sticky bit. The file
    need not exist.
    """
    doubtful = []
    directories = []
    for directory, entry in itertools.islice(_entries(path), _MOST_ENTRIES):
        found = os.stat(directory)
        mode = found.st_mode
        directories.append(directory)
        if not _is_trusted(found):
            raise BackendError(
                f"The session database {path!r} cannot be used: the user"
                f" {found.st_uid} may replace it, as the directory {directory!r} belongs"
                f" to that user, and this process runs as {os.geteuid()}. Give the"
                " directory to this user or to root with chown, or keep the file"
                " elsewhere."
            )
        if mode & stat.S_ISVTX:
            if mode & (stat.S_IWOTH | stat.S_IWGRP):
                with contextlib.suppress(FileNotFoundError):
                    _check_owner(path, entry, os.lstat(entry))
        elif mode & stat.S_IWOTH:
            raise BackendError(
                f"The session database {path!r} cannot be used: everybody may replace"
                f" it, as the directory {directory!r} has the mode {mode & 0o7777:o}."
                " Run chmod o-w on that directory, or chmod +t if others have to write"
                " there, or keep the file elsewhere. An emptyDir of Kubernetes has the"
                " mode 777: let an init container run chmod +t on it as root."
            )
        elif mode & stat.S_IWGRP:
            doubtful.append(directory)
    if os.stat(directories[-1]).st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        doubtful.append(directories[-1])
    return list(dict.fromkeys(doubtful))


def check_owners(path: str) -> None:
    """Raises `.BackendError` if the file or one beside it belongs to another user."""
    real = os.path.realpath(path)
    for entry in (real, *(real + suffix for suffix in BESIDE)):
        with contextlib.suppress(FileNotFoundError):
            # Of a link both the link itself and what it leads to.
            _check_owner(path, entry, os.lstat(entry))
            _check_owner(path, entry, os.stat(entry))


def _check_owner(path: str, entry: str, found: os.stat_result) -> None:
    if not _is_trusted(found):
        raise BackendError(
            f"The session database {path!r} cannot be used: {entry!r} belongs to the"
            f" user {found.st_uid}, and this process runs as {os.geteuid()}. Remove it,"
            " or give it to this user with chown, or keep the file elsewhere."
        )


def _is_trusted(found: os.stat_result) -> bool:
    """Whether it belongs to this user or to root, who can do anything."""
    return found.st_uid in (0, os.geteuid())


def _entries(path: str) -> Iterator[tuple[str, str]]:
    """Yields each entry on the way to ``path`` behind its directory.

    Follows links: the directory is a real one.
    """
    directory, names = "/", path.split("/")[::-1]
    while names:
        name = names.pop()
        if name in ("", "."):
            continue
        if name == "..":
            directory = os.path.dirname(directory)
            continue
        entry = os.path.join(directory, name)
        yield directory, entry
        try:
            target = os.readlink(entry)
        except OSError:
            # It is no link, or not there.
            directory = entry
            continue
        if target.startswith("/"):
            directory = "/"
        names += target.split("/")[::-1]

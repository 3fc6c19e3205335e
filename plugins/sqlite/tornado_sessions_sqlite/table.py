"""The table of the sessions: its statements, and how it is made beside others."""

from __future__ import annotations

import re
import sqlite3

from tornado_sessions.errors import BackendError

# Which schema this release reads and writes. The table itself says so, as all
# else in the file may be an application's.
_VERSION = 1

_schema_of = re.compile(r"-- tornado_sessions, schema (\d+)").search

_is_name = re.compile(r"(?!sqlite_)[a-z_][a-z0-9_]*", re.IGNORECASE).fullmatch

# A table with a rowid: a random key then falls into a small index, and the rows
# themselves, which are ten times its size, are written in the order they come.
_TABLE = f"""\
CREATE TABLE "{{0}}" (
    -- tornado_sessions, schema {_VERSION}
    key            BLOB PRIMARY KEY,  -- a digest: no client holds it
    version        INTEGER NOT NULL,  -- drawn anew whenever the row is written
    data           BLOB NOT NULL,
    expires        REAL NOT NULL,     -- seconds since the epoch; 0 for never
    expires_minute INTEGER,           -- the same in whole minutes, for the index
    user           TEXT
)"""

_INDEXES = {
    "{0}_expires": 'CREATE INDEX "{0}_expires" ON "{0}" (expires_minute)',
    "{0}_user": 'CREATE INDEX "{0}_user" ON "{0}" (user) WHERE user IS NOT NULL',
}

_LOAD = 'SELECT data, version, expires_minute, user FROM "{0}" WHERE key = ?'

# Its list of keys is filled in by `Table.load_many`.
_LOAD_MANY = """
SELECT data, version, expires_minute, user, key FROM "{0}" WHERE key IN ({1})
"""

_FIND = """
SELECT rowid, key, data, version, expires_minute, user FROM "{0}"
WHERE user = ? AND rowid > ? ORDER BY rowid LIMIT ?
"""

# One page of all rows, so that no page takes longer for those that have no user.
_FIND_ALL = """
SELECT rowid, key, CASE WHEN user IS NULL THEN NULL ELSE data END,
    version, expires_minute, user
FROM "{0}" WHERE rowid > ? ORDER BY rowid LIMIT ?
"""

_INSERT = """
INSERT INTO "{0}" (key, version, data, expires, expires_minute, user)
VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING
"""

_REPLACE = """
UPDATE "{0}" SET version = ?, data = ?, expires = ?
WHERE key = ? AND version = ?
"""

_REPLACE_INDEXED = """
UPDATE "{0}" SET version = ?, data = ?, expires = ?,
    expires_minute = ?, user = ?
WHERE key = ? AND version = ?
"""

_DELETE = 'DELETE FROM "{0}" WHERE key = ?'

_PURGE = """
DELETE FROM "{0}" WHERE rowid IN (
    SELECT rowid FROM "{0}" WHERE expires_minute <= ? AND expires <= ? LIMIT ?
)
"""

# Tables, views and indexes share their names; triggers have names of their own.
_NAMESAKES = """
SELECT lower(name), type, sql FROM sqlite_master
WHERE lower(name) IN (?, ?, ?) AND type != 'trigger'
"""


class Table:
    """The statements for the table ``name``.

    Raises `ValueError` for a name that is not made of ASCII letters, digits and
    underscores.
    """

    def __init__(self, name: str) -> None:
        if not _is_name(name):
            raise ValueError(
                "The option 'table' must be a name of ASCII letters, digits and"
                " underscores that begins with neither a digit nor 'sqlite_'."
            )
        self.name = name
        self.load = _LOAD.format(name)
        self.find = _FIND.format(name)
        self.find_all = _FIND_ALL.format(name)
        self.insert = _INSERT.format(name)
        self.replace = _REPLACE.format(name)
        self.replace_indexed = _REPLACE_INDEXED.format(name)
        self.delete = _DELETE.format(name)
        self.purge = _PURGE.format(name)
        self._create = _TABLE.format(name)
        self._indexes = {
            index.format(name): create.format(name)
            for index, create in _INDEXES.items()
        }

    def load_many(self, count: int) -> str:
        """Returns the statement that loads the records of ``count`` keys."""
        return _LOAD_MANY.format(self.name, ", ".join("?" * count))

    def set_up(self, database: sqlite3.Connection, path: str) -> list[str]:
        """Creates the table and its indexes where they are missing.

        Returns the names of the indexes that cannot be created because something
        else in the file has that name. Raises `.BackendError`, before it writes
        anything, if something else has the name of the table.
        """
        missing, taken = self._look(database, path)
        if missing:
            with database:
                database.execute("BEGIN IMMEDIATE")
                # Again, as another process may have been faster.
                for create in self._look(database, path)[0]:
                    database.execute(create)
        return taken

    def _look(
        self, database: sqlite3.Connection, path: str
    ) -> tuple[list[str], list[str]]:
        """Returns the statements still to execute, and the names that are taken."""
        names = [name.lower() for name in (self.name, *self._indexes)]
        found = {
            name: (kind, sql) for name, kind, sql in database.execute(_NAMESAKES, names)
        }
        missing, taken = [], []
        if self.name.lower() not in found:
            missing.append(self._create)
        else:
            self._check(*found[self.name.lower()], path)
        for name, create in self._indexes.items():
            if name.lower() not in found:
                missing.append(create)
            elif found[name.lower()][1] != create:
                taken.append(name)
        return missing, taken

    def _check(self, kind: str, sql: str | None, path: str) -> None:
        """Raises `.BackendError` unless this is a table that we know."""
        ours = _schema_of(sql or "")
        if ours is None:
            raise BackendError(
                f"The session database {path!r} has {_articles[kind]} {kind}"
                f" {self.name!r} that is not ours. Name another table with the option"
                " 'table', such as '?table=web_sessions' in the URL."
            )
        if int(ours[1]) != _VERSION:
            raise BackendError(
                f"The table {self.name!r} of the session database {path!r} has the"
                f" schema {ours[1]}, and this release knows {_VERSION}. Upgrade"
                " tornado-sessions-sqlite, or name another table with the option"
                " 'table'."
            )


_articles = {"table": "a", "view": "a", "index": "an"}

"""What a backend returns to have a record stored again."""

from __future__ import annotations

from tornado_sessions.storage.backend import Record


class OutdatedRecord(Record, frozen=True):
    """A record that the core saves again although nothing has changed.

    ``load`` returns it, for example, if the record was sealed with an old key, or
    if it is in a store that is being replaced.
    """

"""Logs records that are no sessions, and tells the listener."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable

from tornado_sessions.core.events import Events
from tornado_sessions.core.store import Store
from tornado_sessions.logs import SEVERAL, LimitedLog, Once
from tornado_sessions.storage.backend import Record
from tornado_sessions.storage.vault import ForeignRecord

# How many records are noted for one listing.
_MOST_LISTED = 20

# What is wrong with a record, by the reason of the event.
_WRONG = {
    "undecodable": "cannot be decoded",
    "foreign": "was not stored for it by this application",
}


class Unreadable:
    """Notes the records that cannot be read. The log has each of them once.

    If there are many, it has the first ones, and then how many more there were.
    """

    def __init__(self, store: Store, events: Events, logs: LimitedLog) -> None:
        self._store = store
        self._events = events
        self._logs = logs
        self._once = Once()

    def note(self, key: bytes, record: Record) -> None:
        """Logs a record, and tells the listener each time."""
        self._note(self._store.vault.fingerprint_found(key), record)

    def note_of(self, token: str, record: Record) -> None:
        """Does the same by the token of a session."""
        self._note(self._store.vault.fingerprint(token), record)

    def note_listed(self, found: Iterable[tuple[bytes, Record]]) -> None:
        """Logs records of a listing, and tells the listener, once for each record.

        Of one listing only the first few that are new: the next one notes the others.
        """
        mark_of = self._store.vault.fingerprint_found
        marked = ((mark_of(key), record) for key, record in found)
        unseen = (each for each in marked if self._once.is_first(each[0]))
        new: dict[str, list[str]] = {}
        for mark, record in itertools.islice(unseen, _MOST_LISTED):
            reason = _reason_of(record)
            new.setdefault(reason, []).append(mark)
            self._events.tell_unreadable(mark, reason)
        for reason, marks in new.items():
            self._log(reason, marks)

    def _note(self, mark: str, record: Record) -> None:
        reason = _reason_of(record)
        if self._once.is_first(mark):
            self._log(reason, [mark])
        self._events.tell_unreadable(mark, reason)

    def _log(self, reason: str, marks: list[str]) -> None:
        self._logs.log(
            logging.WARNING,
            "The record of session %s %s; it is treated as no session and left as it"
            " is.",
            " and of session ".join(marks),
            _WRONG[reason],
            most=SEVERAL,
        )


def _reason_of(record: Record) -> str:
    return "foreign" if isinstance(record, ForeignRecord) else "undecodable"

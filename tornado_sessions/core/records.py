"""Reads the records of sessions, and ends them."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TypeAlias

from tornado_sessions.core.codec import decode, encode, successor_of
from tornado_sessions.core.envelope import FORMAT, Envelope
from tornado_sessions.core.events import Events
from tornado_sessions.core.expiry import is_alive, reason_of_end
from tornado_sessions.core.lane import Lane
from tornado_sessions.core.retries import PATIENCE, Backoff
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.store import Store
from tornado_sessions.core.unreadable import Unreadable
from tornado_sessions.errors import (
    BackendError,
    ConflictError,
    SessionDataError,
    SessionGoneError,
)
from tornado_sessions.logs import LimitedLog
from tornado_sessions.storage.backend import Record, Version

# How many tombstones are followed, one load each, from an old id to the session.
LONGEST_CHAIN = 256

# The content of the record of a session that has ended, until it is removed.
_ENDED = encode(Envelope(0.0, 0.0, 0.0, {}, format=FORMAT))

#: The key of a record, the record, and its decoded content.
Found: TypeAlias = tuple[bytes, Record, Envelope]


class Records:
    """The records of one application, decoded."""

    def __init__(
        self, store: Store, rules: Rules, events: Events, logs: LimitedLog
    ) -> None:
        self._store = store
        self._rules = rules
        self._events = events
        self._logs = logs
        self.unreadable = Unreadable(store, events, logs)

    def read(
        self, token: str, record: Record, now: float, judged_at: float | None = None
    ) -> Envelope | None:
        """Decodes a record. Returns None if the session has ended.

        Whether it has expired is decided for the time ``judged_at``, if it is given.
        """
        envelope = self.decode(token, record)
        if envelope is None or is_alive(envelope, self._rules, now, judged_at):
            return envelope
        self.tell_dead(token, envelope, now if judged_at is None else judged_at)
        return None

    def decode(self, token: str, record: Record) -> Envelope | None:
        """Decodes a record. Returns None, and logs it, if it cannot be read."""
        try:
            return decode(record.data)
        except SessionDataError:
            self.unreadable.note_of(token, record)
            return None

    async def newest(self, state: SessionState, token: str) -> tuple[Envelope, Version]:
        """Loads the newest envelope of a session, and its version.

        Raises `.SessionGoneError` if the session was ended, or had expired when
        the request began.
        """
        record = await self._store.load(token)
        if record is not None:
            envelope = self.read(token, record, self._rules.now(), state.judged_at)
            if envelope is not None:
                return envelope, record.version
        raise gone()

    async def newest_in(
        self, lane: Lane, state: SessionState
    ) -> tuple[Envelope, Version]:
        """Returns what `newest` does, and loads it only if ``lane`` does not know it."""
        newest = lane.newest
        if newest is not None and is_alive(
            newest, self._rules, self._rules.now(), state.judged_at
        ):
            return newest, lane.version
        return await self.newest(state, lane.token)

    async def load_newest(self, token: str) -> tuple[Envelope, Version] | None:
        """Loads the newest envelope of a session, alive or not, and its version.

        Returns None if there is none.
        """
        record = await self._store.load(token)
        envelope = None if record is None else self.decode(token, record)
        if record is None or envelope is None:
            return None
        return envelope, record.version

    async def is_kept(self, token: str) -> bool:
        """Whether the store still has the session; True if the store is down."""
        try:
            record = await self._store.load(token)
            return (
                record is not None
                and self.read(token, record, self._rules.now()) is not None
            )
        except BackendError:
            # Keep the socket open; requests report the failure.
            return True
        except Exception:  # noqa: BLE001 - the requests raise it
            self._logs.log(
                logging.WARNING, "A session could not be looked up.", exc_info=True
            )
            return True

    def tell_dead(self, token: str, envelope: Envelope, now: float) -> None:
        # A tombstone is not told: the change of the id was.
        if not envelope.successor:
            self.tell_expired(token, envelope, now)

    def tell_expired(self, token: str, envelope: Envelope, now: float) -> None:
        if envelope.expires <= 0:
            # The session was ended, and its record is not removed yet.
            self._events.tell_unknown(token)
            return
        reason = reason_of_end(envelope, self._rules, now)
        self._events.tell(
            "expired", token, user=envelope.user, reason=reason, handle=envelope.id
        )

    # Ending.

    async def last(
        self, key: bytes, users: Collection[str | None] | None = None
    ) -> Found | None:
        """Loads the record under ``key``, and follows its tombstones to the last one.

        Returns None if a record is missing or cannot be decoded, and if one belongs
        to none of ``users``. The session of the last record may have ended.
        """
        for _ in range(LONGEST_CHAIN):
            record = await self._store.load_found(key)
            if record is None:
                return None
            try:
                envelope = decode(record.data)
            except SessionDataError:
                self.unreadable.note(key, record)
                return None
            if users is not None and envelope.user not in users:
                return None
            successor = successor_of(envelope)
            if successor is None:
                return key, record, envelope
            key = successor
        raise BackendError(
            "The session cannot be ended: it has been given another id more than"
            f" {LONGEST_CHAIN} times within minutes since the request's own. Call"
            " regenerate() less often."
        )

    async def end(
        self,
        key: bytes,
        version: Version = None,
    ) -> tuple[bytes, Envelope | None] | None:
        """Ends the session under ``key``, also if its id has changed.

        ``version`` is that of the record, if it is known. The record is replaced
        before it is removed. So no tombstone is lost, and no save or change of the id
        that is in progress brings the session back. The caller removes the replaced
        record with `.Store.delete_found`. Returns its key, and its envelope if that was
        loaded. Returns None if there was nothing to end.
        """
        backoff = Backoff()
        envelope: Envelope | None = None
        while True:
            if version is None:
                last = await self.last(key)
                if last is None:
                    return None
                key, record, envelope = last
                if envelope.expires <= 0:
                    # Another request has ended it, and may have failed to remove it.
                    await self._store.delete_found(key)
                    return None
                version = record.version
            if await self.end_version(version):
                return key, envelope
            version = None
            if backoff.is_over:
                raise BackendError(
                    f"The session could not be ended within {PATIENCE:.0f} s: other"
                    " processes kept changing it. Try again."
                )
            await backoff.wait()

    async def end_version(self, version: Version) -> bool:
        """Ends the session whose record has this version.

        Returns False if the store has another version of the record, or none.
        """
        try:
            record = Record(_ENDED, expires=self._rules.now())
            await self._store.replace_found(record, version)
        except ConflictError:
            return False
        return True


def gone() -> SessionGoneError:
    """Returns the error of a commit that finds its session ended."""
    return SessionGoneError(
        "The session was ended elsewhere while this request used it; what the request"
        " changed is not stored."
    )

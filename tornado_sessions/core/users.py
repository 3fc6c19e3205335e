"""Lists the sessions of a user, where the store can look them up."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import msgspec

from tornado_sessions.core.codec import decode, successor_of
from tornado_sessions.core.envelope import Envelope, Mark
from tornado_sessions.core.events import Events
from tornado_sessions.core.expiry import ends_at, is_alive, is_persistent
from tornado_sessions.core.records import Found, Records
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.sockets import Sockets
from tornado_sessions.core.store import Store
from tornado_sessions.errors import SessionDataError
from tornado_sessions.storage.backend import Record

#: How many records of a user are read before other tasks run.
AT_ONCE = 100


@dataclasses.dataclass(frozen=True)
class UserSession:
    """One of the sessions of a user, as `.Sessions.of_user` describes it.

    Times are seconds since the epoch, and mean what they mean of a `Session`.
    """

    #: The public handle, for `.Sessions.revoke`; that of `Session.id`.
    id: str
    created: float
    last_seen: float
    expires: float
    auth_time: float | None
    persistent: bool
    label: str = dataclasses.field(repr=False)
    user: str = dataclasses.field(repr=False)


class Listed(msgspec.Struct):
    """What the store has of one session: more than one record while it moves."""

    envelope: Envelope
    records: list[Found]

    def __repr__(self) -> str:
        return f"<Listed {len(self.records)} records>"


class Listing:
    """What the store has of the sessions of one user, by their handles."""

    def __init__(self) -> None:
        self.sessions: dict[str, Listed] = {}
        #: The keys of the records that have replaced one of a session.
        self.moved: dict[str, list[bytes]] = {}
        #: The handles by the keys of all records.
        self.places: dict[bytes, str] = {}
        #: The marks of sessions that others are ended for. See `.Claim`.
        self.marks: dict[str, set[Mark]] = {}

    def add(self, key: bytes, record: Record, envelope: Envelope) -> None:
        handle = self.places[key] = envelope.id
        if envelope.claim is not None:
            self.marks.setdefault(handle, set()).add(envelope.claim)
        if successor := successor_of(envelope):
            self.moved.setdefault(handle, []).append(successor)
            return
        other = self.sessions.setdefault(handle, Listed(envelope, []))
        other.records.append((key, record, envelope))
        if sign_in(envelope) > sign_in(other.envelope):
            other.envelope = envelope


class Users:
    """The sessions of each user."""

    def __init__(
        self,
        store: Store,
        rules: Rules,
        records: Records,
        sockets: Sockets,
        events: Events,
    ) -> None:
        self._store = store
        self._rules = rules
        self._records = records
        self._sockets = sockets
        self._events = events

    async def describe(self, user: str) -> list[UserSession]:
        """Returns the live sessions of ``user``, the latest sign-in first."""
        live = self.live((await self.look_up(user)).sessions)
        described = []
        while live:
            if len(live) % AT_ONCE == 0:
                await asyncio.sleep(0)
            described.append(self._described(live.pop()))
        return described

    def _described(self, envelope: Envelope) -> UserSession:
        return UserSession(
            id=envelope.id,
            created=envelope.created,
            last_seen=envelope.seen,
            expires=ends_at(envelope, self._rules),
            auth_time=envelope.auth_time,
            persistent=is_persistent(envelope, self._rules),
            label=envelope.label,
            user=envelope.user or "",
        )

    async def describe_all(self) -> AsyncIterator[UserSession]:
        """Yields the live sessions of all users."""
        async for envelope in self._all():
            if is_alive(envelope, self._rules, self._rules.now()):
                yield self._described(envelope)

    async def names(self) -> set[str]:
        """Returns the names of all users who have a session.

        If the id of a session is changed meanwhile, its new record may be missed. Its
        tombstone is not, and names the same user.
        """
        return {
            envelope.user async for envelope in self._all() if envelope.user is not None
        }

    async def _all(self) -> AsyncIterator[Envelope]:
        """Yields what the store has of the sessions of all users, decoded.

        What cannot be read is left out, and so is what belongs to another namespace:
        the vault knows a record by its user alone.
        """
        found = 0
        async for _, record in self._store.find_all():
            found += 1
            if found % AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                envelope = decode(record.data)
            except SessionDataError:
                continue
            if envelope.user == record.user:
                yield envelope

    async def look_up(self, user: str) -> Listing:
        """Returns what the store has of the sessions of ``user``."""
        listing = Listing()
        unreadable: list[tuple[bytes, Record]] = []
        found = 0
        async for key, record in self._store.find(user):
            found += 1
            if found % AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                envelope = decode(record.data)
            except SessionDataError:
                # It is no session, and nobody can use it as one.
                unreadable.append((key, record))
                continue
            if envelope.user == user:
                listing.add(key, record, envelope)
        self._records.unreadable.note_listed(unreadable)
        return listing

    def live(self, listed: dict[str, Listed]) -> list[Envelope]:
        """Returns those sessions that are alive, the oldest sign-in first."""
        now = self._rules.now()
        envelopes = (each.envelope for each in listed.values())
        live = [each for each in envelopes if is_alive(each, self._rules, now)]
        return sorted(live, key=sign_in)

    async def end_listed(
        self, user: str, listed: Listed, reason: str | None = None
    ) -> bool:
        """Ends a session that is still as it was listed. Returns whether it was alive."""
        was_alive = False
        for key, record, envelope in listed.records:
            if not await self._records.end_version(record.version):
                continue
            self._sockets.end(handle=envelope.id)
            if is_alive(envelope, self._rules, self._rules.now()):
                was_alive = True
                self._events.tell_by_key("revoked", key, user, envelope.id, reason)
            await self._store.delete_found(key)
        return was_alive


def sign_in(envelope: Envelope) -> tuple[float, float, str]:
    """Returns what sorts the sessions of a user by their sign-ins."""
    signed_in = envelope.created if envelope.auth_time is None else envelope.auth_time
    return signed_in, envelope.created, envelope.id

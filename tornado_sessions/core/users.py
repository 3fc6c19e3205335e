"""Lists and ends the sessions of a user, where the store can look them up."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from collections.abc import Set as AbstractSet

import msgspec

from tornado_sessions.core.codec import Envelope, decode
from tornado_sessions.core.events import Events
from tornado_sessions.core.expiry import expires_at, is_alive
from tornado_sessions.core.records import Records
from tornado_sessions.core.retries import PATIENCE, Backoff
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.sockets import Sockets
from tornado_sessions.core.state import SessionState, is_persistent
from tornado_sessions.core.store import Store
from tornado_sessions.errors import (
    BackendError,
    SessionDataError,
    SessionGoneError,
)
from tornado_sessions.storage.backend import Record

# How many records of a user are read before other tasks run.
_AT_ONCE = 100


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


class Listed(msgspec.Struct):
    """What the store has of one session: more than one record while it moves."""

    envelope: Envelope
    records: list[tuple[bytes, Record, Envelope]]

    def __repr__(self) -> str:
        return f"<Listed {len(self.records)} records>"


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
        live = self.live(await self.look_up(user))
        described = []
        while live:
            if len(live) % _AT_ONCE == 0:
                await asyncio.sleep(0)
            described.append(self._described(live.pop()))
        return described

    async def revoke(self, user: str, id: str, own: SessionState | None) -> bool:
        """Ends one session. See `.Sessions.revoke`.

        ``own`` is the session of the request that revokes.
        """
        mine = self._own(user, own)
        return bool(await self._revoke(user, lambda listed: listed.keys() & {id}, mine))

    async def revoke_all(
        self, user: str, but: SessionState | None, own: SessionState | None
    ) -> int:
        """Ends all sessions of ``user`` except ``but``. See `.Sessions.revoke_all`."""
        mine = self._own(user, own)
        if not self._store.vault.lists_users:
            await self._end_before(user, but, mine)
            return 0
        spared: set[str] = set()
        if mine is not None and mine.has_signed_in:
            # A login of this very request holds.
            spared.add(mine.base.id)
        return await self._revoke(user, lambda listed: listed.keys(), mine, but, spared)

    def _described(self, envelope: Envelope) -> UserSession:
        return UserSession(
            id=envelope.id,
            created=envelope.created,
            last_seen=envelope.seen,
            expires=min(envelope.expires, expires_at(envelope, self._rules)),
            auth_time=envelope.auth_time,
            persistent=is_persistent(envelope, self._rules),
            label=envelope.label,
        )

    async def look_up(self, user: str) -> dict[str, Listed]:
        """Returns what the store has of the sessions of ``user``, by their handles."""
        listed: dict[str, Listed] = {}
        unreadable: list[tuple[bytes, Record]] = []
        found = 0
        async for key, record in self._store.find(user):
            found += 1
            if found % _AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                envelope = decode(record.data)
            except SessionDataError:
                # It is no session, and nobody can use it as one.
                unreadable.append((key, record))
                continue
            if envelope.user != user or envelope.successor:
                continue
            other = listed.setdefault(envelope.id, Listed(envelope, []))
            other.records.append((key, record, envelope))
            if _sign_in(envelope) > _sign_in(other.envelope):
                other.envelope = envelope
        self._records.unreadable.note_listed(unreadable)
        return listed

    def live(self, listed: dict[str, Listed]) -> list[Envelope]:
        """Returns those sessions that are alive, the oldest sign-in first."""
        now = self._rules.now()
        envelopes = (each.envelope for each in listed.values())
        live = [each for each in envelopes if is_alive(each, self._rules, now)]
        return sorted(live, key=_sign_in)

    async def _revoke(
        self,
        user: str,
        choose: Callable[[dict[str, Listed]], AbstractSet[str]],
        mine: SessionState | None,
        but: SessionState | None = None,
        spared: AbstractSet[str] = frozenset(),
    ) -> int:
        ended = await self._end(user, choose, but, spared)
        # One that is about to be signed in begins a fresh session at its commit.
        if mine is not None and mine.base.id in ended and not mine.signs_in:
            mine.note_end()
        return len(ended)

    async def _end_before(
        self, user: str, but: SessionState | None, mine: SessionState | None
    ) -> None:
        spared, since = None, 0.0
        # What is about to be signed in will be so after this.
        if but is not None and but.base.user == user and not but.signs_in:
            spared, since = but.base.id, _sign_in(but.base)[0]
        before = await self._store.vault.end_before(
            user, self._rules.now(), spared, since
        )
        self._events.tell("revoked", user=user)
        if mine is None or mine.base.id == spared or mine.signs_in:
            return
        if mine.has_signed_in:
            # A login of this very request holds: it is stored with a later time.
            mine.move_sign_in(mine.base.auth_time, before)
        else:
            mine.note_end()

    async def _spare(self, but: SessionState) -> set[str]:
        """Returns the handles of a session to spare, whatever its id is now.

        Raises `.SessionGoneError` if it has ended.
        """
        handles = {but.handle(), but.base.id}
        if but.token is None:
            return handles
        last = await self._records.last(
            self._store.vault.key_of(but.token), {but.base.user}
        )
        if last is not None and is_alive(last[2], self._rules, self._rules.now()):
            return handles | {last[2].id}
        if but.signs_in:
            return handles
        raise SessionGoneError(
            "The session to spare has been ended elsewhere; none of the others is"
            " ended. Whoever uses it has to sign in again."
        )

    def _own(self, user: str, own: SessionState | None) -> SessionState | None:
        """Returns the session of the request, if it is one of ``user``.

        It is none of theirs while it is nobody's, though it may be about to be signed
        in under the same handle.
        """
        if own is None or own.token is None or own.base.user != user:
            return None
        return own

    async def _end(
        self,
        user: str,
        choose: Callable[[dict[str, Listed]], AbstractSet[str]],
        but: SessionState | None,
        spared: AbstractSet[str],
    ) -> set[str]:
        """Ends those sessions of ``user`` that ``choose`` picks, and that are not spared.

        It looks again until there are none: one that is given a new id while it
        is ended here is stored under that before its old record is overwritten,
        so it is found either here or there. Each time the session ``but`` has to
        be alive still. Returns the handles of those that were alive.
        """
        backoff = Backoff()
        ended: set[str] = set()
        while True:
            listed = await self.look_up(user)
            chosen = choose(listed) - spared
            if but is not None:
                chosen -= await self._spare(but)
            if not chosen:
                return ended
            if backoff.is_over:
                raise BackendError(
                    f"Not all sessions of the user could be ended within {PATIENCE:.0f}"
                    " s: new ones kept coming. Stop whoever signs in, and try again."
                )
            for number, handle in enumerate(chosen, 1):
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)
                if await self.end_listed(user, listed[handle]):
                    ended.add(handle)

    async def end_listed(
        self,
        user: str,
        listed: Listed,
        reason: str | None = None,
        once: bool = False,
    ) -> bool:
        """Ends a session. Returns whether it was alive.

        With ``once``, only if its record is still the one that was listed.
        """
        was_alive = False
        for key, record, envelope in listed.records:
            done = await self._records.end(key, record.version, {user}, once)
            if done is None:
                continue
            last, newest = done
            newest = newest or envelope
            self._sockets.end(handle=newest.id)
            if is_alive(newest, self._rules, self._rules.now()):
                was_alive = True
                self._events.tell_ended("revoked", last, user, reason)
            await self._store.delete_found(last)
        return was_alive


def _sign_in(envelope: Envelope) -> tuple[float, float, str]:
    """Returns what sorts the sessions of a user by their sign-ins."""
    signed_in = envelope.created if envelope.auth_time is None else envelope.auth_time
    return signed_in, envelope.created, envelope.id

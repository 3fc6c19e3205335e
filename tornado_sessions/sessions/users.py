"""Lists and ends the sessions of a user, and limits how many there are."""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet

import msgspec

from tornado_sessions.backend import Record
from tornado_sessions.codec import Envelope, decode
from tornado_sessions.errors import (
    BackendError,
    SessionDataError,
    SessionGoneError,
    SessionLimitError,
)
from tornado_sessions.expiry import expires_at, is_alive
from tornado_sessions.frames import hides_frames
from tornado_sessions.session import Session, UserSession, check_user, state_of
from tornado_sessions.sessions.base import PATIENCE, BaseSessions
from tornado_sessions.state import SessionState, is_persistent

# How many seconds a login that might be refused for another one that is under
# way waits, at most, before it looks again.
_LIMIT_PAUSES = (0.005, 0.01, 0.02, 0.04, 0.0)

# How many records of a user are gone through before others have their turn.
_AT_ONCE = 100

#: The session of the request whose handler has asked for all sessions.
own: contextvars.ContextVar[SessionState | None] = contextvars.ContextVar(
    "tornado_sessions_own", default=None
)


class _Listed(msgspec.Struct):
    """What the store has of one session: more than one record while it moves."""

    envelope: Envelope
    records: list[tuple[bytes, Record, Envelope]]

    def __repr__(self) -> str:
        return f"<_Listed {len(self.records)} records>"


class UsersSessions(BaseSessions):
    """The sessions of each user, where the store can look them up."""

    @hides_frames
    async def of_user(self, user: str) -> list[UserSession]:
        """Answers the live sessions of ``user``, the latest sign-in first.

        Raises `.SessionError` where the backend cannot look them up, and
        `.BackendError` if the store fails.
        """
        check_user(user, "of_user()")
        live = self._live(await self._list(user))
        described = []
        while live:
            if len(live) % _AT_ONCE == 0:
                await asyncio.sleep(0)
            described.append(self._describe(live.pop()))
        return described

    @hides_frames
    async def revoke(self, user: str, id: str) -> bool:
        """Ends the session of ``user`` whose handle is ``id``.

        Answers False where this user has no such session, whoever else may have
        it. A request that is under way with the session does not bring it
        back; to a handler that revokes its own through ``self.sessions``, it is as
        if it had called `.Session.destroy`. Raises as `of_user` does.
        """
        check_user(user, "revoke()")
        return bool(await self._revoke(user, lambda listed: listed.keys() & {id}))

    @hides_frames
    async def revoke_all(self, user: str, but: Session | None = None) -> int:
        """Ends all sessions of ``user``, or all ``but`` one, and counts them.

        It does to each what `revoke` does. One that signs in meanwhile is not
        among them. Where the backend can end sessions and not list them, the
        answer is 0.
        """
        check_user(user, "revoke_all()")
        if not (but is None or isinstance(but, Session)):
            raise TypeError(
                "revoke_all() takes the session to spare, such as but=self.session,"
                f" and not {type(but).__name__}."
            )
        spared = None if but is None else state_of(but)
        if not self.vault.lists_users:
            await self._end_before(user, spared)
            return 0
        return await self._revoke(user, lambda listed: listed.keys(), spared, all=True)

    # What is done to them.

    def _describe(self, envelope: Envelope) -> UserSession:
        return UserSession(
            id=envelope.id,
            created=envelope.created,
            last_seen=envelope.seen,
            expires=min(envelope.expires, expires_at(envelope, self)),
            auth_time=envelope.auth_time,
            persistent=is_persistent(envelope, self),
            label=envelope.label,
        )

    async def _list(self, user: str, pausing: bool = True) -> dict[str, _Listed]:
        """Answers what the store has of ``user``'s sessions, by their handles.

        Part of a commit, it is not to be ``pausing``: that may be one in place.
        """
        listed: dict[str, _Listed] = {}
        found = 0
        async for key, record in self.vault.find(user):
            found += 1
            if pausing and found % _AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                envelope = decode(record.data)
            except SessionDataError:
                # It is no session, and nobody can use it as one.
                continue
            if envelope.user != user or envelope.successor:
                continue
            other = listed.setdefault(envelope.id, _Listed(envelope, []))
            other.records.append((key, record, envelope))
            if _sign_in(envelope) > _sign_in(other.envelope):
                other.envelope = envelope
        return listed

    def _live(self, listed: dict[str, _Listed]) -> list[Envelope]:
        """Answers those sessions that are alive, the oldest sign-in first."""
        now = self.now()
        envelopes = (each.envelope for each in listed.values())
        live = [each for each in envelopes if is_alive(each, self, now)]
        return sorted(live, key=_sign_in)

    async def _revoke(
        self,
        user: str,
        choose: Callable[[dict[str, _Listed]], AbstractSet[str]],
        but: SessionState | None = None,
        all: bool = False,
    ) -> int:
        mine = self._own(user)
        spared: set[str] = set()
        if all and mine is not None and mine.has_signed_in:
            # A login of this very request holds.
            spared.add(mine.base.id)
        ended = await self._end(user, choose, but, spared)
        # One that is about to be signed in begins afresh when it is committed.
        if mine is not None and mine.base.id in ended and not mine.signs_in:
            mine.note_end()
        return len(ended)

    async def _end_before(self, user: str, but: SessionState | None) -> None:
        spared, since = None, 0.0
        # What is about to be signed in will be so after this.
        if but is not None and but.base.user == user and not but.signs_in:
            spared, since = but.base.id, _sign_in(but.base)[0]
        before = await self.vault.end_before(user, self.now(), spared, since)
        if self.listener is not None:
            self._tell("revoked", user=user)
        mine = self._own(user)
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
        last = await self._last(self.vault.key_of(but.token), {but.base.user})
        if last is not None and is_alive(last[2], self, self.now()):
            return handles | {last[2].id}
        if but.signs_in:
            return handles
        raise SessionGoneError(
            "The session to spare has been ended elsewhere; none of the others is"
            " ended. Whoever uses it has to sign in again."
        )

    def _own(self, user: str) -> SessionState | None:
        """Answers the session of the handler that asks, if it is one of ``user``.

        It is none where that user is another application's of this process. Nor is
        one of nobody, though it may be on its way to the user, under one handle.
        """
        mine = own.get()
        if mine is None or mine.token is None or mine.base.user != user:
            return None
        rules: object = mine.rules
        return mine if rules is self else None

    async def _end(
        self,
        user: str,
        choose: Callable[[dict[str, _Listed]], AbstractSet[str]],
        but: SessionState | None,
        spared: set[str],
    ) -> set[str]:
        """Ends those sessions of ``user`` that ``choose`` picks, and that are not spared.

        It looks again until there are none: one that is given a new id while it
        is ended here is stored under that before its old record is overwritten,
        so it is found either here or there. Each time the session ``but`` has to
        be alive still. Returns the handles of those that were alive.
        """
        deadline = time.monotonic() + PATIENCE
        ended: set[str] = set()
        while True:
            listed = await self._list(user)
            chosen = choose(listed) - spared
            if but is not None:
                chosen -= await self._spare(but)
            if not chosen:
                return ended
            if time.monotonic() > deadline:
                raise BackendError(
                    f"Not all sessions of the user could be ended within {PATIENCE:.0f}"
                    " s: new ones kept coming. Stop whoever signs in, and try again."
                )
            for number, handle in enumerate(chosen, 1):
                if number % _AT_ONCE == 0:
                    await asyncio.sleep(0)
                if await self._end_listed(user, listed[handle]):
                    ended.add(handle)

    async def _end_listed(
        self,
        user: str,
        listed: _Listed,
        reason: str | None = None,
        once: bool = False,
    ) -> bool:
        """Ends a session. Returns whether it was alive.

        With ``once``, only if its record is still the one that was listed.
        """
        was_alive = False
        for key, record, envelope in listed.records:
            done = await self._end_record(key, record.version, {user}, once)
            if done is None:
                continue
            last, newest = done
            newest = newest or envelope
            self._ended(handle=newest.id)
            if is_alive(newest, self, self.now()):
                was_alive = True
                if self.listener is not None:
                    self._tell_ended("revoked", last, user, reason)
            await self._delete_found(last)
        return was_alive

    # How many there may be.

    async def _refuse_if_too_many(
        self, user: str, handle: str, former: str, limit: int
    ) -> None:
        """Raises `.SessionLimitError` if ``user`` has more than ``limit`` sessions.

        Of two logins in two processes that take the last place at once, each sees
        one too many. The newer one goes then, and the older one waits for that.
        """
        for pause in _LIMIT_PAUSES:
            listed = await self._list(user, pausing=False)
            listed.pop(former, None)
            live = self._live(listed)
            if len(live) <= limit:
                return
            if self.vault.immediate or handle not in {
                envelope.id for envelope in live[:limit]
            }:
                break
            await asyncio.sleep(random.uniform(pause / 2, pause))
        raise SessionLimitError(
            f"The user has {limit} session{'s' * (limit != 1)} already, as many as"
            " session_max_per_user allows. One of these sessions has to end first."
        )


def _sign_in(envelope: Envelope) -> tuple[float, float, str]:
    """Answers what puts the sessions of a user in the order of their sign-ins."""
    signed_in = envelope.created if envelope.auth_time is None else envelope.auth_time
    return signed_in, envelope.created, envelope.id

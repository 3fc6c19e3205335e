"""Lists and ends the sessions of a user, and limits how many there are."""

from __future__ import annotations

import asyncio
import contextvars
import random
import time
from collections.abc import Callable, Collection

import msgspec

from tornado_sessions.codec import Envelope, decode
from tornado_sessions.errors import BackendError, SessionDataError, SessionLimitError
from tornado_sessions.frames import hides_frames
from tornado_sessions.session import Session, UserSession, check_user
from tornado_sessions.sessions.base import PATIENCE, BaseSessions

# How many seconds a login that might be refused for another one that is under
# way waits, at most, before it looks again.
_LIMIT_PAUSES = (0.005, 0.01, 0.02, 0.04, 0.0)

# How many records of a user are gone through before others have their turn.
_AT_ONCE = 100

#: The session of the request whose handler has asked for all sessions.
own: contextvars.ContextVar[Session | None] = contextvars.ContextVar(
    "tornado_sessions_own", default=None
)


class _Listed(msgspec.Struct):
    """What the store has of one session: more than one record while it moves."""

    envelope: Envelope
    keys: list[bytes]

    def __repr__(self) -> str:
        return f"<_Listed {len(self.keys)} keys>"


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
        spared = set() if but is None else {but.id}
        if not self.vault.lists_users:
            await self._end_before(user, None if but is None else but.id)
            return 0
        return await self._revoke(user, lambda listed: listed.keys() - spared)

    # What is done to them.

    def _describe(self, envelope: Envelope) -> UserSession:
        return UserSession(
            id=envelope.id,
            created=envelope.created,
            last_seen=envelope.seen,
            expires=min(envelope.expires, self._ends(envelope)),
            auth_time=envelope.auth_time,
            persistent=self._is_persistent(envelope),
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
            if envelope.user != user:
                continue
            other = listed.setdefault(envelope.id, _Listed(envelope, []))
            other.keys.append(key)
            if _sign_in(envelope) > _sign_in(other.envelope):
                other.envelope = envelope
        return listed

    def _live(self, listed: dict[str, _Listed]) -> list[Envelope]:
        """Answers those sessions that are alive, the oldest sign-in first."""
        now = self.now()
        envelopes = (each.envelope for each in listed.values())
        live = [each for each in envelopes if self._is_alive(each, now)]
        return sorted(live, key=_sign_in)

    async def _revoke(
        self, user: str, choose: Callable[[dict[str, _Listed]], Collection[str]]
    ) -> int:
        ended = await self._end(user, choose)
        mine = self._own(user)
        if mine is not None and mine._base.id in ended:
            mine._note_end()
        return len(ended)

    async def _end_before(self, user: str, but: str | None) -> None:
        await self.vault.end_before(user, self.now(), but)
        if self.listener is not None:
            self._tell("revoked", user=user)
        mine = self._own(user)
        if mine is not None and mine._base.id != but:
            mine._note_end()

    def _own(self, user: str) -> Session | None:
        """Answers the session of the handler that asks, if it is one of ``user``.

        It is none where that user is another application's of this process. Nor is
        one of nobody, though it may be on its way to the user, under one handle.
        """
        mine = own.get()
        if mine is None or mine._token is None or mine._base.user != user:
            return None
        keeper: object = mine._keeper
        return mine if keeper is self else None

    async def _end(
        self,
        user: str,
        choose: Callable[[dict[str, _Listed]], Collection[str]],
        reason: str | None = None,
        pausing: bool = True,
    ) -> set[str]:
        """Ends those sessions of ``user`` that ``choose`` picks.

        It looks again until there are none: one that is given a new token while
        it is ended here is stored under that before its old record is
        overwritten, so it is found either here or there. Answers the
        handles of those that were alive.
        """
        deadline = time.monotonic() + PATIENCE
        ended: set[str] = set()
        while True:
            listed = await self._list(user, pausing)
            chosen = choose(listed)
            if not chosen:
                return ended
            if time.monotonic() > deadline:
                raise BackendError(
                    f"Not all sessions of the user could be ended within {PATIENCE:.0f}"
                    " s: new ones kept coming. Stop whoever signs in, and try again."
                )
            for number, handle in enumerate(chosen, 1):
                if pausing and number % _AT_ONCE == 0:
                    await asyncio.sleep(0)
                alive = self._is_alive(listed[handle].envelope, self.now())
                for key in listed[handle].keys:
                    await self.vault.delete_found(key)
                    if alive and self.listener is not None:
                        self._tell_revoked(key, user, reason)
                self._ended(handle=handle)
                if alive:
                    ended.add(handle)

    # How many there may be.

    def _too_many(self, listed: dict[str, _Listed], limit: int) -> list[str]:
        """Picks the oldest sign-ins beyond ``limit``: the same ones everywhere."""
        live = self._live(listed)
        return [envelope.id for envelope in live[: max(0, len(live) - limit)]]

    async def _refuse_if_too_many(self, user: str, handle: str, limit: int) -> None:
        """Raises `.SessionLimitError` if ``user`` has more than ``limit`` sessions.

        Of two logins in two processes that take the last place at once, each sees
        one too many. The newer one goes then, and the older one waits for that.
        """
        for pause in _LIMIT_PAUSES:
            live = self._live(await self._list(user, pausing=False))
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

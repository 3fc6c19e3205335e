"""All sessions of one application: load, commit, purge, close."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import math
import random
import time
import weakref
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any, TypeVar

import msgspec
import tornado.web

from tornado_sessions.backend import Record
from tornado_sessions.codec import (
    FORMAT,
    Envelope,
    decode,
    encode,
    rebase,
    same_content,
)
from tornado_sessions.cookies import Cookie
from tornado_sessions.errors import (
    BackendError,
    ConflictError,
    SessionDataError,
    SessionError,
    SessionGoneError,
    SessionLimitError,
)
from tornado_sessions.events import Listener, SessionEvent, tell
from tornado_sessions.session import Session, UserSession, check_user
from tornado_sessions.settings import read_settings
from tornado_sessions.sockets import Sockets
from tornado_sessions.transports import Transports
from tornado_sessions.vault import Vault
from tornado_sessions.xsrf import XSRFKeys

T = TypeVar("T")

# Stores an envelope in place of one version of a record; answers the token.
_Store = Callable[[Session, str, Envelope, Any], Awaitable[str]]

logger = logging.getLogger("tornado_sessions")

#: How many seconds the clocks of two servers may differ.
CLOCK_SKEW = 300.0

#: How many seconds pass between two clean-ups, give or take a third, so that
#: the processes of one store take it in turns.
PURGE_INTERVAL = 900.0

#: For how many seconds a save keeps trying while others change the session.
PATIENCE = 10.0

#: The longest pause between two tries, in seconds.
_LONGEST_PAUSE = 0.05

# How many seconds a login that might be refused for another one that is under
# way waits, at most, before it looks again.
_LIMIT_PAUSES = (0.005, 0.01, 0.02, 0.04, 0.0)

# What a record says that another one has taken the place of.
_ENDED = encode(Envelope(0.0, 0.0, 0.0, {}, format=FORMAT))

#: The session whose transaction the running code is part of. The tasks that it
#: starts inherit it.
_inside: contextvars.ContextVar[Session | None] = contextvars.ContextVar(
    "tornado_sessions_inside", default=None
)

#: The session that the running code has loaded or begun: the one of its request.
_own: contextvars.ContextVar[Session | None] = contextvars.ContextVar(
    "tornado_sessions_own", default=None
)


class _Listed(msgspec.Struct):
    """What the store has of one session: more than one record while it moves."""

    envelope: Envelope
    keys: list[bytes]


class Sessions:
    """All sessions of one application.

    `Sessions.of` answers an application's own. It is what handlers use
    through `.SessionMixin`, what a shutdown closes, and what code outside
    handlers uses.
    """

    def __init__(
        self,
        vault: Vault,
        *,
        cookie: Cookie | None = None,
        idle_timeout: float = 24 * 3600,
        lifetime: float = 14 * 24 * 3600,
        persistent: bool = False,
        socket_interval: float = 30,
        transports: Transports | None = None,
        xsrf_keys: XSRFKeys | None = None,
        max_per_user: int | None = None,
        max_per_user_policy: str = "oldest",
        listener: Listener | None = None,
    ) -> None:
        self.vault = vault
        self.revocable = vault.revocable
        self.cookie = cookie or Cookie("session", {})
        self.loopback_cookie = self.cookie.on_loopback()
        self.idle_timeout = idle_timeout
        self.lifetime = lifetime
        self.persistent = persistent
        self.sockets = Sockets(socket_interval, self._is_kept, self.start)
        # None where cookies are the only way, so that this costs one test.
        self.transports = transports
        if transports is not None and transports.is_cookie_alone:
            self.transports = None
        self.xsrf_keys = xsrf_keys
        self.max_per_user = max_per_user
        self.max_per_user_policy = max_per_user_policy
        self.listener = listener
        #: The clock, in seconds since the epoch. No other part reads one.
        self.now: Callable[[], float] = time.time
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._purge_timer: asyncio.TimerHandle | None = None
        self._closed = False
        # Which of "read" and "write" the store has failed at last.
        self._failing: set[str] = set()
        self._told: set[str] = set()

    @classmethod
    def of(cls, application: tornado.web.Application) -> Sessions:
        """Answers the sessions of ``application``, the same ones at every call.

        The first call reads the settings and raises `ValueError` where they
        contradict each other, `.BackendNotFoundError` where the backend is not
        installed. Call it when the application starts: no loop has to run.
        """
        sessions: Sessions | None = getattr(application, "_tornado_sessions", None)
        if sessions is None:
            settings = read_settings(application.settings)
            sessions = cls(
                settings.vault,
                cookie=settings.cookie,
                idle_timeout=settings.idle_timeout,
                lifetime=settings.lifetime,
                persistent=settings.persistent,
                socket_interval=settings.socket_interval,
                transports=settings.transports,
                xsrf_keys=settings.xsrf_keys,
                max_per_user=settings.max_per_user,
                max_per_user_policy=settings.max_per_user_policy,
                listener=settings.listener,
            )
            # On the application itself, so that they live as long as it does.
            application._tornado_sessions = sessions  # type: ignore[attr-defined]
        return sessions

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in {type(self.vault).__name__}>"

    async def load(self, token: str | None) -> Session:
        """Answers the session of ``token``.

        It is a new one if there is no token, or if the token is malformed,
        unknown or expired, or if its record cannot be decoded. Raises
        `.BackendError` if the store fails, and for a record that only a newer
        version of this library can read.
        """
        if token is None:
            return Session(self)
        if self._purge_timer is None and not self._closed:
            self._schedule_purge()
        answer = self.vault.load(token)
        record = await (
            answer if self.listener is None else self._noted("read", answer)
        )
        if record is None:
            if self.listener is not None:
                self._tell_unknown(token)
            return Session(self)
        now = self.now()
        envelope = self._read(token, record, now)
        if envelope is None:
            return Session(self)
        idle = self.idle_timeout if envelope.idle is None else envelope.idle
        renew = record.renew or now - envelope.seen >= idle / 10
        session = Session(self, envelope, token, record.version, renew)
        _own.set(session)
        return session

    async def commit(
        self,
        session: Session,
        packed: Envelope | None = None,
        adopted: int = 0,
    ) -> None:
        """Makes the store agree with ``session``.

        ``packed`` is what `.Session.pack` answered, where it was called
        already, and ``adopted`` the session's own count at that time.
        Afterwards ``session.token`` is what the client must hold. Raises as
        `.Session.save` does; what failed is still to be done then.
        """
        if session.transacting:
            self._refuse_inside_transact(session)
            # What was packed holds half of what another task is about to save.
            packed = None
        if self.vault.immediate:
            await self._commit(session, packed, adopted)
        else:
            async with session.turn():
                await self._commit(session, packed, adopted)

    async def reload(self, session: Session) -> None:
        """See `.Session.reload`."""
        if session.token is None:
            session.drop()
            return
        self._refuse_inside_transact(session)
        async with session.turn():
            newest, version = await self._newest(session.token)
            session.drop()
            session.adopt(newest)
            session.version, session.stale = version, False

    async def transact(
        self, session: Session, function: Callable[[Session], Any]
    ) -> Any:  # noqa: ANN401
        """See `.Session.transact`."""
        self._refuse_inside_transact(session)
        async with session.turn():
            session.transacting = True
            inside = _inside.set(session)
            try:
                return await self._transact(session, function)
            finally:
                session.transacting = False
                _inside.reset(inside)

    async def touch(self, token: str) -> float:
        """Notes that the session of ``token`` is in use, if it is time to.

        Answers when that is the next time, in seconds since the epoch. For a
        session that is used without requests, as on a WebSocket. Raises
        `.BackendError` if the store fails.
        """
        session = await self.load(token)
        if session.is_new:
            self._ended(token)
            return math.inf
        await self.commit(session)
        idle = session.base.idle
        throttle = (self.idle_timeout if idle is None else idle) / 10
        # Where the note could not be stored, the next message is to try again,
        # but not each of a thousand.
        return max(session.last_seen + throttle, self.now() + min(throttle, 1))

    async def of_user(self, user: str) -> list[UserSession]:
        """Answers the live sessions of ``user``, the latest sign-in first.

        Raises `.SessionError` where the backend cannot look them up, and
        `.BackendError` if the store fails.
        """
        check_user(user, "of_user()")
        return [
            UserSession(
                id=envelope.id,
                created=envelope.created,
                last_seen=envelope.seen,
                expires=min(envelope.expires, self.ends(envelope)),
                auth_time=envelope.auth_time,
                persistent=self.is_persistent(envelope),
                label=envelope.label,
            )
            for envelope in reversed(self._live(await self._list(user)))
        ]

    async def revoke(self, user: str, id: str) -> bool:
        """Ends the session of ``user`` whose handle is ``id``.

        Answers False where this user has no such session, whoever else may have
        it. A request that is under way with the session does not bring it
        back; to the request that revokes its own, it is as if it had called
        `.Session.destroy`. Raises as `of_user` does.
        """
        check_user(user, "revoke()")
        return bool(await self._revoke(user, lambda listed: listed.keys() & {id}))

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

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs ``work`` in a task that `close` waits for."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def purge(self) -> int:
        """Removes what has expired from the store and answers how many went.

        It runs by itself every quarter of an hour once sessions are in use.
        Raises `.BackendError` if the store fails.
        """
        purged = 0
        while batch := await self.vault.purge(self.now()):
            purged += batch
            # Between two batches requests have their turn.
            await asyncio.sleep(0)
        return purged

    async def close(self) -> None:
        """Waits for the commits under way and closes the store.

        Call it when the server has stopped and its requests have ended.
        """
        self._closed = True
        if self._purge_timer is not None:
            self._purge_timer.cancel()
            self._purge_timer = None
        self.sockets.close()
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.vault.close()

    def ends(self, envelope: Envelope) -> float:
        """Answers when a session ends that is not used again.

        That is after its idle timeout or its lifetime, whichever is first, in
        seconds since the epoch. The lifetime counts from the sign-in, or
        from the beginning where nobody has signed in.
        """
        began, idle, life = envelope.auth_time, envelope.idle, envelope.lifetime
        return min(
            envelope.seen + (self.idle_timeout if idle is None else idle),
            (envelope.created if began is None else began)
            + (self.lifetime if life is None else life),
        )

    def timeout(self, envelope: Envelope) -> float:
        """Answers for how many seconds a session can be left alone at the most."""
        idle = self.idle_timeout if envelope.idle is None else envelope.idle
        life = self.lifetime if envelope.lifetime is None else envelope.lifetime
        return min(idle, life)

    def is_persistent(self, envelope: Envelope) -> bool:
        """Tells whether the cookie of a session outlives the browser."""
        own = envelope.persistent
        return self.persistent if own is None else own

    def tell_once(self, level: int, message: str, *args: object) -> None:
        """Logs ``message`` at its first time."""
        if message not in self._told:
            self._told.add(message)
            logger.log(level, message, *args)

    def tell(
        self,
        name: str,
        token: str | None = None,
        *,
        former: str | None = None,
        user: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Tells the listener of an event; ask first whether there is one."""
        assert self.listener is not None
        mark = self.vault.fingerprint
        event = SessionEvent(
            name=name,
            time=self.now(),
            fingerprint=None if token is None else mark(token),
            former=None if former is None else mark(former),
            user=user,
            reason=reason,
        )
        tell(self.listener, event)

    # Reading.

    def _read(self, token: str, record: Record, now: float) -> Envelope | None:
        """Answers what a record holds; None if that is no session any more."""
        try:
            envelope = decode(record.data)
        except SessionDataError:
            logger.warning(
                "The record of session %s cannot be decoded; it is treated as no"
                " session and left as it is.",
                self.vault.fingerprint(token),
            )
            if self.listener is not None:
                self.tell("refused", token, reason="undecodable")
            return None
        if self._is_alive(envelope, now):
            return envelope
        if self.listener is not None:
            self._tell_expired(token, envelope, now)
        return None

    def _is_alive(self, envelope: Envelope, now: float) -> bool:
        # Where the record and the settings of today disagree, the earlier end
        # counts. The settings may have changed since the record was stored.
        return (
            now < envelope.expires
            and now < self.ends(envelope)
            and envelope.created <= now + CLOCK_SKEW >= envelope.seen
        )

    async def _newest(self, token: str) -> tuple[Envelope, Any]:
        answer = self.vault.load(token)
        record = await (
            answer if self.listener is None else self._noted("read", answer)
        )
        if record is not None:
            envelope = self._read(token, record, self.now())
            if envelope is not None:
                return envelope, record.version
        raise SessionGoneError(
            "The session was ended elsewhere while this request used it; what"
            " the request changed is not stored."
        )

    async def _is_kept(self, token: str) -> bool:
        """Tells whether the store still has the session; True if it is down."""
        try:
            record = await self.vault.load(token)
            return (
                record is not None and self._read(token, record, self.now()) is not None
            )
        except BackendError:
            # Nobody is put out because of that. The requests tell of it.
            return True
        except Exception:
            logger.warning("A session could not be looked up.", exc_info=True)
            return True

    # The sessions of a user.

    async def _list(self, user: str) -> dict[str, _Listed]:
        """Answers what the store has of ``user``'s sessions, by their handles."""
        listed: dict[str, _Listed] = {}
        async for key, record in self.vault.find(user):
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
        own = _own.get()
        if own is not None and own.token is not None and own.base.id in ended:
            own.end()
        return len(ended)

    async def _end_before(self, user: str, but: str | None) -> None:
        await self.vault.end_before(user, self.now(), but)
        if self.listener is not None:
            self.tell("revoked", user=user)
        own = _own.get()
        if (
            own is not None
            and own.token is not None
            and own.base.user == user
            and own.base.id != but
        ):
            own.end()

    async def _end(
        self,
        user: str,
        choose: Callable[[dict[str, _Listed]], Collection[str]],
        reason: str | None = None,
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
            listed = await self._list(user)
            chosen = choose(listed)
            if not chosen:
                return ended
            if time.monotonic() > deadline:
                raise BackendError(
                    f"Not all sessions of the user could be ended within {PATIENCE:.0f}"
                    " s: new ones kept coming. Stop whoever signs in, and try again."
                )
            for handle in chosen:
                alive = self._is_alive(listed[handle].envelope, self.now())
                for key in listed[handle].keys:
                    await self.vault.delete_found(key)
                    if alive and self.listener is not None:
                        self._tell_revoked(key, user, reason)
                self._ended(handle=handle)
                if alive:
                    ended.add(handle)

    # How many there may be.

    async def _insert(self, session: Session, envelope: Envelope) -> str:
        """Stores ``envelope`` under a fresh token, and answers it.

        For a login, and for nothing else, it sees to it that the user has no more
        sessions than they may have. Parallel logins each store their session
        first and then look: whoever looks last sees all of them.
        """
        user, limit = envelope.user, self.max_per_user
        if (
            limit is None
            or user is None
            or envelope.auth_time == session.base.auth_time
        ):
            return await self._put(session, None, envelope, None)
        # No token has a space in it.
        async with self._turn(f"user {user}"):
            token = await self._put(session, None, envelope, None)
            try:
                if self.max_per_user_policy == "refuse":
                    await self._refuse_if_too_many(user, envelope.id, limit)
                else:
                    await self._end(
                        user, lambda listed: self._too_many(listed, limit), "limit"
                    )
            except SessionLimitError:
                # One that stayed would count for the next login, too.
                await self.vault.delete(token)
                raise
            except BaseException:
                with contextlib.suppress(BackendError):
                    await self.vault.delete(token)
                raise
            return token

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
            live = self._live(await self._list(user))
            if len(live) <= limit:
                return
            if self.vault.immediate or handle not in {
                envelope.id for envelope in live[:limit]
            }:
                break
            await asyncio.sleep(random.uniform(pause / 2, pause))
        raise SessionLimitError(
            f"The user is signed in {limit} times already, as often as"
            " session_max_per_user allows. One of these sessions has to end first."
        )

    # Writing.

    async def _commit(
        self, session: Session, packed: Envelope | None, adopted: int
    ) -> None:
        if packed is None or session.adopted != adopted:
            # A transaction has ended meanwhile: what was packed before would undo it.
            packed = session.pack()
        while session.ended:
            token, user = next(iter(session.ended.items()))
            deleted = self.vault.delete(token)
            await (deleted if self.listener is None else self._noted("write", deleted))
            left = {**session.ended}
            left.pop(token, None)
            session.ended = left
            self._ended(token)
            if self.listener is not None:
                self.tell("destroyed", token, user=user)
        base, former, fresh = session.base, session.token, session.fresh
        if not fresh and (
            packed is base
            # After a save in the same request it is another object.
            or (session.stale and same_content(packed, base))
        ):
            if session.renew:
                await self._renew(session)
            return
        # A regenerate() from here on is for the next commit.
        session.fresh = False
        try:
            if former is None:
                token = await (
                    self._put(session, None, packed, None)
                    if self.max_per_user is None
                    else self._insert(session, packed)
                )
            else:
                store = self._move if fresh else self._put
                try:
                    if session.stale or self.now() >= base.expires:
                        token = await self._store_on_newest(
                            session, former, packed, store
                        )
                    else:
                        token = await store(session, former, packed, session.version)
                except ConflictError:
                    token = await self._store_in_turn(session, former, packed, store)
        except SessionLimitError:
            if self.listener is not None:
                self.tell("refused", former, user=packed.user, reason="limit")
            session.drop()
            raise
        except BaseException:
            session.fresh = session.fresh or fresh
            raise
        if self.listener is not None and (fresh or former is None):
            self.tell(
                "created" if former is None else "regenerated",
                token,
                former=former,
                user=packed.user,
                reason=None if packed.auth_time == base.auth_time else "login",
            )
        if session.base is base:
            if former is None:
                _own.set(session)
            session.settle(token, packed)
        elif token not in session.ended:
            # It was destroyed meanwhile; what has just been stored goes as well.
            session.ended = {**session.ended, token: packed.user}

    async def _put(
        self,
        session: Session,
        token: str | None,
        envelope: Envelope,
        version: Any,  # noqa: ANN401
    ) -> str:
        """Stores ``envelope`` as seen now, and answers the client's token."""
        if session.ambiguous:
            raise SessionError(
                "The request came with two different session ids, so there is"
                " no telling whose session this is; nothing is stored."
            )
        if session.sent and (token is None or not self.revocable):
            session.require_cookie()
        if self._purge_timer is None and not self._closed:
            self._schedule_purge()
        # To the millisecond: more digits would only take room in every record.
        envelope.seen = int(self.now() * 1000) / 1000
        envelope.expires = self.ends(envelope)
        record = Record(encode(envelope), version, envelope.expires, envelope.user)
        answer = self.vault.save(token, record)
        return await (answer if self.listener is None else self._noted("write", answer))

    async def _renew(self, session: Session) -> None:
        """Pushes the expiry forward after a pure read."""
        session.renew = False
        if self.now() >= session.base.expires or (session.sent and not self.revocable):
            return
        packed = msgspec.structs.replace(session.base)
        try:
            token = await self._put(session, session.token, packed, session.version)
        except ConflictError:
            # Whoever was first has renewed it, or has ended it.
            return
        except (BackendError, SessionDataError) as error:
            # Longer by a digit of a time, it may no longer fit where it is.
            logger.warning("A session could not be renewed: %s", error)
            return
        session.settle(token, packed)

    async def _move(
        self,
        session: Session,
        token: str,
        envelope: Envelope,
        version: Any,  # noqa: ANN401
    ) -> str:
        """Stores ``envelope`` under a fresh token and ends the old record.

        That one is overwritten with an ended session before it is removed: so
        no other request saves to it in between, and one that has ended it first
        is noticed.
        """
        fresh = await self._insert(session, envelope)
        if not self.revocable:
            self._ended(token)
            return fresh
        try:
            await self.vault.save(token, Record(_ENDED, version, envelope.seen))
        except SessionError:
            # The client will never learn of the fresh token.
            with contextlib.suppress(BackendError):
                await self.vault.delete(fresh)
            raise
        self._ended(token)
        try:
            await self.vault.delete(token)
        except BackendError as error:
            logger.warning("What is left of a session could not be removed: %s", error)
        return fresh

    async def _store_in_turn(
        self, session: Session, token: str, packed: Envelope, store: _Store
    ) -> str:
        """Stores ``packed`` after another request has been first."""
        if self.listener is not None:
            self.tell("conflict", token, user=packed.user)
        if self.vault.immediate:
            # Nothing comes between a load and a save that never suspend.
            return await self._store_on_newest(session, token, packed, store)
        async with self._turn(token):
            return await self._persist(
                lambda: self._store_on_newest(session, token, packed, store)
            )

    async def _store_on_newest(
        self, session: Session, token: str, packed: Envelope, store: _Store
    ) -> str:
        base = session.base
        newest, version = await self._newest(token)
        if base.user in (None, packed.user):
            merged = rebase(base, packed, newest)
        else:
            # Nothing of the user before comes along, however late it was saved.
            merged = msgspec.structs.replace(packed)
        token = await store(session, token, merged, version)
        packed.seen, packed.expires = merged.seen, merged.expires
        return token

    # Transactions.

    async def _transact(
        self, session: Session, function: Callable[[Session], Any]
    ) -> Any:  # noqa: ANN401
        mine, base = session.pack(), session.base
        if session.token is None:
            return await self._run(session, function, mine)
        try:
            return await self._run_on_newest(session, function, base, mine)
        except ConflictError:
            if self.listener is not None:
                self.tell("conflict", session.token, user=mine.user)
        async with self._turn(session.token):
            return await self._persist(
                lambda: self._run_on_newest(session, function, base, mine)
            )

    async def _run_on_newest(
        self,
        session: Session,
        function: Callable[[Session], Any],
        base: Envelope,
        mine: Envelope,
    ) -> Any:  # noqa: ANN401
        assert session.token is not None
        newest, version = await self._newest(session.token)
        before = rebase(base, mine, newest) if mine is not base else newest
        session.adopt(newest, before)
        session.version, session.stale = version, False
        return await self._run(session, function, before)

    async def _run(
        self,
        session: Session,
        function: Callable[[Session], Any],
        before: Envelope,
    ) -> Any:  # noqa: ANN401
        """Runs ``function`` once and saves; whatever fails, its changes go."""
        token, fresh = session.token, session.fresh
        try:
            result = function(session)
            answer = await result if inspect.isawaitable(result) else result
            packed = session.pack()
            if token is None or token != session.token or session.fresh:
                await self._commit(session, packed, session.adopted)
            elif packed is not session.base:
                if session.stale:
                    raise ConflictError("A response of this request has saved it.")
                token = await self._put(session, token, packed, session.version)
                session.settle(token, packed)
        except BaseException:
            if session.token == token:
                session.adopt(session.base, before)
                session.fresh = fresh
            raise
        return answer

    def _refuse_inside_transact(self, session: Session) -> None:
        if session.transacting and _inside.get() is session:
            raise SessionError(
                "The function given to transact() called save(), reload() or"
                " transact() on the same session. It is to change values only:"
                " transact() saves them."
            )

    def _ended(self, token: str | None = None, *, handle: str | None = None) -> None:
        """Tells whoever waits for it that a session has ended in this process.

        It is named by its token, or by its public handle, `.Session.id`.
        """
        self.sockets.end(token, handle=handle)

    # Events. Nobody comes here unless there is a listener.

    async def _noted(self, operation: str, answer: Awaitable[T]) -> T:
        """Answers what the store does, and tells when it fails and works again.

        One that can be read and not written to, as on a full disk, is down.
        """
        failing = self._failing
        try:
            answered = await answer
        except BackendError as error:
            if not failing:
                self.tell("store_down", reason=str(error))
            failing.add(operation)
            raise
        if operation in failing:
            failing.remove(operation)
            if not failing:
                self.tell("store_up")
        return answered

    def _tell_unknown(self, token: str) -> None:
        known = self.vault.is_well_formed(token)
        self.tell("refused", token, reason="unknown" if known else "malformed")

    def _tell_expired(self, token: str, envelope: Envelope, now: float) -> None:
        if envelope.expires <= 0:
            # What is left of one that was regenerated.
            self._tell_unknown(token)
            return
        own, began = envelope.lifetime, envelope.auth_time
        life = self.lifetime if own is None else own
        ends = (envelope.created if began is None else began) + life
        # Else it comes from the future.
        idle = now >= min(envelope.expires, self.ends(envelope))
        reason = "lifetime" if now >= ends else "idle" if idle else "clock"
        self.tell("expired", token, user=envelope.user, reason=reason)

    def _tell_revoked(self, key: bytes, user: str, reason: str | None) -> None:
        assert self.listener is not None
        mark = self.vault.fingerprint_found(key)
        event = SessionEvent("revoked", self.now(), mark, user=user, reason=reason)
        tell(self.listener, event)

    # Taking turns.

    def _turn(self, token: str) -> asyncio.Lock:
        """Answers what the commits of one session take turns by."""
        lock = self._turns.get(token)
        if lock is None:
            lock = self._turns[token] = asyncio.Lock()
        return lock

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Tries until no other process gets there first."""
        deadline = time.monotonic() + PATIENCE
        pause = 0.001
        while True:
            try:
                return await attempt()
            except ConflictError as error:
                if time.monotonic() > deadline:
                    raise BackendError(
                        f"The session could not be saved within {PATIENCE:.0f} s:"
                        " other processes kept changing it. Store less often, or"
                        " spread what changes over several sessions."
                    ) from error
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, _LONGEST_PAUSE)

    # Clean-up.

    def _schedule_purge(self) -> None:
        loop = asyncio.get_running_loop()
        delay = PURGE_INTERVAL * random.uniform(2 / 3, 4 / 3)
        self._purge_timer = loop.call_later(delay, self._purge_now)

    def _purge_now(self) -> None:
        self.start(self._purge_and_reschedule())

    async def _purge_and_reschedule(self) -> None:
        try:
            purged = await self.purge()
            logger.debug("%d expired sessions were removed.", purged)
        except Exception:
            logger.warning("The clean-up of expired sessions failed.", exc_info=True)
        if not self._closed:
            self._schedule_purge()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Whoever waits for the task is told; a client that hung up is no news.
            task.exception()


def _sign_in(envelope: Envelope) -> tuple[float, float, str]:
    """Answers what puts the sessions of a user in the order of their sign-ins."""
    signed_in = envelope.created if envelope.auth_time is None else envelope.auth_time
    return signed_in, envelope.created, envelope.id

"""Loads sessions, and makes the store agree with what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import math
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
import tornado.web

from tornado_sessions.backend import Record
from tornado_sessions.codec import (
    FORMAT,
    Envelope,
    encode,
    rebase,
    same_content,
    tombstone,
)
from tornado_sessions.errors import (
    BackendError,
    ConflictError,
    SessionDataError,
    SessionError,
    SessionGoneError,
    SessionLimitError,
)
from tornado_sessions.expiry import (
    KEPT_AFTER_END,
    TOMBSTONE_LIFE,
    expires_at,
    is_alive,
    is_renewal_due,
    renewal_interval,
)
from tornado_sessions.frames import calls_application, hide_frames, hides_frames
from tornado_sessions.session import Session
from tornado_sessions.sessions.base import LONGEST_PAUSE, PATIENCE
from tornado_sessions.sessions.telling import logger
from tornado_sessions.sessions.users import UsersSessions
from tornado_sessions.settings import read_settings
from tornado_sessions.state import SIGN_IN_STEP, Ended, SessionState, keep_only

T = TypeVar("T")

# Stores an envelope in place of one version of a record; answers the token.
_Store = Callable[[SessionState, str, Envelope, Any], Awaitable[str]]

#: Up to how many different ids of one request are looked up.
MOST_IDS = 4


class _Transaction:
    """A transaction, as the code that it runs finds it."""

    __slots__ = ("keeper", "runs", "state", "token")

    def __init__(self, keeper: object, state: SessionState) -> None:
        self.keeper = keeper
        self.state = state
        self.token = state.token
        self.runs = True


#: The transactions that the running code is part of. The tasks that it starts
#: inherit them.
_inside: contextvars.ContextVar[tuple[_Transaction, ...]] = contextvars.ContextVar(
    "tornado_sessions_inside", default=()
)


class Sessions(UsersSessions):
    """All sessions of one application.

    `Sessions.of` answers an application's own. It is what handlers use
    through `.SessionMixin`, what a shutdown closes, and what code outside
    handlers uses.
    """

    @classmethod
    def of(cls, application: tornado.web.Application) -> Sessions:
        """Returns the sessions of ``application``, the same ones at every call.

        The first call reads the settings and raises `ValueError` where they
        contradict each other, `.BackendNotFoundError` where the backend is not
        installed or cannot be imported. Call it when the application starts: no
        loop has to run.
        """
        sessions: Sessions | None = getattr(application, "_tornado_sessions", None)
        if sessions is None:
            try:
                settings = read_settings(application.settings)
            except Exception as error:
                # The settings have the URL of the store and cookie_secret.
                hide_frames(error)
                raise
            sessions = cls(
                settings.vault,
                cookie=settings.cookie,
                idle_timeout=settings.idle_timeout,
                lifetime=settings.lifetime,
                persistent=settings.persistent,
                socket_interval=settings.socket_interval,
                transports=settings.transports,
                xsrf_keys=settings.xsrf_keys,
                xsrf_cookie=settings.xsrf_cookie,
                xsrf_max_age=settings.xsrf_max_age,
                max_per_user=settings.max_per_user,
                max_per_user_policy=settings.max_per_user_policy,
                listener=settings.listener,
            )
            # On the application itself, so that they live as long as it does. It
            # declares no such attribute.
            application._tornado_sessions = sessions  # type: ignore[attr-defined]
        return sessions

    @hides_frames
    async def load(self, token: str | None) -> Session:
        """Answers the session of ``token``.

        It is a new one if there is no token, or if the token is malformed,
        unknown or expired, or if its record cannot be decoded. Raises
        `.BackendError` if the store fails, and for a record that only a newer
        version of this library can read.
        """
        return Session(self, await self.load_state(token))

    async def load_state(self, token: str | None) -> SessionState:
        """Does what `load` does, for the core and the response."""
        if token is None:
            return SessionState(self)
        if self._purge_timer is None and not self._closed:
            self._schedule_purge()
        record = await self._load(token)
        if record is None:
            if self.listener is not None:
                self._tell_unknown(token)
            return SessionState(self)
        now = self.now()
        envelope = self._decode(token, record)
        if envelope is None:
            return SessionState(self)
        if not is_alive(envelope, self, now):
            state = SessionState(self)
            if envelope.successor:
                state.superseded = (token,)
                if self.listener is not None:
                    self._tell("superseded", token, user=envelope.user)
            elif self.listener is not None:
                self._tell_expired(token, envelope, now)
            return state
        renew = record.renew or is_renewal_due(envelope, self, now)
        return SessionState(self, envelope, token, record.version, renew, now)

    async def load_one_of(self, tokens: Sequence[str]) -> SessionState:
        """Returns the state of the only token among ``tokens`` that is alive.

        Returns a new one if none is alive. If several are, or if there are more
        than four tokens, which are not looked up, nothing of it can be stored: it
        has a ``refusal``. Raises as `load` does.
        """
        if len(tokens) > MOST_IDS:
            return self._refused(
                f"The request came with more than {MOST_IDS} different session ids."
                " None was looked up, and nothing is stored. The client is told to"
                " drop its cookie: it has to send the request again."
            )
        if self.vault.immediate:
            loaded = [await self.load_state(token) for token in tokens]
        else:
            # All of them are waited for, so that no error is left behind.
            results = await asyncio.gather(
                *map(self.load_state, tokens), return_exceptions=True
            )
            loaded = []
            for result in results:
                if isinstance(result, BaseException):
                    raise result
                loaded.append(result)
        alive = {state.token: state for state in loaded if state.token is not None}
        if len(alive) < 2:
            state = next(iter(alive.values()), loaded[0])
            # A logout ends what has become of any of them.
            state.superseded = tuple(
                token for each in loaded for token in each.superseded
            )
            return state
        refused = self._refused(
            f"The request came with {len(alive)} different session ids that are alive."
            " It is not known whose session this is, and nothing is stored. The client"
            " is told to drop its cookie: it has to send the request again."
        )
        refused.found = {token: state.base.user for token, state in alive.items()}
        return refused

    def _refused(self, reason: str) -> SessionState:
        state = SessionState(self)
        state.refusal = reason
        return state

    def commit(
        self,
        state: SessionState,
        packed: Envelope | None = None,
        era: int = 0,
    ) -> Coroutine[Any, Any, None]:
        """Makes the store agree with ``session``.

        ``packed`` is what its ``_pack()`` answered, where it was called already,
        and ``era`` the session's at that time. Afterwards it has the token that
        the client must hold. Raises as `.Session.save` does; what failed is still
        to be done then.
        """
        if _inside.get():
            self._refuse_inside_transact(state)
        if self.vault.immediate and not state.is_transacting:
            if state.on_socket:
                state.judge(self.now())
            return self._commit(state, packed, era)
        return self._commit_in_turn(state, packed, era)

    async def reload(self, state: SessionState) -> None:
        """See `.Session.reload`."""
        if state.token is None:
            state.discard()
            return
        self._refuse_inside_transact(state)
        now = self.now()
        async with state.turn():
            state.judge(now)
            newest, version = await self._newest(state, state.token)
            state.discard()
            state.adopt_loaded(newest, version)

    async def transact(self, state: SessionState, function: Callable[[], Any]) -> Any:  # noqa: ANN401
        """See `.Session.transact`."""
        self._refuse_inside_transact(state)
        now = self.now()
        async with state.turn():
            state.judge(now)
            state.is_transacting = True
            transaction = _Transaction(self, state)
            inside = _inside.set((*_inside.get(), transaction))
            try:
                answer, failure = await self._transact_in_turn(state, function)
            finally:
                state.is_transacting = transaction.runs = False
                # What was packed while it ran holds half of it, if anything.
                state.generation += 1
                _inside.reset(inside)
        if failure is not None:
            try:
                # Outside of the locks: it is not the store that has failed.
                raise failure
            finally:
                # Its traceback refers to this frame: they would be a cycle.
                del failure
        return answer

    async def _touch(self, token: str) -> float:
        """Notes that the session of ``token`` is in use, if it is time to.

        Answers when that is the next time, in seconds since the epoch. For a
        session that is used without requests, as on a WebSocket. Raises
        `.BackendError` if the store fails.
        """
        state = await self.load_state(token)
        if state.token is None:
            self._ended(token)
            return math.inf
        await self.commit(state)
        throttle = renewal_interval(state.base, self)
        # Where the note could not be stored, the next message is to try again,
        # but not each of a thousand.
        return max(state.current.seen + throttle, self.now() + min(throttle, 1))

    # Writing.

    async def _commit_in_turn(
        self, state: SessionState, packed: Envelope | None, era: int
    ) -> None:
        now = self.now()
        async with state.turn():
            state.judge(now)
            await self._commit_whole(state, packed, era)

    async def _commit_whole(
        self, state: SessionState, packed: Envelope | None, era: int
    ) -> None:
        """Commits, and whoever stops waiting does not stop a move to a fresh token.

        Half of it would leave the client an id that has ended already.
        """
        work = self._commit(state, packed, era)
        if not state.needs_new_id or self.vault.immediate:
            await work
            return
        task = self._start(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise
        finally:
            # Its error refers to this frame: they would be a cycle.
            del task

    async def _commit(
        self, state: SessionState, packed: Envelope | None, era: int
    ) -> None:
        if packed is None or state.generation != era:
            # What was packed in another era would undo what has been done since.
            packed = state.pack()
        while state.ended:
            # All of them at once: to look for the first one of a dict again and again
            # takes the longer the more have gone, and a client may send thousands.
            for token, ended in tuple(state.ended.items()):
                await self._destroy(token, ended)
                state.ended.pop(token, None)
        base, former, fresh = state.base, state.token, state.needs_new_id
        if not fresh and (
            packed is base
            # After a save in the same request it is another object.
            or (state.stale and same_content(packed, base))
        ):
            if state.renew:
                await self._renew(state)
            elif state.on_socket and former and base.expires <= state.judged_at:
                # Unless another request has kept it alive, it has ended.
                await self._newest(state, former)
            return
        # A regenerate() from here on is for the next commit.
        state.needs_new_id = False
        state.is_moving = fresh or former is None
        signed_in = packed.auth_time
        signs_in = signed_in not in (None, base.auth_time)
        anew = False
        try:
            if former is None:
                token = await self._insert(state, packed)
            else:
                store = self._move if fresh else self._put
                try:
                    token = await self._store_over(state, former, packed, store)
                except SessionGoneError:
                    if not signs_in:
                        raise
                    anew, token = True, await self._begin_anew(state, former, packed)
        except SessionLimitError:
            if self.listener is not None:
                self._tell("refused", former, user=packed.user, reason="limit")
            state.discard()
            raise
        except BaseException:
            state.needs_new_id = state.needs_new_id or fresh
            raise
        finally:
            state.is_moving = False
        if self.listener is not None and (fresh or former is None):
            self._tell(
                "created" if former is None or anew else "regenerated",
                token,
                former=None if anew else former,
                user=packed.user,
                reason="login" if signs_in else None,
            )
        state.move_sign_in(signed_in, packed.auth_time)
        state.settle(base, token, packed)

    async def _store_over(
        self, state: SessionState, former: str, packed: Envelope, store: _Store
    ) -> str:
        """Stores ``packed`` in place of the record of ``former``."""
        base = state.base
        try:
            if state.stale:
                return await self._store_on_newest(state, former, packed, store)
            return await store(state, former, packed, state.version)
        except ConflictError:
            if state.is_transacting:
                if packed.auth_time != base.auth_time:
                    # A login has to know whether it has gone.
                    await self._newest(state, former)
                # It runs its function again, on the newest values.
                raise
        return await self._store_in_turn(state, former, packed, store)

    async def _destroy(self, token: str, ended: Ended) -> None:
        """Ends the session of ``token``, or the one that it has become."""
        vault = self.vault
        if not self.revocable:
            await self._delete(token)
            if self.listener is not None:
                self._tell("destroyed", token, user=ended.user)
        elif vault.is_well_formed(token):
            done = await self._end_record(vault.key_of(token), ended.version)
            if done is not None:
                key, envelope = done
                user = ended.user
                if envelope is not None:
                    # Its sockets may have been opened with the newer id.
                    self._ended(handle=envelope.id)
                    user = envelope.user
                if self.listener is not None:
                    self._tell_ended("destroyed", key, user)
                await self._delete_found(key)
        self._ended(token)

    async def _begin_anew(
        self, state: SessionState, former: str, packed: Envelope
    ) -> str:
        """Stores the login of a request whose session has gone meanwhile.

        The values come along if another request has moved the session to a new
        id, unless they are another user's; of one that has ended, only what this
        request has set. Returns the token of the fresh session.
        """
        state.require_headers("login()")
        base, now = state.base, self.now()
        record = await self._load(former)
        gone = None if record is None else self._decode(former, record)
        is_moved = gone is not None and bool(gone.successor)
        values = packed.values
        if not (is_moved and base.user in (None, packed.user)):
            blank = Envelope(now, now, 0.0, {}, format=FORMAT)
            values = _applied(state, packed, blank).values
        fresh = msgspec.structs.replace(packed, created=now, values=values)
        token = await self._insert(state, fresh)
        packed.created, packed.auth_time = fresh.created, fresh.auth_time
        packed.seen, packed.expires = fresh.seen, fresh.expires
        return token

    async def _insert(self, state: SessionState, envelope: Envelope) -> str:
        """Stores ``envelope`` under a fresh token, and answers it.

        For a login, and for nothing else, it sees to it that the user has no more
        sessions than they may have. Parallel logins each store their state
        first and then look: whoever looks last sees all of them.
        """
        user, limit = envelope.user, self.max_per_user
        if user is None or envelope.auth_time == state.base.auth_time:
            return await self._put(state, None, envelope, None)
        if state.refusal is not None:
            # The store is not asked for what is not stored.
            raise SessionError(state.refusal)
        if self.vault.ends_users and not self.vault.lists_users:
            # What has been ended may have been by a clock that is ahead of this one.
            not_before = await self.vault.not_before(user)
            envelope.auth_time = max(envelope.auth_time or 0.0, not_before)
        if limit is None:
            return await self._put(state, None, envelope, None)
        # The record that the login takes the place of is the same session.
        former = state.base.id if state.base.user == user else ""
        # No token has a space in it.
        async with self._turn(f"user {user}"):
            token = await self._put(state, None, envelope, None)
            try:
                if self.max_per_user_policy == "refuse":
                    await self._refuse_if_too_many(user, envelope.id, former, limit)
                else:
                    await self._make_room(state, token, envelope, former, limit)
            except SessionLimitError:
                # One that stayed would count for the next login, too.
                await self._delete(token)
                raise
            except BaseException:
                with contextlib.suppress(BackendError):
                    await self._delete(token)
                raise
            return token

    async def _make_room(
        self,
        state: SessionState,
        token: str,
        envelope: Envelope,
        former: str,
        limit: int,
    ) -> None:
        """Ends the oldest sessions of a user, and never the one of ``token``.

        If this one is among the oldest, the clock is behind or another login came
        in between. Its sign-in is made the latest then, so that of two parallel
        logins only one can find the other to be older: its record has to be the
        version that was listed.
        """
        user = envelope.user
        assert user is not None
        deadline = time.monotonic() + PATIENCE
        while True:
            listed = await self._list(user, pausing=False)
            listed.pop(former, None)
            live = self._live(listed)
            surplus = live[: max(0, len(live) - limit)]
            if not surplus:
                return
            if time.monotonic() > deadline:
                raise BackendError(
                    f"The login could not make room within {PATIENCE:.0f} s: new"
                    " sessions of the user kept coming. Try again."
                )
            if any(each.id == envelope.id for each in surplus):
                latest = live[-1].auth_time or 0.0
                if not await self._sign_in_later(state, token, envelope, latest):
                    return
                continue
            for each in surplus:
                await self._end_listed(user, listed[each.id], "limit", once=True)
            if not self.vault.immediate:
                await asyncio.sleep(random.uniform(0, 0.001))

    async def _sign_in_later(
        self, state: SessionState, token: str, envelope: Envelope, latest: float
    ) -> bool:
        """Makes the sign-in later than ``latest``. Returns False if it has ended."""
        record = await self._load(token)
        if record is None or self._read(token, record, self.now()) is None:
            return False
        before, envelope.auth_time = envelope.auth_time, latest + SIGN_IN_STEP
        try:
            await self._put(state, token, envelope, record.version)
        except ConflictError:
            envelope.auth_time = before
        return True

    async def _put(
        self,
        state: SessionState,
        token: str | None,
        envelope: Envelope,
        version: Any,  # noqa: ANN401
    ) -> str:
        """Stores ``envelope`` as seen now, and answers the client's token."""
        if state.refusal is not None:
            raise SessionError(state.refusal)
        if state.headers_sent and (token is None or not self.revocable):
            state.require_cookie()
        if self._purge_timer is None and not self._closed:
            self._schedule_purge()
        # To the millisecond: more digits would only take room in every record.
        envelope.seen = int(self.now() * 1000) / 1000
        ends = expires_at(envelope, self)
        if ends > envelope.seen:
            envelope.expires = ends
        else:
            # Its lifetime has passed while the request ran: nothing is extended.
            envelope.expires = min(envelope.expires, ends)
        kept_until = envelope.expires + KEPT_AFTER_END
        record = Record(encode(envelope), version, kept_until, envelope.user)
        return await self._save(token, record)

    async def _renew(self, state: SessionState) -> None:
        """Extends the idle timeout after a pure read.

        Does nothing where the lifetime has passed. A renewal that fails is logged,
        and the next commit of the request tries again.
        """
        base, token = state.base, state.token
        assert token is not None
        now = self.now()
        renewed = msgspec.structs.replace(base, seen=now)
        if expires_at(renewed, self) <= now or (
            state.headers_sent and not self.revocable
        ):
            state.renew = False
            return
        try:
            if state.stale:
                token = await self._renew_newest(state, token, renewed)
            else:
                try:
                    token = await self._put(state, token, renewed, state.version)
                except ConflictError:
                    # Whoever was first has saved it after this request loaded it.
                    # For a quick request that is renewal enough.
                    if self.now() - state.judged_at < renewal_interval(base, self):
                        state.renew = False
                        return
                    token = await self._renew_newest(state, token, renewed)
        except SessionGoneError:
            state.renew = False
            if state.on_socket:
                raise
        except (BackendError, SessionDataError) as error:
            # Longer by a digit of a time, it may no longer fit where it is.
            logger.warning("A session could not be renewed: %s", error)
        else:
            state.settle(base, token, renewed)

    async def _renew_newest(
        self, state: SessionState, token: str, renewed: Envelope
    ) -> str:
        """Extends the idle timeout of what others have saved, if that is due.

        Returns the token, and puts the times of the record into ``renewed``.
        """
        newest, version = await self._newest(state, token)
        if is_renewal_due(newest, self, self.now()):
            # Whoever saves in between has renewed it.
            with contextlib.suppress(ConflictError):
                token = await self._put(state, token, newest, version)
        renewed.seen, renewed.expires = newest.seen, newest.expires
        return token

    async def _move(
        self,
        state: SessionState,
        token: str,
        envelope: Envelope,
        version: Any,  # noqa: ANN401
    ) -> str:
        """Stores ``envelope`` under a fresh token and ends the old record.

        That one is overwritten with a tombstone, which names the new one. So no
        other request saves to it, one that has ended it first is noticed, and who
        destroys or revokes it later ends the new one.
        """
        fresh = await self._insert(state, envelope)
        if not self.revocable:
            self._ended(token)
            return fresh
        left = tombstone(state.base.user, self.vault.key_of(fresh))
        expires = self.now() + TOMBSTONE_LIFE
        try:
            await self._save(token, Record(left, version, expires))
        except SessionError:
            # The client will never learn of the fresh token.
            with contextlib.suppress(BackendError):
                await self._delete(fresh)
            raise
        self._ended(token)
        return fresh

    async def _store_in_turn(
        self, state: SessionState, token: str, packed: Envelope, store: _Store
    ) -> str:
        """Stores ``packed`` after another request has been first."""
        if self.listener is not None:
            self._tell("conflict", token, user=packed.user)
        if self.vault.immediate:
            # Nothing comes between a load and a save that never suspend.
            return await self._store_on_newest(state, token, packed, store)
        async with self._turn(token):
            return await self._persist(
                lambda: self._store_on_newest(state, token, packed, store)
            )

    async def _store_on_newest(
        self, state: SessionState, token: str, packed: Envelope, store: _Store
    ) -> str:
        newest, version = await self._newest(state, token)
        merged = _applied(state, packed, newest)
        token = await store(state, token, merged, version)
        packed.seen, packed.expires = merged.seen, merged.expires
        packed.auth_time = merged.auth_time
        return token

    # Transactions.

    async def _transact_in_turn(
        self, state: SessionState, function: Callable[[], Any]
    ) -> tuple[Any, Exception | None]:
        """Returns what ``function`` returned, and what it raised."""
        token = state.token
        if token is None:
            before = state.pack()
            if before is state.base:
                # What is not worth storing by itself stays, such as a label.
                before = msgspec.structs.replace(state.current, values=before.values)
            return await self._run(state, function, before)
        try:
            return await self._transact_stored(state, function, token)
        except SessionGoneError:
            if state.token != token or not state.signs_in:
                raise
        # The login begins a fresh state, and the function runs on that.
        await self._commit_whole(state, None, state.generation)
        return await self._transact_stored(state, function, state.token)

    async def _transact_stored(
        self, state: SessionState, function: Callable[[], Any], token: str
    ) -> tuple[Any, Exception | None]:
        try:
            return await self._run_on_newest(state, function, token)
        except ConflictError:
            if self.listener is not None:
                self._tell("conflict", token, user=state.current.user)
        async with self._turn(token):
            return await self._persist(
                lambda: self._run_on_newest(state, function, token)
            )

    async def _run_on_newest(
        self, state: SessionState, function: Callable[[], Any], token: str
    ) -> tuple[Any, Exception | None]:
        newest, version = await self._newest(state, token)
        if state.token != token:
            raise SessionGoneError(
                "The session was destroyed while transact() loaded it; the function"
                " was not run."
            )
        # Only now, as another task may have changed something meanwhile.
        mine = state.pack()
        before = newest if mine is state.base else _applied(state, mine, newest)
        state.adopt_loaded(newest, version, before)
        return await self._run(state, function, before)

    @calls_application
    async def _run(
        self,
        state: SessionState,
        function: Callable[[], Any],
        before: Envelope,
    ) -> tuple[Any, Exception | None]:
        """Runs ``function`` once and saves; whatever fails, its changes go.

        Returns what ``function`` returned, and what it raised. Raises what the
        saving raises.
        """
        token, fresh, era = state.token, state.needs_new_id, state.generation
        answer = failure = None
        try:
            try:
                result = function()
                answer = await result if inspect.isawaitable(result) else result
            except Exception as error:  # noqa: BLE001 - for whoever called transact()
                failure = error
            if failure is not None:
                self._undo_run(state, token, fresh, era, before)
                return None, failure
            base, packed = state.base, state.pack()
            kept = token is not None and token == state.token
            if kept and state.generation != era:
                # What an error of the response has dropped is not what the function
                # stores.
                raise ConflictError("The values are no longer those it began with.")
            if not kept or state.needs_new_id:
                await self._commit_whole(state, packed, state.generation)
            elif packed is not base:
                token = await self._put(state, token, packed, state.version)
                state.settle(base, token, packed)
            if state.generation != era and state.token is not None:
                # What has been stored is not taken back by an error that came since.
                state.adopt(state.base)
        except BaseException:
            self._undo_run(state, token, fresh, era, before)
            raise
        finally:
            # Its traceback refers to this frame: they would be a cycle.
            del failure
        return answer, None

    def _undo_run(
        self,
        state: SessionState,
        token: str | None,
        fresh: bool,
        era: int,
        before: Envelope,
    ) -> None:
        if state.generation != era:
            # It was destroyed, or the response has failed: that holds.
            state.discard()
        elif state.token == token:
            state.adopt(state.base, before)
            state.needs_new_id = fresh

    def is_inside_transact(self, state: SessionState) -> bool:
        """Whether the caller runs inside of a `.Session.transact` of ``session``.

        Of this object, or of another one that has the same record.
        """
        return any(
            transaction.runs
            and (
                transaction.state is state
                or (
                    transaction.token is not None
                    and transaction.token == state.token
                    and transaction.keeper is self
                )
            )
            for transaction in _inside.get()
        )

    def _refuse_inside_transact(self, state: SessionState) -> None:
        if self.is_inside_transact(state):
            raise SessionError(
                "The function given to transact() called save(), reload() or"
                " transact() on the same session. It is to change values only:"
                " transact() saves them."
            )

    # Trying again.

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
            pause = min(2 * pause, LONGEST_PAUSE)


def _applied(state: SessionState, mine: Envelope, newest: Envelope) -> Envelope:
    """Returns ``newest`` with what the request has changed since it loaded."""
    base = state.base
    if mine.auth_time == base.auth_time:
        return rebase(base, mine, newest)
    # A login: what another request has saved meanwhile comes along where the login
    # would have taken it along.
    keep = None if state.login is None else state.login.keep
    if keep is not None:
        base, newest = keep_only(base, keep), keep_only(newest, keep)
    merged = rebase(base, mine, newest)
    if mine.user == base.user:
        return msgspec.structs.replace(merged, id=mine.id)
    return msgspec.structs.replace(mine, values=merged.values)

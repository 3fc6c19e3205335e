"""Ends sessions of a user: one, all, or all but one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator

from tornado_sessions.core.claims import Claim
from tornado_sessions.core.events import Events
from tornado_sessions.core.expiry import CLOCK_SKEW
from tornado_sessions.core.records import Records
from tornado_sessions.core.retries import PATIENCE, Backoff
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.signing_in import SIGN_IN_STEP, move_sign_in
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.store import Store
from tornado_sessions.core.tasks import Tasks
from tornado_sessions.core.users import AT_ONCE, Listing, Users, sign_in
from tornado_sessions.errors import BackendError, SessionGoneError

#: How many times a revocation waits for others that go before it, about two seconds
#: in all. After that it treats their marks as stale.
MOST_WAITS = 18

# The first and the longest of these waits, in seconds: each listing takes the store
# some time.
_FIRST_WAIT, _LONGEST_WAIT = 0.025, 0.25


@contextlib.contextmanager
def revoking(own: SessionState | None) -> Iterator[None]:
    """Notes a revocation by the request of ``own``, which may end that session, too."""
    if own is not None:
        own.revocations += 1
    try:
        yield
    finally:
        if own is not None:
            own.revocations -= 1


@dataclasses.dataclass
class _Run:
    """A revocation in progress."""

    user: str
    #: The handles of the sessions to end; None for all that the first listing has.
    chosen: set[str] | None
    #: The claim of the session to keep, if there is one.
    claim: Claim | None = None
    #: Whether the revocation stops if the session to keep has ended.
    must_stay: bool = True
    #: The handles of the sessions that were ended and had been alive.
    ended: set[str] = dataclasses.field(default_factory=set)
    contest: Backoff = dataclasses.field(
        default_factory=lambda: Backoff(_FIRST_WAIT, _LONGEST_WAIT)
    )
    waits: int = 0
    has_taken: bool = False
    backoff: Backoff | None = None


class Revocations:
    """Ends sessions of one user."""

    def __init__(
        self,
        store: Store,
        rules: Rules,
        records: Records,
        users: Users,
        events: Events,
        tasks: Tasks,
    ) -> None:
        self._store = store
        self._rules = rules
        self._records = records
        self._users = users
        self._events = events
        self._tasks = tasks

    async def revoke(self, user: str, id: str, own: SessionState | None) -> bool:
        """Ends one session. See `.Sessions.revoke`.

        ``own`` is the session of the request that revokes.
        """
        if self._rules.ends_copies:
            return await self._end_handle(user, id, self._own(user, own))
        run = _Run(user, {id})
        await self._end(run)
        self._note_end(self._own(user, own), run)
        return bool(run.ended)

    async def revoke_all(
        self, user: str, but: SessionState | None, own: SessionState | None
    ) -> int:
        """Ends all sessions of ``user`` except ``but``. See `.Sessions.revoke_all`."""
        if but is not None and but.token is None and not but.signs_in:
            # For example, its session had ended before the request. To end all sessions
            # would also sign out the device that asked to keep its own.
            raise SessionGoneError(
                "The session to keep is not stored: it has ended, or nobody has written"
                " to it. So revoke_all() has ended no session. Leave keep out to end"
                " all of them."
            )
        mine = self._own(user, own)
        if not self._store.vault.finds_by_user:
            await self._end_before(user, but, mine)
            return 0
        kept = but
        if kept is None and mine is not None and mine.has_signed_in:
            # A login of this request stays valid.
            kept = mine
        run = _Run(user, None, must_stay=but is not None)
        if kept is not None:
            kept.judge(self._rules.now())
            run.claim = Claim(self._store, self._rules, self._records, user, kept)
        await self._end(run)
        self._note_end(mine, run)
        return len(run.ended)

    def _own(self, user: str, own: SessionState | None) -> SessionState | None:
        """Returns the session of the request, if its record belongs to ``user``.

        An anonymous session belongs to no user, even if this request signs in and has
        not stored that yet.
        """
        if own is None or own.token is None or own.base.user != user:
            return None
        return own

    def _note_end(self, mine: SessionState | None, run: _Run) -> None:
        # A login that is not stored yet begins a new session at its commit.
        if mine is not None and mine.base.id in run.ended and not mine.signs_in:
            mine.note_end()

    async def _end_handle(
        self, user: str, handle: str, mine: SessionState | None
    ) -> bool:
        last = await self._store.end_handle(user, handle, self._rules.now())
        if last is None:
            return False
        self._events.tell("revoked", user=user, handle=last)
        # The request may have come with the first handle or with the last.
        if mine is not None and mine.base.id in (handle, last) and not mine.signs_in:
            mine.note_end()
        return True

    async def _end_before(
        self, user: str, but: SessionState | None, mine: SessionState | None
    ) -> None:
        spared, since = None, 0.0
        if but is not None and but.base.user != user:
            but = None
        # A login that is not stored yet will get a later time.
        if but is not None and not but.signs_in:
            spared, since = but.base.id, sign_in(but.base)[0]
        known = [sign_in(each.base)[0] for each in (mine, but) if each is not None]
        before = await self._store.vault.end_before(
            user, self._later_than(known), spared, since
        )
        self._events.tell("revoked", user=user)
        if mine is None or mine.base.id == spared or mine.signs_in:
            return
        if mine.has_signed_in:
            # A login of this request stays valid: it is stored with a later time.
            move_sign_in(mine, mine.base.auth_time, before)
        else:
            mine.note_end()

    def _later_than(self, sign_ins: list[float]) -> float:
        """Returns the current time, or a later one if this clock is behind.

        It is later than ``sign_ins``, the known logins of the user, and later than the
        last use of any session that this process knows of.
        """
        now = self._rules.now()
        # At most five minutes later. If a time is further ahead, that clock was wrong,
        # and the time that is stored here is never removed.
        seen = min(self._rules.latest, now + CLOCK_SKEW)
        latest = max([seen, *sign_ins])
        return now if latest < now else latest + SIGN_IN_STEP

    async def _end(self, run: _Run) -> None:
        """Ends sessions until none of the chosen ones is left.

        Raises `.SessionGoneError` if the session to keep ends meanwhile: at once with
        ``must_stay``, otherwise after the others have ended.
        """
        is_kept = run.claim is not None
        try:
            while not await self._end_round(run):
                pass
        except SessionGoneError as error:
            done = ", so revoke_all() has ended no other."
            if run.ended:
                done = " while revoke_all() ended others."
            raise SessionGoneError(
                f"The session to keep has been ended by another request{done} Whoever"
                " uses it has to sign in again."
            ) from error
        except BaseException:
            if run.claim is not None:
                # In the background: after a timeout of the store nobody is to wait for a
                # second one. A mark that is left behind only delays other revocations.
                self._tasks.start(run.claim.release())
            raise
        if is_kept and run.claim is None:
            raise SessionGoneError(
                "The login of this request has been ended by another request; the other"
                " sessions of the user are ended, too. The user has to sign in again."
            )

    async def _end_round(self, run: _Run) -> bool:
        """Lists the sessions and ends those that are due. Returns True if none is due.

        It ends a session only in the version that was listed. A session that has
        changed since, also its id, is due in the next round.
        """
        listed = await self._users.look_up(run.user)
        if run.chosen is None:
            run.chosen = {*listed.sessions, *listed.moved}
        await self._follow(run.user, listed, run.chosen)
        due = run.chosen & listed.sessions.keys()
        try:
            if await self._goes_first(run, listed, due):
                await self._end_due(run, listed, due)
        except SessionGoneError:
            if run.must_stay:
                raise
            run.claim = None
            return False
        return not due

    async def _goes_first(self, run: _Run, listed: Listing, due: set[str]) -> bool:
        """Returns whether the sessions in ``due`` may be ended in this round.

        Removes the session to keep from ``due``. Raises `.SessionGoneError` if that
        session has ended. Returns False to list again: after a mark was stored, and
        after a wait for another request.
        """
        claim = run.claim
        if claim is None:
            return True
        due -= await claim.handles()
        # If its id is being changed, the new record has the mark already.
        due -= {each for each, marks in listed.marks.items() if claim.mark in marks}
        if not due:
            await claim.release()
            return True
        others = {mark for each in due for mark in listed.marks.get(each, ())}
        is_overdue = run.waits >= MOST_WAITS
        if is_overdue or not claim.yields_to(others):
            if claim.is_taken and claim.exceeds(others):
                return True
            if run.has_taken:
                # Another request has stored a higher mark. Let one of the two finish.
                await self._wait(run)
            if await claim.take(others, by_force=is_overdue):
                run.has_taken = True
                # List again, to see the marks that others have stored before this one.
                return False
        await self._wait(run)
        return False

    async def _wait(self, run: _Run) -> None:
        run.waits, run.backoff = run.waits + 1, None
        await run.contest.wait()

    async def _end_due(self, run: _Run, listed: Listing, due: set[str]) -> None:
        if run.backoff is None:
            run.backoff = Backoff()
        elif due and run.backoff.is_over:
            raise BackendError(
                f"Not all sessions of the user could be ended within {PATIENCE:.0f} s:"
                " other processes kept changing them. Try again."
            )
        for number, handle in enumerate(due, 1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
            if await self._users.end_listed(run.user, listed.sessions[handle]):
                run.ended.add(handle)
        if due:
            await run.backoff.wait()

    async def _follow(self, user: str, listed: Listing, chosen: set[str]) -> None:
        """Adds to ``chosen`` the new handles of sessions whose id has changed.

        Adds their new records to ``listed`` if the listing has missed them.
        """
        pending = list(chosen & listed.moved.keys())
        while pending:
            for key in listed.moved.get(pending.pop(), ()):
                handle = listed.places.get(key)
                if handle is None:
                    last = await self._records.last(key, {user})
                    if last is None:
                        continue
                    handle = last[2].id
                    if last[0] not in listed.places:
                        listed.add(*last)
                if handle not in chosen:
                    chosen.add(handle)
                    pending.append(handle)

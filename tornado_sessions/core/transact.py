"""Runs a function on the newest values of a session."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from tornado_sessions.core.commit import Commits
from tornado_sessions.core.envelope import Envelope, same_fields
from tornado_sessions.core.events import Events
from tornado_sessions.core.inside import inside, refuse_inside
from tornado_sessions.core.lane import LONGEST_WAIT, Lane, Run, TurnLostError
from tornado_sessions.core.lanes import FIRST, Lanes
from tornado_sessions.core.packing import count_changes
from tornado_sessions.core.records import Records
from tornado_sessions.core.retries import LONGEST_PAUSE, Backoff, contested
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.signing_in import applied
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.writer import Writer
from tornado_sessions.errors import BackendError, ConflictError, SessionGoneError
from tornado_sessions.frames import calls_application
from tornado_sessions.logs import SEVERAL, LimitedLog
from tornado_sessions.storage.backend import UNKNOWN, Version
from tornado_sessions.storage.vault import Saved


class Transactions:
    """What a `.Session` asks of the store: to commit, to reload, to transact."""

    def __init__(
        self,
        rules: Rules,
        records: Records,
        writer: Writer,
        commits: Commits,
        lanes: Lanes,
        events: Events,
        logs: LimitedLog,
    ) -> None:
        self._rules = rules
        self._records = records
        self._writer = writer
        self._commits = commits
        self._lanes = lanes
        self._events = events
        self._logs = logs

    async def commit(self, state: SessionState) -> None:
        """See `.Session.save`."""
        await self._commits.commit(state)

    def tell_lost(self, state: SessionState) -> None:
        """Logs what was changed after the response and has not been stored."""
        if lost := _describe_lost(state):
            self._logs.log(
                logging.WARNING,
                "The session was changed after the response of %s was finished, and"
                " that is lost: %s. Change it before finish(), or call 'await"
                " self.session.save()' after the change.",
                state.finished_by,
                lost,
                most=SEVERAL,
            )

    async def reload(self, state: SessionState) -> None:
        """See `.Session.reload`."""
        refuse_inside(state)
        if state.token is None:
            state.discard()
            return
        now = self._rules.now()
        async with state.commit_lock():
            state.judge(now)
            newest, version = await self._records.newest(state, state.token)
            state.discard()
            state.adopt_loaded(newest, version)

    async def transact(self, state: SessionState, function: Callable[[], Any]) -> Any:  # noqa: ANN401
        """See `.Session.transact`."""
        refuse_inside(state)
        now = self._rules.now()
        async with state.commit_lock():
            state.judge(now)
            state.is_transacting = True
            try:
                with inside(state):
                    answer, failure = await self._transact_locked(state, function)
            finally:
                state.is_transacting = False
                # What was packed while it ran holds half of it, if anything.
                state.generation += 1
        if failure is not None:
            try:
                # Outside of the locks: it is not the store that has failed.
                raise failure
            finally:
                # Its traceback refers to this frame: they would be a cycle.
                del failure
        return answer

    async def _transact_locked(
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
        # The login begins a fresh session, and the function runs on that.
        await self._commits.commit_locked(state, None, state.generation)
        return await self._transact_stored(state, function, state.token)

    async def _transact_stored(
        self, state: SessionState, function: Callable[[], Any], token: str
    ) -> tuple[Any, Exception | None]:
        lanes = self._lanes
        if not self._rules.revocable:
            return await self._transact_alone(state, function, lanes.private(token))
        lane = lanes.enter(token)
        if lane is not None:
            return await self._transact_alone(state, function, lane)
        place, backoff = lanes.next_place(), Backoff()
        while lane is None:
            try:
                return await self._transact_with_others(state, function, token, place)
            except TurnLostError:  # noqa: PERF203 - a transaction seldom runs again
                lane = await lanes.turn(token, place)
                lane.longest_run = LONGEST_WAIT
            except ConflictError as error:
                if backoff.is_over:
                    raise contested(error) from error
                lane = lanes.enter(token)
        return await self._transact_alone(state, function, lane)

    async def _transact_with_others(
        self, state: SessionState, function: Callable[[], Any], token: str, place: int
    ) -> tuple[Any, Exception | None]:
        """Runs ``function`` on what others are about to store, and stores it with that.

        Raises `.ConflictError` if it has to run again.
        """
        run = Run(state.judged_at, place, state.extends)
        self._lanes.join(token, run)
        try:
            newest: Envelope = await run.future
            return await self._run_on(state, function, token, newest, UNKNOWN, run)
        finally:
            run.leave_out()

    async def _transact_alone(
        self, state: SessionState, function: Callable[[], Any], lane: Lane
    ) -> tuple[Any, Exception | None]:
        """Runs ``function`` while no other request saves the session here.

        If others have waited for it for `.Lane.longest_run` seconds, it loses the lane,
        and runs again after them. Raises `.BackendError` if these were `LONGEST_WAIT`.
        """
        token, backoff, known = lane.token, None, None
        try:
            while True:
                try:
                    newest, version = await self._records.newest_in(lane, state)
                    answer = await self._run_on(
                        state, function, token, newest, version, lane
                    )
                    break
                except TurnLostError as error:
                    if lane.longest_run == LONGEST_WAIT:
                        # Whoever comes next would wait for as long, and it never ends.
                        raise _held_up() from error
                    lane = await self._lanes.turn(token, FIRST)
                except ConflictError as error:
                    if backoff is None:
                        backoff = Backoff(longest=LONGEST_PAUSE)
                    elif backoff.is_over:
                        raise contested(error) from error
                    current = state.current
                    self._events.tell(
                        "conflict", token, user=current.user, handle=current.id
                    )
                    lane.forget()
                    with lane.aside():
                        await backoff.wait()
                # From now on the others wait for it.
                lane.longest_run = LONGEST_WAIT
            if state.token == token:
                known = state.base
        finally:
            self._lanes.leave(lane, known, state.version)
        return answer

    async def _run_on(
        self,
        state: SessionState,
        function: Callable[[], Any],
        token: str,
        newest: Envelope,
        version: Version,
        place: Lane | Run,
    ) -> tuple[Any, Exception | None]:
        if state.token != token:
            raise SessionGoneError(
                "The session was destroyed while transact() loaded it; the function"
                " was not run."
            )
        # Only now, as another task may have changed something meanwhile.
        base, mine = state.base, state.pack()
        former, was_stale = state.version, state.stale
        before = newest if mine is base else applied(state, mine, newest)
        state.adopt_loaded(newest, version, before)
        # With those of others, more is stored than this request has seen.
        state.stale = type(place) is Run
        try:
            return await self._run(state, function, before, place)
        except BaseException:
            if state.base is newest:
                # The changes of others may not have been stored.
                state.adopt(base, mine if state.current is before else base)
                state.version, state.stale = former, was_stale
            raise

    @calls_application
    async def _run(
        self,
        state: SessionState,
        function: Callable[[], Any],
        before: Envelope,
        place: Lane | Run | None = None,
    ) -> tuple[Any, Exception | None]:
        """Runs ``function`` once and saves; whatever fails, its changes go.

        Returns what ``function`` returned, and what it raised. Raises what the
        saving raises. A session that is stored has a ``place``: the lane that the
        caller holds, or one among those that are stored together.
        """
        token, fresh, generation = (
            state.token,
            state.needs_new_id,
            state.generation,
        )
        lane = place if isinstance(place, Lane) else None
        run = place if isinstance(place, Run) else None
        answer = failure = None
        try:
            if lane is not None:
                self._lanes.begin_run(lane)
            try:
                result = function()
                answer = await result if inspect.isawaitable(result) else result
            except Exception as error:  # noqa: BLE001 - for whoever called transact()
                failure = error
            finally:
                if lane is not None:
                    self._lanes.end_run(lane)
            if failure is not None:
                if run is not None:
                    # It may have failed because of what others do not store after all.
                    await run.store(None)
                self._undo_run(state, token, fresh, generation, before)
                return None, failure
            base, packed = state.base, state.pack()
            kept = token is not None and token == state.token
            if kept and state.generation != generation:
                # What an error of the response has dropped is not what the function
                # stores.
                raise ConflictError("The values are no longer those it began with.")
            if kept and _needs_turn(place, packed is not base, state.needs_new_id):
                raise TurnLostError("The function has to run alone.")
            if not kept or state.needs_new_id:
                if run is not None:
                    run.leave_out()
                await self._commits.commit_locked(state, packed, state.generation)
            elif run is not None:
                stored = await run.store(packed)
                if packed is not base:
                    assert token is not None
                    packed.seen = stored.envelope.seen
                    packed.expires = stored.envelope.expires
                    state.settle(base, Saved(token, stored.version), packed)
            elif packed is not base:
                assert token is not None
                if not self._rules.revocable and state.headers_sent:
                    state.require_cookie()
                saved = await self._writer.replace(
                    token, packed, state.version, state.extends
                )
                state.settle(base, saved, packed)
            if state.generation != generation and state.token is not None:
                # What has been stored is not taken back by an error that came since.
                state.adopt(state.base)
        except BaseException:
            self._undo_run(state, token, fresh, generation, before)
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
        generation: int,
        before: Envelope,
    ) -> None:
        if state.generation != generation:
            # It was destroyed, or the response has failed: that holds.
            state.discard()
        elif state.token == token:
            state.adopt(state.base, before)
            state.needs_new_id = fresh


def _needs_turn(place: Lane | Run | None, is_changed: bool, is_fresh: bool) -> bool:
    """Whether the function has to run again, as the holder of the lane."""
    if isinstance(place, Lane):
        return place.is_lost and (is_changed or is_fresh)
    # Another id takes the place of a version that is stored.
    return is_fresh and place is not None


def _held_up() -> BackendError:
    return BackendError(
        "What the function given to transact() changed was not stored: it took longer"
        f" than {LONGEST_WAIT:.0f} s while other requests of the same visitor waited"
        " for it. Do what takes long before transact(), and only change values in it."
    )


def _describe_lost(state: SessionState) -> str:
    """Returns what was changed and not stored, for a log message."""
    base, current = state.base, state.current
    changed = count_changes(state.values, base.values, state.typed)
    lost = [f"{changed} key{'s' * (changed != 1)}"] if changed else []
    if current is not base and not same_fields(current, base):
        lost.append("a message or setting of the session")
    if state.ended:
        lost.append("its end")
    return " and ".join(lost)

"""Runs a function on the newest values of a session."""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from tornado_sessions.core.commit import Commits, applied
from tornado_sessions.core.envelope import Envelope, same_fields
from tornado_sessions.core.events import Events
from tornado_sessions.core.inside import inside, refuse_inside
from tornado_sessions.core.locks import StoreLocks, TimedLock
from tornado_sessions.core.packing import count_changes
from tornado_sessions.core.records import Records
from tornado_sessions.core.retries import retry_conflicts
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.writer import Writer
from tornado_sessions.errors import ConflictError, SessionGoneError
from tornado_sessions.frames import calls_application
from tornado_sessions.logs import SEVERAL, LimitedLog


class Transactions:
    """What a `.Session` asks of the store: to commit, to reload, to transact."""

    def __init__(
        self,
        rules: Rules,
        records: Records,
        writer: Writer,
        commits: Commits,
        locks: StoreLocks,
        events: Events,
        logs: LimitedLog,
    ) -> None:
        self._rules = rules
        self._records = records
        self._writer = writer
        self._commits = commits
        self._locks = locks
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
        try:
            return await self._run_on_newest(state, function, token)
        except ConflictError:
            current = state.current
            self._events.tell("conflict", token, user=current.user, handle=current.id)
        async with self._locks.of(token) as lock:
            return await retry_conflicts(
                lambda: self._run_on_newest(state, function, token, lock), lock
            )

    async def _run_on_newest(
        self,
        state: SessionState,
        function: Callable[[], Any],
        token: str,
        lock: TimedLock | None = None,
    ) -> tuple[Any, Exception | None]:
        newest, version = await self._records.newest(state, token)
        if state.token != token:
            raise SessionGoneError(
                "The session was destroyed while transact() loaded it; the function"
                " was not run."
            )
        # Only now, as another task may have changed something meanwhile.
        mine = state.pack()
        before = newest if mine is state.base else applied(state, mine, newest)
        state.adopt_loaded(newest, version, before)
        return await self._run(state, function, before, lock)

    @calls_application
    async def _run(
        self,
        state: SessionState,
        function: Callable[[], Any],
        before: Envelope,
        lock: TimedLock | None = None,
    ) -> tuple[Any, Exception | None]:
        """Runs ``function`` once and saves; whatever fails, its changes go.

        Returns what ``function`` returned, and what it raised. Raises what the
        saving raises. ``lock`` is the one that the caller holds.
        """
        token, fresh, generation = (
            state.token,
            state.needs_new_id,
            state.generation,
        )
        answer = failure = None
        try:
            try:
                with contextlib.nullcontext() if lock is None else lock.aside():
                    result = function()
                    answer = await result if inspect.isawaitable(result) else result
            except Exception as error:  # noqa: BLE001 - for whoever called transact()
                failure = error
            if failure is not None:
                self._undo_run(state, token, fresh, generation, before)
                return None, failure
            base, packed = state.base, state.pack()
            kept = token is not None and token == state.token
            if kept and state.generation != generation:
                # What an error of the response has dropped is not what the function
                # stores.
                raise ConflictError("The values are no longer those it began with.")
            if not kept or state.needs_new_id:
                await self._commits.commit_locked(state, packed, state.generation)
            elif packed is not base:
                assert token is not None
                saved = await self._writer.replace(state, token, packed, state.version)
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

"""Tests of everything at once: a simple model tells what must come of it.

Several requests of two visitors, in two processes on one store, do this and that
to their sessions. Hypothesis draws whose turn it is before each operation of the
store, and which of these fail, before or after they were done. The model knows
nothing of versions and tries: what a request has changed is there as soon as the
store has done what stores it, and what has ended is gone.
"""

from __future__ import annotations

import asyncio
import base64
import contextvars
import copy
import dataclasses
import itertools
import math
import random
import secrets
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    MutableMapping,
    Sequence,
)
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tornado_sessions_memory import MemoryBackend
from tornado_sessions_sqlite import SQLiteBackend
from tornado_sessions_sqlite.lanes import Lanes

from tornado_sessions import (
    BackendError,
    Record,
    Saved,
    Session,
    SessionDataError,
    SessionEvent,
    SessionGoneError,
    Sessions,
    Vault,
    Version,
)
from tornado_sessions.core import combiner, revocations
from tornado_sessions.core.codec import decode
from tornado_sessions.core.lane import Change, Lane, Member
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import Settings
from tornado_sessions.storage.operations import Write
from tornado_sessions.testing import FaultyVault

T = TypeVar("T")
State = dict[str, Any]
Values = MutableMapping[str, Any]

VISITORS = 4
IDLE = 1_000.0
LIFETIME = 3_000.0

unhurried = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def append(values: Values, key: str, mark: int) -> None:
    values.setdefault("list", []).append(mark)


def put_in_cart(values: Values, key: str, mark: int) -> None:
    values.setdefault("cart", {})[key] = mark


def put_deep(values: Values, key: str, mark: int) -> None:
    values.setdefault("cart", {}).setdefault("gifts", {})[key] = mark


#: How a request changes values: each has a key of its own, and each change a mark.
EDITS: dict[str, Callable[[Values, str, int], object]] = {
    "put": lambda values, key, mark: values.update({key: mark}),
    "put_in_cart": put_in_cart,
    "put_deep": put_deep,
    "put_shared": lambda values, key, mark: values.update(shared=mark % 3),
    "append": append,
    "check_out": lambda values, key, mark: values.pop("cart", None),
    "clear": lambda values, key, mark: values.clear(),
}

#: What requests do that meet each other, from `EDITS` and the methods of `Visit`.
HOT_THEMES = [
    [*EDITS, "count", "count_slowly", "save", "reload", "flash", "show_flashes"],
    ["put", "append", "put_shared", "put_in_cart", "save", "save", "give_up", "count"],
    ["count", "count_slowly", "save", "put", "give_up", "save_bad"],
    ["save", "put", "count", "regenerate", "login_ada", "wait", "destroy"],
    ["wait", "reload", "save"],
]
THEMES = [
    *HOT_THEMES,
    ["put", "save", "count", "regenerate", "login_ada", "destroy"],
    ["put", "save", "login_ada", "login_bob"],
    ["login_ada", "regenerate", "revoke", "revoke_all", "revoke_others", "put"],
    ["put", "wait", "wait_long", "shorten", "end_at_once", "list_sessions"],
    ["wait", "reload"],
    ["count_slowly", "wait_long"],
    ["count_slowly", "regenerate"],
    ["login_ada", "revoke_all"],
]


@dataclasses.dataclass
class Plan:
    """The actions of one request."""

    visitor: int
    process: int
    #: It comes with the first id that the visitor had.
    captured: bool
    steps: list[str]
    #: It is answered 500.
    fails: bool


@st.composite
def plans(draw: st.DrawFn) -> list[Plan]:
    """Draws requests that have much to do with each other."""
    theme = draw(st.sampled_from(THEMES))
    plan = st.builds(
        Plan,
        visitor=st.sampled_from([0, 0, 0, 1]),
        process=st.integers(0, 1),
        captured=st.sampled_from([False] * 5 + [True]),
        steps=st.lists(st.sampled_from(theme), max_size=5),
        fails=st.sampled_from([False] * 7 + [True]),
    )
    first = Plan(0, 0, captured=False, steps=["put"], fails=False)
    # Many requests of one session, which come to one process or to two.
    is_hot = theme in HOT_THEMES and draw(st.booleans())
    rest = draw(
        st.lists(plan, min_size=4 if is_hot else 1, max_size=9 if is_hot else 5)
    )
    for each in rest if is_hot else ():
        each.visitor = 0
    # Or many visitors, whose operations a store gets in batches.
    for each in rest if not is_hot and draw(st.booleans()) else ():
        each.visitor = draw(st.integers(0, VISITORS - 1))
    return [first, *rest]


outcomes = st.sampled_from(["done"] * 12 + ["failed", "lost"])


def blank() -> State:
    fields = dict.fromkeys(["user", "auth_time", "idle"])
    return {"values": {}, "flashes": {}, **fields}


def shown(session: Session) -> State:
    """Returns the state that a session shows."""
    return {
        "values": copy.deepcopy(dict(session)),
        "flashes": dict(state_of(session).current.flashes.values()),
        "user": session.user,
        "auth_time": session.auth_time,
        "idle": state_of(session).current.idle,
    }


def reapplied(base: State, mine: State, newest: State) -> State:
    """Returns ``newest`` with the changes from ``base`` to ``mine``."""
    state = dict(newest)
    for key in [*base, *mine]:
        if key not in mine:
            state.pop(key, None)
        elif key not in base or base[key] != mine[key]:
            sides = [side.get(key, {}) for side in (base, mine, newest)]
            dicts = all(isinstance(side, dict) for side in sides)
            state[key] = reapplied(*sides) if dicts else mine[key]
    return copy.deepcopy(state)


@dataclasses.dataclass
class Kept:
    """What the model knows of the session of one id."""

    visitor: int
    handle: str
    created: float
    seen: float
    state: State
    #: When the store has last stored it, which counts as use as well.
    stored: float = 0.0
    ended: bool = False
    #: It has another id now, and which one, if that was given out.
    replaced: bool = False
    successor: str | None = None

    @property
    def lifetime_ends(self) -> float:
        """When its lifetime ends."""
        return (self.state["auth_time"] or self.created) + LIFETIME

    def is_alive(self, now: float) -> bool:
        ends = min(self.seen + (self.state["idle"] or IDLE), self.lifetime_ends)
        return not self.ended and now < ends


class Turn(NamedTuple):
    """What waits until hypothesis has drawn it; see `World.turn`."""

    future: asyncio.Future[None]
    kind: str | None
    token: str | None


class World:
    """The visitors, the processes, and what the model knows of the sessions."""

    def __init__(
        self,
        data: st.DataObject,
        vaults: list[Vault],
        *,
        suspends: bool,
        occupy: Callable[[str | None], Awaitable[None]] | None,
    ) -> None:
        self.data = data
        #: Keeps the store busy with an operation of a kind, where it has batches.
        self.occupy = occupy
        self.now = 1_000_000.0
        self.marks = itertools.count()
        self.waiting: list[Turn] = []
        self.stopped: BaseException | None = None
        self.kept: dict[str, Kept] = {}
        #: The fingerprints of what was ended before its id was given out.
        self.revoked: set[str] = set()
        self.cookies: dict[int, str | None] = dict.fromkeys(range(VISITORS))
        self.processes = [Process(self, vault, suspends) for vault in vaults]

    async def run(self, plans: list[Plan]) -> None:
        loop = asyncio.get_running_loop()
        unretrieved: list[Any] = []
        loop.set_exception_handler(lambda loop, context: unretrieved.append(context))
        visits = [Visit(self, plan, f"own {n}") for n, plan in enumerate(plans)]
        # The first one alone, so that there is something for the others.
        for group in (visits[:1], visits[1:]):
            await self._let_in(group)
        for token in self.kept:
            self.check(token, await self.processes[0].sessions.load(token))
        for process in self.processes:
            process.check_events()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert unretrieved == []

    async def _let_in(self, visits: list[Visit]) -> None:
        occupy = self.occupy
        tasks = [asyncio.ensure_future(visit.run()) for visit in visits]
        try:
            while await self._is_waiting(tasks):
                last = len(self.waiting) - 1
                nth = self.data.draw(st.integers(0, last)) if last else 0
                turn = self.waiting.pop(nth)
                others = self._together_with(turn)
                if others and occupy is not None:
                    # What begins while the store is busy is sent in one batch.
                    tasks.append(asyncio.ensure_future(occupy(turn.kind)))
                for each in (turn, *others):
                    each.future.set_result(None)
        finally:
            # Of those that still wait, one has failed.
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _is_waiting(self, tasks: list[asyncio.Task[None]]) -> bool:
        """Lets all go on until each waits for its turn, or has ended."""
        # A few rounds of the loop are enough, and one that hangs has many.
        for rounds in (15, 500):
            for _ in range(rounds):
                await asyncio.sleep(0)
                while any(process.vault.busy for process in self.processes):  # noqa: ASYNC110
                    await asyncio.sleep(0.0001)
            if self.stopped is not None:
                raise self.stopped
            if any(task.done() and task.exception() for task in tasks):
                return False
            if self.waiting:
                # What a request has left to the background waits for its turn, too.
                return True
            if all(task.done() for task in tasks):
                return False
        raise AssertionError("A request hangs.")

    def _together_with(self, turn: Turn) -> list[Turn]:
        """Returns the operations that the store is asked for in one batch with this.

        They are of one kind, and of different sessions if they store something: which
        of two that meet is the first one is not for the store to choose.
        """
        others = []
        tokens = {turn.token}
        for each in self.waiting:
            if self.occupy and each.kind and each.kind == turn.kind:
                if each.token in tokens and each.token and each.kind == "save":
                    continue
                tokens.add(each.token)
                others.append(each)
        if not others or not self.data.draw(st.booleans()):
            return []
        for each in others:
            self.waiting.remove(each)
        return others

    async def turn(self, kind: str | None = None, token: str | None = None) -> None:
        """Waits until hypothesis has drawn this one.

        It is for an operation of the store that may be part of a batch if there is a
        ``kind``: "load" or "save".
        """
        turn = Turn(asyncio.get_running_loop().create_future(), kind, token)
        self.waiting.append(turn)
        try:
            await turn.future
        except asyncio.CancelledError:
            if turn in self.waiting:
                self.waiting.remove(turn)
            raise

    def draw_outcome(self) -> str:
        try:
            return self.data.draw(outcomes)
        except BaseException as error:
            # Hypothesis has its reasons. In the task that stores the changes of several
            # it would be lost.
            self.stopped = error
            raise

    def of_mark(self, mark: str) -> Kept | None:
        """Returns what the model knows of the session with this fingerprint."""
        for token, kept in self.kept.items():
            if self.processes[0].vault.fingerprint(token) == mark:
                return kept
        return None

    def chain(self, token: str | None) -> list[Kept]:
        """Returns what the session of ``token`` was and has become."""
        chain: list[Kept] = []
        while token is not None:
            chain.append(self.kept[token])
            token = chain[-1].successor
        return chain

    def check(self, token: str, session: Session) -> None:
        """Checks a session that was loaded just now."""
        kept = self.kept[token]
        assert session.is_new is not kept.is_alive(self.now)
        if not session.is_new:
            assert shown(session) == kept.state
            assert (session.id, session.created) == (kept.handle, kept.created)


class Process:
    """All sessions in one process, and what its listener is told."""

    def __init__(self, world: World, vault: Vault, suspends: bool) -> None:
        self.vault = StagedVault(world, self, vault, suspends)
        self.events: list[SessionEvent] = []
        self.sessions = Sessions(
            Settings(
                self.vault,
                idle_timeout=IDLE,
                lifetime=LIFETIME,
                listener=self.events.append,
            )
        )
        self.sessions.now = lambda: world.now
        #: What the process knows of the sessions that it saves, by their tokens, and
        #: whose the commits are that wait.
        self.known: dict[str, State] = {}
        self.members: dict[Member, Visit] = {}
        self.changes: dict[Member, tuple[State, State]] = {}
        self._join = self.sessions.lanes.join
        vars(self.sessions.lanes)["join"] = self.join
        self.expected: Counter[tuple[str, str | None, str | None]] = Counter()
        self.failing: set[str] = set()
        self.faults = 0
        self.revoked: set[str] = set()
        self.revoking: set[str] = set()

    def join(self, token: str, member: Member) -> None:
        """Notes which visit waits, and lets it."""
        visit = current.get()
        self.members.setdefault(member, visit)
        if isinstance(member, Change):
            # As they are now: the visit may give up, and go on.
            changes = visit.base, copy.deepcopy(visit.mine)
            self.changes.setdefault(member, changes)
        self._join(token, member)

    def lane(self, token: str | None) -> Lane | None:
        return self.sessions.lanes.lanes.get(token or "")

    def visits(self, members: Iterable[Member]) -> list[Visit]:
        """Returns the visits whose commits are stored together, in their order."""
        return [self.members[member] for member in members]

    def together(self, token: str, before: State) -> State:
        """Returns what ``before`` comes to with what is being stored together."""
        lane = self.lane(token)
        for member in lane.batch if lane else ():
            if isinstance(member, Change):
                before = reapplied(*self.changes[member], before)
            else:
                before = self.members[member].on(before)
        return before

    def expect(
        self, name: str, token: str | None = None, former: str | None = None
    ) -> None:
        mark = self.vault.fingerprint
        event = name, token and mark(token), former and mark(former)
        self.expected[event] += 1

    def note(self, operation: str, fails: bool) -> None:
        """Notes that the store has answered, which may be news."""
        if operation == "find":
            return
        kind = "read" if operation in ("load", "load_found") else "write"
        failed = bool(self.failing)
        (self.failing.add if fails else self.failing.discard)(kind)
        if failed != bool(self.failing):
            self.expect("store_down" if fails else "store_up")

    def check_events(self) -> None:
        told: Counter[tuple[str, str | None, str | None]] = Counter()
        revoked = set()
        for event in self.events:
            if event.name == "revoked":
                revoked.add(event.fingerprint)
            elif event.name not in ("conflict", "expired", "refused", "superseded"):
                told[event.name, event.fingerprint, event.former] += 1
        assert told == self.expected
        assert self.revoked <= revoked <= self.revoking


class StagedVault(FaultyVault):
    """Waits for its turn, does what was drawn, and tells the model of it."""

    def __init__(
        self, world: World, process: Process, inner: Vault, suspends: bool
    ) -> None:
        super().__init__(inner, suspends)
        self.world = world
        self.process = process
        #: How many operations the store is doing.
        self.busy = 0

    async def load(self, token: str) -> Record | None:
        return await self._do("load", token, lambda: self.inner.load(token))

    async def insert(self, record: Record) -> Saved:
        return await self._do("save", None, lambda: self.inner.insert(record))

    async def replace(self, token: str, record: Record, version: Version) -> Saved:
        return await self._do(
            "save", token, lambda: self.inner.replace(token, record, version)
        )

    async def delete(self, token: str) -> None:
        await self._do("delete", token, lambda: self.inner.delete(token))

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        async def find() -> list[tuple[bytes, Record]]:
            return [found async for found in self.inner.find(user)]

        for found in await self._do("find", user, find):
            yield found

    async def load_found(self, key: bytes) -> Record | None:
        return await self._do("load_found", None, lambda: self.inner.load_found(key))

    async def replace_found(self, record: Record, version: Version) -> Version:
        mark = self.fingerprint_found(version[0])
        operation = "claim" if decode(record.data).expires else "end"
        return await self._do(
            operation, mark, lambda: self.inner.replace_found(record, version)
        )

    async def delete_found(self, key: bytes) -> None:
        await self._do("remove", None, lambda: self.inner.delete_found(key))

    async def _do(
        self, operation: str, of: str | None, work: Callable[[], Awaitable[T]]
    ) -> T:
        visit, began = current.get(None), self.world.now
        if visit is None and not self.process.lane(of):
            answer = await work()
            self.process.note(operation, False)
            return answer
        if self._suspends:
            may_batch = operation in ("load", "save")
            await self.world.turn(operation if may_batch else None, of)
        outcome = self.world.draw_outcome()
        if outcome != "failed":
            self.busy += 1
            try:
                answer = await work()
            finally:
                self.busy -= 1
            if visit is not None:
                visit.done(operation, of, answer, began, outcome == "done")
            else:
                self._done_for_all(operation, of or "", began, outcome == "done")
            if outcome == "done":
                self.process.note(operation, False)
                return answer
        if visit is not None:
            visit.faults += 1
        else:
            lane = self.process.lane(of)
            assert lane is not None
            for each in self.process.visits((*lane.batch, *(lane.waiting or ()))):
                each.faults += 1
        self.process.faults += 1
        self.process.note(operation, True)
        raise BackendError(f"Cannot {operation}: {outcome}.")

    def _done_for_all(
        self, operation: str, token: str, began: float, is_told: bool
    ) -> None:
        """Takes note of an operation for those who wait in a lane."""
        kept, lane = self.world.kept[token], self.process.lane(token)
        assert lane is not None
        if operation == "save":
            for visit in self.process.visits(lane.batch):
                assert kept.is_alive(visit.loaded)
                visit.stored = True
            kept.state = self.process.together(token, kept.state)
            kept.seen, kept.stored = began, self.world.now
        if is_told:
            self.process.known[token] = copy.deepcopy(kept.state)


class Visit:
    """A request, and what the model knows of it."""

    def __init__(self, world: World, plan: Plan, key: str) -> None:
        self.world = world
        self.plan = plan
        self.key = key
        self.process = world.processes[plan.process]
        self.sessions = self.process.sessions
        # What it saw, and what it wants that to be.
        self.base, self.mine = blank(), blank()
        self.token: str | None = None
        self.loaded = math.inf
        # What its next commit is to do besides.
        self.moves = self.is_another_user = self.signs_in = False
        self.ending: list[str] = []
        # What this request itself has set, beside values, and the id that it came
        # with, if that is not alive.
        self.own_flashes: set[str] = set()
        self.owns_idle = False
        self.not_alive: str | None = None
        self.is_revoking = False
        # What the store has done for it.
        self.faults = 0
        self.stored = self.has_moved = False
        self.inserted: dict[str, float] = {}
        self.moved: State = {}
        self.newest: State | None = None
        # What the request saw before a transaction, and what it wants that to be.
        self.before: tuple[State, State] | None = None
        self.spares = False
        self.revoked: set[str] = set()

    async def run(self) -> None:
        current.set(self)
        await self.world.turn()
        former = [
            t for t, k in self.world.kept.items() if k.visitor == self.plan.visitor
        ]
        sent = self.world.cookies[self.plan.visitor]
        if self.plan.captured and former:
            sent = former[0]
        try:
            self.session = await self.sessions.load(sent)
        except BackendError:
            assert self.faults
            return
        self.loaded = self.created = self.world.now
        if sent is not None:
            self.world.check(sent, self.session)
            kept = self.world.kept[sent]
            if self.session.is_new:
                self.not_alive = sent
            else:
                self.token, self.created = sent, kept.created
                self._sees(kept.state)
        for step in self.plan.steps:
            await self.world.turn()
            if step in EDITS:
                self._edit(step)
            else:
                outcome = getattr(self, step)()
                if outcome is not None:
                    await outcome
            assert shown(self.session) == self.mine
        await self.world.turn()
        await self._finish()
        # The response, with its cookie.
        token = state_of(self.session).token
        if token != sent and not (
            token is None and not state_of(self.session).destroyed
        ):
            self.world.cookies[self.plan.visitor] = token

    def _sees(self, state: State) -> None:
        self.base, self.mine = copy.deepcopy(state), copy.deepcopy(state)

    def _begins_anew(self) -> None:
        """Notes that the session has ended, and another would begin now."""
        self.token = None
        self.created = self.world.now
        self._forgets()
        self._sees(blank())

    def _forgets(self) -> None:
        """Notes that what the request itself has set is dropped."""
        self.moves = self.is_another_user = self.signs_in = False
        self.own_flashes, self.owns_idle = set(), False

    def _is_alive(self) -> bool:
        """Whether its session was alive when it loaded it, and nobody ended it."""
        return self.token is None or self.world.kept[self.token].is_alive(self.loaded)

    # What it does.

    def _edit(self, name: str) -> None:
        mark = next(self.world.marks)
        EDITS[name](self.session, self.key, mark)
        EDITS[name](self.mine["values"], self.key, mark)

    def _runs(self) -> None:
        """Notes what the function of a transaction sees."""
        assert self.before is not None
        token = state_of(self.session).token
        base, mine = self.before
        if token is not None:
            seen = self.process.together(token, self.process.known[token])
            self.base = copy.deepcopy(seen)
            self.mine = self._on(seen, base, mine)
        else:
            self.base, self.mine = base, copy.deepcopy(mine)

    async def _count(self, session: Session) -> int:
        self._runs()
        return self._add_one(session)

    def _add_one(self, session: Session) -> int:
        assert shown(session) == self.mine
        for values in (session, self.mine["values"]):
            values["n"] = values.get("n", 0) + 1
        return session["n"]

    async def _count_slowly(self, session: Session) -> int:
        self._runs()
        await self.world.turn()
        return self._add_one(session)

    def count(self) -> Awaitable[None]:
        return self._transact(self._count)

    def count_slowly(self) -> Awaitable[None]:
        return self._transact(self._count_slowly)

    async def _transact(self, function: Callable[[Session], Awaitable[int]]) -> None:
        self.before = self.base, copy.deepcopy(self.mine)
        count = 0

        async def transact() -> None:
            nonlocal count
            count = await self.session.transact(function)

        if await self._attempt(transact()):
            assert count == self.mine["values"]["n"]
            self._acknowledge()
        else:
            self.base, self.mine = self.before
            if state_of(self.session).token != self.token:
                # The login was stored before the function ran.
                self._acknowledge()
        self.before = None

    async def save(self) -> None:
        if await self._attempt(self.session.save()):
            self._acknowledge()

    async def save_bad(self) -> None:
        self.session["bad"] = {1}
        with pytest.raises(SessionDataError):
            await self.session.save()
        del self.session["bad"]

    async def give_up(self) -> None:
        """Saves, and is cancelled before or after that is stored."""
        if self.moves or self.ending or self.token is None:
            return

        is_known = True

        async def save() -> None:
            nonlocal is_known
            saving = asyncio.ensure_future(self.session.save())
            # Where hypothesis stops in between, nobody asks for it.
            saving.add_done_callback(lambda task: task.cancelled() or task.exception())
            await self.world.turn()
            saving.cancel()
            await asyncio.wait([saving])
            is_known = not saving.cancelled()
            if is_known:
                saving.result()

        if await self._attempt(save()) and is_known:
            self._acknowledge()

    async def reload(self) -> None:
        self.newest = {}
        if await self._attempt(self.session.reload()):
            self._forgets()
            if self.token is None:
                self._begins_anew()
            else:
                self._sees(self.newest)
        self.newest = None

    def regenerate(self) -> None:
        self.session.regenerate()
        self.moves = self.token is not None

    def login_ada(self) -> None:
        self._login("ada")

    def login_bob(self) -> None:
        self._login("bob")

    def _login(self, user: str) -> None:
        # No two are at the same time.
        self.world.now += 1
        self.session.login(user)
        self.moves = self.token is not None
        if self.mine["user"] not in (None, user):
            self.mine = blank()
            self.is_another_user = True
            self.own_flashes, self.owns_idle = set(), False
        elif self.mine["user"] is None:
            flashes = self.mine["flashes"]
            self.mine["flashes"] = {
                mark: flashes[mark] for mark in flashes if mark in self.own_flashes
            }
            if not self.owns_idle:
                self.mine["idle"] = None
        self.signs_in = True
        self.mine |= {"user": user, "auth_time": self.world.now}

    def destroy(self) -> None:
        self.session.destroy()
        self._ends()

    def _ends(self) -> None:
        self.ending += [t for t in (self.token, self.not_alive) if t is not None]
        self.not_alive = None
        self._begins_anew()

    def end_at_once(self) -> None:
        self.session.set_expiry(lifetime=0)
        self._ends()

    def shorten(self) -> None:
        self.session.set_expiry(idle=IDLE / 2)
        self.mine["idle"] = IDLE / 2
        self.owns_idle = True

    def flash(self) -> None:
        mark = str(next(self.world.marks))
        self.session.flash(mark)
        self.mine["flashes"][mark] = "info"
        self.own_flashes.add(mark)

    def show_flashes(self) -> None:
        assert dict(self.session.flashes()) == self.mine["flashes"]
        self.mine["flashes"] = {}

    def wait(self) -> None:
        self.world.now += 110

    def wait_long(self) -> None:
        self.world.now += 700

    # The sessions of users.

    def _of(self, user: str) -> set[str]:
        return {
            kept.handle
            for kept in self.world.kept.values()
            if kept.state["user"] == user and kept.is_alive(self.world.now)
        }

    async def list_sessions(self) -> None:
        async def list_them() -> None:
            listed = {session.id for session in await self.sessions.of_user("ada")}
            assert self._of("ada") <= listed

        await self._attempt(list_them())

    async def revoke(self) -> None:
        handles = [kept.handle for kept in self.world.kept.values()] or ["unknown"]
        handle = self.world.data.draw(st.sampled_from(handles))
        await self._revoke(
            self._own_sessions().revoke("ada", handle), self._of("ada") & {handle}
        )

    async def revoke_all(self) -> None:
        await self._revoke(self._own_sessions().revoke_all("ada"), self._of("ada"))

    async def revoke_others(self) -> None:
        work = self._own_sessions().revoke_all("ada", keep=self.session)
        state = state_of(self.session)
        if state.token is None and not state.signs_in:
            # There is nothing to keep, so nobody is ended.
            with pytest.raises(SessionGoneError, match="is not stored"):
                await work
            return
        self.spares = True
        await self._revoke(work, self._of("ada"))
        self.spares = False

    def _own_sessions(self) -> Sessions:
        return self.sessions.of_request(state_of(self.session))

    def _spared(self) -> set[str]:
        """Returns the handles of its own session, whatever that has become."""
        if not self.spares:
            return set()
        chain = self.world.chain(self.token)
        return {self.session.id, *(kept.handle for kept in chain)}

    async def _revoke(self, work: Awaitable[int], due: set[str]) -> None:
        self.revoked.clear()
        self.is_revoking = True
        succeeded = await self._attempt(work)
        self.is_revoking = False
        if not succeeded:
            return
        own = state_of(self.session).base.id if self._has_signed_in else None
        assert not (due - self._spared() - {own}) & self._of("ada")
        if self.token is not None and (
            state_of(self.session).token is None
            or (
                self.base["user"] == "ada"
                and not self.signs_in
                and self.world.kept[self.token].handle in self.revoked
            )
        ):
            # It was its own.
            assert state_of(self.session).token is None
            assert not self._is_alive()
            self._begins_anew()

    @property
    def _has_signed_in(self) -> bool:
        return state_of(self.session).has_signed_in

    # What is committed.

    async def _attempt(self, work: Awaitable[object]) -> bool:
        """Whether it succeeded. If not, asserts that there is a reason."""
        faults = self.process.faults
        self.stored = self.has_moved = False
        self.inserted.clear()
        try:
            await work
        except SessionGoneError:
            assert not self._is_alive()
            # A login begins a fresh session then.
            assert not self.signs_in
            return False
        except BackendError:
            # Its own, or that of another request which it has waited for.
            assert self.process.faults > faults
            return False
        return True

    def _acknowledge(self) -> None:
        """Holds the session to what it has said that it has stored."""
        assert not state_of(self.session).ended
        for ended in self.ending:
            # And all that it has become.
            assert not any(
                kept.is_alive(self.world.now) for kept in self.world.chain(ended)
            )
        self.ending = []
        token, former = state_of(self.session).token, self.token
        if former is None:
            assert (token is not None) == _is_worth_storing(self.mine)
            self.moved = self.mine
        elif not self.moves:
            assert token == former
            assert self.stored or self.mine == self.base
        if token != former:
            assert token in self.inserted
            assert former is None or not self.world.kept[former].is_alive(
                self.world.now
            )
            if former is not None and not self.has_moved:
                # The session has gone, and the login has begun another.
                assert self.signs_in
                self.moved = self._anew(self.world.kept[former])
                self.created = self.inserted[token]
            self._keep(token, former)
        self.token = token
        self.moves = self.is_another_user = self.signs_in = False
        self._sees(self.mine)

    def _anew(self, kept: Kept) -> State:
        """Returns what a login stores whose session has gone."""
        state = copy.deepcopy(self.mine)
        if not (kept.replaced and self.base["user"] in (None, self.mine["user"])):
            sides = self.base["values"], self.mine["values"]
            if not self.is_another_user:
                state["values"] = reapplied(*sides, {})
        return state

    def _has_begun_anew(self, token: str) -> None:
        """Notes that transact() has stored the login before it runs its function."""
        assert self.token is not None
        assert self.signs_in
        assert self.before is not None
        self.mine = copy.deepcopy(self.before[1])
        self.moved = self._anew(self.world.kept[self.token])
        self.created = self.inserted[token]
        self.has_moved = False
        self._keep(token, self.token)
        self.token = token
        self.moves = self.is_another_user = self.signs_in = False
        self._sees(self.mine)
        self.before = self.base, copy.deepcopy(self.mine)

    def _keep(self, token: str, former: str | None) -> None:
        handle, mark = self.session.id, self.process.vault.fingerprint(token)
        if former is not None:
            same = handle == self.world.kept[former].handle
            assert same is not self.signs_in
        if self.has_moved and former is not None:
            self.world.kept[former].successor = token
        self.world.kept[token] = Kept(
            self.plan.visitor,
            handle,
            self.created,
            self.inserted[token],
            copy.deepcopy(self.moved),
            ended=mark in self.world.revoked,
        )
        if self.has_moved:
            self.process.expect("regenerated", token, former)
        else:
            self.process.expect("created", token)

    async def _finish(self) -> None:
        """Commits as `SessionMixin` does."""
        session = self.session
        if self.plan.fails:
            state_of(session).discard()
            self._drop_changes()
        packed, era = state_of(session).pack(), state_of(session).generation

        async def commit() -> None:
            await self.sessions.commits.commit(state_of(session), packed, era)
            assert not state_of(session).needs_new_id
            assert not state_of(session).ended

        faults = self.faults
        if await self._attempt(commit()):
            self._acknowledge()
            if self._is_alive() and self.token and not self.plan.fails:
                # Activity extends it, but not beyond its lifetime.
                kept = self.world.kept[self.token]
                assert (
                    self.loaded - max(kept.seen, kept.stored) < IDLE / 10
                    or self.faults > faults
                    or self.world.now >= kept.lifetime_ends
                )
        else:
            state_of(session).discard()
            state_of(session).ended = {}
            self._drop_changes()

    def _drop_changes(self) -> None:
        self._forgets()
        if self.token is None:
            self._begins_anew()
        else:
            self._sees(self.base)

    # What the store has done.

    def done(
        self,
        operation: str,
        of: str | None,
        answer: Any,  # noqa: ANN401
        began: float,
        is_told: bool,
    ) -> None:
        """Takes note of an operation that the store has done, told or not."""
        if (
            operation == "load"
            and self.before is not None
            and of in self.inserted
            and of not in self.world.kept
        ):
            self._has_begun_anew(of)
        kept = self.world.kept.get(of or "")
        if operation == "load" and is_told:
            if self.before is not None and kept is not None:
                self.process.known[of or ""] = copy.deepcopy(kept.state)
            self._loaded(kept)
        elif operation == "save" and of is None:
            self.inserted[answer.token] = began
        elif operation == "save":
            assert kept is not None
            self._saved(kept, began)
            if is_told:
                self.process.known[of or ""] = copy.deepcopy(kept.state)
        elif operation == "delete":
            # What is left of a move that has failed.
            assert of in self.inserted
        elif operation == "end":
            assert of is not None
            self._ended(of, is_told)

    def _loaded(self, kept: Kept | None) -> None:
        if kept is None or not kept.is_alive(self.loaded):
            return
        if self.newest is not None:
            self.newest = kept.state

    def _saved(self, kept: Kept, began: float) -> None:
        state = self._on(kept.state, self.base, self.mine)
        if self.moves:
            self.moved = state
            kept.ended = kept.replaced = self.has_moved = True
            return
        # What had ended does not come back.
        assert kept.is_alive(self.loaded)
        kept.state, kept.seen, kept.stored = state, began, self.world.now
        self.stored = True

    def _ended(self, mark: str, is_told: bool) -> None:
        kept = self.world.of_mark(mark)
        if kept is None:
            # It is not given out yet.
            self.world.revoked.add(mark)
        if not self.is_revoking:
            if is_told:
                self.process.expected["destroyed", mark, None] += 1
        else:
            self.process.revoking.add(mark)
            if kept is not None:
                assert kept.state["user"] == "ada"
                assert kept.handle not in self._spared()
                if kept.is_alive(self.world.now) and is_told:
                    self.process.revoked.add(mark)
                    self.revoked.add(kept.handle)
        if kept is not None:
            kept.ended = True

    def on(self, newest: State) -> State:
        """Returns ``newest`` with the changes of this request."""
        return self._on(newest, self.base, self.mine)

    def _on(self, newest: State, base: State, mine: State) -> State:
        if self.is_another_user:
            return copy.deepcopy(mine)
        if self.signs_in and base["user"] is None:
            # The values come along, and nothing else.
            values = [side["values"] for side in (base, mine, newest)]
            return copy.deepcopy(mine) | {"values": reapplied(*values)}
        return reapplied(base, mine, newest)


def _is_worth_storing(state: State) -> bool:
    return bool(state["values"] or state["flashes"] or state["user"])


#: The request that the running code is part of.
current: contextvars.ContextVar[Visit] = contextvars.ContextVar("current")


class CountingBackend(SQLiteBackend):
    """Counts the batches of two operations or more."""

    loads = writes = 0

    async def occupy(self, kind: str | None) -> None:
        """Does something that changes nothing."""
        await (self.load(bytes(32)) if kind == "load" else self.delete(bytes(32)))

    async def load_many(
        self, lanes: Lanes, keys: Sequence[bytes]
    ) -> Sequence[Record | None]:
        self.loads += 1
        return await super().load_many(lanes, keys)

    async def write_many(
        self, lanes: Lanes, writes: Sequence[Write]
    ) -> Sequence[Version | None]:
        self.writes += 1
        return await super().write_many(lanes, writes)


@pytest.mark.parametrize(
    ("kind", "suspends"),
    [("memory", False), ("memory", True), ("sqlite", True)],
    ids=["memory in place", "memory", "sqlite"],
)
def test_the_model_holds(kind: str, suspends: bool, tmp_path: Path) -> None:
    """Behaviours 7-11, 17-26, 36-48: whatever happens at once, and whatever fails."""
    path = str(tmp_path / "sessions.db")
    sqlite = CountingBackend(path, timeout=60)
    backend = sqlite if kind == "sqlite" else MemoryBackend()
    names = itertools.count()
    loop = asyncio.new_event_loop()

    @settings(unhurried, max_examples=300)
    @given(plans(), st.data())
    def hold(planned: list[Plan], data: st.DataObject) -> None:
        # Each time other sessions and users, and the same ids.
        name, dice = f"{next(names)}", random.Random(0)
        longest_run = data.draw(st.sampled_from([0, 3600]))
        vaults = [Vault(backend, name) for _ in range(2)]

        def draw(size: int) -> str:
            return base64.urlsafe_b64encode(dice.randbytes(size)).decode().rstrip("=")

        with (
            mock.patch.object(secrets, "token_urlsafe", draw),
            mock.patch.object(random, "uniform", lambda least, most: least),
            # What a failure leaves marked holds others up for that long.
            mock.patch.object(revocations, "MOST_WAITS", 10),
            # Nothing depends on how long anything takes.
            mock.patch.object(combiner, "LONGEST_MERGE", math.inf),
            mock.patch.object(combiner, "LONGEST_RUN", longest_run),
            mock.patch.object(Lane, "longest_run", longest_run),
        ):
            occupy = sqlite.occupy if backend is sqlite else None
            world = World(data, vaults, suspends=suspends, occupy=occupy)
            loop.run_until_complete(world.run(planned))

    try:
        hold()
        # The model would hold as well if no operations were ever sent together.
        assert backend is not sqlite or (sqlite.loads and sqlite.writes)
    finally:
        loop.run_until_complete(backend.close())
        loop.close()

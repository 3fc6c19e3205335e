"""Changes sessions of a user from outside of their requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from tornado_sessions.core.codec import encode
from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.events import Events
from tornado_sessions.core.expiry import KEPT_AFTER_END, expires_at, is_alive
from tornado_sessions.core.inside import is_inside_handle
from tornado_sessions.core.merge import rebase
from tornado_sessions.core.records import Found
from tornado_sessions.core.retries import PATIENCE, Backoff
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.store import Store
from tornado_sessions.core.typed import migrated
from tornado_sessions.core.users import Users
from tornado_sessions.errors import (
    BackendError,
    ConflictError,
    SessionError,
    SessionGoneError,
)
from tornado_sessions.frames import hides_frames
from tornado_sessions.storage.backend import Record


class EditedState(SessionState):
    """The state of a session of ``user`` that is changed by its handle."""

    def __init__(self, rules: Rules, user: str, records: list[Found]) -> None:
        # The store knows no token, only that there is one.
        super().__init__(rules, records[0][2], token="", loaded_at=rules.now())
        self.user = user
        #: What the store has of the session; two records while its id changes.
        self.records = records
        self.is_closed = False

    def close(self) -> None:
        """Refuses changes from now on."""
        self.is_closed = True
        # Only then is each change checked.
        self.headers_sent = True

    def check_change(self) -> None:
        if self.is_closed:
            raise SessionError(
                "The block of edit() has ended, so this change of its session cannot be"
                " stored. Change the session inside of 'async with sessions.edit(…)'."
            )

    def require_headers(self, what: str) -> NoReturn:
        raise SessionError(
            f"{what} needs a new cookie, and edit() has no response to the visitor that"
            " could carry it. Do this in a request of that session."
        )

    def destroy(self) -> NoReturn:
        raise SessionError(
            "A session is not ended inside of edit(). Call"
            " 'await sessions.revoke(user, id)' instead."
        )


class Edits:
    """Loads sessions by their handles, and stores what has been changed in them.

    It is what an edited `.Session` asks of the store, too.
    """

    def __init__(
        self, store: Store, rules: Rules, users: Users, events: Events
    ) -> None:
        self._store = store
        self._rules = rules
        self._users = users
        self._events = events

    @hides_frames
    async def load(self, user: str, handle: str) -> EditedState:
        """Returns the state of the session of ``user`` with this handle.

        Raises `.SessionGoneError` if there is none that is alive.
        """
        if is_inside_handle(self._rules, handle):
            raise SessionError(
                "The function given to transact() called edit() for the same session."
                " It would never end: change the values of transact() instead."
            )
        records = await self._find(user, handle, self._rules.now())
        return EditedState(self._rules, user, records)

    @hides_frames
    async def store(self, state: EditedState) -> None:
        """Stores what was changed. Raises as `.Sessions.edit` does."""
        packed = state.pack()
        if packed is state.base:
            return
        records, backoff = state.records, None
        while not await self._replace_all(state, packed, records):
            if backoff is None:
                backoff = Backoff()
                key = records[0][0]
                self._events.tell_by_key("conflict", key, state.user, packed.id)
            elif backoff.is_over:
                raise BackendError(
                    f"The session could not be saved within {PATIENCE:.0f} s: other"
                    " requests kept changing it. Try again."
                )
            await backoff.wait()
            records = await self._find(state.user, packed.id, state.judged_at)
        self._events.tell_by_key("edited", records[0][0], state.user, packed.id)

    async def _find(self, user: str, handle: str, judged_at: float) -> list[Found]:
        """Returns the records of the session that were alive at ``judged_at``."""
        listed = (await self._users.look_up(user)).sessions.get(handle)
        records = [
            found
            for found in ([] if listed is None else listed.records)
            if is_alive(found[2], self._rules, self._rules.now(), judged_at)
        ]
        if not records:
            raise SessionGoneError(
                f"The user has no session {handle!r:.100} that is alive: it has ended, or"
                " its handle has changed with a login. of_user() lists those that are."
            )
        return records

    async def _replace_all(
        self, state: EditedState, packed: Envelope, records: list[Found]
    ) -> bool:
        """Applies the changes to all ``records``.

        While the id changes there are two, and it is not known which one stays: if the
        old one is changed, the request that changes the id starts again with that.
        Returns False after a conflict. Whoever repeats it changes nothing twice.
        """
        base = state.base
        for _, stored, envelope in records:
            merged = rebase(*migrated(state, base, packed, envelope))
            if (packed.idle, packed.lifetime) != (base.idle, base.lifetime):
                merged.expires = expires_at(merged, self._rules)
            record = Record(
                encode(merged),
                # The time of the last use stays: it is not the visitor who changes it.
                expires=merged.expires + KEPT_AFTER_END,
                user=merged.user,
            )
            try:
                await self._store.replace_found(record, stored.version)
            except ConflictError:
                return False
        return True

    # What a session asks of the store.

    def tell_lost(self, state: SessionState) -> None:
        """Does nothing: a change that would be lost has been refused."""

    async def commit(self, state: SessionState) -> None:
        """Raises `.SessionError`."""
        _refuse()

    async def reload(self, state: SessionState) -> None:
        """Raises `.SessionError`."""
        _refuse()

    async def transact(self, state: SessionState, function: Callable[[], Any]) -> None:
        """Raises `.SessionError`."""
        _refuse()


def _refuse() -> NoReturn:
    raise SessionError(
        "save(), reload() and transact() do not work inside of edit(): it loads the"
        " session before its block and stores what has changed after it."
    )

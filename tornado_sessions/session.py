"""The session as an application holds it: a mapping, and the verbs."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, overload

import msgspec

from tornado_sessions.core.checks import (
    check_flash,
    check_label,
    check_user,
    checked_keys,
    seconds_of,
)
from tornado_sessions.core.expiry import is_persistent
from tornado_sessions.core.schema import Data_co
from tornado_sessions.core.signing_in import sign_in
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.tokens import exposed_token
from tornado_sessions.core.typed import migrate, view_of
from tornado_sessions.core.values import Values, set_state
from tornado_sessions.core.verbs import Saver
from tornado_sessions.frames import calls_application, hides_frames

T = TypeVar("T")


class Session(Values, Generic[Data_co]):
    """One visitor's values: a mapping whose values are kept across requests.

    It has the methods of a dict and is none. What takes nothing else, such as
    ``json.dumps`` and `.RequestHandler.write`, takes ``dict(session)``.

    Keys are strings and values are JSON values. Nothing has to be marked as
    changed: what was looked at or set is compared with what was loaded when
    the response is finished, so a change inside a nested list or dict is
    noticed, and an equal value that was assigned is not one.

    Where another request of the same visitor has saved in the meantime, this
    request's changes are re-applied to the newest values, dict by dict at any
    depth; of two writes to the same number, string or list the last wins. See
    `transact` for a count that must be right.

    The verbs, such as `login` and `destroy`, take effect when the response is
    committed. After an uncaught error, or with a status of 500 and above,
    changes and verbs are dropped; only `destroy` holds. Once the headers of
    the response have left, what would need a new cookie raises
    `.SessionError`: a first write to a new session, `regenerate`, `login`, a change
    of `persistent`, `set_expiry` of a persistent session, and every change on the
    cookie backend. A change after the response has to be saved with `save`; one
    that is lost is logged when the session object goes away.
    """

    __slots__ = ("_saver",)

    if TYPE_CHECKING:
        # Set around `__setattr__`, which says what to write for any other name.
        _saver: Saver

    def __init__(self, saver: Saver, state: SessionState) -> None:
        set_state(self, state)
        _set_saver(self, saver)

    def __repr__(self) -> str:
        count = len(self._state.values)
        state = "modified" if self.modified else "new" if self.is_new else "unmodified"
        return f"<Session {count} value{'s' * (count != 1)}, {state}>"

    @property
    def data(self) -> Data_co:
        """The values by the names and types of the handler's schema, see `SessionData`.

        ``session.data.cart`` is ``session["cart"]``, or the field's default, which is
        stored when it is changed or set. ``copy.copy(session.data)`` is a plain copy.
        A value that does not fit raises `.SessionDataError`: a stored one when it is
        read, another one with the save. Raises `AttributeError` without a schema.
        """
        return view_of(self._state)  # type: ignore[no-any-return]

    # What is known of it.

    @property
    def id(self) -> str:
        """A public handle, good for lists and logs.

        It is neither the token nor the store's key, and worthless as a cookie. It
        changes with a login; with the cookie backend also with each new id, if that
        backend has a store.
        """
        return self._state.handle()

    @property
    def user(self) -> str | None:
        """Who is signed in; None for nobody. See `login`."""
        return self._state.current.user

    @user.setter
    def user(self, value: NoReturn) -> None:
        raise AttributeError(
            "session.user cannot be set. Sign in with session.login(user), and out"
            " with session.logout()."
        )

    @property
    def is_new(self) -> bool:
        """True while there is nothing in the store."""
        return self._state.token is None

    @property
    def unavailable(self) -> bool:
        """True if the session was not loaded, so nothing is known of the visitor.

        It is then empty and can only be read: while the store is down, in a handler
        with `.SessionMixin.session_optional`, and on the page of an error that came
        before the load.
        """
        return False

    @property
    def modified(self) -> bool:
        """True if there is anything to commit."""
        return self._state.is_changed

    @property
    def created(self) -> float:
        """When the session began, in seconds since the epoch."""
        return self._state.current.created

    @property
    def last_seen(self) -> float:
        """When it was last used before this request, in seconds since the epoch.

        To within a tenth of the idle timeout: not every request is noted.
        """
        return self._state.current.seen

    @property
    def auth_time(self) -> float | None:
        """When `user` signed in, in seconds since the epoch, or None."""
        return self._state.current.auth_time

    @property
    def expires(self) -> float:
        """When the session ends, in seconds since the epoch.

        This is the end before this request; the request may extend it.
        """
        return self._state.expires

    @property
    def expires_in(self) -> int:
        """How many seconds are left until `expires`, rounded up.

        Never negative, and never more than the whole timeout.
        """
        return self._state.expires_in

    @property
    def persistent(self) -> bool:
        """Whether the cookie outlives the browser: "remember me".

        For as long as the session lasts, see `set_expiry`. Set it to None to
        follow the ``session_persistent`` setting again, as a session does where
        nobody has set it. Raises `TypeError` for anything else.
        """
        return self._state.is_persistent

    @persistent.setter
    @hides_frames
    def persistent(self, value: bool | None) -> None:
        if value is not None and type(value) is not bool:
            raise TypeError(
                "persistent is True or False, or None for the setting"
                f" session_persistent, not {value!r}."
            )
        self._state.check_change()
        state = self._state
        changed = msgspec.structs.replace(state.current, persistent=value)
        if is_persistent(changed, state.rules) != self.persistent:
            state.require_headers("A change of session.persistent")
        state.set_own(persistent=value)

    @property
    def label(self) -> str:
        """What the application calls this session, such as "Firefox on Linux".

        It is for the list that `.Sessions.of_user` answers, and empty unless it
        was set. Raises `TypeError` for what is not a str, and `ValueError` for
        more than 200 characters and for what is not Unicode.
        """
        return self._state.current.label

    @label.setter
    @hides_frames
    def label(self, value: str) -> None:
        check_label(value)
        self._state.check_change()
        self._state.set_own(label=value)

    @hides_frames
    def expose_token(self) -> str:
        """Returns the session id: the secret that gives access to the session.

        It is for an application that hands it on to the client itself, such as in the
        body of a response. Whoever has it is taken for the visitor: keep it out of logs,
        URLs and pages, and send the response with ``Cache-Control: no-store``. For
        lists and logs there is `id`. Raises `.SessionError` if the session has no id
        yet or is about to get another one; call `save` before.
        """
        return exposed_token(self._state)

    # The verbs.

    @hides_frames
    def regenerate(self) -> None:
        """Gives the session a new token and keeps its values and its user.

        Call it whenever a visitor gains rights, so that a token planted
        beforehand is worth nothing; `login` does. The old token is dead
        before the response leaves.
        """
        self._state.require_headers("regenerate()")
        self._state.regenerate()

    @hides_frames
    def destroy(self) -> None:
        """Ends the session: its record goes, its cookie expires.

        What is written afterwards begins a new session with a new token. Where
        the session was given another id by another request meanwhile, it ends
        under that one, also if this request came with the old id minutes later.
        Where the request came with several different ids, the sessions of all
        that are alive end. Raises `.SessionError` if there were more than four ids:
        none was looked up, so none can be ended.
        """
        self._state.check_removal()
        self._state.destroy()

    @hides_frames
    def login(self, user: str, keep: Iterable[str] | None = None) -> None:
        """Signs ``user`` in, under a new id and a new handle.

        The values of an anonymous visitor stay, such as a cart. With ``keep``,
        only these keys stay. Flashes, `label`, `persistent` and `set_expiry`
        stay only if this request has set them. Where ``user`` was signed in
        already, all of these stay. Where another user was, no value stays, not even
        one that this request has set.

        The idle timeout and the lifetime start anew. Where the session was given
        a new id or was ended by another request meanwhile, the login begins a
        fresh session.

        Raises `TypeError` for a user that is not a string and for a ``keep`` that
        is not a list of strings, and `ValueError` for a user that is empty or not
        Unicode. Where the setting ``session_max_per_user`` has logins refused, the
        commit raises `.SessionLimitError`: ``await save()`` right after it lets a
        handler say so on a page of its own.
        """
        check_user(user, "login()")
        kept = None if keep is None else checked_keys(keep)
        self._state.require_headers("login()")
        sign_in(self._state, user, kept)

    @hides_frames
    def logout(self) -> None:
        """Signs the user out and ends the session, as `destroy` does."""
        self.destroy()

    @hides_frames
    def set_expiry(
        self,
        *,
        idle: float | datetime.timedelta | None = None,
        lifetime: float | datetime.timedelta | None = None,
    ) -> None:
        """Gives this session an idle timeout or a lifetime of its own, in seconds.

        What is None stays as it is, and the earlier of the two ends it: for a month
        without a request, give both. Zero or less ends the session. It holds for
        the requests to come, too, until `reset_expiry`. Raises `ValueError` for
        infinity, and `TypeError` for what is no time.
        """
        for name, value in (("idle", idle), ("lifetime", lifetime)):
            if value is None:
                continue
            seconds = seconds_of(name, value)
            if seconds <= 0:
                self.destroy()
                return
            self._state.check_change()
            if self.persistent:
                self._state.require_headers("set_expiry() of a persistent session")
            self._state.set_own(**{name: seconds})
        self._state.update_expiry()

    @hides_frames
    def reset_expiry(self) -> None:
        """Takes back what `set_expiry` has set: the settings count again.

        Does nothing where it has set nothing.
        """
        if self._state.current.idle is None and self._state.current.lifetime is None:
            return
        self._state.check_change()
        if self.persistent:
            self._state.require_headers("reset_expiry() of a persistent session")
        self._state.set_own(idle=None, lifetime=None)
        self._state.update_expiry()

    @hides_frames
    def flash(self, text: str, category: str = "info") -> None:
        """Leaves a message for the next page that asks for `flashes`.

        At most 20 messages wait; the oldest is dropped for a newer one. Raises
        `.SessionDataError` for a text or category that is not a str.
        """
        check_flash(text, category)
        self._state.check_change()
        self._state.add_flash(text, category)

    @hides_frames
    def flashes(self) -> list[tuple[str, str]]:
        """Returns the messages left by `flash`, oldest first, and removes them.

        Each is a text and a category.
        """
        left = list(self._state.current.flashes.values())
        if left:
            self._state.check_removal()
            self._state.set_fields(flashes={})
        return left

    @hides_frames
    async def save(self) -> None:
        """Saves now what has changed, rather than with the response.

        There is no second save at the end unless something changes after it.
        A session that expires while the request runs is saved all the same. On a
        WebSocket it is not: each message is judged by itself.
        Raises `.SessionGoneError` if the session was ended elsewhere in the
        meantime, `.BackendError` if the store fails, and `.SessionDataError`
        for a value that cannot be stored.
        """
        await self._saver.commit(self._state)

    @hides_frames
    async def reload(self) -> None:
        """Drops what this request changed and takes the newest values.

        Raises as `save` does.
        """
        await self._saver.reload(self._state)
        migrate(self._state)

    @overload
    async def transact(
        self, function: Callable[[Session[Data_co]], Awaitable[T]]
    ) -> T: ...
    @overload
    async def transact(self, function: Callable[[Session[Data_co]], T]) -> T: ...
    @hides_frames
    async def transact(self, function: Callable[[Session[Data_co]], Any]) -> Any:
        """Runs ``function(session)`` on the newest values and saves the outcome.

        Where another request got there first, it is run again on what that one
        saved, so a count or a list comes out right however many requests there
        are at once. ``function`` may be a coroutine function. It may run
        several times, so it should change nothing but the session. It cannot
        call `save` or `transact`, not of another `Session` object of the same record
        either, and it cannot answer the request: these raise `.SessionError`. An
        error that it raises, `~tornado.web.Finish` included, is passed on, and
        nothing is stored. Returns what ``function`` returned in the run that was
        saved.

        Values that were taken out of the session beforehand are no longer part
        of it afterwards. What another task changes in the session while
        ``function`` runs goes with what that changes: if it raises, or has to run
        again, both are dropped. Raises as `save` does, and `.BackendError` if others
        have waited for ``function`` for ten seconds.
        """
        run = functools.partial(self._call, function)
        return await self._saver.transact(self._state, run)

    @calls_application
    def _call(self, function: Callable[[Session[Data_co]], Any]) -> Any:  # noqa: ANN401
        migrate(self._state)
        return function(self)

    def __del__(self) -> None:
        if self._state.is_late:
            self._saver.tell_lost(self._state)


# As `object.__setattr__` does, and in a fifth of the time.
_set_saver: Callable[[Session[Any], Saver], None] = Session.__dict__["_saver"].__set__

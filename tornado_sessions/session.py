"""Holds one visitor's values and what became of them."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import logging
import math
import secrets
from collections.abc import (
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
)
from typing import (
    TYPE_CHECKING,
    Any,
    NamedTuple,
    NoReturn,
    Protocol,
    TypeVar,
    overload,
)

import msgspec
from msgspec import Raw

from tornado_sessions.codec import (
    FORMAT,
    PLAIN,
    Envelope,
    decode_value,
    different,
    encode_value,
    latest,
    same_fields,
)
from tornado_sessions.errors import SessionDataError, SessionError
from tornado_sessions.frames import hide_frames, hides_frames
from tornado_sessions.locks import StoreLock

T = TypeVar("T")

logger = logging.getLogger("tornado_sessions")

#: How many characters a `Session.label` has at the most.
LONGEST_LABEL = 200


#: How many seconds a sign-in is later than one that would be at the same time.
SIGN_IN_STEP = 0.001

# The fields that `Session.login` does not take along, and what they begin with.
_SETTINGS = {"idle": None, "lifetime": None, "persistent": None, "label": ""}

# Shared by all sessions that ended nothing; nobody puts anything there.
_nothing: dict[str, Any] = {}

#: What other libraries call what a session has here.
_elsewhere = {
    "cycle_key": "regenerate()",
    "invalidate": "destroy()",
    "new": "is_new",
    "permanent": "persistent",
}


class Ended(NamedTuple):
    """What is known of a session that a request has destroyed."""

    user: str | None = None
    #: The version of the record, if it is the one that is stored.
    version: Any = None


class Keeper(Protocol):
    """What a session asks of `.Sessions`, which keeps it."""

    revocable: bool

    def now(self) -> float: ...
    def _ends(self, envelope: Envelope) -> float: ...
    def _timeout(self, envelope: Envelope) -> float: ...
    def _is_persistent(self, envelope: Envelope) -> bool: ...
    def commit(self, session: Session) -> Awaitable[None]: ...
    async def _reload(self, session: Session) -> None: ...
    async def _transact(
        self, session: Session, function: Callable[[Session], Any]
    ) -> Any: ...  # noqa: ANN401


@dataclasses.dataclass(frozen=True)
class UserSession:
    """One of the sessions of a user, as `.Sessions.of_user` describes it.

    Times are seconds since the epoch, and mean what they mean of a `Session`.
    """

    #: The public handle, for `.Sessions.revoke`; that of `Session.id`.
    id: str
    created: float
    last_seen: float
    expires: float
    auth_time: float | None
    persistent: bool
    label: str = dataclasses.field(repr=False)


class Session(MutableMapping[str, Any]):
    """One visitor's values: a mapping that outlives the request.

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

    __slots__ = (
        "_base",
        "_cookie_due",
        "_destroyed",
        "_ended",
        "_era",
        "_finished_by",
        "_fresh",
        "_judged_at",
        "_keeper",
        "_late",
        "_lock",
        "_login",
        "_mine",
        "_moved",
        "_moving",
        "_on_socket",
        "_own",
        "_refusal",
        "_renew",
        "_sent",
        "_stale",
        "_superseded",
        "_token",
        "_transacting",
        "_values",
        "_version",
    )

    def __init__(
        self,
        keeper: Keeper,
        base: Envelope | None = None,
        token: str | None = None,
        version: Any = None,  # noqa: ANN401
        renew: bool = False,
        loaded_at: float | None = None,
    ) -> None:
        # Changed after the response was finished, and by whose name: see `__del__`.
        self._late = False
        self._finished_by = ""
        self._keeper = keeper
        if base is None:
            base = self._blank()
        # When the session has to have been alive, in seconds since the epoch: when
        # the request loaded it; on a WebSocket when a message saves or loads it.
        self._judged_at = base.created if loaded_at is None else loaded_at
        self._on_socket = False
        # Values that nobody has looked at are still encoded.
        self._values: dict[str, Any] = dict(base.values)
        # What this request wants the fields to be: ``base`` itself until a
        # verb changes one.
        self._mine = base
        self._lock: StoreLock | None = None
        # The rest is for the core, and not only for this module: it would be in
        # the way of whoever uses a session. What the store has, as this request
        # saw it, and under which token and version; stale after a save, which
        # answers no version.
        self._base = base
        self._token = token
        self._version = version
        self._stale = False
        # What was packed in one era is void in the next. One begins with another
        # base, see `_adopt`, and with the end of a `transact`.
        self._era = 0
        # What the commit has to do besides storing what changed: note that the
        # session is in use, move it to a fresh token, and remove the records of
        # tokens that were destroyed.
        self._renew = renew
        self._fresh = False
        self._ended: dict[str, Ended] = _nothing
        # What the response has to say about the cookie, and whether a token for
        # the session before is worth anything in this one.
        self._destroyed = False
        self._moved = False
        self._cookie_due = False
        # The headers of the response have left.
        self._sent = False
        # Why nothing of it is stored; None where it is.
        self._refusal: str | None = None
        # What this request itself has set: names of fields, and keys of flashes. A
        # login takes nothing else of these along.
        self._own: frozenset[str] = frozenset()
        # The time of this request's login, and the keys that it takes along; None
        # for all.
        self._login: tuple[float, frozenset[str] | None] | None = None
        # The tokens that the request came with and whose sessions have others now.
        self._superseded: tuple[str, ...] = ()
        # Under way are: a commit that gives the client another token; a `transact`.
        self._moving = False
        self._transacting = False

    # The mapping.

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401
        value = self._values[key]
        if type(value) is Raw:
            value = decode_value(value)
            # What nobody can change need not be compared at the end.
            if type(value) not in PLAIN:
                self._values[key] = value
        return value

    def __setitem__(self, key: str, value: Any) -> None:  # noqa: ANN401
        if (
            type(key) is not str
            or type(value) is Raw
            or self._sent
            or self._finished_by
        ):
            try:
                self._check_item(key, type(value))
            except SessionError as error:
                # It would be in this frame of the error.
                value = None
                hide_frames(error)
                raise
        self._values[key] = value

    def _check_item(self, key: object, kind: type) -> None:
        if type(key) is not str:
            raise SessionDataError(
                f"The session key {key!r} cannot be stored: keys are strings,"
                f" and this is of type {type(key).__name__}."
            )
        if self._sent or self._finished_by:
            self._check_late()
        if kind is Raw:
            # It would be taken for one that was loaded, and not be checked.
            raise SessionDataError(
                f"The session value {key!r} cannot be stored as JSON: Raw."
            )

    def __delitem__(self, key: str) -> None:
        self._check_late_removal()
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    @hides_frames
    def __ior__(self, other: Mapping[str, Any]) -> Session:
        self.update(other)
        return self

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**self, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**other, **self}

    def copy(self) -> dict[str, Any]:
        """Returns the values as a plain dict.

        A list or dict in it is the session's own: what is changed there is saved.
        """
        return dict(self)

    if not TYPE_CHECKING:
        # Its frames have the values that were to be set.
        update = hides_frames(MutableMapping.update)

    def __sentry_repr__(self) -> str:
        # Sentry would walk through the values of a mapping.
        return repr(self)

    # These two are spelled out as an error of a value would else be told as one
    # that came up while a KeyError was handled.

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """Answers the value of ``key``, or ``default`` if there is none."""
        return self[key] if key in self._values else default

    @hides_frames
    def setdefault(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """Answers the value of ``key``, and sets it to ``default`` first if needed."""
        if key not in self._values:
            self[key] = default
        return self[key]

    def popitem(self) -> tuple[str, Any]:
        """Removes and answers the last item, as a dict does."""
        key = next(reversed(self._values), None)
        if key is None:
            raise KeyError("popitem(): the session is empty")
        return key, self.pop(key)

    def clear(self) -> None:
        """Removes all values, and keeps the session itself; see `destroy`."""
        if self._values:
            self._check_late_removal()
        self._values.clear()

    def __repr__(self) -> str:
        count = len(self._values)
        state = "modified" if self.modified else "new" if self.is_new else "unmodified"
        return f"<Session {count} value{'s' * (count != 1)}, {state}>"

    if not TYPE_CHECKING:
        # Type checkers would let every name pass.

        def __getattr__(self, name: str) -> NoReturn:
            if name.startswith("_") or hasattr(type(self), name):
                # Not a value's name; or an error from inside a property.
                object.__getattribute__(self, name)
            raise AttributeError(
                f"A session has no attribute {name!r}.{_did_you_mean(name)} Read a"
                f' value with session["{name}"] or session.get("{name}").'
            )

        def __setattr__(self, name: str, value: object) -> None:
            try:
                object.__setattr__(self, name, value)
            except BaseException as error:
                # It would be in this frame of the error.
                value = None
                known = name.startswith("_") or hasattr(type(self), name)
                if known or not isinstance(error, AttributeError):
                    raise
                raise AttributeError(
                    f"A session has no attribute {name!r}.{_did_you_mean(name)} Set a"
                    f' value with session["{name}"] = ….'
                ) from None

    # What is known of it.

    @property
    def id(self) -> str:
        """A public handle, good for lists and logs.

        It is neither the token nor the store's key, and worthless as a cookie.
        """
        if not self._mine.id:
            self._field(id=secrets.token_urlsafe(12))
        return self._mine.id

    @property
    def user(self) -> str | None:
        """Who is signed in; None for nobody. See `login`."""
        return self._mine.user

    @user.setter
    def user(self, value: NoReturn) -> None:
        raise AttributeError(
            "session.user cannot be set. Sign in with session.login(user), and out"
            " with session.logout()."
        )

    @property
    def is_new(self) -> bool:
        """True while there is nothing in the store."""
        return self._token is None

    @property
    def modified(self) -> bool:
        """True if there is anything to commit."""
        try:
            return self._pack() is not self._base or self._fresh or bool(self._ended)
        except SessionDataError:
            return True

    @property
    def created(self) -> float:
        """When the session began, in seconds since the epoch."""
        return self._mine.created

    @property
    def last_seen(self) -> float:
        """When it was last used before this request, in seconds since the epoch.

        To within a tenth of the idle timeout: not every request is noted.
        """
        return self._mine.seen

    @property
    def auth_time(self) -> float | None:
        """When `user` signed in, in seconds since the epoch, or None."""
        return self._mine.auth_time

    @property
    def expires(self) -> float:
        """When the session ends, in seconds since the epoch.

        As it was before this request, which may push the end forward.
        """
        return self._mine.expires

    @property
    def expires_in(self) -> int:
        """How many seconds are left until `expires`, rounded up.

        Never negative, and never more than the whole timeout.
        """
        left = min(self.expires - self._keeper.now(), self._keeper._timeout(self._mine))
        return max(0, math.ceil(left))

    @property
    def persistent(self) -> bool:
        """Whether the cookie outlives the browser: "remember me".

        For as long as the session lasts, see `set_expiry`. Set it to None to
        follow the ``session_persistent`` setting again, as a session does where
        nobody has set it. Raises `TypeError` for anything else.
        """
        return self._keeper._is_persistent(self._mine)

    @persistent.setter
    @hides_frames
    def persistent(self, value: bool | None) -> None:
        if value is not None and type(value) is not bool:
            raise TypeError(
                "persistent is True or False, or None for the setting"
                f" session_persistent, not {value!r}."
            )
        self._check_late()
        mine = msgspec.structs.replace(self._mine, persistent=value)
        if self._keeper._is_persistent(mine) != self.persistent:
            self._require_headers("A change of session.persistent")
        self._set(persistent=value)

    @property
    def label(self) -> str:
        """What the application calls this session, such as "Firefox on Linux".

        It is for the list that `.Sessions.of_user` answers, and empty unless it
        was set. Raises `TypeError` for what is not a str, and `ValueError` for
        more than 200 characters and for what is not Unicode.
        """
        return self._mine.label

    @label.setter
    @hides_frames
    def label(self, value: str) -> None:
        if type(value) is not str:
            raise TypeError(f"label is a str, not {type(value).__name__}.")
        if len(value) > LONGEST_LABEL:
            raise ValueError(
                f"A label has at most {LONGEST_LABEL} characters; this one has"
                f" {len(value)}. Shorten it."
            )
        _check_unicode(value, "label is Unicode text.")
        self._check_late()
        self._set(label=value)

    # The verbs.

    @hides_frames
    def regenerate(self) -> None:
        """Gives the session a new token and keeps its values and its user.

        Call it whenever a visitor gains rights, so that a token planted
        beforehand is worth nothing; `login` does. The old token is dead
        before the response leaves.
        """
        self._require_headers("regenerate()")
        self._move()

    def destroy(self) -> None:
        """Ends the session: its record goes, its cookie expires.

        What is written afterwards begins a new session with a new token. Where
        the session was given another id by another request meanwhile, it ends
        under that one, also if this request came with the old id minutes later.
        Where the request came with several different ids, the sessions of all
        that are alive end, four at most.
        """
        if self._token is not None:
            self._check_late()
            version = None if self._stale else self._version
            ended = Ended(self._base.user, version)
            self._ended = {**self._ended, self._token: ended}
        if self._superseded:
            superseded = dict.fromkeys(self._superseded, Ended())
            self._ended, self._superseded = {**self._ended, **superseded}, ()
        self._note_end()

    @hides_frames
    def login(self, user: str, keep: Iterable[str] | None = None) -> None:
        """Signs ``user`` in, under a new id and a new handle.

        The values of an anonymous visitor stay, such as a cart. With ``keep``,
        only these keys stay. Flashes, `label`, `persistent` and `set_expiry`
        stay only if this request has set them. Where ``user`` was signed in
        already, all of these stay. Where another user was, nothing does.

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
        kept = None if keep is None else _checked_keys(keep)
        self._require_headers("login()")
        self._move()
        if self.user not in (None, user):
            kept = frozenset()
            self._own = frozenset()
        if kept is not None:
            for key in [key for key in self._values if key not in kept]:
                del self._values[key]
        if self._login is not None and self._login[1] is not None and self._signs_in():
            # An earlier login of this request, not stored yet, has kept these alone.
            kept = self._login[1] if kept is None else self._login[1] & kept
        if self.user != user:
            self._forget_settings()
        # Whoever has a copy of the session from before does not share the handle.
        self._field(id="")
        now = since = self._keeper.now()
        if self._base.auth_time is not None and self._base.auth_time >= since:
            # The clock has gone back. A sign-in is later than the one before.
            since = self._base.auth_time + SIGN_IN_STEP
        self._login = since, kept
        self._field(user=user, auth_time=since, seen=now)
        self._field(expires=self._keeper._ends(self._mine))

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
            if isinstance(value, datetime.timedelta):
                value = value.total_seconds()
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(
                    f"set_expiry() takes {name} in seconds or as a timedelta, not"
                    f" {value!r}."
                )
            if not math.isfinite(value):
                raise ValueError(
                    f"set_expiry() takes {name} in seconds, and not {value!r}."
                )
            if value <= 0:
                self.destroy()
                return
            self._check_late()
            if self.persistent:
                self._require_headers("set_expiry() of a persistent session")
            self._set(**{name: float(value)})
        self._field(expires=self._keeper._ends(self._mine))

    @hides_frames
    def reset_expiry(self) -> None:
        """Takes back what `set_expiry` has set: the settings count again.

        Does nothing where it has set nothing.
        """
        if self._mine.idle is None and self._mine.lifetime is None:
            return
        self._check_late()
        if self.persistent:
            self._require_headers("reset_expiry() of a persistent session")
        self._set(idle=None, lifetime=None)
        self._field(expires=self._keeper._ends(self._mine))

    @hides_frames
    def flash(self, text: str, category: str = "info") -> None:
        """Leaves a message for the next page that asks for `flashes`.

        At most 20 messages wait; the oldest is dropped for a newer one. Raises `.SessionDataError` for what is not text.
        """
        for part in (text, category):
            if not isinstance(part, str):
                raise SessionDataError(
                    f"flash() takes a text and a category, not {type(part).__name__}."
                )
            encode_value("flash", part)
        self._check_late()
        key = secrets.token_hex(4)
        flashes = {**self._mine.flashes, key: (text, category)}
        self._field(flashes=latest(flashes))
        self._own |= {key}

    def flashes(self) -> list[tuple[str, str]]:
        """Answers the messages left by `flash`, oldest first, and removes them.

        Each is a text and a category.
        """
        left = list(self._mine.flashes.values())
        if left:
            self._check_late_removal()
            self._field(flashes={})
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
        await self._keeper.commit(self)

    @hides_frames
    async def reload(self) -> None:
        """Drops what this request changed and takes the newest values.

        Raises as `save` does.
        """
        await self._keeper._reload(self)

    @overload
    async def transact(self, function: Callable[[Session], Awaitable[T]]) -> T: ...
    @overload
    async def transact(self, function: Callable[[Session], T]) -> T: ...
    @hides_frames
    async def transact(self, function: Callable[[Session], Any]) -> Any:
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
        again, both are dropped. Raises as `save` does.
        """
        return await self._keeper._transact(self, function)

    def __reduce__(self) -> Any:  # noqa: ANN401
        raise TypeError(
            "A session cannot be pickled, nor copied by the module copy. Use"
            " dict(session), or copy.deepcopy(dict(session))."
        )

    # For the core.

    def _turn(self) -> StoreLock:
        """Returns the lock that the commits of this one object wait for."""
        if self._lock is None:
            self._lock = StoreLock()
        return self._lock

    def _pack(self) -> Envelope:
        """Answers what this request would store.

        That is ``base``, the very object, if nothing has changed. Raises
        `.SessionDataError` for a value that cannot be stored.
        """
        base, mine = self._base, self._mine
        values = self._encoded()
        if values is base.values and (mine is base or same_fields(mine, base)):
            return base
        if self._token is None and not (values or mine.user or mine.flashes):
            # Nothing worth storing has come of it.
            return base
        return msgspec.structs.replace(mine, id=self.id, values=values)

    def _adopt(self, base: Envelope, current: Envelope | None = None) -> None:
        """Takes ``base`` for what the store has and ``current`` for its own."""
        self._era += 1
        self._base = base
        self._mine = current or base
        self._values = dict(self._mine.values)

    def _settle(self, base: Envelope, token: str, packed: Envelope) -> None:
        """Notes that ``packed`` was stored in place of ``base``, under ``token``.

        What this request saw is the base of the next comparison, and not what
        it was merged into: else a value that was only read would look as if it
        had been changed back.
        """
        if self._base is not base:
            # It was destroyed meanwhile; what has just been stored goes as well.
            if token not in self._ended:
                self._ended = {**self._ended, token: Ended(packed.user)}
            return
        if self._keeper._is_persistent(packed) or self._keeper._is_persistent(
            self._base
        ):
            self._cookie_due = True
        if self._mine is self._base or same_fields(self._mine, packed):
            self._mine = packed
        self._base, self._token = packed, token
        self._version, self._stale = None, True
        self._renew = False

    def _note_end(self) -> None:
        """Notes that the record has gone, or is to go with the next commit."""
        self._destroyed = True
        self._token = self._version = None
        self._stale = self._renew = self._fresh = False
        self._forget_request()
        self._adopt(self._blank())

    def _drop_changes(self) -> None:
        """Drops what this request changed; what it destroyed stays destroyed."""
        # Another base than a commit under way began with: what that stores of
        # a new session is to go again.
        self._adopt(self._blank() if self._token is None else self._base)
        self._fresh = False
        self._forget_request()

    def _judge(self, now: float) -> None:
        """Notes that a save, a transact or a reload begins at ``now``.

        For a request it changes nothing: what was alive when the request loaded it
        is alive for the request. On a WebSocket each message is judged by itself.
        """
        if self._on_socket:
            self._judged_at = now
            if self._token is not None and now >= self._base.expires:
                # Others may have kept it alive.
                self._stale = True

    def _blank(self) -> Envelope:
        """Answers the envelope of a session that begins now."""
        now = self._keeper.now()
        blank = Envelope(now, now, 0.0, {}, format=FORMAT)
        blank.expires = self._keeper._ends(blank)
        return blank

    def _encoded(self) -> dict[str, Raw]:
        """Returns the values in their encoded form; the loaded dict if equal."""
        values, loaded = self._values, self._base.values
        encoded = {
            key: encode_value(key, value)
            for key, value in values.items()
            if type(value) is not Raw
        }
        # Where a merge came between, what nobody looked at may differ, too.
        compared = encoded
        if self._mine.values is not loaded:
            compared = {**values, **encoded}
        if len(values) == len(loaded) and not different(compared, loaded):
            return loaded
        return {**values, **encoded}

    def _move(self) -> None:
        self._moved = True
        self._fresh = self._token is not None

    def _set(self, **fields: Any) -> None:
        """Sets fields as the application asks for, see `login`."""
        self._field(**fields)
        self._own = self._own.union(fields)

    def _forget_settings(self) -> None:
        """Drops flashes and settings that this request has not set itself."""
        mine, own = self._mine, self._own
        fields: dict[str, Any] = {
            name: default for name, default in _SETTINGS.items() if name not in own
        }
        flashes = {key: flash for key, flash in mine.flashes.items() if key in own}
        self._field(flashes=flashes, **fields)

    def _signs_in(self) -> bool:
        """Whether this request has signed somebody in and has not stored it yet."""
        return self._mine.auth_time not in (None, self._base.auth_time)

    def _has_signed_in(self) -> bool:
        """Whether this request has signed somebody in and has stored it."""
        login = self._login
        return login is not None and login[0] == self._base.auth_time

    def _signed_in_at(self, before: float | None, since: float | None) -> None:
        """Notes that a sign-in at ``before`` counts from ``since``."""
        if since == before or since is None:
            return
        if self._login is not None and self._login[0] == before:
            self._login = since, self._login[1]
        if self._mine.auth_time == before:
            self._field(auth_time=since)

    def _forget_request(self) -> None:
        self._own, self._login = frozenset(), None

    def _field(self, **fields: Any) -> None:
        self._mine = msgspec.structs.replace(self._mine, **fields)

    def __del__(self) -> None:
        if self._late and (lost := self._lost()):
            logger.warning(
                "The session was changed after the response of %s was finished, and"
                " that is lost: %s. Change it before finish(), or call 'await"
                " self.session.save()' after the change.",
                self._finished_by,
                lost,
            )

    def _lost(self) -> str:
        """Returns what was changed and not saved, as a log may say it."""
        base, values = self._base, self._values
        changed = sum(key not in values for key in base.values)
        for key, value in values.items():
            try:
                encoded = value if type(value) is Raw else encode_value(key, value)
            except SessionDataError:
                encoded = None
            changed += encoded is None or base.values.get(key) != encoded
        lost = [f"{changed} key{'s' * (changed != 1)}"] if changed else []
        if self._mine is not base and not same_fields(self._mine, base):
            lost.append("a message or setting of the session")
        if self._ended:
            lost.append("its end")
        return " and ".join(lost)

    def _check_late(self) -> None:
        """Raises for a change that comes too late, and notes one that may be lost."""
        if self._sent:
            self._require_cookie()
        if self._finished_by:
            self._late = True

    def _check_late_removal(self) -> None:
        # Without a record only a change is taken back that was not stored.
        if self._token is not None:
            self._check_late()

    def _require_headers(self, what: str) -> None:
        if self._sent:
            raise SessionError(
                f"{what} needs a new cookie, and the headers of the response are"
                " out already. Call it before flush() and finish()."
            )

    def _require_cookie(self) -> None:
        """Raises `.SessionError` if a change could not reach the client."""
        if not self._keeper.revocable:
            raise SessionError(
                "This backend keeps the session in the cookie, and the headers of the"
                " response are out: it can no longer be changed. Change it before"
                " flush() and finish(); for WebSockets, and for what outlives the"
                " response, use a backend that keeps sessions on the server."
            )
        if self._token is None:
            raise SessionError(
                "This visitor has no session yet, and the headers of the response are"
                " out, so none can be begun. Write to the session before flush() and"
                " finish(), and before a WebSocket is opened."
            )


def _did_you_mean(name: str) -> str:
    ours = [name for name in dir(Session) if not name.startswith("_")]
    close = difflib.get_close_matches(name, ours, n=1, cutoff=0.7)
    meant = _elsewhere.get(name) or (close[0] if close else None)
    return f" Did you mean session.{meant}?" if meant else ""


def check_user(user: object, what: str) -> None:
    """Raises for what is not the id of a user; ``what`` is who was given it."""
    if user is None:
        # Not str(None), which would sign everybody in who was not found.
        raise TypeError(
            f"{what} takes the user's id as a str, not None. Find the user first, and"
            " refuse the request if there is none."
        )
    if type(user) is not str:
        raise TypeError(
            f"{what} takes the user's id as a str, not {type(user).__name__}:"
            " as in str(row.id)."
        )
    if not user:
        raise ValueError(f"{what} takes the user's id; it is empty.")
    _check_unicode(user, f"{what} takes the user's id as Unicode text.")


def _checked_keys(keep: Iterable[str]) -> frozenset[str]:
    """Returns the keys that `Session.login` is to keep."""
    if isinstance(keep, (str, bytes)) or not isinstance(keep, Iterable):
        raise TypeError(
            'login() takes keep as a list of keys, such as keep=["cart"], not'
            f" {type(keep).__name__}."
        )
    keys = frozenset(keep)
    for key in keys:
        if type(key) is not str:
            raise TypeError(
                "login() takes the keys to keep as str, and one of them is of type"
                f" {type(key).__name__}."
            )
    return keys


def _check_unicode(text: str, message: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(message) from error

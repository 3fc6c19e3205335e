"""What one request knows of its session, what it wants of it, and what is to do.

`SessionState` does no I/O and knows no handler. A `.Session` is the view of it
that an application holds; the core makes the store agree with it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from tornado_sessions.core.codec import PLAIN, decode_value
from tornado_sessions.core.envelope import Envelope, latest, same_fields
from tornado_sessions.core.expiry import (
    blank_envelope,
    ends_at,
    expires_at,
    is_persistent,
    longest_left,
    renewal_interval,
)
from tornado_sessions.core.locks import StoreLock
from tornado_sessions.core.packing import encode_values
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.verbs import Ended, Login
from tornado_sessions.errors import SessionDataError, SessionError
from tornado_sessions.storage.backend import Version
from tornado_sessions.storage.vault import Saved

if TYPE_CHECKING:
    from tornado_sessions.core.typed import TypedValues

# Shared by all states that ended nothing; nobody puts anything there.
_nothing: dict[str, Any] = {}


class SessionState:
    """The state of one session in one request.

    Its fields are for the core and for the response; an application sees a
    `.Session`. Without ``base`` the session begins now. The fields are what was
    loaded, what the request wants, what the commit has to do, what the response has
    to know, and what is in progress.
    """

    # What was loaded.
    #: What the store has, as this request saw it, and under which token and version.
    #: ``stale``: the record was saved again since, also by this request; the next
    #: commit loads the newest one first.
    base: Envelope
    token: str | None
    version: Version
    stale: bool
    #: When the session has to have been alive, in seconds since the epoch: when the
    #: request loaded it; on a WebSocket when a message saves or loads it.
    judged_at: float
    on_socket: bool
    #: When the store last recorded a use of the session; infinity if no use is to be
    #: recorded, minus infinity if one is in any case.
    noted_at: float
    #: The request is a use of the session: a renewal or a save restarts its idle
    #: timeout.
    extends: bool
    #: Why nothing can be stored: the request came with several ids. ``found`` has
    #: those that are alive, each with its user, if they were looked up.
    refusal: str | None = None
    found: Mapping[str, str | None] = _nothing
    #: Ids of the request whose records exist and are not alive, each with its user.
    #: `destroy` ends them as well: the session may have another id now, or it has
    #: expired only by the clock or the settings of this process.
    not_alive: Mapping[str, str | None] = _nothing

    # What the request wants.
    #: What the fields are to be: ``base`` itself until a verb changes one.
    current: Envelope
    #: The values, and the keys of those that were decoded, set or removed. The others
    #: are still encoded. Without a schema, what is not ``touched`` has not changed.
    values: dict[str, Any]
    touched: dict[str, None]
    #: Their declared types, if the handler has a schema.
    typed: TypedValues | None
    #: The fields and flashes that this request has set itself, by name and key. A
    #: login keeps no others.
    own: frozenset[str] = frozenset()
    #: The login of this request: `signs_in` before the commit, `has_signed_in` after
    #: it.
    login: Login | None = None

    # What the commit has to do, besides storing what has changed.
    #: Change the id. The commit resets it; ``has_new_id`` stays.
    needs_new_id: bool
    #: End the sessions of these tokens.
    ended: dict[str, Ended]

    # What the response has to know.
    #: The session has ended, or ends with the commit: the cookie expires.
    destroyed = False
    #: `regenerate` was called: an XSRF token made for the former id is void.
    has_new_id = False
    #: The cookie is sent again although its id is the same, with a new Max-Age.
    cookie_due: bool
    #: The headers of the response have been sent.
    headers_sent: bool
    #: The handler that has finished its response, and whether something was changed
    #: after that.
    finished_by: str
    is_late: bool
    #: A renewal has failed: the response waits for no second one.
    renewal_failed: bool

    # What is in progress.
    #: A commit that gives the client another token.
    is_moving: bool
    is_transacting: bool
    #: How many revocations by the request are in progress.
    revocations = 0
    #: What was packed in one generation is void in the next. One begins with another
    #: base, see `adopt`, and with the end of a transaction.
    generation: int
    lock: StoreLock | None

    def __init__(
        self,
        rules: Rules,
        base: Envelope | None = None,
        token: str | None = None,
        version: Version = None,
        renew: bool = False,
        loaded_at: float | None = None,
    ) -> None:
        if base is None:
            base = blank_envelope(rules, rules.now())
        self.rules = rules
        self.base = self.current = base
        self.values = dict(base.values)
        self.touched = {}
        self.token = token
        self.version = version
        self.judged_at = base.created if loaded_at is None else loaded_at
        # ``renew``: the store wants the record saved again in any case.
        self.noted_at = -math.inf if renew else base.seen
        # What each request asks for is set here, which costs less than to look up the
        # default of a class.
        self.stale = self.on_socket = self.needs_new_id = self.cookie_due = False
        self.headers_sent = self.is_late = self.renewal_failed = False
        self.is_moving = self.is_transacting = False
        self.extends, self.ended, self.finished_by = True, _nothing, ""
        self.typed = self.lock = None
        self.generation = 0

    def __repr__(self) -> str:
        return f"<SessionState {len(self.values)} values>"

    # What it is.

    @property
    def is_persistent(self) -> bool:
        """Whether the cookie outlives the browser."""
        return is_persistent(self.current, self.rules)

    @property
    def expires_in(self) -> int:
        """How many seconds are left, rounded up. See `.Session.expires_in`."""
        longest = longest_left(self.current, self.rules)
        left = min(self.expires - self.rules.now(), longest)
        return max(0, math.ceil(left))

    @property
    def expires(self) -> float:
        """When it ends. See `.Session.expires`."""
        return ends_at(self.current, self.rules)

    @property
    def signs_in(self) -> bool:
        """Whether a login of this request is not stored yet."""
        return self.current.auth_time not in (None, self.base.auth_time)

    @property
    def has_signed_in(self) -> bool:
        """Whether a login of this request is stored."""
        return self.login is not None and self.login.since == self.base.auth_time

    @property
    def needs_renewal(self) -> bool:
        """Whether the store has to note now that the session is in use."""
        if self.token is None or not self.extends:
            return False
        unnoted = self.rules.now() - self.noted_at
        return unnoted >= renewal_interval(self.base, self.rules)

    @property
    def store_failed(self) -> bool:
        """Whether the store has failed a commit, a transaction or a reload of it."""
        return self.renewal_failed or (self.lock is not None and self.lock.has_failed)

    @property
    def is_changed(self) -> bool:
        """Whether there is anything to commit besides a renewal."""
        try:
            return self.pack() is not self.base or self.needs_new_id or bool(self.ended)
        except SessionDataError:
            return True

    @property
    def is_untouched(self) -> bool:
        """Whether there is nothing to commit besides a renewal, at a first look."""
        return (
            self.current is self.base
            and not (self.touched or self.needs_new_id or self.ended or self.is_moving)
            and self.typed is None
        )

    def handle(self) -> str:
        """Returns the public handle, which is drawn when it is first needed."""
        return self.current.id or self.draw_handle()

    def draw_handle(self) -> str:
        """Gives the session another public handle, and returns it."""
        self.set_fields(id=secrets.token_urlsafe(12))
        return self.current.id

    # Values.

    def get(self, key: str) -> Any:  # noqa: ANN401
        """Returns a value, decoded. Raises `KeyError` if there is none."""
        value = self.values[key]
        if type(value) is Raw:
            typed = self.typed
            value = decode_value(value) if typed is None else typed.decode(key, value)
            # What nobody can change need not be compared at the end.
            if type(value) not in PLAIN:
                self.set(key, value)
        return value

    def set(self, key: str, value: Any) -> None:  # noqa: ANN401
        """Sets a value."""
        self.values[key] = value
        self.touched[key] = None

    def remove(self, key: str) -> None:
        """Removes a value. Raises `KeyError` if there is none."""
        del self.values[key]
        self.touched[key] = None

    def pack(self) -> Envelope:
        """Returns what this request would store.

        That is ``base``, the very object, if nothing has changed. Raises
        `.SessionDataError` for a value that cannot be stored.
        """
        base, current = self.base, self.current
        if current is base and not self.touched and self.typed is None:
            return base
        is_merged = current.values is not base.values
        values = encode_values(
            self.values, self.touched, base.values, is_merged, self.typed
        )
        if values is base.values and (current is base or same_fields(current, base)):
            return base
        if self.token is None and not (values or current.user or current.flashes):
            # Nothing worth storing has come of it.
            return base
        return msgspec.structs.replace(current, id=self.handle(), values=values)

    # What the verbs do.

    def set_fields(self, **fields: Any) -> None:
        """Sets fields of the envelope."""
        self.current = msgspec.structs.replace(self.current, **fields)

    def set_own(self, **fields: Any) -> None:
        """Sets fields as the application asks for. A login takes them along."""
        self.set_fields(**fields)
        self.own = self.own.union(fields)

    def update_expiry(self) -> None:
        """Sets when the session expires unless it is used again."""
        current, base = self.current, self.base
        self.set_fields(expires=expires_at(current, self.rules))
        if self.rules.ends_copies and (
            (current.idle, current.lifetime) != (base.idle, base.lifetime)
        ):
            # An end that one copy knows of has to be kept as long as any other.
            self.needs_new_id = self.token is not None

    def add_flash(self, text: str, category: str) -> None:
        """Adds a message. Of more than 20 the oldest is dropped."""
        key = secrets.token_hex(4)
        flashes = {**self.current.flashes, key: (text, category)}
        self.set_fields(flashes=latest(flashes))
        self.own |= {key}

    def regenerate(self) -> None:
        """Has the next commit give the session another id."""
        self.has_new_id = True
        self.needs_new_id = self.token is not None

    def destroy(self) -> None:
        """Ends the session with the next commit. See `.Session.destroy`."""
        if self.refusal is not None:
            if not self.found:
                # None was looked up, and one of them may be alive.
                raise SessionError(self.refusal)
            self._end({token: Ended(user) for token, user in self.found.items()})
            self.refusal = None
        if self.token is not None:
            version = None if self.stale else self.version
            self._end({self.token: Ended(self.base.user, version, self.base.id)})
        self._end({token: Ended(user) for token, user in self.not_alive.items()})
        self.not_alive = _nothing
        self.note_end()

    # What the core notes.

    def adopt(self, base: Envelope, current: Envelope | None = None) -> None:
        """Takes ``base`` as what the store has and ``current`` as its own."""
        self.generation += 1
        self.base = base
        self.current = current or base
        self.values = dict(self.current.values)
        self.touched = {}

    def adopt_loaded(
        self, base: Envelope, version: Version, current: Envelope | None = None
    ) -> None:
        """Takes what was just loaded, with its version."""
        self.adopt(base, current)
        self.version, self.stale = version, False

    def settle(self, base: Envelope, saved: Saved, packed: Envelope) -> None:
        """Notes that ``packed`` was ``saved`` in place of ``base``.

        What this request saw is the base of the next comparison, and not what
        it was merged into: otherwise a value that was only read would look as if
        it had been changed back.
        """
        if self.base is not base:
            # It was destroyed meanwhile: what has just been stored ends as well.
            if saved.token not in self.ended:
                self._end({saved.token: Ended(packed.user, handle=packed.id)})
            return
        if is_persistent(packed, self.rules) or (
            base.persistent is not packed.persistent and is_persistent(base, self.rules)
        ):
            self.cookie_due = True
        if self.current is base or same_fields(self.current, packed):
            self.current = packed
        self.base = packed
        self.token, self.version = saved
        self.stale = True
        self.noted_at = packed.seen

    def note_end(self) -> None:
        """Notes that the record has ended, or ends with the next commit."""
        self.destroyed = True
        self.token = self.version = None
        self.stale = self.needs_new_id = False
        self._forget_request()
        self.adopt(blank_envelope(self.rules, self.rules.now()))

    def discard(self) -> None:
        """Drops what this request changed. What it destroyed stays destroyed."""
        # Another base: what a commit in progress stores of a new session ends again.
        if self.token is None:
            self.adopt(blank_envelope(self.rules, self.rules.now()))
        else:
            self.adopt(self.base)
        self.needs_new_id = False
        self._forget_request()

    def judge(self, now: float) -> None:
        """Notes that a save, a transaction, a reload or a revocation begins at ``now``.

        For a request it changes nothing: what was alive when the request loaded it
        is alive for the request. On a WebSocket each message is judged by itself.
        """
        if self.on_socket:
            self.judged_at = now
            if self.token is not None and now >= self.base.expires:
                # Other requests may have kept it alive.
                self.stale = True

    def commit_lock(self) -> StoreLock:
        """Returns the lock that a commit of this state holds."""
        if self.lock is None:
            self.lock = StoreLock()
        return self.lock

    # What is refused.

    def check_change(self) -> None:
        """Raises for a change that comes too late, and notes one that may be lost."""
        if self.headers_sent:
            self.require_cookie()
        if self.finished_by:
            self.is_late = True

    def check_removal(self) -> None:
        """Does the same for something that is removed."""
        # Without a record only a change is taken back that was not stored.
        if self.token is not None:
            self.check_change()

    def require_headers(self, what: str) -> None:
        """Raises `.SessionError` if no new cookie can be sent any more."""
        if self.headers_sent:
            raise SessionError(
                f"{what} needs a new cookie, and the headers of the response are"
                " out already. Call it before flush() and finish()."
            )

    def require_cookie(self) -> None:
        """Raises `.SessionError` if a change could not reach the client."""
        if not self.rules.revocable:
            raise SessionError(
                "This backend keeps the session in the cookie, and the headers of the"
                " response are out: it can no longer be changed. Change it before"
                " flush() and finish(); for WebSockets, and for what outlives the"
                " response, use a backend that keeps sessions on the server."
            )
        if self.token is None:
            raise SessionError(
                "This visitor has no session yet, and the headers of the response are"
                " out, so none can be begun. Write to the session before flush() and"
                " finish(), and before a WebSocket is opened."
            )

    def _end(self, ended: Mapping[str, Ended]) -> None:
        self.ended = {**self.ended, **ended}

    def _forget_request(self) -> None:
        self.own, self.login = frozenset(), None

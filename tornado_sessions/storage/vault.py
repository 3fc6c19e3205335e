"""Keeps records under tokens: draws tokens, checks them, and turns them into keys."""

from __future__ import annotations

import enum
import re
import secrets
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from typing import NamedTuple, overload

from tornado_sessions.errors import (
    BackendError,
    ConflictError,
    SessionDataError,
    SessionError,
)
from tornado_sessions.storage.backend import UNKNOWN, Backend, Record, Version
from tornado_sessions.storage.outdated import OutdatedRecord
from tornado_sessions.storage.pools import PoolBackend

# 32 bytes in unpadded base64url (RFC 4648, section 5): the last of the 43
# characters carries four bits, so only sixteen of them can stand there.
_well_formed = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]").fullmatch

# How many bytes of the key are stored in front of the data of each record.
_BOUND = 16

# How many tokens are drawn at most to find one whose server is up.
# With nine of ten servers down, one insert in a thousand still goes to one of them.
_DRAWS = 64


class ForeignRecord(Record, frozen=True):
    """What a vault returns for a record that was not stored for its key.

    Something else has stored it, it was copied from another key, or it is the answer
    to another request. Its data is empty, so it cannot be decoded.
    """


class Saved(NamedTuple):
    """What a vault returns for a record that it has stored."""

    #: The token of the client from now on.
    token: str
    #: For the next `Vault.replace`, or `UNKNOWN`.
    version: Version


class HasEnded(enum.Enum):
    """Why a session cannot be ended any more."""

    #: It has another token.
    MOVED = enum.auto()
    ENDED = enum.auto()


class Vault:
    """Keeps records under tokens, in a backend.

    A token is 256 bits from the operating system's random generator. The backend
    receives only the key, a SHA-256 digest of the ``namespace`` and the token. Two
    applications on one store with different namespaces never see each other's
    sessions.

    `.Sessions` uses only this interface. A store without a server, such as an
    encrypted cookie, is a subclass that overrides `load`, `insert`, `replace`,
    `delete`, `ping`, `purge` and `close`, and has ``from_url(url, settings)`` like a `.Backend`.
    """

    #: Whether no copy of the token works after the session was deleted. If False,
    #: the token contains the record, and `replace` returns a new token.
    revocable: bool = True

    #: See `.Backend.finds_by_user`.
    finds_by_user: bool = False

    #: See `.Backend.finds_all`.
    finds_all: bool = False

    #: Whether `end` and `end_handle` work: they end all copies of a token, in a vault
    #: that is not `revocable`.
    ends_copies: bool = False

    #: Whether all sessions of a user can be ended, by `find` or by `end_before`.
    ends_users: bool = False

    #: See `.Backend.timeout`.
    timeout: float | None = None

    _domain = b""

    def __init__(self, backend: Backend, namespace: str = "") -> None:
        self.backend = backend
        self.namespace = namespace
        self._pool = backend if isinstance(backend, PoolBackend) else None
        self.finds_by_user = self.ends_users = backend.finds_by_user
        self.finds_all = backend.finds_all
        self.timeout = backend.timeout
        # The prefix of each user's name: an application finds only its own sessions.
        self._scope = f"{namespace}:" if namespace else ""
        self._domain = b"tornado_sessions\0%b\0" % namespace.encode()

    async def load(self, token: str) -> Record | None:
        """Returns the record of ``token``; None if it is malformed or unknown.

        A malformed token never reaches the backend. For a record that was not
        stored for this token, returns a `ForeignRecord`.
        """
        if not _well_formed(token):
            return None
        key = self._key(token)
        return _unbound(key, await self.backend.load(key))

    async def insert(self, record: Record) -> Saved:
        """Stores a new record under a token that it draws.

        It draws up to three times one whose server is not down (`.PoolBackend`). Raises `.SessionDataError` if the record is larger than
        `.Backend.max_bytes`, and `.BackendError` if the store fails.
        """
        for tries_left in (2, 1, 0):
            token, key = self._draw()
            bound = self._bound(key, record)
            try:
                version = await self.backend.insert(key, bound)
            except BackendError:
                if not tries_left or not self._is_down(key):
                    raise
            else:
                if version is not None:
                    return Saved(token, _stored(key, version))
        raise BackendError(
            "Three fresh session ids in a row were taken already. The store"
            " answers for keys that it cannot know, or the operating system's"
            " random generator is broken."
        )

    async def replace(self, token: str, record: Record, version: Version) -> Saved:
        """Replaces the ``version`` of a record that `load` or a write returned.

        Raises `.ConflictError` if the store has another version or none, and
        otherwise as `insert` does.
        """
        key, expected = version
        stored = await self.backend.replace(key, self._bound(key, record), expected)
        if stored is None:
            raise ConflictError("Another version of the record is stored, or none.")
        return Saved(token, _stored(key, stored))

    async def delete(self, token: str) -> None:
        """Removes the record of ``token``; does nothing if there is none."""
        if _well_formed(token):
            await self.backend.delete(self._key(token))

    async def end(
        self,
        token: str,
        now: float,
        kept_until: Callable[[bytes], float],
        successor: str | None = None,
    ) -> HasEnded | None:
        """Ends the session of ``token``, and with it all copies, where `ends_copies`.

        Another vault that is not `revocable` can do nothing. ``successor`` is the token
        that the session has from now on: `load` then returns a tombstone for the
        old one. Without it, what the session has become is ended. ``kept_until`` returns,
        from the data of the record, the time after which no copy is valid any more.
        Returns None, or why there was nothing to end.
        """
        return None

    async def end_handle(self, user: str, handle: str, now: float) -> str | None:
        """Ends the session of ``user`` with this handle, where `ends_copies`.

        If the session has another handle now, it ends as well, and that handle is
        returned. Returns None if it has ended already or is another user's by now, or
        if ``handle`` is malformed.
        """
        raise self._cannot("look up")

    # Operations by key: a record may contain the key of another, and `find` yields keys.

    def key_of(self, token: str) -> bytes:
        """Returns the key of the record of ``token``."""
        return self._key(token)

    async def load_found(self, key: bytes) -> Record | None:
        """Returns the record under ``key``, as `load` does."""
        return _unbound(key, await self.backend.load(key))

    async def replace_found(self, record: Record, version: Version) -> Version:
        """Replaces the ``version`` that `load_found` or `find` returned.

        The version names the key. Returns the new version. Raises as `replace` does.
        """
        return (await Vault.replace(self, "", record, version)).version

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        """Yields the records of ``user``, each with the key for `delete_found`.

        There may be expired ones among them, those whose data names another user,
        and `ForeignRecord`\\ s. Raises `.SessionError` where `finds_by_user` is False.
        """
        if not self.finds_by_user:
            raise self._cannot("look up")
        async for key, record in self.backend.find(self._scope + user):
            yield key, _unbound(key, record)

    async def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        """Yields the records of all users, each with its key and its ``user``.

        Among them are those that `find` yields as well, and those of a user of another
        namespace: the name in the data is then another one. Raises `.SessionError`
        where `finds_all` is False.
        """
        if not self.finds_all:
            name = type(getattr(self, "backend", self)).__name__
            raise SessionError(
                f"{name} cannot list the sessions of all users. Use a backend that"
                " declares finds_all, such as 'sqlite'."
            )
        async for key, record in self.backend.find_all():
            user = record.user
            if user is None or not user.startswith(self._scope):
                continue
            user = user.removeprefix(self._scope)
            if record.data.startswith(key[:_BOUND]):
                data = record.data[_BOUND:]
                yield key, Record(data, (key, record.version), user=user)
            else:
                yield key, ForeignRecord(b"", user=user)

    async def delete_found(self, key: bytes) -> None:
        """Removes a record that `find` yielded; does nothing if there is none."""
        await self.backend.delete(key)

    async def end_before(
        self, user: str, time: float, keep: str | None, since: float = 0.0
    ) -> float:
        """Ends the sessions of ``user`` whose login was before ``time``.

        This is for a vault that cannot list them; `load` then returns None for
        them. The session with the handle ``keep``, whose login was at ``since``, is
        kept. If that session has ended already, raises `.SessionGoneError` and ends
        nothing. Returns the time before which logins are invalid: it is later than
        ``time`` if a later one was stored before. Raises `.SessionError` if the vault
        does not support it.
        """
        raise self._cannot("end")

    async def not_before(self, user: str, time: float) -> float:
        """Returns the time that `end_before` has stored for ``user``, or zero.

        A login at ``time`` then counts from there if that is later. A vault whose store
        may forget the time stores this one if there is none.
        """
        return 0.0

    def is_well_formed(self, token: str) -> bool:
        """Whether ``token`` has the form of a token."""
        return _well_formed(token) is not None

    def fingerprint(self, token: str) -> str:
        """Returns the fingerprint of a session, from its token."""
        return fingerprint(self._key(token) if self.is_well_formed(token) else token)

    def fingerprint_found(self, key: bytes) -> str:
        """Returns the fingerprint of a session, from its key."""
        return fingerprint(key)

    async def ping(self) -> None:
        """Checks the connection to the store; raises `.BackendError` if it fails.

        A vault without a server does nothing.
        """
        await self.backend.ping()

    async def purge(self, now: float) -> int:
        """Removes one batch of expired records, and returns how many."""
        return await self.backend.purge(now)

    async def close(self) -> None:
        """Closes the backend."""
        await self.backend.close()

    def _draw(self) -> tuple[str, bytes]:
        """Returns a new token and its key, whose server is not down."""
        for _ in range(_DRAWS):
            token = secrets.token_urlsafe(32)
            key = self._key(token)
            if not self._is_down(key):
                break
        return token, key

    def _is_down(self, key: bytes) -> bool:
        return self._pool is not None and self._pool.is_down(key)

    def _cannot(self, verb: str) -> SessionError:
        name = type(getattr(self, "backend", self)).__name__
        return SessionError(
            f"{name} cannot {verb} the sessions of a user. Use a backend that declares"
            " finds_by_user, such as 'sqlite'."
        )

    def _bound(self, key: bytes, record: Record) -> Record:
        """Returns ``record`` as it is stored under ``key``.

        Raises `.SessionDataError` if it is larger than the backend's ``max_bytes``.
        """
        data, most = key[:_BOUND] + record.data, self.backend.max_bytes
        if most is not None and len(data) > most:
            raise SessionDataError(
                f"The session takes {len(data)} bytes; {type(self.backend).__name__}"
                f" holds at most {most}. Keep less in it, or set the option"
                f" 'max_bytes', such as in the URL: '?max_bytes={2 * len(data)}'."
            )
        user = record.user
        if user is not None:
            user = self._scope + user
        return Record(data, expires=record.expires, user=user)

    def _key(self, token: str) -> bytes:
        return sha256(self._domain + token.encode()).digest()


@overload
def _unbound(key: bytes, record: Record) -> Record: ...
@overload
def _unbound(key: bytes, record: Record | None) -> Record | None: ...
def _unbound(key: bytes, record: Record | None) -> Record | None:
    """Returns a stored record as a vault hands it out: its version names the key.

    So a write need not digest the token again.
    """
    if record is None:
        return None
    data = record.data
    if data[:_BOUND] != key[:_BOUND]:
        return ForeignRecord(b"")
    kind = OutdatedRecord if type(record) is OutdatedRecord else Record
    return kind(data[_BOUND:], (key, record.version))


def _stored(key: bytes, version: Version) -> Version:
    """Returns the version that a vault hands out for that of its backend."""
    return version if version is UNKNOWN else (key, version)


def fingerprint(secret: str | bytes) -> str:
    """Returns the fingerprint of a token or a key: sixteen hexadecimal digits.

    This is enough to distinguish a million sessions. The token or key cannot be
    derived from it.
    """
    if isinstance(secret, str):
        secret = secret.encode("utf-8", "replace")
    return sha256(b"tornado_sessions log\0" + secret).hexdigest()[:16]

"""Keeps records under tokens: mints, checks and digests them."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

from tornado_sessions.backend import Backend, Record
from tornado_sessions.errors import BackendError, ConflictError, SessionError

# 32 bytes in unpadded base64url (RFC 4648, section 5): the last of the 43
# characters carries four bits, so only sixteen of them can stand there.
_well_formed = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]").fullmatch

# How many bytes of its own key each record carries, in front of its data.
_BOUND = 16

# How many tokens are drawn at most to find one that the backend does not avoid.
# Were nine servers of ten down, one insert in a thousand would still go to them.
_DRAWS = 64


class ForeignRecord(Record, frozen=True):
    """What a vault returns for a record that was not stored for its key.

    Something else has stored it, it was copied from another key, or it is the answer
    to another request. Its data is empty, so it cannot be decoded.
    """


class Vault:
    """Keeps records under tokens: each in a backend, under the token's digest.

    The token is 256 bits of the operating system's generator; the backend sees
    nothing but its digest, SHA-256 separated by ``namespace``. Two
    applications on one store with different namespaces never see each other's
    sessions.

    This is all that `.Sessions` talks to. A store that keeps nothing on the
    server, such as a sealed cookie, is a subclass that replaces `load`, `save`,
    `delete`, `ping`, `purge` and `close`, and is made by
    ``from_url(url, settings)`` as a `.Backend` is.
    """

    #: Whether a deleted session is dead wherever its token has been copied to.
    #: Where it is not, the token is the record: each save makes a new one.
    revocable: bool = True

    #: See `.Backend.lists_users`.
    lists_users: bool = False

    #: Whether all sessions of a user can be ended, by `find` or by `end_before`.
    ends_users: bool = False

    _domain = b""

    def __init__(self, backend: Backend, namespace: str = "") -> None:
        self.backend = backend
        self.lists_users = self.ends_users = backend.lists_users
        # In front of each user's name, so that an application finds its own alone.
        self._scope = f"{namespace}:" if namespace else ""
        self._domain = b"tornado_sessions\0%b\0" % namespace.encode()

    async def load(self, token: str) -> Record | None:
        """Returns the record of ``token``; None if it is malformed or unknown.

        A malformed token never reaches the backend. For a record that was not
        stored for this token, returns a `ForeignRecord`.
        """
        if not _well_formed(token):
            return None
        return await self.load_found(self._key(token))

    async def save(self, token: str | None, record: Record) -> str:
        """Stores ``record`` and answers the token that the client holds from now on.

        Without a ``token`` a fresh one is drawn, three at most, and none that
        the backend `~.Backend.avoids`; else the record is of the version that
        `load` answered for it. Raises what `.Backend.save` raises.
        """
        if token is not None:
            await self.replace(record)
            return token
        for tries_left in (2, 1, 0):
            token, key = self._draw()
            try:
                await self.backend.save(key, self._bound(key, None, record))
            except ConflictError as error:
                conflict = error
            except BackendError:
                if not tries_left or not self.backend.avoids(key):
                    raise
            else:
                return token
        raise BackendError(
            "Three fresh session ids in a row were taken already. The store"
            " answers for keys that it cannot know, or the operating system's"
            " random generator is broken."
        ) from conflict

    async def delete(self, token: str) -> None:
        """Removes the record of ``token``; does nothing if there is none."""
        if _well_formed(token):
            await self.backend.delete(self._key(token))

    # By keys. A record may name the key of another one, and `find` returns keys.

    def key_of(self, token: str) -> bytes:
        """Returns the key of the record of ``token``."""
        return self._key(token)

    async def load_found(self, key: bytes) -> Record | None:
        """Returns the record under ``key``, as `load` does."""
        record = await self.backend.load(key)
        if record is None:
            return None
        if not record.data.startswith(key[:_BOUND]):
            return ForeignRecord(b"")
        # The key goes along, so that a save need not digest the token again.
        return Record(record.data[_BOUND:], (key, record.version), renew=record.renew)

    async def replace(self, record: Record) -> None:
        """Stores ``record`` in place of the version that it was loaded with.

        That is the version of `load`, `load_found` or `find`. Raises what
        `.Backend.save` raises.
        """
        key, version = record.version
        await self.backend.save(key, self._bound(key, version, record))

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        """Yields the records of ``user``, each with the key for `delete_found`.

        There may be expired ones among them, those whose data names another user,
        and `ForeignRecord`\\ s. Raises `.SessionError` where `lists_users` is False.
        """
        if not self.lists_users:
            raise self._cannot("look up")
        async for key, record in self.backend.find(self._scope + user):
            if record.data.startswith(key[:_BOUND]):
                yield key, Record(record.data[_BOUND:], (key, record.version))
            else:
                yield key, ForeignRecord(b"")

    async def delete_found(self, key: bytes) -> None:
        """Removes a record that `find` answered; does nothing if it has gone."""
        await self.backend.delete(key)

    async def end_before(
        self, user: str, time: float, but: str | None, since: float = 0.0
    ) -> float:
        """Ends the sessions that ``user`` signed in to before ``time``.

        For a vault that cannot list them; `load` returns them no more. The one
        whose handle is ``but``, with a sign-in at ``since``, is spared. If that one
        has ended itself, raises `.SessionGoneError` and ends nothing. Returns the
        time before which sign-ins no longer count: a later one than ``time`` if
        it was stored before. Raises `.SessionError` where that cannot be done.
        """
        raise self._cannot("end")

    async def not_before(self, user: str) -> float:
        """Returns the time that `end_before` has stored for ``user``, or zero.

        A login makes its own sign-in time no earlier than that.
        """
        return 0.0

    def is_well_formed(self, token: str) -> bool:
        """Tells whether ``token`` could be one of ours."""
        return _well_formed(token) is not None

    def fingerprint(self, token: str) -> str:
        """Answers what a log may say of a session, by its token."""
        return fingerprint(self._key(token) if self.is_well_formed(token) else token)

    def fingerprint_found(self, key: bytes) -> str:
        """Answers the same of a record that `find` answered, by its key."""
        return fingerprint(key)

    async def ping(self) -> None:
        """Asks the store whether it is there; raises `.BackendError` if not.

        A vault that keeps nothing on the server has nothing to ask.
        """
        await self.backend.ping()

    async def purge(self, now: float) -> int:
        """Removes one batch of expired records and answers how many went."""
        return await self.backend.purge(now)

    async def close(self) -> None:
        """Closes the backend."""
        await self.backend.close()

    def _draw(self) -> tuple[str, bytes]:
        """Answers a fresh token and its key, which the backend does not avoid."""
        for _ in range(_DRAWS):
            token = secrets.token_urlsafe(32)
            key = self._key(token)
            if not self.backend.avoids(key):
                break
        return token, key

    def _cannot(self, verb: str) -> SessionError:
        name = type(getattr(self, "backend", self)).__name__
        return SessionError(
            f"{name} cannot {verb} the sessions of a user. Use a backend that declares"
            " lists_users, such as 'sqlite'."
        )

    def _bound(self, key: bytes, version: Any, record: Record) -> Record:  # noqa: ANN401
        user = record.user
        if user is not None:
            user = self._scope + user
        return Record(key[:_BOUND] + record.data, version, record.expires, user)

    def _key(self, token: str) -> bytes:
        return sha256(self._domain + token.encode()).digest()


def fingerprint(secret: str | bytes) -> str:
    """Answers what a log may say of a token or a key: sixteen hexadecimal digits.

    They tell a million of them apart, and lead to none.
    """
    if isinstance(secret, str):
        secret = secret.encode("utf-8", "replace")
    return sha256(b"tornado_sessions log\0" + secret).hexdigest()[:16]

"""Keeps sessions in a sealed cookie, and nothing on the server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from tornado_sessions import (
    UNKNOWN,
    Backend,
    Record,
    Saved,
    SessionError,
    Vault,
    Version,
)
from tornado_sessions.core.codec import decode, tombstone
from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.revocation_store import RevocationStore
from tornado_sessions.storage.vault import HasEnded
from tornado_sessions_cookie.tokens import Tokens
from tornado_sessions_cookie.urls import open_store, read_url

__all__ = ["CookieBackend"]


_log = logging.getLogger("tornado_sessions")


class CookieBackend(Vault):
    """Keeps each session in its own token: a record, padded and sealed.

    A token that was altered in any way, or was made with another key, cookie
    name or namespace, is no session. When a session ends is inside its record,
    sealed with the rest, and the core reads it there.

    Nothing is on the server, so a session that was deleted lives on in copies
    of its cookie until it expires. Of two requests at once the response that
    arrives last wins.

    With a backend ``not_before`` sessions can be ended, with all copies. It keeps the
    handles of those that have ended, and for a user the time before which sign-ins
    do not count. Each load of a session looks there.

    ``keys`` are secrets of at least 32 bytes by their version, of which
    ``key_version`` seals and the others open. Raises `ValueError` for keys that
    cannot be used.

    Belongs to one thread, as Tornado's handlers do.
    """

    revocable = False

    def __init__(
        self,
        keys: Mapping[int, str | bytes],
        key_version: int,
        *,
        name: str = "session",
        namespace: str = "",
        not_before: Backend | None = None,
    ) -> None:
        self._tokens = Tokens(keys, key_version, name, namespace)
        self._ends: RevocationStore | None = None
        if not_before is not None:
            self._ends = RevocationStore(not_before, namespace)
            if not not_before.durable:
                _log.warning(
                    "%s does not survive a restart, and what it keeps is which sessions"
                    " have ended: those will live again. Use another backend for the"
                    " option not_before, such as 'sqlite'.",
                    type(not_before).__name__,
                )
            self.ends_users = self.ends_copies = True

    def __repr__(self) -> str:
        return f"<CookieBackend {len(self._tokens)} keys>"

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> CookieBackend:
        """Makes the backend from Tornado's own ``cookie_secret``.

        A dict of versions needs ``key_version`` beside it, as for Tornado's
        signed cookies; a single secret is version 0. The ``url`` is ``cookie``,
        ``cookie:`` or ``cookie:?not_before=…``, with the URL of another backend.
        """
        other = read_url(url)
        keys = settings.get("cookie_secret")
        if keys is None:
            raise ValueError(
                "You must define the 'cookie_secret' setting in your application"
                " to use the cookie session backend. Make one with:"
                ' python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        key_version: Any = settings.get("key_version")
        if not isinstance(keys, Mapping):
            keys, key_version = {0: keys}, 0
        return cls(
            keys,
            key_version,
            name=settings.get("session_cookie_name", "session"),
            namespace=settings.get("session_namespace", ""),
            not_before=None if other is None else open_store(other, settings),
        )

    async def load(self, token: str) -> Record | None:
        """Returns the record inside ``token``; None if it is not one of ours.

        That is an `.OutdatedRecord` if another key than the current one has sealed
        it. Never raises, whatever ``token`` is; but `.BackendError`
        where the backend ``not_before`` fails.
        """
        record = self._tokens.open(token)
        if record is None or self._ends is None:
            return record
        session = _decoded(record)
        # The core reads what cannot be decoded as well, and says so.
        ended = None if session is None else await self._ends.why_ended(session)
        if session is None or ended is None:
            return record
        if ended is HasEnded.MOVED:
            # The core needs no key: to destroy the session it calls `end`.
            return Record(tombstone(session.id, session.user, b"moved"), UNKNOWN)
        return None

    def is_well_formed(self, token: str) -> bool:
        """Whether ``token`` could be one of ours."""
        return self._tokens.is_well_formed(token)

    async def insert(self, record: Record) -> Saved:
        """Returns a new token that contains ``record``.

        Raises `.SessionDataError` if the cookie, with its name, would be larger than
        4096 bytes.
        """
        return Saved(self._tokens.seal(record), UNKNOWN)

    async def replace(self, token: str, record: Record, version: Version) -> Saved:
        """Returns a new token that contains ``record``, as `insert` does.

        The ``token`` that the client held before is valid until it expires. It is
        not looked at: no conflict can be detected.
        """
        return Saved(self._tokens.seal(record), UNKNOWN)

    async def delete(self, token: str) -> None:
        """Does nothing: the server keeps no record. See `end`."""
        return

    async def end(
        self,
        token: str,
        now: float,
        kept_until: Callable[[bytes], float],
        successor: str | None = None,
    ) -> HasEnded | None:
        """Stores that the session in ``token`` has ended, if there is a store."""
        record = None if self._ends is None else self._tokens.open(token)
        session = None if record is None else _decoded(record)
        if self._ends is None or record is None or session is None:
            return None
        moved = None if successor is None else self._tokens.open(successor)
        return await self._ends.end(
            session,
            now,
            kept_until(record.data),
            None if moved is None else _decoded(moved),
        )

    async def end_handle(self, user: str, handle: str, now: float) -> str | None:
        """Stores that the session of ``user`` with this handle has ended.

        Returns the handle that it had at the end. See `.Vault.end_handle`.
        """
        if self._ends is None:
            return await super().end_handle(user, handle, now)
        return await self._ends.end_handle(user, handle, now)

    async def end_before(
        self, user: str, time: float, keep: str | None, since: float = 0.0
    ) -> float:
        """Stores that the sign-ins of ``user`` before ``time`` no longer count.

        Except that of the session whose handle is ``keep``, at ``since``. If that one
        has ended itself, raises `.SessionGoneError` and stores nothing. Returns the
        time that counts from now on. Raises `.SessionError` without a backend
        ``not_before``.
        """
        if self._ends is None:
            raise SessionError(
                "The cookie session backend keeps nothing on the server, and cannot"
                " end the sessions of a user. Give it a store for that:"
                " session_backend='cookie:?not_before=sqlite:///ends.db'."
            )
        return await self._ends.end_before(user, time, keep, since)

    async def not_before(self, user: str, time: float) -> float:
        """Returns the time before which sign-ins of ``user`` do not count, or zero."""
        return 0.0 if self._ends is None else await self._ends.not_before(user)

    async def ping(self) -> None:
        """Asks the backend ``not_before``; without one there is nothing to ask."""
        if self._ends is not None:
            await self._ends.backend.ping()

    async def purge(self, now: float) -> int:
        """Has the backend ``not_before`` remove a batch of what expired there."""
        return 0 if self._ends is None else await self._ends.backend.purge(now)

    async def close(self) -> None:
        """Closes the backend ``not_before``; there is nothing else to close."""
        if self._ends is not None:
            await self._ends.backend.close()


def _decoded(record: Record) -> Envelope | None:
    try:
        return decode(record.data)
    except SessionError:
        return None

"""Keeps sessions in a sealed cookie, and nothing on the server."""

from __future__ import annotations

import base64
import logging
import string
from collections.abc import Iterable, Mapping
from typing import Any

from cryptography.exceptions import InvalidTag

from tornado_sessions import (
    UNKNOWN,
    Backend,
    Record,
    Saved,
    SessionDataError,
    SessionError,
    Vault,
    Version,
)
from tornado_sessions.core.codec import decode
from tornado_sessions.storage.outdated import OutdatedRecord
from tornado_sessions_cookie.ends import End, Ends
from tornado_sessions_cookie.keys import (
    HEADER_SIZE,
    PURPOSE,
    Key,
    checked,
    header_of,
    shown,
    token_length,
)
from tornado_sessions_cookie.urls import open_store, read_url

__all__ = ["CookieBackend"]

_log = logging.getLogger("tornado_sessions")

_ALPHABET = (string.ascii_letters + string.digits + "-_").encode()

# What a browser keeps of one cookie, name plus value (RFC 6265bis).
_COOKIE_BYTES = 4096
_LONGEST_PREFIX = "__Host-Http-"


class CookieBackend(Vault):
    """Keeps each session in its own token: a record, padded and sealed.

    A token that was altered in any way, or was made with another key, cookie
    name or namespace, is no session. When a session ends is inside its record,
    sealed with the rest, and the core reads it there.

    Nothing is on the server, so a session that was deleted lives on in copies
    of its cookie until it expires, and of two requests at once the response
    that arrives last wins.

    With a backend ``not_before`` all sessions of a user can be ended at least: it
    keeps the time from which on their sign-ins count. Each load of a session
    that somebody has signed in to looks there.

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
        context = [PURPOSE, name.encode(), namespace.encode()]
        by_version = {
            version: Key(header_of(version), checked(secret, version), context)
            for version, secret in keys.items()
        }
        if key_version not in by_version:
            raise ValueError(
                f"The 'key_version' setting is {shown(key_version)}; it must name one"
                f" of the versions of cookie_secret: {_listed(by_version)}."
            )
        self._sealing = by_version[key_version]
        self._keys = {key.header: key for key in by_version.values()}
        # The core puts a prefix in front of the name where the browser can
        # check it, and takes a name that begins with two underscores as it is.
        longest_name = name if name.startswith("__") else _LONGEST_PREFIX + name
        self._name_bytes = len(longest_name.encode())
        self._shortest = token_length(0)
        self._longest = _COOKIE_BYTES - self._name_bytes
        self._ends: Ends | None = None
        if not_before is not None:
            self._ends = Ends(not_before, namespace)
            self.ends_users = True
            if not not_before.durable:
                _log.warning(
                    "%s does not survive a restart, and what it keeps is which sessions"
                    " have ended: those will live again. Use another backend for the"
                    " option not_before, such as 'sqlite'.",
                    type(not_before).__name__,
                )

    def __repr__(self) -> str:
        return f"<CookieBackend {len(self._keys)} keys>"

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
        if not self.is_well_formed(token):
            return None
        sealed = base64.urlsafe_b64decode(token)
        key = self._keys.get(sealed[:HEADER_SIZE])
        if key is None:
            return None
        try:
            data = key.open(sealed)
        except InvalidTag:
            return None
        if self._ends is not None and await self._has_ended(self._ends, data):
            return None
        kind = Record if key is self._sealing else OutdatedRecord
        return kind(data, UNKNOWN)

    def is_well_formed(self, token: str) -> bool:
        """Whether ``token`` could be one of ours."""
        if not self._shortest <= len(token) <= self._longest:
            return False
        text = token.encode("ascii", "replace")
        # The decoder would skip what is outside the alphabet. With whole groups
        # of four from within it, no two tokens say the same.
        return not (len(text) % 4 or text.translate(None, _ALPHABET))

    async def insert(self, record: Record) -> Saved:
        """Returns a new token that contains ``record``.

        Raises `.SessionDataError` if the cookie, with its name, would be larger than
        4096 bytes.
        """
        count = self._name_bytes + token_length(len(record.data))
        if count > _COOKIE_BYTES:
            raise SessionDataError(
                f"The session takes {count} bytes; a cookie holds at most"
                f" {_COOKIE_BYTES}. Store less, or use a server-side backend."
            )
        token = base64.urlsafe_b64encode(self._sealing.seal(record.data)).decode()
        return Saved(token, UNKNOWN)

    async def replace(self, token: str, record: Record, version: Version) -> Saved:
        """Returns a new token that contains ``record``, as `insert` does.

        The ``token`` that the client held before is valid until it expires. It is
        not looked at: no conflict can be detected.
        """
        return await self.insert(record)

    async def delete(self, token: str) -> None:
        """Does nothing: the server keeps nothing, and cannot end a session."""
        return

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
        return await self._ends.put(user, End(time, keep), since)

    async def not_before(self, user: str) -> float:
        """Returns the time before which sign-ins of ``user`` do not count, or zero."""
        end = None if self._ends is None else await self._ends.get(user)
        return 0.0 if end is None else end.before

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

    async def _has_ended(self, ends: Ends, data: bytes) -> bool:
        try:
            session = decode(data)
        except SessionError:
            # The core reads it as well, and says so.
            return False
        if session.user is None:
            return False
        end = await ends.get(session.user)
        if end is None:
            return False
        since = session.created if session.auth_time is None else session.auth_time
        return end.has_ended(session.id, since)


def _listed(names: Iterable[object]) -> str:
    return ", ".join(repr(name) for name in names) or "none"

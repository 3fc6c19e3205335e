"""Defines the interface of session backends, which keep records under keys.

A complete backend, for one process::

    class DictBackend(Backend):
        durable = shared = False

        def __init__(self):
            self._records = {}
            self._versions = itertools.count()

        @classmethod
        def from_url(cls, url, settings):
            return cls()

        async def load(self, key):
            return self._records.get(key)

        async def insert(self, key, record):
            if key in self._records:
                return None
            return self._put(key, record)

        async def replace(self, key, record, version):
            stored = self._records.get(key)
            if stored is None or stored.version != version:
                return None
            return self._put(key, record)

        async def delete(self, key):
            self._records.pop(key, None)

        def _put(self, key, record):
            version = next(self._versions)
            self._records[key] = Record(record.data, version)
            return version

The page docs/writing-a-backend.md has one for a real store, and how to test it.
"""

from __future__ import annotations

import abc
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Final, TypeAlias

import msgspec

from tornado_sessions.errors import SessionError

#: Identifies one write of a record: two writes never have the same version, also
#: not of a key that was deleted and inserted again. It is any value but None; only
#: the backend that returned it looks at it.
Version: TypeAlias = Any


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


#: The version of a record that was stored by a store that does not report one.
UNKNOWN: Final = _Unknown()


class Record(msgspec.Struct, frozen=True):
    """What the store keeps under one key.

    The ``data`` is complete: it also contains the other fields, such as the time
    of expiry, and the core reads them from there.
    """

    #: The bytes to store, unchanged.
    data: bytes
    #: The version of a record that was loaded. It is not set on one to be stored.
    version: Version = None
    #: When the store may remove the record, in seconds since the epoch; zero
    #: for never. This is not the end of the session: it is five minutes later,
    #: because a request that loaded the session in time may save it later. The end
    #: of the session is in ``data``, and only the core reads it. The largest value is
    #: `sys.float_info.max`, about 1.8e308: a store with a smaller type for times
    #: uses the largest value of that type. ``load`` need not return it.
    expires: float = 0.0
    #: The user of the session, for ``find``; ``load`` need not return it.
    user: str | None = None

    def __repr__(self) -> str:
        return f"<Record {len(self.data)} bytes>"


class Backend(abc.ABC):
    """Keeps records under keys, in a store.

    A key is 32 bytes. It is a digest: a backend never sees the token that a
    client sends, and the content of the store gives no access to a session.

    A constructor is synchronous and does no I/O. The backend connects at its
    first use, inside the running event loop, so it survives a fork before that.
    It closes only what it has opened, and nothing that was passed to it.

    Every operation raises `.BackendError`, with the driver's error as its
    cause, if the store fails or does not reply within a timeout. The URL can set
    the timeout (``timeout``, by default 2 seconds). A connection whose operation
    was cancelled is closed and not used again, unless its replies cannot be
    mixed up.

    An operation is sent once. If a driver retries a write whose reply was lost,
    it finds the version that its first attempt has stored, and reports a conflict
    although it has succeeded: `.Session.transact` runs again, and counts twice. Turn
    such retries off, unless the server recognizes them.

    Several operations are in progress at once. None of them may wait for the store
    in the event loop: a synchronous driver needs a thread.
    """

    #: Whether records survive a restart of the store. The core does not use
    #: it. `.OutageContract` tests it, and the cookie backend warns if its
    #: ``not_before`` store is not durable: sessions that were ended would be
    #: alive again.
    durable: ClassVar[bool] = True
    #: Whether several processes can use the same records.
    shared: ClassVar[bool] = True
    #: Whether `find` works. If not, the core stores one more record for each user who
    #: signs in, and loads it with each of their sessions, for `.Sessions.revoke_all`.
    finds_by_user: ClassVar[bool] = False
    #: Whether `find_all` works, for `.Sessions.of_all_users`.
    finds_all: ClassVar[bool] = False
    #: The largest size of ``data`` in bytes; None for no limit. The core checks it
    #: before it calls `insert` or `replace`. Make it an option with this name, which
    #: the error tells users to set. The backends of this library use 65,536 by
    #: default. A session of that size blocks the event loop for a few milliseconds,
    #: and the time grows with the size.
    max_bytes: int | None = None
    #: After how many seconds an operation fails; None if it never waits. If the
    #: commit of one request takes longer, others of the same session do not wait
    #: for it any more.
    timeout: float | None = None

    @classmethod
    @abc.abstractmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> Backend:
        """Creates the backend for the ``session_backend`` setting.

        ``url`` is the value of the setting, a URL or a bare name; ``settings``
        are the application's settings. Raises `ValueError` if it cannot use them.
        Neither the message nor a cause or context of the error may repeat a part of
        the URL: it may be part of a password.
        """

    @abc.abstractmethod
    async def load(self, key: bytes) -> Record | None:
        """Returns the record under ``key``, or None.

        It need not check the expiry: the core reads it from ``data``. Only
        ``data`` and ``version`` of the returned record are used.
        """

    @abc.abstractmethod
    async def insert(self, key: bytes, record: Record) -> Version | None:
        """Stores a new record.

        Returns its version, which is the one that `load` would return, or `UNKNOWN`
        if the store does not report it. Returns None if the key exists, and then
        stores nothing.

        When it returns, the record is stored as durably as the store allows.
        """

    @abc.abstractmethod
    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        """Replaces exactly the ``version`` of the record under ``key``.

        This is a compare-and-set: one atomic operation of the store. Returns the new
        version, as `insert` does. Returns None if the store has another version or
        no record, and then stores nothing: it never creates a record.
        """

    @abc.abstractmethod
    async def delete(self, key: bytes) -> None:
        """Removes the record; does nothing if there is none."""

    async def ping(self) -> None:
        """Checks the connection to the store; raises `.BackendError` if it fails.

        It stores nothing. By default it loads a random key, which does not exist.
        This is right for every store that keeps all keys on one server. Override it
        for a pool of servers, where one server says nothing about the others.
        """
        await self.load(secrets.token_bytes(32))

    async def purge(self, now: float) -> int:
        """Removes one batch of records whose ``expires`` is before ``now``.

        A record may be removed up to a second late, and never early. Returns how
        many were removed; it is called again until it returns 0. A batch is some
        hundred records, and less than 2,000. A store that removes expired records
        itself has nothing to do here.
        """
        return 0

    def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        """Yields the key and the record of every session of ``user``.

        There may be expired records among them. Raises `.SessionError` if
        `finds_by_user` is False.
        """
        raise SessionError(
            f"{type(self).__name__} cannot look up the sessions of a user."
        )

    def find_all(self) -> AsyncIterator[tuple[bytes, Record]]:
        """Yields the key and the record of every session that has a user.

        With the ``user`` of each record, and in any order. A record that does not change
        meanwhile comes exactly once, whatever is stored or deleted besides. There may
        be expired records among them. Other tasks run in between, and no step takes
        longer because the store has many records. Raises `.SessionError` if `finds_all`
        is False.
        """
        raise SessionError(
            f"{type(self).__name__} cannot list the sessions of all users."
        )

    async def close(self) -> None:
        """Closes what the backend has opened. A second call does nothing.

        If the backend is used again afterwards, it reconnects or raises
        `.BackendError`.
        """
        return

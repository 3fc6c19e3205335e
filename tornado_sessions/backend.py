"""What a session backend is: it keeps records under keys.

A whole backend, good for one process and for reading::

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

        async def save(self, key, record):
            stored = self._records.get(key)
            if (stored and stored.version) != record.version:
                raise ConflictError("Another version of the record is stored.")
            self._records[key] = Record(record.data, next(self._versions))

        async def delete(self, key):
            self._records.pop(key, None)

`tornado_sessions.testing.BackendContract` proves one right.
"""

from __future__ import annotations

import abc
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

import msgspec

from tornado_sessions.errors import SessionDataError, SessionError


class Record(msgspec.Struct, frozen=True):
    """What is stored under one key.

    The ``data`` is complete: whatever else a record says, such as when it
    expires, is inside its ``data`` as well, where the core reads it.
    """

    #: The bytes to keep, exactly.
    data: bytes
    #: None for a record that is to be created; else what ``load`` answered,
    #: handed back untouched. Good for one save.
    version: Any = None
    #: When the store may forget the record, in seconds since the epoch; zero
    #: for never. It is five minutes after the session has ended, as a request that
    #: loaded it in time may save it later. It may be as large as
    #: `sys.float_info.max`, about 1.8e308: a store with a smaller type for times
    #: keeps the largest that it has. For the store's own clean-up; ``load`` need
    #: not return it.
    expires: float = 0.0
    #: Whose session it is, for ``find``; ``load`` need not answer it.
    user: str | None = None
    #: True where ``load`` asks for the record to be saved again although
    #: nothing changed: it was sealed with an old key, or found in a store that
    #: is being left.
    renew: bool = False

    def __repr__(self) -> str:
        return f"<Record {len(self.data)} bytes>"


class Backend(abc.ABC):
    """Keeps records under keys, in a store.

    A key is 32 bytes. It is a digest: a backend never sees the token that a
    client holds, and nothing in its store lets anyone take a session over.

    A constructor is synchronous and does no I/O. The backend connects when it
    is first used, inside the running loop, so that it survives a fork before
    that. It closes what it opened itself, and nothing that was handed to it.

    Every operation raises `.BackendError`, with the driver's error as its
    cause, where the store fails or does not answer within a time limit that
    the URL can set (``timeout``, 2 seconds where it does not). A connection
    whose operation was cancelled is closed and not used again, unless its
    answers cannot be mixed up.

    An operation is sent once. A driver that repeats a write when the reply was
    lost finds the version that its first try has stored, and `save` reports a
    conflict for what has succeeded: `.Session.transact` runs again, and counts
    twice. Turn such retries off, unless the server recognizes the second try.
    """

    #: Whether records survive a restart of the store. The core makes no use of
    #: it. `.OutageContract` tests what it promises, and the cookie backend warns
    #: of a ``not_before`` store without it: sessions that were ended would be
    #: alive again.
    durable: ClassVar[bool] = True
    #: Whether several processes can use the same records.
    shared: ClassVar[bool] = True
    #: Whether `find` works.
    lists_users: ClassVar[bool] = False
    #: How many bytes of ``data`` a record may have; None for no limit. Make it an
    #: option of that name: `check_size` tells users to set it. 65,536 is the
    #: default of those that come with this library: a session of that size holds
    #: the event loop for a few milliseconds, and the time grows with the size.
    max_bytes: int | None = None

    @classmethod
    @abc.abstractmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> Backend:
        """Makes the backend that the ``session_backend`` setting names.

        ``url`` is the setting as it stands, or a bare name; ``settings`` are
        the application's settings. Raises `ValueError` for what it cannot
        use, without repeating a password.
        """

    @abc.abstractmethod
    async def load(self, key: bytes) -> Record | None:
        """Answers the record that is stored under ``key``, or None.

        It need not look at the time: the core knows from ``data`` what has
        expired. Only ``data`` and ``version`` count, and ``renew``.
        """

    @abc.abstractmethod
    async def save(self, key: bytes, record: Record) -> None:
        """Stores ``record`` if the stored one is of its ``version``.

        With a ``version`` of None it is inserted. Raises `.ConflictError` if
        the key exists then; else replaces exactly that version, and raises
        `.ConflictError` where another is stored or none. A record never comes
        into being through a replacement. Raises `.SessionDataError` for more
        than `max_bytes` before anything is sent, see `check_size`.

        When it returns, the record is as safe as the store can make it.
        """

    @abc.abstractmethod
    async def delete(self, key: bytes) -> None:
        """Removes the record; does nothing if there is none."""

    def avoids(self, key: bytes) -> bool:
        """Tells whether a new record had better have another key.

        So it is where the store has several servers, and the one that would keep
        ``key`` has just failed while others have not. Another token is drawn
        then, also where ``save`` of the new record is what failed. It only says
        what is known, without any I/O.
        """
        return False

    async def ping(self) -> None:
        """Asks the store whether it is there; raises `.BackendError` if not.

        It stores nothing. By default it loads a key that nobody has, which is right
        for every store that keeps all keys in one place. Override it where part of
        the store does not answer for the rest, as in a pool of servers.
        """
        await self.load(secrets.token_bytes(32))

    async def purge(self, now: float) -> int:
        """Removes one batch of records that expired before ``now``.

        Each goes a second late at the most, and none early. Answers how many
        went; it is called again until that is 0. A store that forgets by itself
        has nothing to do here.
        """
        return 0

    def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        """Answers the key and the record of every session of ``user``.

        What has expired may be among them. Raises `.SessionError` where
        `lists_users` is False.
        """
        raise SessionError(
            f"{type(self).__name__} cannot look up the sessions of a user."
        )

    async def close(self) -> None:
        """Closes what the backend opened; twice is as good as once.

        A backend that is used again afterwards connects anew, or raises
        `.BackendError`.
        """
        return

    def check_size(self, record: Record) -> None:
        """Raises `.SessionDataError` if ``record`` is over `max_bytes`."""
        if self.max_bytes is not None and len(record.data) > self.max_bytes:
            raise SessionDataError(
                f"The session takes {len(record.data)} bytes;"
                f" {type(self).__name__} holds at most {self.max_bytes}."
                " Keep less in it, or set the option 'max_bytes', such as in the URL:"
                f" '?max_bytes={2 * len(record.data)}'."
            )

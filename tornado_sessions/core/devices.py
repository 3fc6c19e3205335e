"""Finds out when a user signs in on a new device."""

from __future__ import annotations

import hashlib
import logging

import msgspec

from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.events import Events
from tornado_sessions.core.retries import PATIENCE, Backoff
from tornado_sessions.core.rules import Rules
from tornado_sessions.errors import BackendError
from tornado_sessions.logs import SEVERAL, LimitedLog
from tornado_sessions.storage.backend import Backend, Record

_KIND = b"tornado_sessions devices of user\0"

#: For how many seconds a label is remembered after it was last used.
REMEMBERED = 400 * 24 * 3600.0

# After how many seconds it is noted again that a label is in use.
_REFRESHED = 10 * 24 * 3600.0

#: How many labels of a user are remembered at the most.
MOST_LABELS = 50


class _Devices(msgspec.Struct):
    """What the store keeps of a user."""

    #: The first half of the key: a record answers for its own.
    key: str
    #: When each label was last used, in seconds since the epoch, under a digest of it.
    labels: dict[str, float] = {}


class Devices:
    """Remembers in a backend with which labels each user has signed in.

    A user is there under a digest of the namespace and the name, and a label under one
    of the label: neither can be read in the store.
    """

    def __init__(
        self,
        backend: Backend,
        namespace: str,
        rules: Rules,
        events: Events,
        logs: LimitedLog,
    ) -> None:
        self._backend = backend
        self._rules = rules
        self._events = events
        self._logs = logs
        # Of one length, so that no other namespace and user come out the same.
        self._scope = _KIND + hashlib.sha256(namespace.encode()).digest()

    async def note(self, token: str, session: Envelope) -> None:
        """Tells the listener if the label of ``session`` is new to its user.

        A session without a user or a label is ignored. An error is logged.
        """
        if session.user is None or not session.label:
            return
        try:
            is_new, is_first = await self._remember(session.user, session.label)
        except Exception as error:  # noqa: BLE001 - the session is stored already
            self._logs.log(
                logging.WARNING,
                "It is not known whether a user has signed in on a new device: %s",
                str(error) if isinstance(error, BackendError) else type(error).__name__,
                most=SEVERAL,
            )
            return
        if is_new:
            self._events.tell(
                "new_device",
                token,
                user=session.user,
                reason="first" if is_first else None,
                handle=session.id,
            )

    async def forget(self, user: str) -> None:
        """Removes what is remembered of ``user``."""
        await self._backend.delete(self._key_of(user))

    async def _remember(self, user: str, label: str) -> tuple[bool, bool]:
        """Returns whether a label is new to a user, and whether it is the first one."""
        key, backoff = self._key_of(user), Backoff()
        digest = hashlib.sha256(key + label.encode()).hexdigest()[:16]
        while True:
            stored, now = await self._backend.load(key), self._rules.now()
            known = {} if stored is None else _decode(key, stored)
            # What has expired may still be in the store.
            known = {mark: at for mark, at in known.items() if now - at < REMEMBERED}
            before = known.pop(digest, None)
            if before is not None and now - before < _REFRESHED:
                return False, False
            latest = sorted(known, key=known.__getitem__)[1 - MOST_LABELS :]
            labels = {mark: known[mark] for mark in latest} | {digest: now}
            devices = _Devices(key[:16].hex(), labels)
            record = Record(msgspec.json.encode(devices), expires=now + REMEMBERED)
            if stored is None:
                version = await self._backend.insert(key, record)
            else:
                version = await self._backend.replace(key, record, stored.version)
            if version is not None:
                return before is None, not known
            if backoff.is_over:
                raise BackendError(
                    f"The label could not be stored within {PATIENCE:.0f} s: other"
                    " logins of the user kept changing the record."
                )
            await backoff.wait()

    def _key_of(self, user: str) -> bytes:
        return hashlib.sha256(self._scope + user.encode()).digest()


def _decode(key: bytes, stored: Record) -> dict[str, float]:
    devices = msgspec.json.decode(stored.data, type=_Devices)
    if devices.key != key[:16].hex():
        raise BackendError("The store has returned the record of another user.")
    return devices.labels

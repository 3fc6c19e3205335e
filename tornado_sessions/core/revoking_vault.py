"""Ends all sessions of a user in a store that cannot list them."""

from __future__ import annotations

import asyncio

from tornado_sessions.core.codec import decode
from tornado_sessions.core.envelope import Envelope
from tornado_sessions.core.revocation_record import read_revocations
from tornado_sessions.core.revocation_store import RevocationStore
from tornado_sessions.core.users import sign_in
from tornado_sessions.errors import SessionError
from tornado_sessions.storage.backend import Backend, Record
from tornado_sessions.storage.vault import Vault

# Of how many sessions the user is remembered.
_MOST_PLACES = 10_000


def revoking_vault(vault: Vault) -> Vault:
    """Returns ``vault``, or one in its place that can end all sessions of a user."""
    if type(vault) is Vault and not vault.finds_by_user:
        return RevokingVault(vault.backend, vault.namespace)
    return vault


class RevokingVault(Vault):
    """A vault for a backend without `.Backend.finds_by_user`.

    The store has a record for each user who has signed in: the time before which
    sign-ins do not count. If the store has forgotten it, no session of the user is valid:
    it may have been a session that was ended.
    """

    def __init__(self, backend: Backend, namespace: str = "") -> None:
        super().__init__(backend, namespace)
        self._ends = RevocationStore(backend, namespace)
        self.ends_users = True
        # The keys of the users' records by those of sessions: both are then loaded at
        # once.
        self._places: dict[bytes, bytes] = {}

    async def load(self, token: str) -> Record | None:
        if not self.is_well_formed(token):
            return None
        key = self.key_of(token)
        place = self._places.get(key)
        if place is None:
            record, stored = await self.load_found(key), None
        else:
            record, stored = await asyncio.gather(
                self.load_found(key), self.backend.load(place)
            )
        session = None if record is None else _signed_in(record)
        if session is None or session.user is None:
            return record
        own = self._ends.key_of_user(session.user)
        if own != place:
            stored = await self.backend.load(own)
            self._remember(key, own)
        revoked = read_revocations(own, stored)
        if (
            revoked is None
            or revoked.why_ended(session.id, sign_in(session)[0]) is not None
        ):
            return None
        return record

    async def end_before(
        self, user: str, time: float, keep: str | None, since: float = 0.0
    ) -> float:
        return await self._ends.end_before(user, time, keep, since)

    async def not_before(self, user: str, time: float) -> float:
        """Returns the time before which sign-ins of ``user`` do not count.

        If none is stored, no sign-in before this one counts any more.
        """
        return await self._ends.begin(user, time)

    def _remember(self, key: bytes, place: bytes) -> None:
        if len(self._places) >= _MOST_PLACES:
            # The oldest. It is asked for in two steps again.
            del self._places[next(iter(self._places))]
        self._places[key] = place


def _signed_in(record: Record) -> Envelope | None:
    """Returns the session in ``record``; None for a tombstone, or if it cannot be read."""
    try:
        session = decode(record.data)
    except SessionError:
        # The core decodes it as well, and reports it.
        return None
    return None if session.successor else session

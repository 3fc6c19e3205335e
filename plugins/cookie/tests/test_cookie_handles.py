"""Tests of how many handles of a user's sessions the cookie backend keeps."""

from __future__ import annotations

import unittest
from collections.abc import Awaitable, Callable

from tornado_sessions_cookie import CookieBackend
from tornado_sessions_memory import MemoryBackend

from tornado_sessions import (
    Record,
    Session,
    SessionError,
    SessionGoneError,
    Sessions,
    Version,
)
from tornado_sessions.core.expiry import CLOCK_SKEW
from tornado_sessions.core.revocation_record import MOST_SESSIONS
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import Settings
from tornado_sessions.storage.vault import HasEnded
from tornado_sessions.testing import FaultyVault

SECRET = "a secret, 32 bytes or longer, of tests"


class MeasuringBackend(MemoryBackend):
    """Notes the size of the largest record."""

    durable = True
    largest = 0

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        self.largest = max(self.largest, len(record.data))
        return await super().replace(key, record, version)


class MeanwhileVault(FaultyVault):
    """Lets another request come first, before a session is ended or gets another id."""

    before_end: Callable[[], Awaitable[object]] | None = None

    async def end(
        self,
        token: str,
        now: float,
        kept_until: Callable[[bytes], float],
        successor: str | None = None,
    ) -> HasEnded | None:
        meanwhile, self.before_end = self.before_end, None
        if meanwhile is not None:
            await meanwhile()
        return await super().end(token, now, kept_until, successor)


class HandlesTest(unittest.IsolatedAsyncioTestCase):
    def setUp(self) -> None:
        self.store = MeasuringBackend()
        vault = CookieBackend({0: SECRET}, 0, not_before=self.store)
        self.sessions = Sessions(Settings(vault))
        self.time = 1_000_000.0
        self.sessions.now = lambda: self.time

    async def asyncTearDown(self) -> None:
        await self.sessions.close()

    async def signed_in(self) -> str:
        session = await self.sessions.load(None)
        session.login("ada")
        await session.save()
        self.time += 1
        return state_of(session).token or ""

    async def user(self, token: str) -> str | None:
        return (await self.sessions.load(token)).user

    async def test_a_session_may_get_any_number_of_ids(self) -> None:
        """Behaviours 9, 46: it stays, older copies are dead, and nobody else ends."""
        other, token = await self.signed_in(), await self.signed_in()
        copies = []
        for number in range(MOST_SESSIONS + 50):
            session = await self.sessions.load(token)
            if number % 2:
                session.regenerate()
            else:
                session.set_expiry(idle=1000 + number)
            await session.save()
            copies.append(token)
            token = state_of(session).token or ""
        self.assertEqual(await self.user(token), "ada")
        self.assertEqual(await self.user(other), "ada")
        for copy in copies:
            self.assertIsNone(await self.user(copy))
        self.assertLess(self.store.largest, 300)

        first = await self.sessions.load(copies[0])
        first.destroy()
        await first.save()
        self.assertIsNone(await self.user(token))

    async def test_an_old_copy_ends_the_copies_that_live_longer(self) -> None:
        """Behaviours 44, 77: for as long as these live."""
        old = await self.signed_in()
        session = await self.sessions.load(old)
        session.set_expiry(idle=10 * self.sessions.rules.idle_timeout / 11)
        await session.save()
        short = state_of(session).token
        session.set_expiry(idle=self.sessions.rules.lifetime)
        await session.save()
        newest = state_of(session).token or ""
        session = await self.sessions.load(short)
        session.destroy()
        await session.save()

        self.time += self.sessions.rules.lifetime - 100
        await self.store.purge(self.time)
        session = await self.sessions.load(await self.signed_in())
        session.destroy()
        await session.save()
        self.assertIsNone(await self.user(newest))

    async def test_an_end_holds_for_older_copies_that_live_longer(self) -> None:
        """Behaviours 44, 50: also where the session had a shorter timeout at its end."""
        old = await self.signed_in()
        session = await self.sessions.load(old)
        session.set_expiry(idle=10)
        await session.save()
        session.destroy()
        await session.save()

        self.time += self.sessions.rules.idle_timeout - 100
        session = await self.sessions.load(await self.signed_in())
        session.destroy()
        await session.save()
        self.assertIsNone(await self.user(old))

    async def test_logins_in_one_browser_are_kept_up_to_a_limit(self) -> None:
        """Behaviour 78: the last one holds, and all before it stay ended."""
        tokens = [await self.signed_in()]
        for _ in range(2 * MOST_SESSIONS):
            session = await self.sessions.load(tokens[-1])
            session.login("ada")
            await session.save()
            tokens.append(state_of(session).token or "")
            self.time += 1
        self.assertEqual(await self.user(tokens.pop()), "ada")
        for token in tokens:
            self.assertIsNone(await self.user(token))
        self.assertLess(self.store.largest, 100 * MOST_SESSIONS)

    async def test_unknown_handles_end_nobody_else(self) -> None:
        """Behaviour 46: one too many is refused, until all sessions are revoked."""
        ada = await self.signed_in()
        for number in range(MOST_SESSIONS):
            self.assertTrue(await self.sessions.revoke("ada", f"{number:012}aaaa"))
        with self.assertRaises(SessionError) as refused:
            await self.sessions.revoke("ada", 16 * "a")
        self.assertEqual(
            str(refused.exception),
            "200 sessions of the user have been revoked by their handles since the last"
            " revoke_all(), and the store keeps no more of them. Call revoke_all(),"
            " which ends all sessions of the user.",
        )
        self.assertEqual(await self.user(ada), "ada")
        self.assertFalse(await self.sessions.revoke("ada", 12 * "0" + "aaaa"))
        self.assertTrue(await self.sessions.revoke("eve", 16 * "a"))

        self.time += CLOCK_SKEW + 1
        await self.sessions.revoke_all("ada", keep=await self.sessions.load(ada))
        self.assertEqual(await self.user(ada), "ada")
        handle = (await self.sessions.load(ada)).id
        self.assertTrue(await self.sessions.revoke("ada", handle))
        self.assertIsNone(await self.user(ada))

    async def test_ids_of_too_many_sessions_end_nobody(self) -> None:
        """Behaviour 46: the request fails that would be one too many."""
        tokens = [await self.signed_in() for _ in range(MOST_SESSIONS + 1)]
        for token in tokens[1:]:
            session = await self.sessions.load(token)
            session.regenerate()
            await session.save()
        session = await self.sessions.load(tokens[0])
        session.regenerate()
        with self.assertRaises(SessionError) as refused:
            await session.save()
        self.assertEqual(
            str(refused.exception),
            "The session cannot get another id: 200 other sessions of its user have got"
            " one, and the store keeps no more of them. End the others with"
            " revoke_all(user, keep=self.session).",
        )
        self.assertEqual(await self.user(tokens[0]), "ada")

        session = await self.sessions.load(tokens[0])
        await self.sessions.revoke_all("ada", keep=session)
        session.regenerate()
        await session.save()
        self.assertEqual(await self.user(state_of(session).token or ""), "ada")

    async def test_what_a_spared_session_becomes_meanwhile_is_spared(self) -> None:
        """Behaviours 76, 78: a login and a new id hold, with no other session."""
        for signs_in in (True, False):
            other, token = await self.signed_in(), await self.signed_in()
            copy, session = [await self.sessions.load(token) for _ in range(2)]
            vault = self.sessions.vault = MeanwhileVault(self.sessions.vault)

            async def revoke_others(keep: Session = copy) -> None:
                self.time += 1
                await self.sessions.revoke_all("ada", keep=keep)

            vault.before_end = revoke_others
            if signs_in:
                session.login("ada")
            else:
                session.regenerate()
            await session.save()
            self.assertEqual(await self.user(state_of(session).token or ""), "ada")
            for dead in (other, token):
                self.assertIsNone(await self.user(dead))

    async def test_a_spared_session_whose_user_has_changed_is_not_alive(self) -> None:
        """Behaviour 78: the revocation ends nothing, and the other user's stays."""
        other, token = await self.signed_in(), await self.signed_in()
        late, session = [await self.sessions.load(token) for _ in range(2)]
        vault = self.sessions.vault = MeanwhileVault(self.sessions.vault)
        session.login("eve")
        vault.before_end = lambda: self.sessions.revoke_all("ada", keep=late)
        await session.save()
        self.assertEqual(await self.user(state_of(session).token or ""), "eve")
        self.assertIsNone(await self.user(other))

        ada = await self.signed_in()
        with self.assertRaisesRegex(SessionGoneError, "so revoke_all.. has ended no"):
            await self.sessions.revoke_all("ada", keep=late)
        self.assertEqual(await self.user(ada), "ada")

    async def test_a_spared_session_can_be_revoked_without_its_login(self) -> None:
        """Behaviour 78: it stays ended, whatever is ended later."""
        spared = await self.signed_in()
        session = await self.sessions.load(spared)
        await self.sessions.revoke_all("ada", keep=session)
        self.assertTrue(await self.sessions.revoke("ada", session.id))
        self.time += CLOCK_SKEW + 1
        for _ in range(MOST_SESSIONS + 1):
            ended = await self.sessions.load(await self.signed_in())
            ended.destroy()
            await ended.save()
        self.time += 1
        self.assertIsNone(await self.user(spared))

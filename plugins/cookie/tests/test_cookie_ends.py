"""What the cookie backend keeps in a store: which sessions have ended."""

from __future__ import annotations

import json
import unittest
from unittest import mock

from tornado_sessions_cookie import CookieBackend
from tornado_sessions_memory import MemoryBackend

from tornado_sessions import (
    BackendError,
    Record,
    SessionError,
    Sessions,
    Version,
)
from tornado_sessions.core import revocation_store
from tornado_sessions.core.revocation_record import MOST_SESSIONS
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import Settings

SECRET = "a secret, 32 bytes or longer, of tests"


class WatchedBackend(MemoryBackend):
    """Counts what it is asked, and fails and is overtaken when it is told to."""

    durable = True

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.fails = False
        self.overtaken = 0
        self.closed = False
        self._keys: set[bytes] = set()

    async def kept(self) -> list[tuple[bytes, Record]]:
        """Returns all records, with their keys."""
        loaded = [
            (key, await super(WatchedBackend, self).load(key)) for key in self._keys
        ]
        return [(key, record) for key, record in loaded if record is not None]

    async def load(self, key: bytes) -> Record | None:
        self.loads += 1
        if self.fails:
            raise BackendError("The store of the ends is on fire.")
        return await super().load(key)

    async def insert(self, key: bytes, record: Record) -> Version | None:
        if self._is_overtaken():
            return None
        self._keys.add(key)
        return await super().insert(key, record)

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        if self._is_overtaken():
            return None
        return await super().replace(key, record, version)

    def _is_overtaken(self) -> bool:
        if not self.overtaken:
            return False
        self.overtaken -= 1
        return True

    async def close(self) -> None:
        self.closed = True


class NotBeforeTest(unittest.IsolatedAsyncioTestCase):
    """The store that knows which sessions of a user have ended."""

    def setUp(self) -> None:
        self.store = WatchedBackend()
        self.vault = self.make()
        self.sessions = Sessions(Settings(self.vault))
        self.time = 1_000_000.0
        self.sessions.now = lambda: self.time

    async def asyncTearDown(self) -> None:
        await self.sessions.close()

    def make(self, namespace: str = "") -> CookieBackend:
        return CookieBackend({0: SECRET}, 0, namespace=namespace, not_before=self.store)

    async def signed_in(self, user: str = "ada") -> str:
        session = await self.sessions.load(None)
        session.login(user)
        await self.sessions.commits.commit(state_of(session))
        self.time += 1
        return state_of(session).token or ""

    async def user(self, token: str) -> str | None:
        return (await self.sessions.load(token)).user

    async def test_only_those_who_signed_in_before_are_ended(self) -> None:
        """Behaviour 46: and of the user who asked for it."""
        ada, eve = await self.signed_in(), await self.signed_in("eve")
        await self.sessions.revoke_all("ada")
        later = await self.signed_in()

        self.assertIsNone(await self.user(ada))
        self.assertEqual(await self.user(eve), "eve")
        self.assertEqual(await self.user(later), "ada")

    async def test_a_later_end_takes_the_place_of_an_earlier_one(self) -> None:
        """Behaviour 46: who was spared then is not spared for good."""
        ada = await self.signed_in()
        session = await self.sessions.load(ada)
        await self.sessions.revoke_all("ada", keep=session)
        self.assertEqual(await self.user(ada), "ada")

        await self.sessions.revoke_all("ada")
        self.assertIsNone(await self.user(ada))

    async def test_what_has_ended_stays_so(self) -> None:
        """Behaviour 46: also where the clock is set back in between."""
        ada = await self.signed_in()
        await self.sessions.revoke_all("ada")
        self.time -= 200
        await self.sessions.revoke_all("ada")
        self.time += 200

        self.assertIsNone(await self.user(ada))

    async def test_another_namespace_has_other_users(self) -> None:
        """Two applications on one store never end each other's sessions."""
        ada = await self.signed_in()
        await Sessions(Settings(self.make("shop"))).revoke_all("ada")

        self.assertEqual(await self.user(ada), "ada")

    async def test_a_handler_keeps_its_session_where_it_ends_those_of_another_site(
        self,
    ) -> None:
        """Behaviour 46: whose users may have the same names, such as numbers."""
        session = await self.sessions.load(await self.signed_in("1"))
        await Sessions(Settings(self.make("shop"))).revoke_all("1")
        self.assertEqual(session.user, "1")

        await self.sessions.of_request(state_of(session)).revoke_all("1")
        self.assertIsNone(session.user)

    async def test_each_session_costs_one_look(self) -> None:
        """Behaviours 12, 44: and neither a save nor a renewal costs another."""
        guest = await self.sessions.load(None)
        guest["a"] = 1
        await guest.save()
        for token in (state_of(guest).token or "", await self.signed_in()):
            self.store.loads = 0
            session = await self.sessions.load(token)
            session["b"] = 2
            await session.save()
            self.time += self.sessions.rules.idle_timeout / 2
            session = await self.sessions.load(state_of(session).token)
            await self.sessions.commits.commit(state_of(session))
            self.assertEqual(self.store.loads, 2)
        self.assertEqual(await self.store.kept(), [])

    async def test_a_copy_ends_with_the_session(self) -> None:
        """Behaviour 44: also an older one, and one that is stored too late."""
        for user in ("ada", None):
            session = await self.sessions.load(None)
            session["a"] = 1
            if user:
                session.login(user)
            await session.save()
            first = state_of(session).token
            late = await self.sessions.load(first)
            session["a"] = 2
            await session.save()
            second = state_of(session).token
            session.destroy()
            await session.save()
            late["b"] = 1
            await late.save()

            for token in (first, second, state_of(late).token):
                self.assertTrue((await self.sessions.load(token)).is_new)

    async def test_what_has_expired_is_dropped(self) -> None:
        """Behaviour 44: with the next end of the same user, and by the purge."""
        for user in ("ada", None):
            session = await self.sessions.load(None)
            session["a"] = 1
            if user:
                session.login(user)
            await session.save()
            token = state_of(session).token
            session.destroy()
            await session.save()
            self.time += self.sessions.rules.idle_timeout
            await self.store.purge(self.time)
            self.assertEqual(len(await self.store.kept()), 1)
            self.assertTrue((await self.sessions.load(token)).is_new)

            self.time += 1000
            self.assertTrue((await self.sessions.load(token)).is_new)
            await self.store.purge(self.time)
            self.assertEqual(await self.store.kept(), [])

        for _ in range(5):
            session = await self.sessions.load(await self.signed_in())
            session.destroy()
            await session.save()
            self.time += self.sessions.rules.idle_timeout + 1000
        [(_, record)] = await self.store.kept()
        self.assertEqual(len(json.loads(record.data)["ended"]), 1)

    async def test_what_is_kept_of_a_user_is_bounded(self) -> None:
        """Behaviours 44, 78: who was to stay stays, and what had ended has."""
        old = await self.signed_in()
        self.assertTrue(await self.sessions.revoke("ada", 16 * "a"))
        first, ended = await self.signed_in(), []
        for _ in range(MOST_SESSIONS + 50):
            ended.append(await self.signed_in())
            session = await self.sessions.load(ended[-1])
            session.destroy()
            await session.save()
        last = await self.signed_in()

        [(_, record)] = await self.store.kept()
        self.assertEqual(len(json.loads(record.data)["ended"]), MOST_SESSIONS)
        for token in (old, first, *ended):
            self.assertIsNone(await self.user(token))
        self.assertEqual(await self.user(last), "ada")
        self.assertFalse(await self.sessions.revoke("ada", 16 * "a"))

    async def test_who_was_spared_can_still_be_ended(self) -> None:
        """Behaviours 44, 46: by a logout, also where much has ended since."""
        spared = await self.signed_in()
        await self.sessions.revoke_all("ada", keep=await self.sessions.load(spared))
        session = await self.sessions.load(spared)
        session.destroy()
        await session.save()
        self.assertIsNone(await self.user(spared))

        for _ in range(MOST_SESSIONS + 1):
            session = await self.sessions.load(await self.signed_in())
            session.destroy()
            await session.save()
        self.assertIsNone(await self.user(spared))

    async def test_a_session_that_is_ended_by_its_handle_has_moved(self) -> None:
        """Behaviours 46, 77: what it has become ends, and so does what comes later."""
        token = await self.signed_in()
        session = await self.sessions.load(token)
        handle = session.id
        for _ in range(3):
            session.regenerate()
            await session.save()
        self.assertNotEqual(session.id, handle)
        self.assertEqual(await self.user(state_of(session).token or ""), "ada")

        self.assertTrue(await self.sessions.revoke("ada", handle))
        self.assertIsNone(await self.user(state_of(session).token or ""))
        self.assertFalse(await self.sessions.revoke("ada", handle))

    async def test_a_store_that_fails_ends_nobody(self) -> None:
        """Behaviour 30: nor does it let anybody in who might have been ended."""
        ada = await self.signed_in()
        self.store.fails = True
        for work in (self.sessions.load(ada), self.sessions.revoke_all("ada")):
            with self.assertRaises(BackendError):
                await work
        self.store.fails = False

        self.assertEqual(await self.user(ada), "ada")

    async def test_parallel_ends_take_turns(self) -> None:
        """Behaviour 78: each counts, unless others keep it from that for too long."""
        ada = await self.signed_in()
        self.store.overtaken = 30
        await self.sessions.revoke_all("ada")
        self.assertIsNone(await self.user(ada))

        self.store.overtaken = 2
        with (
            mock.patch.object(revocation_store, "PATIENCE", -1.0),
            self.assertRaisesRegex(BackendError, "others kept ending sessions"),
        ):
            await self.sessions.revoke_all("ada")

    async def test_what_cannot_be_read_lets_nobody_in(self) -> None:
        """Behaviours 8, 32, 84: the error names a fingerprint and repeats nothing."""
        ada = await self.signed_in()
        await self.sessions.revoke_all("ada")
        for data in (
            *(b"rubbish", b"{}", b'{"before":1,"key":"that of another user"}'),
            *(b'{"before":1e999}', b'{"before":1,"but":"\xff"}', b"\xff"),
            b'{"before":1,"x":' + b"[" * 100_000,
        ):
            [(key, record)] = await self.store.kept()
            await self.store.replace(key, Record(data), record.version)
            with self.assertRaisesRegex(
                BackendError, "of ended sessions cannot be read.* [0-9a-f]{16}\\.$"
            ) as refused:
                await self.sessions.load(ada)
            self.assertIsNone(refused.exception.__cause__)
            self.assertIsNone(refused.exception.__context__)

    async def test_what_is_kept_says_nothing_of_who_it_is(self) -> None:
        """Behaviour 7: neither user nor session, and it is never forgotten."""
        await self.signed_in()
        await self.sessions.revoke_all("ada")
        [(key, record)] = await self.store.kept()

        self.assertNotIn(b"ada", key + record.data)
        self.assertEqual(await self.store.purge(1e12), 0)

    async def test_a_broken_record_is_left_to_the_core(self) -> None:
        """Behaviour 32: which says so, and of a newer one as well."""
        for data in (b"{", b'{"format":99}'):
            token = (await self.vault.insert(Record(data))).token
            self.assertIsNotNone(await self.vault.load(token))
        self.assertEqual(self.store.loads, 0)

    async def test_a_ping_asks_the_store(self) -> None:
        """Behaviour 90: it fails as each request of a signed-in user would."""
        await self.sessions.ping()
        self.assertEqual(self.store.loads, 1)

        self.store.fails = True
        with self.assertRaisesRegex(BackendError, "is on fire"):
            await self.sessions.ping()

    async def test_without_a_store_a_ping_asks_nothing(self) -> None:
        """Behaviour 90: a cookie alone is always there."""
        await Sessions(Settings(CookieBackend({0: SECRET}, 0))).ping()

    async def test_the_store_is_purged_and_closed(self) -> None:
        """Behaviour 65: with the sessions."""
        await self.store.insert(b"k" * 32, Record(b"x", expires=1.0))
        self.assertEqual(await self.sessions.purge(), 1)
        await self.sessions.close()
        self.assertTrue(self.store.closed)

    async def test_without_a_store_nobody_is_ended(self) -> None:
        """Behaviour 46: the error says how to have one."""
        vault = CookieBackend({0: SECRET}, 0)
        with self.assertRaises(SessionError) as caught:
            await Sessions(Settings(vault)).revoke_all("ada")

        self.assertEqual(
            str(caught.exception),
            "The cookie session backend keeps nothing on the server, and cannot end the"
            " sessions of a user. Give it a store for that:"
            " session_backend='cookie:?not_before=sqlite:///ends.db'.",
        )

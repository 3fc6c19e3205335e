"""Tests of revocations that meet each other, or a login, in the middle."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from unittest import mock

import pytest

from tests.sessions_case import IDLE, SessionsCase
from tests.tokens import token_of
from tornado_sessions import (
    BackendError,
    Record,
    Session,
    SessionGoneError,
    Sessions,
    Vault,
)
from tornado_sessions.core import retries, revocations
from tornado_sessions.core.claims import STALE_AFTER
from tornado_sessions.core.expiry import CLOCK_SKEW
from tornado_sessions.core.values import state_of
from tornado_sessions.testing import FaultyVault
from tornado_sessions.testing.interruptions import InterruptedVault

#: The first call of the store after it has stored the mark of a revocation, and the
#: last one of a revocation that has two sessions to end.
MARKED, LAST = 5, 14


class RevokedCase(SessionsCase):
    """Two processes on one store."""

    async def signed_in(self, sessions: Sessions, token: str | None = None) -> str:
        session = await sessions.load(token)
        session.login("ada")
        await session.save()
        return token_of(session)

    async def end_others(
        self, sessions: Sessions, own: str | Session, held_before: int = 0
    ) -> str:
        """Returns the error of a request that ends all but its own session, or "".

        With a `HeldVault`, it stops before the call ``held_before``.
        """
        session = await sessions.load(own) if isinstance(own, str) else own
        if held_before:
            assert isinstance(sessions.vault, HeldVault)
            sessions.vault.left = held_before
        try:
            await sessions.revoke_all("ada", keep=session)
        except SessionGoneError as error:
            return str(error)
        return ""

    def make_ahead(self, vault: Vault, skew: float) -> Sessions:
        """Returns another process, whose clock is ahead by ``skew`` seconds."""
        sessions = self.make(vault)
        sessions.now = lambda: self.clock + skew
        return sessions

    async def living(self, *tokens: str) -> list[bool]:
        return [await self.is_alive(token) for token in tokens]


class EachOtherTest(RevokedCase):
    async def test_of_two_that_end_each_other_one_stays(self) -> None:
        """Behaviour 78: wherever one of them is held up, and whichever mark is higher."""
        for nth in range(1, LAST + 1):
            tokens = [await self.signed_in(self.elsewhere) for _ in range(3)]
            loaded = await self.elsewhere.load(tokens[1])
            held = HeldVault(Vault(self.backend))
            slow = self.make(held)
            first = asyncio.ensure_future(self.end_others(slow, tokens[0], nth))
            await held.arrived.wait()
            second = asyncio.ensure_future(self.end_others(self.elsewhere, loaded))
            await asyncio.wait([second], timeout=0.02)
            held.resumed.set()
            told = [await first, await second]

            assert [not text for text in told] == (await self.living(*tokens))[:2], nth
            assert (await self.living(*tokens)).count(True) == 1
            assert len(await self.sessions.of_user("ada")) == 1
            await self.sessions.revoke_all("ada")
            await slow.close()

    async def test_of_two_one_stays_though_the_other_does_not_wait(self) -> None:
        """Behaviours 66, 78: the mark looks stale, and its request only is slow."""
        for nth, skew, waits in itertools.product(
            range(1, LAST + 1), (0.0, CLOCK_SKEW), (0, 5)
        ):
            tokens = [await self.signed_in(self.elsewhere) for _ in range(3)]
            held = HeldVault(Vault(self.backend))
            slow = self.make(held)
            ahead = self.make_ahead(Vault(self.backend), skew)
            with mock.patch.object(revocations, "MOST_WAITS", waits):
                first = asyncio.ensure_future(self.end_others(slow, tokens[0], nth))
                await held.arrived.wait()
                second = asyncio.ensure_future(self.end_others(ahead, tokens[1]))
                await asyncio.wait([second], timeout=0.2 if waits else None)
                held.resumed.set()
                told = [await first, await second]

            case = nth, skew, waits
            assert [not text for text in told] == (await self.living(*tokens))[:2], case
            assert (await self.living(*tokens)).count(True) == 1, case
            assert len(await self.sessions.of_user("ada")) == 1
            await self.sessions.revoke_all("ada")
            for sessions in (slow, ahead):
                await sessions.close()

    async def test_of_two_that_have_listed_each_other_one_stays(self) -> None:
        """Behaviours 66, 78: the one that has waited stores a higher mark."""
        for skew, waits in ((0.0, 0), (CLOCK_SKEW, 5)):
            token = await self.signed_in(self.elsewhere)
            vaults = [HeldVault(Vault(self.backend)) for _ in range(2)]
            ahead, slow = self.make_ahead(vaults[0], skew), self.make(vaults[1])
            # A login goes before a session that was only loaded.
            login = await self.elsewhere.load(None)
            login.login("ada")
            await login.save()
            second = asyncio.ensure_future(self.end_others(ahead, token, MARKED))
            await vaults[0].arrived.wait()
            # It has stored its mark and listed the other, and is about to end it.
            vaults[1].counted = "save"
            first = asyncio.ensure_future(self.end_others(slow, login, 2))
            await vaults[1].arrived.wait()
            with mock.patch.object(revocations, "MOST_WAITS", waits):
                # Until it has ended the other, and its mark is still there.
                vaults[0].resume_until("delete")
                await vaults[0].arrived.wait()
            vaults[1].resumed.set()
            assert await first
            vaults[0].resumed.set()
            assert await second == ""
            assert await self.living(token, token_of(login)) == [True, False]
            await self.sessions.revoke_all("ada")
            for sessions in (ahead, slow):
                await sessions.close()

    async def test_a_request_whose_mark_was_replaced_waits(self) -> None:
        """Behaviour 78: when a second request of the session has waited for long."""
        own, other = [await self.signed_in(self.elsewhere) for _ in range(2)]
        vaults = [HeldVault(Vault(self.backend)) for _ in range(2)]
        processes = [self.make(vault) for vault in vaults]
        first = asyncio.ensure_future(self.end_others(processes[0], own, MARKED))
        await vaults[0].arrived.wait()
        vaults[1].counted = "save"
        with mock.patch.object(revocations, "MOST_WAITS", 0):
            second = asyncio.ensure_future(self.end_others(processes[1], own, 2))
            await vaults[1].arrived.wait()
        vaults[0].resumed.set()
        await asyncio.wait([first], timeout=0.02)
        assert await self.living(own, other) == [True, True]
        vaults[1].resumed.set()
        assert [await first, await second] == ["", ""]
        assert await self.living(own, other) == [True, False]
        assert (await self.envelope(own)).claim is None
        for sessions in processes:
            await sessions.close()

    async def test_of_many_that_end_each_other_one_stays(self) -> None:
        """Behaviour 78: and only that one is told that it has succeeded."""
        for _ in range(10):
            tokens = [await self.signed_in(self.elsewhere) for _ in range(5)]
            processes = [
                self.make(FaultyVault(Vault(self.backend), suspends=True))
                for _ in tokens
            ]
            told = await asyncio.gather(*map(self.end_others, processes, tokens))
            assert [not text for text in told] == await self.living(*tokens)
            assert told.count("") == 1
            await self.sessions.revoke_all("ada")
            for sessions in processes:
                await sessions.close()

    async def test_two_requests_of_one_session_both_succeed(self) -> None:
        """Behaviour 78: as when somebody clicks twice."""
        own, other = [await self.signed_in(self.elsewhere) for _ in range(2)]
        processes = [
            self.make(FaultyVault(Vault(self.backend), suspends=True)) for _ in range(4)
        ]
        told = await asyncio.gather(
            *(self.end_others(sessions, own) for sessions in processes)
        )
        assert told == [""] * 4
        assert await self.living(own, other) == [True, False]
        assert (await self.envelope(own)).claim is None

    async def test_a_second_request_of_a_session_leaves_the_mark_of_the_first(
        self,
    ) -> None:
        """Behaviour 78: it waits, and then there is nothing left to end."""
        own, other = [await self.signed_in(self.elsewhere) for _ in range(2)]
        vaults = [HeldVault(Vault(self.backend)) for _ in range(2)]
        processes = [self.make(vault) for vault in vaults]
        first = asyncio.ensure_future(self.end_others(processes[0], own, MARKED))
        await vaults[0].arrived.wait()
        mark = (await self.envelope(own)).claim
        vaults[1].counted = "find"
        second = asyncio.ensure_future(self.end_others(processes[1], own, 3))
        await vaults[1].arrived.wait()
        assert (await self.envelope(own)).claim == mark
        for vault in vaults:
            vault.resumed.set()
        assert [await first, await second] == ["", ""]
        assert await self.living(own, other) == [True, False]
        for sessions in processes:
            await sessions.close()

    async def test_a_login_of_the_same_request_outranks_a_session(self) -> None:
        """Behaviour 78: a login in the same request as the revocation holds."""
        for keeps in (False, True):
            for _ in range(5):
                owner = await self.elsewhere.load(None)
                owner.login("ada")
                await owner.save()
                mine = self.elsewhere.of_request(state_of(owner))
                thief = await self.signed_in(self.elsewhere)
                held = HeldVault(Vault(self.backend))
                slow = self.make(held)
                # The mark of the thief is there first.
                other = asyncio.ensure_future(self.end_others(slow, thief, MARKED))
                await held.arrived.wait()
                keep = owner if keeps else None
                assert await mine.revoke_all("ada", keep=keep) == 1
                held.resumed.set()
                assert "so revoke_all() has ended no other" in await other
                assert await self.living(token_of(owner), thief) == [True, False]
                await self.elsewhere.revoke_all("ada")
                await slow.close()

    async def test_a_login_that_has_ended_already_is_no_success(self) -> None:
        """Behaviours 76, 78: everything else is ended, and an error says so."""
        session = await self.sessions.load(None)
        session.login("ada")
        await session.save()
        thief = await self.signed_in(self.elsewhere)
        assert await self.end_others(self.elsewhere, thief) == ""
        with pytest.raises(SessionGoneError) as caught:
            await self.sessions.of_request(state_of(session)).revoke_all("ada")
        assert str(caught.value) == (
            "The login of this request has been ended by another request; the other"
            " sessions of the user are ended, too. The user has to sign in again."
        )
        assert not await self.is_alive(thief)

    async def test_a_session_to_keep_that_is_not_stored_ends_nobody(self) -> None:
        """Behaviour 78: the one that was to be kept may be that of an id just ended."""
        own = await self.signed_in(self.elsewhere)
        for token in (None, secrets.token_urlsafe(32)):
            error = await self.end_others(
                self.sessions, await self.sessions.load(token)
            )
            assert error == (
                "The session to keep is not stored: it has ended, or nobody has written"
                " to it. So revoke_all() has ended no session. Leave keep out to end all"
                " of them."
            )
        assert await self.is_alive(own)

    async def test_a_session_that_expired_on_its_socket_ends_nobody(self) -> None:
        """Behaviour 47: each message on a WebSocket is judged by itself."""
        own = await self.signed_in(self.elsewhere)
        session = await self.sessions.load(own)
        state_of(session).on_socket = True
        self.clock += IDLE
        other = await self.signed_in(self.elsewhere)
        assert "so revoke_all() has ended no other" in await self.end_others(
            self.sessions, session
        )
        assert await self.is_alive(other)

    async def test_one_that_has_ended_others_says_so(self) -> None:
        """Behaviour 78: before everything was revoked, its own session included."""
        own, other = [await self.signed_in(self.elsewhere) for _ in range(2)]
        store = InterruptedVault(Vault(self.backend))
        sessions = self.make(store)

        async def revoke_all() -> None:
            await self.elsewhere.revoke_all("ada")

        async def wait_for_a_second_listing() -> None:
            async def wait_for_a_third() -> None:
                store.before_find = revoke_all

            store.before_find = wait_for_a_third

        store.before_find = wait_for_a_second_listing
        assert await self.end_others(sessions, own) == (
            "The session to keep has been ended by another request while revoke_all()"
            " ended others. Whoever uses it has to sign in again."
        )
        assert await self.living(own, other) == [False, False]
        await sessions.close()

    async def test_what_a_failure_leaves_marked_is_not_waited_for_for_ever(
        self,
    ) -> None:
        """Behaviour 78: neither by others nor by the session itself."""
        for is_own in (True, False):
            own, other, third = [await self.signed_in(self.elsewhere) for _ in range(3)]
            store = HeldVault(Vault(self.backend))
            sessions = self.make(store)
            failing = asyncio.ensure_future(self.end_others(sessions, own, MARKED))
            await store.arrived.wait()
            assert (await self.envelope(own)).claim
            store.failing = {"load", "find", "save"}
            store.resumed.set()
            with pytest.raises(BackendError):
                await failing
            token = own if is_own else other
            with mock.patch.object(revocations, "MOST_WAITS", 3):
                assert await self.end_others(self.elsewhere, token) == ""
            assert await self.living(own, other, third) == [is_own, not is_own, False]
            await self.sessions.revoke_all("ada")
            await sessions.close()

    async def test_a_stale_mark_is_not_waited_for(self) -> None:
        """Behaviour 66: neither by others nor by the session, whoever has left it."""
        for is_own, has_signed_in in itertools.product((True, False), (True, False)):
            own, other, third = [await self.signed_in(self.elsewhere) for _ in range(3)]
            store = HeldVault(Vault(self.backend))
            sessions = self.make(store)
            failed = await sessions.load(own)
            if has_signed_in:
                # Its mark goes before that of a session that is only loaded.
                failed.login("ada")
                await failed.save()
                own = token_of(failed)
            failing = asyncio.ensure_future(self.end_others(sessions, failed, MARKED))
            await store.arrived.wait()
            store.failing = {"load", "find", "save"}
            store.resumed.set()
            with pytest.raises(BackendError):
                await failing
            self.clock += STALE_AFTER + 1
            self.vault.calls.clear()
            token = own if is_own else other
            with mock.patch.object(revocations, "MOST_WAITS", 5):
                assert await self.end_others(self.sessions, token) == ""
            assert self.vault.calls.count("find") == 3
            assert await self.living(own, other, third) == [is_own, not is_own, False]
            await self.sessions.revoke_all("ada")
            await sessions.close()

    async def test_a_failure_leaves_no_mark(self) -> None:
        """Behaviours 66, 80: it is removed when the error was raised already."""
        own, _ = [await self.signed_in(self.elsewhere) for _ in range(2)]
        store = HeldVault(Vault(self.backend))
        sessions = self.make(store)
        failing = asyncio.ensure_future(self.end_others(sessions, own, MARKED))
        await store.arrived.wait()
        assert (await self.envelope(own)).claim
        store.failing = {"find"}
        # As where the store hangs.
        store.resume_until("load")
        with pytest.raises(BackendError):
            await failing
        await store.arrived.wait()
        assert (await self.envelope(own)).claim is not None
        store.resumed.set()
        await sessions.tasks.wait()
        assert (await self.envelope(own)).claim is None
        await sessions.close()

    async def test_a_session_to_keep_that_keeps_changing_is_told_of(self) -> None:
        """Behaviour 78: to mark it is not tried for ever."""
        own, other = [await self.signed_in(self.elsewhere) for _ in range(2)]
        store = InterruptedVault(Vault(self.backend))
        sessions = self.make(store)

        async def change() -> None:
            await self.change_elsewhere(own, n=secrets.token_hex(4))
            store.before_end = change

        store.before_end = change
        with (
            mock.patch.object(retries, "PATIENCE", -1.0),
            pytest.raises(BackendError) as caught,
        ):
            await self.end_others(sessions, own)
        store.before_end = None
        assert str(caught.value) == (
            "The session to keep could not be marked within 10 s: other requests kept"
            " changing it. Try again."
        )
        assert await self.living(own, other) == [True, True]
        await sessions.close()

    async def test_a_record_without_room_for_a_mark_is_kept(self) -> None:
        """Behaviour 46: the others are ended all the same."""
        own, other = [await self.signed_in(self.elsewhere) for _ in range(2)]
        record = await self.vault.inner.load(own)
        assert record is not None
        self.backend.max_bytes = len(record.data) + 20
        assert await self.end_others(self.sessions, own) == ""
        assert await self.living(own, other) == [True, False]

    async def test_a_request_that_ends_others_saves_without_a_conflict(self) -> None:
        """Behaviour 46: it knows that its record has changed."""
        own, other = [await self.signed_in(self.elsewhere) for _ in range(2)]
        session = await self.sessions.load(own)
        assert await self.end_others(self.sessions, session) == ""
        self.vault.calls.clear()
        session["a"] = 1
        await session.save()
        assert self.vault.calls == ["load", "save"]
        assert await self.values(own) == {"a": 1}
        assert not await self.is_alive(other)

    async def test_others_can_be_ended_in_a_transaction(self) -> None:
        """Behaviours 37, 46: its function runs once more, and has nothing to end."""
        own, other = [await self.signed_in(self.elsewhere) for _ in range(2)]
        session = await self.sessions.load(own)

        async def count(session: Session) -> None:
            session["n"] = session.get("n", 0) + 1
            await self.sessions.revoke_all("ada", keep=session)

        await session.transact(count)
        assert await self.values(own) == {"n": 1}
        assert not await self.is_alive(other)

    async def test_another_user_takes_no_mark_along(self) -> None:
        """Behaviour 79: nor does a login that begins a fresh session."""
        for user, ends in (("grace", False), ("ada", True)):
            own, _ = [await self.signed_in(self.elsewhere) for _ in range(2)]
            store = HeldVault(Vault(self.backend))
            sessions = self.make(store)
            revoking = asyncio.ensure_future(self.end_others(sessions, own, MARKED))
            await store.arrived.wait()
            session = await self.elsewhere.load(own)
            if ends:
                await self.end_elsewhere(own)
            session.login(user)
            await session.save()
            assert (await self.envelope(token_of(session))).claim is None
            store.resumed.set()
            assert await revoking
            assert await self.is_alive(token_of(session))
            await sessions.close()

    async def test_without_others_nothing_is_stored(self) -> None:
        """Behaviour 46: a revocation that has nothing to end only looks."""
        own = await self.signed_in(self.elsewhere)
        self.vault.calls.clear()
        assert await self.end_others(self.sessions, own) == ""
        assert self.vault.calls == ["load", "find", "load"]


class MeanwhileTest(RevokedCase):
    """A session gets another id, or somebody signs in, while sessions are ended."""

    def setUp(self) -> None:
        super().setUp()
        self.store = InterruptedVault(Vault(self.backend))
        self.sessions.vault = self.store

    async def test_what_a_kept_session_becomes_is_kept(self) -> None:
        """Behaviours 76, 78: it has its new record, and the old one leads nowhere yet."""
        for moves in (False, True):
            own, other = [await self.signed_in(self.elsewhere) for _ in range(2)]
            session = await self.sessions.load(own)
            session.regenerate() if moves else session.login("ada")
            told: list[str] = []

            async def end_others(own: str = own, told: list[str] = told) -> None:
                told.append(await self.end_others(self.elsewhere, own))

            self.store.before_replace = end_others
            await session.save()
            assert told == [""]
            assert await self.living(token_of(session), own, other) == [
                True,
                False,
                False,
            ]
            assert (await self.envelope(token_of(session))).claim is None
            await self.elsewhere.revoke_all("ada")

    async def test_what_a_marked_session_becomes_is_kept(self) -> None:
        """Behaviours 76, 78: also where the mark is there before the new record."""
        own, other = [await self.signed_in(self.elsewhere) for _ in range(2)]
        held = HeldVault(Vault(self.backend))
        revoking = self.make(held)
        session = await self.sessions.load(own)
        session.login("ada")
        tasks: list[asyncio.Task[str]] = []

        async def mark() -> None:
            # It is held up with its mark stored, before it lists the others again.
            tasks.append(asyncio.ensure_future(self.end_others(revoking, own, MARKED)))
            await held.arrived.wait()
            self.store.before_replace = go_on

        async def go_on() -> None:
            # It has ended the others, and its mark is still there.
            held.resume_until("find")
            await held.arrived.wait()

        self.store.before_replace = mark
        await session.save()
        held.resumed.set()
        assert await tasks[0] == ""
        assert await self.living(token_of(session), own, other) == [True, False, False]
        await revoking.close()

    async def test_a_login_meanwhile_holds(self) -> None:
        """Behaviour 76: one that is stored when the revocation has begun."""
        for keeps in (False, True):
            own, other = [await self.signed_in(self.elsewhere) for _ in range(2)]
            anonymous = await self.stored({"a": 1})
            fresh: list[str] = []

            async def sign_in(
                anonymous: str = anonymous, fresh: list[str] = fresh
            ) -> None:
                fresh.append(await self.signed_in(self.elsewhere))
                fresh.append(await self.signed_in(self.elsewhere, anonymous))

            self.store.before_end = sign_in
            session = await self.sessions.load(own)
            await self.sessions.revoke_all("ada", keep=session if keeps else None)
            assert await self.living(*fresh, own, other) == [True, True, keeps, False]
            await self.elsewhere.revoke_all("ada")

    async def test_a_login_that_finds_its_session_revoked_holds(self) -> None:
        """Behaviours 76, 78: though the revocation has listed its first attempt."""
        own = await self.signed_in(self.elsewhere)
        store = InterruptedVault(Vault(self.backend))
        revoking = self.make(store)
        session = await self.sessions.load(own)
        session.login("ada")
        listing, begun = asyncio.Event(), asyncio.Event()

        async def list_again() -> None:
            listing.set()
            await begun.wait()

        async def list_once() -> None:
            store.before_find = list_again

        tasks: list[asyncio.Task[int]] = []

        async def revoke() -> None:
            store.before_find = list_once
            tasks.append(asyncio.ensure_future(revoking.revoke_all("ada")))
            await listing.wait()

        self.store.before_replace = revoke
        await session.save()
        begun.set()
        await tasks[0]
        assert await self.living(own, token_of(session)) == [False, True]
        assert (await self.elsewhere.load(token_of(session))).id == session.id
        await revoking.close()

    async def test_what_moves_while_it_is_listed_is_revoked(self) -> None:
        """Behaviours 46, 77: the listing has passed the place of its new record."""
        for user in (None, "ada"):
            first = await self.signed_in(self.elsewhere)
            last = await self.elsewhere.load(await self.signed_in(self.elsewhere))
            last.regenerate()
            await last.save()
            await self.end_elsewhere(token_of(last))
            moved: list[str] = []

            async def move(
                token: str = first, user: str | None = user, moved: list[str] = moved
            ) -> None:
                session = await self.elsewhere.load(token)
                session.regenerate() if user is None else session.login(user)
                await session.save()
                moved.append(token_of(session))

            paged = PagedVault(Vault(self.backend))
            paged.after_first = move
            sessions = self.make(paged)
            assert await sessions.revoke_all("ada") == 1
            assert await self.living(first, *moved) == [False, False]
            await sessions.close()


class HeldVault(FaultyVault):
    """Stops before the nth call, or the nth of one operation, until told to go on."""

    def __init__(self, inner: Vault) -> None:
        super().__init__(inner)
        self.left = 0
        self.counted = ""
        self.arrived, self.resumed = asyncio.Event(), asyncio.Event()

    def resume_until(self, operation: str) -> None:
        """Goes on, and stops again before the next ``operation``."""
        before, self.counted, self.left = self.resumed, operation, 1
        self.arrived, self.resumed = asyncio.Event(), asyncio.Event()
        before.set()

    async def _enter(self, operation: str) -> None:
        counts = self.counted in ("", operation)
        self.left -= counts
        if counts and not self.left:
            self.arrived.set()
            await self.resumed.wait()
        await super()._enter(operation)


class PagedVault(FaultyVault):
    """Lets another request come and go after the first record that is found."""

    after_first: Callable[[], Awaitable[None]] | None = None

    async def find(self, user: str) -> AsyncIterator[tuple[bytes, Record]]:
        async for found in super().find(user):
            yield found
            interrupt, self.after_first = self.after_first, None
            if interrupt is not None:
                await interrupt()

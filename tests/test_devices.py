"""Tests of the event that a user has signed in on a new device."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tornado_sessions_memory import MemoryBackend

from tests.sessions_case import SessionsCase
from tornado_sessions import (
    BackendError,
    Record,
    Session,
    SessionError,
    SessionEvent,
    Sessions,
    Vault,
    Version,
)
from tornado_sessions.core import retries

DAY = 24 * 3600


class WatchedBackend(MemoryBackend):
    """Suspends at each load, and notes what is loaded and inserted."""

    def __init__(self) -> None:
        super().__init__()
        self.inserted: dict[bytes, Record] = {}
        self.loaded: list[bytes] = []
        self.fails = False

    async def load(self, key: bytes) -> Record | None:
        self.loaded.append(key)
        if self.fails:
            raise BackendError("The store is down.")
        record = await super().load(key)
        # Others store meanwhile.
        await asyncio.sleep(0)
        return record

    async def insert(self, key: bytes, record: Record) -> Version | None:
        self.inserted[key] = record
        return await super().insert(key, record)


class NewDeviceTest(SessionsCase):
    def setUp(self) -> None:
        super().setUp()
        self.backend = self.watched = WatchedBackend()
        self.told: list[SessionEvent] = []
        self.sessions = self.remembering()

    def remembering(self, namespace: str = "", **settings: Any) -> Sessions:
        settings = {"listener": self.tell, "listener_devices": True, **settings}
        return self.make(Vault(self.backend, namespace), **settings)

    def tell(self, event: SessionEvent) -> None:
        if event.name == "new_device":
            self.told.append(event)

    async def sign_in(
        self, label: str, user: str = "ada", sessions: Sessions | None = None
    ) -> Session:
        session = await (sessions or self.sessions).load(None)
        session.login(user)
        session.label = label
        await session.save()
        await self.sessions.tasks.wait()
        return session

    async def reasons(self, *labels: str, user: str = "ada") -> list[str | None]:
        """Signs in with each of ``labels``. Returns the reasons of the events."""
        self.told.clear()
        for label in labels:
            await self.sign_in(label, user)
        return [event.reason for event in self.told]

    def record(self) -> tuple[bytes, Record]:
        """Returns what was stored last without a user: that of the devices."""
        return [
            (key, record)
            for key, record in self.watched.inserted.items()
            if record.user is None
        ][-1]

    async def test_a_label_that_the_user_has_not_had_is_told(self) -> None:
        """Behaviour 100: once, and the very first one says so."""
        assert await self.reasons("laptop") == ["first"]
        assert await self.reasons("laptop", "phone", "laptop", "phone") == [None]
        assert await self.reasons("phone", user="bob") == ["first"]

    async def test_the_event_names_the_session(self) -> None:
        """Behaviours 99, 100: so that the user can end it."""
        session = await self.sign_in("laptop")

        mark = self.sessions.vault.fingerprint(session.expose_token())
        assert self.told == [
            SessionEvent(
                "new_device",
                self.clock,
                mark,
                user="ada",
                reason="first",
                handle=session.id,
            )
        ]

    async def test_a_label_that_is_set_after_the_login_counts(self) -> None:
        """Behaviour 100: when it is saved."""
        session = await self.sign_in("")
        assert self.told == []
        session.label = "laptop"
        await session.save()
        await self.sessions.tasks.wait()

        assert [event.user for event in self.told] == ["ada"]

    async def test_without_a_user_there_is_none(self) -> None:
        """Behaviour 100: a visitor may have a label as well."""
        session = await self.sessions.load(None)
        session.label, session["n"] = "laptop", 1
        with self.assertNoLogs("tornado_sessions"):
            await session.save()
            await self.sessions.tasks.wait()
        assert self.told == []

        session.login("ada")
        session.label = "laptop"
        await session.save()
        await self.sessions.tasks.wait()
        assert len(self.told) == 1

    async def test_what_is_saved_otherwise_asks_for_nothing(self) -> None:
        """Behaviour 100: a request without a login or another label costs nothing."""
        session = await self.sign_in("laptop")
        key, _ = self.record()
        self.watched.loaded.clear()
        session["n"] = 1
        await session.save()
        session.regenerate()
        await session.save()
        await self.sessions.tasks.wait()

        assert self.watched.loaded
        assert key not in self.watched.loaded

    async def test_a_label_is_remembered_when_its_sessions_have_gone(self) -> None:
        """Behaviour 100: that is why it is not looked up among the sessions."""
        await self.sign_in("laptop")
        self.clock += 399 * DAY
        await self.sessions.purge()

        assert await self.reasons("phone", "laptop") == [None]

    async def test_a_label_is_forgotten_400_days_after_its_last_use(self) -> None:
        """Behaviour 100: whether or not the store has removed the record."""
        await self.sign_in("laptop")
        await self.sign_in("phone")
        for _ in range(5):
            self.clock += 100 * DAY
            assert await self.reasons("laptop") == []
        assert await self.reasons("phone") == [None]
        self.clock += 400 * DAY

        assert await self.reasons("laptop") == ["first"]

    async def test_the_store_keeps_the_record_as_long(self) -> None:
        """Behaviour 100: from the last time that it was written."""
        await self.sign_in("laptop")

        _, record = self.record()
        assert record.expires == self.clock + 400 * DAY

    async def test_a_login_soon_after_the_last_one_writes_nothing(self) -> None:
        """Behaviour 100: ten days later it does, so that the label is kept."""
        await self.sign_in("laptop")
        key, _ = self.record()
        for days, is_written in ((9, False), (1, True)):
            before = await self.backend.load(key)
            self.clock += days * DAY
            assert await self.reasons("laptop") == []
            after = await self.backend.load(key)
            assert before is not None
            assert after is not None
            assert (after.version != before.version) is is_written

    async def test_of_more_than_fifty_labels_the_oldest_is_forgotten(self) -> None:
        """Behaviour 100: a user cannot fill the store."""
        for number in range(51):
            assert len(await self.reasons(f"device {number}")) == 1
            self.clock += 1

        assert await self.reasons("device 1", "device 50") == []
        assert await self.reasons("device 0") == [None]

    async def test_of_two_logins_at_once_one_is_on_a_new_device(self) -> None:
        """Behaviour 100: both find nothing, and one of them is first."""
        await asyncio.gather(*(self.sign_in("laptop") for _ in range(5)))
        assert [event.reason for event in self.told] == ["first"]

        self.told.clear()
        labels = [f"device {number}" for number in range(5)]
        await asyncio.gather(*(self.sign_in(label) for label in labels))
        assert [event.reason for event in self.told] == [None] * 5

    async def test_another_namespace_has_labels_of_its_own(self) -> None:
        """Behaviour 100: also where namespace and user come out the same together."""
        await self.sign_in("laptop", "a:b")
        for namespace, user in (("a", "b"), ("a:", "b"), ("shop", "a:b")):
            sessions = self.remembering(namespace)
            self.told.clear()
            await self.sign_in("laptop", user, sessions)
            await sessions.tasks.wait()
            assert [event.reason for event in self.told] == ["first"]

    async def test_the_store_has_neither_the_user_nor_the_label(self) -> None:
        """Behaviour 100: a digest of each."""
        await self.sign_in("laptop")

        key, record = self.record()
        for text in (b"ada", b"laptop"):
            assert text not in key + record.data

    async def test_they_can_be_forgotten(self) -> None:
        """Behaviour 100: with the account of the user."""
        await self.sign_in("laptop")
        await self.sign_in("laptop", "bob")
        await self.sessions.forget_devices("ada")

        assert await self.reasons("laptop") == ["first"]
        assert await self.reasons("laptop", user="bob") == []

    async def test_without_the_setting_there_is_nothing_to_forget(self) -> None:
        """Nothing is remembered then, and nothing is told."""
        sessions = self.remembering(listener_devices=False)
        await self.sign_in("laptop", sessions=sessions)
        assert self.told == []
        with pytest.raises(SessionError) as caught:
            await sessions.forget_devices("ada")

        assert str(caught.value) == (
            "forget_devices() needs session_listener_devices=True: without it the"
            " devices of users are not remembered."
        )

    async def test_a_store_that_fails_fails_no_login(self) -> None:
        """Behaviours 76, 100: it is logged that nothing is known."""
        self.watched.fails = True
        with self.assertLogs("tornado_sessions", "WARNING") as logged:
            session = await self.sign_in("laptop")

        assert not session.is_new
        assert self.told == []
        (record,) = logged.records
        assert record.getMessage() == (
            "It is not known whether a user has signed in on a new device: The store is"
            " down."
        )

    async def test_a_record_that_cannot_be_read_is_left_as_it_is(self) -> None:
        """Behaviours 32, 33, 100: nor is that of another user accepted."""
        await self.sign_in("laptop", "bob")
        _, other = self.record()
        await self.sign_in("laptop")
        key, _ = self.record()
        for data in (b"rubbish", other.data):
            await self.backend.delete(key)
            await self.backend.insert(key, Record(data))
            with self.assertLogs("tornado_sessions", "WARNING"):
                assert await self.reasons("phone") == []
            stored = await self.backend.load(key)
            assert stored is not None
            assert stored.data == data

    async def test_conflicts_without_an_end_are_logged(self) -> None:
        """Behaviour 100: others keep changing the record."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(retries, "PATIENCE", -1.0)
            patch.setattr(self.watched, "insert", self._refuse_devices)
            with self.assertLogs("tornado_sessions", "WARNING") as logged:
                await self.sign_in("laptop")

        assert logged.records[0].getMessage() == (
            "It is not known whether a user has signed in on a new device: The label"
            " could not be stored within 10 s: other logins of the user kept changing"
            " the record."
        )

    async def _refuse_devices(self, key: bytes, record: Record) -> Version | None:
        if record.user is None:
            return None
        return await MemoryBackend.insert(self.backend, key, record)

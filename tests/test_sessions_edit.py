"""Tests of sessions that are changed from outside of their requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tornado_sessions_cookie import CookieBackend
from tornado_sessions_memory import MemoryBackend

from tests.sessions_case import IDLE, LIFETIME, START, SessionsCase
from tests.tokens import token_of
from tornado_sessions import (
    BackendError,
    Record,
    Session,
    SessionDataError,
    SessionError,
    SessionEvent,
    SessionGoneError,
    Vault,
)
from tornado_sessions.core import retries
from tornado_sessions.core.codec import encode
from tornado_sessions.core.values import state_of
from tornado_sessions.testing.interruptions import InterruptedVault


class EditCase(SessionsCase):
    """Sessions of Ada, and what comes between the load and the save of an edit."""

    async def asyncSetUp(self) -> None:
        self.store = InterruptedVault(Vault(self.backend))
        self.sessions.vault = self.store

    async def signed_in(self, user: str = "ada", **values: Any) -> Session:
        """Returns a session that was stored in another process."""
        session = await self.elsewhere.load(None)
        session.update(values)
        session.login(user)
        await session.save()
        return session

    async def edit(
        self, handle: str, *acts: Callable[[Session], object], user: str = "ada"
    ) -> None:
        """Runs ``acts`` in the block of one edit."""
        async with self.sessions.edit(user, handle) as session:
            for act in acts:
                done = act(session)
                if isinstance(done, Awaitable):
                    await done

    async def newest(self, session: Session) -> dict[str, Any]:
        return await self.values(token_of(session))


class EditTest(EditCase):
    async def test_what_it_changes_is_stored(self) -> None:
        """Behaviour 92: for the next request of that session."""
        ada = await self.signed_in(role="admin", cart={"apple": 1})
        async with self.sessions.edit("ada", ada.id) as session:
            assert session["role"] == "admin"
            assert (session.user, session.id) == ("ada", ada.id)
            assert not session.is_new
            session["role"] = "reader"
            session["cart"]["pear"] = 2
            session.label = "laptop"
            session.flash("Your role has changed.")

        found = await self.elsewhere.load(token_of(ada))
        assert dict(found) == {"role": "reader", "cart": {"apple": 1, "pear": 2}}
        assert found.label == "laptop"
        assert found.flashes() == [("Your role has changed.", "info")]

    async def test_the_listener_is_told_what_was_edited(self) -> None:
        """Behaviour 92: for an audit log; an edit that changes nothing is none."""
        told: list[SessionEvent] = []
        ada = await self.signed_in(n=1)
        self.sessions.events.listener = told.append
        await self.edit(ada.id, _put(n=1))
        await self.edit(ada.id, _put(n=2))

        (event,) = told
        assert (event.name, event.user, event.handle) == ("edited", "ada", ada.id)
        assert event.fingerprint == self.store.fingerprint(token_of(ada))

    async def test_other_sessions_of_the_user_are_left_alone(self) -> None:
        """Behaviour 92: the handle says which one it is."""
        ada, other = await self.signed_in(n=1), await self.signed_in(n=1)
        async with self.sessions.edit("ada", ada.id) as session:
            session["n"] = 2

        assert await self.newest(ada) == {"n": 2}
        assert await self.newest(other) == {"n": 1}

    async def test_a_read_stores_nothing(self) -> None:
        """Behaviour 92: nor does a change that is taken back."""
        ada = await self.signed_in(cart={})
        async with self.sessions.edit("ada", ada.id) as session:
            session["cart"]["apple"] = 1
            del session["cart"]["apple"]

        assert self.store.calls == ["find"]

    async def test_an_error_in_its_block_stores_nothing(self) -> None:
        """Behaviour 92: the error is passed on."""
        ada = await self.signed_in(n=1)
        with pytest.raises(ZeroDivisionError):
            await self.edit(ada.id, _put(n=2), lambda session: 1 / 0)

        assert await self.newest(ada) == {"n": 1}

    async def test_it_is_no_use_of_the_session(self) -> None:
        """Behaviour 92: it restarts no idle timeout, and the store keeps no more."""
        ada = await self.signed_in(n=1)
        before = await self.envelope(token_of(ada))
        self.clock += IDLE / 2
        async with self.sessions.edit("ada", ada.id) as session:
            session["n"] = 2

        after = await self.envelope(token_of(ada))
        assert (after.seen, after.expires) == (before.seen, before.expires)
        self.clock = START + IDLE
        assert not await self.is_alive(token_of(ada))
        self.clock += 299
        assert await self.sessions.purge() == 0
        self.clock += 3
        assert await self.sessions.purge() == 1

    async def test_a_longer_timeout_of_the_settings_is_not_applied(self) -> None:
        """Behaviours 47, 92: that waits for the visitor's next request."""
        ada = await self.signed_in(n=1)
        longer = self.make(Vault(self.backend), idle_timeout=2 * IDLE)
        async with longer.edit("ada", ada.id) as session:
            session["n"] = 2

        assert (await self.envelope(token_of(ada))).expires == START + IDLE
        await longer.close()

    async def test_its_timeouts_can_be_changed(self) -> None:
        """Behaviours 50, 92: they count from the last request."""
        ada = await self.signed_in()
        self.clock += IDLE / 10
        async with self.sessions.edit("ada", ada.id) as session:
            session.set_expiry(idle=IDLE / 2, lifetime=LIFETIME)
        assert (await self.envelope(token_of(ada))).expires == START + IDLE / 2

        async with self.sessions.edit("ada", ada.id) as session:
            session.reset_expiry()
        assert (await self.envelope(token_of(ada))).expires == START + IDLE

    async def test_it_is_merged_with_what_was_saved_meanwhile(self) -> None:
        """Behaviours 38, 92: dict by dict, and of two writes to a value the last wins."""
        told: list[SessionEvent] = []
        self.sessions.events.listener = told.append
        ada = await self.signed_in(role="admin", cart={"apple": 1}, gone=1)
        async with self.sessions.edit("ada", ada.id) as session:
            session["role"] = "reader"
            session["cart"]["pear"] = 2
            del session["gone"]
            await self.change_elsewhere(
                token_of(ada), role="writer", cart={"apple": 1, "fig": 3}, new=1
            )

        assert await self.newest(ada) == {
            "role": "reader",
            "cart": {"apple": 1, "fig": 3, "pear": 2},
            "new": 1,
        }
        assert [event.name for event in told] == ["conflict", "edited"]

    async def test_several_conflicts_are_told_as_one(self) -> None:
        """Behaviours 38, 92: others may be first more than once."""
        told: list[SessionEvent] = []
        self.sessions.events.listener = told.append
        ada = await self.signed_in(n=1)
        left = 3

        async def change() -> None:
            nonlocal left
            left -= 1
            self.store.before_end = change if left else None
            await self.change_elsewhere(token_of(ada), left=left)

        self.store.before_end = change
        await self.edit(ada.id, _put(n=2))

        assert await self.newest(ada) == {"n": 2, "left": 0}
        assert [event.name for event in told] == ["conflict", "edited"]

    async def test_a_request_in_progress_is_merged_with_it(self) -> None:
        """Behaviour 92: and takes none of it back."""
        ada = await self.signed_in(role="admin")
        request = await self.elsewhere.load(token_of(ada))
        assert request["role"] == "admin"
        async with self.sessions.edit("ada", ada.id) as session:
            session["role"] = "reader"
        request["seen"] = True
        await request.save()

        assert await self.newest(ada) == {"role": "reader", "seen": True}

    async def test_it_follows_a_session_to_its_new_id(self) -> None:
        """Behaviours 77, 92: before the edit is stored, and while it is."""
        ada = await self.signed_in(n=1)

        async def move() -> None:
            ada.regenerate()
            await ada.save()

        async with self.sessions.edit("ada", ada.id) as session:
            session["n"] = 2
            await move()
        assert await self.newest(ada) == {"n": 2}

        self.store.before_end = move
        async with self.sessions.edit("ada", ada.id) as session:
            session["n"] = 3
        assert await self.newest(ada) == {"n": 3}

    async def test_a_change_of_the_id_in_progress_takes_it_along(self) -> None:
        """Behaviour 92: whichever of the two records stays."""
        for keeps_old in (True, False):
            ada = await self.signed_in(n=1)
            found = await self.store.inner.load(token_of(ada))
            assert found is not None
            # As a request does that changes the id: the old record is still there.
            copy = await self.store.inner.insert(Record(found.data, user="ada"))
            async with self.sessions.edit("ada", ada.id) as session:
                session["n"] = 2
            kept = token_of(ada) if keeps_old else copy.token

            assert await self.values(kept) == {"n": 2}

    async def test_what_has_ended_is_not_brought_back(self) -> None:
        """Behaviours 39, 92: neither before its block nor during it."""
        ada = await self.signed_in(n=1)

        async def end(session: object = None) -> None:
            await self.end_elsewhere(token_of(ada))

        with pytest.raises(SessionGoneError):
            await self.edit(ada.id, _put(n=2), end)
        with pytest.raises(SessionGoneError):
            async with self.sessions.edit("ada", ada.id):
                pytest.fail("It has ended.")

        ada = await self.signed_in(n=1)
        self.store.before_end = end
        with pytest.raises(SessionGoneError):
            await self.edit(ada.id, _put(n=2))
        assert not await self.is_alive(token_of(ada))

    async def test_what_has_expired_is_gone(self) -> None:
        """Behaviour 92: but not if it expires during the edit."""
        ada = await self.signed_in(n=1)
        self.clock = START + IDLE - 1
        async with self.sessions.edit("ada", ada.id) as session:
            self.clock = START + IDLE
            session["n"] = 2

        assert (await self.envelope(token_of(ada))).expires == START + IDLE
        with pytest.raises(SessionGoneError):
            async with self.sessions.edit("ada", ada.id):
                pytest.fail("It has expired.")

    async def test_what_expires_during_an_edit_is_merged_all_the_same(self) -> None:
        """Behaviours 47, 92: it is judged by when the edit began, as a request is."""
        ada = await self.signed_in(n=1)
        ada.set_expiry(lifetime=IDLE / 10)
        await ada.save()
        request = await self.elsewhere.load(token_of(ada))
        async with self.sessions.edit("ada", ada.id) as session:
            session["n"] = 2
            self.clock += IDLE / 5
            request["m"] = 1
            await request.save()

        self.clock = START
        assert await self.newest(ada) == {"n": 2, "m": 1}

    async def test_a_handle_of_another_user_leads_nowhere(self) -> None:
        """Behaviours 46, 92: with the same error as one that nobody has."""
        bob = await self.signed_in("bob", n=1)
        for handle in (bob.id, "unknown", ""):
            with pytest.raises(SessionGoneError) as caught:
                async with self.sessions.edit("ada", handle):
                    pytest.fail("It is Bob's.")
            assert str(caught.value) == (
                f"The user has no session {handle!r} that is alive: it has ended, or its"
                " handle has changed with a login. of_user() lists those that are."
            )

    async def test_a_long_handle_is_repeated_in_part(self) -> None:
        """It may come from a form, and the message goes to the log."""
        with pytest.raises(SessionGoneError) as caught:
            async with self.sessions.edit("ada", "x" * 100_000):
                pytest.fail("There is none.")

        assert len(str(caught.value)) < 300

    async def test_a_value_that_cannot_be_stored_stores_nothing(self) -> None:
        """Behaviours 25, 92: nor does a session that is too large."""
        ada = await self.signed_in(n=1)
        for value in (object(), "x" * 100_000):
            with pytest.raises(SessionDataError):
                await self.edit(ada.id, _put(n=value))

        assert await self.newest(ada) == {"n": 1}

    async def test_a_store_that_fails_is_told(self) -> None:
        """Behaviour 92: at the beginning or at the end of the block."""
        ada = await self.signed_in(n=1)
        self.store.failing = {"find"}
        with pytest.raises(BackendError):
            async with self.sessions.edit("ada", ada.id):
                pytest.fail("It was not loaded.")
        self.store.failing = {"save"}
        with pytest.raises(BackendError):
            await self.edit(ada.id, _put(n=2))

    async def test_conflicts_without_an_end_are_told(self) -> None:
        """Behaviour 92: other requests are first, each time."""
        ada = await self.signed_in(n=1)

        async def change() -> None:
            self.store.before_end = change
            await self.change_elsewhere(token_of(ada), other=self.clock)
            self.clock += 0.001

        self.store.before_end = change
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(retries, "PATIENCE", -1.0)
            with pytest.raises(BackendError) as caught:
                await self.edit(ada.id, _put(n=2))
        self.store.before_end = None

        assert str(caught.value) == (
            "The session could not be saved within 10 s: other requests kept changing it."
            " Try again."
        )

    async def test_a_mark_of_a_revocation_stays(self) -> None:
        """Behaviours 78, 92: it decides which session survives."""
        ada = await self.signed_in(n=1)
        envelope = await self.envelope(token_of(ada))
        found = await self.store.inner.load(token_of(ada))
        assert found is not None
        envelope.claim = mark = (1, 0, "nonce", int(START))  # type: ignore[assignment]
        await self.store.inner.replace(
            token_of(ada), Record(encode(envelope), user="ada"), found.version
        )
        async with self.sessions.edit("ada", ada.id) as session:
            session["n"] = 2

        assert (await self.envelope(token_of(ada))).claim == mark


class NobodysBackend(MemoryBackend):
    finds_by_user = False


class RefusedEditTest(EditCase):
    async def refusal(self, act: Callable[[Session], object]) -> str:
        """Returns the message for ``act`` in the block, which stores nothing."""
        ada = await self.signed_in(n=1)
        with pytest.raises(SessionError) as caught:
            await self.edit(ada.id, _put(n=2), act)
        assert await self.newest(ada) == {"n": 1}
        return str(caught.value)

    async def test_what_needs_a_new_cookie_is_refused(self) -> None:
        """Behaviour 92: only a response to the visitor can carry one."""
        for what, act in (
            ("login()", lambda session: session.login("eve")),
            ("regenerate()", lambda session: session.regenerate()),
            (
                "A change of session.persistent",
                lambda session: setattr(session, "persistent", True),
            ),
        ):
            assert await self.refusal(act) == (
                f"{what} needs a new cookie, and edit() has no response to the visitor"
                " that could carry it. Do this in a request of that session."
            )

    async def test_an_end_is_refused(self) -> None:
        """Behaviour 92: the message names what ends one."""
        acts: tuple[Callable[[Session], object], ...] = (
            Session.destroy,
            Session.logout,
            lambda session: session.set_expiry(idle=0),
        )
        for act in acts:
            assert await self.refusal(act) == (
                "A session is not ended inside of edit(). Call"
                " 'await sessions.revoke(user, id)' instead."
            )

    async def test_a_save_in_its_block_is_refused(self) -> None:
        """Behaviour 92: else an error after it would leave half of it."""
        acts: tuple[Callable[[Session], object], ...] = (
            Session.save,
            Session.reload,
            lambda session: session.transact(dict),
        )
        for act in acts:
            assert await self.refusal(act) == (
                "save(), reload() and transact() do not work inside of edit(): it loads"
                " the session before its block and stores what has changed after it."
            )

    async def test_its_token_is_not_known(self) -> None:
        """Behaviours 7, 92: so support cannot take the session over."""
        assert await self.refusal(Session.expose_token) == (
            "The id of a session that is edited is not known: the store has a digest of"
            " it, and only the visitor has the id."
        )

    async def test_a_change_after_its_block_is_refused(self) -> None:
        """Behaviour 92: it would be lost."""
        ada = await self.signed_in(n=1)
        async with self.sessions.edit("ada", ada.id) as session:
            pass

        def delete(session: Session) -> None:
            del session["n"]

        acts: tuple[Callable[[Session], object], ...] = (
            lambda session: session.update(n=2),
            lambda session: session.flash("late"),
            lambda session: setattr(session, "label", "late"),
            lambda session: session.set_expiry(idle=1),
            Session.clear,
            delete,
        )
        for act in acts:
            with pytest.raises(SessionError) as caught:
                act(session)
            assert str(caught.value) == (
                "The block of edit() has ended, so this change of its session cannot be"
                " stored. Change the session inside of 'async with sessions.edit(…)'."
            )
        assert session["n"] == 1

    async def test_it_is_refused_in_a_transaction_of_the_same_session(self) -> None:
        """Behaviours 80, 92: each of the two would wait for the other to be first."""
        ada, other = await self.signed_in(n=1), await self.signed_in(n=1)
        mine = await self.sessions.load(token_of(ada))

        async def edit(session: Session) -> None:
            async with self.sessions.edit("ada", other.id) as theirs:
                theirs["n"] = 2
            async with self.sessions.edit("ada", ada.id):
                pytest.fail("It would never end.")

        with pytest.raises(SessionError) as caught:
            await mine.transact(edit)

        assert str(caught.value) == (
            "The function given to transact() called edit() for the same session. It"
            " would never end: change the values of transact() instead."
        )
        assert await self.newest(other) == {"n": 2}
        async with self.sessions.edit("ada", ada.id) as session:
            session["n"] = 2

    async def test_a_user_that_is_none_is_refused(self) -> None:
        """As `of_user` refuses it."""
        with pytest.raises(TypeError, match=r"edit\(\) takes the user's id as a str"):
            async with self.sessions.edit(None, "handle"):  # type: ignore[call-overload]
                pytest.fail("There is no such user.")

    async def test_a_store_that_cannot_look_up_users_refuses_it(self) -> None:
        """Behaviours 46, 92: the message says what to do."""
        sessions = self.make(Vault(NobodysBackend()))
        with pytest.raises(SessionError) as caught:
            async with sessions.edit("ada", "handle"):
                pytest.fail("There is nothing to look it up with.")

        assert str(caught.value) == (
            "NobodysBackend cannot look up the sessions of a user. Use a backend that"
            " declares finds_by_user, such as 'sqlite'."
        )


class ExposedTokenTest(SessionsCase):
    async def test_it_is_what_the_client_sends(self) -> None:
        """Behaviour 93: after the save that draws it."""
        session = await self.sessions.load(None)
        session.login("ada")
        await session.save()

        token = session.expose_token()
        assert token == token_of(session)
        assert (await self.elsewhere.load(token)).user == "ada"

    async def test_before_the_save_there_is_none(self) -> None:
        """Behaviour 93: nor one that is about to be replaced, or has ended."""
        message = (
            "expose_token() needs the session's id, which is drawn when the session is"
            " saved. Call 'await session.save()' before it; an empty session is not"
            " saved."
        )
        session = await self.sessions.load(None)
        for act in (
            lambda: None,
            lambda: session.update(n=1),
            session.regenerate,
            lambda: session.login("ada"),
            session.destroy,
        ):
            act()
            with pytest.raises(SessionError) as caught:
                session.expose_token()
            assert str(caught.value) == message
            await session.save()
        assert state_of(session).token is None

    async def test_a_cookie_that_a_change_replaces_is_none(self) -> None:
        """Behaviour 93: where the token is the session itself."""
        sessions = self.make(CookieBackend({0: "s" * 32}, 0))
        session = await sessions.load(None)
        session["n"] = 1
        await session.save()
        token = session.expose_token()
        assert dict(await sessions.load(token)) == {"n": 1}
        session["n"] = 2
        with pytest.raises(SessionError, match="needs the session's id"):
            session.expose_token()


def _put(**values: object) -> Callable[[Session], None]:
    return lambda session: session.update(values)

"""Tests of a session's user: the login, the handle, the label, the end."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from tests.session_views import (
    IDLE,
    LIFETIME,
    START,
    TOKEN,
    Clock,
    Loaded,
    values_after,
    view,
)
from tornado_sessions import (
    Session,
    SessionError,
    Sessions,
    UserSession,
)
from tornado_sessions.core.values import state_of


class HandleTest:
    def test_it_stays_the_same(self, new: Session) -> None:
        """It is minted once, and stored as it was read."""
        handle = new.id
        new["a"] = 1

        assert new.id == handle
        assert state_of(new).pack().id == handle
        assert state_of(new).pack().id == handle

    def test_it_is_minted_when_it_is_stored(self, new: Session) -> None:
        """Nobody has to have read it."""
        new["a"] = 1

        assert state_of(new).pack().id == new.id

    def test_it_is_random(self, sessions: Sessions) -> None:
        """96 bits in base64url, and no two alike."""
        handles = {view(sessions).id for _ in range(100)}

        assert len(handles) == 100
        assert all(re.fullmatch(r"[\w-]{16}", handle) for handle in handles)

    def test_reading_it_stores_nothing(self, new: Session) -> None:
        """Behaviour 13: it is a read."""
        assert new.id
        assert not new.modified

    def test_it_survives_a_regenerate_and_no_destroy(self, loaded: Loaded) -> None:
        """It names the session, and not its token."""
        session = loaded()
        session.regenerate()
        assert session.id == "handle"

        session.destroy()
        assert session.id != "handle"


class LabelTest:
    def test_it_is_empty_until_it_is_set(self, loaded: Loaded) -> None:
        """And is stored like anything else."""
        session = loaded()
        assert session.label == ""

        session.label = "Firefox on Linux"

        assert session.label == state_of(session).pack().label == "Firefox on Linux"

    def test_alone_it_stores_nothing(self, new: Session) -> None:
        """Behaviour 14: nothing is worth storing that says only what it is called."""
        new.label = "Firefox on Linux"

        assert not new.modified

    def test_an_equal_one_is_no_change(self, loaded: Loaded) -> None:
        """Behaviour 22: as with a value."""
        session = loaded()
        session.label = ""

        assert not session.modified

    def test_it_has_200_characters_at_the_most(self, new: Session) -> None:
        """It goes into every list."""
        new.label = "é" * 200

        with pytest.raises(
            ValueError, match="has at most 200 characters; this one has"
        ):
            new.label = "é" * 201

        assert new.label == "é" * 200

    def test_it_is_a_str(self, new: Session) -> None:
        """Of an object there is no telling what would be stored."""
        number: Any = 5
        with pytest.raises(TypeError, match=r"\Alabel is a str, not int\.\Z"):
            new.label = number

    def test_it_is_unicode(self, new: Session) -> None:
        """Else the record could not be written."""
        with pytest.raises(ValueError, match=r"\Alabel is Unicode text\.\Z"):
            new.label = "\ud800"

    def test_another_user_takes_none_over(self, loaded: Loaded) -> None:
        """It was given to the device of the one before."""
        session = loaded(user="ada", label="Ada's phone")
        session.login("ada")
        assert session.label == "Ada's phone"

        session.login("eve")
        assert session.label == ""

    def test_after_the_headers_it_needs_a_session(self, new: Session) -> None:
        """Behaviour 28: none can be begun then."""
        state_of(new).headers_sent = True

        with pytest.raises(SessionError, match="This visitor has no session yet"):
            new.label = "Firefox"


class UserSessionTest:
    def test_its_repr_has_no_label(self) -> None:
        """Behaviour 8: what an application wrote there is no matter for a log."""
        session = UserSession("handle", 1.0, 2.0, 3.0, 1.0, False, "Ada's phone", "ada")

        assert repr(session) == (
            "UserSession(id='handle', created=1.0, last_seen=2.0, expires=3.0,"
            " auth_time=1.0, persistent=False)"
        )


class LoginTest:
    def test_it_binds_the_user(self, loaded: Loaded, clock: Clock) -> None:
        """With the time, and under a fresh token."""
        session = loaded({"cart": {"apple": 1}})
        clock.now += 100
        session.login("ada")

        assert session.user == "ada"
        assert session.auth_time == clock.now
        assert state_of(session).needs_new_id
        assert state_of(session).pack().user == "ada"
        assert state_of(session).pack().auth_time == clock.now

    def test_it_keeps_the_values(self, loaded: Loaded) -> None:
        """Behaviour 79: a cart that was filled beforehand."""
        session = loaded({"cart": {"apple": 1}})
        session.login("ada")

        assert values_after(session) == {"cart": {"apple": 1}}

    def test_it_takes_nothing_else_along(self, loaded: Loaded) -> None:
        """Behaviour 79: it may have been planted, the handle as well."""
        session = loaded(
            {"a": 1},
            flashes={"1": ("Planted.", "info")},
            idle=5.0,
            lifetime=6.0,
            persistent=True,
            label="Planted",
        )
        session.login("ada")
        packed = state_of(session).pack()

        assert packed.id not in ("", "handle")
        assert (packed.flashes, packed.label, packed.persistent) == ({}, "", None)
        assert (packed.idle, packed.lifetime) == (None, None)

    def test_it_takes_along_what_the_request_has_set(self, loaded: Loaded) -> None:
        """Behaviour 79: before it or after it, also where it was set already."""
        session = loaded(flashes={"1": ("Old.", "info")}, persistent=True, idle=60.0)
        session.persistent = True
        session.set_expiry(idle=60)
        session.flash("Welcome.")
        session.login("ada")
        session.label = "A phone"
        packed = state_of(session).pack()

        assert [*packed.flashes.values()] == [("Welcome.", "info")]
        assert (packed.persistent, packed.idle, packed.label) == (True, 60.0, "A phone")

    def test_it_keeps_only_the_keys_it_is_given(self, loaded: Loaded) -> None:
        """Behaviour 79: and what is set afterwards."""
        session = loaded({"cart": {"apple": 1}, "a": 1})
        session["b"] = 1
        session.login("ada", keep=["cart", "absent"])
        session["c"] = 1
        assert values_after(session) == {"cart": {"apple": 1}, "c": 1}

        session.login("ada", keep=())
        assert values_after(session) == {}

    @pytest.mark.parametrize(
        ("keep", "message"),
        [
            (
                "cart",
                'login() takes keep as a list of keys, such as keep=["cart"], not str.',
            ),
            (
                7,
                'login() takes keep as a list of keys, such as keep=["cart"], not int.',
            ),
            (
                ["cart", 7],
                "login() takes the keys to keep as str, and one of them is of type int.",
            ),
        ],
    )
    def test_what_is_no_list_of_keys_is_refused(
        self,
        loaded: Loaded,
        keep: Any,  # noqa: ANN401
        message: str,
    ) -> None:
        """Behaviour 79: a str would be taken for its letters."""
        session = loaded({"a": 1})
        with pytest.raises(TypeError) as caught:
            session.login("ada", keep=keep)

        assert str(caught.value) == message
        assert not session.modified

    def test_a_sign_in_is_later_than_the_one_before(
        self, loaded: Loaded, clock: Clock
    ) -> None:
        """Behaviour 76: though the clock has gone back."""
        session = loaded(user="ada", auth_time=START)
        clock.now = START - 10
        session.login("ada")

        assert session.auth_time is not None
        assert START < session.auth_time < START + 1

    def test_it_restarts_both_clocks(self, loaded: Loaded, clock: Clock) -> None:
        """Behaviour 48: the idle timeout and the lifetime."""
        session = loaded()
        clock.now = START + LIFETIME - 10
        session.login("ada")

        assert session.expires == clock.now + IDLE
        assert session.expires_in == IDLE
        assert session.last_seen == clock.now
        assert session.created == START

    def test_as_another_user_it_removes_what_was_theirs(self, loaded: Loaded) -> None:
        """Behaviour 41: values, messages and the handle."""
        session = loaded(
            {"cart": {"apple": 1}}, user="ada", flashes={"1": ("Hello Ada.", "info")}
        )
        session.login("grace")
        session["a"] = 1

        assert session.user == "grace"
        assert values_after(session) == {"a": 1}
        assert session.flashes() == []
        assert session.id != "handle"

    def test_as_another_user_it_drops_what_was_set_before(self, loaded: Loaded) -> None:
        """Behaviours 50, 79: what was set for the one is not for the other."""
        session = loaded(
            {"a": 1}, user="ada", idle=60.0, lifetime=90.0, persistent=True, label="A"
        )
        session.login("grace")

        assert session.expires_in == IDLE
        assert (session.persistent, session.label) == (False, "")

    def test_as_another_user_it_keeps_what_this_request_has_set(
        self, loaded: Loaded
    ) -> None:
        """Behaviour 79: in whatever order; but no value, which may be the other's."""
        session = loaded({"a": 1}, user="ada", flashes={"1": ("Hi Ada.", "info")})
        session["a"] = session["b"] = 2
        session.set_expiry(idle=60, lifetime=90)
        session.persistent, session.label = True, "Firefox"
        session.flash("Welcome, Grace.")
        session.login("grace")

        assert (session.expires_in, session.persistent) == (60, True)
        assert session.label == "Firefox"
        assert session.flashes() == [("Welcome, Grace.", "info")]
        assert dict(session) == {}

    def test_as_the_same_user_it_keeps_everything(self, loaded: Loaded) -> None:
        """A user who enters the password again loses nothing."""
        session = loaded({"a": 1}, user="ada", flashes={"1": ("Hello.", "info")})
        session.login("ada")

        assert dict(session) == {"a": 1}
        assert session.flashes() == [("Hello.", "info")]
        # Whoever has a copy of the session from before does not share the handle.
        assert session.id != "handle"

    @pytest.mark.parametrize("user", [7, b"ada", ["ada"]])
    def test_a_user_that_is_no_string_is_refused(
        self,
        loaded: Loaded,
        user: Any,  # noqa: ANN401
    ) -> None:
        """With its type, and without its value."""
        session = loaded()
        with pytest.raises(TypeError) as caught:
            session.login(user)

        assert (
            str(caught.value)
            == f"login() takes the user's id as a str, not {type(user).__name__}:"
            " as in str(row.id)."
        )
        assert not session.modified

    def test_a_user_who_was_not_found_is_refused(self, loaded: Loaded) -> None:
        """Not with an advice that would sign in everybody as the user "None"."""
        session, nobody = loaded(), cast("Any", None)
        with pytest.raises(TypeError) as caught:
            session.login(nobody)

        assert str(caught.value) == (
            "login() takes the user's id as a str, not None. Find the user first, and"
            " refuse the request if there is none."
        )
        assert not session.modified

    def test_an_empty_user_is_refused(self, loaded: Loaded) -> None:
        """It would look like nobody."""
        session = loaded()
        with pytest.raises(ValueError, match=r"^login\(\) takes .*; it is empty\.$"):
            session.login("")

        assert not session.modified

    def test_a_user_that_is_not_unicode_is_refused(self, loaded: Loaded) -> None:
        """Behaviour 25: it could not be stored, so the caller is told."""
        session = loaded()
        with pytest.raises(ValueError, match=r"^login\(\)"):
            session.login("\ud800")

        assert not session.modified

    def test_logout_ends_the_session(self, loaded: Loaded) -> None:
        """As `destroy` does."""
        session = loaded({"a": 1}, user="ada")
        session.logout()

        assert session.user is None
        assert state_of(session).destroyed
        assert list(state_of(session).ended) == [TOKEN]


class EndingTest:
    def test_destroying_empties_it(self, loaded: Loaded) -> None:
        """Behaviour 42: nothing is left to be read."""
        session = loaded({"a": 1}, user="ada", flashes={"1": ("x", "info")})
        session.destroy()

        assert dict(session) == {}
        assert session.user is None
        assert session.flashes() == []
        assert session.is_new
        assert list(state_of(session).ended) == [TOKEN]

    def test_destroying_a_new_one_ends_nothing(self, new: Session) -> None:
        """Behaviour 43: there is no record to remove."""
        new["a"] = 1
        new.destroy()

        assert not new.modified
        assert not state_of(new).ended
        assert dict(new) == {}

    def test_destroying_twice_ends_one(self, loaded: Loaded) -> None:
        """The second time there is nothing left."""
        session = loaded()
        session.destroy()
        session.destroy()

        assert list(state_of(session).ended) == [TOKEN]

    def test_a_write_after_it_begins_a_new_session(self, loaded: Loaded) -> None:
        """Behaviour 43: without a token, and with a handle of its own."""
        session = loaded({"a": 1})
        session.destroy()
        session["b"] = 2

        assert state_of(session).token is None
        assert values_after(session) == {"b": 2}
        assert state_of(session).pack().id != "handle"

    def test_destroying_holds_when_all_is_dropped(self, loaded: Loaded) -> None:
        """Behaviour 29: only `destroy` does."""
        session = loaded({"a": 1})
        session.destroy()
        session["b"] = 1
        state_of(session).discard()

        assert list(state_of(session).ended) == [TOKEN]
        assert dict(session) == {}

    def test_a_regenerate_before_it_is_forgotten(self, loaded: Loaded) -> None:
        """Behaviour 9: there is nothing to give a new token to."""
        session = loaded({"a": 1})
        session.regenerate()
        session.regenerate()
        session.destroy()

        assert not state_of(session).needs_new_id
        assert list(state_of(session).ended) == [TOKEN]

    def test_regenerating_keeps_values_and_user(self, loaded: Loaded) -> None:
        """Behaviour 9: what changes is the token."""
        session = loaded({"a": 1}, user="ada")
        session.regenerate()

        assert state_of(session).needs_new_id
        assert session.modified
        assert session.user == "ada"
        assert dict(session) == {"a": 1}

    def test_regenerating_a_new_one_is_nothing(self, new: Session) -> None:
        """Behaviour 9: it gets a fresh token anyway."""
        new.regenerate()

        assert not state_of(new).needs_new_id

"""Tests of what a session has besides values: its expiry, messages and attributes."""

from __future__ import annotations

import datetime
import math
import types
from collections.abc import Callable, MutableMapping
from typing import Any

import msgspec
import pytest

from tests.session_views import (
    IDLE,
    START,
    TOKEN,
    Clock,
    Loaded,
    view,
)
from tornado_sessions import (
    Session,
    SessionDataError,
    SessionError,
    Sessions,
)
from tornado_sessions.core.codec import decode, encode
from tornado_sessions.core.values import state_of


class ExpiryTest:
    @pytest.mark.parametrize("name", ["idle", "lifetime"])
    @pytest.mark.parametrize("value", [60, 60.0, datetime.timedelta(minutes=1)])
    def test_a_session_may_have_an_end_of_its_own(
        self,
        loaded: Loaded,
        name: str,
        value: Any,  # noqa: ANN401
    ) -> None:
        """Behaviour 50: in seconds or as a timedelta."""
        session = loaded()
        session.set_expiry(**{name: value})

        assert session.expires == START + 60
        assert session.expires_in == 60
        assert getattr(state_of(session).pack(), name) == 60.0

    def test_what_is_none_stays(self, loaded: Loaded) -> None:
        """Each of the two can be set alone."""
        session = loaded(idle=60.0)
        session.set_expiry(lifetime=120)
        session.set_expiry()

        assert state_of(session).pack().idle == 60.0
        assert state_of(session).pack().lifetime == 120.0
        assert session.expires == START + 60

    def test_both_are_given_back_to_the_settings(self, loaded: Loaded) -> None:
        """Behaviour 79: where it has set nothing, that changes nothing."""
        session = loaded(idle=60.0, lifetime=120.0)
        session.reset_expiry()
        assert (state_of(session).pack().idle, state_of(session).pack().lifetime) == (
            None,
            None,
        )
        assert session.expires == START + IDLE

        session = loaded()
        session.reset_expiry()
        assert not session.modified

    def test_the_same_again_is_no_change(self, loaded: Loaded) -> None:
        """Behaviour 22: an equal value writes nothing."""
        session = loaded(idle=60.0)
        session.set_expiry(idle=60)

        assert state_of(session).pack() is state_of(session).base

    @pytest.mark.parametrize("value", [0, -1, datetime.timedelta(0), -0.5])
    @pytest.mark.parametrize("name", ["idle", "lifetime"])
    def test_zero_or_less_ends_the_session(
        self,
        loaded: Loaded,
        name: str,
        value: Any,  # noqa: ANN401
    ) -> None:
        """Behaviour 52: at once."""
        session = loaded({"a": 1}, user="ada")
        session.set_expiry(**{name: value})

        assert list(state_of(session).ended) == [TOKEN]
        assert session.user is None
        assert dict(session) == {}

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("name", ["idle", "lifetime"])
    def test_what_is_no_number_of_seconds_is_refused(
        self, loaded: Loaded, name: str, value: float
    ) -> None:
        """JSON has no word for it: the record would not come back as it was."""
        session = loaded({"a": 1})
        with pytest.raises(ValueError, match=r"^set_expiry\(\)"):
            session.set_expiry(**{name: value})

    @pytest.mark.parametrize("value", ["60", True, b"1"])
    def test_what_is_no_time_is_refused(self, value: Any, loaded: Loaded) -> None:  # noqa: ANN401
        """Nothing is changed, and both kinds of time are named."""
        session = loaded()
        with pytest.raises(TypeError) as caught:
            session.set_expiry(idle=value)

        assert str(caught.value) == (
            f"set_expiry() takes idle in seconds or as a timedelta, not {value!r}."
        )
        assert not session.modified

        assert not session.modified

    def test_the_time_left_is_rounded_up(self, loaded: Loaded, clock: Clock) -> None:
        """Behaviour 51: a cookie that ends before its record would lose it."""
        session = loaded()
        clock.now = START + 0.5

        assert session.expires_in == IDLE

    def test_the_time_left_is_never_negative(
        self, loaded: Loaded, clock: Clock
    ) -> None:
        """Behaviour 53: after the end it is nothing."""
        session = loaded()
        clock.now = START + 2 * IDLE

        assert session.expires_in == 0

    def test_the_time_left_is_never_over_the_timeout(
        self, loaded: Loaded, clock: Clock
    ) -> None:
        """Behaviour 53: though the clock was put back by a day."""
        session = loaded()
        clock.now = START - 86_400

        assert session.expires_in == IDLE

    def test_the_shorter_of_two_timeouts_counts(
        self, loaded: Loaded, clock: Clock
    ) -> None:
        """Behaviours 47, 53: a lifetime shorter than the idle timeout."""
        session = loaded(lifetime=60.0)
        clock.now = START - 86_400

        assert session.expires_in == 60

    def test_persistent_begins_as_the_setting_says(self, loaded: Loaded) -> None:
        """A session may have it otherwise."""
        session = loaded()
        assert session.persistent is False

        session.persistent = True
        assert session.persistent is True
        assert state_of(session).pack().persistent is True

    def test_a_session_may_refuse_to_persist(
        self, loaded: Loaded, sessions: Sessions
    ) -> None:
        """False of its own is not the same as nothing of its own."""
        sessions.rules.persistent = True
        session = loaded()
        assert session.persistent is True

        session.persistent = False
        assert session.persistent is False
        assert state_of(session).pack().persistent is False

    @pytest.mark.parametrize("value", ["yes", 1])
    def test_persistent_is_true_or_false(self, loaded: Loaded, value: Any) -> None:  # noqa: ANN401
        """Anything else would leave a record that cannot be decoded."""
        session = loaded({"a": 1})
        with pytest.raises((TypeError, ValueError)):
            session.persistent = value

        assert not session.modified

    def test_persistent_is_given_back_to_the_setting(self, loaded: Loaded) -> None:
        """Behaviour 79: and follows it from then on."""
        session = loaded({"a": 1}, persistent=True)
        session.persistent = None

        assert session.persistent is False
        assert state_of(session).pack().persistent is None


class FlashTest:
    def test_a_message_is_shown_once(self, loaded: Loaded) -> None:
        """With its text and its category, which is "info" unless named."""
        session = loaded()
        session.flash("Saved.")
        session.flash("Careful.", "warning")

        assert session.flashes() == [("Saved.", "info"), ("Careful.", "warning")]
        assert session.flashes() == []

    def test_a_stored_message_is_shown_once(self, loaded: Loaded) -> None:
        """Taking it is a change."""
        session = loaded(flashes={"1": ("Saved.", "info")})

        assert session.flashes() == [("Saved.", "info")]
        assert state_of(session).pack().flashes == {}

    def test_the_oldest_comes_first(self, loaded: Loaded) -> None:
        """However many there are."""
        session = loaded()
        for number in range(20):
            session.flash(str(number))
        after = view(state_of(session).rules, decode(encode(state_of(session).pack())))

        assert [text for text, _ in after.flashes()] == [str(n) for n in range(20)]

    def test_twenty_messages_wait_and_the_oldest_goes(self, loaded: Loaded) -> None:
        """Behaviour 86: nobody may ever ask for them."""
        session = loaded(flashes={str(n): (str(n), "info") for n in range(30)})
        session.flash("30")
        session.flash("31")

        assert [text for text, _ in session.flashes()] == [
            str(number) for number in range(12, 32)
        ]

    def test_it_is_no_value(self, loaded: Loaded) -> None:
        """Behaviour 24: messages and values are apart."""
        session = loaded()
        session.flash("Saved.")

        assert dict(session) == {}

    @pytest.mark.parametrize(
        "message", [(7,), (b"x",), ("x", None), ("\ud800",), ("x", "\ud800")]
    )
    def test_a_message_that_is_no_text_is_refused(
        self,
        loaded: Loaded,
        message: Any,  # noqa: ANN401
    ) -> None:
        """Anything else would leave a record that cannot be decoded, or fail late."""
        session = loaded({"a": 1})
        with pytest.raises((TypeError, ValueError)):
            session.flash(*message)

        assert not session.modified


class AttributeTest:
    def test_a_value_that_is_encoded_already_is_refused(self, loaded: Loaded) -> None:
        """Behaviour 25: it would be taken for one that was loaded."""
        session = loaded()
        with pytest.raises(SessionDataError) as caught:
            session["a"] = msgspec.Raw(b"{")

        assert (
            str(caught.value) == "The session value 'a' cannot be stored as JSON: Raw."
        )

    def test_a_user_is_not_set(self, loaded: Loaded) -> None:
        """It takes a new id as well, and so a login."""
        session: Any = loaded()
        with pytest.raises(AttributeError) as caught:
            session.user = "ada"

        assert str(caught.value) == (
            "session.user cannot be set. Sign in with session.login(user), and out with"
            " session.logout()."
        )

    def test_it_shows_only_what_is_for_the_application(self, loaded: Loaded) -> None:
        """Its id in the cookie is not among them: what is shown is logged one day."""
        session = loaded()
        shown = {name for name in dir(session) if not name.startswith("_")}
        times = {"created", "last_seen", "auth_time", "expires", "expires_in"}
        verbs = {"regenerate", "destroy", "login", "logout"}

        assert shown - set(dir(MutableMapping)) == {
            *{"id", "user", "is_new", "unavailable", "modified", "persistent", "label"},
            *times,
            *verbs,
            *{"set_expiry", "reset_expiry"},
            *{"flash", "flashes", "copy", "data", "save", "reload", "transact"},
            "expose_token",
        }

    def test_a_value_is_not_set_as_an_attribute(self, loaded: Loaded) -> None:
        """The message says how, and nothing of the value."""
        session: Any = loaded()
        with pytest.raises(AttributeError) as caught:
            session.cart = {"secret": 1}

        assert str(caught.value) == (
            "A session has no attribute 'cart'. Set a value with session[\"cart\"] = …."
        )
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        assert not session

    def test_a_value_is_not_read_as_an_attribute(self, loaded: Loaded) -> None:
        """Though there is one of that name, and what it is stays out of the message."""
        session: Any = loaded({"cart": "secret"})
        with pytest.raises(AttributeError) as caught:
            session.cart  # noqa: B018

        assert str(caught.value) == (
            "A session has no attribute 'cart'. Read a value with session[\"cart\"] or"
            ' session.get("cart").'
        )

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("permanent", "persistent"),
            ("persistant", "persistent"),
            ("new", "is_new"),
            ("cycle_key", "regenerate()"),
            ("invalidate", "destroy()"),
            ("sid", "id"),
        ],
    )
    def test_an_attribute_of_nearly_that_name_is_told(
        self, loaded: Loaded, name: str, meant: str
    ) -> None:
        """Misspelt, or as other libraries call it."""
        session = loaded()
        start = f"A session has no attribute {name!r}. Did you mean session.{meant}? "
        with pytest.raises(AttributeError) as read:
            getattr(session, name)
        with pytest.raises(AttributeError) as written:
            setattr(session, name, True)

        assert str(read.value).startswith(start + "Read a value with")
        assert str(written.value).startswith(start + "Set a value with")

    @pytest.mark.parametrize("name", ["modified", "is_new", "id", "expires"])
    def test_what_is_only_read_is_not_set(self, loaded: Loaded, name: str) -> None:
        """It is an attribute, and no value of the session."""
        with pytest.raises(AttributeError, match=name) as caught:
            setattr(loaded(), name, True)

        assert "session[" not in str(caught.value)

    def test_an_error_inside_a_property_is_not_hidden(self) -> None:
        """It is not told as an attribute that is missing."""
        rules: Any = types.SimpleNamespace(
            now=lambda: 0.0,
            idle_timeout=1.0,
            lifetime=1.0,
            anonymous_idle_timeout=None,
            anonymous_lifetime=None,
        )
        with pytest.raises(AttributeError, match="'persistent'"):
            view(rules).persistent  # noqa: B018

    def test_private_names_are_told_as_python_does(self, loaded: Loaded) -> None:
        """Private names are not values of a session."""
        session: Any = loaded()
        with pytest.raises(AttributeError, match="'_cart'") as read:
            session._cart  # noqa: B018
        with pytest.raises(AttributeError, match="'_cart'") as written:
            session._cart = 1

        assert "session[" not in f"{read.value} {written.value}"


class SentTest:
    """Once the headers are out, what needs a new cookie raises `SessionError`."""

    @pytest.mark.parametrize(
        ("verb", "named"),
        [
            pytest.param(lambda s: s.regenerate(), "regenerate()", id="regenerate"),
            pytest.param(lambda s: s.login("ada"), "login()", id="login"),
        ],
    )
    def test_a_new_token_cannot_be_sent_any_more(
        self, loaded: Loaded, verb: Callable[[Session], None], named: str
    ) -> None:
        """Behaviour 28: the message names what was called."""
        session = loaded({"a": 1})
        state_of(session).headers_sent = True
        with pytest.raises(SessionError) as caught:
            verb(session)

        assert str(caught.value) == (
            f"{named} needs a new cookie, and the headers of the response are out"
            " already. Call it before flush() and finish()."
        )
        assert not session.modified

    @pytest.mark.parametrize(
        "write",
        [
            pytest.param(lambda s: s.__setitem__("a", 1), id="value"),
            pytest.param(lambda s: s.flash("x"), id="flash"),
        ],
    )
    def test_a_new_session_cannot_begin_any_more(
        self, new: Session, write: Callable[[Session], None]
    ) -> None:
        """Behaviour 28: nobody would learn its token."""
        state_of(new).headers_sent = True
        with pytest.raises(SessionError) as caught:
            write(new)

        assert str(caught.value) == (
            "This visitor has no session yet, and the headers of the response are"
            " out, so none can be begun. Write to the session before flush() and"
            " finish(), and before a WebSocket is opened."
        )
        assert not new.modified

    @pytest.mark.parametrize(
        "remove",
        [
            pytest.param(lambda s: s.pop("a"), id="value"),
            pytest.param(lambda s: s.clear(), id="all values"),
            pytest.param(lambda s: s.flashes(), id="flashes"),
        ],
    )
    def test_what_is_in_the_cookie_cannot_be_removed_any_more(
        self, sessions: Sessions, loaded: Loaded, remove: Callable[[Session], None]
    ) -> None:
        """Behaviour 28: it would be there again in the next request."""
        sessions.rules.revocable = False
        session = loaded({"a": 1}, flashes={"1": ("Hello.", "info")})
        state_of(session).headers_sent = True
        with pytest.raises(SessionError, match="keeps the session in the cookie"):
            remove(session)

        assert not session.modified

    def test_a_stored_session_can_be_changed(self, loaded: Loaded) -> None:
        """Behaviour 28: its token stays, so a late save is possible."""
        session = loaded({"a": 1})
        state_of(session).headers_sent = True
        session["a"] = 2
        session.flash("x")
        session.set_expiry(idle=60)

        assert session.modified

    def test_destroying_ends_the_record(self, loaded: Loaded) -> None:
        """It needs no cookie."""
        session = loaded()
        state_of(session).headers_sent = True
        session.destroy()

        assert list(state_of(session).ended) == [TOKEN]

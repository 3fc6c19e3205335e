"""Tests of a session as a value: the mapping, what counts as changed, the verbs."""

from __future__ import annotations

import copy
import datetime
import json
import math
import pickle
import re
import types
from collections.abc import Callable, MutableMapping
from typing import Any, cast

import msgspec
import pytest
from tornado_sessions_memory import MemoryBackend

from tornado_sessions import (
    Session,
    SessionDataError,
    SessionError,
    Sessions,
    UserSession,
    Vault,
)
from tornado_sessions.core.codec import decode, encode, encode_value
from tornado_sessions.core.envelope import FORMAT, Envelope
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.values import state_of
from tornado_sessions.settings import Settings

TOKEN = "A" * 43
START = 1_000_000.0
IDLE = 3_600.0
LIFETIME = 36_000.0


def view(sessions: Any, *args: Any, **kwargs: Any) -> Session:  # noqa: ANN401
    """Returns a session with a state that is made of the rest."""
    rules = getattr(sessions, "rules", sessions)
    store = getattr(sessions, "transactions", sessions)
    return Session(store, SessionState(rules, *args, **kwargs))


class Clock:
    def __init__(self) -> None:
        self.now = START


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    sessions = Sessions(
        Settings(Vault(MemoryBackend()), idle_timeout=IDLE, lifetime=LIFETIME)
    )
    sessions.now = lambda: clock.now
    return sessions


@pytest.fixture
def new(sessions: Sessions) -> Session:
    return view(sessions)


#: Makes a session of the values that the store is said to hold.
Loaded = Callable[..., Session]


@pytest.fixture
def loaded(sessions: Sessions) -> Loaded:
    def make(values: dict[str, Any] | None = None, **fields: Any) -> Session:
        encoded = {k: encode_value(k, value) for k, value in (values or {}).items()}
        envelope = Envelope(
            START, START, START + IDLE, encoded, id="handle", format=FORMAT, **fields
        )
        return view(sessions, decode(encode(envelope)), TOKEN, version=1)

    return make


def values_after(session: Session) -> dict[str, Any]:
    """Returns the values that a commit would store, as the next request sees them."""
    return dict(view(state_of(session).rules, decode(encode(state_of(session).pack()))))


class MappingTest:
    """A session is a mapping with all that a dict can do."""

    def test_it_has_every_method_of_a_dict(self, new: Session) -> None:
        """All but ``fromkeys``, which makes another one."""
        missing = {name for name in dir(dict) if not hasattr(new, name)}

        assert missing <= {"fromkeys", "__class_getitem__"}

    def test_a_union_is_a_plain_dict(self, loaded: Loaded) -> None:
        """The right one counts, and the session stays as it was."""
        session = loaded({"a": 1, "b": [2]})

        for union, expected in (
            (session | {"a": 3}, {"a": 3, "b": [2]}),
            ({"a": 3, "c": 4} | session, {"a": 1, "c": 4, "b": [2]}),
            (session | loaded({"c": 5}), {"a": 1, "b": [2], "c": 5}),
        ):
            assert type(union) is dict
            assert union == expected
        assert not session.modified

    def test_a_union_is_with_a_mapping_only(self, loaded: Loaded) -> None:
        """As with a dict, on either side."""
        session: Any = loaded({"a": 1})

        for other in ([("b", 2)], None, 1):
            with pytest.raises(TypeError, match="unsupported operand"):
                session | other
            with pytest.raises(TypeError, match="unsupported operand"):
                other | session

    def test_a_copy_is_a_plain_dict(self, loaded: Loaded) -> None:
        """It has the decoded values, and to set one there changes nothing here."""
        session = loaded({"a": 1, "b": [2]})
        copied = session.copy()
        copied["a"] = 3

        assert type(copied) is dict
        assert copied == {"a": 3, "b": [2]}
        assert session["a"] == 1
        assert not session.modified
        assert json.loads(json.dumps(session.copy())) == {"a": 1, "b": [2]}

    def test_it_equals_the_dict_of_its_values(
        self, new: Session, loaded: Loaded
    ) -> None:
        """On either side, and an empty one equals an empty dict."""
        session = loaded({"a": 1, "b": [2]})

        assert session == {"a": 1, "b": [2]} == session
        assert session != {"a": 1}
        assert new == {} == new
        assert session != [("a", 1)]

    def test_it_is_neither_pickled_nor_copied_whole(self, loaded: Loaded) -> None:
        """The message says what to write instead, and shows no value."""
        session = loaded({"a": "hunter2"})

        for work in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError) as refused:
                work(session)
            assert str(refused.value) == (
                "A session cannot be pickled, nor copied by the module copy. Use"
                " dict(session), or copy.deepcopy(dict(session))."
            )

    def test_it_is_a_mutable_mapping(self, new: Session) -> None:
        """Whatever takes one takes a session."""
        assert isinstance(new, MutableMapping)

    def test_what_was_set_is_read(self, new: Session) -> None:
        """In the same request, as the very object."""
        value = [1]
        new["a"] = value

        assert new["a"] is value
        assert new.get("a") is value

    def test_what_was_loaded_is_read_as_one_object(self, loaded: Loaded) -> None:
        """A second look does not undo what the first one changed."""
        session = loaded({"a": [1]})
        session["a"].append(2)

        assert session["a"] == [1, 2]

    def test_a_missing_key_is_a_key_error(self, loaded: Loaded) -> None:
        """Behaviour 20: for reading, deleting and `pop` alike."""
        session = loaded({"a": 1})

        with pytest.raises(KeyError, match="'b'"):
            session["b"]
        with pytest.raises(KeyError, match="'b'"):
            del session["b"]
        with pytest.raises(KeyError, match="'b'"):
            session.pop("b")

    def test_a_missing_key_has_a_default(self, new: Session) -> None:
        """As in a dict."""
        assert new.get("a") is None
        assert new.get("a", 1) == 1
        assert new.pop("a", 2) == 2
        assert new.setdefault("a", 3) == 3
        assert new.setdefault("a", 4) == 3

    def test_it_iterates_in_the_order_of_insertion(self, loaded: Loaded) -> None:
        """Both ways."""
        session = loaded({"b": 1, "a": 2})
        session["c"] = 3

        assert list(session) == ["b", "a", "c"]
        assert list(reversed(session)) == ["c", "a", "b"]
        assert list(session.items()) == [("b", 1), ("a", 2), ("c", 3)]
        assert list(session.values()) == [1, 2, 3]

    def test_it_has_a_length_and_a_truth(self, new: Session, loaded: Loaded) -> None:
        """An empty session is false."""
        assert len(new) == 0
        assert not new
        assert len(loaded({"a": 1, "b": 2})) == 2
        assert loaded({"a": None})

    def test_it_contains_keys(self, loaded: Loaded) -> None:
        """Behaviour 23: whatever their values."""
        session = loaded({"a": None})

        assert "a" in session
        assert "b" not in session
        assert 1 not in session

    def test_it_compares_as_a_dict(self, loaded: Loaded) -> None:
        """By its values."""
        assert loaded({"a": 1}) == {"a": 1}
        assert loaded({"a": 1}) != {"a": 2}

    def test_it_is_updated(self, new: Session) -> None:
        """By a mapping, by pairs and by keywords."""
        new.update({"a": 1})
        new.update([("b", 2)], c=3)

        assert dict(new) == {"a": 1, "b": 2, "c": 3}

    def test_it_is_updated_in_place_by_an_operator(self, new: Session) -> None:
        """Behaviour 19: ``|=``, and it stays the same object."""
        session = new
        session |= {"a": 1}

        assert session is new
        assert dict(new) == {"a": 1}

    def test_popitem_takes_the_last_item(self, loaded: Loaded) -> None:
        """Behaviour 19: as a dict does, and not as a MutableMapping does."""
        session = loaded({"a": 1, "b": [2]})

        assert session.popitem() == ("b", [2])
        assert session.popitem() == ("a", 1)
        with pytest.raises(KeyError, match="the session is empty"):
            session.popitem()

    def test_clear_removes_all_values(self, loaded: Loaded) -> None:
        """And nothing but the values."""
        session = loaded({"a": 1, "b": 2}, user="ada")
        session.clear()

        assert dict(session) == {}
        assert session.user == "ada"

    @pytest.mark.parametrize("key", [1, None, b"a", ("a",), 1.5])
    def test_a_key_that_is_no_string_is_refused_at_once(
        self,
        new: Session,
        key: Any,  # noqa: ANN401
    ) -> None:
        """Behaviour 25: with the key and its type, where the mistake is made."""
        with pytest.raises(SessionDataError) as caught:
            new[key] = 1

        assert str(caught.value) == (
            f"The session key {key!r} cannot be stored: keys are strings, and this"
            f" is of type {type(key).__name__}."
        )
        assert len(new) == 0

    @pytest.mark.parametrize(
        "key", ["id", "user", "save", "_flash", "values", "format", "", "_values", "é"]
    )
    def test_a_key_may_be_named_as_anything_of_ours(
        self, loaded: Loaded, key: str
    ) -> None:
        """Behaviour 24: it is an ordinary key."""
        session = loaded({"other": 1})
        session[key] = "theirs"

        assert values_after(session) == {"other": 1, key: "theirs"}
        assert session.user is None
        assert session.id == "handle"

    def test_its_representation_shows_counts_alone(
        self, new: Session, loaded: Loaded
    ) -> None:
        """Behaviour 8: neither values nor keys, token or user."""
        changed = loaded({"secret": "secret"}, user="secret")
        changed["other secret"] = object()
        changed["third secret"] = 1

        assert repr(new) == "<Session 0 values, new>"
        assert repr(loaded({"secret": "secret"})) == "<Session 1 value, unmodified>"
        assert repr(changed) == "<Session 3 values, modified>"


class ChangeTest:
    """What is compared at the commit is what would be stored."""

    def test_reading_is_no_change(self, loaded: Loaded) -> None:
        """Behaviour 18: `pack` answers what was loaded, the very object."""
        session = loaded({"a": [1], "b": {"c": None}})

        assert session.get("a") == [1]
        assert session.get("x") is None
        assert "a" in session
        assert len(session) == 2
        assert dict(session) == {"a": [1], "b": {"c": None}}
        assert session
        assert session.id
        assert session.user is None
        assert session.flashes() == []
        assert state_of(session).pack() is state_of(session).base
        assert not session.modified

    def test_a_default_is_no_change(self, loaded: Loaded) -> None:
        """Behaviour 20: of a missing key, and of a present one."""
        session = loaded({"a": 1})

        assert session.pop("x", None) is None
        assert session.setdefault("a", 2) == 1
        assert state_of(session).pack() is state_of(session).base

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda s: s.__setitem__("a", 2), id="set"),
            pytest.param(lambda s: s.__setitem__("new", 2), id="set a new one"),
            pytest.param(lambda s: s.__setitem__("a", True), id="True in place of 1"),
            pytest.param(lambda s: s.__setitem__("a", 1.0), id="1.0 in place of 1"),
            pytest.param(lambda s: s.__delitem__("a"), id="del"),
            pytest.param(lambda s: s.pop("a"), id="pop"),
            pytest.param(lambda s: s.popitem(), id="popitem"),
            pytest.param(lambda s: s.update(a=2), id="update"),
            pytest.param(lambda s: s.__ior__({"a": 2}), id="|="),
            pytest.param(lambda s: s.setdefault("new", {}), id="setdefault"),
            pytest.param(lambda s: s.clear(), id="clear"),
            pytest.param(lambda s: s["list"].append(2), id="in a list"),
            pytest.param(lambda s: s["deep"]["er"].update(x=1), id="in a nested dict"),
            pytest.param(lambda s: s.flash("Saved."), id="flash"),
            pytest.param(lambda s: s.login("ada"), id="login"),
            pytest.param(lambda s: s.set_expiry(idle=60), id="set_expiry"),
            pytest.param(lambda s: setattr(s, "persistent", True), id="persistent"),
            pytest.param(lambda s: s.regenerate(), id="regenerate"),
            pytest.param(lambda s: s.destroy(), id="destroy"),
        ],
    )
    def test_a_change_is_noticed(
        self, loaded: Loaded, change: Callable[[Session], object]
    ) -> None:
        """Behaviours 19, 21: without anyone marking it."""
        session = loaded({"list": [1], "deep": {"er": {}}, "a": 1})
        change(session)

        assert session.modified

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda s: s.__setitem__("a", {"b": [1]}), id="equal value"),
            pytest.param(lambda s: s.__setitem__("a", s.pop("a")), id="pop, put back"),
            pytest.param(lambda s: s.update(dict(s)), id="update by itself"),
            pytest.param(lambda s: s["a"]["b"].append(s["a"]["b"].pop()), id="nested"),
            pytest.param(
                lambda s: (s.setdefault("x", 1), s.pop("x")), id="added, gone"
            ),
            pytest.param(lambda s: s.__ior__({}), id="|= nothing"),
        ],
    )
    def test_put_back_as_it_was_is_no_change(
        self, loaded: Loaded, change: Callable[[Session], object]
    ) -> None:
        """Behaviours 19, 22: the outcome counts."""
        session = loaded({"a": {"b": [1]}})
        change(session)

        assert state_of(session).pack() is state_of(session).base
        assert not session.modified

    def test_a_nested_change_is_stored(self, loaded: Loaded) -> None:
        """Behaviour 21: in a dict in a list in a dict."""
        session = loaded({"a": [{"b": 1}], "c": 1})
        session["a"][0]["b"] = 2

        assert values_after(session) == {"a": [{"b": 2}], "c": 1}

    def test_one_list_under_two_keys_becomes_two(self, loaded: Loaded) -> None:
        """Behaviour 41: what is stored is a copy."""
        session = loaded()
        session["a"] = session["b"] = [1]
        after = view(state_of(session).rules, state_of(session).pack())
        after["a"].append(2)

        assert dict(after) == {"a": [1, 2], "b": [1]}

    def test_what_is_packed_is_a_copy(self, loaded: Loaded) -> None:
        """Behaviour 41: a change after it is no part of it."""
        session = loaded()
        session["a"] = value = [1]
        packed = state_of(session).pack()
        value.append(2)

        assert dict(view(state_of(session).rules, packed)) == {"a": [1]}

    def test_two_sessions_of_one_record_share_nothing(self, sessions: Sessions) -> None:
        """Behaviour 41: what one request changes no other one sees."""
        envelope = Envelope(
            START, START, START, {"a": encode_value("a", [1])}, format=FORMAT
        )
        one, other = view(sessions, envelope), view(sessions, envelope)
        one["a"].append(2)
        one["b"] = 1

        assert dict(other) == {"a": [1]}

    def test_a_bad_value_is_refused_when_it_is_packed(self, loaded: Loaded) -> None:
        """Behaviour 25: and until then it is a change."""
        session = loaded({"a": 1})
        session["cart"] = {"apple"}

        assert session.modified
        with pytest.raises(SessionDataError, match=r"'cart' cannot be stored .*: set"):
            state_of(session).pack()

    def test_a_loaded_value_that_became_bad_is_refused(self, loaded: Loaded) -> None:
        """Behaviour 25: it is enough that it was looked at."""
        session = loaded({"a": [1]})
        session["a"].append({1})

        with pytest.raises(
            SessionDataError, match=r"'a'\[1\] cannot be stored .*: set"
        ):
            state_of(session).pack()

    def test_dropping_takes_back_what_was_loaded(self, loaded: Loaded) -> None:
        """Behaviour 29: all that was changed goes, a login with it."""
        session = loaded({"a": [1]})
        session["a"].append(2)
        session["b"] = 1
        session.login("ada")
        state_of(session).discard()

        assert dict(session) == {"a": [1]}
        assert session.user is None
        assert not session.modified


class NewTest:
    """A session that is not in the store yet."""

    def test_untouched_it_is_not_stored(self, new: Session) -> None:
        """Behaviours 13, 14: there is nothing to commit."""
        assert state_of(new).pack() is state_of(new).base
        assert not new.modified
        assert new.is_new

    def test_emptied_again_it_is_not_stored(self, new: Session) -> None:
        """Behaviour 14: written, and emptied again."""
        new["a"] = 1
        del new["a"]
        new.flash("Saved.")
        new.flashes()

        assert state_of(new).pack() is state_of(new).base

    def test_settings_of_an_empty_one_are_not_stored(self, new: Session) -> None:
        """Behaviour 14: neither an expiry nor "remember me" is worth a record."""
        new.set_expiry(idle=60)
        new.persistent = True
        new.regenerate()

        assert not new.modified

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda s: s.__setitem__("a", None), id="value"),
            pytest.param(lambda s: s.login("ada"), id="login"),
            pytest.param(lambda s: s.flash("Saved."), id="flash"),
        ],
    )
    def test_with_anything_in_it_it_is_stored(
        self, new: Session, change: Callable[[Session], object]
    ) -> None:
        """Behaviour 15: a value, a user or a message."""
        change(new)

        assert new.modified
        assert state_of(new).pack() is not state_of(new).base

    def test_its_times_are_those_of_the_request(self, new: Session) -> None:
        """It begins now."""
        assert new.created == new.last_seen == START
        assert new.expires == START + IDLE
        assert new.expires_in == IDLE
        assert new.auth_time is None

    def test_emptying_a_loaded_one_keeps_it(self, loaded: Loaded) -> None:
        """Behaviour 17: an empty record is a record."""
        session = loaded({"a": 1})
        session.clear()

        assert state_of(session).pack() is not state_of(session).base
        assert values_after(session) == {}
        assert state_of(session).token == TOKEN
        assert not state_of(session).ended


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
        session = UserSession("handle", 1.0, 2.0, 3.0, 1.0, False, "Ada's phone")

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
            *{"id", "user", "is_new", "modified", "persistent", "label"},
            *times,
            *verbs,
            *{"set_expiry", "reset_expiry"},
            *{"flash", "flashes", "copy", "save", "reload", "transact"},
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
            now=lambda: 0.0, idle_timeout=1.0, lifetime=1.0
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

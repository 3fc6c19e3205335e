"""Tests of a session as a value: the mapping, and what counts as changed."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from tests.session_views import (
    IDLE,
    START,
    TOKEN,
    Loaded,
    values_after,
    view,
)
from tornado_sessions import (
    Session,
    SessionDataError,
    Sessions,
)
from tornado_sessions.core.codec import encode_value
from tornado_sessions.core.envelope import FORMAT, Envelope
from tornado_sessions.core.values import state_of


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

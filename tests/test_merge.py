"""Tests of merging: what two requests changed at once, case by case."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tornado_sessions.core.merge import merge

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

leaves = st.none() | st.booleans() | st.integers(-2, 2) | st.text("ab", max_size=2)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner)
    ),
    max_leaves=5,
)
sessions = st.dictionaries(st.sampled_from("abcd"), values)


def changes(values: dict[str, Any], keys: str) -> dict[str, Any]:
    return {key: values[key] for key in keys if key in values}


def nested(depth: int, innermost: dict[str, Any]) -> dict[str, Any]:
    """Returns ``innermost`` inside of so many dicts."""
    value = innermost
    for _ in range(depth):
        value = {"in": value}
    return value


def innermost(value: dict[str, Any]) -> dict[str, Any]:
    while "in" in value:
        value = value["in"]
    return value


class MergeTest:
    """``mine`` is saved last, on top of ``theirs``; both began with ``base``."""

    @pytest.mark.parametrize(
        ("base", "mine", "theirs", "merged"),
        [
            pytest.param({}, {"a": 1}, {"b": 2}, {"a": 1, "b": 2}, id="each adds one"),
            pytest.param(
                {"cart": {}},
                {"cart": {"apple": 1}},
                {"cart": {"pear": 1}},
                {"cart": {"apple": 1, "pear": 1}},
                id="two tabs add different products",
            ),
            pytest.param(
                {},
                {"cart": {"apple": 1}},
                {"cart": {"pear": 1}},
                {"cart": {"apple": 1, "pear": 1}},
                id="two tabs each create the cart",
            ),
            pytest.param(
                {"a": {"b": {"c": {}}}},
                {"a": {"b": {"c": {"x": 1}}}},
                {"a": {"b": {"c": {"y": 1}, "d": 1}}},
                {"a": {"b": {"c": {"x": 1, "y": 1}, "d": 1}}},
                id="at any depth",
            ),
            pytest.param(
                {"cart": {"apple": 1}},
                {"cart": {"apple": 2}},
                {"cart": {"apple": 2}},
                {"cart": {"apple": 2}},
                id="the same product counted twice counts once",
            ),
            pytest.param(
                {"a": 1}, {"a": 2}, {"a": 3}, {"a": 2}, id="of two numbers the last"
            ),
            pytest.param(
                {"a": "x"}, {"a": "y"}, {"a": "z"}, {"a": "y"}, id="of two strings"
            ),
            pytest.param(
                {"a": [1]},
                {"a": [1, 2]},
                {"a": [1, 3]},
                {"a": [1, 2]},
                id="of two lists",
            ),
            pytest.param(
                {"a": 1}, {}, {"a": 2}, {}, id="deleted here and changed there"
            ),
            pytest.param(
                {"a": 1}, {"a": 2}, {}, {"a": 2}, id="changed here and deleted there"
            ),
            pytest.param({"a": 1}, {}, {}, {}, id="deleted by both"),
            pytest.param(
                {"a": 1, "b": 2}, {}, {"a": 1, "b": 2, "c": 3}, {"c": 3}, id="cleared"
            ),
            pytest.param(
                {"cart": {"apple": 1}},
                {"cart": {"apple": 1, "pear": 1}},
                {},
                {"cart": {"pear": 1}},
                id="a late product after a checkout",
            ),
            pytest.param(
                {"cart": {"apple": 1}},
                {},
                {"cart": {"apple": 1, "pear": 1}},
                {},
                id="a checkout after a late product",
            ),
            pytest.param(
                {"to": {"city": "Paris", "zip": 75}},
                {"to": {"city": "Paris", "zip": 76}},
                {"to": {"city": "Lyon", "zip": 69}},
                {"to": {"city": "Lyon", "zip": 76}},
                id="values that belong together are torn apart",
            ),
            pytest.param(
                {"a": 1},
                {"a": {"x": 1}},
                {"a": 2},
                {"a": {"x": 1}},
                id="number to dict",
            ),
            pytest.param(
                {"a": {"x": 1}},
                {"a": 1},
                {"a": {"y": 1}},
                {"a": 1},
                id="dict to number",
            ),
            pytest.param(
                {"a": {"x": 1}},
                {"a": {"x": 2}},
                {"a": [1]},
                {"a": {"x": 2}},
                id="a dict that has become a list there",
            ),
            pytest.param({}, {"a": {}}, {}, {"a": {}}, id="an empty dict is kept"),
            pytest.param(
                {}, {"a": {}}, {"a": 1}, {"a": {}}, id="an empty dict for a number"
            ),
            pytest.param(
                {}, {"a": None}, {"a": 0}, {"a": None}, id="a None is a value"
            ),
            pytest.param(
                {"a": 1, "b": 1},
                {"a": 1, "b": 2},
                {"a": 5, "b": 1},
                {"a": 5, "b": 2},
                id="what was only read is not put back",
            ),
        ],
    )
    def test_a_change_is_made_again_on_the_newest_record(
        self,
        base: dict[str, Any],
        mine: dict[str, Any],
        theirs: dict[str, Any],
        merged: dict[str, Any],
    ) -> None:
        """Behaviours 36, 38: of a number, string or list the last; all else stays."""
        assert merge(base, mine, theirs) == merged

    def test_new_keys_come_in_the_order_in_which_they_were_set(self) -> None:
        """Messages are shown oldest first, and `popitem` takes the last."""
        mine = {f"key {number}": number for number in range(20)}

        assert list(merge({}, mine, {"first": 0})) == ["first", *mine]

    def test_a_deep_nesting_is_no_matter(self) -> None:
        """It is walked with a stack, for Python's own is shorter than this."""
        merged = merge(
            nested(5_000, {}), nested(5_000, {"x": 1}), nested(5_000, {"y": 1})
        )

        assert innermost(merged) == {"x": 1, "y": 1}


class MergePropertiesTest:
    @unhurried
    @given(sessions, sessions)
    def test_without_a_change_of_mine_theirs_comes_out(
        self, base: dict[str, Any], theirs: dict[str, Any]
    ) -> None:
        """Behaviour 40: what was only read is never written back."""
        assert merge(base, copy.deepcopy(base), theirs) == theirs

    @unhurried
    @given(sessions, sessions)
    def test_without_a_change_of_theirs_mine_comes_out(
        self, base: dict[str, Any], mine: dict[str, Any]
    ) -> None:
        """Where nobody else saved, a save stores what the request has."""
        assert merge(base, mine, copy.deepcopy(base)) == mine

    @unhurried
    @given(sessions, sessions)
    def test_the_same_change_twice_is_one(
        self, base: dict[str, Any], mine: dict[str, Any]
    ) -> None:
        """A save that was applied although it seemed to fail does no harm."""
        merged = merge(base, mine, base)

        assert merge(base, mine, merged) == merged

    @unhurried
    @given(sessions, sessions, sessions)
    def test_the_arguments_stay_as_they_are(
        self, base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
    ) -> None:
        """Behaviour 41: nothing is written into what was handed in."""
        before = copy.deepcopy((base, mine, theirs))

        merge(base, mine, theirs)

        assert (base, mine, theirs) == before

    @unhurried
    @given(sessions, sessions, sessions)
    def test_changes_of_different_keys_commute(
        self, base: dict[str, Any], one: dict[str, Any], other: dict[str, Any]
    ) -> None:
        """Behaviour 36: who saves first makes no difference then."""
        first = {**base, **changes(one, "ab")}
        second = {**base, **changes(other, "cd")}

        assert merge(base, first, second) == merge(base, second, first)
        assert merge(base, first, second) == {**first, **changes(other, "cd")}

    @unhurried
    @given(sessions, sessions, sessions)
    def test_changes_of_different_keys_commute_inside_of_a_dict(
        self, base: dict[str, Any], one: dict[str, Any], other: dict[str, Any]
    ) -> None:
        """Behaviour 36: nested as well."""
        first = {**base, **changes(one, "ab")}
        second = {**base, **changes(other, "cd")}
        sides = ({"cart": base}, {"cart": first}, {"cart": second})

        assert merge(*sides) == {"cart": merge(base, first, second)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (1, True),
        (False, 0),
        (1, 1.0),
        ([1, 2], [True, 2]),
        ([{"a": 0}], [{"a": False}]),
        ({"a": 1}, {"a": True}),
    ],
)
@pytest.mark.parametrize("theirs", [{"x": "theirs"}, {}])
def test_values_that_are_equal_in_python_only_are_a_change(
    old: object, new: object, theirs: dict[str, object]
) -> None:
    """Behaviour 19: 1 and True are different in JSON."""
    merged = merge({"x": old}, {"x": new}, theirs)

    assert repr(merged) == repr({"x": new})

"""Tests of the codec: what is let through, what is refused and in what words."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import json
import math
import uuid
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from tornado_sessions import BackendError, SessionDataError
from tornado_sessions.core.codec import decode, decode_value, encode, encode_value
from tornado_sessions.core.envelope import FORMAT, Envelope, same_content, same_fields
from tornado_sessions.core.merge import rebase

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner),
    max_leaves=8,
)


class Point(NamedTuple):
    x: int


@dataclasses.dataclass
class Product:
    price: int


class Size(enum.IntEnum):
    LARGE = 3


class Colour(str, enum.Enum):
    RED = "red"


class Weekday(enum.Enum):
    MONDAY = "monday"


@dataclasses.dataclass(eq=False)
class Badge:
    """As one writes it who compares it with its like alone."""

    number: int

    def __eq__(self, other: object) -> bool:
        # Without a look at the type first: that is the mistake.
        return bool(self.number == other.number)  # type: ignore[attr-defined]


class SafeText(str):
    """As template engines mark text that needs no escaping."""


def envelope(values: dict[str, Any] | None = None, **fields: Any) -> Envelope:
    encoded = {key: encode_value(key, value) for key, value in (values or {}).items()}
    return Envelope(1.0, 2.0, 3.0, encoded, format=FORMAT, **fields)


def values_of(envelope: Envelope) -> dict[str, Any]:
    return {key: decode_value(raw) for key, raw in envelope.values.items()}


def cycle_of_lists() -> list[Any]:
    value: list[Any] = []
    value.append([value])
    return value


def cycle_of_dicts() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["in"] = value
    return value


def too_deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


too_nested = "it is nested deeper than 100 levels, or in itself"


class EncodeValueTest:
    @pytest.mark.parametrize(
        ("value", "culprit"),
        [
            pytest.param({1}, "set", id="set"),
            pytest.param(frozenset({1}), "frozenset", id="frozenset"),
            pytest.param((1, 2), "tuple", id="tuple"),
            pytest.param(Point(1), "Point", id="namedtuple"),
            pytest.param(datetime.datetime(2026, 1, 1), "datetime", id="datetime"),
            pytest.param(datetime.date(2026, 1, 1), "date", id="date"),
            pytest.param(datetime.timedelta(1), "timedelta", id="timedelta"),
            pytest.param(b"x", "bytes", id="bytes"),
            pytest.param(bytearray(b"x"), "bytearray", id="bytearray"),
            pytest.param(decimal.Decimal(1), "Decimal", id="Decimal"),
            pytest.param(uuid.UUID(int=0), "UUID", id="UUID"),
            pytest.param(Product(1), "Product", id="dataclass"),
            pytest.param(Badge(1), "Badge", id="what cannot be compared"),
            pytest.param([Badge(1)], "Badge", id="what cannot be compared, in a list"),
            pytest.param(Weekday.MONDAY, "Weekday", id="Enum"),
            pytest.param(SafeText("x"), "SafeText", id="str subclass"),
            pytest.param(object(), "object", id="object"),
            pytest.param(1j, "complex", id="complex"),
            pytest.param(Raw(b"1"), "Raw", id="Raw"),
            pytest.param(math.nan, "float nan", id="NaN"),
            pytest.param(math.inf, "float inf", id="inf"),
            pytest.param(-math.inf, "float -inf", id="minus inf"),
            pytest.param("\ud800", "str that is not Unicode", id="lone surrogate"),
            pytest.param(
                {1: "x"}, "a dict with a key of type int", id="key of type int"
            ),
            pytest.param(
                {True: "x"}, "a dict with a key of type bool", id="key of type bool"
            ),
            pytest.param(
                {None: "x"}, "a dict with a key of type NoneType", id="key None"
            ),
            pytest.param(
                {(1, 2): "x"}, "a dict with a key of type tuple", id="key of type tuple"
            ),
            pytest.param(
                {"\ud800": "x"}, "a key that is not Unicode", id="lone surrogate in key"
            ),
            pytest.param(cycle_of_lists(), too_nested, id="list in itself"),
            pytest.param(cycle_of_dicts(), too_nested, id="dict in itself"),
            pytest.param(too_deep(), too_nested, id="too deep"),
            pytest.param([1, "x", {"a": [{2}]}], "set", id="set deep inside"),
            pytest.param({"a": {"b": (1,)}}, "tuple", id="tuple deep inside"),
            pytest.param([{1}, "x", 7], "set", id="set before what is good"),
            pytest.param([{"a": {1: 2}}], "a dict with a key of type int", id="key"),
            pytest.param([1.5, math.nan], "float nan", id="NaN deep inside"),
            pytest.param(
                collections.defaultdict(set, a={1}), "set", id="set in a defaultdict"
            ),
            pytest.param(
                collections.OrderedDict(a=(1,)), "tuple", id="tuple in an OrderedDict"
            ),
        ],
    )
    def test_what_would_not_come_back_equal_is_refused(
        self, value: object, culprit: str
    ) -> None:
        """Behaviour 25: the error names the key and the type, and no value."""
        with pytest.raises(SessionDataError) as caught:
            encode_value("cart", value)

        message = str(caught.value)
        assert message.startswith("The session value 'cart'")
        assert f" cannot be stored as JSON: {culprit}. " in message

    @pytest.mark.parametrize(
        ("value", "path"),
        [
            ({1}, ""),
            ({"a": [{"b": datetime.date(2026, 1, 1)}]}, "['a'][0]['b']"),
            ([1, [2, (3,)]], "[1][1]"),
            ({"a": {"b": {1: "x"}}}, "['a']['b']"),
            ({"it's": {"b\n": math.inf}}, "[\"it's\"]['b\\n']"),
            ({"k" * 41: b""}, "['" + "k" * 40 + "…']"),
            (cycle_of_lists(), ""),
        ],
    )
    def test_the_error_names_the_path(self, value: object, path: str) -> None:
        """Behaviour 25: a long key is shortened, and no value is repeated."""
        with pytest.raises(SessionDataError) as caught:
            encode_value("cart", value)

        assert str(caught.value).startswith(
            f"The session value 'cart'{path} cannot be stored as JSON: "
        )

    @pytest.mark.parametrize(
        ("value", "advice"),
        [
            ({1}, "set. Store a list."),
            ([(1, 2)], "tuple. Store a list."),
            (b"x", "bytes. Store text, such as its base64."),
            (datetime.date(2026, 1, 1), "date. Store its isoformat()."),
            ("\ud800", "str that is not Unicode. Store text without surrogates."),
            ({1: "a"}, "a dict with a key of type int. Use str keys."),
            (object(), "object. Store what JSON can hold."),
        ],
    )
    def test_it_says_what_to_store_instead(self, value: object, advice: str) -> None:
        """Behaviour 25: as far as that can be known."""
        with pytest.raises(SessionDataError) as caught:
            encode_value("cart", value)

        assert str(caught.value).endswith(f"cannot be stored as JSON: {advice}")

    def test_a_key_that_is_not_unicode_is_refused(self) -> None:
        """Behaviour 25: the value is good, and its own key is not."""
        with pytest.raises(SessionDataError) as caught:
            encode_value("\ud800", 1)

        assert str(caught.value) == (
            "The session value '\\ud800' cannot be stored as JSON:"
            " a key that is not Unicode. Store what JSON can hold."
        )

    @pytest.mark.parametrize("value", [0, 0.0, "", [], {}, None, False])
    def test_falsy_values_come_back(self, value: object) -> None:
        """Behaviour 23: nothing is taken for absent."""
        again = decode_value(encode_value("key", value))

        assert again == value
        assert type(again) is type(value)

    @pytest.mark.parametrize(
        ("value", "plain"),
        [
            pytest.param(Size.LARGE, 3, id="IntEnum"),
            pytest.param(Colour.RED, "red", id="Enum of str"),
            pytest.param(collections.OrderedDict(a=1), {"a": 1}, id="OrderedDict"),
            pytest.param(collections.defaultdict(int, a=1), {"a": 1}, id="defaultdict"),
            pytest.param(collections.Counter("aab"), {"a": 2, "b": 1}, id="Counter"),
            pytest.param({SafeText("a"): 1}, {"a": 1}, id="key of a str subclass"),
        ],
    )
    def test_what_compares_equal_comes_back_as_plain(
        self, value: object, plain: object
    ) -> None:
        """A Counter is a dict when the next request sees it."""
        again = decode_value(encode_value("key", value))

        assert again == plain
        assert type(again) is type(plain)

    @pytest.mark.parametrize("value", [2**63, 2**64, -(2**64), 10**400, -(10**4000)])
    def test_integers_of_any_size_come_back(self, value: int) -> None:
        """JSON knows no 64 bits."""
        assert decode_value(encode_value("key", value)) == value

    def test_an_integer_that_python_would_not_print_is_refused(self) -> None:
        """From 4301 digits on Python takes a number for an attack."""
        with pytest.raises(SessionDataError, match=r"'key' .* JSON: int\. Store "):
            encode_value("key", 10**5000)

    @unhurried
    @given(values)
    def test_every_json_value_comes_back(self, value: object) -> None:
        """Behaviours 21, 23: as it was, whatever its shape."""
        assert decode_value(encode_value("key", value)) == value

    @pytest.mark.parametrize("one", [True, 1, 1.0, "1"])
    @pytest.mark.parametrize("other", [True, 1, 1.0, "1"])
    def test_what_is_equal_in_python_alone_is_told_apart(
        self, one: object, other: object
    ) -> None:
        """Behaviour 19: True in place of 1 is a change."""
        same = encode_value("key", one) == encode_value("key", other)

        assert same == (type(one) is type(other))


class DecodeTest:
    def test_an_envelope_comes_back(self) -> None:
        """Everything that is kept of a session, at once."""
        full = envelope(
            {"cart": {"apple": 1}, "nothing": None},
            id="handle",
            user="ada",
            auth_time=1.5,
            idle=60.0,
            lifetime=3600.0,
            persistent=True,
            flashes={"0a": ("Saved.", "info")},
        )

        assert decode(encode(full)) == full

    def test_what_has_its_default_takes_no_room(self) -> None:
        """An anonymous session of one value is short."""
        assert json.loads(encode(envelope({"a": 1}))) == {
            "created": 1.0,
            "seen": 2.0,
            "expires": 3.0,
            "values": {"a": 1},
            "format": FORMAT,
        }

    def test_an_unknown_field_is_no_fault(self) -> None:
        """A later release of the same format may have added one."""
        fields = json.loads(encode(envelope({"a": 1}))) | {"label": "my phone"}

        assert values_of(decode(json.dumps(fields).encode())) == {"a": 1}

    def test_a_missing_optional_field_has_its_default(self) -> None:
        """An earlier release of the same format may not have had it."""
        decoded = decode(encode(envelope()))

        assert decoded.user is None
        assert decoded.flashes == {}

    @pytest.mark.parametrize("newer", [FORMAT + 1, 2**64, 10**400])
    @pytest.mark.parametrize("values", [{}, [], "sealed"])
    def test_a_newer_format_is_the_stores_failure(
        self, newer: int, values: object
    ) -> None:
        """Behaviour 32: a record of a newer format is answered 503, untouched."""
        fields = json.loads(encode(envelope())) | {"format": newer, "values": values}

        with pytest.raises(BackendError) as caught:
            decode(json.dumps(fields).encode())

        assert str(caught.value) == (
            "The session was stored by a newer version of tornado-sessions."
            " This one reads format 1. Upgrade it here as well."
        )

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x00",
            b"\xff\xfe",
            b"null",
            b"1",
            b"[]",
            b"{}",
            b'"format"',
            b'{"format":1}',
            b'{"format":"2"}',
            b'{"format":2.5}',
            b'{"format":true}',
            b'{"format":0,"created":1,"seen":1,"expires":1,"values":{}}',
            b'{"format":-1,"created":1,"seen":1,"expires":1,"values":{}}',
            b'{"created":1,"seen":1,"expires":1,"values":{}}',
            b'{"format":1,"created":"1","seen":1,"expires":1,"values":{}}',
            b'{"format":1,"created":1e999,"seen":1,"expires":1,"values":{}}',
            b'{"format":1,"created":NaN,"seen":1,"expires":1,"values":{}}',
            b'{"format":1,"created":1,"seen":1,"expires":1,"values":[]}',
            b'{"format":1,"created":1,"seen":1,"expires":1,"values":{"a":}}',
            b'{"format":1,"created":1,"seen":1,"expires":1,"values":{"a":[1}]}}',
            b'{"format":1,"created":1,"seen":1,"expires":1,"values":{"a":"\xff"}}',
            b'{"format":1,"created":1,"seen":1,"expires":1,"values":{},"user":1}',
            b'{"format":1,"created":1,"seen":1,"expires":1,"values":{}}}',
            b"[" * 100_000,
            b'{"format":' * 100_000,
            b'{"format":' + b"9" * 10_000 + b"}",
            b'{"format":1,"created":1,"seen":1,"expires":1,"values":{"a":'
            + b"[" * 100_000,
        ],
        ids=lambda data: repr(data[:70]),
    )
    def test_rubbish_is_no_session(self, data: bytes) -> None:
        """Behaviour 32: one error, whatever is wrong, and no word of the data."""
        with pytest.raises(SessionDataError) as caught:
            decode(data)

        assert str(caught.value) == "The record of the session cannot be decoded."

    @unhurried
    @given(st.binary(max_size=200))
    @example(b'{"format":2}')
    def test_any_bytes_raise_nothing_else(self, data: bytes) -> None:
        """Behaviour 32: whatever the store answers."""
        look_at(data)

    @unhurried
    @given(values)
    def test_any_json_raises_nothing_else(self, value: object) -> None:
        """Behaviour 32: whatever the store answers."""
        look_at(json.dumps(value).encode())

    @unhurried
    @given(st.data())
    def test_a_damaged_record_raises_nothing_else(self, data: st.DataObject) -> None:
        """Behaviour 32: neither when it is loaded nor when a value is read."""
        record = bytearray(
            encode(envelope({"a": "text", "b": {"c": [1.5, None]}}, user="ada"))
        )
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(record) - 1))
            record[place] = data.draw(st.integers(0, 255))

        look_at(bytes(record))

    def test_a_value_that_is_not_unicode_raises_nothing_else(self) -> None:
        """Behaviour 32: such as a text that one broken byte has got into."""
        look_at(encode(envelope({"a": "text"})).replace(b"text", b"te\xfft"))

    @pytest.mark.parametrize(
        "number",
        [
            b"1e999",
            b"-1e999",
            b"1E+309",
            b"1.5e0309",
            b"1e18446744073709551617",
            b"9" * 309 + b".5",
            b"9" * 210 + b"e99",
            b"9" * 4_301,
            b"-" + b"9" * 4_301,
        ],
        ids=lambda number: number[:10].decode(),
    )
    @pytest.mark.parametrize("place", [b"%b", b'[true,{"b":%b}]', b"[%b]"])
    def test_a_number_that_python_refuses_is_no_session(
        self, number: bytes, place: bytes
    ) -> None:
        """Behaviour 84: when it is loaded, and not when the value is read."""
        value = place % number
        data = encode(envelope({"a": "text"})).replace(b'"text"', value)

        with pytest.raises(SessionDataError):
            decode(data)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            (b"1e308", 1e308),
            (b"1e-999", 0.0),
            (b"0e999", 0.0),
            (b"1e0099", 1e99),
            (b"9" * 308 + b".5", 1e308),
            (b"9" * 4_300, int("9" * 4_300)),
            (b'"1e999"', "1e999"),
            (b'"%b"' % (b"9" * 5_000), "9" * 5_000),
        ],
        ids=lambda number: str(number)[:10],
    )
    def test_what_python_takes_is_a_session(self, text: bytes, value: object) -> None:
        """Behaviour 84: a number within the range, and any text."""
        data = encode(envelope({"a": "text"})).replace(b'"text"', text)

        assert values_of(decode(data)) == {"a": value}

    @unhurried
    @given(
        st.integers(1, 5_000),
        st.sampled_from([b"", b".", b".0"]),
        st.sampled_from([b"", b"e", b"E+", b"e-", b"e00"]),
        st.integers(0, 400),
    )
    def test_a_loaded_record_can_be_read(
        self, digits: int, point: bytes, sign: bytes, exponent: int
    ) -> None:
        """Behaviour 84: whatever the number, it is refused at once or never."""
        number = b"9" * digits + point + (sign + b"%d" % exponent if sign else b"")
        data = encode(envelope({"a": "text"})).replace(b'"text"', number)
        try:
            loaded = decode(data)
        except SessionDataError:
            return

        values_of(loaded)


def nested_lists(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


class DeepRecordTest:
    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(nested_lists(101), id="one too many"),
            pytest.param(nested_lists(3_000), id="thousands"),
            pytest.param(nested_lists(30_000), id="more than the decoder skips"),
            pytest.param(b'{"a":' * 101 + b"1" + b"}" * 101, id="dicts"),
            pytest.param(
                b"[ {\n" + nested_lists(99).join([b'"a":', b"}]"]), id="blanks"
            ),
            pytest.param(
                b'["]\\"]",' * 101 + b"1" + b"]" * 101, id="brackets in texts"
            ),
            pytest.param(b'["\\\\",' * 101 + b"1" + b"]" * 101, id="backslashes"),
            pytest.param(
                b"[" + b"[],[[]]," * 200 + nested_lists(100) + b"]", id="last"
            ),
        ],
    )
    def test_a_value_that_is_nested_too_deep_is_no_session(self, value: bytes) -> None:
        """Behaviour 84: it could be loaded, but not read, compared or stored again."""
        data = encode(envelope({"a": "text"})).replace(b'"text"', value)

        with pytest.raises(SessionDataError):
            decode(data)

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(nested_lists(100), id="a hundred levels"),
            pytest.param(b'"' + b"[" * 3_000 + b'"', id="a text"),
            pytest.param(b'"' + b'\\"[' * 3_000 + b'"', id="a text with quotes"),
            pytest.param(b"[" + b",".join([nested_lists(99)] * 50) + b"]", id="many"),
            pytest.param(b"[" + b",".join([b'{"a":[]}'] * 500) + b"]", id="wide"),
        ],
    )
    def test_any_number_of_brackets_is_a_session(self, value: bytes) -> None:
        """Behaviour 84: the depth counts."""
        data = encode(envelope({"a": "text"})).replace(b'"text"', value)

        assert decode_value(decode(data).values["a"]) == json.loads(value)

    @unhurried
    @given(values, st.integers(0, 110), st.booleans())
    def test_what_can_be_stored_can_be_loaded(
        self,
        value: Any,  # noqa: ANN401
        depth: int,
        in_dicts: bool,
    ) -> None:
        """Behaviours 25, 84: the same depth counts for both."""
        for _ in range(depth):
            value = {"[": value} if in_dicts else ["]", value]
        try:
            record = envelope({"a": value})
        except SessionDataError:
            record = envelope({"a": "text"})
            text = json.dumps(value).encode()
            with pytest.raises(SessionDataError):
                decode(encode(record).replace(b'"text"', text))
        else:
            assert values_of(decode(encode(record))) == {"a": value}


def look_at(data: bytes) -> None:
    """Decodes a record and all its values, and takes no other error for granted."""
    with contextlib.suppress(SessionDataError, BackendError):
        values_of(decode(data))


class DepthTest:
    def test_a_hundred_levels_come_back(self) -> None:
        """Lists and dicts count alike, and brackets in texts do not."""
        value: Any = "[" * 200
        for _ in range(50):
            value = {"a": [value]}

        assert decode_value(encode_value("a", value)) == value

    def test_one_more_is_refused(self) -> None:
        """It could not be read from everywhere."""
        value: Any = []
        for _ in range(50):
            value = {"a": [value]}
        with pytest.raises(SessionDataError, match="deeper than 100 levels"):
            encode_value("a", value)


class RebaseTest:
    def test_changed_values_are_put_on_the_newest(self) -> None:
        """Behaviour 38: dict by dict, at any depth."""
        merged = rebase(
            envelope({"a": 1, "cart": {"apple": 1}, "gone": 1, "read": 1}),
            envelope({"a": 2, "cart": {"apple": 1, "pear": 1}, "read": 1, "new": 1}),
            envelope({"a": 3, "cart": {"plum": 1}, "gone": 2, "read": 9}),
        )

        assert values_of(merged) == {
            "a": 2,
            "cart": {"plum": 1, "pear": 1},
            "read": 9,
            "new": 1,
        }

    def test_what_nobody_changed_is_not_written_anew(self) -> None:
        """It stays the bytes that it was."""
        theirs = envelope({"read": [1, 2], "a": 1})

        merged = rebase(envelope({"a": 1}), envelope({"a": 2}), theirs)

        assert merged.values["read"] is theirs.values["read"]

    def test_what_only_one_request_has_changed_is_not_decoded(self) -> None:
        """Behaviour 70: it may be large, and nothing of it is merged."""
        # It cannot be decoded.
        large = Raw(b"1e999")
        base, mine = envelope({"cart": {"a": 1}}), envelope({"cart": {"b": 2}})
        mine.values.update(cart=large, new=large)

        merged = rebase(base, mine, envelope({"cart": {"a": 1}, "b": 1}))

        assert merged.values == {"cart": large, "new": large, "b": Raw(b"1")}

    def test_deleted_by_both_stays_deleted(self) -> None:
        """And is no error."""
        assert values_of(rebase(envelope({"a": 1}), envelope(), envelope())) == {}

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("user", "ada"),
            ("auth_time", 5.0),
            ("idle", 60.0),
            ("lifetime", 60.0),
            ("persistent", True),
        ],
    )
    def test_a_changed_field_wins(self, field: str, value: Any) -> None:  # noqa: ANN401
        """Behaviour 38: of two settings of one field the last."""
        mine = envelope(**{field: value})

        assert getattr(rebase(envelope(), mine, envelope()), field) == value

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("user", "ada"),
            ("auth_time", 5.0),
            ("idle", 60.0),
            ("lifetime", 60.0),
            ("persistent", False),
        ],
    )
    def test_a_field_that_was_only_read_is_not_put_back(
        self,
        field: str,
        value: Any,  # noqa: ANN401
    ) -> None:
        """Behaviour 40: another request's change stays."""
        theirs = envelope(**{field: value})

        assert getattr(rebase(envelope(), envelope({"a": 1}), theirs), field) == value

    def test_the_times_are_those_of_the_newest(self) -> None:
        """They are set when the record is stored."""
        theirs = Envelope(7.0, 8.0, 9.0, {}, format=FORMAT)

        merged = rebase(envelope(), envelope({"a": 1}), theirs)

        assert (merged.created, merged.seen, merged.expires) == (7.0, 8.0, 9.0)

    def test_messages_of_two_requests_both_stay(self) -> None:
        """Behaviour 38: no message is lost."""
        merged = rebase(
            envelope(flashes={"1": ("old", "info")}),
            envelope(flashes={"1": ("old", "info"), "2": ("mine", "info")}),
            envelope(flashes={"1": ("old", "info"), "3": ("theirs", "info")}),
        )

        assert set(merged.flashes) == {"1", "2", "3"}

    def test_twenty_messages_are_left_and_the_oldest_go(self) -> None:
        """Behaviour 86: of what both have added, too."""
        old = {f"old {n}": ("old", "info") for n in range(10)}
        mine = {f"mine {n}": ("mine", "info") for n in range(10)}
        theirs = {f"theirs {n}": ("theirs", "info") for n in range(10)}
        merged = rebase(
            envelope(flashes=old),
            envelope(flashes=old | mine),
            envelope(flashes=old | theirs),
        )

        assert list(merged.flashes) == [*theirs, *mine]

    def test_messages_that_were_shown_do_not_come_back(self) -> None:
        """Whatever another request has added, the shown ones are gone."""
        merged = rebase(
            envelope(flashes={"1": ("old", "info")}),
            envelope(),
            envelope(flashes={"1": ("old", "info"), "3": ("theirs", "info")}),
        )

        assert merged.flashes == {"3": ("theirs", "info")}

    def test_messages_stay_in_their_order(self) -> None:
        """They are shown oldest first."""
        mine = {f"{number:08x}": (str(number), "info") for number in range(20)}

        merged = rebase(envelope(), envelope(flashes=mine), envelope())

        assert list(merged.flashes) == list(mine)

    def test_the_arguments_stay_as_they_are(self) -> None:
        """Behaviour 41: copies in and out."""
        sides = [
            envelope({"cart": {"n": number}}, flashes={str(number): ("x", "info")})
            for number in range(3)
        ]
        before = [encode(side) for side in sides]

        rebase(*sides)

        assert [encode(side) for side in sides] == before

    def test_what_is_the_same_object_is_not_compared(self) -> None:
        """Behaviour 70: of thousands of values a request has touched but a few."""

        class Untouched:
            def __eq__(self, other: object) -> bool:
                raise AssertionError("It was compared.")

            def __hash__(self) -> int:
                raise AssertionError("It was hashed.")

        untouched: Any = {f"key {number}": Untouched() for number in range(3)}
        base = envelope({"a": 1})
        mine, theirs = envelope({"a": 2}), envelope({"a": 1, "b": 1})
        for side in (base, mine, theirs):
            side.values.update(untouched)
        merged = rebase(base, mine, theirs)

        assert all(merged.values[key] is untouched[key] for key in untouched)
        assert (merged.values["a"], merged.values["b"]) == (Raw(b"2"), Raw(b"1"))


class SameTest:
    def test_times_make_no_difference(self) -> None:
        """A renewal is no change."""
        other = Envelope(7.0, 8.0, 9.0, {}, format=FORMAT)

        assert same_content(envelope(), other)

    @pytest.mark.parametrize(
        "fields",
        [
            {"user": "ada"},
            {"auth_time": 1.0},
            {"idle": 1.0},
            {"lifetime": 1.0},
            {"persistent": False},
            {"flashes": {"1": ("x", "info")}},
        ],
        ids=lambda fields: next(iter(fields)),
    )
    def test_every_other_field_does(self, fields: dict[str, Any]) -> None:
        """What a request can change is compared."""
        assert not same_fields(envelope(), envelope(**fields))
        assert not same_content(envelope(), envelope(**fields))

    def test_values_make_a_difference_in_content_alone(self) -> None:
        """They are no fields."""
        assert same_fields(envelope(), envelope({"a": 1}))
        assert not same_content(envelope(), envelope({"a": 1}))

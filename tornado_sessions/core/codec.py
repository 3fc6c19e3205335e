"""Encodes the values and the envelope of a session, and decodes them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from tornado_sessions.core.merge import merge
from tornado_sessions.errors import BackendError, SessionDataError

FORMAT = 1


class Envelope(msgspec.Struct, omit_defaults=True):
    """The content of the record of one session; times are seconds since the epoch.

    A value stays encoded until it is read, so values that a request does not use
    are neither decoded nor encoded again.
    """

    #: When the session began, when its last request was recorded, and when it
    #: expires without another one.
    created: float
    seen: float
    expires: float
    values: dict[str, Raw]
    #: The handle, which is public: neither the token nor the key.
    id: str = ""
    user: str | None = None
    #: When ``user`` signed in.
    auth_time: float | None = None
    #: Set by `.Session.set_expiry` and ``persistent``; None for the settings.
    idle: float | None = None
    lifetime: float | None = None
    persistent: bool | None = None
    #: See `.Session.label`.
    label: str = ""
    #: Texts and categories, under random keys so that two requests never use
    #: the same one.
    flashes: dict[str, tuple[str, str]] = {}
    #: Of a tombstone: the key of the record under the new id, in hexadecimal
    #: digits. The key is a digest and gives no access.
    successor: str = ""
    #: While a request ends the other sessions of the user: the mark of that request.
    #: See `.Claim`.
    claim: str = ""
    format: int = msgspec.field(default=0)

    def __repr__(self) -> str:
        return f"<Envelope {len(self.values)} values>"


class _Format(msgspec.Struct):
    format: int


_encode = msgspec.json.Encoder().encode
#: Returns the bytes of an `Envelope`.
encode: Callable[[Envelope], bytes] = _encode
_decode = msgspec.json.Decoder().decode
_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_format = msgspec.json.Decoder(_Format).decode
_decode_errors = (msgspec.DecodeError, RecursionError, ValueError)

# Makes all digits, both forms of an exponent and both kinds of brackets alike, for the
# checks in `decode`.
_alike = bytes.maketrans(b"123456789E{", b"000000000e[")

# With an exponent of two digits, a number above 1.8e308 has more digits than this. An
# integer that Python does not read has more than 4,300.
_MANY_DIGITS = b"0" * 200

# How deep a value may be nested. The decoder counts its own calls together with
# those of Python: a deeper value could be stored, but not always be read again.
_DEEPEST = 100

_TOO_DEEP = f"it is nested deeper than {_DEEPEST} levels, or in itself"

# Any integer below this can be stored. Far larger ones cannot.
_ANY_INTEGER = 2**63

# What `_is_too_deep` makes of JSON: brackets alone, and then by how many levels they lead
# down or up. A run of eight is one step.
_as_lists = bytes.maketrans(b"{}", b"[]")
_no_brackets = bytes(set(range(256)) - set(b"[]{}"))
_as_steps = bytes.maketrans(b"[]", b"\x01\xff")
_eight_down, _eight_up = (b"[" * 8, b"\x08"), (b"]" * 8, b"\xf8")

# How many levels `_is_too_deep` removes beforehand: mostly there are no more.
_REMOVED = 3

#: Types whose values are immutable. If such a value can be encoded, decoding it
#: returns an equal value.
PLAIN = frozenset({str, int, bool, type(None)})

# What to store instead, by what `_culprit` calls it.
_ADVICE = {
    "bytes": "Store text, such as its base64.",
    "date": "Store its isoformat().",
    "datetime": "Store its isoformat().",
    "Decimal": "Store its str().",
    "frozenset": "Store a list.",
    "set": "Store a list.",
    "str that is not Unicode": "Store text without surrogates.",
    "tuple": "Store a list.",
    "UUID": "Store its str().",
}

# How many characters of a key an error repeats.
_LONGEST_STEP = 40

#: How many messages of `.Session.flash` a session holds at most.
MOST_FLASHES = 20

#: The fields of an envelope that are merged after a conflict.
_merged_fields = ("user", "auth_time", "idle", "lifetime", "persistent", "label")


def decode(data: bytes) -> Envelope:
    """Returns what `encode` was given.

    Raises `.SessionDataError` for anything else. Raises `.BackendError` for a
    record in the format of a newer version of this library, which must not be
    overwritten.
    """
    try:
        # Values are decoded later, which must not fail: these three checks find what
        # the decoder skips.
        if not data.isascii():
            data.decode()
        envelope = _decode_envelope(data)
        if envelope.format == FORMAT:
            # Without the sign of an exponent.
            plain = data.translate(_alike, b"+")
            if plain.count(b"[") > _DEEPEST and any(
                _is_too_deep(bytes(value))
                for value in envelope.values.values()
                if len(value) > 2 * _DEEPEST
            ):
                raise ValueError
            if _may_overflow(plain):
                for value in envelope.values.values():
                    _decode(value)
            return envelope
    except _decode_errors:
        pass
    try:
        newer = _decode_format(data).format > FORMAT
    except _decode_errors:
        newer = False
    if newer:
        raise BackendError(
            "The session was stored by a newer version of tornado-sessions."
            f" This one reads format {FORMAT}. Upgrade it here as well."
        )
    raise SessionDataError("The record of the session cannot be decoded.")


def _may_overflow(plain: bytes) -> bool:
    """Whether ``plain`` may come of a number that the decoder refuses.

    It also returns True for a few others, and for some texts.
    """
    # `rfind` takes half the time of `find`, which looks for the last character first:
    # records are full of zeros.
    return plain.rfind(b"0e000") >= 0 or plain.find(_MANY_DIGITS) >= 0


def _is_too_deep(data: bytes) -> bool:
    """Whether the JSON in ``data`` is nested deeper than 100 levels."""
    # A fast check first: nearly always there are too few brackets.
    if data.count(b"[") + data.count(b"{") <= _DEEPEST:
        return False
    # A text has no quotes when its escapes are gone, so each second part is a text.
    parts = data.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
    brackets = b"".join(parts[::2]).translate(_as_lists, _no_brackets)
    for _ in range(_REMOVED):
        brackets = brackets.replace(b"[]", b"")
    shorter = brackets.replace(*_eight_down).replace(*_eight_up)
    steps = memoryview(shorter.translate(_as_steps)).cast("b")
    return max(itertools.accumulate(steps), default=0) > _DEEPEST - _REMOVED


def tombstone(handle: str, user: str | None, successor: bytes) -> bytes:
    """Returns the data that replaces a record when its session gets a new id.

    It has the handle and the user of that record, and the key of the record under
    the new id. Its expiry is zero, so it cannot be used as a session.
    """
    return encode(
        Envelope(
            *(0.0, 0.0, 0.0, {}),
            id=handle,
            user=user,
            successor=successor.hex(),
            format=FORMAT,
        )
    )


def successor_of(envelope: Envelope) -> bytes | None:
    """Returns the key in a `tombstone`; None for any other envelope."""
    try:
        return bytes.fromhex(envelope.successor) or None
    except ValueError:
        return None


def encode_value(key: str, value: Any) -> Raw:  # noqa: ANN401
    """Returns ``value`` as JSON.

    Raises `.SessionDataError`, with the path and the type, if any part of it would
    not be equal after decoding. This is checked by decoding it.
    """
    data = _comes_back(value)
    if data is None or not (key.isascii() or _comes_back(key)):
        path, culprit = _culprit(key, value)
    elif type(value) not in PLAIN and _is_too_deep(data):
        path, culprit = _path(_Place(value, None, key)), _TOO_DEEP
    else:
        return Raw(data)
    raise SessionDataError(
        f"The session value {path} cannot be stored as JSON: {culprit}."
        f" {_advice(culprit)}"
    )


def decode_value(raw: Raw) -> Any:  # noqa: ANN401
    """Returns the value that `encode_value` was given.

    Raises `.SessionDataError` for what it never returned, such as ``1e999``.
    `decode` has refused a record that holds such a value.
    """
    try:
        return _decode(raw)
    except _decode_errors as error:
        raise SessionDataError("A value of the session cannot be decoded.") from error


def rebase(base: Envelope, mine: Envelope, theirs: Envelope) -> Envelope:
    """Returns ``theirs`` with what ``mine`` changed since ``base``."""
    values = dict(theirs.values)
    for key in base.values.keys() - mine.values.keys():
        values.pop(key, None)
    # What only one of the two has changed need not be decoded.
    both = []
    for key in different(mine.values, base.values):
        if values.get(key) == base.values.get(key):
            values[key] = mine.values[key]
        else:
            both.append(key)
    merged = merge(
        *(
            {key: decode_value(side.values[key]) for key in both if key in side.values}
            for side in (base, mine, theirs)
        )
    )
    for key in both:
        # Not in `merged`: a dict that another request has deleted, changed to an equal one.
        if key in merged:
            values[key] = Raw(_encode(merged[key]))
    flashes = latest(merge(base.flashes, mine.flashes, theirs.flashes))
    fields = {
        name: getattr(mine, name)
        for name in _merged_fields
        if getattr(mine, name) != getattr(base, name)
    }
    return msgspec.structs.replace(theirs, values=values, flashes=flashes, **fields)


def different(values: dict[str, Raw], loaded: dict[str, Raw]) -> list[str]:
    """Returns the keys of ``values`` that ``loaded`` lacks or has another value for."""
    # Identity first: mostly it is the same object, and each comparison would be a
    # call. A session may have thousands of values.
    get = loaded.get
    return [
        key
        for key, value in values.items()
        if (other := get(key)) is not value and other != value
    ]


def latest(flashes: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Returns the newest `MOST_FLASHES` of ``flashes``."""
    if len(flashes) <= MOST_FLASHES:
        return flashes
    return dict(list(flashes.items())[-MOST_FLASHES:])


def same_fields(one: Envelope, other: Envelope) -> bool:
    """Whether two envelopes are equal except for values and times."""
    return one.flashes == other.flashes and all(
        getattr(one, name) == getattr(other, name) for name in _merged_fields
    )


def same_content(one: Envelope, other: Envelope) -> bool:
    """Whether two envelopes are equal except for times."""
    return one.values == other.values and same_fields(one, other)


def _comes_back(value: Any) -> bytes | None:  # noqa: ANN401
    """Returns ``value`` encoded, or None if decoding it gives another value."""
    try:
        data = _encode(value)
        if type(value) in PLAIN or _decode(data) == value:
            return data
    except Exception:  # noqa: BLE001 - the value's own __eq__ may raise anything
        return None
    return None


class _Place(NamedTuple):
    """A part of a value that cannot be stored, and its path."""

    value: Any
    #: The place of the dict or list that contains it; None at the top.
    parent: _Place | None
    #: Its key or index in the parent.
    step: str | int


def _culprit(key: str, value: Any) -> tuple[str, str]:  # noqa: ANN401
    """Returns the path and the type of the part of ``value`` that is not JSON.

    The path contains keys, but no values.
    """
    top = _Place(value, None, key)
    if _comes_back(key) is None:
        return _path(top), "a key that is not Unicode"
    pending, known = [top], set()
    while pending:
        place = pending.pop()
        value = place.value
        if id(value) in known:
            continue
        if isinstance(value, dict):
            known.add(id(value))
            for step in value:
                if type(step) is not str:
                    name = type(step).__name__
                    return _path(place), f"a dict with a key of type {name}"
                if not (step.isascii() or _comes_back(step)):
                    return _path(place), "a key that is not Unicode"
            pending += [
                _Place(child, place, step)
                for step, child in value.items()
                if not _is_simple(child)
            ]
        elif isinstance(value, list):
            known.add(id(value))
            pending += [
                _Place(child, place, i)
                for i, child in enumerate(value)
                if not _is_simple(child)
            ]
        elif type(value) is float and not math.isfinite(value):
            return _path(place), f"float {value}"
        elif type(value) is str and _comes_back(value) is None:
            return _path(place), "str that is not Unicode"
        elif _comes_back(value) is None:
            return _path(place), type(value).__name__
    return _path(top), _TOO_DEEP


def _is_simple(value: Any) -> bool:  # noqa: ANN401
    """Whether ``value`` is obviously JSON. A list may have thousands of such."""
    kind = type(value)
    return (
        (kind is int and -_ANY_INTEGER < value < _ANY_INTEGER)
        or (kind is str and value.isascii())
        or ((kind is list or kind is dict) and not value)
        or value is None
        or kind is bool
    )


def _path(place: _Place) -> str:
    """Returns how Python code reaches ``place``: ``'cart'['lines'][0]``."""
    steps: list[str] = []
    at: _Place | None = place
    while at is not None:
        step = at.step
        if isinstance(step, str) and len(step) > _LONGEST_STEP:
            step = step[:_LONGEST_STEP] + "…"
        steps.append(repr(step) if at.parent is None else f"[{step!r}]")
        at = at.parent
    return "".join(reversed(steps))


def _advice(culprit: str) -> str:
    if culprit.startswith("a dict with a key"):
        return "Use str keys."
    return _ADVICE.get(culprit, "Store what JSON can hold.")

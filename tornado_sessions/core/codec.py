"""Encodes the values and the envelope of a session, and decodes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from tornado_sessions.core.depth import DEEPEST, is_too_deep
from tornado_sessions.core.envelope import FORMAT, Envelope
from tornado_sessions.core.unstorable import explain, explain_depth
from tornado_sessions.errors import BackendError, SessionDataError


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
# checks in `decode`. The sign of an exponent becomes a digit: to delete it takes longer.
_alike = bytes.maketrans(b"123456789E{+", b"000000000e[0")

# With an exponent of two digits, a number above 1.8e308 has more digits than this. An
# integer that Python does not read has more than 4,300.
_MANY_DIGITS = b"0" * 200

#: Types whose values are immutable. If such a value can be encoded, decoding it
#: returns an equal value.
PLAIN = frozenset({str, int, bool, type(None)})


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
            plain = data.translate(_alike)
            # In a third of the time of `count`: mostly there are few.
            if len(plain.split(b"[", DEEPEST)) > DEEPEST and any(
                is_too_deep(bytes(value))
                for value in envelope.values.values()
                if len(value) > 2 * DEEPEST
            ):
                raise ValueError
            # These are in all numbers that the decoder refuses, in a few others, and in
            # some texts. `rfind` takes half the time of `find`, which looks for the last
            # character first: records are full of zeros.
            if plain.rfind(b"0e000") >= 0 or plain.rfind(_MANY_DIGITS) >= 0:
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
        raise SessionDataError(explain(key, value, _comes_back))
    if type(value) not in PLAIN and is_too_deep(data):
        raise SessionDataError(explain_depth(key))
    return Raw(data)


def encode_merged(value: Any) -> Raw:  # noqa: ANN401
    """Returns a value as JSON that was decoded, or merged of such ones."""
    return Raw(_encode(value))


def decode_value(raw: Raw) -> Any:  # noqa: ANN401
    """Returns the value that `encode_value` was given.

    Raises `.SessionDataError` for what it never returned, such as ``1e999``.
    `decode` has refused a record that holds such a value.
    """
    try:
        return _decode(raw)
    except _decode_errors as error:
        raise SessionDataError("A value of the session cannot be decoded.") from error


def _comes_back(value: Any) -> bytes | None:  # noqa: ANN401
    """Returns ``value`` encoded, or None if decoding it gives another value."""
    try:
        data = _encode(value)
        if type(value) in PLAIN or _decode(data) == value:
            return data
    except Exception:  # noqa: BLE001 - the value's own __eq__ may raise anything
        return None
    return None

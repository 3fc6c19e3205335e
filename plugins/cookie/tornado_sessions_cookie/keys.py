"""Seals records with the versions of ``cookie_secret``, and opens them."""

from __future__ import annotations

import os
from collections.abc import Iterable

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tornado_sessions_cookie.xaes import XAES256GCM

PURPOSE = b"tornado_sessions cookie v1"

# In front of every token: a byte for the format, four for the key version.
_FORMAT = b"\x01"
HEADER_SIZE = 5
_NONCE_SIZE = 24
_TAG_SIZE = 16
_AROUND = HEADER_SIZE + _NONCE_SIZE + _TAG_SIZE

# The smallest size holds the core's own fields and a few values, so that
# whether anything is in a session does not show. Both sizes are multiples of
# three, and so are the 45 bytes around the data: the base64 of a token then has
# no padding, and no spare bits in its last character.
_SMALLEST_SIZE = 288
_SIZE_STEP = 96

_SECRET_BYTES = 32
_LAST_VERSION = 2**32 - 1


class Key:
    """Seals and opens with one version of the secret."""

    def __init__(self, header: bytes, secret: bytes, context: list[bytes]) -> None:
        self.header = header
        # Derived, so that Tornado's signed cookies and these share no key.
        kdf = HKDF(SHA256(), length=32, salt=None, info=PURPOSE)
        self._cipher = XAES256GCM(kdf.derive(secret))
        self._associated_data = joined([header, *context])

    def seal(self, data: bytes) -> bytes:
        nonce = os.urandom(_NONCE_SIZE)
        # Padded as ISO/IEC 7816-4 does: one byte that ends the data, then zeros.
        padded = (data + b"\x80").ljust(_padded_size(len(data)), b"\0")
        sealed = self._cipher.encrypt(nonce, padded, self._associated_data)
        return self.header + nonce + sealed

    def open(self, sealed: bytes) -> bytes:
        nonce = sealed[HEADER_SIZE : HEADER_SIZE + _NONCE_SIZE]
        padded = self._cipher.decrypt(
            nonce, sealed[HEADER_SIZE + _NONCE_SIZE :], self._associated_data
        )
        return padded.rstrip(b"\0")[:-1]


def joined(parts: Iterable[bytes]) -> bytes:
    """Returns ``parts`` as one, so that no others come out the same."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _padded_size(size: int) -> int:
    """Returns how many bytes ``size`` bytes of data are padded to."""
    if size < _SMALLEST_SIZE:
        return _SMALLEST_SIZE
    return (size // _SIZE_STEP + 1) * _SIZE_STEP


def token_length(size: int) -> int:
    """Returns how many characters the token of ``size`` bytes of data has."""
    return (_AROUND + _padded_size(size)) // 3 * 4


def most_data(length: int) -> int:
    """Returns how many bytes of data fit into a token of ``length`` characters.

    That is below zero if even an empty token has more.
    """
    padded = (length // 4 * 3 - _AROUND) // _SIZE_STEP * _SIZE_STEP
    return padded - 1 if padded >= _SMALLEST_SIZE else -1


def header_of(version: object) -> bytes:
    """Returns what stands in front of each token that this key version seals."""
    if not isinstance(version, int) or not 0 <= version <= _LAST_VERSION:
        raise ValueError(
            f"A version of cookie_secret is {shown(version)}. Use whole numbers from 0 to"
            f" {_LAST_VERSION}, each with its secret as the value."
        )
    return _FORMAT + version.to_bytes(4, "big")


def shown(version: object) -> str:
    # What is no number is not repeated: it may be a secret in the wrong place.
    if version is None or isinstance(version, int):
        return repr(version)
    return f"a {type(version).__name__}"


def checked(secret: object, version: int) -> bytes:
    """Returns the bytes of ``secret``, if they are enough to make a key of."""
    if isinstance(secret, str):
        secret = secret.encode()
    if not isinstance(secret, bytes):
        raise ValueError(
            f"The cookie_secret of version {version} is of the type"
            f" {type(secret).__name__}. Use a str or bytes."
        )
    if len(secret) < _SECRET_BYTES:
        raise ValueError(
            f"The cookie_secret of version {version} has {len(secret)} bytes; the"
            f" cookie session backend needs at least {_SECRET_BYTES}. Make one with:"
            ' python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return secret

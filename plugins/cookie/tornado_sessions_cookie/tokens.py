"""Makes tokens out of records, and opens them."""

from __future__ import annotations

import binascii
import string
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidTag

from tornado_sessions import UNKNOWN, Record, SessionDataError
from tornado_sessions.storage.outdated import OutdatedRecord
from tornado_sessions_cookie.keys import (
    HEADER_SIZE,
    PURPOSE,
    Key,
    checked,
    header_of,
    most_data,
    shown,
    token_length,
)

_TO_BASE64URL = bytes.maketrans(b"+/", b"-_")

# What is not in base64url becomes a byte that the decoder skips.
_ALPHABET = (string.ascii_letters + string.digits).encode()
_BASE64_OF = dict(zip(_ALPHABET + b"-_", _ALPHABET + b"+/", strict=True))
_TO_BASE64 = bytes(_BASE64_OF.get(byte, 0) for byte in range(256))

# What a browser keeps of one cookie, name plus value (RFC 6265bis).
_COOKIE_BYTES = 4096
_LONGEST_PREFIX = "__Host-Http-"


class Tokens:
    """Seals records with one of the ``keys``, and opens them with any.

    For the cookie ``name`` and the ``namespace``. Raises `ValueError` for keys that
    cannot be used.
    """

    def __init__(
        self,
        keys: Mapping[int, str | bytes],
        key_version: int,
        name: str,
        namespace: str,
    ) -> None:
        context = [PURPOSE, name.encode(), namespace.encode()]
        by_version = {
            version: Key(header_of(version), checked(secret, version), context)
            for version, secret in keys.items()
        }
        if key_version not in by_version:
            raise ValueError(
                f"The 'key_version' setting is {shown(key_version)}; it must name one"
                f" of the versions of cookie_secret: {_listed(by_version)}."
            )
        self._sealing = by_version[key_version]
        self._keys = {key.header: key for key in by_version.values()}
        # The core puts a prefix in front of the name where the browser can
        # check it, and takes a name that begins with two underscores as it is.
        longest_name = name if name.startswith("__") else _LONGEST_PREFIX + name
        self._name_bytes = len(longest_name.encode())
        self._shortest = token_length(0)
        self._longest = _COOKIE_BYTES - self._name_bytes
        self._most_data = most_data(self._longest)

    def __len__(self) -> int:
        return len(self._keys)

    def seal(self, record: Record) -> str:
        """Returns a new token that contains ``record``.

        Raises `.SessionDataError` if the cookie, with its name, would be larger than
        4096 bytes.
        """
        data = record.data
        if len(data) > self._most_data:
            count = self._name_bytes + token_length(len(data))
            raise SessionDataError(
                f"The session takes {count} bytes; a cookie holds at most"
                f" {_COOKIE_BYTES}. Store less, or use a server-side backend."
            )
        text = binascii.b2a_base64(self._sealing.seal(data), newline=False)
        return text.translate(_TO_BASE64URL).decode()

    def open(self, token: str) -> Record | None:
        """Returns the record in ``token``; None if it is not one of ours.

        That is an `.OutdatedRecord` if another key than the current one has sealed it.
        """
        sealed = self._decoded(token)
        key = self._keys.get(sealed[:HEADER_SIZE])
        if key is None:
            return None
        try:
            data = key.open(sealed)
        except InvalidTag:
            return None
        kind = Record if key is self._sealing else OutdatedRecord
        return kind(data, UNKNOWN)

    def is_well_formed(self, token: str) -> bool:
        """Whether ``token`` could be one of ours."""
        return self._decoded(token) != b""

    def _decoded(self, token: str) -> bytes:
        """Returns the bytes of ``token``, or none if it could not be one of ours."""
        if not self._shortest <= len(token) <= self._longest:
            return b""
        text = token.encode("ascii", "replace").translate(_TO_BASE64)
        try:
            sealed = binascii.a2b_base64(text)
        except binascii.Error:
            return b""
        # It is shorter if anything was skipped. With whole groups of four from within
        # the alphabet, no two tokens say the same.
        return sealed if 4 * len(sealed) == 3 * len(token) else b""


def _listed(names: Iterable[object]) -> str:
    return ", ".join(repr(name) for name in names) or "none"

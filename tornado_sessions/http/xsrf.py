"""Binds Tornado's XSRF tokens to sessions.

The cookie ``_xsrf`` contains a random secret and, if the client has a session,
a signature of that secret for the session id. A form contains the secret. An
attacker can neither read the secret nor create the signature, so a forged request
has neither. Nothing is stored on the server, and a form can be rendered before the
id of its session is drawn.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import itertools
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

_SECRET_BYTES = 16
_SIGNATURE_BYTES = 16

# How many well-formed cookies of one request are used. Another application may have
# set one of the same name with another path.
_MOST_COOKIES = 4

_PURPOSE = b"tornado_sessions xsrf v1\0"

# Version 2 of Tornado's tokens: a mask, the masked data, and a time. The data is a
# secret at least. A form may send one of any length, and to unmask megabytes would
# block the event loop.
_version_2 = re.compile(r"2\|([0-9a-f]{8})\|((?:[0-9a-f]{2}){16,64})\|[0-9]+").fullmatch


class XSRFKeys:
    """Signs and verifies with keys derived from the setting ``cookie_secret``.

    If it has several versions, ``key_version`` is used for signing. Raises
    `ValueError` for invalid settings.
    """

    def __init__(self, cookie_secret: Any, key_version: Any = None) -> None:  # noqa: ANN401
        if not cookie_secret:
            raise ValueError(
                "You must define the 'cookie_secret' setting in your application to use"
                ' session_xsrf=True. Make one with: python -c "import secrets;'
                ' print(secrets.token_urlsafe(32))"'
            )
        if not isinstance(cookie_secret, Mapping):
            cookie_secret, key_version = {0: cookie_secret}, 0
        if key_version not in cookie_secret:
            # What is no number is not repeated: it may be a secret.
            is_number = key_version is None or isinstance(key_version, int)
            shown = key_version if is_number else f"a {type(key_version).__name__}"
            raise ValueError(
                f"The 'key_version' setting is {shown}; it must name one of the"
                " versions of cookie_secret, for session_xsrf=True."
            )
        self._keys = {
            version: _derived(secret) for version, secret in cookie_secret.items()
        }
        self._signing = self._keys[key_version]

    def sign(self, token: str, secret: bytes) -> bytes:
        """Returns the signature of ``secret`` for the session of ``token``."""
        return _signature(self._signing, token, secret)

    def verify(self, token: str, secret: bytes, signature: bytes) -> bool:
        """Whether ``signature`` is valid under any of the keys."""
        return any(
            hmac.compare_digest(_signature(key, token, secret), signature)
            for key in self._keys.values()
        )


class Binding:
    """The XSRF secret of one request, and the new cookie of its response.

    ``cookies`` are the values of the request's ``_xsrf`` cookies, of which the first
    four well-formed ones are used. ``tokens`` are the session ids of the request,
    whether they are alive or not.
    """

    def __init__(
        self, keys: XSRFKeys, cookies: Sequence[str], tokens: Sequence[str]
    ) -> None:
        self._keys = keys
        self._has_cookie = bool(cookies)
        well_formed = filter(None, map(unmask, cookies))
        self._cookies = list(itertools.islice(well_formed, _MOST_COOKIES))
        self._tokens = tokens
        #: Whether the response contains the secret, as in a form.
        self.handed_out = False
        # The content of the client's cookie, and the secret, which is its first part.
        self._sent = self._secret = b""
        self._choose(self._usable(tokens))
        self._moved = False

    def accepts(self, argument: str) -> bool:
        """Whether a request with ``argument`` comes from a page of this site.

        The argument is the secret, from a form, or the whole cookie, from a
        script. If the request has several ids, this is only half of the check:
        `confirm` does the other half when it is known which of them is alive.
        """
        usable = self._usable(self._tokens)
        if len(self._tokens) > 1:
            # If none of these sessions is alive, the visitor has none.
            usable = self._cookies
        given = unmask(argument)[:_SECRET_BYTES]
        accepted = [
            data for data in usable if hmac.compare_digest(given, data[:_SECRET_BYTES])
        ]
        # There may be two cookies with one secret: with a signature, and without.
        self._cookies = accepted or self._cookies
        self._choose(accepted or usable)
        return bool(accepted)

    def confirm(self, alive: Sequence[str]) -> bool:
        """Whether the accepted secret is valid for the ids that are ``alive``.

        It must be signed for one of them, unless there is none.
        """
        self._tokens = alive
        self._choose(self._usable(alive))
        return bool(self._secret)

    def secret(self, moved: bool) -> bytes:
        """Returns the secret; a new one after the session has ``moved``."""
        if not self._secret or (moved and not self._moved):
            self._secret = secrets.token_bytes(_SECRET_BYTES)
        self._moved = moved
        return self._secret

    def _usable(self, tokens: Sequence[str]) -> list[bytes]:
        """Returns the cookies that are signed for one of ``tokens``.

        Without tokens it returns all: a visitor without a session needs no signature.
        """
        if not tokens:
            return self._cookies
        return [
            data
            for data in self._cookies
            if any(
                self._keys.verify(token, data[:_SECRET_BYTES], data[_SECRET_BYTES:])
                for token in tokens
            )
        ]

    def _choose(self, usable: Sequence[bytes]) -> None:
        self._sent = usable[0] if usable else b""
        self._secret = self._sent[:_SECRET_BYTES]

    def renewed(self, token: str | None, moved: bool) -> bytes | None:
        """Returns the new content of the cookie; None if it need not change.

        ``token`` is the session id of the client after this response. If it is
        None, a cookie that has a signature is left as it is.
        """
        if not (self._has_cookie or self.handed_out):
            return None
        secret = self.secret(moved)
        if token is None:
            return secret if self._sent[:_SECRET_BYTES] != secret else None
        signed = secret + self._keys.sign(token, secret)
        return signed if self._sent != signed else None


def mask(data: bytes, timestamp: float) -> bytes:
    """Returns a token of Tornado's version 2, a different one each time.

    This prevents the BREACH attack, which guesses a secret from the size of a
    compressed response (https://www.breachattack.com/).
    """
    key = secrets.token_bytes(4)
    masked = _masked(key, data)
    return b"2|%b|%b|%d" % (binascii.hexlify(key), binascii.hexlify(masked), timestamp)


def unmask(token: str) -> bytes:
    """Returns the argument of `mask`; empty for an invalid token."""
    match = _version_2(token)
    if match is None:
        return b""
    key, masked = map(binascii.unhexlify, match.groups())
    return _masked(key, masked)


def _masked(key: bytes, data: bytes) -> bytes:
    return bytes(byte ^ key[place % 4] for place, byte in enumerate(data))


def _derived(secret: Any) -> bytes:  # noqa: ANN401
    # Derived, so that it differs from the keys of Tornado and of the cookie backend.
    if isinstance(secret, str):
        secret = secret.encode()
    return hmac.digest(secret, _PURPOSE, hashlib.sha256)


def _signature(key: bytes, token: str, secret: bytes) -> bytes:
    # The secret has a fixed length, so the concatenation is unambiguous.
    message = secret + token.encode("utf-8", "surrogatepass")
    return hmac.digest(key, message, hashlib.sha256)[:_SIGNATURE_BYTES]

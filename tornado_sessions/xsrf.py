"""Binds Tornado's XSRF tokens to sessions.

The cookie ``_xsrf`` holds a random secret and, where the client has a session,
a signature of that secret for the session's id. A form holds the secret. A
forged request can bring neither a secret that it cannot read nor a signature
that it cannot make. So nothing is stored, and a form can be rendered before
the id is drawn that its session will have.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

_SECRET_BYTES = 16
_SIGNATURE_BYTES = 16

# Another application may have set a cookie of the same name with another path.
_MOST_COOKIES = 4

_PURPOSE = b"tornado_sessions xsrf v1\0"

# Version 2 of Tornado's tokens: a mask, what is masked with it, and when. A form
# may bring one of any length, and to unmask megabytes would hold up the loop.
_version_2 = re.compile(r"2\|([0-9a-f]{8})\|((?:[0-9a-f]{2}){1,64})\|[0-9]+").fullmatch


class XSRFKeys:
    """Signs and checks with keys made from the setting ``cookie_secret``.

    Of several versions, the one that ``key_version`` names signs. Raises
    `ValueError` for what cannot be used.
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
            raise ValueError(
                f"The 'key_version' setting is {key_version!r}; it must name one of the"
                " versions of cookie_secret, for session_xsrf=True."
            )
        self._keys = {
            version: _derived(secret) for version, secret in cookie_secret.items()
        }
        self._signing = self._keys[key_version]

    def sign(self, token: str, secret: bytes) -> bytes:
        """Answers the signature of ``secret`` for the session of ``token``."""
        return _signature(self._signing, token, secret)

    def verify(self, token: str, secret: bytes, signature: bytes) -> bool:
        """Tells whether `sign` has answered ``signature``, with any of the keys."""
        return any(
            hmac.compare_digest(_signature(key, token, secret), signature)
            for key in self._keys.values()
        )


class Binding:
    """The XSRF secret of one request, and what its response has to say of it.

    ``cookies`` are the values of the client's ``_xsrf`` cookies, and ``tokens`` the
    ids of the sessions that they came with, whether these are alive or not. Of the
    cookies four are looked at.
    """

    def __init__(
        self, keys: XSRFKeys, cookies: Sequence[str], tokens: Sequence[str]
    ) -> None:
        self._keys = keys
        self._has_cookie = bool(cookies)
        unmasked = map(unmask, cookies[:_MOST_COOKIES])
        self._cookies = [data for data in unmasked if len(data) >= _SECRET_BYTES]
        self._tokens = tokens
        #: Whether the response holds the secret, as in a form.
        self.handed_out = False
        # What the client's cookie holds, of which this is the first part.
        self._sent = self._secret = b""
        self._choose(self._usable(tokens))
        self._moved = False

    def accepts(self, argument: str) -> bool:
        """Whether a request with ``argument`` comes from a page of ours.

        That is the secret alone, from a form, or the whole cookie, as a script
        sends it. Of a request with several ids this is only half of the check:
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
        # A cookie with a signature may be in front of its secret alone.
        self._cookies = accepted or self._cookies
        self._choose(accepted or usable)
        return bool(accepted)

    def confirm(self, alive: Sequence[str]) -> bool:
        """Whether what was accepted is good for the sessions that are ``alive``.

        It has to be signed for one of them, unless there is none.
        """
        self._tokens = alive
        self._choose(self._usable(alive))
        return bool(self._secret)

    def secret(self, moved: bool) -> bytes:
        """Answers the secret; another one as soon as the session has ``moved``."""
        if not self._secret or (moved and not self._moved):
            self._secret = secrets.token_bytes(_SECRET_BYTES)
        self._moved = moved
        return self._secret

    def _usable(self, tokens: Sequence[str]) -> list[bytes]:
        """Returns the cookies that are signed for one of ``tokens``, if there are any.

        A visitor without a session needs no signature.
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
        """Answers what the cookie has to hold from now on; None if it does already.

        ``token`` is the id that the client has after this response. Where it
        has none, a signature is of no harm.
        """
        if not (self._has_cookie or self.handed_out):
            return None
        secret = self.secret(moved)
        if token is None:
            return secret if self._sent[:_SECRET_BYTES] != secret else None
        signed = secret + self._keys.sign(token, secret)
        return signed if self._sent != signed else None


def mask(data: bytes, timestamp: float) -> bytes:
    """Answers a token of Tornado's version 2, another one each time.

    What is compressed together with what an attacker chooses is thereby no
    help to them (https://www.breachattack.com/).
    """
    key = secrets.token_bytes(4)
    masked = _masked(key, data)
    return b"2|%b|%b|%d" % (binascii.hexlify(key), binascii.hexlify(masked), timestamp)


def unmask(token: str) -> bytes:
    """Answers what `mask` was given; nothing for anything else."""
    match = _version_2(token)
    if match is None:
        return b""
    key, masked = map(binascii.unhexlify, match.groups())
    return _masked(key, masked)


def _masked(key: bytes, data: bytes) -> bytes:
    return bytes(byte ^ key[place % 4] for place, byte in enumerate(data))


def _derived(secret: Any) -> bytes:  # noqa: ANN401
    # So that Tornado's signed cookies, sealed sessions and these share no key.
    if isinstance(secret, str):
        secret = secret.encode()
    return hmac.digest(secret, _PURPOSE, hashlib.sha256)


def _signature(key: bytes, token: str, secret: bytes) -> bytes:
    # The secret is of one length, so that the two cannot be mistaken.
    message = secret + token.encode("utf-8", "surrogatepass")
    return hmac.digest(key, message, hashlib.sha256)[:_SIGNATURE_BYTES]

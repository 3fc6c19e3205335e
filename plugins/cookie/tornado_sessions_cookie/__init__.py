"""Keeps sessions in a sealed cookie, and nothing on the server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
import os
import random
import string
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tornado_sessions import (
    UNKNOWN,
    Backend,
    BackendError,
    Record,
    Saved,
    SessionDataError,
    SessionError,
    SessionGoneError,
    Vault,
    Version,
)
from tornado_sessions.core.codec import decode
from tornado_sessions.storage.outdated import OutdatedRecord
from tornado_sessions.storage.registry import open_backend
from tornado_sessions.storage.vault import fingerprint

_log = logging.getLogger("tornado_sessions")

_PURPOSE = b"tornado_sessions cookie v1"
_USER_PURPOSE = b"tornado_sessions cookie not before"

# In front of every token: a byte for the format, four for the key version.
_FORMAT = b"\x01"
_HEADER_SIZE = 5
_NONCE_SIZE = 24
_TAG_SIZE = 16

# The smallest size holds the core's own fields and a few values, so that
# whether anything is in a session does not show. Both sizes are multiples of
# three, and so are the 45 bytes around the data: the base64 of a token then has
# no padding, and no spare bits in its last character.
_SMALLEST_SIZE = 288
_SIZE_STEP = 96

_ALPHABET = (string.ascii_letters + string.digits + "-_").encode()

# What a browser keeps of one cookie, name plus value (RFC 6265bis).
_COOKIE_BYTES = 4096
_LONGEST_PREFIX = "__Host-Http-"

# For how many seconds ``end_before`` tries again while others do the same for the
# same user, and the longest pause between two tries.
_PATIENCE = 10.0
_LONGEST_PAUSE = 0.05

_SECRET_BYTES = 32
_LAST_VERSION = 2**32 - 1


class CookieBackend(Vault):
    """Keeps each session in its own token: a record, padded and sealed.

    A token that was altered in any way, or was made with another key, cookie
    name or namespace, is no session. When a session ends is inside its record,
    sealed with the rest, and the core reads it there.

    Nothing is on the server, so a session that was deleted lives on in copies
    of its cookie until it expires, and of two requests at once the response
    that arrives last wins.

    With a backend ``not_before`` all sessions of a user can be ended at least: it
    keeps the time from which on their sign-ins count. Each load of a session
    that somebody has signed in to looks there.

    ``keys`` are secrets of at least 32 bytes by their version, of which
    ``key_version`` seals and the others open. Raises `ValueError` for keys that
    cannot be used.

    Belongs to one thread, as Tornado's handlers do.
    """

    revocable = False

    def __init__(
        self,
        keys: Mapping[int, str | bytes],
        key_version: int,
        *,
        name: str = "session",
        namespace: str = "",
        not_before: Backend | None = None,
    ) -> None:
        context = [_PURPOSE, name.encode(), namespace.encode()]
        by_version = {
            version: _Key(_header(version), _checked(secret, version), context)
            for version, secret in keys.items()
        }
        if key_version not in by_version:
            raise ValueError(
                f"The 'key_version' setting is {_shown(key_version)}; it must name one"
                f" of the versions of cookie_secret: {_listed(by_version)}."
            )
        self._sealing = by_version[key_version]
        self._keys = {key.header: key for key in by_version.values()}
        # The core puts a prefix in front of the name where the browser can
        # check it, and takes a name that begins with two underscores as it is.
        longest_name = name if name.startswith("__") else _LONGEST_PREFIX + name
        self._name_bytes = len(longest_name.encode())
        self._shortest = _token_length(0)
        self._longest = _COOKIE_BYTES - self._name_bytes
        self._ends: _Ends | None = None
        if not_before is not None:
            self._ends = _Ends(not_before, namespace)
            self.ends_users = True
            if not not_before.durable:
                _log.warning(
                    "%s does not survive a restart, and what it keeps is which sessions"
                    " have ended: those will live again. Use another backend for the"
                    " option not_before, such as 'sqlite'.",
                    type(not_before).__name__,
                )

    def __repr__(self) -> str:
        return f"<CookieBackend {len(self._keys)} keys>"

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> CookieBackend:
        """Makes the backend from Tornado's own ``cookie_secret``.

        A dict of versions needs ``key_version`` beside it, as for Tornado's
        signed cookies; a single secret is version 0. The ``url`` is ``cookie``,
        ``cookie:`` or ``cookie:?not_before=…``, with the URL of another backend.
        """
        other = _read_url(url)
        keys = settings.get("cookie_secret")
        if keys is None:
            raise ValueError(
                "You must define the 'cookie_secret' setting in your application"
                " to use the cookie session backend. Make one with:"
                ' python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        key_version: Any = settings.get("key_version")
        if not isinstance(keys, Mapping):
            keys, key_version = {0: keys}, 0
        return cls(
            keys,
            key_version,
            name=settings.get("session_cookie_name", "session"),
            namespace=settings.get("session_namespace", ""),
            not_before=None if other is None else _open(other, settings),
        )

    async def load(self, token: str) -> Record | None:
        """Returns the record inside ``token``; None if it is not one of ours.

        That is an `.OutdatedRecord` if another key than the current one has sealed
        it. Never raises, whatever ``token`` is; but `.BackendError`
        where the backend ``not_before`` fails.
        """
        if not self.is_well_formed(token):
            return None
        sealed = base64.urlsafe_b64decode(token)
        key = self._keys.get(sealed[:_HEADER_SIZE])
        if key is None:
            return None
        try:
            data = key.open(sealed)
        except InvalidTag:
            return None
        if self._ends is not None and await self._has_ended(self._ends, data):
            return None
        kind = Record if key is self._sealing else OutdatedRecord
        return kind(data, UNKNOWN)

    def is_well_formed(self, token: str) -> bool:
        """Whether ``token`` could be one of ours."""
        if not self._shortest <= len(token) <= self._longest:
            return False
        text = token.encode("ascii", "replace")
        # The decoder would skip what is outside the alphabet. With whole groups
        # of four from within it, no two tokens say the same.
        return not (len(text) % 4 or text.translate(None, _ALPHABET))

    async def insert(self, record: Record) -> Saved:
        """Returns a new token that contains ``record``.

        Raises `.SessionDataError` if the cookie, with its name, would be larger than
        4096 bytes.
        """
        count = self._name_bytes + _token_length(len(record.data))
        if count > _COOKIE_BYTES:
            raise SessionDataError(
                f"The session takes {count} bytes; a cookie holds at most"
                f" {_COOKIE_BYTES}. Store less, or use a server-side backend."
            )
        token = base64.urlsafe_b64encode(self._sealing.seal(record.data)).decode()
        return Saved(token, UNKNOWN)

    async def replace(self, token: str, record: Record, version: Version) -> Saved:
        """Returns a new token that contains ``record``, as `insert` does.

        The ``token`` that the client held before is valid until it expires. It is
        not looked at: no conflict can be detected.
        """
        return await self.insert(record)

    async def delete(self, token: str) -> None:
        """Does nothing: the server keeps nothing, and cannot end a session."""
        return

    async def end_before(
        self, user: str, time: float, keep: str | None, since: float = 0.0
    ) -> float:
        """Stores that the sign-ins of ``user`` before ``time`` no longer count.

        Except that of the session whose handle is ``keep``, at ``since``. If that one
        has ended itself, raises `.SessionGoneError` and stores nothing. Returns the
        time that counts from now on. Raises `.SessionError` without a backend
        ``not_before``.
        """
        if self._ends is None:
            raise SessionError(
                "The cookie session backend keeps nothing on the server, and cannot"
                " end the sessions of a user. Give it a store for that:"
                " session_backend='cookie:?not_before=sqlite:///ends.db'."
            )
        return await self._ends.put(user, _End(time, keep), since)

    async def not_before(self, user: str) -> float:
        """Returns the time before which sign-ins of ``user`` do not count, or zero."""
        end = None if self._ends is None else await self._ends.get(user)
        return 0.0 if end is None else end.before

    async def ping(self) -> None:
        """Asks the backend ``not_before``; without one there is nothing to ask."""
        if self._ends is not None:
            await self._ends.backend.ping()

    async def purge(self, now: float) -> int:
        """Has the backend ``not_before`` remove a batch of what expired there."""
        return 0 if self._ends is None else await self._ends.backend.purge(now)

    async def close(self) -> None:
        """Closes the backend ``not_before``; there is nothing else to close."""
        if self._ends is not None:
            await self._ends.backend.close()

    async def _has_ended(self, ends: _Ends, data: bytes) -> bool:
        try:
            session = decode(data)
        except SessionError:
            # The core reads it as well, and says so.
            return False
        if session.user is None:
            return False
        end = await ends.get(session.user)
        if end is None:
            return False
        since = session.created if session.auth_time is None else session.auth_time
        return end.has_ended(session.id, since)


class XAES256GCM:
    """Encrypts with XAES-256-GCM: AES-256-GCM with a nonce of 24 bytes.

    The first half of the nonce makes an AES key for this message, the second
    half is its nonce there. So 24 random bytes are safe for 2**80 messages
    under one key of 32 bytes. Specified at https://c2sp.org/XAES-256-GCM.
    """

    def __init__(self, key: bytes) -> None:
        # The key of a message is two single blocks of AES, and a context for
        # single blocks has no state: one serves all messages.
        cipher = Cipher(algorithms.AES(key), modes.ECB())
        self._encrypt_blocks = cipher.encryptor().update
        # The first subkey of AES-CMAC (NIST SP 800-38B, section 6.1).
        subkey = int.from_bytes(self._encrypt_blocks(bytes(16)), "big") << 1
        if subkey >> 128:
            subkey ^= 1 << 128 | 0x87
        self._mask = subkey << 128 | subkey

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        """Returns the encrypted ``data`` with its tag."""
        return self._cipher(nonce).encrypt(nonce[12:], data, associated_data)

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes) -> bytes:
        """Returns what was encrypted; raises ``InvalidTag`` if it is not intact."""
        return self._cipher(nonce).decrypt(nonce[12:], data, associated_data)

    def _cipher(self, nonce: bytes) -> AESGCM:
        # The KDF of NIST SP 800-108 in counter mode: a counter of 16 bits, the
        # label "X", a zero, the context.
        context = nonce[:12]
        blocks = int.from_bytes(b"\0\1X\0%b\0\2X\0%b" % (context, context), "big")
        return AESGCM(self._encrypt_blocks((blocks ^ self._mask).to_bytes(32, "big")))


class _End(msgspec.Struct):
    """What is kept of a user: which of their sessions are none any more."""

    #: Those with an earlier sign-in, in seconds since the epoch.
    before: float
    #: But the one with this handle.
    but: str | None = None
    #: The first half of the key: a record answers for its own.
    key: str = ""

    def has_ended(self, handle: str | None, since: float) -> bool:
        """Whether the session with this handle and this sign-in has ended."""
        return since < self.before and (handle is None or handle != self.but)


class _Ends:
    """Keeps in a backend which sessions of users have ended.

    Each user is there under a digest of the namespace and the name. The records are
    for good: a session may have been given any lifetime of its own.
    """

    def __init__(self, backend: Backend, namespace: str) -> None:
        self.backend = backend
        self._context = _joined([_USER_PURPOSE, namespace.encode()])

    async def get(self, user: str) -> _End | None:
        """Returns what is kept of ``user``, if they ever ended their sessions."""
        key = self._key(user)
        return _read_end(key, await self.backend.load(key))

    async def put(self, user: str, end: _End, since: float) -> float:
        """Stores ``end`` of ``user`` in place of what was stored before.

        ``since`` is the sign-in of the session that it spares. Returns the time that
        was stored.
        """
        key = self._key(user)
        end.key = key[:16].hex()
        deadline, pause = monotonic() + _PATIENCE, 0.001
        while True:
            stored = await self.backend.load(key)
            other = _read_end(key, stored)
            if other is not None:
                if end.but is not None and other.has_ended(end.but, since):
                    raise SessionGoneError(
                        "The session to keep has been ended by another request, so"
                        " revoke_all() has ended no other. Whoever uses it has to sign"
                        " in again."
                    )
                # What has ended does not begin again, whatever the clock says.
                end.before = max(end.before, other.before)
            record = Record(_encode_end(end))
            if stored is None:
                version = await self.backend.insert(key, record)
            else:
                version = await self.backend.replace(key, record, stored.version)
            if version is not None:
                return end.before
            if monotonic() > deadline:
                raise BackendError(
                    "The sessions of the user could not be ended within"
                    f" {_PATIENCE:.0f} s: others kept doing the same. Try again."
                )
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _key(self, user: str) -> bytes:
        return hashlib.sha256(self._context + user.encode()).digest()


_encode_end = msgspec.json.Encoder().encode
_decode_end = msgspec.json.Decoder(_End).decode


def _read_end(key: bytes, record: Record | None) -> _End | None:
    if record is None:
        return None
    # A decoder's error can hold what it could not decode, so none is kept.
    with contextlib.suppress(msgspec.DecodeError, ValueError, RecursionError):
        end = _decode_end(record.data)
        if end.key == key[:16].hex():
            return end
    raise BackendError(
        "What the store keeps of a user's ended sessions cannot be read. Something else"
        f" has written to it: see the record with the fingerprint {fingerprint(key)}."
    )


class _Key:
    """Seals and opens with one version of the secret."""

    def __init__(self, header: bytes, secret: bytes, context: list[bytes]) -> None:
        self.header = header
        # Derived, so that Tornado's signed cookies and these share no key.
        kdf = HKDF(SHA256(), length=32, salt=None, info=_PURPOSE)
        self._cipher = XAES256GCM(kdf.derive(secret))
        self._associated_data = _joined([header, *context])

    def seal(self, data: bytes) -> bytes:
        nonce = os.urandom(_NONCE_SIZE)
        # Padded as ISO/IEC 7816-4 does: one byte that ends the data, then zeros.
        padded = (data + b"\x80").ljust(_padded_size(len(data)), b"\0")
        sealed = self._cipher.encrypt(nonce, padded, self._associated_data)
        return self.header + nonce + sealed

    def open(self, sealed: bytes) -> bytes:
        nonce = sealed[_HEADER_SIZE : _HEADER_SIZE + _NONCE_SIZE]
        padded = self._cipher.decrypt(
            nonce, sealed[_HEADER_SIZE + _NONCE_SIZE :], self._associated_data
        )
        return padded.rstrip(b"\0")[:-1]


def _joined(parts: Iterable[bytes]) -> bytes:
    """Returns ``parts`` as one, so that no others come out the same."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _padded_size(size: int) -> int:
    """Returns how many bytes ``size`` bytes of data are padded to."""
    steps = -(-(size + 1) // _SIZE_STEP)
    return max(steps * _SIZE_STEP, _SMALLEST_SIZE)


def _token_length(size: int) -> int:
    """Returns how many characters the token of ``size`` bytes of data has."""
    return (_HEADER_SIZE + _NONCE_SIZE + _padded_size(size) + _TAG_SIZE) // 3 * 4


def _header(version: object) -> bytes:
    """Returns what stands in front of each token that this key version seals."""
    if not isinstance(version, int) or not 0 <= version <= _LAST_VERSION:
        raise ValueError(
            f"A version of cookie_secret is {_shown(version)}. Use whole numbers from 0 to"
            f" {_LAST_VERSION}, each with its secret as the value."
        )
    return _FORMAT + version.to_bytes(4, "big")


def _shown(version: object) -> str:
    # What is no number is not repeated: it may be a secret in the wrong place.
    if version is None or isinstance(version, int):
        return repr(version)
    return f"a {type(version).__name__}"


def _checked(secret: object, version: int) -> bytes:
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


def _read_url(url: str) -> str | None:
    """Returns the option ``not_before``, and refuses whatever else is there."""
    address, _, query = url.partition("?")
    pairs = [option.partition("=")[::2] for option in query.split("&") if option]
    if [name for name, _ in pairs].count("not_before") > 1:
        raise ValueError(
            "The option 'not_before' of the session backend 'cookie' is there twice."
            " Remove one."
        )
    options = dict(pairs)
    not_before = options.pop("not_before", None)
    if any("@" in name + text for name, text in options.items()):
        # They are the rest of a password, which is not repeated.
        raise ValueError(
            "The option 'not_before' of the cookie session backend is a URL, in which"
            " '&' is written as '%26', and there is an '@' after the first '&'."
        )
    if options:
        raise ValueError(
            "The URL has an option that the cookie session backend does not have. Its"
            " only one is 'not_before', a URL, in which '&' is written as '%26'."
        )
    # What else is there is not repeated: it may be a secret that was put there.
    if address.partition(":")[2] not in ("", "//"):
        raise ValueError(
            "The cookie session backend takes nothing after its name but the option"
            " 'not_before'. Use session_backend='cookie:'."
        )
    # Whatever else is escaped in it is for the backend that it names.
    return None if not_before is None else not_before.replace("%26", "&")


def _open(url: str, settings: Mapping[str, Any]) -> Backend:
    opened = open_backend(url, settings)
    if not isinstance(opened, Backend):
        raise ValueError(
            "The option 'not_before' of the cookie session backend names a"
            f" {type(opened).__name__}, which keeps nothing on the server. Use another"
            " one, such as not_before=sqlite:///ends.db."
        )
    return opened


def _listed(names: Iterable[object]) -> str:
    return ", ".join(repr(name) for name in names) or "none"

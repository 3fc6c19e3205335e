"""What the record of a session contains."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import msgspec
from msgspec import Raw

#: The format of the records that this version of the library writes.
FORMAT = 1


class Mark(NamedTuple):
    """What a request that keeps a session and ends the others stores in its record.

    Of two marks the one whose first differing field is greater is the higher one.
    See `.Claim`.
    """

    #: One more than that of the highest mark which this one was to exceed.
    level: int
    #: 1 if the request has signed in, otherwise 0.
    rank: int
    #: A random text, different for each request.
    nonce: str
    #: When it was stored, in seconds since the epoch.
    time: int


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
    claim: Mark | None = None
    format: int = msgspec.field(default=0)

    def __repr__(self) -> str:
        return f"<Envelope {len(self.values)} values>"


#: How many messages of `.Session.flash` a session holds at most.
MOST_FLASHES = 20

#: The fields of an envelope that are merged after a conflict.
MERGED_FIELDS = ("user", "auth_time", "idle", "lifetime", "persistent", "label")


def latest(flashes: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Returns the newest `MOST_FLASHES` of ``flashes``."""
    if len(flashes) <= MOST_FLASHES:
        return flashes
    return dict(list(flashes.items())[-MOST_FLASHES:])


def same_fields(one: Envelope, other: Envelope) -> bool:
    """Whether two envelopes are equal except for values and times."""
    return one.flashes == other.flashes and all(
        getattr(one, name) == getattr(other, name) for name in MERGED_FIELDS
    )


def same_content(one: Envelope, other: Envelope) -> bool:
    """Whether two envelopes are equal except for times."""
    return one.values == other.values and same_fields(one, other)


def keep_only(envelope: Envelope, keys: Collection[str]) -> Envelope:
    """Returns ``envelope`` without the values whose keys are not in ``keys``."""
    values = {key: raw for key, raw in envelope.values.items() if key in keys}
    return msgspec.structs.replace(envelope, values=values)

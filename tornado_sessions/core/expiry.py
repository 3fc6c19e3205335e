"""When a session ends: pure functions of its envelope, the settings and a time.

All times are seconds since the epoch. The settings are the application's; what
`.Session.set_expiry` has set for one session is in its envelope.
"""

from __future__ import annotations

import math

import msgspec

from tornado_sessions.core.envelope import FORMAT, Envelope
from tornado_sessions.core.rules import Rules

#: How many seconds the clocks of two servers may differ.
CLOCK_SKEW = 300.0

#: For how many seconds a store keeps a record after its session has ended. A
#: request that loaded the session in time may save it later.
KEPT_AFTER_END = 300.0

#: For how many seconds a record says which one has replaced it: five minutes, and
#: as long again as the clock of the server that purges may be ahead.
TOMBSTONE_LIFE = KEPT_AFTER_END + CLOCK_SKEW


def blank_envelope(rules: Rules, now: float) -> Envelope:
    """Returns the envelope of a session that begins at ``now``."""
    blank = Envelope(0.0, 0.0, 0.0, {}, format=FORMAT)
    blank.created = blank.seen = seen_at(blank, now)
    blank.expires = expires_at(blank, rules)
    return blank


def expires_at(envelope: Envelope, rules: Rules) -> float:
    """Returns when a session ends that is not used again.

    That is after its idle timeout or its lifetime, whichever comes first. The
    lifetime counts from the sign-in, or from the beginning where nobody has
    signed in.
    """
    idle, lifetime = _timeouts(envelope, rules)
    began = envelope.auth_time
    if began is None:
        began = envelope.created
    return min(envelope.seen + idle, began + lifetime)


def ends_at(envelope: Envelope, rules: Rules) -> float:
    """Returns when a session ends by its record and by the settings.

    The earlier of the two counts: the settings may have changed since it was stored.
    """
    return min(envelope.expires, expires_at(envelope, rules))


def is_extendable(envelope: Envelope, rules: Rules) -> bool:
    """Whether the use of a session extends it: its lifetime ends later."""
    in_use = msgspec.structs.replace(envelope, seen=math.inf)
    return ends_at(envelope, rules) < expires_at(in_use, rules)


def is_persistent(envelope: Envelope, rules: Rules) -> bool:
    """Whether the cookie of a session outlives the browser."""
    own = envelope.persistent
    return rules.persistent if own is None else own


def seen_at(envelope: Envelope, now: float) -> float:
    """Returns when a session was last used that is used at ``now``.

    That is the time that is stored if it is later, by up to `CLOCK_SKEW`: the clock of
    another server is ahead. Further ahead it is wrong, or it would not be alive.
    """
    # To the millisecond: more digits would only take room in every record.
    now = int(now * 1000) / 1000
    return envelope.seen if now < envelope.seen <= now + CLOCK_SKEW else now


def last_end(envelope: Envelope, rules: Rules, now: float) -> float:
    """Returns when no copy of a session is alive any more, whoever has used it.

    All copies have the same timeouts. Another request may still be about to store one,
    and the clocks of two other servers may differ.
    """
    renewed = msgspec.structs.replace(envelope, seen=now)
    latest = max(envelope.expires, expires_at(renewed, rules))
    return latest + KEPT_AFTER_END + 2 * CLOCK_SKEW


def longest_left(envelope: Envelope, rules: Rules) -> float:
    """Returns how many seconds a session can be left unused at most."""
    return min(_timeouts(envelope, rules))


def renewal_interval(envelope: Envelope, rules: Rules) -> float:
    """Returns how many seconds pass at least between two renewals."""
    return _timeouts(envelope, rules)[0] / 10


def is_renewal_due(envelope: Envelope, rules: Rules, now: float) -> bool:
    """Whether the use of a session at ``now`` has to be stored."""
    return now - envelope.seen >= renewal_interval(envelope, rules)


def is_alive(
    envelope: Envelope, rules: Rules, now: float, judged_at: float | None = None
) -> bool:
    """Whether a session has not expired, and does not come from the future.

    Whether it has expired is decided for the time ``judged_at``, if it is given: when
    a request began.
    """
    if judged_at is None:
        judged_at = now
    return (
        # See ends_at(); each request would pay for the call.
        judged_at < envelope.expires
        and judged_at < expires_at(envelope, rules)
        # No other clock is that far ahead.
        and envelope.created <= now + CLOCK_SKEW
        and envelope.seen <= now + CLOCK_SKEW
    )


def reason_of_end(envelope: Envelope, rules: Rules, now: float) -> str:
    """Returns why a session is not alive: "lifetime", "idle", or "clock".

    The clock is the reason where the session comes from the future.
    """
    began = envelope.created if envelope.auth_time is None else envelope.auth_time
    if now >= began + _timeouts(envelope, rules)[1]:
        return "lifetime"
    if now >= ends_at(envelope, rules):
        return "idle"
    return "clock"


def _timeouts(envelope: Envelope, rules: Rules) -> tuple[float, float]:
    """Returns the idle timeout and the lifetime of a session, in seconds.

    What was set for this session counts before the settings, and for a session
    without a user those of anonymous visitors count before the others.
    """
    idle, lifetime = envelope.idle, envelope.lifetime
    if envelope.user is None:
        if idle is None:
            idle = rules.anonymous_idle_timeout
        if lifetime is None:
            lifetime = rules.anonymous_lifetime
    return (
        rules.idle_timeout if idle is None else idle,
        rules.lifetime if lifetime is None else lifetime,
    )

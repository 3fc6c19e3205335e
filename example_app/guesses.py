"""Limits how often a password may be guessed."""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Hashable

#: The length of a window in seconds, from the first attempt on.
WINDOW = 15 * 60

#: How many attempts one address has for one name.
TRIES = 5

#: How many attempts one address has in total, including correct passwords and new
#: accounts. This limits an attacker who tries one password with many names, or asks
#: which names exist. An office may be behind one address.
TRIES_OF_ADDRESS = 100

#: How many attempts one name has from all addresses together. This counts only
#: addresses from which nobody has signed in with that name, so that an attacker
#: cannot lock out the user.
TRIES_OF_NAME = 30

#: How many counters, and how many known addresses, are kept at most.
MOST = 10_000


class Guesses:
    """The attempts of the last quarter of an hour.

    They are counted by name and address, and not in the session, because an
    attacker drops the cookie. They are in the memory of this process, so each of
    several processes counts on its own. `seconds` is the clock.
    """

    def __init__(self) -> None:
        self.seconds = time.monotonic
        # When each window began and how many tries it has seen, the oldest first.
        self._windows: dict[Hashable, tuple[float, int]] = {}
        # Pairs of a name and an address that signed in, the latest last.
        self._known: dict[tuple[str, str], None] = {}

    def __len__(self) -> int:
        """How many counters and known addresses are kept."""
        return len(self._windows) + len(self._known)

    def take(self, name: str, address: str) -> int:
        """Counts a try, or returns for how many seconds there is none left.

        Returns 0 for a try that may go on. It is counted before the password is
        checked, so that many at once are no more than one after the other.
        """
        now = self.seconds()
        self._forget(now)
        limits = self._limits(name, address)
        wait = max(self._wait(key, limit, now) for key, limit in limits.items())
        if not wait:
            for key in limits:
                start, count = self._windows.get(key, (now, 0))
                self._windows[key] = start, count + 1
        return math.ceil(wait)

    def give_back(self, name: str, address: str) -> None:
        """Takes back a try whose password was not looked at."""
        for key in self._limits(name, address):
            start, count = self._windows.get(key, (0.0, 0))
            if count:
                self._windows[key] = start, count - 1

    def succeed(self, name: str, address: str) -> None:
        """Notes that somebody has signed in, so that this address knows the password.

        Its tries at the name are forgotten, and strangers can't use them up.
        """
        pair = name, network(address)
        self._windows.pop(pair, None)
        self._known.pop(pair, None)
        self._known[pair] = None
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]

    def _limits(self, name: str, address: str) -> dict[Hashable, int]:
        pair = name, network(address)
        limits: dict[Hashable, int] = {
            pair: TRIES,
            ("address", network(address), ""): TRIES_OF_ADDRESS,
        }
        if pair not in self._known:
            limits["name", name, ""] = TRIES_OF_NAME
        return limits

    def _wait(self, key: Hashable, limit: int, now: float) -> float:
        start, count = self._windows.get(key, (now, 0))
        return start + WINDOW - now if count >= limit else 0

    def _forget(self, now: float) -> None:
        """Drops the windows that are over, and the oldest of too many."""
        while self._windows:
            oldest = next(iter(self._windows))
            if now < self._windows[oldest][0] + WINDOW and len(self._windows) < MOST:
                return
            del self._windows[oldest]


def network(address: str) -> str:
    """Returns what one customer has of an address: of IPv6, the first 64 bits."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))

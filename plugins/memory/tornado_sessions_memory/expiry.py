"""The order in which entries expire, to the second."""

from __future__ import annotations

import math

from tornado_sessions_memory.entries import Second

# How many seconds, at most, one purge has to sort.
_SLOT = 900

# When a record expires that never does: later than any purge asks.
_NEVER = 2**62


class Expiry:
    """Groups the entries by the second of their expiry."""

    def __init__(self) -> None:
        #: By the slot, so that the earliest second is found among few.
        self.slots: dict[int, dict[int, Second]] = {}

    def second(self, expires: float) -> Second:
        """Returns the chain of what expires at that time, a new one if need be."""
        end = math.ceil(expires) if expires else _NEVER
        number = end // _SLOT
        slot = self.slots.get(number)
        if slot is None:
            slot = self.slots[number] = {}
        second = slot.get(end)
        if second is None:
            second = slot[end] = Second(end=end)
        return second

    def forget(self, second: Second) -> None:
        """Removes a chain that is empty."""
        slot = self.slots[second.end // _SLOT]
        del slot[second.end]
        if not slot:
            del self.slots[second.end // _SLOT]

    def earliest(self, now: float, count: int) -> list[Second]:
        """Returns chains that have expired before ``now``, the earliest first.

        They are those of one slot, ``count`` at most.
        """
        if not self.slots:
            return []
        slot = self.slots[min(self.slots)]
        return [slot[end] for end in sorted(slot)[:count] if end < now]

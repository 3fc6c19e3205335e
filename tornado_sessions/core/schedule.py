"""When each of many things is due."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

# How many stale entries the heap may have, in addition to twice the names.
_LEFT_OVER = 16


class Schedule:
    """Names, each with the time at which it is due.

    Setting or removing a name takes constant or logarithmic time, so one timer can
    serve thousands of names. Memory is bounded by the number of names.
    """

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        # A heap of times and names. An entry whose time is not that of `_due` is
        # stale: a search through the heap would be slow.
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[tuple[float, str]]:
        """Yields each time and name, in no particular order."""
        return ((due, name) for name, due in self._due.items())

    @property
    def entries(self) -> int:
        """How many entries are in memory, stale ones included."""
        return len(self._heap)

    def set(self, name: str, due: float) -> None:
        """Has ``name`` due at ``due``, in place of any time before."""
        self._due[name] = due
        heapq.heappush(self._heap, (due, name))
        if len(self._heap) > 2 * len(self._due) + _LEFT_OVER:
            # Names that come and go would fill it. A sorted list is a heap as well.
            self._heap = sorted(self)

    def remove(self, name: str) -> None:
        """Removes ``name``; does nothing if it is unknown."""
        self._due.pop(name, None)
        if not self._due:
            self._heap.clear()

    def next(self) -> float | None:
        """Returns the earliest time, or None if there is no name."""
        while self._heap:
            due, name = self._heap[0]
            if self._due.get(name) == due:
                return due
            heapq.heappop(self._heap)
        return None

    def take(self, now: float, limit: int) -> list[str]:
        """Removes and returns the names that are due at ``now``, ``limit`` at most."""
        taken: list[str] = []
        while len(taken) < limit:
            due = self.next()
            if due is None or due > now:
                break
            _, name = heapq.heappop(self._heap)
            del self._due[name]
            taken.append(name)
        return taken

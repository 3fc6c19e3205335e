"""Removes expired sessions from the store, now and then."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random

from tornado_sessions.core.rules import Rules
from tornado_sessions.core.store import Store
from tornado_sessions.core.tasks import Tasks

logger = logging.getLogger("tornado_sessions")

#: How many seconds pass between two clean-ups, plus or minus a third, so that the
#: processes that share a store take turns.
PURGE_INTERVAL = 900.0


class Cleanup:
    """Purges the store every quarter of an hour while sessions are in use.

    The timer belongs to one event loop. After `close`, and in another event loop, the
    next use starts a new one.
    """

    def __init__(self, store: Store, rules: Rules, tasks: Tasks) -> None:
        self._store = store
        self._rules = rules
        self._tasks = tasks
        #: The timer of the next purge; None while no session is in use.
        self.timer: asyncio.TimerHandle | None = None
        # The event loop in which sessions are in use.
        self._loop: asyncio.AbstractEventLoop | None = None
        # How often that has ended: a purge in progress ends with it.
        self._closes = 0

    def begin(self) -> bool:
        """Schedules the first purge in this event loop. To be called at each use.

        Returns False if that is done already.
        """
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return False
        self.close()
        self._loop = loop
        self._schedule(loop)
        return True

    async def purge(self) -> int:
        """Removes all that has expired. Returns how many records went.

        Ends with the batch in progress at `close`. Raises `.BackendError` if the
        store fails.
        """
        purged, closes = 0, self._closes
        while batch := await self._store.vault.purge(self._rules.now()):
            purged += batch
            if self._closes != closes:
                break
            # Requests are served between two batches.
            await asyncio.sleep(0)
        return purged

    def close(self) -> None:
        """Stops the timer until the next use."""
        self._closes += 1
        self._loop = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        delay = PURGE_INTERVAL * random.uniform(2 / 3, 4 / 3)
        # In an empty context: that of the first request would be kept alive.
        context = contextvars.Context()
        self.timer = loop.call_later(delay, self._purge_now, loop, context=context)

    def _purge_now(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tasks.start(self._purge_and_reschedule(loop))

    async def _purge_and_reschedule(self, loop: asyncio.AbstractEventLoop) -> None:
        closes = self._closes
        try:
            purged = await self.purge()
            logger.debug("%d expired sessions were removed.", purged)
        except Exception:
            logger.warning("The clean-up of expired sessions failed.", exc_info=True)
        if self._closes == closes:
            self._schedule(loop)

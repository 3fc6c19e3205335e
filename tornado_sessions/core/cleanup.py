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
    """Purges the store every quarter of an hour, once sessions are in use."""

    def __init__(self, store: Store, rules: Rules, tasks: Tasks) -> None:
        self._store = store
        self._rules = rules
        self._tasks = tasks
        #: The timer of the next purge; None while no session is in use.
        self.timer: asyncio.TimerHandle | None = None
        self._closed = False

    def begin(self) -> None:
        """Schedules the first purge, unless that is done. To be called often."""
        if self.timer is None and not self._closed:
            self._schedule()

    async def purge(self) -> int:
        """Removes all that has expired. Returns how many records went.

        Ends with the batch in progress at `close`. Raises `.BackendError` if the
        store fails.
        """
        purged = 0
        while batch := await self._store.vault.purge(self._rules.now()):
            purged += batch
            if self._closed:
                break
            # Requests are served between two batches.
            await asyncio.sleep(0)
        return purged

    def close(self) -> None:
        """Stops the timer."""
        self._closed = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        delay = PURGE_INTERVAL * random.uniform(2 / 3, 4 / 3)
        # In an empty context: that of the first request would be kept alive.
        context = contextvars.Context()
        self.timer = loop.call_later(delay, self._purge_now, context=context)

    def _purge_now(self) -> None:
        self._tasks.start(self._purge_and_reschedule())

    async def _purge_and_reschedule(self) -> None:
        try:
            purged = await self.purge()
            logger.debug("%d expired sessions were removed.", purged)
        except Exception:
            logger.warning("The clean-up of expired sessions failed.", exc_info=True)
        if not self._closed:
            self._schedule()

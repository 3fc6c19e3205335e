"""Keeps the requests in progress, so that a shutdown can wait for them."""

from __future__ import annotations

import asyncio
import contextlib

from tornado.web import RequestHandler


class UnderWay:
    """The requests that have begun and are not finished."""

    def __init__(self) -> None:
        self._handlers: set[RequestHandler] = set()
        self._none = asyncio.Event()
        self._none.set()

    def begin(self, handler: RequestHandler) -> None:
        self._handlers.add(handler)
        self._none.clear()

    def end(self, handler: RequestHandler) -> None:
        self._handlers.discard(handler)
        if not self._handlers:
            self._none.set()

    async def wait(self) -> None:
        """Returns when there is none, or after ten seconds."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._none.wait(), 10)

"""What all tests here have in common."""

from __future__ import annotations

import asyncio


def pytest_sessionstart() -> None:
    # pytest-tornado keeps the current loop while a test has one of its own. Where
    # there is none, asyncio makes one for it to keep, and nobody closes that.
    asyncio.set_event_loop(None)

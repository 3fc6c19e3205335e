"""The settings and the clock that all parts of the core share."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass
class Rules:
    """When sessions end, by the settings of the application; times in seconds."""

    #: See `.Vault.revocable`.
    revocable: bool = True
    #: See `.Vault.ends_copies`.
    ends_copies: bool = False
    #: The settings ``session_idle_timeout``, ``session_lifetime`` and
    #: ``session_persistent``.
    idle_timeout: float = 24 * 3600
    lifetime: float = 14 * 24 * 3600
    persistent: bool = False
    #: The settings ``session_anonymous_idle_timeout`` and
    #: ``session_anonymous_lifetime``; None where the two above count for everybody.
    anonymous_idle_timeout: float | None = None
    anonymous_lifetime: float | None = None
    #: The clock, in seconds since the epoch. No other part reads one.
    now: Callable[[], float] = time.time
    #: The latest time that this process has read or written in a live session. Another
    #: server's clock may have set it, and this one's may have been set back.
    latest: float = 0.0

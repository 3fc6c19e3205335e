"""The interface of a backend that spreads records over several servers."""

from __future__ import annotations

import abc

from tornado_sessions.storage.backend import Backend


class PoolBackend(Backend):
    """A backend with several servers, each of which keeps a share of the keys.

    While one server is down, new sessions go to the others.
    """

    @abc.abstractmethod
    def is_down(self, key: bytes) -> bool:
        """Whether the server of ``key`` has just failed, while others work.

        The core then draws another token for a new record, also if the `insert` of
        it has failed. It does no I/O.
        """

"""Forks a process in the middle of a test."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable


class Child:
    """A fork of this process that calls ``work`` and ends.

    It is killed after ``patience`` seconds: a fork beside threads may hang.
    """

    def __init__(self, work: Callable[[], object], patience: float) -> None:
        self._reading, writing = os.pipe()
        with warnings.catch_warnings():
            # Python warns of a fork beside threads. What comes of it is the test.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process = os.fork()
        if not self._process:
            _work_and_exit(work, patience, writing)
        os.close(writing)
        self._status: int | None = None

    def is_running(self) -> bool:
        if self._status is None:
            process, status = os.waitpid(self._process, os.WNOHANG)
            self._status = status if process else None
        return self._status is None

    def failure(self) -> str:
        """Waits until it ends. Returns its error as a text, or an empty string."""
        if self._status is None:
            self._status = os.waitpid(self._process, 0)[1]
        with open(self._reading, "rb") as pipe:
            text = pipe.read().decode()
        if not text and self._status:
            text = "The child has died, or it hangs."
        return text


def _work_and_exit(work: Callable[[], object], patience: float, writing: int) -> None:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, patience)
        work()
    except BaseException:  # noqa: BLE001 - the parent is told
        # Not more than a pipe takes at once.
        os.write(writing, traceback.format_exc()[-4000:].encode())
    finally:
        # Nothing of the test that goes on in the parent is done here, too.
        os._exit(0)

"""Tests of the backend that docs/writing-a-backend.md shows."""

from __future__ import annotations

import re
import tempfile
import unittest
from pathlib import Path
from typing import Any

from tornado_sessions import Backend
from tornado_sessions.testing import BackendContract

page = Path(__file__).parent.parent / "docs/writing-a-backend.md"


def shown() -> type[Backend]:
    """Returns the class in the first program of the page."""
    program = re.search(
        r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL
    )
    assert program is not None
    names: dict[str, Any] = {}
    exec(program[1], names)  # noqa: S102
    backend: type[Backend] = names["NotesBackend"]
    return backend


class NotesBackendTest(BackendContract, unittest.IsolatedAsyncioTestCase):
    """It is complete, as the page says: it passes the whole contract."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.url = f"notes://{folder.name}/notes.db?timeout=30"
        super().setUp()

    def make_backend(self) -> Backend:
        return shown().from_url(self.url, {})

"""Tests of the backend's definition: the example in its prose, and its defaults."""

from __future__ import annotations

import inspect
import itertools
import re
import textwrap
import unittest
from collections.abc import Mapping
from typing import Any

import pytest

import tornado_sessions.storage.backend
from tornado_sessions import UNKNOWN, Backend, Record, SessionError, Version


def example() -> type[Backend]:
    """Returns the class in the docstring of the module."""
    docstring = tornado_sessions.storage.backend.__doc__ or ""
    (code,) = re.findall(r"::\n\n((?:    .*\n|\n)+)", docstring)
    names: dict[str, Any] = {
        "Backend": Backend,
        "Record": Record,
        "itertools": itertools,
    }
    exec(textwrap.dedent(code), names)  # noqa: S102
    backend: type[Backend] = names["DictBackend"]
    return backend


class BareBackend(Backend):
    """Defines what has to be defined, and nothing else."""

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> BareBackend:
        return cls()

    async def load(self, key: bytes) -> Record | None:
        return None

    async def insert(self, key: bytes, record: Record) -> Version | None:
        return UNKNOWN

    async def replace(
        self, key: bytes, record: Record, version: Version
    ) -> Version | None:
        return None

    async def delete(self, key: bytes) -> None:
        return


class ExampleTest(unittest.IsolatedAsyncioTestCase):
    """The example of the docstring is a whole backend, as it says."""

    def setUp(self) -> None:
        self.backend = example().from_url("dict:", {})

    async def test_what_was_saved_is_loaded(self) -> None:
        """A record comes back with its data and a version."""
        await self.backend.insert(b"key", Record(b"data"))
        record = await self.backend.load(b"key")

        assert record is not None
        assert record.data == b"data"
        assert record.version is not None

    async def test_an_unknown_key_is_none(self) -> None:
        """Loading creates nothing."""
        assert await self.backend.load(b"key") is None

    async def test_inserting_never_overwrites(self) -> None:
        """Behaviour 6: the key must be new."""
        await self.backend.insert(b"key", Record(b"first"))

        assert await self.backend.insert(b"key", Record(b"second")) is None

        record = await self.backend.load(b"key")
        assert record is not None
        assert record.data == b"first"

    async def test_a_version_is_good_for_one_replacement(self) -> None:
        """The second one meets the version that the first has stored."""
        await self.backend.insert(b"key", Record(b"first"))
        record = await self.backend.load(b"key")
        assert record is not None
        await self.backend.replace(b"key", Record(b"second"), record.version)

        assert (
            await self.backend.replace(b"key", Record(b"third"), record.version) is None
        )

    async def test_replacing_never_creates(self) -> None:
        """Behaviour 39: what was deleted is not brought back."""
        await self.backend.insert(b"key", Record(b"first"))
        record = await self.backend.load(b"key")
        assert record is not None
        await self.backend.delete(b"key")

        assert (
            await self.backend.replace(b"key", Record(b"second"), record.version)
            is None
        )

    async def test_deleting_an_unknown_key_is_allowed(self) -> None:
        """It does nothing."""
        await self.backend.delete(b"key")


class BackendTest(unittest.IsolatedAsyncioTestCase):
    """What a backend need not define."""

    def test_four_operations_and_a_constructor_are_to_be_defined(self) -> None:
        """A method is either abstract or right."""
        assert Backend.__abstractmethods__ == {
            "from_url",
            "load",
            "insert",
            "replace",
            "delete",
        }
        assert inspect.isabstract(Backend)

    async def test_purging_removes_nothing(self) -> None:
        """A store that forgets by itself has nothing to do there."""
        assert await BareBackend().purge(0.0) == 0

    async def test_closing_twice_is_as_good_as_once(self) -> None:
        """Without anything to close it does nothing."""
        backend = BareBackend()

        await backend.close()
        await backend.close()

    def test_finding_says_that_it_cannot(self) -> None:
        """A backend that lists no users does not pretend that there are none."""
        with pytest.raises(SessionError) as caught:
            BareBackend().find("ada")

        assert str(caught.value) == "BareBackend cannot look up the sessions of a user."


class RecordTest:
    def test_its_representation_shows_no_data(self) -> None:
        """Behaviour 8: how many bytes, and nothing of them."""
        record = Record(b"secret", "secret", 1.0, "secret")

        assert repr(record) == "<Record 6 bytes>"

    def test_an_unknown_version_says_so(self) -> None:
        """It appears in tracebacks and in failed assertions."""
        assert repr(UNKNOWN) == "UNKNOWN"

    def test_it_cannot_be_changed(self) -> None:
        """Behaviour 41: what a backend was handed stays as it is."""
        record: Any = Record(b"data")
        with pytest.raises(AttributeError):
            record.data = b"other"

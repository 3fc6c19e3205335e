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
from tornado_sessions import (
    Backend,
    ConflictError,
    Record,
    SessionDataError,
    SessionError,
)


def example() -> type[Backend]:
    """Returns the class in the docstring of the module."""
    docstring = tornado_sessions.storage.backend.__doc__ or ""
    (code,) = re.findall(r"::\n\n((?:    .*\n|\n)+)", docstring)
    names: dict[str, Any] = {
        "Backend": Backend,
        "ConflictError": ConflictError,
        "Record": Record,
        "itertools": itertools,
    }
    exec(textwrap.dedent(code), names)  # noqa: S102
    backend: type[Backend] = names["DictBackend"]
    return backend


class BareBackend(Backend):
    """Defines what has to be defined, and nothing else."""

    max_bytes: int | None = 10

    @classmethod
    def from_url(cls, url: str, settings: Mapping[str, Any]) -> BareBackend:
        return cls()

    async def load(self, key: bytes) -> Record | None:
        return None

    async def save(self, key: bytes, record: Record) -> None:
        self.check_size(record)

    async def delete(self, key: bytes) -> None:
        return


class ExampleTest(unittest.IsolatedAsyncioTestCase):
    """The example of the docstring is a whole backend, as it says."""

    def setUp(self) -> None:
        self.backend = example().from_url("dict:", {})

    async def test_what_was_saved_is_loaded(self) -> None:
        """A record comes back with its data and a version."""
        await self.backend.save(b"key", Record(b"data"))
        record = await self.backend.load(b"key")

        assert record is not None
        assert record.data == b"data"
        assert record.version is not None

    async def test_an_unknown_key_is_none(self) -> None:
        """Loading creates nothing."""
        assert await self.backend.load(b"key") is None

    async def test_inserting_never_overwrites(self) -> None:
        """Behaviour 6: without a version the key must be new."""
        await self.backend.save(b"key", Record(b"first"))

        with pytest.raises(ConflictError):
            await self.backend.save(b"key", Record(b"second"))

        record = await self.backend.load(b"key")
        assert record is not None
        assert record.data == b"first"

    async def test_a_version_is_good_for_one_save(self) -> None:
        """The second save of one version meets another one."""
        await self.backend.save(b"key", Record(b"first"))
        record = await self.backend.load(b"key")
        assert record is not None
        await self.backend.save(b"key", Record(b"second", record.version))

        with pytest.raises(ConflictError):
            await self.backend.save(b"key", Record(b"third", record.version))

    async def test_replacing_never_creates(self) -> None:
        """Behaviour 39: what was deleted is not brought back."""
        await self.backend.save(b"key", Record(b"first"))
        record = await self.backend.load(b"key")
        assert record is not None
        await self.backend.delete(b"key")

        with pytest.raises(ConflictError):
            await self.backend.save(b"key", Record(b"second", record.version))

    async def test_deleting_an_unknown_key_is_allowed(self) -> None:
        """It does nothing."""
        await self.backend.delete(b"key")


class BackendTest(unittest.IsolatedAsyncioTestCase):
    """What a backend need not define."""

    def test_three_operations_and_a_constructor_are_to_be_defined(self) -> None:
        """A method is either abstract or right."""
        assert Backend.__abstractmethods__ == {"from_url", "load", "save", "delete"}
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

    async def test_a_record_of_the_greatest_size_is_taken(self) -> None:
        """Behaviour 63: up to ``max_bytes``, and those included."""
        await BareBackend().save(b"key", Record(b"x" * 10))

    async def test_one_more_byte_is_refused(self) -> None:
        """Behaviour 63: with both numbers and what to do."""
        with pytest.raises(SessionDataError) as caught:
            await BareBackend().save(b"key", Record(b"x" * 11))

        assert str(caught.value) == (
            "The session takes 11 bytes; BareBackend holds at most 10. Keep less in it,"
            " or set the option 'max_bytes', such as in the URL: '?max_bytes=22'."
        )

    async def test_without_a_limit_any_size_is_taken(self) -> None:
        """A ``max_bytes`` of None is no limit."""
        backend = BareBackend()
        backend.max_bytes = None

        await backend.save(b"key", Record(b"x" * 11))


class RecordTest:
    def test_its_representation_shows_no_data(self) -> None:
        """Behaviour 8: how many bytes, and nothing of them."""
        record = Record(b"secret", "secret", 1.0, "secret")

        assert repr(record) == "<Record 6 bytes>"

    def test_it_cannot_be_changed(self) -> None:
        """Behaviour 41: what a backend was handed stays as it is."""
        record: Any = Record(b"data")
        with pytest.raises(AttributeError):
            record.data = b"other"

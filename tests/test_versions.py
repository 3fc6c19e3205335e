"""Tests of the versions that are drawn for stores that draw none."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

from tornado_sessions import new_version


def _send_versions(connection: Connection) -> None:
    connection.send([new_version() for _ in range(100)])


class VersionTest:
    def test_no_two_are_equal(self) -> None:
        """Behaviour 39: no write can be taken for another."""
        assert len({new_version() for _ in range(10_000)}) == 10_000

    def test_each_fits_into_63_bits(self) -> None:
        """The integers of SQL databases have a sign."""
        assert 0 <= new_version() < 2**63

    def test_a_forked_process_has_versions_of_its_own(self) -> None:
        """Behaviours 39, 44: parent and child use the same records."""
        new_version()
        here, there = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(
            target=_send_versions, args=(there,)
        )
        child.start()
        versions = here.recv()
        child.join()
        here.close()
        there.close()

        assert not {new_version() for _ in range(100)} & set(versions)

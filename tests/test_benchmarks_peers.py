"""Measures peers through the protocol of their programs, and peers that fail."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import pytest

from benchmarks.load import BrokenError, Load, server
from benchmarks.peers.__main__ import Measurement
from benchmarks.peers.browser import PARALLEL, check, kept_counts, kept_keys
from benchmarks.peers.programs import Program, Python
from benchmarks.peers.table import PEERS, Peer
from servers.programs import ServerUnavailableError


def serve(module: str, store: str) -> AbstractContextManager[dict[str, Any]]:
    return server([*Python(module).command(), store])


@dataclass(frozen=True)
class Failing(Program):
    """A program that is ``code``, or that cannot be installed."""

    code: str | None

    def command(self) -> list[str]:
        if self.code is None:
            raise ServerUnavailableError("It cannot be installed.")
        return [sys.executable, "-c", self.code]


def row_of(program: Program) -> dict[str, Any]:
    # Its load is never asked for, so that no wrk is needed.
    load = cast(Load, None)
    return Measurement(Peer("failing", "memory", program, "none"), load).row()


class ProtocolTest:
    """The programs do what they are measured for."""

    @pytest.mark.parametrize(
        ("module", "store"), [("ours", "memory"), ("tornado_by_hand", "cookie")]
    )
    def test_the_routes_do_what_they_are_measured_for(
        self, module: str, store: str
    ) -> None:
        """They answer what the protocol says, and a write changes the session."""
        with serve(module, store) as ready:
            check(ready["urls"])

    def test_all_updates_of_ours_survive(self) -> None:
        """Neither a transaction nor a plain write of parallel requests is lost."""
        with serve("ours", "memory") as ready:
            urls = ready["urls"]

            assert (kept_counts(urls), kept_keys(urls)) == (PARALLEL, PARALLEL)

    def test_a_cookie_keeps_one_update(self) -> None:
        """Each of the parallel requests begins with the values of before."""
        with serve("tornado_by_hand", "cookie") as ready:
            urls = ready["urls"]

            assert (kept_counts(urls), kept_keys(urls)) == (1, 1)

    def test_a_route_that_does_something_else_is_an_error(self) -> None:
        """A handler that answers without its work is not taken for a fast one."""
        with (
            pytest.raises(BrokenError, match="read answers 'hello'"),
            serve("ours", "memory") as ready,
        ):
            check({**ready["urls"], "read": ready["urls"]["bare"]})


class BrokenTest:
    """A peer that cannot be measured is a row of the results."""

    def test_a_program_that_ends_before_it_is_ready_is_a_broken_row(self) -> None:
        """The row says what the program has written last."""
        row = row_of(Failing("raise ValueError('no such store')"))

        assert row == {
            "peer": "failing",
            "store": "memory",
            "language": "Python",
            "framework": "none",
            "broken": "ValueError: no such store (It has ended before it was ready.)",
        }

    def test_a_program_that_cannot_be_installed_is_a_broken_row(self) -> None:
        """The row says why."""
        assert row_of(Failing(None))["broken"] == "It cannot be installed."

    def test_a_program_that_says_nothing_is_a_broken_row(self) -> None:
        """The row says that it was never ready."""
        broken = row_of(Failing("pass"))["broken"]

        assert broken == "It has ended before it was ready."

    def test_an_address_where_nobody_listens_is_a_broken_row(self) -> None:
        """A server may say that it is ready, and not be."""
        code = 'print(\'{"urls": {"fill": "http://127.0.0.1:1/", "bare": ""}}\')'

        assert "does not answer" in row_of(Failing(code))["broken"]


class TableTest:
    """The table of peers."""

    def test_a_row_has_a_name_of_its_own(self) -> None:
        """Nobody is measured twice under one name."""
        names = [(peer.name, peer.store) for peer in PEERS]

        assert len(set(names)) == len(names)

"""Measures a hundred sessions in the stores that need no server."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale import expiry, renewals, sizes
from benchmarks.scale.__main__ import missed


@pytest.fixture
def stores(tmp_path: Path) -> list[str]:
    return ["memory:", f"sqlite:///{tmp_path}/scale.db"]


class MeasureTest:
    """The parts yield the rows that the report expects."""

    def test_each_size_of_each_store_is_a_row(
        self, stores: list[str], tmp_path: Path
    ) -> None:
        """All operations are measured, and nothing is left behind."""
        rows = list(sizes.measure(stores, quick=True, counts=(50, 100)))

        assert [(row["store"], row["sessions"]) for row in rows] == [
            ("memory", 50),
            ("memory", 100),
            ("sqlite", 50),
            ("sqlite", 100),
        ]
        for row in rows:
            for name in ("load_us", "save_us", "find_us", "purge_us"):
                assert row[name] > 0
        assert not list(tmp_path.iterdir())

    def test_half_of_the_sessions_expire(self, stores: list[str]) -> None:
        """The event loop is blocked no longer than it is late."""
        rows = list(expiry.measure(stores, quick=True, count=100, rest=0.1))

        assert [row["store"] for row in rows] == ["memory", "sqlite"]
        for row in rows:
            assert 20 < row["expired"] < 80
            assert row["stall_ms"] >= 0
            assert row["late_ms"] >= row["stall_ms"]

    def test_reads_cost_a_write_for_each_tenth_of_the_idle_timeout(
        self, stores: list[str]
    ) -> None:
        """The clock goes through it once."""
        rows = list(renewals.measure(stores, quick=False, reads=100))

        assert [(row["store"], row["writes"]) for row in rows] == [
            ("memory", 10),
            ("sqlite", 10),
        ]


class GoalsTest:
    """Whether the figures are good enough."""

    def test_a_figure_above_its_goal_is_named(self) -> None:
        """One that is exactly the goal is good."""
        size = {"what": "size", "store": "memory", "sessions": 1_000_000}
        expiry = {"what": "expiry", "store": "sqlite"}

        assert not list(missed([{**size, "bytes": 600}, {**expiry, "stall_ms": 5.0}]))
        assert list(missed([{**size, "bytes": 601}, {**expiry, "stall_ms": 5.1}])) == [
            "601 bytes for a session in memory, of 600",
            "a stall of 5.1 ms with sqlite, of 5.0",
        ]

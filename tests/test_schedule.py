"""Tests of the schedule: what is due when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tornado_sessions.core.schedule import Schedule


class ScheduleTest:
    def test_what_is_due_is_taken_in_the_order_of_time(self) -> None:
        """And nothing that is due later."""
        schedule = Schedule()
        for name, due in (("late", 9.0), ("second", 2.0), ("first", 1.0)):
            schedule.set(name, due)

        assert schedule.next() == 1.0
        assert schedule.take(now=2.0, limit=10) == ["first", "second"]
        assert list(schedule) == [(9.0, "late")]

    def test_no_more_than_the_limit_is_taken(self) -> None:
        """The others stay due."""
        schedule = Schedule()
        for name in "abc":
            schedule.set(name, 1.0)

        assert schedule.take(now=1.0, limit=2) == ["a", "b"]
        assert schedule.take(now=1.0, limit=2) == ["c"]
        assert schedule.next() is None

    def test_a_new_time_replaces_the_one_before(self) -> None:
        """Whether it is earlier or later."""
        schedule = Schedule()
        schedule.set("a", 1.0)
        schedule.set("a", 5.0)
        schedule.set("b", 7.0)
        schedule.set("b", 2.0)

        assert schedule.take(now=4.0, limit=10) == ["b"]
        assert schedule.next() == 5.0

    def test_a_removed_name_is_never_due(self) -> None:
        """An unknown one is ignored."""
        schedule = Schedule()
        schedule.set("a", 1.0)
        schedule.remove("a")
        schedule.remove("unknown")

        assert schedule.take(now=9.0, limit=10) == []
        assert (len(schedule), schedule.entries) == (0, 0)

    def test_names_that_come_and_go_leave_little_behind(self) -> None:
        """Behaviour 70: memory is bounded by the names that are left."""
        schedule = Schedule()
        schedule.set("stays", 9.0)
        for number in range(1000):
            schedule.set(str(number), 10.0)
            schedule.remove(str(number))

        assert schedule.entries < 30
        assert list(schedule) == [(9.0, "stays")]

    @given(st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.floats(0, 9))))
    def test_it_agrees_with_a_dict(self, steps: list[tuple[str, float | None]]) -> None:
        """After any steps, each name is due at the time that it was given last."""
        schedule, expected = Schedule(), dict[str, float]()
        for name, due in steps:
            if due is None:
                schedule.remove(name)
                expected.pop(name, None)
            else:
                schedule.set(name, due)
                expected[name] = due

        assert schedule.next() == min(expected.values(), default=None)
        assert sorted(schedule.take(9.0, 10)) == sorted(expected)

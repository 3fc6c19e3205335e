"""Tests `tornado_sessions.logs`: a flood of messages is summed up."""

from __future__ import annotations

import asyncio
import logging
import os
import unittest

from tornado_sessions.logs import LimitedLog, Once


class Lines(logging.Handler):
    """Keeps what is logged, and sets an event with each line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.more = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {self.format(record)}")
        self.more.set()


class LimitedLogTest(unittest.IsolatedAsyncioTestCase):
    def make(self, interval: float) -> LimitedLog:
        logger = logging.getLogger("limited")
        logger.setLevel(logging.INFO)
        self.handler = Lines()
        logger.addHandler(self.handler)
        self.addCleanup(logger.removeHandler, self.handler)
        return LimitedLog(logger, interval)

    @property
    def lines(self) -> list[str]:
        return self.handler.lines

    async def test_a_repetition_is_not_logged(self) -> None:
        """Behaviour 85: another message is, whatever came before it."""
        log = self.make(60)
        for number in range(3):
            log.log(logging.WARNING, "One: %d.", number)
        log.log(logging.INFO, "Two.")

        self.assertEqual(self.lines, ["WARNING One: 0.", "INFO Two."])
        log.close()

    async def test_several_lines_of_a_message_are_logged(self) -> None:
        """Behaviour 85: if they are about different things, and then no more."""
        log = self.make(60)
        for number in range(5):
            log.log(logging.WARNING, "One: %d.", number, most=3)
        log.close()

        summary = "WARNING One: 4. (The last of 2 more since the line before.)"
        lines = [f"WARNING One: {number}." for number in range(3)]
        self.assertEqual(self.lines, [*lines, summary])

    async def test_a_line_has_the_traceback_of_an_error(self) -> None:
        """Of the one that is given."""
        log = self.make(60)
        log.log(logging.WARNING, "One.", exc_info=ZeroDivisionError("A reason."))
        log.close()

        self.assertEqual(self.lines, ["WARNING One.\nZeroDivisionError: A reason."])

    async def test_repetitions_are_summed_up_at_the_end_of_the_interval(self) -> None:
        """Behaviour 85: with the arguments of the last one; once in each interval."""
        log = self.make(0.01)
        for round in (1, 2):
            for number in range(3):
                log.log(logging.WARNING, "One: %d.", number)
            self.handler.more.clear()
            await self.handler.more.wait()
            self.assertEqual(len(self.lines), round + 1)

        self.assertEqual(
            self.lines[1:],
            [
                "WARNING One: 2. (The last of 2 more since the line before.)",
                "WARNING One: 2. (The last of 3 more since the line before.)",
            ],
        )
        log.close()

    async def test_a_message_is_logged_at_once_after_a_quiet_interval(self) -> None:
        """Behaviour 85: nothing is left of what was not repeated."""
        log = self.make(0.001)
        log.log(logging.WARNING, "One.")
        # A timer that ends later runs later.
        later = asyncio.Event()
        asyncio.get_running_loop().call_later(0.002, later.set)
        await later.wait()
        log.log(logging.WARNING, "One.")

        self.assertEqual(self.lines, ["WARNING One.", "WARNING One."])
        log.close()

    async def test_closing_sums_up_and_ends_the_interval(self) -> None:
        """Behaviour 85: what was counted is not lost with a shutdown."""
        log = self.make(60)
        log.log(logging.WARNING, "One.")
        log.log(logging.WARNING, "One.")
        log.log(logging.WARNING, "Two.")
        log.close()
        for _ in range(3):
            log.log(logging.WARNING, "Two.")

        summary = "WARNING One. (The last of 1 more since the line before.)"
        self.assertEqual(
            self.lines, ["WARNING One.", "WARNING Two.", summary, "WARNING Two."]
        )
        log.close()


class EachLoopTest(unittest.TestCase):
    def setUp(self) -> None:
        logger = logging.getLogger("limited")
        self.handler = Lines()
        logger.addHandler(self.handler)
        self.addCleanup(logger.removeHandler, self.handler)
        self.log = LimitedLog(logger, 3600)

    def flood(self) -> None:
        async def flood() -> None:
            for _ in range(3):
                self.log.log(logging.WARNING, "One.")

        asyncio.run(flood())

    def test_an_interval_ends_with_its_event_loop(self) -> None:
        """Behaviour 85: its timer is dead, and a message is not silent for good."""
        self.flood()
        self.flood()

        summary = "WARNING One. (The last of 2 more since the line before.)"
        self.assertEqual(self.handler.lines, ["WARNING One.", summary, "WARNING One."])

    def test_a_child_process_leaves_the_counts_to_its_parent(self) -> None:
        """Behaviour 67: it has a count of its own."""
        self.flood()
        self.handler.lines.clear()
        inbox, outbox = os.pipe()
        child = os.fork()
        if not child:
            try:
                self.flood()
                os.write(outbox, "\n".join(self.handler.lines).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(outbox)
        with open(inbox, encoding="utf-8") as lines:
            self.assertEqual(lines.read(), "WARNING One.")


class WithoutLoopTest(unittest.TestCase):
    def test_nothing_is_limited_without_an_event_loop(self) -> None:
        """There is no timer, and so no end of an interval."""
        with self.assertLogs("limited", "WARNING") as logged:
            log = LimitedLog(logging.getLogger("limited"))
            log.log(logging.WARNING, "One.")
            log.log(logging.WARNING, "One.")

        self.assertEqual(len(logged.output), 2)


class OnceTest(unittest.TestCase):
    def test_a_name_is_new_once(self) -> None:
        """Behaviour 84: for each record there is one line."""
        once = Once()

        self.assertEqual([once.is_first(name) for name in "aab"], [True, False, True])

    def test_it_remembers_the_last_ones(self) -> None:
        """Behaviour 84: in bounded memory; a name that comes again stays."""
        once = Once(size=2)

        told = [once.is_first(name) for name in "abacab"]
        self.assertEqual(told, [True, True, False, True, False, True])

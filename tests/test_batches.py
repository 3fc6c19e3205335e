"""Tests of batches: what leaves together, and whose outcome is whose."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Awaitable, Sequence
from typing import NamedTuple

import pytest

from tornado_sessions.storage.batches import Batches, NothingAppliedError
from tornado_sessions.storage.timeouts import Timeouts

pytestmark = pytest.mark.gen_test


class Ask(NamedTuple):
    """An operation of the tests."""

    key: bytes
    text: str = ""


class TwoPartError(Exception):
    """An error that cannot be copied."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


class Post:
    """A store that notes what is sent together, and can be told to fail and to wait."""

    def __init__(
        self, at_once: int = 1, largest: int = 100, shares: bool = False
    ) -> None:
        self.sent: list[list[str]] = []
        self.fails: dict[str, Exception] = {}
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.arrived = asyncio.Event()
        self.timeouts = Timeouts(60)
        self.batches = Batches[Ask, str](
            self.send_one,
            self.send_many,
            self.limit,
            at_once=at_once,
            largest=largest,
            shares=shares,
        )

    async def limit(self, work: Awaitable[None]) -> None:
        await self.timeouts.run(work)

    async def send_one(self, ask: Ask) -> str:
        self.sent.append([ask.key.decode()])
        self.arrived.set()
        await self.answers.wait()
        if ask.text in self.fails:
            raise self.fails[ask.text]
        return f"{ask.key.decode()}{ask.text}!"

    async def send_many(self, asks: Sequence[Ask]) -> Sequence[str | Exception]:
        self.sent.append([ask.key.decode() for ask in asks])
        self.arrived.set()
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return [
            self.fails.get(ask.text) or f"{ask.key.decode()}{ask.text}!" for ask in asks
        ]

    def ask(self, key: str, text: str = "") -> asyncio.Task[str]:
        return asyncio.ensure_future(
            self.batches.send(key.encode(), Ask(key.encode(), text))
        )

    def hold(self) -> None:
        """Has what arrives wait."""
        self.answers.clear()
        self.arrived.clear()


async def several_iterations() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def outcomes(*tasks: asyncio.Task[str]) -> list[str]:
    """Returns the result of each, or its error's text."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [
        result if isinstance(result, str) else f"{type(result).__name__}({result})"
        for result in results
    ]


async def test_what_one_iteration_asks_for_leaves_together_by_key() -> None:
    """And each caller gets its own result."""
    post = Post()

    assert await outcomes(*map(post.ask, "cab")) == ["c!", "a!", "b!"]
    assert post.sent == [["a", "b", "c"]]


async def test_a_lone_operation_is_sent_by_its_caller() -> None:
    """It costs no task."""
    post = Post()
    before = len(asyncio.all_tasks())
    post.hold()
    task = post.ask("a")
    await post.arrived.wait()

    assert len(asyncio.all_tasks()) == before + 1
    post.answers.set()
    assert await task == "a!"


async def test_after_a_lone_operation_the_next_one_waits_for_no_others() -> None:
    """It is sent at once, and those that begin with it leave together after it."""
    post = Post()
    await post.ask("a")
    post.hold()
    tasks = [post.ask(key) for key in "bcd"]
    await asyncio.sleep(0)

    assert post.sent == [["a"], ["b"]]
    post.answers.set()
    assert await outcomes(*tasks) == ["b!", "c!", "d!"]
    assert post.sent[2:] == [["c", "d"]]


async def test_those_whose_operation_has_ended_join_the_next_batch() -> None:
    """A batch that was split once does not stay split."""
    post = Post()
    await post.ask("z")

    async def ask_again(key: str) -> None:
        for _ in range(3):
            await post.batches.send(key.encode(), Ask(key.encode()))

    post.hold()
    asking = asyncio.gather(*map(ask_again, "abc"))
    await post.arrived.wait()
    post.answers.set()
    await asking

    assert post.sent[:4] == [["z"], ["a"], ["a", "b", "c"], ["a", "b", "c"]]


async def test_what_comes_while_a_batch_is_in_progress_leaves_together_after_it() -> (
    None
):
    """So a slow store has few batches, and each is large."""
    post = Post()
    post.hold()
    first = post.ask("a")
    await post.arrived.wait()
    others = [post.ask(key) for key in "bc"]
    await several_iterations()
    others.append(post.ask("d"))
    await several_iterations()
    post.answers.set()

    assert await outcomes(first, *others) == ["a!", "b!", "c!", "d!"]
    assert post.sent == [["a"], ["b", "c", "d"]]


async def test_as_many_batches_are_in_progress_as_the_store_takes() -> None:
    """And no more."""
    post = Post(at_once=2)
    post.hold()
    tasks = []
    for keys in ("ab", "cd", "ef"):
        tasks += [post.ask(key) for key in keys]
        await several_iterations()

    assert post.sent == [["a", "b"], ["c", "d"]]
    post.answers.set()
    await outcomes(*tasks)
    assert post.sent[2:] == [["e", "f"]]


async def test_a_batch_has_no_more_than_the_largest_number() -> None:
    """The others follow."""
    post = Post(largest=3)

    assert await outcomes(*map(post.ask, "abcde")) == ["a!", "b!", "c!", "d!", "e!"]
    assert post.sent == [["a", "b", "c"], ["d", "e"]]


async def test_a_batch_has_one_operation_for_each_key() -> None:
    """Behaviour 36: of two replacements of one version one alone is told "stored"."""
    post = Post()
    tasks = [post.ask("a", "1"), post.ask("b"), post.ask("a", "2"), post.ask("c")]

    assert await outcomes(*tasks) == ["a1!", "b!", "a2!", "c!"]
    assert post.sent == [["a", "b", "c"], ["a"]]


async def test_operations_on_one_key_can_share_a_result() -> None:
    """Fifty requests of one session make one load."""
    post = Post(shares=True, largest=2)

    assert await outcomes(*map(post.ask, "abacaa")) == [f"{key}!" for key in "abacaa"]
    assert post.sent == [["a", "b"], ["c"]]


async def test_of_those_that_share_a_result_each_can_be_cancelled() -> None:
    """The others get the result, also where there is no other key."""
    for cancelled in range(3):
        post = Post(shares=True)
        post.hold()
        tasks = [post.ask("a") for _ in range(3)]
        await post.arrived.wait()
        tasks[cancelled].cancel()
        await asyncio.wait([tasks[cancelled]])
        post.answers.set()

        assert (await outcomes(*tasks)).count("a!") == 2
        assert post.sent == [["a"]]


async def test_those_that_share_a_failure_have_each_an_exception() -> None:
    """A shared one would collect the tracebacks of all."""
    post = Post(shares=True)
    post.fails["bad"] = OSError("bad")
    tasks = [post.ask("a", "bad") for _ in range(3)]
    await asyncio.wait(tasks)

    raised = [task.exception() for task in tasks]
    assert [str(error) for error in raised] == ["bad"] * 3
    assert len({id(error) for error in raised}) == 3
    assert await post.ask("b") == "b!"


async def test_a_failure_of_one_is_its_own() -> None:
    """The others of the batch have their results."""
    post = Post()
    post.fails["bad"] = ValueError("bad")
    tasks = [post.ask("a"), post.ask("b", "bad"), post.ask("c")]

    assert await outcomes(*tasks) == ["a!", "ValueError(bad)", "c!"]


@pytest.mark.parametrize("error", [OSError("down"), TwoPartError("do", "wn")])
async def test_a_failure_of_the_batch_is_raised_to_each(error: Exception) -> None:
    """Each has an exception of its own where it can be copied, with its cause."""
    post = Post()
    post.error = error
    post.error.__cause__ = KeyError("cause")
    tasks = [post.ask(key) for key in "abc"]
    await asyncio.wait(tasks)
    raised = [task.exception() for task in tasks]

    assert [str(each) for each in raised] == ["down"] * 3
    assert all(type(each) is type(error) for each in raised)
    assert all(each and each.__cause__ is error.__cause__ for each in raised)
    if isinstance(error, OSError):
        assert len({id(each) for each in raised}) == 3
    assert post.sent == [["a", "b", "c"]]


async def test_a_batch_of_which_nothing_was_applied_is_sent_one_by_one() -> None:
    """So the operation at fault fails alone."""
    post = Post()
    post.error = NothingAppliedError()
    post.fails["bad"] = ValueError("bad")
    tasks = [post.ask("a"), post.ask("b", "bad"), post.ask("c")]

    assert await outcomes(*tasks) == ["a!", "ValueError(bad)", "c!"]
    assert post.sent == [["a", "b", "c"], ["a"], ["b"], ["c"]]


async def test_a_store_with_too_few_results_fails_the_batch() -> None:
    """Nobody gets the result of another, and nobody waits for ever."""
    post = Post()

    async def send_many(asks: Sequence[Ask]) -> Sequence[str | Exception]:
        return ["?"]

    post.batches = Batches(post.send_one, send_many, post.limit, at_once=1, largest=9)
    tasks = [post.ask(key) for key in "ab"]
    await asyncio.wait(tasks)

    assert [type(task.exception()) for task in tasks] == [ValueError] * 2


async def test_whoever_is_cancelled_before_the_batch_leaves_asks_for_nothing() -> None:
    """The others go on."""
    post = Post()
    tasks = [post.ask(key) for key in "abc"]
    await asyncio.sleep(0)
    tasks[1].cancel()

    assert await outcomes(*tasks) == ["a!", "CancelledError()", "c!"]
    assert post.sent == [["a", "c"]]


async def test_a_lone_operation_that_is_cancelled_at_its_turn_lets_the_next_one_go() -> (
    None
):
    """At whichever moment."""
    for moments in range(6):
        post = Post()
        task = post.ask("a")
        for _ in range(moments):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

        assert await asyncio.wait_for(post.ask("b"), 30) == "b!"


async def test_whoever_is_cancelled_after_the_batch_left_stops_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The operation goes on, and its outcome is nobody's: no error is logged."""
    post = Post()
    post.fails["bad"] = ValueError("bad")
    post.hold()
    tasks = [post.ask("a"), post.ask("b", "bad")]
    await post.arrived.wait()
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    post.answers.set()

    assert await outcomes(*tasks) == ["a!", "CancelledError()"]
    del tasks
    gc.collect()
    assert caplog.records == []


async def test_a_batch_that_hangs_ends_with_its_timeout() -> None:
    """Each caller is told, and the next batch leaves."""
    post = Post()
    post.timeouts = Timeouts(0.05)
    post.hold()
    tasks = [post.ask(key) for key in "ab"]
    await asyncio.wait(tasks)
    post.answers.set()
    post.timeouts = Timeouts(60)

    assert [type(task.exception()) for task in tasks] == [asyncio.TimeoutError] * 2
    assert await post.ask("c") == "c!"


async def test_a_batch_runs_in_the_context_of_nobody() -> None:
    """Behaviour 41: nor does it keep that of the first caller alive."""
    post, request = Post(), contextvars.ContextVar[str]("request", default="nobody's")
    seen = []

    async def send_many(asks: Sequence[Ask]) -> Sequence[str | Exception]:
        seen.append(request.get())
        return ["?" for _ in asks]

    post.batches = Batches(post.send_one, send_many, post.limit, at_once=1, largest=9)
    request.set("ours")
    await outcomes(*map(post.ask, "ab"))

    assert seen == ["nobody's"]

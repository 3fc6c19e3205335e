"""Tests of how the sockets of many sessions are looked after."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from tornado_sessions.core.sockets import Sockets

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]


class Clients:
    """Sessions that have open sockets, by their tokens, and what is asked of them."""

    def __init__(self, interval: float) -> None:
        self.alive: set[str] = set()
        self.asked: list[str] = []
        self.ended: list[str] = []
        self.at_once = 0
        self.peak = 0
        self.tasks: list[asyncio.Task[None]] = []
        #: The event loop is about to end, and would leave a new task behind.
        self.is_leaving = False
        self.news = asyncio.Event()
        self.sockets = Sockets(interval, self.is_alive, self.start)

    def start(self, work: Any) -> None:  # noqa: ANN401
        if self.is_leaving:
            work.close()
            return
        self.tasks.append(asyncio.ensure_future(work))

    async def is_alive(self, token: str) -> bool:
        self.asked.append(token)
        self.news.set()
        self.at_once += 1
        self.peak = max(self.peak, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        return token in self.alive

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until so much was asked that ``condition`` is met."""
        while not condition():
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 30)

    async def close(self) -> None:
        self.sockets.close()
        await asyncio.gather(*self.tasks)

    def open(self, token: str) -> Client:
        self.alive.add(token)
        client = Client(self, token)
        self.sockets.add(client, token, f"handle of {token}")
        return client


class Client:
    def __init__(self, clients: Clients, token: str) -> None:
        self.clients = clients
        self.token = token
        self.over = asyncio.Event()
        self.receives = True

    def stop_receiving(self) -> None:
        self.receives = False

    def end(self) -> None:
        self.clients.ended.append(self.token)
        self.over.set()


async def test_a_session_is_looked_up_once_for_all_its_sockets() -> None:
    """Behaviour 72: and by one timer; what ended is told to each of them."""
    clients = Clients(0.01)
    held = [clients.open(token) for token in "aabbb"]
    clients.alive.remove("b")
    await asyncio.gather(*(client.over.wait() for client in held[2:]))

    assert clients.ended == ["b", "b", "b"]
    assert [client.receives for client in held] == [True, True, False, False, False]
    assert clients.asked.count("b") == 1
    assert len(clients.sockets) == 2
    await clients.close()


async def test_the_timer_keeps_nothing_of_the_socket_that_came_first() -> None:
    """Behaviour 41: such as what that has put in its context."""
    clients, request = Clients(60), contextvars.ContextVar[object]("request")
    context, kept = contextvars.copy_context(), asyncio.Event()
    context.run(request.set, kept)
    held = context.run(clients.open, "a")
    gone = weakref.ref(kept)
    del context, kept

    assert gone() is None
    assert len(clients.sockets) == 1
    await held.clients.close()


async def test_many_sessions_are_looked_up_a_few_at_a_time() -> None:
    """Behaviours 70, 72: also where all of their sockets were opened at once."""
    clients = Clients(0.01)
    held = [clients.open(str(number)) for number in range(200)]
    await clients.until(lambda: len(set(clients.asked)) == 200)

    assert 1 < clients.peak <= 16
    assert clients.ended == []
    assert len(held) == len(clients.sockets)
    await clients.close()


async def test_a_handler_that_is_gone_is_not_looked_up() -> None:
    """A socket without other references is not kept alive, and its session is removed."""
    clients = Clients(0.01)
    gone, held = clients.open("gone"), clients.open("held")
    del gone
    gc.collect()
    await clients.until(lambda: clients.asked.count("held") == 3)

    assert "gone" not in clients.asked
    assert clients.sockets.knows(handle=f"handle of {held.token}")
    assert not clients.sockets.knows(handle="handle of gone")
    await clients.close()


async def test_a_socket_that_comes_again_is_looked_up_once_in_each_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stale entry of the schedule is ignored."""
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    clients = Clients(3600)
    other = clients.open("other")
    for _ in range(10):
        client = clients.open("a")
        clients.sockets.remove(client, "a")
        clients.sockets.remove(client, "a")
    client = clients.open("a")
    await clients.until(lambda: "a" in clients.asked)
    await asyncio.gather(*clients.tasks)

    assert clients.asked == ["other", "a"]
    clients.sockets.remove(client, "a")
    clients.sockets.remove(other, "other")
    assert clients.sockets.schedule.entries == 0
    await clients.close()


async def test_sockets_that_come_and_go_leave_little_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though the interval in which they would be looked up again is long."""
    monkeypatch.setattr("random.uniform", lambda low, high: low)
    clients = Clients(3600)
    stays = clients.open("stays")
    opened: list[Client] = []
    while len(opened) < 60:
        client = clients.open("a")
        opened.append(client)
        await clients.until(lambda: clients.asked.count("a") == len(opened))
        await asyncio.gather(*clients.tasks)
        clients.sockets.remove(client, "a")

    assert clients.sockets.schedule.entries < 30
    assert [name for _, name in clients.sockets.schedule] == ["stays"]
    assert len(clients.sockets) == len([stays])
    await clients.close()


async def test_a_new_socket_does_not_wait_for_the_others() -> None:
    """Behaviour 72: the timer is set to whoever is first."""
    clients = Clients(3600)
    one = clients.open("one")
    await clients.until(lambda: clients.asked == ["one"])
    await asyncio.gather(*clients.tasks)
    two = clients.open("two")
    await clients.until(lambda: clients.asked == ["one", "two"])

    assert len({one, two}) == len(clients.sockets)
    await clients.close()


async def test_sockets_that_came_all_at_once_drift_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behaviour 70: each has a moment of its own in the next interval."""
    monkeypatch.setattr("tornado_sessions.core.sockets._FIRST_CHECK", 0)
    clients = Clients(3600)
    held = [clients.open(str(number)) for number in range(50)]
    await clients.until(lambda: len(clients.asked) == 50)
    await asyncio.gather(*clients.tasks)
    now = asyncio.get_running_loop().time()
    due = [due - now for due, _ in clients.sockets.schedule]

    assert len(due) == len(held)
    assert max(due) <= 3600
    assert min(due) > 2300
    # Of fifty, all within half of the range: one in 10^13.
    assert max(due) - min(due) > 600
    await clients.close()


async def test_nothing_is_looked_up_after_the_close() -> None:
    """Also where somebody was being looked up just then."""
    clients = Clients(0.001)
    client = clients.open("a")
    await clients.until(lambda: bool(clients.asked))
    await clients.close()

    assert not clients.sockets.is_waiting
    assert not client.over.is_set()


async def test_a_new_socket_after_the_close_is_looked_up() -> None:
    """Behaviour 72: and so are those that have stayed open."""
    clients = Clients(0.001)
    one = clients.open("one")
    await clients.until(lambda: bool(clients.asked))
    await clients.close()
    clients.asked.clear()
    two = clients.open("two")
    await clients.until(lambda: {"one", "two"} == {*clients.asked})

    assert len({one, two}) == len(clients.sockets)
    await clients.close()


def test_the_sockets_of_another_event_loop_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behaviours 67, 72: they may belong to a process that this one is a fork of."""
    monkeypatch.setattr("tornado_sessions.core.sockets._GRACE", 0)
    held: list[Clients] = []

    async def open_sockets() -> Client:
        clients = Clients(0.001)
        held.append(clients)
        client = clients.open("old")
        await clients.until(lambda: bool(clients.asked))
        clients.is_leaving = True
        return client

    async def end_and_open(old: Client) -> None:
        (clients,) = held
        clients.news = asyncio.Event()
        clients.is_leaving = False
        clients.tasks.clear()
        clients.asked.clear()
        clients.sockets.end("old")
        new = clients.open("new")
        await clients.until(lambda: clients.asked.count("new") > 1)
        assert "old" not in clients.asked
        assert len(clients.sockets) == len([new])
        await clients.close()

    old = asyncio.run(open_sockets())
    asyncio.run(end_and_open(old))
    assert held[0].ended == []


async def test_an_end_is_told_by_token_or_by_handle() -> None:
    """Behaviours 46, 72: and to nobody else."""
    clients = Clients(3600)
    held = [clients.open(token) for token in "abc"]
    clients.sockets.end("unknown")
    clients.sockets.end(handle="unknown")
    clients.sockets.end("a")
    clients.sockets.end(handle="handle of b")
    await asyncio.gather(*(client.over.wait() for client in held[:2]))

    assert clients.ended == ["a", "b"]
    assert len(clients.sockets) == 1
    await clients.close()


async def test_a_handle_may_be_that_of_two_tokens() -> None:
    """Behaviours 46, 72: the session was given a new id in another process."""
    clients = Clients(3600)
    held = [Client(clients, token) for token in "abc"]
    clients.alive |= set("abc")
    for client in held:
        clients.sockets.add(client, client.token, "one")
    clients.sockets.end("b")
    clients.sockets.end(handle="one")
    await asyncio.gather(*(client.over.wait() for client in held))

    assert sorted(clients.ended) == ["a", "b", "c"]
    assert not clients.sockets.knows(handle="one")
    await clients.close()


class Handle(str):
    """A handle that counts how often it is compared."""

    __hash__ = str.__hash__
    compared = 0

    def __eq__(self, other: object) -> bool:
        Handle.compared += 1
        return str.__eq__(self, other)


async def test_an_end_by_handle_does_not_look_through_all() -> None:
    """Behaviour 70: whoever has a thousand sessions revokes them one by one."""
    clients = Clients(3600)
    held = [Client(clients, str(number)) for number in range(200)]
    for client in held:
        clients.sockets.add(client, client.token, Handle(client.token))
    Handle.compared = 0
    clients.sockets.end(handle="unknown")

    assert Handle.compared < 10
    assert len(clients.sockets) == len(held)
    await clients.close()


async def test_a_socket_that_goes_while_its_session_is_looked_up_is_forgotten() -> None:
    """The answer is for nobody then."""
    clients = Clients(0.001)
    client = clients.open("a")
    await clients.until(lambda: bool(clients.asked))
    clients.sockets.remove(client, "a")
    await asyncio.gather(*clients.tasks)

    assert clients.ended == []
    assert not clients.sockets.is_waiting

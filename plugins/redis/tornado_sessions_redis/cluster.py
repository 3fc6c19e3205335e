"""Connections to the servers of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import RedisCluster
from redis.exceptions import AskError, MovedError, ResponseError

from tornado_sessions_redis.connection import Command, Connection, Pool, copies
from tornado_sessions_redis.errors import ERRORS, MovedKeysError
from tornado_sessions_redis.scripts import with_text

# How many slots the keys of a cluster are in.
_SLOTS = 16384

# How many seconds the map of the cluster is used at least before it is asked for again.
_INTERVAL = 0.1


class Cluster(Connection):
    """A pool of connections to each server of a cluster.

    The driver's ``client`` knows which server has a key. It does not send the commands:
    that takes it several times as long, and it does not notice a connection that the
    server has closed. ``make_pool`` returns a pool for a host and a port.
    """

    is_cluster = True

    def __init__(
        self, client: RedisCluster, make_pool: Callable[[str, int], Pool]
    ) -> None:
        self._client: Any = client
        self._make_pool = make_pool
        self._pools: dict[tuple[str, int], Pool] = {}
        self._lock = asyncio.Lock()
        # When the map must be asked for again, by the clock of the event loop. It is
        # infinite while the map is good.
        self._due = 0.0

    async def get(self, keys: Sequence[bytes]) -> list[Any]:
        return await self.ask_many([("GET", key) for key in keys])

    async def servers(self) -> list[Pool]:
        await self._find_servers()
        return [
            self._pool(node.host, node.port) for node in self._client.get_primaries()
        ]

    async def survey(self) -> dict[Pool, list[bytes]]:
        self._due = 0.0
        found = {
            server: _own_part(await server.ask("CLUSTER", "NODES"))
            for server in await self.servers()
        }
        slots: list[int] = []
        for _, _, *ranges in found.values():
            for each in ranges:
                if each.startswith(b"["):
                    raise MovedKeysError("The cluster is moving keys between its nodes")
                first, _, last = each.partition(b"-")
                slots += range(int(first), int(last or first) + 1)
        if sorted(slots) != [*range(_SLOTS)]:
            raise MovedKeysError("The nodes of the cluster do not have each slot once")
        return found

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()
        for nodes in ("nodes_cache", "startup_nodes"):
            await self._client.nodes_manager.aclose(nodes)

    async def _ask(self, command: Command) -> Any:  # noqa: ANN401
        await self._find_servers()
        reply = (await self._ask_at(self._pool_of(command), [command]))[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _ask_many(self, commands: Sequence[Command]) -> list[Any]:
        await self._find_servers()
        places: dict[Pool, list[int]] = {}
        for place, command in enumerate(commands):
            places.setdefault(self._pool_of(command), []).append(place)
        parts = await asyncio.gather(
            *(
                self._ask_at(pool, [commands[place] for place in part])
                for pool, part in places.items()
            )
        )
        replies: list[Any] = [None] * len(commands)
        for part, answers in zip(places.values(), parts, strict=True):
            for place, answer in zip(part, answers, strict=True):
                replies[place] = answer
        return replies

    async def _ask_at(self, pool: Pool, commands: Sequence[Command]) -> list[Any]:
        """Sends commands to one server, and to another those that it has not."""
        try:
            replies = await pool.ask_many(commands)
        except asyncio.CancelledError:
            # It may hang, and another one may have taken its place.
            self._doubt()
            raise
        except ERRORS as error:
            replies = copies(error, len(commands))
        for place, reply in enumerate(replies):
            if isinstance(reply, AskError) and reply.host:
                replies[place] = await self._follow(reply, commands[place])
        if any(
            isinstance(reply, ERRORS) and not isinstance(reply, ResponseError)
            for reply in replies
        ):
            self._doubt()
        return replies

    async def _follow(self, error: AskError, command: Command) -> Any:  # noqa: ANN401
        """Sends a command to the server that another one has named. It did not run."""
        pool = self._pool(error.host, error.port)
        try:
            if isinstance(error, MovedError):
                self._doubt()
                return await pool.ask(*command)
            if command[0] == "EVALSHA":
                command = with_text(command)
            # While a key moves, its new server takes only a command that follows this.
            _, reply = await pool.ask_many([("ASKING",), command])
        except ERRORS as failure:
            return failure
        return reply

    def _doubt(self) -> None:
        """Has the map of the cluster asked for again, but not with each command."""
        now = asyncio.get_running_loop().time()
        self._due = min(self._due, now + _INTERVAL)

    async def _find_servers(self) -> None:
        """Asks which server has which keys, if that is not known."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._due:
            return
        async with self._lock:
            if loop.time() >= self._due:
                await self._client.nodes_manager.initialize()
                self._due = float("inf")

    def _pool_of(self, command: Command) -> Pool:
        key = command[3] if command[0] in ("EVALSHA", "EVAL") else command[1]
        slot = self._client.keyslot(key)
        node = self._client.nodes_manager.get_node_from_slot(slot)
        return self._pool(node.host, node.port)

    def _pool(self, host: str, port: int) -> Pool:
        place = (host, int(port))
        if place not in self._pools:
            self._pools[place] = self._make_pool(*place)
        return self._pools[place]


def _own_part(nodes: bytes) -> list[bytes]:
    """Returns what a node says of itself: its id, its epoch and the ranges of its slots.

    The epoch changes with each slot that it gets. A slot that moves is in brackets.
    """
    (line,) = [line for line in nodes.splitlines() if b"myself" in line.split()[2]]
    name, _, _, _, _, _, epoch, _, *ranges = line.split()
    return [name, epoch, *ranges]

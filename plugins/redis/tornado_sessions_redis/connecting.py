"""Makes connections with the driver's own classes."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from tornado_sessions_redis.cluster import Cluster
from tornado_sessions_redis.connection import Connection, Pool
from tornado_sessions_redis.sockets import (
    ClusterSocket,
    ClusterTLSSocket,
    SentinelSocket,
    SentinelTLSSocket,
    TCPSocket,
    TLSSocket,
    UnixSocket,
)
from tornado_sessions_redis.urls import Target

# These have no types.
_new_sentinel: Any = Sentinel
_SentinelPool: Any = SentinelConnectionPool


# The driver's class has no types, so mypy takes it for Any and refuses it as a base.
class _Primaries(_SentinelPool):  # type: ignore[misc]
    """Connects to the primary that the Sentinels name.

    They are asked by one at a time: the driver changes their order meanwhile, and with
    two at once it forgets one of them.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._turns = asyncio.Lock()

    async def get_master_address(self) -> Any:  # noqa: ANN401
        async with self._turns:
            return await super().get_master_address()


def make_connection(
    target: Target, most: int, timeout: float, options: dict[str, Any]
) -> Connection:
    """Returns a connection to ``target``, which does no I/O yet.

    It has at most ``most`` sockets to each server. ``options`` are those of the driver.
    """
    options = {
        **options,
        "username": target.username,
        "password": target.password,
        **_patience(timeout),
    }
    if options.get("ssl_cert_reqs") == "none":
        # Older versions of the driver refuse the two together.
        options["ssl_check_hostname"] = False
    if target.kind == "cluster":
        return _cluster(target, most, timeout, options)
    options["db"] = target.database
    if target.kind == "sentinel":
        return _sentinel(target, most, timeout, options)
    if target.kind == "socket":
        return Pool(most, lambda: UnixSocket(path=target.path, **options))
    options["host"], options["port"] = target.hosts[0]
    kind = TLSSocket if target.is_encrypted else TCPSocket
    return Pool(most, lambda: kind(**options))


def _sentinel(
    target: Target, most: int, timeout: float, options: dict[str, Any]
) -> Pool:
    # So that there is time for the next one, if one of them hangs.
    patience = timeout / (len(target.hosts) + 1)
    to_sentinels = {
        "username": options.pop("sentinel_username", None),
        "password": options.pop("sentinel_password", None),
        **_patience(patience),
        "socket_timeout": patience,
    }
    if target.is_encrypted:
        tls = {name: value for name, value in options.items() if name[:4] == "ssl_"}
        to_sentinels |= {"ssl": True, **tls}
    sentinel = _new_sentinel(target.hosts, sentinel_kwargs=to_sentinels)
    clients = tuple(sentinel.sentinels)
    pool = _Primaries(
        target.primary,
        sentinel,
        connection_class=SentinelTLSSocket if target.is_encrypted else SentinelSocket,
        **options,
    )

    async def close() -> None:
        # Each of them, should one fail.
        closing = (client.aclose() for client in clients)
        await asyncio.gather(*closing, return_exceptions=True)

    return Pool(most, pool.make_connection, close)


def _cluster(
    target: Target, most: int, timeout: float, options: dict[str, Any]
) -> Cluster:
    # So that there is time for another node, if one of them hangs.
    patience = timeout / 3
    options["socket_connect_timeout"] = patience
    client: Any = RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in target.hosts],
        ssl=target.is_encrypted,
        **{**options, "socket_timeout": patience},
    )
    # The client takes no class, and hands these on to each node that it finds.
    kind = ClusterTLSSocket if target.is_encrypted else ClusterSocket
    client.connection_kwargs["connection_class"] = kind
    for node in client.nodes_manager.startup_nodes.values():
        node.connection_class = kind

    def make_pool(host: str, port: int) -> Pool:
        return Pool(most, lambda: kind(host=host, port=port, **options))

    return Cluster(client, make_pool)


def _patience(timeout: float) -> dict[str, Any]:
    """Returns the driver's options for timeouts and retries.

    Each command is sent once: the driver would otherwise send one whose reply is lost
    again, up to ten times. It is the backend that limits the time of a command.
    """
    return {
        "socket_timeout": None,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        # The newer protocol has nothing that is needed here.
        "protocol": 2,
    }

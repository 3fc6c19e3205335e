"""Valkey as a cluster, and Redis with Sentinel."""

from __future__ import annotations

import contextlib
from pathlib import Path

from servers.processes import PASSWORD, Group, free_port, wait_until
from servers.redis import Redis, Valkey

_SENTINEL_CONFIG = """\
port {port}
bind 127.0.0.1
dir "{folder}"
sentinel monitor {name} 127.0.0.1 {primary} 2
sentinel auth-pass {name} {password}
sentinel down-after-milliseconds {name} {down_after}
sentinel failover-timeout {name} 3000
"""

# By default Sentinels take seconds to find each other.
_SENTINEL_PERIODS = ("INFO-PERIOD", "200", "PUBLISH-PERIOD", "200")


class ValkeyCluster(Group):
    """Several Valkey, each of which has its share of the keys and no replica.

    When a member is down for ``node_timeout`` seconds the others refuse all keys,
    until it is back.
    """

    members: list[Valkey]

    def __init__(self, size: int = 3, *, node_timeout: float = 2.0) -> None:
        self._bus_ports = [free_port() for _ in range(size)]
        self.members = [
            Valkey(
                *["--cluster-enabled", "yes", "--cluster-port", str(port)],
                *["--cluster-node-timeout", str(int(1000 * node_timeout))],
            )
            for port in self._bus_ports
        ]

    @property
    def url(self) -> str:
        """The URL of the first member. It names the others to a client."""
        return self.members[0].url

    def wait(self) -> None:
        """Waits until all members are up and say that every key has a home."""
        wait_until(
            lambda: all(map(self._is_whole, self.members)),
            f"{len(self.members)} Valkey have not become a cluster.",
        )

    def _join(self) -> None:
        size = len(self.members)
        first = self.members[0]
        for number, member in enumerate(self.members):
            slots = (16384 * number // size, 16384 * (number + 1) // size - 1)
            member.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            member.ask("CLUSTER", "ADDSLOTSRANGE", *slots)
            if number > 0:
                address = ("127.0.0.1", first.port, self._bus_ports[0])
                member.ask("CLUSTER", "MEET", *address)
        self.wait()

    def _is_whole(self, member: Valkey) -> bool:
        with contextlib.suppress(OSError, RuntimeError):
            info = member.ask("CLUSTER", "INFO")
            assert isinstance(info, bytes)
            lines = info.decode().splitlines()
            size = len(self.members)
            return {"cluster_state:ok", f"cluster_size:{size}"} <= set(lines)
        return False


class Sentinel(Redis):
    """A Sentinel, which watches the Redis at ``port`` and its replicas."""

    password = None

    def __init__(self, name: str, port: int, *, down_after: float) -> None:
        super().__init__("--sentinel")
        self._name = name
        self._primary = port
        self._down_after = down_after

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        super().start()
        self.ask("SENTINEL", "DEBUG", *_SENTINEL_PERIODS)

    def primary(self) -> int | None:
        """Returns the port of the primary; None if the Sentinel is down."""
        with contextlib.suppress(OSError, RuntimeError):
            reply = self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
            assert isinstance(reply, list)
            assert isinstance(reply[1], bytes)
            return int(reply[1])
        return None

    def has_found(self, replicas: int, sentinels: int) -> bool:
        """Whether it knows so many replicas and other Sentinels."""
        known = [
            self.ask("SENTINEL", kind, self._name) for kind in ("REPLICAS", "SENTINELS")
        ]
        sizes = [len(some) for some in known if isinstance(some, list)]
        return sizes == [replicas, sentinels]

    def _prepare(self, folder: Path) -> None:
        # The Sentinel rewrites it with what it finds out.
        (folder / "config").write_text(
            _SENTINEL_CONFIG.format(
                port=self.port,
                folder=folder,
                name=self._name,
                primary=self._primary,
                password=PASSWORD,
                down_after=int(1000 * self._down_after),
            )
        )


class RedisSentinel(Group):
    """A primary and two replicas, and three Sentinels that elect the next primary.

    They do so when the primary has been down for ``down_after`` seconds.
    """

    #: Under which the Sentinels know the primary.
    name = "sessions"

    def __init__(self, *, down_after: float = 1.0) -> None:
        first = Redis()
        replicas = [Redis(replica_of=first.port) for _ in range(2)]
        self.redis = [first, *replicas]
        self.sentinels = [
            Sentinel(self.name, first.port, down_after=down_after) for _ in range(3)
        ]
        self.members = [*self.redis, *self.sentinels]

    def primary(self) -> Redis:
        """Returns the primary that most Sentinels agree on, as soon as it is up."""
        found: list[Redis] = []

        def has_primary() -> bool:
            named = [sentinel.primary() for sentinel in self.sentinels]
            found[:] = [
                redis
                for redis in self.redis
                if named.count(redis.port) > 1 and redis.is_primary()
            ]
            return bool(found)

        wait_until(has_primary, "The Sentinels do not agree on a primary.")
        return found[0]

    def _join(self) -> None:
        wait_until(
            lambda: all(sentinel.has_found(2, 2) for sentinel in self.sentinels),
            "The Sentinels have not found each other.",
        )

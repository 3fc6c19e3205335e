"""MongoDB, alone and as a replica set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from servers.processes import Group, Server, wait_until
from servers.wheels import find_mongod

if TYPE_CHECKING:
    import pymongo


class MongoDB(Server):
    """A mongod."""

    scheme = "mongodb"

    def _program(self) -> str:
        return find_mongod()

    def _arguments(self, folder: Path) -> list[str]:
        data = folder / "data"
        data.mkdir(exist_ok=True)
        return [
            *["--bind_ip", "127.0.0.1", "--port", str(self.port)],
            *["--dbpath", str(data), "--nounixsocket", "--quiet"],
            *["--wiredTigerCacheSizeGB", "0.25"],
        ]


class MongoReplicaSet(Group):
    """Several mongod that hold the same data and elect a primary.

    Needs pymongo, which comes with the plugin that it is for.
    """

    members: list[MongoDB]

    def __init__(self, size: int = 3, *, election_timeout: float = 2.0) -> None:
        self.members = [MongoDB("--replSet", "sessions") for _ in range(size)]
        self._election_timeout = election_timeout

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{member.port}" for member in self.members)
        return f"mongodb://{hosts}/?replicaSet=sessions"

    def primary(self) -> MongoDB:
        """Returns the primary, as soon as there is one."""
        found: list[MongoDB] = []

        def has_primary() -> bool:
            found[:] = [member for member in self.members if _takes_writes(member)]
            return bool(found)

        wait_until(has_primary, f"{self.url} has elected no primary.")
        return found[0]

    def _join(self) -> None:
        config = {
            "_id": "sessions",
            "members": [
                {"_id": number, "host": f"127.0.0.1:{member.port}"}
                for number, member in enumerate(self.members)
            ],
            "settings": {"electionTimeoutMillis": int(1000 * self._election_timeout)},
        }
        with _client(self.members[0]) as client:
            client.admin.command("replSetInitiate", config)
        self.primary()


def _takes_writes(member: MongoDB) -> bool:
    import pymongo.errors

    try:
        with _client(member) as client:
            return bool(client.admin.command("hello")["isWritablePrimary"])
    except pymongo.errors.PyMongoError:
        return False


def _client(member: MongoDB) -> pymongo.MongoClient[dict[str, Any]]:
    import pymongo

    return pymongo.MongoClient(
        member.url, directConnection=True, serverSelectionTimeoutMS=1000
    )

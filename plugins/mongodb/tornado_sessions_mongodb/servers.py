"""What a client knows of its servers, where none can be used.

Each function takes a client of either driver, and does no I/O.
"""

from __future__ import annotations

from typing import Any

from pymongo.errors import ConfigurationError


def missing_replica_set(client: Any) -> str | None:  # noqa: ANN401 - of two kinds
    """Returns the replica set of the URL if no server turned out to be in it."""
    topology = client.topology_description
    name: str | None = topology.replica_set_name
    # The driver forgets a server that is in another replica set, or in none. One
    # that it connects to directly has this error instead.
    servers = topology.server_descriptions().values()
    if all(isinstance(server.error, ConfigurationError) for server in servers):
        return name
    return None


def doubts(client: Any) -> str:  # noqa: ANN401 - of two kinds
    """Returns why the driver cannot use the servers, as sentences for a message."""
    topology = client.topology_description
    sentences = set()
    if topology.has_known_servers and not topology.has_writable_server():
        sentences.add(" No server that answers is the primary.")
    for server in topology.server_descriptions().values():
        if server.error:
            # The driver's own limits follow, which are not those that count here.
            text = str(server.error).partition(" (configured")[0]
            sentences.add(f" The driver says: {text}.")
    return "".join(sorted(sentences))


def is_stuck(client: Any, hosts: frozenset[tuple[str, int]]) -> bool:  # noqa: ANN401
    """Whether a client can use no server, and will not look for those of the URL.

    The driver forgets a server that is not in the replica set of the URL, and never
    asks it again. ``hosts`` are those of the URL.
    """
    topology = client.topology_description
    if topology.has_known_servers:
        return False
    servers = topology.server_descriptions().keys()
    return not servers or not hosts <= servers

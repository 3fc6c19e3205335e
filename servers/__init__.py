"""Brings in and starts the real servers that tests and benchmarks use.

To run a command with servers for it, whose URLs are in its environment::

    python -m servers python -m pytest

A test that kills its server has one of its own::

    with Memcached() as server:
        ...
        server.kill()
        server.start()
"""

from servers.processes import Memcached, MongoDB, MongoReplicaSet, Server
from servers.programs import ServerUnavailableError

__all__ = [
    "Memcached",
    "MongoDB",
    "MongoReplicaSet",
    "Server",
    "ServerUnavailableError",
]

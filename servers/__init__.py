"""Installs and starts the real servers and the browser that tests use.

To run a command with servers, whose URLs are in its environment::

    python -m servers python -m pytest

A test that kills a server starts its own::

    with Memcached() as server:
        ...
        server.kill()
        server.start()

The same holds for the shop, and for the browser that visits it, which are both in
`servers.browsing`::

    with Shop() as shop, Browser(folder) as browser:
        browser.get(shop.url)
"""

from servers.mariadb import MariaDB
from servers.memcached import Memcached
from servers.mongodb import MongoDB, MongoReplicaSet
from servers.postgresql import PgBouncer, PostgreSQL
from servers.processes import Server
from servers.programs import ServerUnavailableError
from servers.redis import Redis, Valkey
from servers.redis_groups import RedisSentinel, ValkeyCluster

__all__ = [
    "MariaDB",
    "Memcached",
    "MongoDB",
    "MongoReplicaSet",
    "PgBouncer",
    "PostgreSQL",
    "Redis",
    "RedisSentinel",
    "Server",
    "ServerUnavailableError",
    "Valkey",
    "ValkeyCluster",
]

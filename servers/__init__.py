"""Brings in and starts the real servers and the browser that tests use.

To run a command with servers for it, whose URLs are in its environment::

    python -m servers python -m pytest

A test that kills its server has one of its own::

    with Memcached() as server:
        ...
        server.kill()
        server.start()

So it is with the shop, and with the browser that looks at it, which are both in
`servers.browsing`::

    with Shop() as shop, Browser(folder) as browser:
        browser.get(shop.url)
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

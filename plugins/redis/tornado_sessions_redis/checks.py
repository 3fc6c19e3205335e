"""Warns of a server that is configured to lose sessions."""

from __future__ import annotations

import logging

from redis.exceptions import ResponseError

from tornado_sessions_redis.connection import Connection

logger = logging.getLogger("tornado_sessions")


async def warn_of_losses(connection: Connection, address: str) -> None:
    """Logs what the configuration of the server puts at risk.

    Does nothing if the server does not tell its configuration.
    """
    asked = ("maxmemory-policy", "maxmemory", "appendonly", "save")
    try:
        reply = await connection.ask("CONFIG", "GET", *asked)
    except ResponseError:
        # Many a host forbids it.
        return
    texts = [text.decode() for text in reply]
    found = dict(zip(texts[::2], texts[1::2], strict=True))
    policy = found.get("maxmemory-policy", "noeviction")
    if policy != "noeviction" and found.get("maxmemory", "0") != "0":
        logger.warning(
            "Redis %r removes sessions before they expire when its memory is full: its"
            " maxmemory-policy is %r. Set it to 'noeviction'.",
            address,
            policy,
        )
    if found.get("appendonly") == "no" and found.get("save") == "":
        logger.warning(
            "Redis %r loses all sessions when it is restarted: it stores nothing on"
            " disk. Set 'appendonly yes' in its configuration.",
            address,
        )

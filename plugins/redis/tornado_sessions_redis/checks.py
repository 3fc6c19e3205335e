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
        replies = await connection.ask_everywhere("CONFIG", "GET", *asked)
    except ResponseError:
        # Many a host forbids it.
        return
    servers = [_options(reply) for reply in replies]
    if evicting := list(filter(_evicts, servers)):
        policy = evicting[0]["maxmemory-policy"]
        logger.warning(
            "Redis %r removes sessions before they expire when its memory is full: its"
            " maxmemory-policy is %r. Set it to 'noeviction'.",
            address,
            policy,
        )
    if any(map(_forgets, servers)):
        logger.warning(
            "Redis %r loses all sessions when it is restarted: it stores nothing on"
            " disk. Set 'appendonly yes' in its configuration.",
            address,
        )


def _options(reply: list[bytes]) -> dict[str, str]:
    texts = [text.decode() for text in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _evicts(options: dict[str, str]) -> bool:
    policy = options.get("maxmemory-policy", "noeviction")
    return policy != "noeviction" and options.get("maxmemory", "0") != "0"


def _forgets(options: dict[str, str]) -> bool:
    return options.get("appendonly") == "no" and options.get("save") == ""

"""All sessions of one application: load, commit, renew, revoke, purge, close.

`Sessions` is made in layers, each of which adds one thing to the one before:
``telling``, ``base``, ``users``, ``commits``.
"""

from tornado_sessions.sessions.commits import MOST_IDS, Sessions
from tornado_sessions.sessions.telling import logger

__all__ = ["MOST_IDS", "Sessions", "logger"]

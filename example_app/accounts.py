"""Who may sign in: one account, which the sign-in page tells everyone.

A real application keeps its accounts in a database, draws a salt for each,
and slows down whoever guesses.
"""

from __future__ import annotations

import hashlib
import hmac

from tornado.ioloop import IOLoop

_SALT = bytes.fromhex("5e8f1c07a96b4d32b0c45d71e2f83a19")

# Of the password "lovelace".
_HASHES = {
    "ada": bytes.fromhex(
        "df56e69492498bd26996c4a117163a97d7e30ef6a4fac48b04a44c76d63973e7"
        "2a6f4e71ac5529531daec17fcd17f03f69994f8154b5815bd51072089b4b7fd3"
    ),
}


async def check_password(name: str, password: str) -> bool:
    """Whether ``password`` is that of the account ``name``.

    A good password hash is slow on purpose, so it is computed in a thread:
    on the event loop it would keep every other visitor waiting.
    """
    hashed = await IOLoop.current().run_in_executor(None, _hash, password)
    # An unknown name takes as long as a known one, and so gives nothing away.
    return hmac.compare_digest(hashed, _HASHES.get(name, b""))


def _hash(password: str) -> bytes:
    return hashlib.scrypt(password.encode(), salt=_SALT, n=2**14, r=8, p=5)

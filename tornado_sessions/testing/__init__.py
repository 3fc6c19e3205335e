"""What tests need: those of an application's handlers, and those of a backend.

For an application, a whole test module::

    import unittest

    from tornado.testing import AsyncHTTPTestCase
    from tornado.web import Application
    from tornado_sessions import SessionMixin
    from tornado_sessions.testing import settings_for_tests, sign_in


    class CartHandler(SessionMixin):
        def get(self):
            self.write({"user": self.session.user, "cart": self.session["cart"]})


    class CartTest(AsyncHTTPTestCase):
        def get_app(self):
            return Application([("/cart", CartHandler)], **settings_for_tests())

        def test_the_cart_is_shown(self):
            headers = self.io_loop.run_sync(
                lambda: sign_in(self._app, "ada", cart=["kite"])
            )
            response = self.fetch("/cart", headers=headers)

            self.assertIn(b"kite", response.body)


    if __name__ == "__main__":
        unittest.main()

For a backend there are the contracts, which the library's own backends pass. They are
imported when they are first used: a test of an application does not import them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tornado_sessions.testing.client import Client
from tornado_sessions.testing.clock import Clock, moved_clock
from tornado_sessions.testing.sessions import (
    headers_of,
    load_session,
    settings_for_tests,
    sign_in,
    start_session,
    url_of,
)

if TYPE_CHECKING:
    from tornado_sessions.testing.backends import BackendContract
    from tornado_sessions.testing.faults import FaultyVault
    from tornado_sessions.testing.handlers import HandlerContract
    from tornado_sessions.testing.outages import OutageContract
    from tornado_sessions.testing.stores import StoreServer

__all__ = [
    "BackendContract",
    "Client",
    "Clock",
    "FaultyVault",
    "HandlerContract",
    "OutageContract",
    "StoreServer",
    "headers_of",
    "load_session",
    "moved_clock",
    "settings_for_tests",
    "sign_in",
    "start_session",
    "url_of",
]

#: What authors of backends use, and the module of each.
_contracts = {
    "BackendContract": "backends",
    "FaultyVault": "faults",
    "HandlerContract": "handlers",
    "OutageContract": "outages",
    "StoreServer": "stores",
}


if not TYPE_CHECKING:
    # Type checkers would let every name pass.

    def __getattr__(name: str) -> object:
        module = _contracts.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)

"""What every application's sessions must do over HTTP, as tests.

A whole test module, for `unittest` and for pytest::

    import unittest

    from tornado.testing import AsyncHTTPTestCase
    from tornado_sessions.testing import HandlerContract


    class MemoryHandlerTest(HandlerContract, AsyncHTTPTestCase):
        def make_session_backend(self):
            return "memory"


    if __name__ == "__main__":
        unittest.main()

The numbers in the docstrings are those of the library's list of behaviours.
"""

from __future__ import annotations

from tornado_sessions.testing.authentication import AuthenticationContract
from tornado_sessions.testing.changes import ChangeContract
from tornado_sessions.testing.concurrency import ConcurrencyContract
from tornado_sessions.testing.cookies import CookieContract
from tornado_sessions.testing.editing import EditingContract
from tornado_sessions.testing.ending import EndingContract
from tornado_sessions.testing.expiry import ExpiryContract
from tornado_sessions.testing.failing import FailureContract
from tornado_sessions.testing.identity import IdentityContract
from tornado_sessions.testing.laziness import LazinessContract
from tornado_sessions.testing.limits import LimitContract
from tornado_sessions.testing.responses import ResponseContract
from tornado_sessions.testing.revoked import RevokedContract
from tornado_sessions.testing.revoking import RevokingContract
from tornado_sessions.testing.saving import SavingContract
from tornado_sessions.testing.serving import ServingContract
from tornado_sessions.testing.several import SeveralIdsContract
from tornado_sessions.testing.sockets import SocketContract
from tornado_sessions.testing.superseded import SupersededContract
from tornado_sessions.testing.transports import TransportContract
from tornado_sessions.testing.users import UsersContract
from tornado_sessions.testing.xsrf import XSRFContract


class HandlerContract(
    LazinessContract,
    ChangeContract,
    EndingContract,
    CookieContract,
    IdentityContract,
    SeveralIdsContract,
    ResponseContract,
    SavingContract,
    FailureContract,
    ServingContract,
    ConcurrencyContract,
    ExpiryContract,
    TransportContract,
    SocketContract,
    XSRFContract,
    AuthenticationContract,
    UsersContract,
    EditingContract,
    RevokedContract,
    RevokingContract,
    SupersededContract,
    LimitContract,
):
    """Tests an application's sessions; beside it goes Tornado's own test case.

    The store may hold anything: no test uses a session of another. Some tests make
    several applications. If the store is shared, all of one test must use the same
    store. What the vault and its backend declare, such as ``revocable`` and ``shared``, decides
    which tests run; one that is skipped says so.
    """

"""All sessions of one application."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import tornado.web

from tornado_sessions.core.cleanup import Cleanup
from tornado_sessions.core.combiner import Combiner
from tornado_sessions.core.commit import Commits
from tornado_sessions.core.devices import Devices
from tornado_sessions.core.edits import Edits
from tornado_sessions.core.events import Events
from tornado_sessions.core.lanes import Lanes
from tornado_sessions.core.load import Loader
from tornado_sessions.core.logins import Logins
from tornado_sessions.core.moves import Moves
from tornado_sessions.core.records import Records
from tornado_sessions.core.renewals import Renewals
from tornado_sessions.core.revocations import Revocations
from tornado_sessions.core.revoking_vault import revoking_vault
from tornado_sessions.core.rules import Rules
from tornado_sessions.core.schema import SessionData
from tornado_sessions.core.sockets import Sockets
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.store import Store
from tornado_sessions.core.tasks import Tasks
from tornado_sessions.core.transact import Transactions
from tornado_sessions.core.typed import declare, migrate
from tornado_sessions.core.users import Users
from tornado_sessions.core.writer import Writer
from tornado_sessions.frames import hide_frames, hides_frames
from tornado_sessions.logs import LimitedLog
from tornado_sessions.session import Session
from tornado_sessions.settings import Settings, read_settings
from tornado_sessions.storage.vault import Vault
from tornado_sessions.tenants import TenantOf, read_tenants
from tornado_sessions.user_sessions import UserSessions

logger = logging.getLogger("tornado_sessions")

Data = TypeVar("Data", bound=SessionData)


class Sessions(UserSessions):
    """All sessions of one application.

    `Sessions.of` returns an application's own. It is what handlers use through
    `.SessionMixin`, what a shutdown closes, and what code outside of handlers
    uses. The public attributes are the parts that it is made of, for
    `tornado_sessions.web`.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rules = rules = Rules(
            revocable=settings.vault.revocable,
            ends_copies=settings.vault.ends_copies,
            idle_timeout=settings.idle_timeout,
            lifetime=settings.lifetime,
            persistent=settings.persistent,
            anonymous_idle_timeout=settings.anonymous_idle_timeout,
            anonymous_lifetime=settings.anonymous_lifetime,
        )
        #: For what a client can bring about as often as it likes.
        self.logs = logs = LimitedLog(logger)
        self.events = Events(
            settings.listener,
            rules,
            lambda: self.vault,
            logs,
            settings.listener_requests,
            settings.tenant,
        )
        self.tasks = Tasks()
        self.store = store = Store(
            revoking_vault(settings.vault), self.tasks, self.events
        )
        self.cleanup = Cleanup(store, rules, self.tasks)
        self.records = records = Records(store, rules, self.events, logs)
        self.sockets = Sockets(
            settings.socket_interval, records.is_kept, self.tasks.start
        )
        self.users = Users(store, rules, records, self.sockets, self.events)
        self.edits = Edits(store, rules, self.users, self.events)
        self.revocations = Revocations(
            store, rules, records, self.users, self.events, self.tasks
        )
        self.devices: Devices | None = None
        if settings.listener_devices:
            self.devices = Devices(
                settings.vault.backend,
                settings.vault.namespace,
                rules,
                self.events,
                logs,
            )
        writer = Writer(store, rules, self.cleanup)
        combiner = Combiner(records, writer, rules, self.events)
        self.lanes = lanes = Lanes(
            combiner.serve, self.tasks, lambda: store.vault.timeout
        )
        self.logins = Logins(
            store,
            rules,
            records,
            writer,
            self.users,
            settings.max_per_user,
            settings.max_per_user_policy,
        )
        self.commits = Commits(
            store,
            rules,
            records,
            writer,
            self.logins,
            Moves(store, rules, records, self.logins, lanes, self.sockets, self.events),
            Renewals(rules, writer, lanes, logs),
            lanes,
            self.sockets,
            self.tasks,
            self.events,
            self.devices,
        )
        self.transactions = Transactions(
            rules, records, writer, self.commits, lanes, self.events, logs
        )
        self.loader = Loader(
            store,
            rules,
            records,
            self.commits,
            self.cleanup,
            self.sockets,
            self.events,
        )
        #: The sessions of each tenant; empty if there are none.
        self.tenants: dict[str, Sessions] = {}
        #: The function that returns the name of the tenant of a request.
        self.tenant_of: TenantOf | None = None
        # The session of the request that this object was made for.
        self._own: SessionState | None = None

    def __repr__(self) -> str:
        store = getattr(self.vault, "backend", self.vault)
        return f"<{type(self).__name__} in {type(store).__name__}>"

    @classmethod
    def of(cls, application: tornado.web.Application) -> Sessions:
        """Returns the sessions of ``application``, the same ones at every call.

        The first call reads the settings and raises `ValueError` where they
        contradict each other, `.BackendNotFoundError` where the backend is not
        installed or cannot be imported. Call it when the application starts: no
        event loop has to run.
        """
        sessions = known_sessions(application)
        if sessions is None:
            try:
                settings = read_settings(application.settings)
                tenants = read_tenants(application.settings, settings)
            except Exception as error:
                # The settings have the URL of the store and cookie_secret.
                hide_frames(error)
                raise
            sessions = cls(settings)
            sessions.tenants = {name: cls(own) for name, own in tenants.items()}
            sessions.tenant_of = application.settings.get("session_tenant")
            # On the application itself, so that they live as long as it does. It
            # declares no such attribute.
            application._tornado_sessions = sessions  # type: ignore[attr-defined]
        return sessions

    @hides_frames
    def tenant(self, name: str) -> Sessions:
        """Returns the sessions of a tenant, for code outside of its requests.

        In a handler ``self.sessions`` are those of the tenant of the request. Raises
        `ValueError` for a name that is not in ``session_tenants``.
        """
        if name not in self.tenants:
            raise ValueError(f"There is no tenant {name!r} in session_tenants.")
        return self.tenants[name]

    def of_request(self, own: SessionState | None) -> Sessions:
        """Returns these sessions for a request whose session is ``own``.

        If that request revokes its own session, this counts as `.Session.destroy`.
        """
        sessions = copy.copy(self)
        sessions._own = own
        return sessions

    @property
    def vault(self) -> Vault:
        """Where the records are kept."""
        return self.store.vault

    @vault.setter
    def vault(self, vault: Vault) -> None:
        self.store.vault = vault

    @property
    def now(self) -> Callable[[], float]:
        """The clock, in seconds since the epoch."""
        return self.rules.now

    @now.setter
    def now(self, clock: Callable[[], float]) -> None:
        self.rules.now = clock

    # One session.

    @overload
    async def load(self, token: str | None) -> Session: ...
    @overload
    async def load(self, token: str | None, schema: type[Data]) -> Session[Data]: ...
    @hides_frames
    async def load(
        self, token: str | None, schema: type[SessionData] | None = None
    ) -> Session[Any]:
        """Returns the session of ``token``; with ``schema`` it has `~.Session.data`.

        It is a new one if there is no token, or if the token is malformed,
        unknown or expired, or if its record cannot be decoded. Raises
        `.BackendError` if the store fails, and for a record that only a newer
        version of this library can read.
        """
        self._refuse_tenants()
        state = await self.loader.load(token)
        declare(state, schema)
        migrate(state)
        return self.view(state)

    @hides_frames
    async def load_one_of(self, tokens: Sequence[str]) -> Session:
        """Returns the session of the only token among ``tokens`` that is alive.

        Returns a new one if none is alive. If several are, or if there are more
        than four tokens, which are not looked up, to save it raises
        `.SessionError`. Raises as `load` does.
        """
        self._refuse_tenants()
        return self.view(await self.loader.load_one_of(tokens))

    def view(self, state: SessionState) -> Session:
        """Returns the session that an application holds, of a state."""
        return Session(self.transactions, state)

    # The store.

    @hides_frames
    async def ping(self) -> None:
        """Asks every store that a load or a save would ask whether it is there.

        That is for a readiness check. It stores nothing, and no listener is told.
        Raises `.BackendError` where a store fails or does not answer within its
        timeout.
        """
        await self.vault.ping()

    @hides_frames
    async def purge(self) -> int:
        """Removes expired sessions from the store and returns how many.

        A record is kept for five minutes after its session has ended, for the
        requests in progress. It runs by itself every quarter of an hour once
        sessions are in use, and ends with the batch in progress at `close`. Raises
        `.BackendError` if the store fails.
        """
        return await self.cleanup.purge()

    @hides_frames
    async def close(self) -> None:
        """Waits for the commits in progress and closes the store.

        Call it when the server has stopped and its requests have ended. Everything
        opens again at the next use.
        """
        everyone = (*self.tenants.values(), self)
        for each in everyone:
            each._stop_timers()
        # Before any store is closed: tenants have one together.
        for each in everyone:
            await each.tasks.wait()
        for each in everyone:
            # These tasks have used the sessions again.
            each._stop_timers()
            await each.vault.close()

    def _stop_timers(self) -> None:
        self.cleanup.close()
        self.sockets.close()
        self.logs.close()


def known_sessions(application: tornado.web.Application) -> Sessions | None:
    """Returns what `Sessions.of` has returned; None if it was not called before."""
    return getattr(application, "_tornado_sessions", None)

"""The sessions of the users of one application: listed, changed and ended."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from tornado_sessions.core.checks import check_user
from tornado_sessions.core.devices import Devices
from tornado_sessions.core.edits import Edits
from tornado_sessions.core.revocations import Revocations, revoking
from tornado_sessions.core.schema import SessionData
from tornado_sessions.core.state import SessionState
from tornado_sessions.core.typed import declare, migrate
from tornado_sessions.core.users import Users, UserSession
from tornado_sessions.core.values import state_of
from tornado_sessions.errors import SessionError
from tornado_sessions.frames import hides_frames
from tornado_sessions.session import Session

if TYPE_CHECKING:
    from typing_extensions import Self

Data = TypeVar("Data", bound=SessionData)


class UserSessions:
    """What `.Sessions` does with the sessions of users, from outside of their requests."""

    users: Users
    edits: Edits
    revocations: Revocations
    devices: Devices | None
    #: The sessions of each tenant; empty if there are none.
    tenants: dict[str, Self]
    # The session of the request that this object was made for.
    _own: SessionState | None

    # The sessions of a user.

    @hides_frames
    async def of_user(self, user: str) -> list[UserSession]:
        """Returns the live sessions of ``user``, the latest sign-in first.

        Raises `.SessionError` where the backend cannot look them up, and
        `.BackendError` if the store fails.
        """
        self._refuse_tenants()
        check_user(user, "of_user()")
        return await self.users.describe(user)

    @hides_frames
    async def revoke(self, user: str, id: str) -> bool:
        """Ends the session of ``user`` whose handle is ``id``.

        Returns False where this user has no such session that is alive, whether or
        not another user has. The cookie backend cannot know: it returns False only if
        the session was ended before, or another user has signed in with it since. It
        raises `.SessionError` if it keeps 200 handles of which it knows nothing else.
        A session that has expired is ended all the same: the clock of this process may
        be wrong. A request in progress with the session does not bring it back. To a
        handler that revokes its own through ``self.sessions``, it is as if it had
        called `.Session.destroy`. Raises as `of_user` does.
        """
        self._refuse_tenants()
        check_user(user, "revoke()")
        with revoking(self._own):
            return await self.revocations.revoke(user, id, self._own)

    @hides_frames
    async def revoke_all(self, user: str, keep: Session | None = None) -> int:
        """Ends all sessions of ``user``, or all except ``keep``. Returns how many.

        It does to each what `revoke` does. A login that is stored meanwhile is not
        among them. Returns 0 where the backend can end sessions and not list them.
        Raises `.SessionGoneError` if ``keep`` has ended or is not stored, and ends
        nothing more. If two sessions revoke each other, one survives.
        """
        self._refuse_tenants()
        check_user(user, "revoke_all()")
        kept = _kept(keep, "revoke_all()")
        with revoking(self._own):
            return await self.revocations.revoke_all(user, kept, self._own)

    @overload
    def edit(self, user: str, id: str) -> AbstractAsyncContextManager[Session]: ...
    @overload
    def edit(
        self, user: str, id: str, schema: type[Data]
    ) -> AbstractAsyncContextManager[Session[Data]]: ...
    @contextlib.asynccontextmanager
    async def edit(
        self, user: str, id: str, schema: type[SessionData] | None = None
    ) -> AsyncIterator[Session[Any]]:
        """Changes the session of ``user`` whose handle is ``id``, from outside of it.

        For example, for a role that an administrator has taken away::

            async with sessions.edit(user, handle) as session:
                session["role"] = "reader"

        With ``schema``, a subclass of `.SessionData`, it has `~.Session.data`. What was
        changed is stored at the end of the block, and nothing if the block raises. If
        the session was saved meanwhile, the changes are applied to the newest values, as
        those of a request are. The edit does not count as use: it does
        not extend the idle timeout. The values, `~.Session.label`, `~.Session.flash` and
        `~.Session.set_expiry` can be changed. What would need a new cookie raises
        `.SessionError`, and so do ``destroy()``, ``save()`` and ``transact()``. A request
        of the session that is in progress keeps the values that it has loaded; its save
        is merged with the edit.

        Raises `.SessionGoneError` if the user has no such session that is alive, also at
        the end of the block, and otherwise as `of_user` and `.Session.save` do.
        """
        self._refuse_tenants()
        check_user(user, "edit()")
        state = await self.edits.load(user, id)
        try:
            declare(state, schema)
            migrate(state)
            yield Session(self.edits, state)
            await self.edits.store(state)
        finally:
            state.close()

    @hides_frames
    async def forget_devices(self, user: str) -> None:
        """Removes what the store remembers of the devices of ``user``.

        That is for the event "new_device", and none of the sessions ends. Raises
        `.SessionError` if ``session_listener_devices`` is not set, and `.BackendError`
        if the store fails.
        """
        self._refuse_tenants()
        check_user(user, "forget_devices()")
        if self.devices is None:
            raise SessionError(
                "forget_devices() needs session_listener_devices=True: without it the"
                " devices of users are not remembered."
            )
        await self.devices.forget(user)

    # The sessions of all users.

    async def of_all_users(self) -> AsyncIterator[UserSession]:
        """Yields the live sessions of all users, in any order.

        They are read in pages, so there may be millions. A session whose id is changed
        meanwhile may come twice or not at all. Anonymous sessions are left out. Raises
        `.SessionError` where the backend cannot list them, and `.BackendError` if the
        store fails.
        """
        described = self.users.describe_all()
        while (session := await self._next(described)) is not None:
            yield session

    @hides_frames
    async def _next(self, described: AsyncIterator[UserSession]) -> UserSession | None:
        self._refuse_tenants()
        return await anext(described, None)

    @hides_frames
    async def revoke_all_users(self, keep: Session | None = None) -> int:
        """Ends the sessions of all users, or all except ``keep``. Returns how many.

        It calls `revoke_all` for one user after the other. If it raises `.BackendError`,
        some sessions may have ended: call it again. Anonymous sessions do not end.
        Raises as `of_all_users` does, and `.SessionGoneError` if ``keep`` has ended.
        """
        self._refuse_tenants()
        kept = _kept(keep, "revoke_all_users()")
        mine = None if kept is None else kept.current.user
        if kept is not None and mine is None:
            raise SessionError(
                "revoke_all_users() ends no anonymous session, so keep has to be that of"
                " a user. Leave it out to end the sessions of all users."
            )
        ended = 0
        for user in await self.users.names():
            but = kept if user == mine else None
            with revoking(self._own):
                ended += await self.revocations.revoke_all(user, but, self._own)
        return ended

    def _refuse_tenants(self) -> None:
        """Raises `.SessionError` if it is not known which tenant is meant."""
        if self.tenants:
            raise SessionError(
                "The application has session_tenants, and each has its own sessions and"
                " users. In a handler use self.sessions, and elsewhere"
                f" Sessions.of(application).tenant({next(iter(self.tenants))!r})."
            )


def _kept(keep: object, what: str) -> SessionState | None:
    """Returns the state of the session that ``what`` is to spare."""
    if keep is None:
        return None
    if not isinstance(keep, Session):
        raise TypeError(
            f"{what} takes the session to spare, such as keep=self.session, and not"
            f" {type(keep).__name__}."
        )
    return state_of(keep)

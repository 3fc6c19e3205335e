"""Where a visitor is signed in, and how to sign out there from here."""

from __future__ import annotations

from tornado.web import HTTPError

from example_app.base import RECENT, BaseHandler
from tornado_sessions import UserSession, recent_login

# What browsers and systems call themselves. Most claim to be others, too, so
# those that others claim to be come last.
_BROWSERS = [
    ("Firefox", "Firefox"),
    ("OPR", "Opera"),
    ("Edg", "Edge"),
    ("Chrome", "Chrome"),
    ("Safari", "Safari"),
]
_SYSTEMS = [
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
]


class DevicesHandler(BaseHandler):
    """Lists the sessions of the visitor's account, and ends them.

    It requires a recent login: somebody at an unattended browser must neither see
    the other sessions nor end them.
    """

    @recent_login(max_age=RECENT)
    async def get(self) -> None:
        self.render(
            "devices.html",
            sessions=await self.get_sessions(),
            can_end=self.sessions.vault.ends_users,
            now=self.sessions.now(),
        )

    @recent_login(max_age=RECENT)
    async def post(self) -> None:
        vault, handle = self.sessions.vault, self.get_body_argument("id", "")
        if not (vault.finds_by_user if handle else vault.ends_users):
            # The page does not offer it.
            raise HTTPError(404)
        user, sessions = self.current_user, await self.get_sessions()
        if handle:
            there = await self.sessions.revoke(user, handle)
            text = "Signed out there." if there else "It is signed out already."
        elif self.get_body_argument("here", ""):
            # Sessions that cannot be listed end as well, so this one has tabs to tell.
            self.changed_sessions = [self.session.id, *(each.id for each in sessions)]
            await self.sessions.revoke_all(user)
            self.redirect(self.reverse_url("catalogue"))
            return
        else:
            await self.sessions.revoke_all(user, keep=self.session)
            text = "Signed out everywhere else."
        # Their tabs ask who is signed in; those of this session find nothing new.
        self.changed_sessions = [session.id for session in sessions]
        self.session.flash(text, "success")
        self.redirect(self.reverse_url("devices"))

    async def get_sessions(self) -> list[UserSession]:
        """Returns an empty list if the backend cannot look up sessions by user."""
        if not self.sessions.vault.finds_by_user:
            return []
        return await self.sessions.of_user(self.current_user)


def describe(user_agent: str) -> str:
    """Returns a short name of a browser, from its User-Agent header."""
    browser = _first(_BROWSERS, user_agent) or "A browser"
    system = _first(_SYSTEMS, user_agent)
    return f"{browser} on {system}" if system else browser


def _first(names: list[tuple[str, str]], user_agent: str) -> str | None:
    return next((name for sign, name in names if sign in user_agent), None)

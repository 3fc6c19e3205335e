"""Where a visitor is signed in, and how to sign out there from here."""

from __future__ import annotations

from tornado.web import authenticated

from example_app.base import BaseHandler

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
    """Shows where the visitor's account is signed in, and ends what it should not."""

    @authenticated
    async def get(self) -> None:
        # Not every backend can look up the sessions of a user.
        listed = self.sessions.vault.lists_users
        self.render(
            "devices.html",
            sessions=await self.sessions.of_user(self.current_user) if listed else None,
            now=self.sessions.now(),
        )

    @authenticated
    async def post(self) -> None:
        user = self.current_user
        open_now = [session.id for session in await self.sessions.of_user(user)]
        if handle := self.get_body_argument("id", ""):
            number = int(await self.sessions.revoke(user, handle))
        else:
            number = await self.sessions.revoke_all(user, but=self.session)
        # Each tab asks who is signed in, and those of this session find nothing new.
        self.changed_sessions = open_now
        places = "1 place" if number == 1 else f"{number} places"
        self.session.flash(f"Signed out in {places}.", "success")
        self.redirect(self.reverse_url("devices"))


def describe(user_agent: str) -> str:
    """Answers what people call a browser, by what it calls itself."""
    browser = _first(_BROWSERS, user_agent) or "A browser"
    system = _first(_SYSTEMS, user_agent)
    return f"{browser} on {system}" if system else browser


def _first(names: list[tuple[str, str]], user_agent: str) -> str | None:
    return next((name for sign, name in names if sign in user_agent), None)

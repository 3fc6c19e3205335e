"""Pages for the curious: what a session is, and when it ends."""

from __future__ import annotations

from tornado.escape import json_encode

from example_app.base import BaseHandler


class ViewsHandler(BaseHandler):
    """Counts visits until you stay away: the demo that every session library has."""

    def get(self) -> None:
        views = self.session["views"] = self.session.get("views", 0) + 1
        # What was left when this request came, which itself starts it anew.
        self.render("views.html", views=views, expires_in=self.session.expires_in)


class SessionHandler(BaseHandler):
    """Shows the state of the visitor's session."""

    def get(self) -> None:
        session = self.session
        self.render(
            "session.html",
            # The name alone: the URL of a store may have a password in it.
            backend=self.settings["session_backend"].partition(":")[0],
            age=self.sessions.now() - session.created,
            size=len(json_encode(dict(session))),
        )

"""What all pages have in common."""

from __future__ import annotations

from collections.abc import Iterable
from http.client import responses
from typing import Any

from tornado.web import HTTPError, StaticFileHandler

from example_app.cart import Cart
from example_app.catalogue import money
from example_app.times import ago, duration
from tornado_sessions import SessionMixin

# Everything comes from the shop itself, and nothing is written into the pages:
# neither styles nor scripts.
_POLICY = (
    "default-src 'none'; connect-src 'self'; form-action 'self'; img-src 'self';"
    " script-src 'self'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)

#: For how many seconds after a login the user may order, and see the devices. With
#: "remember me" somebody else may use the browser weeks later.
RECENT = 3600


class FileHandler(StaticFileHandler):
    """Serves the shop's own files, as what they are named and nothing else."""

    def set_default_headers(self) -> None:
        self.set_header("X-Content-Type-Options", "nosniff")


class BaseHandler(SessionMixin):
    """A page of the shop."""

    #: The sessions whose tabs are notified of a change, after the response.
    changed_sessions: Iterable[str] = ()

    def set_default_headers(self) -> None:
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("X-Content-Type-Options", "nosniff")

    async def prepare(self) -> None:
        self.settings["under_way"].begin(self)
        await super().prepare()
        if self.current_user:
            # So that the back button shows nothing after a sign-out.
            self.set_header("Cache-Control", "no-store")

    def on_finish(self) -> None:
        # The session is saved and the answer is out.
        self.settings["under_way"].end(self)
        # The cookie that the tabs ask with may be in this answer.
        for session_id in self.changed_sessions:
            self.settings["tabs"].tell(session_id)

    def get_template_namespace(self) -> dict[str, Any]:
        return super().get_template_namespace() | {
            "Cart": Cart,
            "ago": ago,
            "duration": duration,
            "money": money,
        }

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        # Not every request that fails has come as far as having a session,
        # so this page shows none.
        self.render(
            "error.html", status=status_code, reason=responses.get(status_code, "")
        )


class NotFoundHandler(BaseHandler):
    """Handles every URL without a page."""

    async def prepare(self) -> None:
        raise HTTPError(404)

"""The pages on which a visitor signs up, in and out."""

from __future__ import annotations

import datetime
import re
from collections.abc import Awaitable, Callable

from example_app.accounts import BusyError
from example_app.base import BaseHandler
from example_app.devices import describe
from example_app.times import duration

# A path on this site. Browsers read "//host" and "/\host" as another site,
# and leave out tabs and line ends before they look.
_local_path = re.compile(r"/(?![/\\])[!-\[\]-~]*").fullmatch

_name = re.compile(r"[a-z][a-z0-9._-]{1,29}").fullmatch

#: How many characters a new password has at the least.
LEAST = 8

#: After how many seconds it is worth to try again while many sign in.
BUSY = 2

#: How long "remember me" holds without a visit.
REMEMBERED = datetime.timedelta(days=30)


class FormHandler(BaseHandler):
    """A form with a name and a password, from which one goes on."""

    template: str
    #: What is said of a wrong password: nothing of which names there are.
    wrong: str
    #: Why the last session of this browser has ended.
    ended = ""

    def get(self) -> None:
        # Who is signed in already is to say once more that it is them.
        self.show(self.current_user or "")

    def show(self, name: str = "", problem: str = "") -> None:
        self.render(
            self.template,
            name=name,
            problem=problem,
            ended=self.ended,
            next=self.get_next(),
            least=LEAST,
        )

    def refuse(self, status: int, name: str, problem: str) -> None:
        self.set_status(status)
        self.show(name, problem)

    def get_form(self) -> tuple[str, str]:
        name = self.get_body_argument("name", "").lower()
        return name, self.get_body_argument("password", "", strip=False)

    def get_next(self) -> str:
        path = self.get_argument("next", "/")
        return path if _local_path(path) else "/"

    async def try_password(
        self, check: Callable[[str, str], Awaitable[bool]], name: str, password: str
    ) -> None:
        """Signs in with the right password, unless there were too many attempts."""
        guesses, address = self.settings["guesses"], self.request.remote_ip
        if wait := guesses.take(name, address):
            # The right password is not looked at either.
            self.set_header("Retry-After", wait)
            self.refuse(
                429, name, f"Too many tries. You can try again in {duration(wait)}."
            )
            return
        try:
            right = await check(name, password)
        except BusyError:
            guesses.give_back(name, address)
            self.set_header("Retry-After", BUSY)
            self.refuse(
                503,
                name,
                "Many people are signing in just now. Please try again in a moment.",
            )
            return
        if right:
            guesses.succeed(name, address)
            self.sign_in(name)
        else:
            self.refuse(403, name, self.wrong)

    def sign_in(self, name: str) -> None:
        # The cart stays. The id of the session does not, so that one which
        # somebody else has planted or seen is worth nothing from here on.
        self.session.login(name)
        self.session.label = describe(self.request.headers.get("User-Agent", ""))
        if self.get_body_argument("remember", ""):
            self.session.persistent = True
            self.session.set_expiry(idle=REMEMBERED, lifetime=REMEMBERED)
        self.session.flash(f"Welcome, {name}.", "success")
        self.redirect(self.get_next())


class LoginHandler(FormHandler):
    """Lets a visitor sign in, and go on where they were."""

    template = "login.html"
    wrong = "That name and password do not go together."

    async def prepare(self) -> None:
        with self.settings["endings"].watch() as ending:
            await super().prepare()
        self.ended = ending.text

    async def post(self) -> None:
        name, password = self.get_form()
        if _name(name):
            await self.try_password(self.settings["accounts"].check, name, password)
        else:
            # No account has such a name. It is not counted, as it may be long.
            self.refuse(403, name, self.wrong)


class SignupHandler(FormHandler):
    """Creates an account, and signs the user in.

    Without e-mail a form cannot completely hide which names exist: a new name
    creates an account. So an attempt counts here as it does in `LoginHandler`, and the
    response only says that the name and the password do not match.
    """

    template = "signup.html"
    wrong = "That name and password do not go together, or the name is taken."

    async def post(self) -> None:
        name, password = self.get_form()
        if not _name(name):
            self.refuse(
                400, name, "A name has 2 to 30 letters and digits, a letter first."
            )
        elif len(password) < LEAST:
            self.refuse(400, name, f"A password has {LEAST} characters or more.")
        else:
            await self.try_password(self.settings["accounts"].create, name, password)


class LogoutHandler(BaseHandler):
    """Ends the session, and with it the cart."""

    def post(self) -> None:
        self.changed_sessions = [self.session.id]
        self.session.logout()
        self.redirect(self.reverse_url("catalogue"))

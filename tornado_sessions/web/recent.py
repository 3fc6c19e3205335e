"""Asks for a recent sign-in, where a session alone is not enough."""

from __future__ import annotations

import datetime
import functools
import urllib.parse
from collections.abc import Callable
from typing import Any, TypeVar, cast

import tornado.web

from tornado_sessions.sessions import Sessions
from tornado_sessions.web.handler import SessionMixin

Method = TypeVar("Method", bound=Callable[..., Any])


def recent_login(max_age: float | datetime.timedelta) -> Callable[[Method], Method]:
    """Lets in whoever has signed in within the last ``max_age`` seconds.

    For what a session alone is not enough for, such as a change of the
    password::

        class PasswordHandler(SessionMixin):
            @recent_login(max_age=300)
            def get(self):
                self.render("password.html")

    Everybody else is sent where `tornado.web.authenticated` sends those who have
    not signed in at all: a GET or HEAD to the ``login_url``, with ``next``, and
    anything else gets 403. The time counts from `.Session.login`, also where it
    signs in who is signed in already: a login page that sends these on at once
    would send them back and forth. Raises `ValueError` for a ``max_age`` that is
    not more than zero, and `TypeError` where it was left out.
    """
    if callable(max_age):
        raise TypeError("Say of how many seconds: @recent_login(max_age=300)")
    if isinstance(max_age, datetime.timedelta):
        max_age = max_age.total_seconds()
    if not max_age > 0:
        raise ValueError(f"max_age={max_age!r} is to be more than zero seconds.")

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def wrapper(self: SessionMixin, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            since = self.session.auth_time
            if (
                since is not None
                and Sessions.of(self.application).now() < since + max_age
                and self.current_user
            ):
                return method(self, *args, **kwargs)
            if self.request.method not in ("GET", "HEAD"):
                raise tornado.web.HTTPError(
                    403, "the user has not signed in within the last %g s", max_age
                )
            url = self.get_login_url()
            if "?" not in url:
                here = self.request
                # A login page on another host has to know on which one to go on.
                # And where a path begins like this, browsers take it for a host.
                absolute = urllib.parse.urlsplit(url).scheme or (
                    here.path.startswith(("//", "/\\"))
                )
                target = here.full_url() if absolute else here.uri
                url += "?" + urllib.parse.urlencode({"next": target})
            self.redirect(url)
            return None

        return cast("Method", wrapper)

    return decorate

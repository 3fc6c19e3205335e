"""Puts the shop together."""

from __future__ import annotations

import os
from typing import Any

from tornado.web import Application

from example_app import handlers
from tornado_sessions import Sessions


def make_app(session_backend: str, cookie_secret: str) -> Application:
    """Makes the shop, and the page that counts visits.

    That page is an application of its own inside the shop: it wants a short
    idle timeout, which must not become that of the cart. A cookie and a
    namespace of its own keep the two sessions of a visitor apart.
    """
    here = os.path.dirname(__file__)
    settings: dict[str, Any] = {
        "template_path": os.path.join(here, "templates"),
        "static_path": os.path.join(here, "static"),
        "cookie_secret": cookie_secret,
        "session_backend": session_backend,
        "requests": set(),
    }
    views = Application(
        [(r"/views", handlers.ViewsHandler)],
        session_cookie_name="views",
        session_namespace="views",
        session_idle_timeout=60,
        **settings,
    )
    return Application(
        [
            (r"/", handlers.CatalogueHandler, {}, "catalogue"),
            (r"/product/([a-z-]+)", handlers.ProductHandler, {}, "product"),
            (r"/cart", handlers.CartHandler, {}, "cart"),
            (r"/checkout", handlers.CheckoutHandler, {}, "checkout"),
            (r"/order", handlers.OrderHandler, {}, "order"),
            (r"/login", handlers.LoginHandler, {}, "login"),
            (r"/logout", handlers.LogoutHandler, {}, "logout"),
            (r"/views", views),
        ],
        views=views,
        login_url="/login",
        xsrf_cookies=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
        default_handler_class=handlers.NotFoundHandler,
        **settings,
    )


def get_sessions(app: Application) -> list[Sessions]:
    """Answers the sessions of the shop and those of the page inside it.

    Raises `ValueError` or `.SessionError` where the settings cannot work.
    """
    return [Sessions.of(app), Sessions.of(app.settings["views"])]

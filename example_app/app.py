"""Puts the shop together."""

from __future__ import annotations

import os
from typing import Any

from tornado.web import Application

from example_app import base, curious, devices, live, shop, signing_in
from example_app.accounts import Accounts
from example_app.endings import Endings
from example_app.guesses import Guesses
from example_app.under_way import UnderWay
from tornado_sessions import Sessions


def make_app(
    session_backend: str,
    cookie_secret: str,
    accounts: Accounts,
    tabs: live.Tabs,
    **shop_settings: Any,
) -> Application:
    """Makes the shop, and the page that counts visits.

    ``shop_settings`` are those of the shop alone, such as its idle timeout.

    That page is an application of its own inside the shop: it wants a short
    idle timeout, which must not become that of the cart. A cookie and a
    namespace of its own keep the two sessions of a visitor apart.
    """
    here = os.path.dirname(__file__)
    settings: dict[str, Any] = {
        "template_path": os.path.join(here, "templates"),
        "static_path": os.path.join(here, "static"),
        "static_handler_class": base.FileHandler,
        "cookie_secret": cookie_secret,
        "session_backend": session_backend,
        "under_way": UnderWay(),
    }
    endings = Endings()
    views = Application(
        [(r"/views", curious.ViewsHandler)],
        session_cookie_name="views",
        session_namespace="views",
        session_idle_timeout=60,
        **settings,
    )
    return Application(
        [
            (r"/", shop.CatalogueHandler, {}, "catalogue"),
            (r"/product/([a-z-]+)", shop.ProductHandler, {}, "product"),
            (r"/cart", shop.CartHandler, {}, "cart"),
            (r"/checkout", shop.CheckoutHandler, {}, "checkout"),
            (r"/order", shop.OrderHandler, {}, "order"),
            (r"/login", signing_in.LoginHandler, {}, "login"),
            (r"/signup", signing_in.SignupHandler, {}, "signup"),
            (r"/logout", signing_in.LogoutHandler, {}, "logout"),
            (r"/devices", devices.DevicesHandler, {}, "devices"),
            (r"/session", curious.SessionHandler, {}, "session"),
            (r"/news", live.NewsHandler, {}, "news"),
            (r"/status", live.StatusHandler, {}, "status"),
            (r"/tab", live.TabHandler, {}, "tab"),
            (r"/views", views),
        ],
        views=views,
        accounts=accounts,
        guesses=Guesses(),
        endings=endings,
        session_listener=endings.listen,
        tabs=tabs,
        login_url="/login",
        session_cross_origin_protection=True,
        # The tokens are for browsers that do not say which site sends a form.
        xsrf_cookies=True,
        session_xsrf=True,
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Lax"},
        websocket_ping_interval=30,
        default_handler_class=base.NotFoundHandler,
        **settings,
        **shop_settings,
    )


def get_sessions(app: Application) -> list[Sessions]:
    """Returns the sessions of the shop and those of the page inside it.

    Raises `ValueError` or `.SessionError` if the settings are wrong.
    """
    return [Sessions.of(app), Sessions.of(app.settings["views"])]

"""Answers the requests: one short handler for each page."""

from __future__ import annotations

import asyncio
import re
import secrets
from http.client import responses
from typing import Any

from tornado.web import HTTPError, authenticated

from example_app.accounts import check_password
from example_app.cart import MOST, Cart
from example_app.catalogue import PRODUCTS, Product, money
from tornado_sessions import Session, SessionMixin

# A path on this site. Browsers read "//host" and "/\host" as another site,
# and leave out tabs and line ends before they look.
_local_path = re.compile(r"/(?![/\\])[!-\[\]-~]*").fullmatch


class BaseHandler(SessionMixin):
    """What all pages have in common."""

    def set_default_headers(self) -> None:
        self.set_header(
            "Content-Security-Policy",
            "default-src 'self'; form-action 'self'; frame-ancestors 'none'",
        )
        self.set_header("X-Content-Type-Options", "nosniff")

    async def prepare(self) -> None:
        # A shutdown waits for the requests that are being answered.
        if (task := asyncio.current_task()) is not None:
            self.settings["requests"].add(task)
            task.add_done_callback(self.settings["requests"].discard)
        await super().prepare()

    def get_template_namespace(self) -> dict[str, Any]:
        return super().get_template_namespace() | {"Cart": Cart, "money": money}

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        # Not every request that fails has come as far as having a session,
        # so this page shows none.
        self.render(
            "error.html", status=status_code, reason=responses.get(status_code, "")
        )


class CatalogueHandler(BaseHandler):
    """Shows what there is."""

    def get(self) -> None:
        self.render("catalogue.html", products=PRODUCTS.values())


class ProductHandler(BaseHandler):
    """Shows one product, and puts it in the cart."""

    def get(self, slug: str) -> None:
        self.render("product.html", product=get_product(slug), most=MOST)

    async def post(self, slug: str) -> None:
        product = get_product(slug)
        quantity = get_quantity(self.get_body_argument("quantity", "1"), least=1)

        # Adding depends on what is there already. Of two such requests at
        # once, a plain write would lose one; this is run against the newest
        # cart, so a double click puts two into it.
        def add(session: Session) -> None:
            cart = session.setdefault("cart", {})
            cart[slug] = min(cart.get(slug, 0) + quantity, MOST)
            session.flash(f"{product.name}: added to your cart.", "success")

        await self.session.transact(add)
        self.redirect(self.reverse_url("cart"))


class CartHandler(BaseHandler):
    """Shows the cart, and changes how many there are of a product."""

    def get(self) -> None:
        self.render("cart.html", cart=Cart.of(self.session), most=MOST)

    def post(self) -> None:
        product = get_product(self.get_body_argument("product"))
        quantity = get_quantity(self.get_body_argument("quantity"), least=0)

        # A number that the visitor sets does not depend on the old one, so
        # this is an ordinary write. That it happens inside of a dict is
        # noticed, and what another tab does to the cart meanwhile stays.
        cart = self.session.setdefault("cart", {})
        if quantity:
            cart[product.slug] = quantity
        else:
            cart.pop(product.slug, None)
            self.session.flash(f"{product.name}: removed.", "info")
        self.redirect(self.reverse_url("cart"))


class CheckoutHandler(BaseHandler):
    """Sums up the cart, and makes an order of it."""

    @authenticated
    def get(self) -> None:
        cart = Cart.of(self.session)
        if not cart.lines:
            self.redirect(self.reverse_url("cart"))
            return
        self.render("checkout.html", cart=cart)

    @authenticated
    async def post(self) -> None:
        number = secrets.token_hex(4).upper()

        # The second of two clicks finds the cart empty, and orders nothing.
        def place(session: Session) -> None:
            cart = Cart.of(session)
            if cart.lines:
                session["order"] = {
                    "number": number,
                    "lines": [
                        [line.product.name, line.quantity, line.price]
                        for line in cart.lines
                    ],
                    "price": cart.price,
                }
                del session["cart"]
                session.flash("Your order is placed.", "success")

        await self.session.transact(place)
        self.redirect(self.reverse_url("order"))


class OrderHandler(BaseHandler):
    """Shows the last order."""

    @authenticated
    def get(self) -> None:
        order = self.session.get("order")
        if order is None:
            self.redirect(self.reverse_url("catalogue"))
            return
        self.render("order.html", order=order)


class LoginHandler(BaseHandler):
    """Lets a visitor sign in, and go on where they were."""

    def get(self) -> None:
        self.render("login.html", name="", next=self.get_next(), failed=False)

    async def post(self) -> None:
        name = self.get_body_argument("name", "")
        password = self.get_body_argument("password", "", strip=False)
        if not await check_password(name, password):
            self.set_status(403)
            self.render("login.html", name=name, next=self.get_next(), failed=True)
            return

        # The cart stays. The id of the session does not, so that one which
        # somebody else has planted or seen is worth nothing from here on.
        self.session.login(name)
        self.session.flash(f"Welcome, {name}.", "success")
        self.redirect(self.get_next())

    def get_next(self) -> str:
        path = self.get_argument("next", "/")
        return path if _local_path(path) else "/"


class LogoutHandler(BaseHandler):
    """Ends the session, and with it the cart."""

    def post(self) -> None:
        self.session.logout()
        self.redirect(self.reverse_url("catalogue"))


class ViewsHandler(BaseHandler):
    """Counts visits until you stay away: the demo that every session library has."""

    def get(self) -> None:
        views = self.session["views"] = self.session.get("views", 0) + 1
        # What was left when this request came, which itself starts it anew.
        self.render("views.html", views=views, expires_in=self.session.expires_in)


class NotFoundHandler(BaseHandler):
    """Answers for whatever has no page."""

    async def prepare(self) -> None:
        raise HTTPError(404)


def get_product(slug: str) -> Product:
    if slug not in PRODUCTS:
        raise HTTPError(404)
    return PRODUCTS[slug]


def get_quantity(text: str, least: int) -> int:
    if not re.fullmatch("[0-9]{1,2}", text) or int(text) < least:
        raise HTTPError(400, "A quantity of %r", text)
    return int(text)

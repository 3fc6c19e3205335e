"""The pages of the shop: from the catalogue to an order."""

from __future__ import annotations

import re
import secrets

from tornado.web import HTTPError, authenticated

from example_app.base import RECENT, BaseHandler
from example_app.cart import MOST, Cart
from example_app.catalogue import PRODUCTS, Product
from tornado_sessions import Session, recent_login


class CatalogueHandler(BaseHandler):
    """Shows what there is, also while the store of the sessions is down."""

    session_optional = True

    def get(self) -> None:
        self.render("catalogue.html", products=PRODUCTS.values())


class ProductHandler(BaseHandler):
    """Shows one product, and puts it in the cart.

    While the store is down the page is shown, and an attempt to add is answered 503.
    """

    session_optional = True

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

        await self.session.transact(add)
        self.changed_sessions = [self.session.id]
        text = f"{product.name}: added to your cart."
        # The script of the pages shows the text where the visitor is. Without
        # it the next page does.
        if "application/json" in self.request.headers.get("Accept", ""):
            self.write({"quantity": Cart.of(self.session).quantity, "text": text})
        else:
            self.session.flash(text, "success")
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
        self.changed_sessions = [self.session.id]
        self.redirect(self.reverse_url("cart"))


class CheckoutHandler(BaseHandler):
    """Sums up the cart, and makes an order of it."""

    @recent_login(max_age=RECENT)
    def get(self) -> None:
        cart = Cart.of(self.session)
        if not cart.lines:
            self.redirect(self.reverse_url("cart"))
            return
        self.render("checkout.html", cart=cart)

    @recent_login(max_age=RECENT)
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
        self.changed_sessions = [self.session.id]
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


def get_product(slug: str) -> Product:
    if slug not in PRODUCTS:
        raise HTTPError(404)
    return PRODUCTS[slug]


def get_quantity(text: str, least: int) -> int:
    if not re.fullmatch("[0-9]{1,2}", text) or int(text) < least:
        raise HTTPError(400, "A quantity of %r", text)
    return int(text)

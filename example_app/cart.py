"""What is in a visitor's cart, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from example_app.catalogue import PRODUCTS, Product
from tornado_sessions import Session

#: How many of one product a cart takes.
MOST = 99


@dataclass(frozen=True)
class Line:
    product: Product
    quantity: int

    @property
    def price(self) -> int:
        return self.product.price * self.quantity


@dataclass(frozen=True)
class Cart:
    """A cart as the pages show it.

    The session itself keeps no more than ``{"umbrella": 2}``: names and
    prices are looked up, so that what changed meanwhile is right.
    """

    lines: list[Line]

    @classmethod
    def of(cls, session: Session) -> Cart:
        cart = session.get("cart", {})
        # A product that is sold no more is in old carts still.
        return cls(
            [Line(PRODUCTS[slug], cart[slug]) for slug in PRODUCTS if slug in cart]
        )

    @property
    def quantity(self) -> int:
        return sum(line.quantity for line in self.lines)

    @property
    def price(self) -> int:
        return sum(line.price for line in self.lines)

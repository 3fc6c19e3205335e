"""What the shop sells."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    slug: str
    name: str
    #: In cents: money is counted, not measured.
    price: int
    text: str


PRODUCTS = {
    product.slug: product
    for product in [
        Product("umbrella", "Storm umbrella", 3900, "Turns inside out, and back."),
        Product("barometer", "Brass barometer", 8950, "Knows before you do."),
        Product("weather-vane", "Weather vane", 6400, "A cockerel, in copper."),
        Product("rain-gauge", "Rain gauge", 1450, "Glass, in millimetres."),
        Product("wind-chimes", "Wind chimes", 2200, "Five tubes, tuned to G."),
        Product("anemometer", "Anemometer", 5275, "Counts up to force twelve."),
        Product("lantern", "Cellar lantern", 3150, "Burns for thirty hours."),
        Product("blanket", "Wool blanket", 7200, "For waiting it out."),
        Product("tea-flask", "Tea flask", 2499, "Hot for one whole night."),
        Product("notebook", "Field notebook", 995, "Can be written on in rain."),
        Product("kite", "Box kite", 1895, "Flies in force three to six."),
        Product("storm-glass", "Storm glass", 4625, "Grows crystals, and guesses."),
    ]
}


def money(cents: int) -> str:
    """Answers an amount as people read it."""
    return f"€{cents // 100:,}.{cents % 100:02}"

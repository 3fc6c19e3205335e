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
    details: str

    @property
    def picture(self) -> str:
        """The path of its picture among the static files."""
        return f"pictures/{self.slug}.svg"


PRODUCTS = {
    product.slug: product
    for product in [
        Product(
            "umbrella",
            "Storm umbrella",
            3900,
            "Turns inside out, and back.",
            "Eight ribs of fibreglass, which give where others break. The handle is"
            " of ash and long enough for two hands.",
        ),
        Product(
            "barometer",
            "Brass barometer",
            8950,
            "Knows before you do.",
            "An aneroid movement in solid brass, set by hand before it leaves us."
            " Hang it in the hall and tap it once every morning.",
        ),
        Product(
            "weather-vane",
            "Weather vane",
            6400,
            "A cockerel, in copper.",
            "Turns on a glass bearing in the faintest breeze. The copper is bright"
            " for a year, and green for the next hundred.",
        ),
        Product(
            "rain-gauge",
            "Rain gauge",
            1450,
            "Glass, in millimetres.",
            "Holds a whole bad week. The marks are etched, and so outlive the sun;"
            " the stake is of oak.",
        ),
        Product(
            "wind-chimes",
            "Wind chimes",
            2200,
            "Five tubes, tuned to G.",
            "Loud enough for the garden, soft enough for the neighbours. The"
            " clapper can be tied up for the nights that matter.",
        ),
        Product(
            "anemometer",
            "Anemometer",
            5275,
            "Counts up to force twelve.",
            "Three cups on a steel spindle. Above force nine you may want to read it"
            " from indoors.",
        ),
        Product(
            "lantern",
            "Cellar lantern",
            3150,
            "Burns for thirty hours.",
            "Paraffin, a cotton wick, and glass that does not mind a cold draught."
            " Lights a room well enough for cards.",
        ),
        Product(
            "blanket",
            "Wool blanket",
            7200,
            "For waiting it out.",
            "Two metres by one and a half of lambswool, woven where it rains most."
            " Choose by weight, not by colour: they all come mixed.",
        ),
        Product(
            "tea-flask",
            "Tea flask",
            2499,
            "Hot for one whole night.",
            "Three quarters of a litre in steel, with a cup that fits over the top."
            " Keeps soup just as well.",
        ),
        Product(
            "notebook",
            "Field notebook",
            995,
            "Can be written on in rain.",
            "Forty-eight leaves of stone paper, sewn. Pencil holds best; the pencil"
            " is included.",
        ),
        Product(
            "kite",
            "Box kite",
            1895,
            "Flies in force three to six.",
            "The shape that first carried thermometers into the sky. Cotton on ash"
            " spars, with a hundred metres of line.",
        ),
        Product(
            "storm-glass",
            "Storm glass",
            4625,
            "Grows crystals, and guesses.",
            "Camphor in spirit, sealed by a glassblower. Admiral FitzRoy trusted his."
            " We keep a barometer beside ours.",
        ),
    ]
}


def money(cents: int) -> str:
    """Returns an amount as a text for people."""
    return f"€{cents // 100:,}.{cents % 100:02}"

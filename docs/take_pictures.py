"""Takes the pictures of the shop that README.md and docs/shop.md show.

``make pictures`` does it; what it takes goes into ``docs/pictures``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from servers.browsing import Browser, Shop

FOLDER = Path(__file__).parent / "pictures"

PRODUCTS = ["storm-glass", "umbrella", "kite"]

PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Safari/604.1"
LAPTOP = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Firefox/140.0"


class Photographer:
    """Walks through the shop with a browser."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser = browser
        self.url = url

    def go(self, path: str) -> None:
        self.browser.get(self.url + path)

    def take(self, name: str, width: int, height: int, *, dark: bool = False) -> None:
        self.browser.look(width, height, dark=dark)
        self.browser.save_screenshot(str(FOLDER / f"{name}.png"))

    def fill_cart(self) -> None:
        for number, slug in enumerate(PRODUCTS, start=1):
            self.go(f"/product/{slug}")
            self.click("form[data-add] button")
            self.wait_for("#quantity", str(number))

    def enter(self, path: str, user_agent: str = "") -> None:
        """Signs up or in, as a browser of another name and with no cookies yet."""
        self.browser.forget()
        self.browser.pose_as(user_agent)
        self.go(path)
        self.browser.find_element(By.NAME, "name").send_keys("ada")
        self.browser.find_element(By.NAME, "password").send_keys("lovelace")
        self.browser.find_element(By.NAME, "remember").click()
        self.click(".fields button")
        self.wait_for(".flash", "Welcome, ada.")

    def click(self, selector: str) -> None:
        self.browser.find_element(By.CSS_SELECTOR, selector).click()

    def wait_for(self, selector: str, text: str) -> None:
        WebDriverWait(self.browser, 30).until(
            lambda _: text in self.browser.text_of(selector)
        )


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Shop() as shop,
        Browser(folder) as browser,
    ):
        visit = Photographer(browser, shop.url)
        visit.enter("/signup", LAPTOP)
        visit.enter("/login", PHONE)
        visit.enter("/login")
        visit.fill_cart()
        visit.go("/")
        visit.take("catalogue", 1280, 860)
        visit.take("phone", 360, 740, dark=True)
        visit.go("/cart")
        visit.take("cart", 1280, 680)
        visit.go("/devices")
        visit.take("devices", 1280, 680, dark=True)


if __name__ == "__main__":
    main()

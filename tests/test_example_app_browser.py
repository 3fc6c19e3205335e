"""Tests of the shop in a browser: in Chromium, on three backends."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import tempfile
import threading
import unittest
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from example_app.guesses import TRIES
from servers.browsing import Browser, Shop
from servers.processes import Server

#: How many seconds a page has to come to what is awaited, on a busy machine.
PATIENCE = 30

MONGODB = os.environ.get("SESSIONS_TEST_MONGODB_URL")
REDIS = os.environ.get("SESSIONS_TEST_REDIS_URL")

needs_browser = unittest.skipUnless(
    os.environ.get("SESSIONS_TEST_CHROMIUM"), "SESSIONS_TEST_CHROMIUM is not set."
)

T = TypeVar("T")

if TYPE_CHECKING:
    _Case = unittest.TestCase
else:
    _Case = object


class Page(Server):
    """A program of the documentation, on another port than it says."""

    scheme = "http"

    def __init__(self, program: str) -> None:
        super().__init__()
        self._text = program

    def _program(self) -> str:
        return sys.executable

    def _arguments(self, folder: Path) -> list[str]:
        program = folder / "program.py"
        text = self._text.replace("8888", str(self.port))
        program.write_text(text.replace("sessions.db", f"{folder}/sessions.db"))
        return [str(program)]


class Visitor:
    """Somebody with a browser, who waits for what is to come."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser = browser
        self.url = url

    def go(self, path: str) -> None:
        self.browser.get(self.url + path)

    def find(self, selector: str) -> WebElement:
        return self.until(
            lambda: self.browser.find_element(By.CSS_SELECTOR, selector), selector
        )

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def type(self, selector: str, text: str) -> None:
        """Types ``text`` in place of what is in a field."""
        self.find(selector).send_keys(Keys.CONTROL, "a", Keys.NULL, text)

    def read(self, selector: str) -> str:
        return self.until(lambda: self.browser.text_of(selector), selector)

    def expect(self, selector: str, text: str) -> None:
        """Waits until an element says ``text``, however often the page is new."""
        self.until(
            lambda: text in self.browser.text_of(selector), f"{text!r} in {selector}"
        )

    def expect_products(self, number: int) -> None:
        self.expect("#quantity", str(number))

    def expect_path(self, path: str) -> None:
        self.until(lambda: self.browser.current_url == self.url + path, path)

    def add(self, slug: str) -> None:
        self.click(f"form[action='/product/{slug}'] button")

    def sign_up(self, *, remember: bool = False) -> str:
        """Returns the name, which is unique."""
        name = f"ada-{secrets.token_hex(4)}"
        self.go("/signup")
        self.fill_in(name, remember=remember)
        self.expect(".flash", f"Welcome, {name}.")
        return name

    def fill_in(self, name: str, *, remember: bool = False) -> None:
        self.find("input[name=name]").send_keys(name)
        self.find("input[name=password]").send_keys("lovelace")
        if remember:
            self.click("input[name=remember]")
        self.click(".fields button")

    def until(self, condition: Callable[[], T], what: str) -> T:
        """Returns the result of ``condition``, once it is true.

        The driver has many words for a page that goes while it is looked at;
        whatever it says, what is awaited may come with the next page.
        """
        last: WebDriverException | None = None

        def look(_: object) -> T | Literal[False]:
            nonlocal last
            try:
                return condition()
            except WebDriverException as error:
                last = error
                return False

        try:
            return WebDriverWait(self.browser, PATIENCE, 0.05).until(look)
        except TimeoutException:
            raise AssertionError(f"Waited {PATIENCE} s for {what}.") from last


@contextlib.contextmanager
def serving(page: str, host: str) -> Iterator[str]:
    """Serves ``page`` to a browser, and yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{host}:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class ShopInBrowser(_Case):
    """Tests of the shop in a browser. All tests use one shop and one browser."""

    backend: ClassVar[str | None] = None
    shop: ClassVar[Shop]
    browser: ClassVar[Browser]
    visitor: Visitor

    @classmethod
    def setUpClass(cls) -> None:
        cls.shop = Shop(cls.backend)
        cls.shop.start()
        cls.addClassCleanup(cls.shop.stop)
        cls.browser = cls.open_browser(cls.addClassCleanup)

    @classmethod
    def open_browser(
        cls, cleanup: Callable[..., object], folder: str | None = None
    ) -> Browser:
        if folder is None:
            own = tempfile.TemporaryDirectory(prefix="browser-")
            cleanup(own.cleanup)
            folder = own.name
        browser = Browser(folder)
        cleanup(browser.quit)
        return browser

    def setUp(self) -> None:
        self.browser.forget()
        self.browser.look(1280, 900)
        self.visitor = Visitor(self.browser, self.shop.url)
        self.visitor.go("/")

    def tearDown(self) -> None:
        self.browser.switch_to.window(self.browser.window_handles[0])
        for other in self.browser.window_handles[1:]:
            self.browser.switch_to.window(other)
            self.browser.close()
        self.browser.switch_to.window(self.browser.window_handles[0])
        # A page that is left, or whose shop is shut, loses its line to it.
        complaints = [
            line for line in self.browser.complaints() if "WebSocket" not in line
        ]
        self.assertEqual(complaints, [])

    def open_tab(self, path: str = "/") -> str:
        """Returns the tab that was in front before."""
        before = self.browser.current_window_handle
        self.browser.switch_to.new_window("tab")
        self.visitor.go(path)
        return before

    def test_a_visitor_buys_something(self) -> None:
        """From the catalogue to an order, by way of an account."""
        visitor = self.visitor
        self.browser.execute_script("window.mark = 'the same page'")
        visitor.add("kite")
        visitor.expect_products(1)
        visitor.expect("#toast", "Box kite: added to your cart.")
        self.assertEqual(
            self.browser.execute_script("return window.mark"), "the same page"
        )

        visitor.go("/product/umbrella")
        visitor.type("input[name=quantity]", "2")
        visitor.click("form[data-add] button")
        visitor.expect_products(3)
        self.browser.refresh()
        visitor.expect_products(3)

        visitor.click("nav .cart")
        visitor.expect(".total", "€96.95")
        visitor.click("a.wide")
        visitor.expect_path("/login?next=%2Fcheckout")
        visitor.click("a[href^='/signup']")
        visitor.expect("h1", "Make an account")
        visitor.fill_in(f"ada-{secrets.token_hex(4)}")
        visitor.expect_path("/checkout")
        visitor.expect("tfoot", "€96.95")
        visitor.click("main form button")
        visitor.expect_path("/order")
        visitor.expect(".flash", "Your order is placed.")
        visitor.expect_products(0)

        self.assertRegex(visitor.read("strong.code"), "^[0-9A-F]{8}$")

    def test_a_quantity_is_changed_where_it_stands(self) -> None:
        """A new number is sent without a click, and zero takes the product out."""
        visitor = self.visitor
        visitor.add("kite")
        visitor.expect_products(1)
        visitor.go("/cart")
        # The page that is left may show the new number before the next one does.
        for number, text in (("4", "€75.80"), ("0", "There is nothing in it yet.")):
            visitor.type("input[type=number]", number + Keys.TAB)
            visitor.expect("main", text)
            visitor.expect_products(int(number))

    def test_the_cart_survives_a_restart_of_the_shop(self) -> None:
        """The same browser finds what it had put into it."""
        self.visitor.add("kite")
        self.visitor.expect_products(1)
        self.shop.restart()

        self.visitor.go("/cart")
        self.visitor.expect(".lines", "Box kite")
        # The page was told that it could not reach the shop meanwhile.
        self.browser.complaints()

    def test_a_double_click_adds_two(self) -> None:
        """Though the first of them begins the session, and neither waits."""
        button = self.visitor.find("form[action='/product/kite'] button")
        ActionChains(self.browser).double_click(button).perform()

        self.visitor.expect_products(2)
        self.browser.refresh()
        self.visitor.expect_products(2)

    def test_two_tabs_show_the_same_cart(self) -> None:
        """What one adds the other shows by itself, from the first product on."""
        first = self.open_tab()
        self.visitor.add("kite")
        self.visitor.expect_products(1)
        second = self.browser.current_window_handle
        self.browser.switch_to.window(first)
        self.visitor.expect_products(1)

        self.visitor.add("umbrella")
        self.visitor.expect_products(2)
        self.browser.switch_to.window(second)
        self.visitor.expect_products(2)

    def test_going_back_shows_the_cart_as_it_is(self) -> None:
        """Though the page is the one from before, when there was no session."""
        self.visitor.click("a[href='/product/kite']")
        self.visitor.click("form[data-add][method] button")
        self.visitor.expect_products(1)
        self.browser.back()

        self.visitor.expect("h1", "Everything for bad weather")
        self.visitor.expect_products(1)

    def test_signing_out_in_another_window_is_noticed(self) -> None:
        """The window that was left behind shows nothing of the account any more."""
        name = self.visitor.sign_up()
        self.visitor.expect("nav", name)
        first = self.open_tab()
        self.visitor.expect("nav", name)
        self.visitor.click("form[action='/logout'] button")
        self.visitor.expect("nav", "Sign in")

        self.browser.switch_to.window(first)
        self.visitor.expect("nav", "Sign in")

    def test_another_browser_is_signed_out_from_this_one(self) -> None:
        """It is there in the list, and shows by itself that it is signed out."""
        name = self.visitor.sign_up()
        other = Visitor(self.open_browser(self.addCleanup), self.shop.url)
        other.go("/login?next=/product/kite")
        other.fill_in(name)
        other.expect("nav", name)
        self.visitor.go("/devices")
        if self.backend == "cookie":
            self.assertIn("The shop cannot tell", self.visitor.read("main"))
            return
        self.visitor.expect(".devices", "Chrome on")
        self.visitor.click(".devices form button")
        self.visitor.expect(".flash", "Signed out there.")

        other.expect("nav", "Sign in")

    def test_closing_the_browser_signs_out_unless_remembered(self) -> None:
        """Behaviour 51: one cookie ends with the browser, the other one stays."""
        folder = tempfile.TemporaryDirectory(prefix="browser-")
        self.addCleanup(folder.cleanup)

        first = Visitor(self.open_browser(self.addCleanup, folder.name), self.shop.url)
        first.sign_up()
        first.browser.quit()

        again = Visitor(self.open_browser(self.addCleanup, folder.name), self.shop.url)
        again.go("/")
        again.expect("nav", "Sign in")
        name = again.sign_up(remember=True)
        again.browser.quit()

        last = Visitor(self.open_browser(self.addCleanup, folder.name), self.shop.url)
        last.go("/")
        last.expect("nav", name)

    def test_two_browsers_have_two_carts(self) -> None:
        """Neither sees what is in the other one's."""
        other = Visitor(self.open_browser(self.addCleanup), self.shop.url)
        other.go("/")
        other.add("lantern")
        other.expect_products(1)
        self.visitor.add("kite")
        self.visitor.expect_products(1)

        for visitor, product in ((self.visitor, "Box kite"), (other, "Cellar lantern")):
            visitor.go("/cart")
            self.assertEqual(visitor.read(".lines h2"), product)

    def test_the_keyboard_is_enough(self) -> None:
        """The first stop leads to the content, and Enter puts into the cart."""
        body = self.visitor.find("body")
        body.send_keys(Keys.TAB)
        self.assertEqual(self.focused().get_attribute("class"), "skip")
        self.focused().send_keys(Keys.ENTER)
        self.assertEqual(self.focused().get_attribute("id"), "content")
        for _ in range(2):
            self.focused().send_keys(Keys.TAB)
        self.assertEqual(
            self.focused().get_attribute("aria-label"), "Add Storm umbrella to the cart"
        )
        self.focused().send_keys(Keys.ENTER)

        self.visitor.expect_products(1)

    def test_every_page_fits_a_phone_and_names_its_parts(self) -> None:
        """At 360 px nothing has to be scrolled sideways, in light or in dark."""
        visitor = self.visitor
        visitor.sign_up()
        visitor.go("/product/barometer")
        for _ in range(2):
            visitor.click("form[data-add] button")
        visitor.expect_products(2)
        for path in self.pages:
            for dark in (False, True):
                self.browser.look(360, 740, dark=dark)
                visitor.go(path)
                with self.subTest(path=path, dark=dark):
                    self.assertEqual(self.browser.execute_script(_FAULTS), [])

    pages: ClassVar = [
        *["/", "/product/anemometer", "/cart", "/checkout", "/devices", "/session"],
        *["/views", "/login", "/signup"],
    ]

    def focused(self) -> WebElement:
        return self.browser.switch_to.active_element


# What is wrong with a page, as far as it can be measured.
_FAULTS = """
const page = document.documentElement;
const fields = [...document.querySelectorAll("input:not([type=hidden])")];
const small = [...document.querySelectorAll("main button, main .button")]
  .filter((button) => button.getBoundingClientRect().height < 24);
return [
  ...(page.scrollWidth > 360 ? [`${page.scrollWidth} px wide`] : []),
  ...(document.querySelectorAll("h1").length === 1 ? [] : ["not one heading"]),
  ...(page.lang === "en" ? [] : ["no language"]),
  ...fields.filter((field) => !field.labels.length && !field.ariaLabel),
  ...document.querySelectorAll("img:not([alt])"),
  ...small,
].map((fault) => fault.outerHTML ?? fault);
"""


@needs_browser
class SQLiteBrowserTest(ShopInBrowser, unittest.TestCase):
    """In a file, as ``make demo`` has it."""

    def test_without_scripts_everything_works_a_page_at_a_time(self) -> None:
        """Adding leads to the cart, and the rest is forms and links as well."""
        folder = tempfile.TemporaryDirectory(prefix="browser-")
        self.addCleanup(folder.cleanup)
        browser = Browser(folder.name, scripts=False)
        self.addCleanup(browser.quit)
        visitor = Visitor(browser, self.shop.url)

        visitor.go("/")
        visitor.add("kite")
        visitor.expect_path("/cart")
        visitor.expect(".flash", "Box kite: added to your cart.")
        visitor.type("input[type=number]", "3")
        visitor.click("button.second")
        visitor.expect_products(3)
        visitor.click("a.wide")
        visitor.click("a[href^='/signup']")
        visitor.expect("h1", "Make an account")
        visitor.fill_in(f"ada-{secrets.token_hex(4)}")
        visitor.expect("tfoot", "€56.85")
        visitor.click("main form button")
        visitor.expect(".flash", "Your order is placed.")

    def test_a_form_of_another_site_is_refused(self) -> None:
        """Behaviour 91: also of another port of the host, to which cookies are sent."""
        self.visitor.add("kite")
        self.visitor.expect_products(1)
        page = f"""<!doctype html><title>A prize</title><link rel=icon href="data:,">
            <form method=post action="{self.shop.url}/product/kite"><button>"""
        for host in ("localhost", "127.0.0.1"):
            with serving(page, host) as elsewhere:
                self.browser.get(elsewhere)
                self.visitor.click("button")
                self.visitor.expect("h1", "403 Forbidden")
            (complaint,) = self.browser.complaints()
            self.assertIn("403", complaint)

            self.visitor.go("/cart")
            self.visitor.expect_products(1)

    def test_the_forms_of_the_shop_need_no_token(self) -> None:
        """Behaviour 91: the browser says that they are the shop's own."""
        self.visitor.go("/signup")
        self.visitor.find("input[name=_xsrf]")
        self.browser.execute_script(
            "document.querySelectorAll('input[name=_xsrf]').forEach((e) => e.remove())"
        )
        name = f"ada-{secrets.token_hex(4)}"
        self.visitor.fill_in(name)

        self.visitor.expect(".flash", f"Welcome, {name}.")

    def test_whoever_is_away_is_warned_and_then_signed_out(self) -> None:
        """A click on the button gives the whole time again, and asking gives none."""
        shop = Shop(None, "--session-idle-timeout=24")
        shop.start()
        self.addCleanup(shop.stop)
        visitor = Visitor(self.browser, shop.url)
        name = visitor.sign_up()
        visitor.go("/product/kite")
        self.browser.execute_script("window.mark = 'the same page'")
        visitor.expect("#warning", "You will be signed out in less than a minute.")
        visitor.click("#warning button")
        visitor.until(lambda: not self.browser.text_of("#warning"), "no warning")
        self.assertIn(name, visitor.read("nav"))
        self.assertEqual(
            self.browser.execute_script("return window.mark"), "the same page"
        )

        visitor.expect("#warning", "You will be signed out in less than a minute.")
        visitor.expect("nav", "Sign in")
        visitor.go("/login")
        visitor.expect(".flash", "You were signed out because you had been away")

    def test_the_page_that_the_documentation_shows_warns_as_well(self) -> None:
        """As docs/idle-warning.md has it, with shorter times."""
        shown = (Path(__file__).parent.parent / "docs/idle-warning.md").read_text()
        (program,) = re.findall(
            r"^```python\n(import asyncio\n.*?)^```$", shown, re.MULTILINE | re.DOTALL
        )
        for long, short in (("15 * 60", "24"), ("> 120", "> 12"), ("- 120", "- 12")):
            self.assertEqual(program.count(long), 1)
            program = program.replace(long, short)
        page = Page(program)
        page.start()
        self.addCleanup(page.stop)
        visitor = Visitor(self.browser, page.url)
        visitor.go("/login")
        visitor.type("input[name=name]", "ada")
        visitor.click("button")
        visitor.expect("#warning", "You will be signed out in 1 min.")
        visitor.click("#warning button")
        visitor.until(lambda: not self.browser.text_of("#warning"), "no warning")

        visitor.expect("#warning", "You will be signed out in 1 min.")
        visitor.expect("button", "Sign in")
        # The program has no icon.
        self.browser.complaints()

    def test_whoever_guesses_a_password_is_told_to_wait(self) -> None:
        """The form comes back with the name, and says for how long."""
        name = self.visitor.sign_up()
        self.browser.forget()
        self.visitor.go("/login")
        for _ in range(TRIES + 1):
            # Mark the page, to know when it is another one.
            self.browser.execute_script("document.body.id = 'old'")
            self.visitor.type("input[name=name]", name)
            self.visitor.type("input[name=password]", "a wrong one")
            self.visitor.click(".fields button")
            self.visitor.find("body:not(#old) .flash.error")
        refused = self.browser.complaints()

        self.visitor.expect(".flash", "Too many tries. You can try again in 14 minutes")
        field = self.visitor.find("input[name=name]")
        self.assertEqual(field.get_attribute("value"), name)
        self.assertEqual(len(refused), TRIES + 1)
        self.assertIn("429", refused[-1])


@needs_browser
@unittest.skipUnless(MONGODB, "SESSIONS_TEST_MONGODB_URL is not set.")
class MongoDBBrowserTest(ShopInBrowser, unittest.TestCase):
    """On a server."""

    backend = MONGODB


@needs_browser
@unittest.skipUnless(REDIS, "SESSIONS_TEST_REDIS_URL is not set.")
class RedisBrowserTest(ShopInBrowser, unittest.TestCase):
    """On a server that ends sessions by itself."""

    backend = REDIS


@needs_browser
class CookieBrowserTest(ShopInBrowser, unittest.TestCase):
    """In the browser itself."""

    backend = "cookie"

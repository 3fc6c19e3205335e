"""The shop as a server of its own, and a browser to look at it with."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from servers.processes import Server
from servers.programs import find

# Selenium would go through a proxy even to the driver, which is on this machine.
_HERE = ["localhost", "127.0.0.1", os.environ.get("no_proxy", "")]
os.environ["no_proxy"] = ",".join(filter(None, _HERE))

_OPTIONS = [
    *["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic"],
    *["--no-first-run", "--disable-background-networking"],
    *["--disable-component-update", "--disable-sync", "--hide-scrollbars"],
    # Chromium would crash with the small /dev/shm of containers.
    "--disable-dev-shm-usage",
]

_TEXT = """
const element = document.querySelector(arguments[0]);
const whole = {opacityProperty: true, visibilityProperty: true};
return element?.checkVisibility(whole) ? element.innerText : "";
"""


class Shop(Server):
    """The example application, with the sessions in ``backend``.

    None is for a SQLite file. What it keeps stays until it is stopped.
    """

    scheme = "http"

    def __init__(self, backend: str | None = None, *options: str) -> None:
        super().__init__(*options)
        self._backend = backend

    def restart(self) -> None:
        """Has the shop end by itself, as a supervisor does, and opens it again."""
        assert self._process is not None
        self._signal(signal.SIGTERM)
        code = self._process.wait(timeout=30)
        if code != 0:
            raise RuntimeError(f"The shop has ended with {code}.")
        self.start()

    def _program(self) -> str:
        return sys.executable

    def _arguments(self, folder: Path) -> list[str]:
        return [
            *["-m", "example_app", "--address=127.0.0.1", f"--port={self.port}"],
            f"--session-backend={self._backend or f'sqlite:///{folder}/sessions.db'}",
            f"--accounts-file={folder}/accounts.db",
            f"--cookie-secret-file={folder}/secret",
        ]


class Browser(Chrome):
    """Chromium without a window, which keeps its cookies in ``folder``.

    There it finds those of an earlier one, as far as they were to be kept.
    Without ``scripts`` it runs none.
    """

    def __init__(self, folder: str, *, scripts: bool = True) -> None:
        options = ChromeOptions()
        options.binary_location = find("chromium")
        for option in [*_OPTIONS, f"--user-data-dir={folder}"]:
            options.add_argument(option)
        setting = "profile.managed_default_content_settings.javascript"
        options.add_experimental_option("prefs", {setting: 1 if scripts else 2})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # As its path is given, no driver is looked for elsewhere.
        super().__init__(options, ChromeService(find("chromedriver")))

    def complaints(self) -> list[str]:
        """Returns the messages of the console since the last call."""
        log = self.execute("getLog", {"type": "browser"})["value"]
        return [entry["message"] for entry in log]

    def text_of(self, selector: str) -> str:
        """Returns the text of an element; empty if there is none.

        In one step: between finding and reading, the page may have gone.
        """
        text: str = self.execute_script(_TEXT, selector)
        return text

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Shows pages as a screen of so many pixels does."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._do("Emulation.setEmulatedMedia", features=[scheme])
        self._do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def pose_as(self, user_agent: str) -> None:
        """Calls itself otherwise from here on; with an empty text, as before."""
        self._do("Network.setUserAgentOverride", userAgent=user_agent)

    def forget(self) -> None:
        """Drops all cookies."""
        self._do("Network.clearBrowserCookies")

    def _do(self, command: str, **arguments: Any) -> None:
        self.execute_cdp_cmd(command, arguments)

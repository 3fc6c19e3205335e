"""A browser as far as the routes of a peer need one: it keeps cookies."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from benchmarks.load import BrokenError
from benchmarks.values import VALUES

#: How many requests are sent to one session at once.
PARALLEL = 50

# Seconds to wait for an answer.
_TIMEOUT = 30.0


class Browser:
    """Requests the routes of a server, all of them with the same cookies."""

    def __init__(self, urls: dict[str, str]) -> None:
        self._urls = urls
        self._cookies: dict[str, str] = {}

    @property
    def cookie(self) -> str:
        """The header with all cookies."""
        return "; ".join(f"{name}={value}" for name, value in self._cookies.items())

    def get(self, route: str) -> str:
        """Returns the body of an answer; raises `BrokenError` if that is an error."""
        (status,), (body,) = self._get([self._urls[route]])
        if status != 200:
            raise BrokenError(f"{route} answers {status}: {body[:200]!r}")
        return body

    def values(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.get("values"))
        return values

    def get_at_once(self, route: str, queries: Sequence[str]) -> None:
        """Sends all requests before it reads an answer. Errors are no concern."""
        self._get([self._urls[route] + query for query in queries])

    def _get(self, urls: Sequence[str]) -> tuple[list[int], list[str]]:
        parts = [urlsplit(url) for url in urls]
        connections = [
            http.client.HTTPConnection(part.netloc, timeout=_TIMEOUT) for part in parts
        ]
        headers = {"Cookie": self.cookie} if self._cookies else {}
        try:
            for connection in connections:
                connection.connect()
            for connection, part in zip(connections, parts, strict=True):
                target = part.path + (f"?{part.query}" if part.query else "")
                connection.request("GET", target, headers=headers)
            answers = [connection.getresponse() for connection in connections]
            bodies = [answer.read().decode() for answer in answers]
        except (OSError, http.client.HTTPException) as error:
            raise BrokenError(f"{urls[0]} does not answer: {error!r}") from error
        finally:
            for connection in connections:
                connection.close()
        for answer in answers:
            for line in answer.headers.get_all("Set-Cookie", ()):
                name, _, value = line.partition(";")[0].strip().partition("=")
                self._cookies[name] = value
        return [answer.status for answer in answers], bodies


def begin(urls: dict[str, str], route: str = "fill") -> Browser:
    """Returns a browser that has begun a session."""
    browser = Browser(urls)
    browser.get(route)
    return browser


def check(urls: dict[str, str]) -> None:
    """Raises `BrokenError` if the routes do not do what they are measured for."""
    browser = begin(urls)
    for route in ("bare", "untouched"):
        _expect(browser.get(route), "hello", route)
    _expect(browser.get("read"), VALUES["key5"], "read")
    counts = []
    for _ in range(2):
        _expect(browser.get("write"), "hello", "write")
        values = browser.values()
        _expect({key: values.get(key) for key in VALUES}, VALUES, "values")
        counts.append(values.get("count"))
    if counts[0] == counts[1] or len(str(counts[1])) != 7:
        raise BrokenError(f"write has set the counts {counts!r}")


def _expect(actual: object, expected: object, route: str) -> None:
    if actual != expected:
        raise BrokenError(f"{route} answers {actual!r:.200}")


def kept_counts(urls: dict[str, str]) -> int:
    """Returns how many of parallel increments of a number survive."""

    def count(values: dict[str, Any]) -> int:
        return int(values.get("n", 0))

    return _kept(urls, "counter", [""] * PARALLEL, count)


def kept_keys(urls: dict[str, str]) -> int:
    """Returns how many keys survive that are set by parallel requests, one each."""
    keys = [f"k{n}" for n in range(PARALLEL)]

    def count(values: dict[str, Any]) -> int:
        return sum(key in values for key in keys)

    return _kept(urls, "keys", [f"?key={key}" for key in keys], count)


def _kept(
    urls: dict[str, str],
    route: str,
    queries: Sequence[str],
    count: Callable[[dict[str, Any]], int],
) -> int:
    browser = begin(urls)
    browser.get_at_once(route, queries)
    return count(browser.values())

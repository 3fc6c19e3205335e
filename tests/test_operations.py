"""Tests that no change adds an operation: to each route, on each store, exactly.

They count, and measure no time, so that the numbers are the same on every machine.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from tests.counting import Client, CountedVault, Counts, Meter
from tornado_sessions import Session, SessionMixin, Sessions
from tornado_sessions.storage.backend import Backend
from tornado_sessions.storage.registry import open_backend

#: What each route does, above a bare handler. In parallel it is the sum of all.
#:
#: calls: of the methods of the backend. A cookie has none: of those of its vault.
#: messages: to the server of the store, each one call of the operating system.
#: hops: results that threads deliver to the event loop.
#: tasks: of asyncio, also those that start eagerly and have ended at once.
#: callbacks: that the event loop is given. Not before Python 3.12, where tasks do not
#:     start eagerly, and each takes one more.
#: headers: bytes of the response's headers.
#: stored: bytes of the records that a backend has stored.
#:
#: "~" is not compared: it depends on when replies arrive.
EXPECTED = """
route               calls                         messages  hops  tasks  callbacks  headers  stored

memory
no cookie           -                                    0     0      0          0        0       0
untouched           load 1                               0     0      0          0        0       0
read                load 1                               0     0      0          0       14       0
read, renewal due   load 1, replace 1                    0     0      1          0       14     379
read, signed in     load 1                               0     0      0          0       14       0
write               load 1, replace 1                    0     0      1          0       14     395
write, signed in    load 1, replace 1                    0     0      1          0       14     441
write, first        insert 1                             0     0      1          0      136     379
transact            load 2, replace 1                    0     0      0          0       14     395
login, first        insert 1                             0     0      1          0      136     176
login               insert 1, load 1, replace 1          0     0      2          0      136     607
regenerate          insert 1, load 1, replace 1          0     0      2          0      136     628
destroy             delete 1, load 1, replace 1          0     0      1          0      143      79
32 writes to one    load 32, replace 32                  0     0     32          0      448   12640
32 writes to 32     load 32, replace 32                  0     0     32          0      448   12640

cookie
no cookie           -                                    0     0      0          0        0       0
untouched           load 1                               0     0      0          0        0       0
read                load 1                               0     0      0          0       14       0
read, renewal due   load 1, save 1                       0     0      1          0      665       0
read, signed in     load 1                               0     0      0          0       14       0
write               load 1, save 1                       0     0      1          0      665       0
write, signed in    load 1, save 1                       0     0      1          0      793       0
write, first        save 1                               0     0      1          0      665       0
transact            load 2, save 1                       0     0      0          0      665       0
login, first        save 1                               0     0      1          0      537       0
login               load 1, save 1                       0     0      2          0      793       0
regenerate          load 1, save 1                       0     0      2          0      793       0
destroy             delete 1, load 1                     0     0      1          0      143       0
32 writes to one    load 32, save 32                     0     0     32          0    21280       0
32 writes to 32     load 32, save 32                     0     0     32          0    21280       0

sqlite
no cookie           -                                    0     0      0          0        0       0
untouched           load 1                               0     1      0          1        0       0
read                load 1                               0     1      0          1       14       0
read, renewal due   load 1, replace 1                    0     2      1          4       14     379
read, signed in     load 1                               0     1      0          1       14       0
write               load 1, replace 1                    0     2      1          4       14     395
write, signed in    load 1, replace 1                    0     2      1          4       14     441
write, first        insert 1                             0     1      1          3      136     379
transact            load 2, replace 1                    0     3      0          3       14     395
login, first        insert 1                             0     1      1          3      136     176
login               insert 1, load 1, replace 1          0     3      2          9      136     607
regenerate          insert 1, load 1, replace 1          0     3      2          9      136     628
destroy             delete 1, load 1, replace 1          0     3      1          5      143      79
32 writes to one    load 32, replace 2                   0     3     34        136      448     790
32 writes to 32     load 32, replace 32                  0     2     34        136      448   12640

memcached
no cookie           -                                    0     0      0          ~        0       0
untouched           load 1                               1     0      0          ~        0       0
read                load 1                               1     0      0          ~       14       0
read, renewal due   load 1, replace 1                    2     0      1          ~       14     379
read, signed in     load 2                               2     0      0          ~       14       0
write               load 1, replace 1                    2     0      1          ~       14     395
write, signed in    load 2, replace 1                    3     0      1          ~       14     441
write, first        insert 1                             1     0      1          ~      136     379
transact            load 2, replace 1                    3     0      0          ~       14     395
login, first        insert 2, load 2                     4     0      1          ~      136     275
login               insert 2, load 3, replace 1          6     0      2          ~      136     706
regenerate          insert 1, load 2, replace 1          4     0      2          ~      136     628
destroy             delete 1, load 2, replace 1          4     0      1          ~      143      79
32 writes to one    ~                                    ~     0      ~          ~      448       ~
32 writes to 32     load 32, replace 32                  ~     0     32          ~      448   12640

redis
no cookie           -                                    0     0      0          ~        0       0
untouched           load 1                               1     0      0          ~        0       0
read                load 1                               1     0      0          ~       14       0
read, renewal due   load 1, replace 1                    2     0      1          ~       14     379
read, signed in     load 1                               1     0      0          ~       14       0
write               load 1, replace 1                    2     0      1          ~       14     395
write, signed in    load 1, replace 1                    2     0      1          ~       14     441
write, first        insert 1                             1     0      1          ~      136     379
transact            load 2, replace 1                    3     0      0          ~       14     395
login, first        insert 1                             1     0      1          ~      136     176
login               insert 1, load 1, replace 1          3     0      2          ~      136     607
regenerate          insert 1, load 1, replace 1          3     0      2          ~      136     628
destroy             delete 1, load 1, replace 1          4     0      1          ~      143      79
32 writes to one    load 32, replace 2                   3     0     34          ~      448     790
32 writes to 32     load 32, replace 32                  2     0     34          ~      448   12640

postgresql
no cookie           -                                    0     0      0          ~        0       0
untouched           load 1                               1     0      0          ~        0       0
read                load 1                               1     0      0          ~       14       0
read, renewal due   load 1, replace 1                    2     0      1          ~       14     379
read, signed in     load 1                               1     0      0          ~       14       0
write               load 1, replace 1                    2     0      1          ~       14     395
write, signed in    load 1, replace 1                    2     0      1          ~       14     441
write, first        insert 1                             1     0      1          ~      136     379
transact            load 2, replace 1                    3     0      0          ~       14     395
login, first        insert 1                             1     0      1          ~      136     176
login               insert 1, load 1, replace 1          3     0      2          ~      136     607
regenerate          insert 1, load 1, replace 1          3     0      2          ~      136     628
destroy             delete 1, load 1, replace 1          3     0      1          ~      143      79
32 writes to one    load 32, replace 2                   3     0     34          ~      448     790
32 writes to 32     load 32, replace 32                  2     0     34          ~      448   12640

mysql
no cookie           -                                    0     0      0          ~        0       0
untouched           load 1                               1     0      0          ~        0       0
read                load 1                               1     0      0          ~       14       0
read, renewal due   load 1, replace 1                    2     0      1          ~       14     379
read, signed in     load 1                               1     0      0          ~       14       0
write               load 1, replace 1                    2     0      1          ~       14     395
write, signed in    load 1, replace 1                    2     0      1          ~       14     441
write, first        insert 1                             1     0      1          ~      136     379
transact            load 2, replace 1                    3     0      0          ~       14     395
login, first        insert 1                             1     0      1          ~      136     176
login               insert 1, load 1, replace 1          3     0      2          ~      136     607
regenerate          insert 1, load 1, replace 1          3     0      2          ~      136     628
destroy             delete 1, load 1, replace 1          3     0      1          ~      143      79
32 writes to one    load 32, replace 2                   ~     0     34          ~      448     790
32 writes to 32     load 32, replace 32                  5     0     34          ~      448   12640

mongodb
no cookie           -                                    0     0      0          ~        0       0
untouched           load 1                               1     1      0          ~        0       0
read                load 1                               1     1      0          ~       14       0
read, renewal due   load 1, replace 1                    2     2      1          ~       14     379
read, signed in     load 1                               1     1      0          ~       14       0
write               load 1, replace 1                    2     2      1          ~       14     395
write, signed in    load 1, replace 1                    2     2      1          ~       14     441
write, first        insert 1                             1     1      1          ~      136     379
transact            load 2, replace 1                    3     3      0          ~       14     395
login, first        insert 1                             1     1      1          ~      136     176
login               insert 1, load 1, replace 1          3     3      2          ~      136     607
regenerate          insert 1, load 1, replace 1          3     3      2          ~      136     628
destroy             delete 1, load 1, replace 1          3     3      1          ~      143      79
32 writes to one    load 32, replace 2                   3     3     34          ~      448     790
32 writes to 32     load 32, replace 32                  ~    34     33          ~      448   12640
"""

#: The rows that differ before Python 3.12, where a task does not start eagerly.
EXPECTED_BEFORE_3_12 = """
route               calls                         messages  hops  tasks  callbacks  headers  stored

memory
32 writes to one    load 33, replace 3                   0     0     33          ~      448    1185
"""

COLUMNS = ("calls", "messages", "hops", "tasks", "callbacks", "headers", "stored")

ADVICE = """
{differences}

If the change is not to do that, mend it. If it is, or if it does less, write this into
the table in tests/test_operations.py, and the reason into the commit:

{row}
{tasks}"""

VALUES = {f"key{number}": "v" * 15 for number in range(10)}

_numbers = itertools.count(1_000_000)


class Bare(RequestHandler):
    def get(self) -> None:
        self.write("hello")


class Untouched(SessionMixin):
    def get(self) -> None:
        self.write("hello")


class Read(SessionMixin):
    def get(self) -> None:
        assert self.session["key5"] == VALUES["key5"]
        self.write("hello")


class Fill(SessionMixin):
    def get(self) -> None:
        self.session.update(VALUES)
        self.write("hello")


class Write(SessionMixin):
    def get(self) -> None:
        change(self.session)
        self.write("hello")


class Transact(SessionMixin):
    async def get(self) -> None:
        await self.session.transact(change)
        self.write("hello")


class Login(SessionMixin):
    def get(self) -> None:
        # Each has a name of its own, of one length.
        self.session.login(f"user{next(_numbers)}")
        self.write("hello")


class Regenerate(SessionMixin):
    def get(self) -> None:
        self.session.regenerate()
        self.write("hello")


class Destroy(SessionMixin):
    def get(self) -> None:
        self.session.destroy()
        self.write("hello")


def change(session: Session) -> None:
    # Of one length always, and never the value of before.
    session["count"] = next(_numbers)


class Route(NamedTuple):
    """Requests of one handler, and the sessions that they bring."""

    handler: type[RequestHandler]
    #: What the cookie is for: no session ("none"), one of an anonymous visitor, or one
    #: of a user who has signed in.
    session: str = "anonymous"
    sessions: int = 1
    requests: int = 1
    #: How many seconds the session was left alone before.
    idle: float = 0.0


ROUTES = {
    "no cookie": Route(Untouched, "none"),
    "untouched": Route(Untouched),
    "read": Route(Read),
    "read, renewal due": Route(Read, idle=0.15),
    "read, signed in": Route(Read, "user"),
    "write": Route(Write),
    "write, signed in": Route(Write, "user"),
    "write, first": Route(Fill, "none"),
    "transact": Route(Transact),
    "login, first": Route(Login, "none"),
    "login": Route(Login),
    "regenerate": Route(Regenerate, "user"),
    "destroy": Route(Destroy, "user"),
    "32 writes to one": Route(Write, requests=32),
    "32 writes to 32": Route(Write, requests=32, sessions=32),
}

STORES = (
    "memory",
    "cookie",
    "sqlite",
    "memcached",
    "redis",
    "postgresql",
    "mysql",
    "mongodb",
)


class Site:
    """An application on one store, with a client."""

    def __init__(self, meter: Meter, url: str) -> None:
        self.meter = meter
        meter.port = urlsplit(url).port
        settings: dict[str, Any] = {
            "cookie_secret": "s" * 43,
            "session_cookie_kwargs": {"secure": False},
            # A server keeps the sessions of other tests as well.
            "session_namespace": secrets.token_hex(8),
            "log_function": lambda handler: None,
        }
        backend = open_backend(url, settings)
        if isinstance(backend, Backend):
            meter.count_calls(backend)
        handlers = {route.handler for route in ROUTES.values()} | {Bare}
        self.app = Application(
            [(self.path(handler), handler) for handler in handlers],
            session_backend=backend,
            **settings,
        )
        self.sessions = Sessions.of(self.app)
        if not isinstance(backend, Backend):
            self.sessions.vault = CountedVault(self.sessions.vault, meter)
        # A number of seconds has the same length in each record.
        self.now = float(int(time.time()))
        self.sessions.now = lambda: self.now
        self.server, port = meter.loop.run_until_complete(self.listen())
        self.client = Client(meter, port, 32)
        self.client.fetch(self.path(Bare), [""] * 32)
        self.others = self.open()

    @staticmethod
    def path(handler: type[RequestHandler]) -> str:
        return f"/{handler.__name__}"

    async def listen(self) -> tuple[HTTPServer, int]:
        server, sockets = HTTPServer(self.app), bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        return server, sockets[0].getsockname()[1]

    def open(self) -> list[str]:
        """Opens the store, and returns the cookies of sessions for `steady`."""
        loop = self.meter.loop
        before = asyncio.all_tasks(loop)
        cookies = self.begin(ROUTES["32 writes to 32"])
        # Such as the one that creates the indexes.
        if begun := asyncio.all_tasks(loop) - before:
            loop.run_until_complete(asyncio.wait(begun, timeout=30))
        return cookies

    def steady(self, route: Route) -> None:
        """Writes as many sessions at once as ``route`` does.

        Whether an operation waits for others depends on whether the last one was alone.
        """
        for _ in range(2):
            self.fetch(Write, self.others[: route.requests])

    def count(self, route: Route) -> Counts:
        """Counts what a route does that the bare handler does not do."""
        cookies = self.begin(route) * (route.requests // route.sessions)
        self.steady(route)
        self.now += route.idle * self.sessions.settings.idle_timeout
        ours = self.fetch(route.handler, cookies)
        return ours - self.fetch(Bare, cookies)

    def begin(self, route: Route) -> list[str]:
        """Returns the cookies of fresh sessions for a route."""
        cookies = [""] * route.sessions
        handlers: dict[str, list[type[RequestHandler]]] = {
            "none": [],
            "anonymous": [Fill],
            "user": [Fill, Login],
        }
        for handler in handlers[route.session]:
            cookies = [
                self.client.fetch(self.path(handler), [cookie])[0].cookie
                for cookie in cookies
            ]
        return cookies

    def fetch(self, handler: type[RequestHandler], cookies: list[str]) -> Counts:
        self.meter.take()
        responses = self.client.fetch(self.path(handler), cookies)
        # What goes on after the response counts as well.
        self.meter.loop.run_until_complete(self.sessions.tasks.wait())
        assert {response.status for response in responses} == {b"HTTP/1.1 200 OK"}
        return self.meter.take()

    def close(self) -> None:
        self.client.close()
        self.server.stop()
        run = self.meter.loop.run_until_complete
        run(self.server.close_all_connections())
        run(self.sessions.close())


@pytest.fixture(scope="module", params=STORES)
def store(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def site(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if store in ("memory", "cookie"):
        url = f"{store}:"
    elif store == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('operations')}/s.db?timeout=20"
    else:
        variable = f"SESSIONS_TEST_{store.upper()}_URL"
        if variable not in os.environ:
            pytest.skip(f"{variable} is not set; 'python -m servers' sets it.")
        url = f"{os.environ[variable]}?timeout=20"
    meter = Meter()
    with meter.counting():
        site = Site(meter, url)
        yield site
        site.close()
        meter.loop.close()


@pytest.mark.parametrize("route", ROUTES)
def test_a_request_does_what_the_table_says(site: Site, store: str, route: str) -> None:
    """And nothing more: a change that adds an operation fails here."""
    expected = TABLE.get((store, route), ["?"] * len(COLUMNS))
    for _ in range(3):
        # The first time may prepare a statement, and open another connection.
        counts = site.count(ROUTES[route])
    counted = cells(counts)
    differences = [
        f"{route!r} on {store}: {difference(column, want, got)}"
        for column, want, got in zip(COLUMNS, expected, counted, strict=True)
        if want != got and "~" not in (want, got)
    ]

    assert not differences, ADVICE.format(
        differences="\n".join(differences),
        row=row(route, expected, counted),
        tasks=f"\nIts tasks: {listed(counts.tasks)}." if counts.tasks else "",
    )


@pytest.mark.parametrize(
    "table", [EXPECTED, EXPECTED_BEFORE_3_12], ids=["now", "before 3.12"]
)
def test_the_table_names_routes_and_stores_that_there_are(table: str) -> None:
    """A row of any other would never fail."""
    assert set(read(table)) <= set(itertools.product(STORES, ROUTES))


def read(table: str) -> dict[tuple[str, str], list[str]]:
    """Returns the cells of a table by store and route."""
    rows, store = {}, ""
    for line in filter(None, table.splitlines()[2:]):
        first, *rest = re.split(r" {2,}", line)
        if rest:
            rows[store, first] = rest
        else:
            store = first
    return rows


TABLE = read(EXPECTED)
if sys.version_info < (3, 12):
    TABLE.update(read(EXPECTED_BEFORE_3_12))


def cells(counts: Counts) -> list[str]:
    """Returns counts as the table has them."""
    has_eager_tasks = sys.version_info >= (3, 12)
    return [
        listed(counts.calls),
        str(counts.messages),
        str(counts.hops),
        str(counts.tasks.total()),
        str(counts.callbacks) if has_eager_tasks else "~",
        str(counts.headers),
        str(counts.stored),
    ]


def listed(counts: Counter[str]) -> str:
    """Returns counts by name as one cell."""
    pairs = sorted(counts.items())
    return ", ".join(f"{name} {number}" for name, number in pairs) or "-"


def counter(cell: str) -> Counter[str]:
    """Returns the counts in a cell. A number alone has no name."""
    return Counter(
        {name: int(number) for name, number in re.findall(r"([a-z_]* ?)(\d+)", cell)}
    )


def difference(column: str, want: str, got: str) -> str:
    """Returns what is more and what is less than the table has."""
    more, fewer = counter(got) - counter(want), counter(want) - counter(got)
    changes = [f"{number} {name}more" for name, number in more.items()]
    changes += [f"{number} {name}fewer" for name, number in fewer.items()]
    return f"{column}: {', '.join(changes)} ({got} instead of {want})"


def row(route: str, expected: list[str], counted: list[str]) -> str:
    """Returns the row of the table with what was counted and is compared."""
    calls, *numbers = (
        want if "~" in (want, got) else got
        for want, got in zip(expected, counted, strict=True)
    )
    return f"{route:18}  {calls:28}" + "".join(
        f"{number:>{len(column) + 2}}"
        for column, number in zip(COLUMNS[1:], numbers, strict=True)
    )

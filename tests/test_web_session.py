"""Tests of `self.session` over HTTP: its verbs, its cookie, and what it costs."""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import gc
import json
import logging
import socket
import time
from typing import Any, cast
from urllib.parse import urlencode

import pytest
import tornado.template
import tornado.web
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from tests.sites import (
    Read,
    Site,
    Write,
    change_settings,
    cookies,
)
from tornado_sessions import (
    Session,
    SessionError,
    SessionMixin,
    Sessions,
    recent_login,
)
from tornado_sessions.core.state import SessionState
from tornado_sessions.http.cookies import CookieSettings
from tornado_sessions.http.transports import Transports
from tornado_sessions.settings import Settings

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]


# Verbs.


async def test_destroy_removes_the_record_and_expires_the_cookie(site: Site) -> None:
    """Behaviour 42: both, in the same response."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session.destroy()
            self.write(dict(self.session))

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert json.loads(response.body) == {}
    assert response.headers["Set-Cookie"] == (
        "session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT;"
        " Path=/; HttpOnly; SameSite=Lax"
    )
    assert await site.stored(token) is None


async def test_a_write_after_destroy_starts_a_new_session(site: Site) -> None:
    """Behaviour 43: with a new token, and nothing of the old one."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session.destroy()
            self.session["b"] = 2

    token = await site.begin(a=1)
    await site.fetch(Handler)

    assert site.token not in (None, token)
    assert await site.stored() == {"b": 2}
    assert await site.stored(token) is None


@pytest.mark.parametrize("times", [1, 2])
async def test_regenerate_moves_the_session(site: Site, times: int) -> None:
    """Behaviour 9: one new token, however often it is called; the old one is dead."""

    class Handler(SessionMixin):
        def get(self) -> None:
            for _ in range(times):
                self.session.regenerate()
            self.session["b"] = 2

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert len(cookies(response)) == 1
    assert site.token != token
    assert await site.stored() == {"a": 1, "b": 2}
    assert await site.stored(token) is None
    # The new record, and the end of the old one.
    assert site.saves() == 2


async def test_the_session_cannot_be_replaced(site: Site) -> None:
    """Behaviour 16: it is one object throughout a request."""
    messages = []

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session |= {"b": 2}
            try:
                self.session = self.sessions.view(SessionState(self.sessions.rules))
            except AttributeError as error:
                messages.append(str(error))

    await site.begin(a=1)
    await site.fetch(Handler)

    assert await site.stored() == {"a": 1, "b": 2}
    (message,) = messages
    assert message == (
        "self.session cannot be replaced. Change its values with update() and clear(),"
        " or end it with destroy()."
    )


async def test_destroy_after_regenerate_leaves_nothing(site: Site) -> None:
    """Behaviour 9: the client learns of the end, and of no other token."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session.regenerate()
            self.session.destroy()

    token = await site.begin(a=1)
    response = await site.fetch(Handler)

    assert cookies(response) == [""]
    assert await site.stored(token) is None
    assert site.vault.calls == ["load", "save", "delete"]


async def test_login_binds_the_user_and_moves_the_session(site: Site) -> None:
    """Behaviour 9: and `current_user` knows it from the next request on."""

    class Handler(SessionMixin):
        def post(self) -> None:
            self.session.login("ada")

        @tornado.web.authenticated
        def get(self) -> None:
            self.write(self.current_user)

    token = await site.begin(cart=[1])
    before = await site.fetch(Handler)
    await site.fetch(Handler, "POST")
    after = await site.fetch(Handler)

    assert before.code == 302
    assert before.headers["Location"].startswith("/login?next=")
    assert (after.code, after.body) == (200, b"ada")
    assert await site.stored(token) is None
    assert await site.stored() == {"cart": [1]}


# save(), reload() and transact() in a handler.


async def test_a_save_in_the_middle_is_the_only_one(site: Site) -> None:
    """Behaviour 26: nothing changed after it, so nothing is saved at the end."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            await self.session.save()

    response = await site.fetch(Handler)

    assert len(cookies(response)) == 1
    assert await site.stored() == {"a": 1}
    assert site.saves() == 1


async def test_what_a_save_is_storing_is_not_saved_again(site: Site) -> None:
    """Behaviours 26, 28: where the response is finished while that is under way."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 2
            saving = asyncio.ensure_future(self.session.save())
            await asyncio.sleep(0)
            await asyncio.gather(saving, self.finish("ok"))

    await site.begin(a=1)
    response = await site.fetch(Handler)

    assert response.body == b"ok"
    assert site.vault.calls == ["load", "save"]
    assert await site.stored() == {"a": 2}


async def test_a_change_after_save_is_saved_as_well(site: Site) -> None:
    """Behaviour 26: on top of what others have written in the meantime."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            assert self.session["read"] == "old"
            self.session["a"] = 1
            await self.session.save()
            other = await Sessions(Settings(site.vault.inner)).load(site.token)
            other["read"] = "new"
            await other.save()
            self.session["b"] = 2

    await site.begin(read="old")
    await site.fetch(Handler)

    assert await site.stored() == {"read": "new", "a": 1, "b": 2}


@pytest.mark.parametrize("known", [True, False], ids=["existing", "new"])
async def test_saves_at_the_same_time_agree(site: Site, known: bool) -> None:
    """Behaviour 26: several tasks of one handler save one session."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            async def put(n: int) -> None:
                self.session[f"k{n}"] = n
                await self.session.save()

            await asyncio.gather(*(put(n) for n in range(10)))

    if known:
        await site.begin(a=1)
    response = await site.fetch(Handler)

    assert len(cookies(response)) == (0 if known else 1)
    expected = {f"k{n}": n for n in range(10)} | ({"a": 1} if known else {})
    assert await site.stored() == expected


async def test_a_save_does_not_undo_a_transaction_it_waited_for(site: Site) -> None:
    """Behaviours 26, 37: what save() stores is what the session holds by then."""
    between = []

    class Handler(SessionMixin):
        async def get(self) -> None:
            async def add(session: Session) -> None:
                await asyncio.sleep(0)
                session["n"] += 1

            await asyncio.gather(self.session.transact(add), self.session.save())
            between.append(await site.stored())

    await site.begin(n=0)
    await site.fetch(Handler)

    assert between == [{"n": 1}]
    assert site.saves() == 1


async def test_a_response_waits_for_the_transaction_of_another_task(
    site: Site,
) -> None:
    """Behaviours 28, 37: it stores no half of it, and comes out all the same."""
    inside, go_on = asyncio.Event(), asyncio.Event()
    tasks: list[asyncio.Future[None]] = []

    async def count(session: Session) -> None:
        session["n"] += 1
        inside.set()
        await go_on.wait()
        session["counted"] = True

    class Handler(SessionMixin):
        async def get(self) -> None:
            tasks.append(asyncio.ensure_future(self.session.transact(count)))
            await inside.wait()
            self.finish()
            go_on.set()

    await site.begin(n=0)
    response = await site.fetch(Handler)
    await tasks[0]

    assert response.code == 200
    assert await site.stored() == {"n": 1, "counted": True}


@pytest.mark.parametrize("known", [True, False], ids=["existing", "new"])
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_transact_saves_what_its_function_changes(
    site: Site, kind: str, known: bool
) -> None:
    """Behaviour 37: it answers what the function answered."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            def add(session: Session) -> int:
                session["n"] = session.get("n", 0) + 1
                return cast(int, session["n"])

            async def add_later(session: Session) -> int:
                await asyncio.sleep(0)
                return add(session)

            function: Any = add if kind == "plain" else add_later
            self.write(str(await self.session.transact(function)))

    if known:
        await site.begin(n=1)
    response = await site.fetch(Handler)

    assert response.body == (b"2" if known else b"1")
    assert await site.stored() == {"n": 2 if known else 1}
    assert site.saves() == 1


async def test_a_transaction_that_raises_leaves_everything_as_it_was(
    site: Site,
) -> None:
    """Behaviour 37: nothing is stored, and the values are those before it."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            def fail(session: Session) -> None:
                session["cart"]["pear"] = 1
                session["other"] = 1
                raise ValueError("changed my mind")

            with pytest.raises(ValueError, match="changed my mind"):
                await self.session.transact(fail)
            self.write(dict(self.session))

    await site.begin(cart={"apple": 1})
    response = await site.fetch(Handler)

    assert json.loads(response.body) == {"cart": {"apple": 1}}
    assert await site.stored() == {"cart": {"apple": 1}}
    assert site.saves() == 0


@pytest.mark.parametrize("verb", ["save", "reload", "nested"])
@pytest.mark.parametrize("task", ["same task", "own task"])
async def test_saving_inside_a_transaction_is_refused(
    site: Site, verb: str, task: str
) -> None:
    """It would wait for itself; the error says what to do."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            async def function(session: Session) -> None:
                work: Any = {
                    "save": session.save,
                    "reload": session.reload,
                    "nested": lambda: session.transact(lambda session: None),
                }[verb]
                if task == "same task":
                    await work()
                else:
                    await asyncio.wait_for(asyncio.ensure_future(work()), 30)

            with pytest.raises(SessionError, match="transact\\(\\) saves them"):
                await self.session.transact(function)

    await site.begin(n=0)

    assert (await site.fetch(Handler)).code == 200


async def test_destroy_inside_a_transaction_ends_the_session(site: Site) -> None:
    """Behaviour 42: the verbs count inside a transaction as well."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            await self.session.transact(lambda session: session.destroy())

    token = await site.begin(n=0)
    response = await site.fetch(Handler)

    assert cookies(response) == [""]
    assert await site.stored(token) is None


async def test_50_parallel_transactions_count_to_50(site: Site) -> None:
    """Behaviour 37: also where the function waits in the middle."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            async def add(session: Session) -> None:
                n = session["n"]
                await asyncio.sleep(0)
                session["n"] = n + 1

            await self.session.transact(add)

    await site.begin(n=0)
    await asyncio.gather(*(site.fetch(Handler) for _ in range(50)))

    assert await site.stored() == {"n": 50}


async def test_50_parallel_requests_each_keep_their_product(site: Site) -> None:
    """Behaviour 36: nested changes are merged."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            product = self.request.headers["X-Product"]
            await asyncio.sleep(0)
            self.session.setdefault("cart", {})[product] = 1

    await site.begin(n=0)
    await asyncio.gather(
        *(site.fetch(Handler, headers={"X-Product": str(n)}) for n in range(50))
    )

    assert await site.stored() == {"n": 0, "cart": {str(n): 1 for n in range(50)}}


async def test_reload_drops_what_the_request_changed(site: Site) -> None:
    """The newest values take the place of this request's own."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["mine"] = 1
            other = await Sessions(Settings(site.vault.inner)).load(site.token)
            other["theirs"] = 2
            await other.save()
            await self.session.reload()
            self.write(dict(self.session))

    await site.begin(n=0)
    response = await site.fetch(Handler)

    assert json.loads(response.body) == {"n": 0, "theirs": 2}
    assert site.saves() == 0


# What a request costs, and what it leaves behind.


async def test_a_request_without_a_cookie_makes_no_session(site: Site) -> None:
    """Behaviour 12: no store call, no header, no object."""
    made: list[int] = []

    class Handler(SessionMixin):
        def get(self) -> None:
            made.append(count())

    def count() -> int:
        kinds = (Session, SessionState)
        return sum(isinstance(each, kinds) for each in gc.get_objects())

    gc.collect()
    before = count()
    response = await site.fetch(Handler)

    assert made == [before]
    assert site.vault.calls == []
    for name in ("Set-Cookie", "Vary", "Cache-Control"):
        assert name not in response.headers


async def test_the_session_is_one_object(site: Site) -> None:
    """Behaviour 16: from prepare to the end."""

    class Handler(SessionMixin):
        async def prepare(self) -> None:
            await super().prepare()
            self.first = self.session

        async def get(self) -> None:
            await self.session.save()
            self.session.regenerate()
            self.session.destroy()
            assert self.session is self.first

    await site.begin(a=1)

    assert (await site.fetch(Handler)).code == 200


async def test_a_context_variable_is_the_handlers_own(site: Site) -> None:
    """What a handler sets is there after a save, and in the commit."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    seen = []

    class Handler(SessionMixin):
        async def get(self) -> None:
            variable.set("mine")
            self.session["a"] = 1
            await self.flush()
            seen.append(variable.get())

        def on_finish(self) -> None:
            seen.append(variable.get())

    await site.fetch(Handler)

    assert seen == ["mine", "mine"]


async def test_the_names_of_tornado_that_we_need_are_there(site: Site) -> None:
    """They say what they have always said."""
    seen = []

    class Handler(RequestHandler):
        async def get(self) -> None:
            seen.append((self._finished, self._headers_written))
            assert "Vary" not in self._headers
            self.set_header("vary", "Cookie")
            assert "Vary" in self._headers
            await self.flush()
            seen.append((self._finished, self._headers_written))
            await self.finish()
            seen.append((self._finished, self._headers_written))

    await site.fetch(Handler)

    assert seen == [(False, False), (False, True), (True, True)]


@tornado.web.stream_request_body
class Upload(SessionMixin):
    received: list[bytes]

    def initialize(self) -> None:
        self.received = []

    def data_received(self, chunk: bytes) -> None:
        self.received.append(chunk)

    def post(self) -> None:
        self.session["size"] = sum(map(len, self.received))
        self.write("thanks")


async def test_a_streamed_upload_saves(site: Site) -> None:
    """Behaviour 27: stream_request_body is as any other."""
    response = await site.fetch(Upload, "POST", body=b"x" * 200_000)

    assert response.body == b"thanks"
    assert await site.stored() == {"size": 200_000}


@pytest.mark.parametrize("flushed", [False, True], ids=["at once", "after flush()"])
async def test_a_refused_upload_receives_no_data(
    site: Site, http_port: int, flushed: bool
) -> None:
    """Behaviour 27: a body still on its way is not for a handler that finished."""
    seen: list[Upload] = []

    class Handler(Upload):
        async def prepare(self) -> None:
            await super().prepare()
            seen.append(self)
            self.session["refused"] = True
            self.set_status(302)
            if flushed:
                self.flush()
            self.finish()

    head = (
        f"POST {site.path(Handler)} HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Length: 100000\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection("localhost", http_port)
    writer.write(head + b"x" * 100_000)
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    writer.close()

    assert answer.startswith(b"HTTP/1.1 302")
    assert seen[0].received == []


# The cookie's surroundings.


async def test_the_applications_own_headers_survive(site: Site) -> None:
    """Behaviour 56: its cookies stay; its Cache-Control gives way to no-store."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.set_cookie("theme", "dark")
            self.set_header("Cache-Control", "public, max-age=3600")
            self.set_header("Vary", "Accept")
            self.session["a"] = 1

    response = await site.fetch(Handler)

    lines = response.headers.get_list("Set-Cookie")
    assert sorted(line.partition("=")[0] for line in lines) == ["session", "theme"]
    assert response.headers.get_list("Cache-Control") == ["no-store"]
    assert response.headers.get_list("Vary") == ["Accept", "Cookie"]


async def test_a_look_at_the_session_varies_by_cookie_and_may_be_cached(
    site: Site,
) -> None:
    """Behaviours 18, 56: no cookie is set, so Cache-Control is the application's."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.set_header("Cache-Control", "private, max-age=60")
            self.write(str(len(self.session)))

    response = await site.fetch(Handler)

    assert response.headers["Vary"] == "Cookie"
    assert response.headers["Cache-Control"] == "private, max-age=60"
    assert cookies(response) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["Cookie"], ["Cookie"]),
        (["accept-encoding, cookie"], ["accept-encoding, cookie"]),
        (["Accept", "Cookie"], ["Accept", "Cookie"]),
        (["Cookies"], ["Cookies", "Cookie"]),
        (["*"], ["*"]),
    ],
)
async def test_vary_names_the_cookie_once(
    site: Site, before: list[str], after: list[str]
) -> None:
    """Behaviour 56: where the application has named it already, nothing is added."""

    class Handler(SessionMixin):
        def get(self) -> None:
            for value in before:
                self.add_header("Vary", value)
            self.session.get("a")

    response = await site.fetch(Handler)

    assert response.headers.get_list("Vary") == after


async def test_an_application_with_transports_has_vary_once(site: Site) -> None:
    """Behaviours 56, 73: the header that it has not named is added alone."""
    change_settings(site, transports=Transports(("cookie", "header")))

    class Handler(SessionMixin):
        def get(self) -> None:
            self.set_header("Vary", "Cookie")
            self.session.get("a")

    response = await site.fetch(Handler)

    assert response.headers.get_list("Vary") == ["Cookie", "X-Session-Token"]


async def test_a_socket_for_both_ip_versions_is_on_loopback(
    app: Application, site: Site
) -> None:
    """Behaviour 58: there 127.0.0.1 comes as ``::ffff:127.0.0.1``."""
    try:
        both = socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True
        )
    except (OSError, ValueError):
        pytest.skip("this machine has no socket for both IP versions")
    both.setblocking(False)
    seen: list[str | None] = []

    class Handler(SessionMixin):
        def get(self) -> None:
            seen.append(self.request.remote_ip)
            self.session["a"] = 1

    server = HTTPServer(app)
    server.add_socket(both)
    url = f"http://127.0.0.1:{both.getsockname()[1]}{site.path(Handler)}"
    response = await site.client.fetch(url)
    server.stop()

    assert seen == ["::ffff:127.0.0.1"]
    assert cookies(response) != []


async def test_on_loopback_the_cookie_goes_out_without_its_prefix(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 58: developers see it work, and one line says what is missing."""
    caplog.set_level(logging.INFO)
    response = await site.fetch(Write)
    site.token = None
    await site.fetch(Write)

    suffix = response.headers["Set-Cookie"].partition(";")[2]
    assert suffix == " Path=/; HttpOnly; SameSite=Lax"
    told = [r for r in caplog.records if "Over plain http on loopback" in r.message]
    assert [record.levelno for record in told] == [logging.INFO]
    assert "xheaders=True" in told[0].message


@pytest.mark.parametrize(
    "header",
    [
        {"X-Forwarded-For": "127.0.0.1"},
        {"x-forwarded-proto": "https"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
        {"X-Scheme": "http"},
        {"Via": "1.1 proxy"},
        {"Host": "shop.example"},
        {"Host": "127.0.0.1.example"},
        {"Host": "localhost.example:8888"},
        {"Host": "shoplocalhost"},
    ],
    ids=lambda header: ": ".join(*header.items()),
)
async def test_over_plain_http_the_cookie_is_withheld(
    site: Site, caplog: pytest.LogCaptureFixture, header: dict[str, str]
) -> None:
    """Behaviour 58: with one warning, which says what to set."""
    for _ in range(2):
        response = await site.fetch(Write, headers=header)

        assert "Set-Cookie" not in response.headers
    told = [r for r in caplog.records if r.name == "tornado_sessions"]
    assert [record.levelno for record in told] == [logging.WARNING]
    assert "plain http" in told[0].message
    assert "xheaders=True" in told[0].message
    # After an hour, or at the end, it is said again.
    site.sessions.logs.close()
    told = [r for r in caplog.records if r.name == "tornado_sessions"]
    assert "The last of 1 more" in told[1].message


async def test_a_host_named_localhost_is_not_enough(site: Site) -> None:
    """Behaviour 58: the client may be on another machine, and name what it likes."""

    class Handler(Write):
        async def prepare(self) -> None:
            self.request.remote_ip = "203.0.113.9"
            await super().prepare()

    response = await site.fetch(Handler, headers={"Host": "localhost"})

    assert response.code == 200
    assert cookies(response) == []


async def test_without_secure_the_cookie_goes_out_over_plain_http(site: Site) -> None:
    """Behaviour 58: that is what the warning says to set."""
    change_settings(site, cookie=CookieSettings("session", {"secure": False}))
    host = {"Host": "shop.example"}
    token = cookies(await site.fetch(Write, headers=host))

    assert token == [site.token]
    assert await site.stored() == {"a": 1}
    assert json.loads((await site.fetch(Read, headers=host)).body) == {"a": 1}


async def test_over_https_the_cookie_has_all_it_needs(
    app: Application, site: Site
) -> None:
    """Behaviours 54, 58: behind a proxy that ends https, told through xheaders."""
    server = HTTPServer(app, xheaders=True)
    server.listen(0, "127.0.0.1")
    (listening,) = server._sockets.values()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}{site.path(Write)}"
    response = await site.client.fetch(url, headers={"X-Forwarded-Proto": "https"})
    server.stop()

    name, _, rest = response.headers["Set-Cookie"].partition("=")
    assert name == "__Host-Http-session"
    assert rest.partition(";")[2] == " Path=/; Secure; HttpOnly; SameSite=Lax"
    assert len(rest.partition(";")[0]) == 43


async def test_a_cookie_of_the_other_transport_is_not_read(site: Site) -> None:
    """Behaviour 55: each request reads the one name that it would write."""

    class Read(SessionMixin):
        def get(self) -> None:
            self.write(dict(self.session))

    token, site.token = await site.begin(a=1), None
    response = await site.fetch(
        Read, headers={"Cookie": f"__Host-Http-session={token}; __Host-session={token}"}
    )

    assert json.loads(response.body) == {}
    assert site.vault.calls == []


async def test_a_request_that_ignores_the_session_keeps_it_alive(site: Site) -> None:
    """Behaviour 48: the visitor is there, whatever the page is made of."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.write("The same for everybody.")

    await site.begin(a=1)
    now = site.sessions.now() + site.sessions.rules.idle_timeout / 2
    site.sessions.now = lambda: now
    response = await site.fetch(Handler)

    assert "Vary" not in response.headers
    assert site.saves() == 1
    assert (await site.sessions.load(site.token)).last_seen == pytest.approx(now)


async def test_a_persistent_cookie_is_renewed_with_its_record(site: Site) -> None:
    """Behaviour 51: Max-Age goes out again when the expiry is pushed forward."""
    site.sessions.rules.persistent = True

    class Read(SessionMixin):
        def get(self) -> None:
            self.write(dict(self.session))

    token = await site.begin(a=1)
    early = await site.fetch(Read)
    site.sessions.now = lambda: time.time() + 3 * 3600
    late = await site.fetch(Read)

    assert cookies(early) == []
    assert cookies(late) == [token]
    assert "Max-Age=86400;" in late.headers["Set-Cookie"]


class Recent(SessionMixin):
    """Asks for a sign-in of the last minute."""

    @recent_login(max_age=datetime.timedelta(minutes=1))
    def get(self) -> None:
        self.write(str(self.current_user))


class Login(SessionMixin):
    def get(self) -> None:
        self.session.login("ada")


async def test_a_login_page_on_another_host_is_told_where_to_go_back(
    site: Site,
) -> None:
    """As `tornado.web.authenticated` does it."""
    site.app.settings["login_url"] = "https://login.example/"
    response = await site.fetch(Recent)

    assert response.code == 302
    assert response.headers["Location"] == "https://login.example/?" + urlencode(
        {"next": site.base_url + site.path(Recent)}
    )


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example/"])
async def test_no_path_leads_from_the_login_to_another_host(
    site: Site, path: str
) -> None:
    """A login page may well redirect to what it is told."""
    site.app.settings["login_url"] = "/login"
    site.app.add_handlers(".*", [(r"/.*evil.*", Recent)])
    response = await site.client.fetch(
        site.base_url + path, follow_redirects=False, raise_error=False
    )

    assert response.headers["Location"] == "/login?" + urlencode(
        {"next": site.base_url + path}
    )


async def test_a_login_url_with_a_query_is_left_as_it_is(site: Site) -> None:
    """As `tornado.web.authenticated` does it."""
    site.app.settings["login_url"] = "/login?next=/"
    response = await site.fetch(Recent)

    assert response.headers["Location"] == "/login?next=/"


async def test_a_recent_login_lasts_for_a_timedelta(site: Site) -> None:
    """Or for seconds."""
    now = site.sessions.now()
    site.sessions.now = lambda: now
    await site.fetch(Login)
    assert (await site.fetch(Recent)).body == b"ada"

    now += 60
    assert (await site.fetch(Recent)).code == 302


async def test_a_head_is_sent_to_the_login_page_as_a_get_is(site: Site) -> None:
    """As `tornado.web.authenticated` does it."""

    class Head(Recent):
        head = Recent.get

    response = await site.fetch(Head, method="HEAD")

    assert response.code == 302
    assert response.headers["Location"].startswith("/login?next=")


async def test_a_post_after_too_long_is_refused_with_a_reason(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot be sent to the login page and back, and the log says why."""

    class Change(SessionMixin):
        @recent_login(max_age=60)
        def post(self) -> None:
            raise AssertionError("It was let in.")

    await site.begin(a=1)
    response = await site.fetch(Change, method="POST")

    assert response.code == 403
    assert "the user has not signed in within the last 60 s" in caplog.text


async def test_who_is_not_let_in_is_no_recent_login(site: Site) -> None:
    """An application may know better who the current user is."""

    class Banned(Recent):
        def get_current_user(self) -> None:
            return None

    await site.fetch(Login)
    assert (await site.fetch(Recent)).code == 200
    assert (await site.fetch(Banned)).code == 302


async def test_a_recent_login_without_a_time_is_refused() -> None:
    """At the start, and not with the first request."""
    method: Any = SessionMixin.get
    with pytest.raises(TypeError) as caught:
        recent_login(method)

    assert str(caught.value) == "Say of how many seconds: @recent_login(max_age=300)"


@pytest.mark.parametrize("max_age", [0, -1, float("nan"), datetime.timedelta()])
async def test_a_recent_login_is_of_some_time(max_age: Any) -> None:  # noqa: ANN401
    """Nobody could ever have signed in that recently."""
    with pytest.raises(ValueError, match=r"\Amax_age=.* is to be more than zero sec"):
        recent_login(max_age=max_age)

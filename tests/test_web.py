"""Tests of `SessionMixin` over HTTP: what finishes a response saves it first."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest
import tornado.template
import tornado.web
from tornado.web import Application, HTTPError, RequestHandler

from tests.sites import (
    Site,
    cookies,
)
from tornado_sessions import (
    SessionError,
    SessionMixin,
)

pytestmark = [pytest.mark.gen_test, pytest.mark.usefixtures("errors")]


# What ends a response.


async def test_what_a_handler_writes_is_there_in_the_next_request(site: Site) -> None:
    """Behaviours 15, 27: one save, one cookie, and the values come back."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.write(dict(self.session))

        def post(self) -> None:
            self.session["color"] = "green"
            self.write("ok")

    posted = await site.fetch(Handler, "POST")
    got = await site.fetch(Handler)

    assert len(cookies(posted)) == 1
    assert json.loads(got.body) == {"color": "green"}
    assert cookies(got) == []
    assert site.vault.calls == ["save", "load"]


@pytest.mark.parametrize("way", ["redirect", "render", "finish", "await", "Finish"])
async def test_every_way_to_finish_saves_first(site: Site, way: str) -> None:
    """Behaviour 27: the headers leave after the record is stored."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["way"] = way
            if way == "redirect":
                self.redirect("/elsewhere")
            elif way == "render":
                self.finish(self.render_string("page.html"))
            elif way == "finish":
                self.finish({"done": True})
            elif way == "await":
                await self.finish("done")
                assert self._headers_written
            else:
                raise tornado.web.Finish("done")

    site.app.settings["template_loader"] = tornado.template.DictLoader(
        {"page.html": "a page"}
    )
    response = await site.fetch(Handler)

    assert response.code == (302 if way == "redirect" else 200)
    assert len(cookies(response)) == 1
    assert await site.stored() == {"way": way}
    assert site.saves() == 1


async def test_a_dict_chunk_is_written_as_json(site: Site) -> None:
    """A chunk given to finish() is treated as write() treats it."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.finish({"a": [1]})

    response = await site.fetch(Handler)

    assert response.headers["Content-Type"] == "application/json; charset=UTF-8"
    assert json.loads(response.body) == {"a": [1]}


async def test_raise_finish_without_a_chunk_saves(site: Site) -> None:
    """Behaviour 27: Finish is no error."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.write("as it was")
            raise tornado.web.Finish

    response = await site.fetch(Handler)

    assert (response.code, response.body) == (200, b"as it was")
    assert await site.stored() == {"a": 1}


async def test_a_redirect_in_prepare_keeps_the_verb_from_running(site: Site) -> None:
    """Behaviour 27: the handler is over, though the save is still under way."""
    ran = []

    class Handler(SessionMixin):
        async def prepare(self) -> None:
            await super().prepare()
            self.session["seen"] = True
            self.redirect("/login")

        def get(self) -> None:
            ran.append(True)

    response = await site.fetch(Handler)

    assert (response.code, response.headers["Location"]) == (302, "/login")
    assert ran == []
    assert await site.stored() == {"seen": True}


async def test_an_http_error_in_prepare_saves(site: Site) -> None:
    """Behaviour 29: an HTTPError below 500 saves, wherever it is raised."""

    class Handler(SessionMixin):
        async def prepare(self) -> None:
            await super().prepare()
            self.session["tries"] = 1
            raise HTTPError(403)

    response = await site.fetch(Handler)

    assert response.code == 403
    assert await site.stored() == {"tries": 1}


async def test_a_prepare_that_does_not_wait_is_good_enough(site: Site) -> None:
    """A plain method may answer what super().prepare() answered."""

    class Handler(SessionMixin):
        def prepare(self) -> Any:  # noqa: ANN401
            return super().prepare()

        def get(self) -> None:
            self.write(dict(self.session))

    await site.begin(a=1)

    assert json.loads((await site.fetch(Handler)).body) == {"a": 1}


async def test_the_prepare_of_another_mixin_is_called(site: Site) -> None:
    """SessionMixin can stand before a handler with a prepare of its own."""
    order = []

    class Base(RequestHandler):
        async def prepare(self) -> None:
            order.append("base")

    class Handler(SessionMixin, Base):
        def get(self) -> None:
            order.append("get")

    await site.fetch(Handler)

    assert order == ["base", "get"]


async def test_finish_twice_raises_as_tornado_does(site: Site) -> None:
    """Behaviour 28: the second finish() raises, the first one counts."""
    raised = []

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.finish("first")
            with pytest.raises(RuntimeError, match="finish\\(\\) called twice"):
                self.finish("second")
            raised.append(True)

    response = await site.fetch(Handler)

    assert response.body == b"first"
    assert raised == [True]
    assert site.saves() == 1


async def test_write_after_finish_raises_as_tornado_does(site: Site) -> None:
    """What follows finish() finds the response finished, saved or not yet."""
    raised = []

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.finish("all")
            with pytest.raises(RuntimeError, match="Cannot write"):
                self.write("more")
            raised.append(True)

    response = await site.fetch(Handler)

    assert response.body == b"all"
    assert raised == [True]


async def test_flush_after_finish_does_not_keep_the_response(site: Site) -> None:
    """A flush() must not take the place of the finish() that waits."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.finish("all")
            self.flush()

    response = await site.fetch(Handler)

    assert response.body == b"all"
    assert await site.stored() == {"a": 1}


async def test_a_change_after_finish_is_not_part_of_the_response(site: Site) -> None:
    """What is written after finish() is not saved, however long the save takes."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            self.finish()
            self.session["a"] = 2

    await site.begin(a=0)
    await site.fetch(Handler)

    assert await site.stored() == {"a": 1}


# Streams.


@pytest.mark.parametrize("waits", [True, False], ids=["awaited", "not awaited"])
async def test_a_stream_is_saved_before_its_first_byte(site: Site, waits: bool) -> None:
    """Behaviours 27, 28: one save, however often flush() is called."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            for chunk in "abc":
                self.write(chunk)
                flushed = self.flush()
                if waits:
                    await flushed
            self.write("d")

    response = await site.fetch(Handler)

    assert response.body == b"abcd"
    assert len(cookies(response)) == 1
    assert await site.stored() == {"a": 1}
    assert site.saves() == 1


async def test_flush_answers_when_the_headers_are_out(site: Site) -> None:
    """Behaviour 27: to await flush() is to wait for the save."""
    saves = []

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            await self.flush()
            saves.append((site.saves(), self._headers_written))

    await site.fetch(Handler)

    assert saves == [(1, True)]


async def test_a_change_after_the_first_flush_is_saved_at_the_end(site: Site) -> None:
    """Behaviour 28: of a session that has its cookie."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.write("a")
            await self.flush()
            self.session["late"] = 1

    await site.begin(a=0)
    await site.fetch(Handler)

    assert await site.stored() == {"a": 0, "late": 1}


@pytest.mark.parametrize("looked_at", [True, False])
async def test_a_first_write_after_flush_raises(site: Site, looked_at: bool) -> None:
    """Behaviour 28: a new session needs a cookie, and the headers are out."""
    raised = []

    class Handler(SessionMixin):
        async def get(self) -> None:
            if looked_at:
                assert len(self.session) == 0
            self.write("a")
            await self.flush()
            try:
                self.session["late"] = 1
            except SessionError as error:
                raised.append(str(error))

    await site.fetch(Handler)

    assert len(raised) == 1
    assert "This visitor has no session yet" in raised[0]
    assert site.saves() == 0


@pytest.mark.parametrize(
    ("verb", "arguments"), [("regenerate", []), ("login", ["ada"])]
)
async def test_a_new_token_after_flush_raises(
    site: Site, verb: str, arguments: list[str]
) -> None:
    """Behaviour 28: its cookie could not be sent."""
    raised = []

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.session["a"] = 1
            await self.flush()
            try:
                getattr(self.session, verb)(*arguments)
            except SessionError:
                raised.append(verb)

    token = await site.begin(a=0)
    await site.fetch(Handler)

    assert raised == [verb]
    assert site.token == token
    assert await site.stored() == {"a": 1}


async def test_destroy_after_flush_ends_the_record(site: Site) -> None:
    """Behaviour 28: the cookie stays, and is worth nothing."""

    class Handler(SessionMixin):
        async def get(self) -> None:
            self.write("a")
            await self.flush()
            self.session.destroy()

    token = await site.begin(a=0)
    response = await site.fetch(Handler)

    assert cookies(response) == []
    assert await site.stored(token) is None


@pytest.mark.parametrize("more", [True, False], ids=["changed", "unchanged"])
async def test_finish_takes_the_place_of_a_waiting_flush(
    site: Site, more: bool
) -> None:
    """Behaviour 28: both changes are saved; without a second, once is enough."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["first"] = 1
            self.write("a")
            self.flush()
            if more:
                self.session["second"] = 2
            self.finish("b")

    await site.begin(n=0)
    response = await site.fetch(Handler)

    assert response.body == b"ab"
    expected = {"n": 0, "first": 1} | ({"second": 2} if more else {})
    assert await site.stored() == expected
    assert site.saves() <= 1 + more


# Statuses, methods and headers: as without us.


class Cases:
    """Bodies of handlers, to be run with a session and without one."""

    def plain(self) -> None:
        self.write("text")

    def redirected(self) -> None:
        self.redirect("/elsewhere")

    def no_content(self) -> None:
        self.set_status(204)

    def a_dict(self) -> None:
        self.finish({"a": 1})

    async def streamed(self) -> None:
        self.write("a")
        await self.flush()
        self.finish("b")

    def own_length(self) -> None:
        self.set_header("Content-Length", "3")
        self.write("abc")

    def not_found(self) -> None:
        raise HTTPError(404)

    write: Any
    set_status: Any
    set_header: Any
    redirect: Any
    finish: Any
    flush: Any


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    "case", [name for name in vars(Cases) if callable(vars(Cases)[name])]
)
async def test_a_response_is_as_without_us(site: Site, case: str, method: str) -> None:
    """Behaviour 34: status, headers and body, but for what a cookie needs."""

    class Bare(Cases, RequestHandler):
        def get(self) -> Any:  # noqa: ANN401
            return getattr(self, case)()

        head = post = get

    class Ours(Cases, SessionMixin):
        def get(self) -> Any:  # noqa: ANN401
            self.session["a"] = 1
            return getattr(self, case)()

        head = post = get

    bare, ours = await site.fetch(Bare, method), await site.fetch(Ours, method)

    assert len(cookies(ours)) == 1
    for name in ("Set-Cookie", "Vary", "Cache-Control"):
        ours.headers.pop(name)
    for response in (bare, ours):
        response.headers.pop("Date", None)
    assert (ours.code, ours.reason) == (bare.code, bare.reason)
    assert dict(ours.headers) == dict(bare.headers)
    assert ours.body == bare.body


async def test_a_body_with_204_is_answered_500(site: Site, errors: list[str]) -> None:
    """Behaviour 34: Tornado's own RuntimeError, after the save."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.set_status(204)
            self.write("a body")

    response = await site.fetch(Handler)

    assert response.code == 500
    errors.append("Uncaught exception GET")


async def test_an_unchanged_page_is_answered_304(site: Site) -> None:
    """Behaviours 27, 34: the ETag counts as ever, and the change is saved."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["n"] += 1
            self.write("the same page")

    await site.begin(n=0)
    first = await site.fetch(Handler)
    second = await site.fetch(Handler, headers={"If-None-Match": first.headers["Etag"]})

    assert (second.code, second.body) == (304, b"")
    assert "Content-Length" not in second.headers
    assert await site.stored() == {"n": 2}


async def test_gzip_and_the_session_share_the_vary_header(
    app: Application, site: Site
) -> None:
    """Behaviour 56: compress_response adds to our Vary, and the app's own stays."""
    app.transforms.append(tornado.web.GZipContentEncoding)

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.set_header("Vary", "Accept-Language")
            self.write("x" * 5000)

    response = await site.fetch(
        Handler, headers={"Accept-Encoding": "gzip"}, decompress_response=False
    )

    assert gzip.decompress(response.body) == b"x" * 5000
    vary = ",".join(response.headers.get_list("Vary")).replace(" ", "").split(",")
    assert sorted(vary) == ["Accept-Encoding", "Accept-Language", "Cookie"]


async def test_the_connection_is_kept_for_the_next_request(
    site: Site, http_port: int
) -> None:
    """Behaviour 34: two pipelined requests are answered in turn, on one line."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.write("ok")

    request = f"GET {site.path(Handler)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("localhost", http_port)
    writer.write(2 * request)
    for _ in range(2):
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        assert head.startswith(b"HTTP/1.1 200")
        assert b"Set-Cookie: session=" in head
        assert await reader.readexactly(2) == b"ok"
    writer.close()
    await writer.wait_closed()

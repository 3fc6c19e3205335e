"""Tests of the tenants of one application."""

from __future__ import annotations

import asyncio
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tornado.httpclient
import tornado.routing
import tornado.web
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.web import Application
from tornado_sessions_memory import MemoryBackend

from servers.processes import free_port
from tornado_sessions import (
    Record,
    SessionError,
    SessionEvent,
    SessionMixin,
    Sessions,
    Vault,
    Version,
)

TENANTS: dict[str, Any] = {
    "acme": {"domain": "acme.example"},
    "globex": {},
    "initech": {"samesite": "None", "partitioned": True},
}
HOSTS = {
    "acme.example": "acme",
    "www.acme.example": "acme",
    "globex.example": "globex",
    "initech.example": "initech",
    "other.example": "other",
}


def tenant_of(request: HTTPServerRequest) -> Any:  # noqa: ANN401
    return HOSTS.get(request.host_name)


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "session_backend": "memory",
        "session_tenants": TENANTS,
        "session_tenant": tenant_of,
        "cookie_secret": "c" * 32,
        **changes,
    }


def error_of(**changes: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Sessions.of(Application(**settings(**changes)))
    return str(caught.value)


def line_of(sessions: Sessions) -> str:
    return sessions.settings.cookie.line("x")


class SettingsTest:
    def test_a_tenant_has_the_attributes_of_its_own_cookie(self) -> None:
        """Behaviours 54, 98: they extend or replace those of all."""
        sessions = Sessions.of(
            Application(**settings(session_cookie_kwargs={"samesite": "Strict"}))
        )

        assert line_of(sessions.tenant("acme")) == (
            "__Secure-session=x; Path=/; Domain=acme.example; Secure; HttpOnly;"
            " SameSite=Strict"
        )
        assert line_of(sessions.tenant("globex")) == (
            "__Host-Http-session=x; Path=/; Secure; HttpOnly; SameSite=Strict"
        )
        assert line_of(sessions.tenant("initech")) == (
            "__Host-Http-session=x; Path=/; Secure; HttpOnly; SameSite=None; Partitioned"
        )

    def test_the_xsrf_cookie_of_a_tenant_has_them_as_well(self) -> None:
        """Behaviours 83, 98: all but HttpOnly."""
        sessions = Sessions.of(
            Application(**settings(xsrf_cookies=True, session_xsrf=True))
        )
        cookie = sessions.tenant("acme").settings.xsrf_cookie

        assert cookie is not None
        assert cookie.line("x") == (
            "_xsrf=x; Path=/; Domain=acme.example; Secure; SameSite=Lax"
        )

    def test_a_wrong_attribute_is_found_at_the_start(self) -> None:
        """Behaviours 54, 98: with the name of the tenant."""
        assert error_of(session_cookie_name="__Host-id") == (
            "session_tenants['acme']: session_cookie_name='__Host-id' contradicts"
            " domain='acme.example' in session_cookie_kwargs: browsers refuse such a"
            " cookie. Change one of the two."
        )

    @pytest.mark.parametrize("tenants", [None, {}, [], "acme", ["acme"]])
    def test_they_are_a_dict(self, tenants: object) -> None:
        """Behaviour 98: of at least one."""
        assert error_of(session_tenants=tenants) == (
            f"session_tenants={tenants!r} is to be a dict of the attributes of each"
            " tenant's cookie, such as {'acme': {'domain': 'acme.example'}}."
        )

    @pytest.mark.parametrize("name", ["", "a/b", "b\xfccher", "a\nb", 7, None])
    def test_a_name_is_a_part_of_a_namespace(self, name: object) -> None:
        """Behaviour 98: no two names may lead to one."""
        assert error_of(session_tenants={"a": {}, name: {}}) == (
            f"session_tenants has {name!r}. A tenant's name is part of the namespace: a"
            " str of printable ASCII characters without '/'."
        )

    def test_what_a_tenant_has_is_a_dict(self) -> None:
        """Behaviour 98: as it is for all of them."""
        assert error_of(session_tenants={"acme": "acme.example"}) == (
            "session_tenants['acme'] is to be a dict of attributes, as"
            " session_cookie_kwargs is."
        )

    def test_the_function_is_a_plain_one(self) -> None:
        """Behaviour 98: nothing waits for it."""

        async def wait(request: HTTPServerRequest) -> str:
            return "acme"

        for value in (None, "acme", wait):
            assert error_of(session_tenant=value) == (
                f"session_tenant={value!r} is to be a plain function that takes a"
                " request and returns the name of one of session_tenants."
            )

    @pytest.mark.parametrize(
        "domain", ["acme.example", ".acme.example", "ACME.example"]
    )
    def test_two_tenants_cannot_have_one_cookie(self, domain: str) -> None:
        """Behaviour 98: unless the path keeps them apart."""
        other = {"domain": domain, "path": "/other"}

        assert error_of(session_tenants=TENANTS | {"other": {"domain": domain}}) == (
            "session_tenants has the same domain and path for 'acme' and 'other':"
            " 'acme.example/'. A browser has one cookie for both, and each of them would"
            " replace that of the other. Give them different domains, or make one tenant"
            " of them."
        )
        Sessions.of(Application(**settings(session_tenants=TENANTS | {"other": other})))

    def test_a_vault_has_one_namespace_for_all(self) -> None:
        """Behaviour 98: sessions of one tenant would be valid for the others."""

        class Sealed(Vault):
            pass

        assert error_of(session_backend=Sealed(MemoryBackend())) == (
            "session_tenants needs a session_backend that is a URL or a Backend: a"
            " Sealed that was made already has one namespace for all."
        )


class Site:
    """The tenants of an application, and a visitor of each host."""

    def __init__(self, app: Application, client: AsyncHTTPClient, url: str) -> None:
        self.app = app
        self.sessions = Sessions.of(app)
        self.client = client
        self.url = url

    async def fetch(
        self, host: str, path: str = "/", cookie: str | None = None
    ) -> HTTPResponse:
        headers = {"Host": host}
        if cookie is not None:
            headers["Cookie"] = f"session={cookie}"
        return await self.client.fetch(
            self.url + path, headers=headers, raise_error=False
        )


def cookie_of(response: HTTPResponse) -> str:
    (line,) = response.headers.get_list("Set-Cookie")
    return line.removeprefix("session=").partition(";")[0]


class Look(SessionMixin):
    def get(self) -> None:
        self.write({"user": self.session.user, "values": dict(self.session)})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        form = self.xsrf_form_html() if self.settings.get("xsrf_cookies") else ""
        self.finish(f"{status_code} for {self.current_user}{form}")


class Login(SessionMixin):
    def get(self) -> None:
        self.session.login("1")
        self.session["host"] = self.request.host_name


class Logout(SessionMixin):
    def get(self) -> None:
        self.session.logout()


class Everywhere(SessionMixin):
    async def get(self) -> None:
        self.write(str(await self.sessions.revoke_all("1")))


@pytest.fixture(params=["memory", "sqlite", "cookie"])
def app(request: pytest.FixtureRequest, tmp_path: Path, io_loop: IOLoop) -> Any:  # noqa: ANN401
    backend = request.param
    if backend == "sqlite":
        backend = f"sqlite:///{tmp_path}/sessions.db?timeout=20"
    app = Application(
        [
            ("/", Look),
            ("/login", Login),
            ("/logout", Logout),
            ("/everywhere", Everywhere),
        ],
        **settings(
            session_backend=backend,
            session_cookie_kwargs={"secure": False},
            session_tenants={**TENANTS, "initech": {"samesite": "Strict"}},
        ),
    )
    yield app
    io_loop.run_sync(Sessions.of(app).close)


@pytest.fixture
def site(app: Application, http_server: HTTPServer, base_url: str) -> Iterator[Site]:
    client = AsyncHTTPClient(force_instance=True)
    yield Site(app, client, base_url)
    client.close()


one_backend = pytest.mark.parametrize("app", ["memory"], indirect=True)


@pytest.mark.gen_test
async def test_the_cookie_is_that_of_the_tenant(site: Site) -> None:
    """Behaviours 42, 98: also where it is expired, so that the browser drops it."""
    for host, attributes in (
        ("acme.example", "Path=/; Domain=acme.example; HttpOnly; SameSite=Lax"),
        ("www.acme.example", "Path=/; Domain=acme.example; HttpOnly; SameSite=Lax"),
        ("globex.example", "Path=/; HttpOnly; SameSite=Lax"),
        ("initech.example:8888", "Path=/; HttpOnly; SameSite=Strict"),
    ):
        login = await site.fetch(host, "/login")
        (begun,) = login.headers.get_list("Set-Cookie")
        logout = await site.fetch(host, "/logout", cookie_of(login))
        (ended,) = logout.headers.get_list("Set-Cookie")

        assert begun.partition("; ")[2] == attributes
        assert ended == (
            "session=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; " + attributes
        )


@pytest.mark.gen_test
async def test_a_session_is_good_for_its_own_tenant_alone(site: Site) -> None:
    """Behaviours 2, 98: its id is an unknown one for all others."""
    cookie = cookie_of(await site.fetch("acme.example", "/login"))

    for host in ("acme.example", "www.acme.example"):
        page = await site.fetch(host, cookie=cookie)
        assert page.body == b'{"user": "1", "values": {"host": "acme.example"}}'
    for host in ("globex.example", "initech.example"):
        page = await site.fetch(host, cookie=cookie)
        assert page.body == b'{"user": null, "values": {}}'
        assert page.headers.get_list("Set-Cookie") == []
        logout = await site.fetch(host, "/logout", cookie)
        assert logout.code == 200
    assert b'"user": "1"' in (await site.fetch("acme.example", cookie=cookie)).body


@pytest.mark.parametrize("app", ["memory", "sqlite"], indirect=True)
@pytest.mark.gen_test
async def test_a_user_is_one_of_a_tenant(site: Site) -> None:
    """Behaviours 46, 98: who has the same name elsewhere stays signed in."""
    cookies = {
        host: cookie_of(await site.fetch(host, "/login"))
        for host in ("acme.example", "globex.example")
    }
    listed = [len(await site.sessions.tenant(name).of_user("1")) for name in TENANTS]
    ended = await site.fetch("acme.example", "/everywhere", cookies["acme.example"])

    assert listed == [1, 1, 0]
    assert ended.body == b"1"
    for host, user in (("acme.example", b"null"), ("globex.example", b'"1"')):
        page = await site.fetch(host, cookie=cookies[host])
        assert b'{"user": ' + user in page.body
    assert await site.sessions.tenant("globex").revoke_all("1") == 1


@one_backend
@pytest.mark.parametrize("host", ["other.example", "nowhere.example", "x" * 999])
@pytest.mark.gen_test
async def test_a_request_for_no_tenant_is_refused(
    site: Site, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviours 75, 98: the log says why, and the page is an ordinary one."""
    cookie = cookie_of(await site.fetch("acme.example", "/login"))
    response = await site.fetch(host, cookie=cookie)

    assert (response.code, response.body) == (421, b"421 for None")
    assert response.headers.get_list("Set-Cookie") == []
    returned = HOSTS.get(host)
    message = (
        f"421 GET / (127.0.0.1): The function session_tenant returned {returned!r} for"
        f" the host {host!r:.100}, and that is none of session_tenants."
    )
    assert message in [record.getMessage() for record in caplog.records]


@one_backend
@pytest.mark.gen_test
async def test_a_page_of_that_error_can_have_a_form(site: Site) -> None:
    """Behaviour 75: it does not come out blank."""
    site.app.settings["xsrf_cookies"] = True
    response = await site.fetch("nowhere.example")

    assert response.code == 421
    assert b"421 for None<input" in response.body


@one_backend
@pytest.mark.gen_test
async def test_an_error_of_the_function_is_answered_500(site: Site) -> None:
    """Behaviour 98: and no session is taken for that of another tenant."""
    cookie = cookie_of(await site.fetch("acme.example", "/login"))

    def fail(request: HTTPServerRequest) -> str:
        raise LookupError(request.host_name)

    site.sessions.tenant_of = fail

    assert (await site.fetch("acme.example", cookie=cookie)).code == 500


@one_backend
@pytest.mark.gen_test
async def test_outside_of_a_request_a_tenant_has_to_be_named(site: Site) -> None:
    """Behaviour 98: an empty list would look like a success."""
    sessions = site.sessions
    message = (
        "The application has session_tenants, and each has its own sessions and users."
        " In a handler use self.sessions, and elsewhere"
        " Sessions.of(application).tenant('acme')."
    )
    for call in (
        sessions.of_user("1"),
        sessions.revoke("1", "a"),
        sessions.revoke_all("1"),
        sessions.edit("1", "a").__aenter__(),
        sessions.forget_devices("1"),
        anext(sessions.of_all_users()),
        sessions.revoke_all_users(),
        sessions.load(None),
        sessions.load_one_of(()),
    ):
        with pytest.raises(SessionError) as caught:
            await call
        assert str(caught.value) == message
    with pytest.raises(ValueError, match="There is no tenant 'other' in session_ten"):
        sessions.tenant("other")
    await sessions.ping()
    assert await sessions.purge() == 0


@pytest.mark.gen_test
async def test_two_applications_may_have_a_tenant_of_one_name() -> None:
    """Behaviour 98: the namespace of the application counts as well."""
    backend = MemoryBackend()
    shop, blog = (
        Sessions.of(
            Application(**settings(session_backend=backend, session_namespace=name))
        ).tenant("acme")
        for name in ("shop", "blog")
    )
    session = await shop.load(None)
    session.login("1")
    await session.save()

    assert (await shop.load(session.expose_token())).user == "1"
    assert (await blog.load(session.expose_token())).is_new
    assert await blog.of_user("1") == []
    await shop.close()
    await blog.close()


@one_backend
@pytest.mark.gen_test
async def test_the_sessions_of_all_tenants_are_closed_together(site: Site) -> None:
    """Behaviour 98: no timer stays."""
    cookie = cookie_of(await site.fetch("acme.example", "/login"))
    await site.fetch("acme.example", cookie=cookie)
    tenant = site.sessions.tenant("acme")
    assert tenant.cleanup.timer is not None
    await site.sessions.close()

    assert tenant.cleanup.timer is None


class WaitingBackend(MemoryBackend):
    """An insert waits until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()
        self.acts: list[str] = []

    async def insert(self, key: bytes, record: Record) -> Version | None:
        self.arrived.set()
        await self.go_on.wait()
        self.acts.append("insert")
        return await super().insert(key, record)

    async def close(self) -> None:
        self.acts.append("close")
        await super().close()


@pytest.mark.gen_test
async def test_the_store_is_closed_after_the_saves_of_all_tenants() -> None:
    """Behaviour 98: it is the store of all of them."""
    backend = WaitingBackend()
    sessions = Sessions.of(Application(**settings(session_backend=backend)))
    session = await sessions.tenant("initech").load(None)
    session.login("1")
    saving = sessions.tenant("initech").tasks.start(session.save())
    await backend.arrived.wait()
    closing = asyncio.ensure_future(sessions.close())
    for _ in range(20):
        await asyncio.sleep(0)
    backend.go_on.set()
    await asyncio.gather(saving, closing)

    assert backend.acts[0] == "insert"


@pytest.mark.gen_test
async def test_an_event_names_the_tenant() -> None:
    """Behaviours 98, 99: user "1" of one tenant is not user "1" of another."""
    told: list[SessionEvent] = []
    app = Application(**settings(session_listener=told.append))
    for name in ("acme", "globex"):
        tenant = Sessions.of(app).tenant(name)
        session = await tenant.load(None)
        session.login("1")
        await session.save()
        await tenant.revoke_all("1")
    await Sessions.of(app).close()

    assert [(event.name, event.tenant, event.user) for event in told] == [
        ("created", "acme", "1"),
        ("revoked", "acme", "1"),
        ("created", "globex", "1"),
        ("revoked", "globex", "1"),
    ]


@one_backend
@pytest.mark.gen_test
async def test_tenants_share_the_backend(site: Site) -> None:
    """Behaviour 98: with its connections and limits."""
    backends = {id(site.sessions.tenant(name).vault.backend) for name in TENANTS}

    assert backends == {id(site.sessions.vault.backend)}


@pytest.mark.gen_test
async def test_two_applications_serve_a_host_each(tmp_path: Path) -> None:
    """As docs/tenants.md has it, each with its own settings and sessions."""
    page = (Path(__file__).parent.parent / "docs/tenants.md").read_text()
    (block,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if "HostMatches" in block
    ]
    block = block.replace("sessions.db", f"{tmp_path}/sessions.db")
    names: dict[str, Any] = {
        "tornado": tornado,
        "Sessions": Sessions,
        "shop_handlers": [("/", Look), ("/login", Login)],
        "blog_handlers": [("/", Look), ("/login", Login)],
    }
    port = free_port()
    block = block.replace("hosts.listen(8888)", f"server = hosts.listen({port})")
    (tmp_path / "hosts.py").write_text(block)
    made = runpy.run_path(str(tmp_path / "hosts.py"), names)
    client = AsyncHTTPClient(force_instance=True)
    url = f"http://127.0.0.1:{port}"

    async def fetch(host: str, path: str, **headers: str) -> HTTPResponse:
        return await client.fetch(url + path, headers={"Host": host, **headers})

    shop, blog = made["applications"]
    codes = [
        (await fetch(host, "/")).body for host in ("www.shop.example", "blog.example")
    ]
    with pytest.raises(tornado.httpclient.HTTPClientError, match="404"):
        await fetch("nowhere.example", "/")
    client.close()
    made["server"].stop()
    for application in (shop, blog):
        await Sessions.of(application).close()

    assert codes == [b'{"user": null, "values": {}}'] * 2
    assert "Domain=shop.example" in line_of(Sessions.of(shop))
    assert Sessions.of(blog).rules.idle_timeout == 3600

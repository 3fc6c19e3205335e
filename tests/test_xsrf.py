"""Tests of what binds Tornado's XSRF tokens to sessions."""

from __future__ import annotations

import dataclasses
import hmac
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler
from tornado_sessions_memory import MemoryBackend

from tests.tokens import token_of
from tornado_sessions import SessionMixin, Sessions
from tornado_sessions.core.values import state_of
from tornado_sessions.http.transports import Transports
from tornado_sessions.http.xsrf import Binding, XSRFKeys, mask, unmask
from tornado_sessions.settings import Settings, read_settings

SECRET = bytes(range(16))


def read(**settings: Any) -> Settings:
    defaults = {
        "session_backend": MemoryBackend(),
        "session_xsrf": True,
        "xsrf_cookies": True,
        "cookie_secret": "c" * 32,
    }
    return read_settings(defaults | settings)


def error_of(**settings: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read(**settings)
    return str(caught.value)


class SettingTest:
    def test_it_is_off_by_default(self) -> None:
        """And then Tornado's own tokens are left as they are."""
        assert read_settings({"session_backend": MemoryBackend()}).xsrf_keys is None
        assert read().xsrf_keys is not None

    @pytest.mark.parametrize("value", [1, "yes", None])
    def test_it_is_true_or_false(self, value: object) -> None:
        """With the setting and its value."""
        message = f"session_xsrf={value!r} is to be True or False."

        assert error_of(session_xsrf=value) == message

    def test_it_needs_xsrf_cookies(self) -> None:
        """There is nothing to bind without them."""
        assert error_of(xsrf_cookies=False) == (
            "session_xsrf=True binds Tornado's XSRF tokens to the session, and there are"
            " none. Set xsrf_cookies=True as well."
        )

    def test_it_needs_tokens_that_are_masked(self) -> None:
        """Version 1 is not."""
        read(xsrf_cookie_version=2)

        assert error_of(xsrf_cookie_version=1) == (
            "session_xsrf=True contradicts xsrf_cookie_version=1: only version 2 is"
            " masked. Remove xsrf_cookie_version."
        )

    @pytest.mark.parametrize("secret", [None, "", {}])
    def test_it_needs_a_cookie_secret(self, secret: object) -> None:
        """With how to make one."""
        assert error_of(cookie_secret=secret) == (
            "You must define the 'cookie_secret' setting in your application to use"
            ' session_xsrf=True. Make one with: python -c "import secrets;'
            ' print(secrets.token_urlsafe(32))"'
        )

    @pytest.mark.parametrize("version", [None, 3])
    def test_it_needs_the_version_of_its_secret(self, version: object) -> None:
        """As Tornado's signed cookies do."""
        assert error_of(cookie_secret={1: "a", 2: "b"}, key_version=version) == (
            f"The 'key_version' setting is {version!r}; it must name one of the versions"
            " of cookie_secret, for session_xsrf=True."
        )

    def test_a_key_version_that_is_no_number_is_not_repeated(self) -> None:
        """Behaviour 89: it may be the secret itself."""
        assert error_of(cookie_secret={1: "a"}, key_version="a secret") == (
            "The 'key_version' setting is a str; it must name one of the versions of"
            " cookie_secret, for session_xsrf=True."
        )

    def test_the_attributes_are_checked(self) -> None:
        """Behaviours 54, 83: the settings are those of Tornado's own cookie."""
        kwargs: dict[str, Any] = {"samesite": "None", "secure": False}

        assert error_of(xsrf_cookie_kwargs=kwargs) == (
            "xsrf_cookie_kwargs has samesite='None' with secure=False: browsers refuse"
            " such a cookie. Remove secure=False, or change samesite."
        )
        assert error_of(xsrf_cookie_kwargs={"expires": 7}) == (
            "xsrf_cookie_kwargs has 'expires', which is none of 'domain', 'path',"
            " 'secure', 'httponly', 'samesite', 'partitioned'. How long the cookie"
            " lasts is set by 'expires_days' or 'max_age'."
        )

    def test_the_name_is_checked_with_the_attributes(self) -> None:
        """Behaviours 54, 83: those of the session cookie count as well."""
        kwargs = {"domain": "x.example"}

        assert error_of(
            xsrf_cookie_name="__Host-xsrf", session_cookie_kwargs=kwargs
        ) == (
            "xsrf_cookie_name='__Host-xsrf' contradicts domain='x.example' in"
            " xsrf_cookie_kwargs: browsers refuse such a cookie. Change one of the two."
        )
        assert error_of(xsrf_cookie_name="a b") == (
            "xsrf_cookie_name='a b' is not a cookie's name. Use letters, digits, '-'"
            " and '_'."
        )


class MaskTest:
    def test_what_is_masked_comes_back(self) -> None:
        """From 16 bytes to 64, and a token is never the same twice."""
        for data in (SECRET, SECRET + b"more", SECRET * 2, SECRET * 4):
            tokens = {mask(data, 1700000000.9) for _ in range(10)}

            assert len(tokens) == 10
            assert {unmask(token.decode()) for token in tokens} == {data}

    def test_tornado_reads_it(self) -> None:
        """A cookie outlives the setting that it was made under."""
        token = mask(SECRET, 1700000000.9).decode()
        # It asks nothing of its handler.
        nobody: Any = None
        answer = RequestHandler._decode_xsrf_token(nobody, token)

        assert answer == (2, SECRET, 1700000000)

    @pytest.mark.parametrize(
        "token",
        [
            "",
            "2",
            f"2|0011|{SECRET.hex()}|1",
            "2|00112233||1",
            f"2|00112233|{SECRET.hex()}0|1",
            f"2|00112233|{SECRET.hex()[:30]}|1",
            f"2|00112233|{SECRET.hex()}zz|1",
            f"2|00112233|{SECRET.hex()}|",
            f"2|00112233|{SECRET.hex()}|1|",
            f"2|00112233|{SECRET.hex()}|1\n",
            f"2|00112233|{'00' * 65}|1",
            f"3|00112233|{SECRET.hex()}|1",
            "00112233445566778899aabbccddeeff",
            "\xe4",
            "\0",
        ],
    )
    def test_anything_else_is_nothing(self, token: str) -> None:
        """Behaviours 3, 70: it never raises, and what is long is not looked at."""
        assert unmask(token) == b""


class KeysTest:
    def test_a_signature_is_of_one_session_and_one_secret(self) -> None:
        """And of one application."""
        keys = XSRFKeys("a" * 32)
        signature = keys.sign("token", SECRET)

        assert keys.verify("token", SECRET, signature)
        assert XSRFKeys(b"a" * 32).verify("token", SECRET, signature)
        assert not keys.verify("other", SECRET, signature)
        assert not keys.verify("token", SECRET[::-1], signature)
        assert not keys.verify("token", SECRET, signature[:-1])
        assert not keys.verify("token", SECRET, b"")
        assert not XSRFKeys("b" * 32).verify("token", SECRET, signature)

    def test_an_old_key_is_good_until_it_is_removed(self) -> None:
        """As it is for a sealed session."""
        old = XSRFKeys({1: "a"}, 1).sign("token", SECRET)
        both = XSRFKeys({1: "a", 2: "b"}, 2)

        assert both.verify("token", SECRET, old)
        assert both.sign("token", SECRET) != old
        assert not XSRFKeys({2: "b"}, 2).verify("token", SECRET, old)

    def test_the_key_is_of_no_other_use(self) -> None:
        """It is made from cookie_secret, and is not cookie_secret itself."""
        bare = hmac.digest(b"a", SECRET + b"token", "sha256")

        assert XSRFKeys("a").sign("token", SECRET) != bare[:16]

    def test_whatever_a_client_calls_its_id_can_be_signed(self) -> None:
        """Behaviour 3: nothing of it raises."""
        for token in ("", "\ud800", "\xe4", "A" * 65536):
            assert len(XSRFKeys("a").sign(token, SECRET)) == 16


class BindingTest:
    def test_what_an_old_key_signed_is_signed_anew(self) -> None:
        """With the form that is open: its secret stays."""
        old = XSRFKeys({1: "a"}, 1)
        keys = XSRFKeys({1: "a", 2: "b"}, 2)
        signed = SECRET + old.sign("token", SECRET)
        binding = Binding(keys, [mask(signed, 0).decode()], ["token"])

        assert binding.accepts(mask(SECRET, 0).decode())
        renewed = SECRET + keys.sign("token", SECRET)
        assert binding.renewed("token", moved=False) == renewed
        again = Binding(keys, [mask(renewed, 0).decode()], ["token"])
        assert again.renewed("token", moved=False) is None

    def test_nothing_is_accepted_where_there_is_no_secret(self) -> None:
        """An empty token does not match an empty cookie."""
        binding = Binding(XSRFKeys("a"), [], [])

        for argument in ("", mask(b"", 0).decode(), mask(SECRET, 0).decode()):
            assert not binding.accepts(argument)

    def test_a_cookie_that_is_too_short_counts_for_nothing(self) -> None:
        """One of another making; the next page gives another."""
        cookie = mask(SECRET[:8], 0).decode()
        binding = Binding(XSRFKeys("a"), [cookie], [])

        assert not binding.accepts(cookie)
        assert len(binding.renewed(None, moved=False) or b"") == 16

    def test_a_login_changes_the_secret_once(self) -> None:
        """Two forms in one page are of one secret, before it and after it."""
        binding = Binding(XSRFKeys("a"), [mask(SECRET, 0).decode()], [])
        before = [binding.secret(moved=False) for _ in range(2)]
        after = [binding.secret(moved=True) for _ in range(2)]

        assert before == [SECRET, SECRET]
        assert after[0] == after[1] != SECRET

    def test_a_visitor_without_a_session_keeps_the_cookie(self) -> None:
        """Also where it was signed for a session that is over."""
        for data in (SECRET, SECRET * 2):
            binding = Binding(XSRFKeys("a"), [mask(data, 0).decode()], [])

            assert binding.accepts(mask(SECRET, 0).decode())
            assert binding.renewed(None, moved=False) is None

    def test_a_client_that_takes_no_part_is_given_nothing(self) -> None:
        """As an API client, which has no form and no cookie."""
        assert Binding(XSRFKeys("a"), [], ["t"]).renewed("t", moved=True) is None


class Site:
    def __init__(self, app: Application, client: AsyncHTTPClient, url: str) -> None:
        self.app = app
        self.client = client
        self.base_url = url

    async def fetch(
        self, handler: type[RequestHandler], **request: Any
    ) -> HTTPResponse:
        self.app.add_handlers(".*", [("/", handler)])
        return await self.client.fetch(
            self.base_url,
            follow_redirects=False,
            raise_error=False,
            request_timeout=30,
            **request,
        )


@pytest.fixture
def app() -> Application:
    return Application(
        session_backend=MemoryBackend(),
        session_xsrf=True,
        session_transports=("cookie", "header", "query"),
        xsrf_cookies=True,
        xsrf_cookie_name="form",
        xsrf_cookie_kwargs={"httponly": True, "samesite": "Strict"},
        cookie_secret="c" * 32,
    )


@pytest.fixture
def site(app: Application, http_server: HTTPServer, base_url: str) -> Iterator[Site]:
    client = AsyncHTTPClient(force_instance=True)
    yield Site(app, client, base_url)
    client.close()


class Form(SessionMixin):
    def get(self) -> None:
        self.write(self.xsrf_form_html())

    def post(self) -> None:
        self.session["posted"] = True


@pytest.mark.gen_test
async def test_the_settings_of_the_xsrf_cookie_hold(site: Site) -> None:
    """Its name and its attributes; and a cache keeps the page to one visitor."""
    response = await site.fetch(Form)

    (line,) = response.headers.get_list("Set-Cookie")
    assert re.fullmatch(r"form=2\|[^;]+; Path=/; HttpOnly; SameSite=Strict", line)
    assert response.headers["Vary"] == "Cookie"
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.gen_test
async def test_the_cookie_of_whoever_is_signed_in_outlives_the_browser(
    site: Site,
) -> None:
    """As Tornado's own does, and the settings stay as they are."""

    class Login(SessionMixin):
        def get(self) -> None:
            self.session.login("ada")
            self.write(self.xsrf_form_html())

    response = await site.fetch(Login)

    (line,) = (
        line
        for line in response.headers.get_list("Set-Cookie")
        if line.startswith("form=")
    )
    assert "; Max-Age=2592000; " in line
    assert site.app.settings["xsrf_cookie_kwargs"] == {
        "httponly": True,
        "samesite": "Strict",
    }


@pytest.mark.gen_test
async def test_the_cookie_of_an_anonymous_visitor_ends_with_the_browser(
    site: Site,
) -> None:
    """As Tornado's own does, also where the visitor has a session."""

    class Begin(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.write(self.xsrf_form_html())

    response = await site.fetch(Begin)

    lines = response.headers.get_list("Set-Cookie")
    assert sorted(line.partition("=")[0] for line in lines) == ["form", "session"]
    assert "Max-Age" not in "".join(lines)


@pytest.mark.gen_test
async def test_a_token_is_bound_to_the_id_of_the_same_response(site: Site) -> None:
    """And another one is drawn where it ends the session."""

    class Handler(SessionMixin):
        def get(self) -> None:
            self.session["a"] = 1
            self.write(self.xsrf_form_html())

        def post(self) -> None:
            self.session.destroy()

    page = await site.fetch(Handler)
    token = re.findall('value="(.*?)"', page.body.decode())[0]
    body = f"_xsrf={token}"
    answers = []
    sent = _pairs(page)
    for _ in range(2):
        headers = {"Cookie": "; ".join(f"{k}={v}" for k, v in sent.items() if v)}
        response = await site.fetch(Handler, method="POST", headers=headers, body=body)
        answers.append(response.code)
        sent |= _pairs(response)

    assert answers == [200, 403]


def _pairs(response: HTTPResponse) -> dict[str, str]:
    """Returns the cookies that a response sets."""
    lines = response.headers.get_list("Set-Cookie")
    return dict(line.partition(";")[0].split("=", 1) for line in lines)


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("", "missing from POST"),
        ("_xsrf=2|00112233|00|1", "does not match the XSRF cookie and the session"),
    ],
)
@pytest.mark.gen_test
async def test_a_refusal_says_why(
    site: Site, argument: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, as Tornado's own does; without the token."""
    response = await site.fetch(Form, method="POST", body=argument)

    assert response.code == 403
    message = f"403 POST / (127.0.0.1): '_xsrf' argument {reason}"
    assert message in [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("header", ["X-XSRFToken", "X-CSRFToken"])
@pytest.mark.gen_test
async def test_a_token_may_come_in_a_header(site: Site, header: str) -> None:
    """In either that Tornado takes."""
    token, cookie, _ = await begin(site)
    sent = {"Cookie": f"form={cookie}; session={token}", header: cookie}
    response = await site.fetch(Form, method="POST", headers=sent, body="")

    assert response.code == 200


@pytest.mark.gen_test
async def test_an_error_page_from_before_prepare_can_have_a_form(site: Site) -> None:
    """A base template that has one in it keeps no error from being answered."""

    class Handler(Form):
        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.finish(self.xsrf_form_html())

    response = await site.fetch(Handler, method="POST", body="")

    assert response.code == 403
    (line,) = response.headers.get_list("Set-Cookie")
    token = re.findall('value="(.*?)"', response.body.decode())[0]
    cookie = line.partition("=")[2].partition(";")[0].strip('"')
    assert unmask(cookie) == unmask(token) != b""


async def begin(site: Site) -> tuple[str, str, str]:
    """Returns the token, the cookie and the form of a session."""
    sessions = Sessions.of(site.app)
    session = await sessions.load(None)
    session["a"] = 1
    await session.save()
    assert state_of(session).token is not None
    assert sessions.settings.xsrf_keys is not None
    signed = SECRET + sessions.settings.xsrf_keys.sign(token_of(session), SECRET)
    cookie, form = (mask(data, 0).decode() for data in (signed, SECRET))
    return token_of(session), cookie, form


@pytest.mark.parametrize("way", ["cookie", "query"])
@pytest.mark.gen_test
async def test_a_token_is_bound_to_an_id_however_it_comes(site: Site, way: str) -> None:
    """Behaviour 73: it is read before the session is loaded."""
    token, cookie, form = await begin(site)
    sent = {"Cookie": f"form={cookie}"}
    url = ""
    if way == "cookie":
        sent["Cookie"] += f"; session={token}"
    else:
        url = f"/?session={token}"
    site.base_url += url
    answers = [
        (await site.fetch(Form, method="POST", headers=sent, body=body)).code
        for body in (f"_xsrf={form}", f"_xsrf={mask(SECRET[::-1], 0).decode()}")
    ]
    sent = {name: value.replace(token, "A" * 43) for name, value in sent.items()}
    site.base_url = site.base_url.replace(token, "A" * 43)
    other = await site.fetch(Form, method="POST", headers=sent, body=f"_xsrf={form}")

    assert answers == [200, 403]
    assert other.code == 403


@pytest.mark.parametrize("binds", [True, False])
@pytest.mark.gen_test
async def test_an_id_in_the_header_needs_no_token(site: Site, binds: bool) -> None:
    """Behaviour 73: unless another way comes first, which a browser may have taken."""
    token, cookie, _ = await begin(site)
    sessions = Sessions.of(site.app)
    if not binds:
        sessions.settings = dataclasses.replace(sessions.settings, xsrf_keys=None)
    answers = []
    for names in (("header", "cookie"), ("cookie", "header")):
        sessions.settings = dataclasses.replace(
            sessions.settings, transports=Transports(names)
        )
        sent = {"Cookie": f"form={cookie}; session={token}", "X-Session-Token": token}
        for headers in (sent, {"X-Session-Token": token}, {"X-Session-Token": ""}, {}):
            response = await site.fetch(Form, method="POST", headers=headers, body="")
            answers.append(response.code)

    assert answers == [200, 200, 200, 403, 403, 200, 200, 403]


@pytest.mark.gen_test
async def test_of_two_ids_a_token_counts_for_the_one_that_is_alive(site: Site) -> None:
    """Behaviours 35, 83: one that is not signed for it is refused."""
    token, cookie, form = await begin(site)
    _, planted, planted_form = await begin(site)
    unsigned = mask(SECRET, 0).decode()
    answers = []
    for sent, argument in (
        (cookie, form),
        (planted, planted_form),
        (unsigned, unsigned),
    ):
        cookies = f"form={sent}; session={'A' * 43}; session={token}"
        response = await site.fetch(
            Form,
            method="POST",
            headers={"Cookie": cookies},
            body=f"_xsrf={quote(argument)}",
        )
        answers.append(response.code)

    assert answers == [200, 403, 403]


@pytest.mark.parametrize("ways", [("cookie",), ("cookie", "header"), ("header",)])
@pytest.mark.gen_test
async def test_an_id_that_is_withheld_binds_nothing(
    site: Site, ways: tuple[str, ...]
) -> None:
    """Behaviours 58, 83: the client will have neither of the two cookies."""
    Sessions.of(site.app)
    site.app.settings["session_transports"] = ways
    del vars(site.app)["_tornado_sessions"]
    host = {} if ways == ("header",) else {"Host": "shop.example"}

    class Handler(Form):
        def get(self) -> None:
            self.session["a"] = 1
            super().get()

    page = await site.fetch(Handler, headers=host)
    lines = page.headers.get_list("Set-Cookie")
    form = re.findall('value="(.*?)"', page.body.decode())[0]
    sent = host | {"Cookie": "".join(line.partition(";")[0] for line in lines)}
    response = await site.fetch(Form, method="POST", headers=sent, body=f"_xsrf={form}")

    assert len(lines) == (0 if host else 1)
    assert response.code == (403 if host else 200)


@pytest.mark.gen_test
async def test_a_login_that_fails_leaves_no_old_token_behind(site: Site) -> None:
    """Behaviour 29: what was saved before the error is not undone."""

    class Login(SessionMixin):
        async def post(self) -> None:
            self.session.login("ada")
            await self.session.save()
            raise ArithmeticError

    token, cookie, form = await begin(site)
    sent = {"Cookie": f"form={cookie}; session={token}"}
    response = await site.fetch(
        Login, method="POST", headers=sent, body=f"_xsrf={form}"
    )
    pairs = [line.partition(";")[0] for line in response.headers.get_list("Set-Cookie")]
    again = await site.fetch(
        Form, method="POST", headers={"Cookie": "; ".join(pairs)}, body=f"_xsrf={form}"
    )

    assert response.code == 500
    assert sorted(pair.partition("=")[0] for pair in pairs) == ["form", "session"]
    assert again.code == 403

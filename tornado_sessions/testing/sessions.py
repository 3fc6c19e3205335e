"""Stores and reads the sessions of an application, for the tests of its handlers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from tornado.httputil import HTTPHeaders
from tornado.web import Application

from tornado_sessions.http.transports import HEADER, put_in_url, read_header
from tornado_sessions.http.xsrf import mask
from tornado_sessions.session import Session
from tornado_sessions.sessions import Sessions
from tornado_sessions.settings import Settings


def settings_for_tests(**settings: Any) -> dict[str, Any]:
    """Returns settings for an application under test, extended by ``settings``.

    Each call has a ``session_backend`` in memory and a ``cookie_secret`` of its own,
    so that no test sees sessions of another. The plugin ``memory`` is needed.
    Nothing has to be changed for plain http on a test's port: on loopback the cookie
    is sent without Secure and without the prefix of its name.
    """
    return {
        "session_backend": "memory",
        "cookie_secret": secrets.token_urlsafe(32),
        **settings,
    }


async def start_session(
    app: Application, user: str | None = None, /, **values: Any
) -> Session:
    """Stores a session with these values and returns it.

    ``user`` is signed in as by `.Session.login`; None is an anonymous visitor.
    Nothing is stored without a user and values. Raises what `.Session.save` raises.
    """
    session = await Sessions.of(app).load(None)
    session.update(values)
    if user is not None:
        session.login(user)
    await session.save()
    return session


async def sign_in(app: Application, user: str, /, **values: Any) -> dict[str, str]:
    """Stores a session of ``user`` with these values.

    Returns the headers of a request with that session, see `headers_of`. Raises what
    `.Session.save` raises.
    """
    return headers_of(app, await start_session(app, user, **values))


async def load_session(
    app: Application, headers: Mapping[str, str] | HTTPHeaders
) -> Session:
    """Returns the session of a request with ``headers``, as the store has it now.

    It is an empty one with ``is_new`` if there is none, or if it has ended. What a
    test changes in it is stored with ``await session.save()``, by compare-and-set.
    With the cookie backend each save changes the id: take `headers_of` again. Raises
    `.BackendError` if the store fails.
    """
    sessions = Sessions.of(app)
    tokens = ids_in(sessions.settings, HTTPHeaders(headers))
    if len(tokens) > 1:
        return await sessions.load_one_of(tokens)
    return await sessions.load(tokens[0] if tokens else None)


def headers_of(
    app: Application,
    session: Session,
    *,
    https: bool | None = None,
    transport: str | None = None,
) -> dict[str, str]:
    """Returns the headers of a request that comes with ``session``.

    ``https`` is whether the request goes over https, where the cookie has a prefix in
    its name. By default the cookie is there under both names, and the application
    takes the right one. ``transport`` is ``"cookie"`` or ``"header"``; by default the
    first one in ``session_transports``. With ``xsrf_cookies`` the headers also have
    the cookie ``_xsrf`` and, for a POST, ``X-Xsrftoken``. Without it, but with
    ``session_cross_origin_protection``, they have ``Sec-Fetch-Site``.

    Raises `.SessionError` if the session is not saved, and `ValueError` if the id
    travels in the URL only: see `url_of`.
    """
    settings = Sessions.of(app).settings
    token = session.expose_token()
    transport = transport_of(settings, transport)
    if transport == "query":
        raise ValueError(
            "No header has the session id of transport='query': it travels in the URL."
            " Use url_of(session, url)."
        )
    if transport == "header":
        return {HEADER: token}
    cookies = {}
    xsrf = xsrf_token(app, token)
    for secure in (False, True) if https is None else (https,):
        cookie = settings.cookie if secure else settings.loopback_cookie
        cookies[cookie.name] = token
        if xsrf is not None:
            cookies[xsrf_cookie_name(app, secure)] = xsrf
    return {"Cookie": cookie_header(cookies), **proof_of_origin(app, xsrf)}


def url_of(session: Session, url: str) -> str:
    """Returns ``url`` with the id of ``session`` in it.

    It is for a client without cookies, with ``"query"`` in ``session_transports``.
    Raises `.SessionError` if the session is not saved.
    """
    parts = urlsplit(url)
    return put_in_url(url, session.expose_token(), parts.scheme, parts.netloc)


def transport_of(settings: Settings, name: str | None) -> str:
    """Returns ``name``, or the first transport in the settings that headers can be.

    Raises `ValueError` if the application does not have the transport ``name``.
    """
    names = ("cookie",) if settings.transports is None else settings.transports.names
    if name is None:
        return next((each for each in names if each != "query"), "query")
    if name not in names:
        raise ValueError(
            f"transport={name!r} is not among the transports of this application,"
            f" session_transports={names!r}."
        )
    return name


def ids_in(settings: Settings, headers: HTTPHeaders) -> Sequence[str]:
    """Returns the different ids of the first transport that ``headers`` have."""
    names = ("cookie",) if settings.transports is None else settings.transports.names
    for name in names:
        values: list[str] = []
        if name == "cookie":
            lines = headers.get_list("Cookie")
            for cookie in (settings.cookie, settings.loopback_cookie):
                values += cookie.read(lines)
        elif name == "header":
            values = read_header(headers.get_list(HEADER))
        if values:
            return list(dict.fromkeys(values))
    return ()


def xsrf_token(app: Application, token: str | None) -> str | None:
    """Returns an XSRF token for the session of ``token``; the cookie has the same.

    Returns None if the application has no ``xsrf_cookies``.
    """
    if not app.settings.get("xsrf_cookies"):
        return None
    sessions, secret = Sessions.of(app), secrets.token_bytes(16)
    keys = sessions.settings.xsrf_keys
    if keys is not None and token is not None:
        secret += keys.sign(token, secret)
    # Tornado's own tokens look the same.
    return mask(secret, sessions.now()).decode()


def xsrf_cookie_name(app: Application, https: bool) -> str:
    """Returns the name of the XSRF cookie."""
    settings = Sessions.of(app).settings
    cookie = settings.xsrf_cookie if https else settings.loopback_xsrf_cookie
    name: str = app.settings.get("xsrf_cookie_name", "_xsrf")
    return name if cookie is None else cookie.name


def proof_of_origin(app: Application, token: str | None) -> dict[str, str]:
    """Returns the header that says that a POST comes from a page of ``app``.

    ``token`` is the XSRF token; None if the application has none.
    """
    if token is not None:
        return {"X-Xsrftoken": token}
    if Sessions.of(app).settings.origins is not None:
        return {"Sec-Fetch-Site": "same-origin"}
    return {}


def cookie_header(cookies: Mapping[str, str]) -> str:
    """Returns the Cookie header with these cookies."""
    return "; ".join(f"{name}={value}" for name, value in cookies.items())

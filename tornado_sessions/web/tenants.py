"""Finds the tenant of a request, see the setting ``session_tenants``."""

from __future__ import annotations

import tornado.web
from tornado.httputil import HTTPServerRequest

from tornado_sessions.sessions import Sessions


def sessions_of_tenant(application: Sessions, request: HTTPServerRequest) -> Sessions:
    """Returns the sessions of the tenant that ``request`` is for.

    Raises `~tornado.web.HTTPError` with 421 (Misdirected Request: RFC 9110, section
    15.5.20) where the function of the application names none of its tenants. The client
    chooses the host, so that is no error of the application.
    """
    assert application.tenant_of is not None
    name = application.tenant_of(request)
    tenant = application.tenants.get(name)
    if tenant is None:
        raise tornado.web.HTTPError(
            421,
            "The function session_tenant returned %.100r for the host %.100r, and that"
            " is none of session_tenants.",
            name,
            request.host,
        )
    return tenant

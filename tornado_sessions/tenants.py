"""Reads the settings of the tenants of one application."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from tornado.httputil import HTTPServerRequest

from tornado_sessions.settings import Settings, read_settings
from tornado_sessions.storage.vault import Vault

#: The setting ``session_tenant``: returns the name of the tenant of a request.
TenantOf: TypeAlias = Callable[[HTTPServerRequest], str]


def read_tenants(settings: Mapping[str, Any], base: Settings) -> dict[str, Settings]:
    """Returns the checked settings of each tenant, by its name.

    ``base`` are those of the application. A tenant has its own namespace and the
    attributes of its cookie, and everything else in common with the others, the
    backend as well. Empty if there are no tenants. Raises `ValueError` if settings are
    wrong or contradict each other.
    """
    tenants: Any = settings.get("session_tenants")
    tenant_of = settings.get("session_tenant")
    if tenants is None and tenant_of is None:
        return {}
    _check(tenants, tenant_of)
    backend = _shared_backend(settings["session_backend"], base.vault)
    common = {**settings, "session_backend": backend}
    read = {name: _read(name, own, common) for name, own in tenants.items()}
    _refuse_shared_cookies(read)
    return read


def _read(name: str, own: Mapping[str, Any], common: Mapping[str, Any]) -> Settings:
    namespace = common.get("session_namespace", "")
    kwargs = common.get("session_cookie_kwargs", {})
    settings = {
        **common,
        "session_namespace": f"{namespace}/{name}",
        "session_cookie_kwargs": {**kwargs, **own},
    }
    try:
        return read_settings(settings, name)
    except ValueError as error:
        raise ValueError(f"session_tenants[{name!r}]: {error}") from error


def _check(tenants: object, tenant_of: object) -> None:
    if not isinstance(tenants, Mapping) or not tenants:
        raise ValueError(
            f"session_tenants={tenants!r} is to be a dict of the attributes of each"
            " tenant's cookie, such as {'acme': {'domain': 'acme.example'}}."
        )
    if not callable(tenant_of) or inspect.iscoroutinefunction(tenant_of):
        raise ValueError(
            f"session_tenant={tenant_of!r} is to be a plain function that takes a"
            " request and returns the name of one of session_tenants."
        )
    for name, own in tenants.items():
        if not (isinstance(name, str) and name.isascii() and name.isprintable()) or (
            not name or "/" in name
        ):
            raise ValueError(
                f"session_tenants has {name!r}. A tenant's name is part of the"
                " namespace: a str of printable ASCII characters without '/'."
            )
        if not isinstance(own, Mapping):
            raise ValueError(
                f"session_tenants[{name!r}] is to be a dict of attributes, as"
                " session_cookie_kwargs is."
            )


def _shared_backend(setting: object, vault: Vault) -> object:
    """Returns the setting ``session_backend`` of all tenants."""
    if type(vault) is Vault:
        # One connection for all.
        return vault.backend
    if isinstance(setting, str):
        # A vault binds its records to the namespace by itself.
        return setting
    raise ValueError(
        f"session_tenants needs a session_backend that is a URL or a Backend: a"
        f" {type(vault).__name__} that was made already has one namespace for all."
    )


def _refuse_shared_cookies(tenants: Mapping[str, Settings]) -> None:
    """Raises for two tenants whose cookies replace each other in the browser."""
    known: dict[str, str] = {}
    for name, settings in tenants.items():
        place = settings.cookie.place
        if place is None:
            continue
        other = known.setdefault(place, name)
        if other != name:
            raise ValueError(
                f"session_tenants has the same domain and path for {other!r} and"
                f" {name!r}: {place!r}. A browser has one cookie for both, and each of"
                " them would replace that of the other. Give them different domains, or"
                " make one tenant of them."
            )

"""Reads and checks the ``session_*`` settings, once for each application."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import logging
import math
import os
from collections.abc import Mapping
from typing import Any

from tornado_sessions.events import Listener
from tornado_sessions.http.cookies import CookieSettings
from tornado_sessions.http.origins import Origins
from tornado_sessions.http.transports import Transports
from tornado_sessions.http.xsrf import XSRFKeys
from tornado_sessions.misspelt import refuse_misspelt
from tornado_sessions.storage.backend import Backend
from tornado_sessions.storage.registry import FILE_ADVICE, open_backend
from tornado_sessions.storage.vault import Vault

logger = logging.getLogger("tornado_sessions")

_defaults: dict[str, Any] = {
    "session_backend": None,
    "session_cookie_name": "session",
    "session_cookie_kwargs": {},
    "session_idle_timeout": 24 * 3600,
    "session_lifetime": 14 * 24 * 3600,
    "session_anonymous_idle_timeout": None,
    "session_anonymous_lifetime": None,
    "session_persistent": False,
    "session_namespace": "",
    "session_socket_interval": 30,
    "session_tenant": None,
    "session_tenants": None,
    "session_transports": ("cookie",),
    "session_xsrf": False,
    "session_cross_origin_protection": False,
    "session_max_per_user": None,
    "session_max_per_user_policy": "oldest",
    "session_listener": None,
    "session_listener_requests": False,
    "session_listener_devices": False,
}

_of_listener = ("session_listener_requests", "session_listener_devices")
_switches = (
    *("session_persistent", "session_xsrf", "session_cross_origin_protection"),
    *_of_listener,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of one application, checked. Times are in seconds."""

    vault: Vault
    idle_timeout: float = 24 * 3600
    lifetime: float = 14 * 24 * 3600
    #: For sessions without a user; None where the two above count for everybody.
    anonymous_idle_timeout: float | None = None
    anonymous_lifetime: float | None = None
    persistent: bool = False
    max_per_user: int | None = None
    max_per_user_policy: str = "oldest"
    listener: Listener | None = None
    #: Whether events have data of the request, and whether there is "new_device".
    listener_requests: bool = False
    listener_devices: bool = False
    #: The name of the tenant that these settings are of.
    tenant: str | None = None
    socket_interval: float = 30
    #: None where cookies are the only transport.
    transports: Transports | None = None
    cookie: CookieSettings = dataclasses.field(
        default_factory=lambda: CookieSettings("session", {})
    )
    #: The cookie as plain http on loopback can carry it.
    loopback_cookie: CookieSettings = dataclasses.field(init=False)
    #: None unless ``session_xsrf`` is set.
    xsrf_keys: XSRFKeys | None = None
    xsrf_cookie: CookieSettings | None = None
    loopback_xsrf_cookie: CookieSettings | None = dataclasses.field(init=False)
    #: For how many seconds the XSRF cookie lasts; None for Tornado's own choice.
    xsrf_max_age: int | None = None
    #: None unless ``session_cross_origin_protection`` is set.
    origins: Origins | None = None

    def __post_init__(self) -> None:
        xsrf = self.xsrf_cookie
        for name, value in (
            ("loopback_cookie", self.cookie.on_loopback()),
            ("loopback_xsrf_cookie", None if xsrf is None else xsrf.on_loopback()),
        ):
            # It is frozen for everybody else.
            object.__setattr__(self, name, value)


def read_settings(settings: Mapping[str, Any], tenant: str | None = None) -> Settings:
    """Returns the checked settings of an application, or of its ``tenant``.

    Raises `ValueError` if settings are wrong or contradict each other, and
    `.BackendNotFoundError` if the backend is not installed.
    """
    refuse_misspelt(settings, _defaults)
    values = {name: settings.get(name, default) for name, default in _defaults.items()}
    for name in ("session_cookie_name", "session_namespace"):
        if not isinstance(values[name], str):
            raise ValueError(f"{name}={values[name]!r} is to be a str.")
    if not values["session_namespace"].isascii():
        raise ValueError(
            f"session_namespace={values['session_namespace']!r} is to be of ASCII"
            " characters."
        )
    if not isinstance(values["session_cookie_kwargs"], Mapping):
        raise ValueError("session_cookie_kwargs is to be a dict of attributes.")
    for name in _switches:
        if not isinstance(values[name], bool):
            raise ValueError(f"{name}={values[name]!r} is to be True or False.")
    timeouts = _timeouts(values)
    socket_interval = _seconds("session_socket_interval", values)
    transports = Transports(values["session_transports"])
    _check_limit(values)
    _check_listener(values)
    # The cookie first: its checks need no backend.
    cookie = CookieSettings(
        values["session_cookie_name"], values["session_cookie_kwargs"]
    )
    _check_xsrf_cookie(cookie, values["session_cookie_name"], settings)
    xsrf_keys = xsrf_cookie = xsrf_max_age = None
    if values["session_xsrf"]:
        xsrf_keys = _xsrf_keys(settings)
        xsrf_cookie, xsrf_max_age = _xsrf_cookie(cookie, settings)
    origins = None
    if values["session_cross_origin_protection"]:
        origins = Origins(settings.get("trusted_origins", ()))
    vault = _vault_for(transports, values, settings)
    limit = values["session_max_per_user"]
    if limit is not None and not vault.finds_by_user:
        name = type(getattr(vault, "backend", vault)).__name__
        raise ValueError(
            f"session_max_per_user={limit} needs a backend that can look up the"
            f" sessions of a user, and session_backend is a {name}, which cannot. Use"
            " another one, such as 'sqlite', or remove session_max_per_user."
        )
    if values["session_listener_devices"] and not hasattr(vault, "backend"):
        raise ValueError(
            "session_listener_devices=True needs a store that remembers the labels of"
            f" each user, and session_backend is a {type(vault).__name__}, which has"
            " none. Use another one, such as 'sqlite', or remove"
            " session_listener_devices."
        )
    return Settings(
        cookie=cookie,
        **timeouts,
        persistent=values["session_persistent"],
        socket_interval=socket_interval,
        transports=None if transports.is_cookie_alone else transports,
        xsrf_keys=xsrf_keys,
        xsrf_cookie=xsrf_cookie,
        xsrf_max_age=xsrf_max_age,
        origins=origins,
        max_per_user=limit,
        max_per_user_policy=values["session_max_per_user_policy"],
        listener=values["session_listener"],
        listener_requests=values["session_listener_requests"],
        listener_devices=values["session_listener_devices"],
        vault=vault,
        tenant=tenant,
    )


def _check_xsrf_cookie(
    cookie: CookieSettings, name: str, settings: Mapping[str, Any]
) -> None:
    theirs = settings.get("xsrf_cookie_name", "_xsrf")
    names = (cookie.name, cookie.on_loopback().name)
    if settings.get("xsrf_cookies") and theirs in names:
        raise ValueError(
            f"session_cookie_name={name!r} is also the name of Tornado's XSRF cookie."
            " Change it, or xsrf_cookie_name."
        )


def _xsrf_keys(settings: Mapping[str, Any]) -> XSRFKeys:
    if not settings.get("xsrf_cookies"):
        raise ValueError(
            "session_xsrf=True binds Tornado's XSRF tokens to the session, and there are"
            " none. Set xsrf_cookies=True as well."
        )
    version = settings.get("xsrf_cookie_version", 2)
    if version != 2:
        raise ValueError(
            f"session_xsrf=True contradicts xsrf_cookie_version={version!r}: only"
            " version 2 is masked. Remove xsrf_cookie_version."
        )
    return XSRFKeys(settings.get("cookie_secret"), settings.get("key_version"))


def _xsrf_cookie(
    cookie: CookieSettings, settings: Mapping[str, Any]
) -> tuple[CookieSettings, int | None]:
    """Returns the XSRF cookie with the attributes of ours, and its Max-Age."""
    kwargs = dict(settings.get("xsrf_cookie_kwargs") or {})
    days, age = kwargs.pop("expires_days", None), kwargs.pop("max_age", None)
    if age is None and days is not None:
        age = days * 24 * 3600
    name = settings.get("xsrf_cookie_name", "_xsrf")
    return cookie.for_scripts(name, kwargs), None if age is None else int(age)


def _vault_for(
    transports: Transports, values: Mapping[str, Any], settings: Mapping[str, Any]
) -> Vault:
    vault = _vault(values["session_backend"], values["session_namespace"], settings)
    if "query" in transports.names and not vault.revocable:
        raise ValueError(
            f"session_transports={transports.names!r} needs a backend that keeps"
            f" sessions on the server: with {type(vault).__name__} the id is the"
            " session itself, too long for a URL, and another one after each change."
            " Remove 'query', or choose another session_backend."
        )
    return vault


def _vault(backend: Any, namespace: str, settings: Mapping[str, Any]) -> Vault:  # noqa: ANN401
    if backend is None:
        raise ValueError(
            "You must define the 'session_backend' setting in your application to use"
            ' sessions, such as session_backend="sqlite:///sessions.db".'
        )
    opened = open_backend(backend, settings) if isinstance(backend, str) else backend
    if isinstance(opened, Vault):
        return opened
    if isinstance(opened, Backend):
        return Vault(opened, namespace)
    if isinstance(opened, os.PathLike):
        raise ValueError(
            "The session_backend setting is to be a URL, a name or a Backend, and is a"
            f" path. {FILE_ADVICE}"
        )
    what = (
        f"the class {opened.__name__}; make an instance of it"
        if isinstance(opened, type)
        else f"of type {type(opened).__name__}"
    )
    raise ValueError(
        f"The session_backend setting is to be a URL, a name or a Backend, and is {what}."
    )


def _check_limit(values: Mapping[str, Any]) -> None:
    limit = values["session_max_per_user"]
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(
            f"session_max_per_user={limit!r} is to be a whole number above zero, or"
            " None for no limit."
        )
    policy = values["session_max_per_user_policy"]
    if policy not in ("oldest", "refuse"):
        raise ValueError(
            f"session_max_per_user_policy={policy!r} is to be 'oldest', where the"
            " oldest sign-in makes room for a new one, or 'refuse'."
        )
    if limit is None and policy != "oldest":
        raise ValueError(
            f"session_max_per_user_policy={policy!r} does nothing without"
            " session_max_per_user, the number of sessions that a user may have."
        )


def _check_listener(values: Mapping[str, Any]) -> None:
    listener = values["session_listener"]
    for name in _of_listener:
        if listener is None and values[name]:
            raise ValueError(
                f"{name}=True does nothing without session_listener, the function that"
                " is called with each event."
            )
    if listener is not None and not callable(listener):
        raise ValueError(
            f"session_listener={listener!r} is to be a function that takes a"
            " SessionEvent."
        )
    if inspect.iscoroutinefunction(listener):
        raise ValueError(
            f"session_listener={listener!r} is a coroutine function, and nothing waits"
            " for it. Use a plain one that hands what takes time to a task or a queue."
        )


def _timeouts(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the timeouts that are set, by the names of the fields of `Settings`."""
    timeouts = {
        name: _seconds(f"session_{name}", values)
        for name in ("idle_timeout", "lifetime")
    }
    for name in ("anonymous_idle_timeout", "anonymous_lifetime"):
        if values[f"session_{name}"] is not None:
            timeouts[name] = _seconds(f"session_{name}", values)
    pairs = [("idle_timeout", "lifetime")]
    if "anonymous_idle_timeout" in timeouts:
        own = "anonymous_lifetime" in timeouts
        pairs.append(
            ("anonymous_idle_timeout", "anonymous_lifetime" if own else "lifetime")
        )
    for idle, life in pairs:
        if timeouts[idle] > timeouts[life]:
            logger.warning(
                "session_%s (%d s) is longer than session_%s (%d s), which"
                " ends each session first. Raise session_%s.",
                idle,
                timeouts[idle],
                life,
                timeouts[life],
                life,
            )
    return timeouts


def _seconds(name: str, values: Mapping[str, Any]) -> float:
    value = values[name]
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        advice = ""
        if value is None and name != "session_socket_interval":
            advice = " Every session ends; give a long time."
        raise ValueError(
            f"{name}={value!r} is to be in seconds, or a timedelta.{advice}"
        )
    if not value > 0:
        raise ValueError(f"{name}={value!r} is to be more than zero seconds.")
    if not math.isfinite(value):
        raise ValueError(
            f"{name}={value!r} is to be a number of seconds: every session ends."
        )
    return float(value)

"""Tests of the settings: their defaults, and every error in its words."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tornado.web
from tornado_sessions_memory import MemoryBackend

from tornado_sessions import (
    Backend,
    Record,
    SessionEvent,
    Sessions,
    Vault,
)
from tornado_sessions.settings import Settings, read_settings
from tornado_sessions.storage import registry as registry_module


class SealedVault(Vault):
    """A vault of its own kind, as the cookie backend is one."""

    def __init__(self) -> None:
        super().__init__(MemoryBackend(), "its own")


def read(**settings: Any) -> Settings:
    return read_settings({"session_backend": MemoryBackend(), **settings})


def error_of(**settings: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read(**settings)
    return str(caught.value)


class DefaultsTest:
    def test_a_backend_is_all_that_is_needed(self) -> None:
        """Behaviour 54: everything else has a default, and a safe one."""
        settings = read_settings({"session_backend": MemoryBackend()})

        assert settings.cookie.line("x") == (
            "__Host-Http-session=x; Path=/; Secure; HttpOnly; SameSite=Lax"
        )
        assert settings.idle_timeout == 24 * 3600
        assert settings.lifetime == 14 * 24 * 3600
        assert settings.persistent is False
        assert settings.socket_interval == 30

    def test_they_are_those_of_sessions_made_by_hand(self) -> None:
        """One default in one place would be better; two that agree will do."""
        settings = read_settings({"session_backend": MemoryBackend()})
        sessions = Sessions(Settings(Vault(MemoryBackend())))

        assert sessions.settings.cookie.line("x") == settings.cookie.line("x")
        assert sessions.rules.idle_timeout == settings.idle_timeout
        assert sessions.rules.lifetime == settings.lifetime
        assert sessions.rules.persistent == settings.persistent
        assert sessions.logins.limit is settings.max_per_user is None
        assert sessions.events.listener is settings.listener is None
        assert sessions.logins.policy == settings.max_per_user_policy

    def test_other_settings_are_left_alone(self) -> None:
        """Tornado's, and those of the application."""
        read(debug=True, cookie_secret="x", session_cart_size=3, sessions=1)


class BackendSettingTest:
    def test_it_is_required(self) -> None:
        """As Tornado says of its own settings, with an example."""
        assert error_of(session_backend=None) == (
            "You must define the 'session_backend' setting in your application to use"
            ' sessions, such as session_backend="sqlite:///sessions.db".'
        )

    def test_it_may_be_a_backend(self) -> None:
        """An instance, which nobody else has to know how to make."""
        backend = MemoryBackend()

        assert read(session_backend=backend).vault.backend is backend

    def test_it_may_be_a_vault(self) -> None:
        """Such as the sealed cookie."""
        vault = SealedVault()

        assert read(session_backend=vault, session_namespace="x").vault is vault

    def test_it_may_be_a_name_or_a_url(self) -> None:
        """Behaviour 74: found through its entry point."""
        settings = read(session_backend="memory:?max_records=7")
        backend: Any = settings.vault.backend
        assert type(backend) is MemoryBackend
        assert backend.max_records == 7

    def test_it_is_not_a_class(self) -> None:
        """A slip that is easily made."""
        assert error_of(session_backend=MemoryBackend) == (
            "The session_backend setting is to be a URL, a name or a Backend, and is"
            " the class MemoryBackend; make an instance of it."
        )

    @pytest.mark.parametrize("value", [7, b"memory", ["memory"]])
    def test_it_is_nothing_else(self, value: object) -> None:
        """With its type, and without its value."""
        assert error_of(session_backend=value) == (
            "The session_backend setting is to be a URL, a name or a Backend, and is"
            f" of type {type(value).__name__}."
        )

    def test_what_a_plugin_makes_is_checked_as_well(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A plugin may be wrong about what it is asked for."""

        class Wrong:
            @classmethod
            def from_url(cls, url: str, settings: Mapping[str, Any]) -> int:
                return 7

        monkeypatch.setattr(registry_module, "_find", lambda name: Wrong)

        assert error_of(session_backend="wrong:").endswith("is of type int.")

    def test_it_is_opened_when_everything_else_is_right(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Behaviour 54: a contradiction is told without a backend."""
        opened = []

        class Counted(MemoryBackend):
            @classmethod
            def from_url(cls, url: str, settings: Mapping[str, Any]) -> Counted:
                opened.append(url)
                return cls()

        monkeypatch.setattr(registry_module, "_find", lambda name: Counted)
        for wrong in (
            {
                "session_cookie_name": "__Host-id",
                "session_cookie_kwargs": {"path": "/x"},
            },
            {"session_idle_timeout": 0},
            {"session_lifetime": "1"},
            {"session_persistent": 1},
            {"session_namespace": None},
            {"session_lifetme": 1},
            {"session_socket_interval": 0},
            {"session_transports": ()},
            {"session_xsrf": True},
        ):
            error_of(session_backend="counted:", **wrong)

        assert opened == []
        read(session_backend="counted:")
        assert opened == ["counted:"]


class CookieSettingsTest:
    def test_name_and_attributes_are_the_cookies(self) -> None:
        """Behaviour 54: the attributes are merged over the defaults."""
        settings = read(
            session_cookie_name="sid", session_cookie_kwargs={"samesite": "Strict"}
        )

        assert settings.cookie.line("x") == (
            "__Host-Http-sid=x; Path=/; Secure; HttpOnly; SameSite=Strict"
        )

    def test_a_contradiction_fails_when_the_application_starts(self) -> None:
        """Behaviour 54: at `Sessions.of`, naming both."""
        application = tornado.web.Application(
            session_backend=MemoryBackend(),
            session_cookie_name="__Host-id",
            session_cookie_kwargs={"domain": "example.com"},
        )
        with pytest.raises(ValueError, match=r"'__Host-id' .* domain='example\.com'"):
            Sessions.of(application)

    @pytest.mark.parametrize("name", ["session_cookie_name", "session_namespace"])
    @pytest.mark.parametrize("value", [7, None, b"x"])
    def test_a_name_is_a_str(self, name: str, value: object) -> None:
        """With the setting and its value."""
        assert error_of(**{name: value}) == f"{name}={value!r} is to be a str."

    @pytest.mark.parametrize("value", [None, "Secure", [("secure", True)]])
    def test_the_attributes_are_a_dict(self, value: object) -> None:
        """As Tornado's own ``…_kwargs`` are."""
        assert error_of(session_cookie_kwargs=value) == (
            "session_cookie_kwargs is to be a dict of attributes."
        )

    @pytest.mark.parametrize(
        ("name", "value"), [("secure", False), ("samesite", "Strict"), ("path", "/a")]
    )
    def test_an_attribute_has_no_setting_of_its_own(
        self, name: str, value: object
    ) -> None:
        """Behaviour 54: as other libraries have it; here it would do nothing."""
        assert error_of(**{f"session_cookie_{name}": value}) == (
            f"There is no setting 'session_cookie_{name}'. Write:"
            f" session_cookie_kwargs={{{name!r}: {value!r}}}"
        )

    @pytest.mark.parametrize("name", ["_xsrf", "__Host-Http-_xsrf"])
    def test_the_name_is_not_that_of_the_xsrf_cookie(self, name: str) -> None:
        """Behaviour 54: over https or on loopback the one would overwrite the other."""
        assert error_of(session_cookie_name=name, xsrf_cookies=True) == (
            f"session_cookie_name={name!r} is also the name of Tornado's XSRF cookie."
            " Change it, or xsrf_cookie_name."
        )
        assert read(session_cookie_name=name).cookie.name == "__Host-Http-_xsrf"
        read(session_cookie_name=name, xsrf_cookies=True, xsrf_cookie_name="x")

    @pytest.mark.parametrize("value", [1, "yes", None])
    def test_persistent_is_true_or_false(self, value: object) -> None:
        """With the setting and its value."""
        assert error_of(session_persistent=value) == (
            f"session_persistent={value!r} is to be True or False."
        )
        assert read(session_persistent=True).persistent is True


class TimeoutSettingsTest:
    @pytest.mark.parametrize(
        ("setting", "field"),
        [
            ("session_idle_timeout", "idle_timeout"),
            ("session_lifetime", "lifetime"),
            ("session_anonymous_idle_timeout", "anonymous_idle_timeout"),
            ("session_anonymous_lifetime", "anonymous_lifetime"),
            ("session_socket_interval", "socket_interval"),
        ],
    )
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            (60, 60.0),
            (0.5, 0.5),
            (datetime.timedelta(hours=1), 3600.0),
            (10**12, 10.0**12),
        ],
    )
    def test_it_is_in_seconds_or_a_timedelta(
        self, setting: str, field: str, value: object, seconds: float
    ) -> None:
        """Behaviour 52: of any length."""
        assert getattr(read(**{setting: value}), field) == seconds

    @pytest.mark.parametrize(
        "name",
        [
            "session_idle_timeout",
            "session_lifetime",
            "session_anonymous_idle_timeout",
            "session_anonymous_lifetime",
            "session_socket_interval",
        ],
    )
    @pytest.mark.parametrize("value", ["60", True, [60]])
    def test_it_is_nothing_else(self, name: str, value: object) -> None:
        """With the setting and its value."""
        assert (
            error_of(**{name: value})
            == f"{name}={value!r} is to be in seconds, or a timedelta."
        )

    @pytest.mark.parametrize("name", ["session_idle_timeout", "session_lifetime"])
    def test_there_is_no_never(self, name: str) -> None:
        """Behaviour 47: whoever says None is told what to say instead."""
        assert error_of(**{name: None}) == (
            f"{name}=None is to be in seconds, or a timedelta. Every session ends; give"
            " a long time."
        )

    def test_those_of_anonymous_visitors_can_be_those_of_all(self) -> None:
        """That is the default, and None says it."""
        settings = read(session_anonymous_idle_timeout=None)

        assert settings.anonymous_idle_timeout is None
        assert settings.anonymous_lifetime is None

    @pytest.mark.parametrize(
        "name",
        [
            "session_idle_timeout",
            "session_lifetime",
            "session_anonymous_idle_timeout",
            "session_anonymous_lifetime",
        ],
    )
    @pytest.mark.parametrize("value", [0, -1, -0.5, math.nan])
    def test_it_is_more_than_nothing(self, name: str, value: float) -> None:
        """Else no session would ever be there."""
        assert (
            error_of(**{name: value})
            == f"{name}={value!r} is to be more than zero seconds."
        )

    @pytest.mark.parametrize("name", ["session_idle_timeout", "session_lifetime"])
    def test_a_timedelta_of_nothing_is_refused(self, name: str) -> None:
        """As a number of zero is."""
        assert error_of(**{name: datetime.timedelta(0)}) == (
            f"{name}=0.0 is to be more than zero seconds."
        )

    def test_a_namespace_is_of_ascii(self) -> None:
        """It is part of what a token's digest is made of."""
        assert error_of(session_namespace="caf\xe9") == (
            "session_namespace='caf\xe9' is to be of ASCII characters."
        )

    def test_an_idle_timeout_beyond_the_lifetime_is_told(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Behaviour 47: the earlier end counts, and that may be a surprise."""
        read(session_idle_timeout=30 * 24 * 3600)

        (record,) = caplog.records
        assert record.getMessage() == (
            "session_idle_timeout (2592000 s) is longer than session_lifetime"
            " (1209600 s), which ends each session first. Raise session_lifetime."
        )

    @pytest.mark.parametrize(
        ("settings", "life"),
        [
            ({}, "session_lifetime (1209600 s)"),
            ({"session_anonymous_lifetime": 60}, "session_anonymous_lifetime (60 s)"),
        ],
    )
    def test_one_of_anonymous_visitors_beyond_their_lifetime_is_told(
        self, settings: dict[str, int], life: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Behaviour 47: their lifetime is their own, or that of all."""
        read(session_anonymous_idle_timeout=30 * 24 * 3600, **settings)

        (record,) = caplog.records
        assert record.getMessage() == (
            f"session_anonymous_idle_timeout (2592000 s) is longer than {life}, which"
            f" ends each session first. Raise {life.partition(' ')[0]}."
        )

    def test_an_idle_timeout_of_all_beyond_the_lifetime_of_visitors_is_allowed(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Behaviour 47: whoever sets only the lifetime means it to end them."""
        read(session_anonymous_lifetime=60)

        assert caplog.records == []

    def test_an_idle_timeout_as_long_as_the_lifetime_is_allowed(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Behaviour 47: that is how to say that there is no idle timeout."""
        read(session_idle_timeout=3600, session_lifetime=3600)

        assert caplog.records == []

    @pytest.mark.parametrize("name", ["session_idle_timeout", "session_lifetime"])
    def test_it_is_not_endless(self, name: str) -> None:
        """Sessions end; the message says that, and not that inf is too little."""
        message = error_of(**{name: math.inf})

        assert message.startswith(f"{name}=inf is to be ")
        assert "more than zero" not in message


class ListenerTest:
    """Tests of the setting ``session_listener``, and of those that belong to it."""

    @pytest.mark.parametrize(
        "name", ["session_listener_requests", "session_listener_devices"]
    )
    def test_what_it_is_told_besides_is_true_or_false(self, name: str) -> None:
        """False is the default of both."""
        field = name.removeprefix("session_")
        assert getattr(read(), field) is False
        assert getattr(read(session_listener=print, **{name: True}), field) is True
        assert error_of(session_listener=print, **{name: 1}) == (
            f"{name}=1 is to be True or False."
        )

    @pytest.mark.parametrize(
        "name", ["session_listener_requests", "session_listener_devices"]
    )
    def test_what_it_is_told_besides_needs_it(self, name: str) -> None:
        """Else nobody would hear of it."""
        assert error_of(**{name: True}) == (
            f"{name}=True does nothing without session_listener, the function that is"
            " called with each event."
        )

    def test_devices_need_a_store(self) -> None:
        """Behaviour 100: a cookie cannot remember those of a user."""
        assert error_of(
            session_backend="cookie",
            cookie_secret="s" * 32,
            session_listener=print,
            session_listener_devices=True,
        ) == (
            "session_listener_devices=True needs a store that remembers the labels of each"
            " user, and session_backend is a CookieBackend, which has none. Use another"
            " one, such as 'sqlite', or remove session_listener_devices."
        )

    def test_it_is_a_function(self) -> None:
        """It is called with each event."""
        assert error_of(session_listener="print") == (
            "session_listener='print' is to be a function that takes a SessionEvent."
        )

    def test_it_is_not_a_coroutine_function(self) -> None:
        """Nothing would ever run it."""

        async def listen(event: SessionEvent) -> None:
            pass

        assert error_of(session_listener=listen) == (
            f"session_listener={listen!r} is a coroutine function, and nothing waits"
            " for it. Use a plain one that hands what takes time to a task or a queue."
        )


class LimitTest:
    """How many sessions a user may have."""

    def test_it_is_handed_on(self) -> None:
        """Behaviour 46: with what is to be done about one too many."""
        application = tornado.web.Application(
            session_backend=MemoryBackend(),
            session_max_per_user=3,
            session_max_per_user_policy="refuse",
        )
        sessions = Sessions.of(application)

        assert sessions.logins.limit == 3
        assert sessions.logins.policy == "refuse"

    @pytest.mark.parametrize("value", [0, -1, 2.0, True, "3"])
    def test_it_is_a_whole_number(self, value: object) -> None:
        """Nobody could sign in with a limit of none."""
        assert error_of(session_max_per_user=value) == (
            f"session_max_per_user={value!r} is to be a whole number above zero, or"
            " None for no limit."
        )

    @pytest.mark.parametrize("value", ["newest", None, 1, []])
    def test_its_policy_is_one_of_two(self, value: object) -> None:
        """With what either means."""
        assert error_of(session_max_per_user_policy=value) == (
            f"session_max_per_user_policy={value!r} is to be 'oldest', where the"
            " oldest sign-in makes room for a new one, or 'refuse'."
        )

    def test_a_policy_without_a_limit_is_refused(self) -> None:
        """Whoever sets it believes that there is one."""
        assert error_of(session_max_per_user_policy="refuse") == (
            "session_max_per_user_policy='refuse' does nothing without"
            " session_max_per_user, the number of sessions that a user may have."
        )

    def test_it_needs_a_backend_that_finds_by_user(self) -> None:
        """Behaviour 46: the error names both."""

        class Forgetful(MemoryBackend):
            finds_by_user = False

        assert error_of(session_backend=Forgetful(), session_max_per_user=3) == (
            "session_max_per_user=3 needs a backend that can look up the sessions of a"
            " user, and session_backend is a Forgetful, which cannot. Use another one,"
            " such as 'sqlite', or remove session_max_per_user."
        )


class NamespaceSettingTest:
    @pytest.mark.gen_test
    async def test_two_applications_on_one_store_see_nothing_of_each_other(
        self,
    ) -> None:
        """With the same backend and the same token."""
        backend: Backend = MemoryBackend()
        shop = read(session_backend=backend, session_namespace="shop").vault
        blog = read(session_backend=backend, session_namespace="blog").vault
        token = (await shop.insert(Record(b"data"))).token

        assert await shop.load(token) is not None
        assert await blog.load(token) is None


class MisspeltTest:
    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("session_idle_timout", "session_idle_timeout"),
            ("session_lifetme", "session_lifetime"),
            ("session_life_time", "session_lifetime"),
            ("session_backends", "session_backend"),
            ("session_cookie_kwarg", "session_cookie_kwargs"),
            ("session_cookies_name", "session_cookie_name"),
            ("session_persistant", "session_persistent"),
            ("session_name_space", "session_namespace"),
        ],
    )
    def test_a_misspelt_setting_is_told(self, name: str, meant: str) -> None:
        """A default in place of what was meant would be found out too late."""
        assert error_of(**{name: 1}) == (
            f"There is no setting {name!r}. Did you mean {meant!r}?"
        )

    @pytest.mark.parametrize(
        ("name", "attribute"),
        [
            ("session_secure", "secure"),
            ("session_cookie_secure", "secure"),
            ("SESSION_COOKIE_SECURE", "secure"),
            ("session_secure_cookie", "secure"),
            ("session_httponly", "httponly"),
            ("session_http_only", "httponly"),
            ("session_cookie_http_only", "httponly"),
            ("session_samesite", "samesite"),
            ("session_cookie_same_site", "samesite"),
            ("session_domain", "domain"),
            ("session_cookie_path", "path"),
            ("session_cookie_partitioned", "partitioned"),
        ],
    )
    def test_an_attribute_of_the_cookie_is_told(
        self, name: str, attribute: str
    ) -> None:
        """Behaviour 54: as Flask, Django and Laravel have a setting for each."""
        assert error_of(**{name: False}) == (
            f"There is no setting {name!r}. Write:"
            f" session_cookie_kwargs={{{attribute!r}: False}}"
        )

    @pytest.mark.parametrize(
        ("name", "advice"),
        [
            ("session_name", "Use session_cookie_name."),
            ("session_cookie", "Use session_cookie_name."),
            ("SESSION_COOKIE_NAME", "Did you mean 'session_cookie_name'?"),
            ("session_key_prefix", "Use session_namespace."),
            ("session_prefix", "Use session_namespace."),
            ("session_permanent", "Use session_persistent."),
            ("session_secret", "Use cookie_secret."),
            ("session_secret_key", "Use cookie_secret."),
            ("session_mongodb", 'Use session_backend="mongodb://localhost/sessions".'),
            ("session_memcached", 'Use session_backend="memcached://localhost".'),
            (
                "SESSION_EXPIRE_AT_BROWSER_CLOSE",
                "Use session_persistent=False, which is the default, or True for"
                + " the contrary.",
            ),
        ],
    )
    def test_a_setting_of_another_library_is_translated(
        self, name: str, advice: str
    ) -> None:
        """It would be ignored otherwise; and its value, a secret maybe, is not told."""
        message = error_of(**{name: "hunter2"})

        assert message == f"There is no setting {name!r}. {advice}"

    @pytest.mark.parametrize(
        "name",
        [
            "session_max_age",
            "session_age",
            "session_cookie_age",
            "SESSION_COOKIE_AGE",
            "session_cookie_max_age",
            "session_expires",
            "session_cookie_expires",
            "session_ttl",
            "PERMANENT_SESSION_LIFETIME",
        ],
    )
    def test_an_age_is_told_as_two_timeouts(self, name: str) -> None:
        """Behaviours 47, 51: most have one for the cookie, and none for the record."""
        assert error_of(**{name: 3600}) == (
            f"There is no setting {name!r}. Use session_idle_timeout, which ends a"
            " session after so many seconds without a request, and session_lifetime,"
            " which ends it in any case; with session_persistent=True the cookie lasts"
            " as long."
        )

    @pytest.mark.parametrize(
        "name",
        [
            "session_type",
            "session_engine",
            "session_driver",
            "session_store",
            "session_interface",
        ],
    )
    def test_where_sessions_are_kept_is_told(self, name: str) -> None:
        """And not the value: there may be a password in it."""
        assert error_of(session_backend=None, **{name: "redis://u:hunter2@h"}) == (
            f"There is no setting {name!r}. Use session_backend, such as"
            ' "sqlite:///sessions.db".'
        )

    @pytest.mark.parametrize(
        "name",
        ["session_refresh_each_request", "session_rolling"],
    )
    def test_what_renews_a_session_is_to_be_removed(self, name: str) -> None:
        """Behaviour 48: there is nothing to be set."""
        assert error_of(**{name: True}) == (
            f"There is no setting {name!r}. Remove it: each request extends the idle"
            " timeout by itself."
        )

    @pytest.mark.parametrize(
        "name",
        [
            "SESSION_SAVE_EVERY_REQUEST",
            "session_autosave",
            "session_resave",
            "session_save_uninitialized",
        ],
    )
    def test_what_saves_a_session_is_to_be_removed(self, name: str) -> None:
        """Behaviours 12-22: there is nothing to be set."""
        assert error_of(**{name: True}) == (
            f"There is no setting {name!r}. Remove it: what has changed is saved by"
            " itself, and nothing else."
        )

    def test_a_path_is_told_as_a_url(self) -> None:
        """Without itself, as what is no URL may hold a password."""
        assert error_of(session_backend=Path("/var/hunter2.db")) == (
            "The session_backend setting is to be a URL, a name or a Backend, and is a"
            " path. For a file of SQLite write 'sqlite:///sessions.db', or with an"
            " absolute path 'sqlite:////var/lib/sessions.db'."
        )

    @pytest.mark.parametrize(
        "name",
        [
            "session_cart_size",
            "session_",
            "session_id",
            "session_path",
            "my_session_lifetime",
            "my_session_secure",
        ],
    )
    def test_a_setting_of_another_library_is_let_be(self, name: str) -> None:
        """Only what is nearly ours counts."""
        read(**{name: 1})

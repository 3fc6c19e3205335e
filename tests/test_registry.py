"""Tests of finding a backend: what the errors say, and what is not imported.

The distributions are real ones, as far as `importlib.metadata` can tell: folders
with metadata and entry points on ``sys.path``, and nothing else on it but the
standard library.
"""

from __future__ import annotations

import importlib
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tornado_sessions import BackendNotFoundError
from tornado_sessions.storage.registry import GROUP, open_backend

CORE = "tornado-sessions"
PLUGIN = """
class {class_name}:
    def __init__(self, url, settings):
        self.url, self.settings = url, settings

    @classmethod
    def from_url(cls, url, settings):
        return cls(url, settings)
"""

#: Installs a distribution: its name, its entry points and its modules.
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    standard |= {path for path in sys.path if path.endswith("lib-dynload")}
    monkeypatch.setattr(sys, "path", [str(tmp_path), *standard])
    before = set(sys.modules)

    def install(
        distribution: str,
        points: dict[str, str] | None = None,
        modules: dict[str, str] | None = None,
        extras: tuple[str, ...] = (),
    ) -> None:
        folder = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {distribution}", "Version: 1.0"]
        lines += [f"Provides-Extra: {extra}" for extra in extras]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
        if points:
            listed = [f"{name} = {value}" for name, value in points.items()]
            (folder / "entry_points.txt").write_text(
                f"[{GROUP}]\n" + "\n".join(listed) + "\n"
            )
        for name, source in (modules or {}).items():
            (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()

    yield install
    for name in set(sys.modules) - before:
        if name.startswith("fake_"):
            del sys.modules[name]


def install_plugin(install: Install, name: str) -> None:
    """Installs a plugin that is named as we name ours."""
    install(
        f"{CORE}-{name}",
        {name: f"fake_{name}:Backend"},
        {f"fake_{name}": PLUGIN.format(class_name="Backend")},
    )


def message_of(url: str) -> str:
    with pytest.raises(BackendNotFoundError) as caught:
        open_backend(url, {})
    return str(caught.value)


class OpenTest:
    @pytest.mark.parametrize(
        "url",
        [
            "sqlite",
            "sqlite:",
            "sqlite:///sessions.db",
            "sqlite://user:pw@host/db?a=b:c",
        ],
    )
    def test_a_scheme_or_a_bare_name_finds_the_backend(
        self, install: Install, url: str
    ) -> None:
        """The backend is handed the setting as it stands, and all settings."""
        install_plugin(install, "sqlite")
        settings = {"session_backend": url, "debug": True}
        backend: Any = open_backend(url, settings)

        assert type(backend).__module__ == "fake_sqlite"
        assert backend.url == url
        assert backend.settings is settings

    def test_only_the_named_plugin_is_imported(self, install: Install) -> None:
        """Behaviour 74: another one may be broken, or slow to import."""
        install_plugin(install, "sqlite")
        install("acme", {"acme": "fake_acme:Backend"}, {"fake_acme": "1 / 0"})
        open_backend("sqlite", {})

        assert "fake_sqlite" in sys.modules
        assert "fake_acme" not in sys.modules

    def test_nothing_is_imported_for_an_unknown_name(self, install: Install) -> None:
        """Behaviour 74: what is installed is known without."""
        install_plugin(install, "sqlite")

        assert "'sqlite'" in message_of("redis")
        assert "fake_sqlite" not in sys.modules

    def test_what_the_backend_raises_is_passed_on(self, install: Install) -> None:
        """A plugin knows best what is wrong with its URL."""
        source = PLUGIN.format(class_name="Backend").replace(
            "return cls(url, settings)", "raise ValueError('No such option.')"
        )
        install("acme", {"acme": "fake_acme:Backend"}, {"fake_acme": source})

        with pytest.raises(ValueError, match=r"^No such option\.$"):
            open_backend("acme:?x=1", {})

    def test_a_distribution_that_is_listed_twice_is_one(
        self, install: Install, tmp_path: Path
    ) -> None:
        """Behaviour 74: an editable install may be found in two places."""
        install_plugin(install, "sqlite")
        other = tmp_path / "elsewhere"
        other.mkdir()
        name = "tornado_sessions_sqlite-1.0.dist-info"
        (other / name).mkdir()
        for file in (tmp_path / name).iterdir():
            # Normalized names are told apart here, so that both are listed.
            text = file.read_text().replace(f"Name: {CORE}-sqlite", "Name: other")
            (other / name / file.name).write_text(text)
        (other / name).rename(other / "other-1.0.dist-info")
        sys.path.append(str(other))

        backend: Any = open_backend("sqlite", {})
        assert backend.url == "sqlite"


class NotFoundTest:
    def test_it_lists_what_is_installed(self, install: Install) -> None:
        """Behaviour 74: in the order of the alphabet."""
        install_plugin(install, "sqlite")
        install_plugin(install, "memory")

        assert message_of("redis://localhost") == (
            "No session backend named 'redis' is installed. The README of"
            " tornado-sessions says how to write one."
            " Installed backends: 'memory', 'sqlite'."
        )

    def test_it_guesses_the_nearest(self, install: Install) -> None:
        """Behaviour 74: among those that are installed."""
        install_plugin(install, "sqlite")
        install_plugin(install, "memory")

        assert message_of("sqlit:///s.db") == (
            "No session backend named 'sqlit' is installed. Did you mean 'sqlite'?"
            " Installed backends: 'memory', 'sqlite'."
        )

    @pytest.mark.parametrize(
        ("store", "backend"),
        [("valkey", "redis"), ("mariadb", "mysql"), ("postgres", "postgresql")],
    )
    def test_it_knows_stores_by_their_other_names(
        self, install: Install, store: str, backend: str
    ) -> None:
        """Behaviour 74: such as that of a server with the same protocol."""
        install_plugin(install, backend)

        assert message_of(f"{store}://localhost") == (
            f"No session backend named {store!r} is installed. Did you mean {backend!r}?"
            f" Installed backends: {backend!r}."
        )

    def test_it_says_that_nothing_is_installed(self, install: Install) -> None:
        """Behaviour 74: the core alone has no backend."""
        assert message_of("sqlite") == (
            "No session backend named 'sqlite' is installed. The README of"
            " tornado-sessions says how to write one. Installed backends: none."
        )

    def test_it_names_the_extra(self, install: Install) -> None:
        """Behaviour 74: where the core has one of that name."""
        install(CORE, extras=("memory", "mongodb"))
        install_plugin(install, "memory")

        assert message_of("mongodb://localhost") == (
            "No session backend named 'mongodb' is installed."
            ' Install it with: pip install "tornado-sessions[mongodb]"\n'
            "Installed backends: 'memory'."
        )

    def test_it_guesses_the_extra(self, install: Install) -> None:
        """Behaviour 74: misspelt and missing at once."""
        install(CORE, extras=("memory", "mongodb"))
        install_plugin(install, "memory")

        assert message_of("mongo_db://localhost") == (
            "No session backend named 'mongo_db' is installed. Did you mean 'mongodb'?"
            ' Install it with: pip install "tornado-sessions[mongodb]"\n'
            "Installed backends: 'memory'."
        )

    def test_it_offers_no_extra_that_is_installed(self, install: Install) -> None:
        """Behaviour 74: the name alone is wrong."""
        install(CORE, extras=("memory",))
        install_plugin(install, "memory")

        assert message_of("memori") == (
            "No session backend named 'memori' is installed. Did you mean 'memory'?"
            " Installed backends: 'memory'."
        )

    def test_it_offers_no_extra_that_there_is_not(self, install: Install) -> None:
        """Behaviour 74: no ``pip install`` line is built from what was typed."""
        install(CORE, extras=("memory",))

        assert "pip install" not in message_of("evil-package")

    def test_it_offers_one_where_there_is_none(self, install: Install) -> None:
        """Behaviour 74: where a path was given in place of a URL, too."""
        install(CORE, extras=("memory", "sqlite"))

        assert message_of("sessions.db") == (
            "No session backend named 'sessions.db' is installed. For a file of SQLite"
            " write 'sqlite:///sessions.db', or with an absolute path"
            " 'sqlite:////var/lib/sessions.db'."
            ' Install one, such as: pip install "tornado-sessions[sqlite]"\n'
            "Installed backends: none."
        )

    def test_a_core_without_extras_offers_none(self, install: Install) -> None:
        """Behaviour 74: its metadata may list none at all."""
        install(CORE)

        assert message_of("redis") == (
            "No session backend named 'redis' is installed. The README of"
            " tornado-sessions says how to write one. Installed backends: none."
        )

    @pytest.mark.parametrize(
        "url",
        [
            "",
            ":",
            "://host",
            "//user:hunter2@host",
            "user@hunter2:1234",
            "postgres//user:hunter2@host/db",
            "hunter2 hunter2",
            "{'hunter2': 1}",
            "/var/lib/hunter2",
            "é:",
            "sqlite\n",
        ],
    )
    def test_nonsense_is_not_repeated(self, install: Install, url: str) -> None:
        """Behaviours 8, 74: there may be a password in it."""
        install_plugin(install, "sqlite")

        assert message_of(url) == (
            "The session_backend setting names no backend. It is a name such as"
            " 'memory' or a URL such as 'sqlite:///sessions.db'."
        )

    @pytest.mark.parametrize(
        "url",
        [
            "/var/lib/hunter2.db",
            "./hunter2.sqlite3",
            "~/hunter2.sqlite",
            "../hunter2/s.db3",
            r"\\hunter2\s.db",
            "hunter2 s.DB",
        ],
    )
    def test_a_path_is_told_as_a_url(self, install: Install, url: str) -> None:
        """Behaviours 8, 74: as a name that ends like one, and not repeated."""
        install_plugin(install, "sqlite")

        assert message_of(url) == (
            "The session_backend setting names no backend. For a file of SQLite write"
            " 'sqlite:///sessions.db', or with an absolute path"
            " 'sqlite:////var/lib/sessions.db'."
        )

    def test_a_path_with_a_drive_is_told_as_a_url(self, install: Install) -> None:
        """Behaviour 74: the drive is no name of a backend."""
        install_plugin(install, "sqlite")

        assert message_of(r"C:\sessions.db") == (
            "No session backend named 'c' is installed. For a file of SQLite write"
            " 'sqlite:///sessions.db', or with an absolute path"
            " 'sqlite:////var/lib/sessions.db'. Installed backends: 'sqlite'."
        )

    def test_a_url_that_ends_like_a_file_is_no_path(self, install: Install) -> None:
        """Behaviour 74: whoever writes redis:// does not mean SQLite."""
        assert "SQLite" not in message_of("redis://host/0.db")

    def test_what_stands_for_the_name_may_be_a_password(self, install: Install) -> None:
        """Behaviour 89: where the scheme was forgotten."""
        install_plugin(install, "sqlite")

        assert message_of("hunter2:hunter2@host/db") == (
            "The session_backend setting names no backend. It is a name such as"
            " 'memory' or a URL such as 'sqlite:///sessions.db'."
        )

    def test_a_password_is_in_no_message(self, install: Install) -> None:
        """Behaviour 8: neither of an unknown backend nor of a broken or double one."""
        install("acme", {"acme": "fake_acme:Backend"}, {"fake_acme": "import fake_x"})
        install("one", {"two": "fake_one:Backend"})
        install("other", {"two": "fake_other:Backend"})

        for scheme in ("redis", "acme", "two"):
            message = message_of(f"{scheme}://user:hunter2@host/db?key=hunter2")
            assert "hunter2" not in message
            assert repr(scheme) in message


class BrokenTest:
    def test_two_distributions_of_one_name_are_named(self, install: Install) -> None:
        """Behaviour 74: nobody knows which is meant."""
        install_plugin(install, "sqlite")
        install("acme-sessions", {"sqlite": "fake_acme:SQLite"})

        assert message_of("sqlite:///s.db") == (
            "Both acme-sessions and tornado-sessions-sqlite provide the session"
            " backend 'sqlite'. Uninstall one."
        )
        assert "fake_sqlite" not in sys.modules

    @pytest.mark.parametrize(
        ("source", "cause"),
        [
            ("import fake_driver", ModuleNotFoundError),
            ("1 / 0", ZeroDivisionError),
            ("raise ValueError('hunter2')", ValueError),
            ("def Backend(:", SyntaxError),
            ("", AttributeError),
        ],
    )
    def test_a_plugin_that_cannot_be_imported_is_named(
        self, install: Install, source: str, cause: type[Exception]
    ) -> None:
        """Behaviour 74: its own error is the cause."""
        install("acme-sessions", {"acme": "fake_acme:Backend"}, {"fake_acme": source})
        with pytest.raises(BackendNotFoundError) as caught:
            open_backend("acme:", {})

        assert type(caught.value.__cause__) is cause
        assert str(caught.value) == (
            "The session backend 'acme' of acme-sessions cannot be imported:"
            f" {cause.__name__}, see above. Is the distribution installed whole?"
        )

    def test_a_plugin_without_its_module_is_named(self, install: Install) -> None:
        """Behaviour 74: such as after an uninstall that was broken off."""
        install("acme-sessions", {"acme": "fake_gone:Backend"})

        assert message_of("acme") == (
            "The session backend 'acme' of acme-sessions cannot be imported:"
            " ModuleNotFoundError, see above. Is the distribution installed whole?"
        )

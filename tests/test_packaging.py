"""Reads the tree and checks that it is packaged as its folders promise."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import tornado.web
from packaging.requirements import Requirement

root = Path(__file__).parent.parent
core = root / "tornado_sessions"
plugins = sorted(path.parent for path in root.glob("plugins/*/setup.py"))
# The fixtures are a plugin of pytest, and all others are backends.
fixtures = root / "plugins" / "pytest"
backends = [path for path in plugins if path != fixtures]

names = [path.name for path in plugins]

each_plugin = pytest.mark.parametrize("folder", plugins, ids=names)
each_backend = pytest.mark.parametrize(
    "folder", backends, ids=[path.name for path in backends]
)
each_distribution = pytest.mark.parametrize(
    "folder", [root, *plugins], ids=["core", *names]
)

# Imports run downwards only. A module stands above all that it may import.
levels = (
    {"errors", "events", "logs"},
    {"frames", "http"},
    {"storage", "misspelt"},
    {"core", "settings"},
    {"session", "tenants"},
    {"user_sessions"},
    {"sessions"},
    {"web"},
    {"__init__"},
    {"testing"},
)


class NamingTest:
    """One name runs through everything that a plugin is called."""

    @each_backend
    def test_a_distribution_is_named_after_its_folder(self, folder: Path) -> None:
        """The folder ``sqlite`` holds the distribution ``tornado-sessions-sqlite``."""
        assert setup_arguments(folder)["name"] == f"tornado-sessions-{folder.name}"

    @each_backend
    def test_a_package_is_named_after_its_folder(self, folder: Path) -> None:
        """The folder ``sqlite`` holds the package ``tornado_sessions_sqlite``."""
        assert package_of(folder) == f"tornado_sessions_{folder.name}"

    @each_backend
    def test_an_entry_point_is_named_after_its_folder(self, folder: Path) -> None:
        """The folder ``sqlite`` provides the backend ``sqlite``, and no other.

        What follows a ``+`` is a variant of its URL, as in ``mongodb+srv``. An ``s``
        is for TLS, as in ``rediss``.
        """
        group = setup_arguments(folder)["entry_points"]

        assert list(group) == ["tornado_sessions.backends"]
        names = [name for name, _ in declared_entry_points(folder)]
        assert names[0] == folder.name
        schemes = {name.partition("+")[0] for name in names}
        assert schemes <= {folder.name, f"{folder.name}s"}

    @each_backend
    def test_an_entry_point_leads_to_a_class_of_its_package(self, folder: Path) -> None:
        """The class is defined in the plugin's package and is named after it."""
        (value,) = {value for _, value in declared_entry_points(folder)}
        module, _, name = value.partition(":")
        backend = getattr(importlib.import_module(module), name)

        assert module == package_of(folder)
        assert backend.__module__.partition(".")[0] == module
        assert name.lower() == f"{folder.name}backend"

    @each_backend
    def test_an_installed_entry_point_is_the_declared_one(self, folder: Path) -> None:
        """The installed distributions are those of the tree, once or twice.

        An editable install may show one entry point twice, so values count.
        """
        installed = entry_points(group="tornado_sessions.backends", name=folder.name)
        declared = dict(declared_entry_points(folder))

        assert {point.value for point in installed} == set(declared.values())

    def test_the_fixtures_are_found_by_pytest(self) -> None:
        """They have the name that plugins of pytest have."""
        arguments = setup_arguments(fixtures)
        installed = entry_points(group="pytest11", name="tornado_sessions")

        assert arguments["name"] == "pytest-tornado-sessions"
        assert package_of(fixtures) == "pytest_tornado_sessions"
        assert arguments["entry_points"] == {
            "pytest11": ["tornado_sessions = pytest_tornado_sessions"]
        }
        assert {point.value for point in installed} == {"pytest_tornado_sessions"}

    def test_every_backend_is_an_extra_of_the_core(self) -> None:
        """``tornado-sessions[sqlite]`` brings ``tornado-sessions-sqlite``."""
        extras = setup_arguments(root)["extras_require"]
        brought = {
            extra: [Requirement(line).name for line in lines]
            for extra, lines in extras.items()
        }

        assert brought == {
            folder.name: [f"tornado-sessions-{folder.name}"] for folder in backends
        }

    def test_every_plugin_has_its_page(self) -> None:
        """The documentation shows the README of each."""
        pages = {path.stem for path in (root / "docs" / "plugins").glob("*.md")}

        assert pages - {"index"} == set(names)


class DistributionTest:
    """What is in the tree is in the wheels, and the versions fit together."""

    @each_distribution
    def test_every_package_of_the_tree_is_listed(self, folder: Path) -> None:
        """An editable install hides a package that ``packages`` forgot."""
        top = folder / package_of(folder)
        in_tree = {
            ".".join(path.parent.relative_to(folder).parts)
            for path in top.rglob("*.py")
        }

        assert set(setup_arguments(folder)["packages"]) == in_tree

    @each_distribution
    def test_every_package_says_that_it_is_typed(self, folder: Path) -> None:
        """Without ``py.typed`` in the wheel no type checker looks at us."""
        package = package_of(folder)

        assert (folder / package / "py.typed").is_file()
        assert "py.typed" in setup_arguments(folder)["package_data"][package]

    @each_distribution
    def test_every_distribution_brings_the_licence(self, folder: Path) -> None:
        """It goes into each wheel, whoever installs that alone."""
        licence = (root / "LICENSE").read_text()

        assert (folder / "LICENSE").read_text() == licence

    @each_plugin
    def test_a_plugin_accepts_the_core_beside_it(self, folder: Path) -> None:
        """What a plugin requires of the core is true of the core in this tree."""
        version = importlib.import_module("tornado_sessions").version
        (core_requirement,) = (
            requirement
            for requirement in requirements_of(folder)
            if requirement.name == "tornado-sessions"
        )

        assert version in core_requirement.specifier

    @each_backend
    def test_the_core_accepts_the_plugin_beside_it(self, folder: Path) -> None:
        """What an extra of the core requires is true of the plugin in this tree."""
        (line,) = setup_arguments(root)["extras_require"][folder.name]

        assert setup_arguments(folder)["version"] in Requirement(line).specifier

    def test_the_core_requires_no_plugin(self) -> None:
        """A backend comes with an extra, and never by itself."""
        required = {requirement.name for requirement in requirements_of(root)}

        assert required == {"msgspec", "tornado"}

    @each_plugin
    def test_every_plugin_is_tested(self, folder: Path) -> None:
        """tox installs each plugin by path."""
        assert f"-e plugins/{folder.name}\n" in (root / "tox.ini").read_text()

    def test_every_plugin_has_a_setup(self) -> None:
        """A folder beside the plugins would be left out of all the checks here."""
        with_package = {
            path.parents[1] for path in root.glob("plugins/*/*/__init__.py")
        }

        assert sorted(with_package) == plugins


class ImportTest:
    """The packages of the core stand in levels, and imports run downwards only."""

    def test_every_module_has_a_level(self) -> None:
        """A new module is given its place before it is given imports."""
        modules = {module_of(path) for path in core.rglob("*.py")}

        assert modules == set().union(*levels)

    @pytest.mark.parametrize("path", sorted(core.rglob("*.py")), ids=lambda p: p.stem)
    def test_imports_run_downwards(self, path: Path) -> None:
        """A module imports from lower levels only, and `testing` is the highest."""
        module = module_of(path)
        upwards = {
            imported
            for imported in map(core_module, imports_of(path))
            if imported not in {None, module} and level_of(imported) >= level_of(module)
        }

        assert upwards == set()

    @pytest.mark.parametrize("path", sorted(core.rglob("*.py")), ids=lambda p: p.stem)
    def test_the_core_imports_no_plugin(self, path: Path) -> None:
        """The core knows its plugins by their entry points alone."""
        top_levels = {name.partition(".")[0] for name in imports_of(path)}

        assert not top_levels & {package_of(folder) for folder in plugins}


class RequirementTest:
    """What is imported is required."""

    @pytest.mark.parametrize("path", sorted(core.rglob("*.py")), ids=lambda p: p.stem)
    def test_the_core_imports_only_what_it_requires(self, path: Path) -> None:
        """In the tests' environment there is more than a user has."""
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            name.partition(".")[0]
            for statement in tree.body
            for name in names_imported_by(statement)
        }
        allowed = {"tornado", "msgspec", "tornado_sessions", *sys.stdlib_module_names}

        assert imported - allowed == set()


def names_imported_by(statement: ast.stmt) -> Iterator[str]:
    """Yields the modules that a statement of a module imports when that is imported."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        yield statement.module or ""


# Private names of the standard library, of Tornado and of drivers, where no public one
# exists. A comment at each place says why.
foreign_private_names = {
    "_exit",
    "_getframe",
    "_headers",
    "_headers_written",
    "_pool",
    "_stream_broken",
    "_thread",
}

each_module = pytest.mark.parametrize(
    "path",
    sorted([*core.rglob("*.py"), *root.glob("plugins/*/*tornado_sessions*/**/*.py")]),
    ids=lambda path: str(path.relative_to(root)),
)


class PrivateNamesTest:
    """What others need is public: a private name is of its own module alone."""

    @each_module
    def test_no_module_reads_a_private_name_of_another(self, path: Path) -> None:
        """Neither of a class nor of a module."""
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = set(private_names_of(tree))
        read = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and is_private(node.attr)
            and ast.unparse(node.value) not in ("self", "cls", "super()")
        }

        assert read - own - foreign_private_names == set()

    @each_module
    def test_no_module_imports_a_private_name(self, path: Path) -> None:
        """What is imported is public."""
        imported = {name.rpartition(".")[2] for name in imports_of(path)}

        assert not any(map(is_private, imported))

    def test_the_handler_alone_uses_private_names_of_tornado(self) -> None:
        """Those of the four that `tornado_sessions.web` lists."""
        tornados = own_names_of(Path(tornado.web.__file__))
        used = {
            (path.stem, name)
            for path in core.glob("web/*.py")
            for name in own_names_of(path) & tornados
        }
        names = ("_finished", "_headers", "_headers_written", "_status_code")

        assert used == {("handler", name) for name in names}


def own_names_of(path: Path) -> set[str]:
    """Returns the private names of ``self`` that a module uses."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and is_private(node.attr)
        and ast.unparse(node.value) == "self"
    }


def is_private(name: str) -> bool:
    """Returns whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__")


def private_names_of(tree: ast.AST) -> Iterator[str]:
    """Yields the private names that a module defines, on its classes or by itself."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            yield node.attr
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # As in ``__slots__`` and in ``getattr``.
            yield node.value


def setup_arguments(folder: Path) -> dict[str, Any]:
    """Returns the literal arguments that ``setup.py`` passes to ``setup``."""
    tree = ast.parse((folder / "setup.py").read_text(encoding="utf-8"))
    (call,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "setup"
    )
    return {
        str(keyword.arg): ast.literal_eval(keyword.value)
        for keyword in call.keywords
        if not any(isinstance(node, (ast.Call, ast.Name)) for node in ast.walk(keyword))
    }


def package_of(folder: Path) -> str:
    """Returns the one top-level package of the distribution in ``folder``."""
    packages = setup_arguments(folder)["packages"]
    (package,) = {package.partition(".")[0] for package in packages}
    return str(package)


def declared_entry_points(folder: Path) -> Iterator[tuple[str, str]]:
    """Returns names and values of the backends that ``setup.py`` declares."""
    for line in setup_arguments(folder)["entry_points"]["tornado_sessions.backends"]:
        name, value = line.split(" = ")
        yield name, value


def requirements_of(folder: Path) -> list[Requirement]:
    """Returns what the distribution in ``folder`` requires without extras."""
    return [Requirement(line) for line in setup_arguments(folder)["install_requires"]]


def module_of(path: Path) -> str:
    """Returns the layer that a file belongs to."""
    return path.relative_to(core).parts[0].removesuffix(".py")


def core_module(name: str) -> str | None:
    """Returns the layer of an imported name; None for names of other packages."""
    package, _, rest = name.partition(".")
    if package != "tornado_sessions":
        return None
    module = rest.partition(".")[0]
    return module if module in set().union(*levels) else "__init__"


def level_of(module: str | None) -> int:
    """Returns the level of a layer."""
    return next(height for height, names in enumerate(levels) if module in names)


def imports_of(path: Path) -> Iterator[str]:
    """Returns the full names that a module imports when it runs.

    What is imported for the type checker alone does not count.
    """
    package = ".".join(path.parent.relative_to(root).parts)
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            module = importlib.util.resolve_name(relative, package)
            yield from (f"{module}.{alias.name}" for alias in node.names)

"""Tests that docs/design.md names what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
package = root / "tornado_sessions"
design = (root / "docs/design.md").read_text()


@pytest.mark.parametrize("folder", ["core", "storage"])
def test_the_table_of_a_package_has_each_of_its_modules(folder: str) -> None:
    """A module that is added or moved has its row."""
    _, _, table = design.partition(f"| module of `{folder}` |")
    rows = re.findall(r"^\| (`.*?) \|", table.partition("\n\n")[0], re.MULTILINE)
    described = [name for row in rows for name in re.findall(r"`(\w+)`", row)]

    modules = [path.stem for path in (package / folder).glob("[!_]*.py")]
    assert sorted(described) == sorted(modules)


def test_the_flow_of_a_request_names_methods_that_exist() -> None:
    """Each call of the list can be searched for."""
    flow = design.partition("## Data flow")[2].partition("\n## ")[0]
    methods = {
        f"{each.name}.{method.name}"
        for path in package.glob("**/*.py")
        for each in ast.parse(path.read_text()).body
        if isinstance(each, ast.ClassDef)
        for method in each.body
        if isinstance(method, (ast.FunctionDef, ast.AsyncFunctionDef))
    }

    named = set(re.findall(r"`([A-Z]\w+\.\w+)\(\)`", flow))
    assert len(named) > 20
    assert named <= methods

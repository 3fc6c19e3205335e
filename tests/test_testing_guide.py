"""Tests of the programs that docs/testing.md shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

page = Path(__file__).parent.parent / "docs/testing.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder with the files that the page shows, under the names it has."""
    blocks = re.findall(
        r"^```python\n# (\w+\.py)\n(.*?)^```$",
        page.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    for name, program in blocks:
        (tmp_path / name).write_text(program)
    assert [name for name, _ in blocks] == [
        "cart.py",
        "test_cart.py",
        "test_cart_fixtures.py",
    ]
    return tmp_path


@pytest.mark.parametrize(
    ("command", "result"),
    [
        (["test_cart.py"], "Ran 4 tests"),
        (["-m", "unittest", "test_cart"], "Ran 4 tests"),
        (["-m", "pytest", "-p", "no:cacheprovider"], "8 passed"),
    ],
)
def test_the_programs_pass(folder: Path, command: list[str], result: str) -> None:
    """With unittest, and all of them with pytest."""
    run = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stdout
    assert result in run.stdout

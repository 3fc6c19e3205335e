"""Settings of Sphinx. ``make docs`` builds the pages, and a warning is an error."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import tornado_sessions

root = Path(__file__).parent.parent

project = "tornado_sessions"
version = release = tornado_sessions.version
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"{project} {version}"
html_show_copyright = False
myst_heading_anchors = 3
# As in Tornado's docs: a name in single backticks is a link.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"


def _page(path: str) -> str:
    """Returns the page that shows a file of the repository, or the file itself."""
    if path == "README.md":
        return "/index.md"
    if path in ("CHANGELOG.md", "CONTRIBUTING.md"):
        return f"/{path.lower()}"
    if match := re.fullmatch(r"plugins/(\w+)/README\.md", path):
        return f"/plugins/{match[1]}.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs")
    if path.startswith("tornado_sessions/"):
        return "/api.rst"
    return f"/../{path}"


def _read_page(app: object, name: str, content: list[str]) -> None:
    _lead_to_pages(posixpath.dirname(f"docs/{name}"), content)


def _include(app: object, path: Path, parent: str, content: list[str]) -> None:
    folder = (root / "docs" / path).resolve().parent.relative_to(root)
    _lead_to_pages(str(folder), content)


def _lead_to_pages(folder: str, content: list[str]) -> None:
    """Replaces links to files by links to the pages that show them."""

    def lead(match: re.Match[str]) -> str:
        path, mark, anchor = match[1].partition("#")
        target = posixpath.normpath(posixpath.join(folder, path))
        return f"]({_page(target)}{mark}{anchor})"

    content[0] = re.sub(r"\]\(([\w./-]+[\w#-]*)\)", lead, content[0])


def setup(app: Any) -> None:  # noqa: ANN401
    app.connect("source-read", _read_page)
    app.connect("include-read", _include)

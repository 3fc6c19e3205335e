"""Tests of the tables of docs/speed.md."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import report, results

RUN = {
    "date": "2026-11-07",
    "machine": {"cores": 2, "processor": "Z80", "system": "Linux x86_64"},
    "versions": {"python": "3.13.0", "tornado": "6.6.1"},
}


def peer(name: str, store: str, **figures: object) -> results.Row:
    return {
        "peer": name,
        "store": store,
        "language": "Python",
        "framework": "Tornado",
        **figures,
    }


def measured(section: str, *rows: results.Row) -> dict[str, Any]:
    return {section: {**RUN, "rows": list(rows)}}


def filled(name: str, found: dict[str, Any]) -> list[str]:
    """Returns the lines of a block, without those that are empty."""
    text = f"before\n<!-- make report: {name} -->\nold\n<!-- end -->\nafter"
    lines = list(filter(None, report.page(text, found).split("\n")))
    assert (lines[0], lines[-1]) == ("before", "after")
    return lines[2:-2]


def test_page_has_the_tables_of_the_results() -> None:
    """docs/speed.md is what the report makes of docs/speed.json."""
    text = (report.DOCS / "speed.md").read_text()
    assert report.page(text, results.read()) == text


def test_page_has_all_blocks() -> None:
    """docs/speed.md has a place for each block, and once."""
    text = (report.DOCS / "speed.md").read_text()
    for name in (*report.BLOCKS, "machine"):
        assert text.count(f"<!-- make report: {name} -->") == 1, name


@pytest.mark.parametrize("name", report.BLOCKS)
def test_section_that_is_missing_names_its_command(name: str) -> None:
    """Where nothing was measured, the page says which command does it."""
    command = report.COMMANDS[report.BLOCKS[name].section]
    assert filled(name, {}) == [f"*Not measured yet: `{command}` does it.*"]


def test_prose_is_left_as_it_is() -> None:
    """What is not between the comments of a block stays."""
    assert report.page("# A page\n\n<!-- end -->\n", {}) == "# A page\n\n<!-- end -->\n"


def test_unknown_block_is_an_error() -> None:
    """A block that does not exist is named."""
    with pytest.raises(KeyError, match="nothing"):
        filled("nothing", {})


def test_routes_of_a_store_are_one_line() -> None:
    """Read and write of a store are beside each other; a dash is for what is missing."""
    found = measured(
        "path",
        {"store": "redis", "route": "write", "added_us": 77.4, "other_us": 153.1},
        {"store": "redis", "route": "read", "added_us": 36.3, "other_us": 75.0},
        {"store": "memory", "route": "read", "added_us": 8.55, "other_us": 15.0},
    )
    assert filled("by-hand", found)[-2:] == [
        "| memory | 8.6 | 15 | - | - |",
        "| Redis | 36 | 75 | 77 | 153 |",
    ]


def test_instructions_are_summed_up_by_route() -> None:
    """Each part is a line, and the last one has all of them together."""
    row = {"store": "memory", "route": "read"}
    found = measured(
        "instructions",
        {**row, "part": "web", "instructions": 400},
        {**row, "part": "core", "instructions": 700},
        {**row, "route": "write", "part": "core", "instructions": 1200},
    )
    assert filled("instructions", found) == [
        "| part | read | write |",
        "| --- | ---: | ---: |",
        "| web | 400 | 0 |",
        "| core | 700 | 1,200 |",
        "| together | 1,100 | 1,200 |",
    ]


def test_broken_library_is_listed_with_its_reason() -> None:
    """What could not be measured is in no table, but in a list below it."""
    found = measured(
        "peers",
        peer("pycket", "redis", broken="It answers\n<h1>500."),
        peer("scs", "redis", bare_us=12, untouched_us=0.25, read_us=44, write_us=77),
    )
    lines = filled("libraries", found)
    assert "| Redis | scs | Tornado | 12 | - | 0.25 | 44 | 77 | - | - |" in lines
    assert lines[-1] == "- pycket with Redis: It answers \\<h1\\>500."


def test_nothing_but_broken_libraries_have_no_plot() -> None:
    """Without anything that could be measured there is neither a plot nor a table."""
    found = measured("peers", peer("pycket", "redis", broken="It is slow."))
    assert filled("libraries", found) == [
        "These could not be measured:",
        "- pycket with Redis: It is slow.",
    ]


def test_libraries_that_lose_the_fewest_updates_come_first() -> None:
    """Our line is the first of those that are equal, and in bold."""
    found = measured(
        "peers",
        peer("aiohttp-session", "redis", kept_counter=50, kept_keys=50),
        peer("pycket", "redis", kept_counter=1, kept_keys=50),
        peer("cookie-session", "cookie", kept_counter=None, kept_keys=None),
        peer("tornado_sessions", "redis", kept_counter=50, kept_keys=50),
    )
    assert [line for line in filled("lost-updates", found) if "Redis" in line] == [
        "| **tornado_sessions** | Redis | 50 | 50 |",
        "| aiohttp-session | Redis | 50 | 50 |",
        "| pycket | Redis | 1 | 50 |",
    ]


def test_figures_that_are_not_known_are_dashes() -> None:
    """A column with dashes among its figures is still aligned to the right."""
    size = {"what": "size", "store": "redis", "load_us": 40.0, "save_us": 80.2}
    found = measured(
        "scale",
        {**size, "sessions": 1_000_000, "bytes": None},
        {**size, "sessions": 1000, "bytes": 412},
        {"what": "websockets", "sockets": 10_000, "bytes": 31_233, "closed_s": 0.42},
    )
    assert filled("many-sessions", found)[-4:-1] == [
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| Redis | 1,000 | 40 | 80 | - | - | 412 |",
        "| Redis | 1,000,000 | 40 | 80 | - | - | - |",
    ]
    assert filled("websockets", found)[-1] == "| 10,000 | 31,233 | 0.42 |"


def test_machine_is_that_of_each_section() -> None:
    """Machine and versions are said of the commands that were run."""
    (line,) = filled("machine", measured("scale"))
    assert line.startswith("- `make bench-scale`, 7 November 2026: 2 cores of Z80, ")
    assert line.endswith("Linux x86_64; python 3.13.0, tornado 6.6.1.")

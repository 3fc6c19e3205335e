"""Makes the tables and the plots of ``docs/speed.md`` from ``docs/speed.json``.

The page has the prose. A table and its plot go between two comments, of which the
first names a block below::

    <!-- make report: by-hand -->
    <!-- end -->

If a command has not been run, its blocks say which one is missing.
"""

from __future__ import annotations

import argparse
import datetime
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import results
from benchmarks.results import Row

DOCS = Path(__file__).parent.parent / "docs"

OURS = "tornado_sessions"

#: How the stores are spelled, in the order in which they are listed.
STORES = {
    "memory": "memory",
    "cookie": "cookie",
    "sqlite": "SQLite",
    "memcached": "memcached",
    "redis": "Redis",
    "mongodb": "MongoDB",
    "postgresql": "PostgreSQL",
    "mysql": "MySQL",
}

COMMANDS = {
    "path": "make bench",
    "instructions": "python -m benchmarks.instructions",
    "peers": "make bench-peers",
    "scale": "make bench-scale",
}

#: Of these cells a column is aligned to the right.
_FIGURES = re.compile(r"-?[\d.,]*")

_PLACE = re.compile(r"(<!-- make report: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


class Block(NamedTuple):
    """A place of the page: the rows that it shows, and as what."""

    section: str
    wants: Callable[[Row], bool]
    table: Callable[[Sequence[Row]], str]
    #: What the plot shows, for those who cannot see it; empty if there is none.
    alt: str = ""

    def rows(self, measured: dict[str, Any]) -> list[Row]:
        rows = measured.get(self.section, {}).get("rows", [])
        return [row for row in rows if self.wants(row)]


def store(row: Row) -> str:
    """Returns the name of the store, as it is spelled."""
    name: str = row["store"]
    return STORES.get(name, name)


def rank(row: Row) -> tuple[int, str]:
    """Returns a key by which rows come in the order of their stores."""
    names = list(STORES)
    name = row["store"]
    return (names.index(name) if name in names else len(names)), name


def works(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows of what could be measured."""
    return [row for row in rows if "broken" not in row]


def by_store(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Returns the rows of each store by their route."""
    stores: dict[str, dict[str, Row]] = {}
    for row in sorted(rows, key=rank):
        stores.setdefault(store(row), {})[row["route"]] = row
    return stores


def figure(value: float | None) -> str:
    """Returns a figure with the digits that count; a dash for None."""
    if value is None:
        return "-"
    digits = 0 if abs(value) >= 10 or value == int(value) else 1
    return f"{value:,.{digits if abs(value) >= 1 else 2 * digits}f}"


def page(text: str, measured: dict[str, Any]) -> str:
    """Returns the page with the tables of what was measured."""

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n{_block(match[2], measured)}\n\n{match[3]}"

    return _PLACE.sub(fill, text)


def _block(name: str, measured: dict[str, Any]) -> str:
    if name == "machine":
        return _machine(measured)
    block = BLOCKS[name]
    rows = block.rows(measured)
    if not rows:
        return f"*Not measured yet: `{COMMANDS[block.section]}` does it.*"
    plot = f"![{block.alt}](plots/{name}.svg)\n\n" if is_drawn(block, rows) else ""
    return plot + block.table(rows)


def is_drawn(block: Block, rows: Sequence[Row]) -> bool:
    """Whether there is a plot of these rows."""
    return bool(block.alt and works(rows))


def _untouched(rows: Sequence[Row]) -> str:
    (row,) = rows
    return (
        f"A request to the bare handler takes {figure(row['bare_us'])} µs. A handler that"
        f" does not use its session\nadds {figure(row['added_us'])} µs, and makes no call"
        " to the store."
    )


def _by_hand(rows: Sequence[Row]) -> str:
    head = ("store", "read: added, µs", "by hand", "write: added, µs", "by hand")
    return _pairs(head, rows, "read", "write")


def _one_session(rows: Sequence[Row]) -> str:
    head = (
        "store",
        "write: one session, µs",
        "own sessions",
        "`transact`: one session, µs",
        "own sessions",
    )
    return _pairs(head, rows, "write hot", "transact hot")


def _pairs(head: Sequence[str], rows: Iterable[Row], *routes: str) -> str:
    lines = [
        [
            name,
            *(
                figure(by_route.get(route, {}).get(key))
                for route in routes
                for key in ("added_us", "other_us")
            ),
        ]
        for name, by_route in by_store(rows).items()
    ]
    return _table(head, lines)


def _instructions(rows: Sequence[Row]) -> str:
    routes = {row["route"]: None for row in rows}
    parts: dict[str, dict[str, int]] = {}
    for row in rows:
        parts.setdefault(row["part"], {})[row["route"]] = row["instructions"]
    parts["together"] = {
        route: sum(part.get(route, 0) for part in parts.values()) for route in routes
    }
    lines = [
        [name, *(figure(part.get(route, 0)) for route in routes)]
        for name, part in parts.items()
    ]
    return _table(("part", *routes), lines)


def _libraries(rows: Sequence[Row]) -> str:
    keys = (
        *("bare_us", "no_cookie_us", "untouched_us"),
        *("read_us", "write_us", "write_4k_us"),
    )
    head = (
        "store",
        "library",
        "framework",
        "bare",
        "no cookie",
        "not used",
        "read",
        "write",
        "write 4 KB",
        "new per s",
    )
    lines = [
        [
            *(store(row), _library(row), _framework(row)),
            *(figure(row.get(key)) for key in (*keys, "new_per_s")),
        ]
        for row in sorted(works(rows), key=lambda row: (*rank(row), cost(row)))
    ]
    broken = [
        f"\n- {row['peer']} with {store(row)}: {_quote(row['broken'])}"
        for row in sorted(rows, key=lambda row: (row["peer"], *rank(row)))
        if "broken" in row
    ]
    note = f"\n\nThese could not be measured:\n{''.join(broken)}" if broken else ""
    return (_fold(_table(head, lines)) + note) if lines else note.strip()


def cost(row: Row) -> float:
    """Returns a key by which rows that add the least come first."""
    return (row.get("read_us") or 0) + (row.get("write_us") or 0)


def _lost_updates(rows: Sequence[Row]) -> str:
    head = ("library", "store", "counter", "own keys")
    lines = [
        [
            *(_library(row), store(row)),
            *(figure(row.get(key)) for key in ("kept_counter", "kept_keys")),
        ]
        for row in sorted(rows, key=kept)
    ]
    return _fold(_table(head, lines))


def kept(row: Row) -> tuple[object, ...]:
    """Returns a key by which rows that lose the fewest updates come first."""
    lost = -row["kept_counter"], -(row.get("kept_keys") or 0)
    return *lost, row["peer"] != OURS, row["peer"].lower(), *rank(row)


def _memory(rows: Sequence[Row]) -> str:
    lines = [
        [_library(row), _framework(row), figure(row["bytes"])]
        for row in sorted(rows, key=lambda row: row["bytes"])
    ]
    return _table(("library", "framework", "bytes per session"), lines)


def _many_sessions(rows: Sequence[Row]) -> str:
    keys = ("sessions", "load_us", "save_us", "find_us", "purge_us", "bytes")
    head = (
        "store",
        "sessions",
        "load, µs",
        "save, µs",
        "find, µs",
        "purge, µs",
        "bytes each",
    )
    return _fold(_of_stores(head, keys, rows))


def _expiry(rows: Sequence[Row]) -> str:
    head = ("store", "sessions", "longest stall, ms")
    return _of_stores(head, ("sessions", "stall_ms"), rows)


def _renewals(rows: Sequence[Row]) -> str:
    head = ("store", "reads", "writes of the store")
    return _of_stores(head, ("reads", "writes"), rows)


def _processes(rows: Sequence[Row]) -> str:
    keys = ("processes", "reads_per_s", "writes_per_s")
    head = ("store", "processes", "reads per second", "writes per second")
    return _of_stores(head, keys, rows)


def _websockets(rows: Sequence[Row]) -> str:
    head = ("WebSockets", "bytes each", "closed after, s")
    keys = ("sockets", "bytes", "closed_s")
    return _table(head, [[figure(row.get(key)) for key in keys] for row in rows])


def _of_stores(head: Sequence[str], keys: Sequence[str], rows: Iterable[Row]) -> str:
    ordered = sorted(rows, key=lambda row: (*rank(row), row[keys[0]]))
    return _table(
        head, [[store(row), *(figure(row.get(key)) for key in keys)] for row in ordered]
    )


def _machine(measured: dict[str, Any]) -> str:
    lines = []
    for section, command in COMMANDS.items():
        if section in measured:
            run = measured[section]
            date = datetime.date.fromisoformat(run["date"])
            machine = "{cores} cores of {processor}, {system}".format_map(
                run["machine"]
            )
            versions = sorted(run["versions"].items())
            names = ", ".join(f"{name} {version}" for name, version in versions)
            lines.append(f"- `{command}`, {date.day} {date:%B %Y}: {machine}; {names}.")
    return "\n".join(lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rules = [
        "---:" if all(map(_FIGURES.fullmatch, column)) else "---"
        for column in zip(*lines, strict=True)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rules, *lines))


def _quote(text: str) -> str:
    """Returns the text of a program as one line without markup."""
    return re.sub(r"([\\`*_<>\[\]&])", r"\\\1", " ".join(text.split()))


def _fold(table: str) -> str:
    """Returns a table of many lines, which a click shows."""
    return f"<details>\n<summary>All figures</summary>\n\n{table}\n\n</details>"


def _library(row: Row) -> str:
    return f"**{row['peer']}**" if row["peer"] == OURS else str(row["peer"])


def _framework(row: Row) -> str:
    if row["language"] == "Python":
        return str(row["framework"])
    return f"{row['framework']}, {row['language']}"


def _is(what: str) -> Callable[[Row], bool]:
    return lambda row: row["what"] == what


def _has(key: str) -> Callable[[Row], bool]:
    return lambda row: row.get(key) is not None


BLOCKS = {
    "untouched": Block("path", lambda row: row["route"] == "untouched", _untouched),
    "by-hand": Block(
        "path",
        lambda row: row["route"] in ("read", "write"),
        _by_hand,
        "What a read and a write add to a request, beside the same done by hand",
    ),
    "instructions": Block("instructions", lambda row: True, _instructions),
    "one-session": Block(
        "path",
        lambda row: row["route"].endswith("hot"),
        _one_session,
        "What a write adds if all requests have one session, beside many sessions",
    ),
    "libraries": Block(
        "peers",
        lambda row: True,
        _libraries,
        "What a read and a write add to a request, by library and store",
    ),
    "lost-updates": Block(
        "peers",
        _has("kept_counter"),
        _lost_updates,
        "How many of 50 parallel updates of one session survive, by library",
    ),
    "memory": Block(
        "peers",
        _has("bytes"),
        _memory,
        "How many bytes a session takes in the memory of the process, by library",
    ),
    "many-sessions": Block(
        "scale",
        _is("size"),
        _many_sessions,
        "How long a load and a save take, by store and number of sessions",
    ),
    "expiry": Block("scale", _is("expiry"), _expiry),
    "renewals": Block("scale", _is("renewals"), _renewals),
    "processes": Block("scale", _is("processes"), _processes),
    "websockets": Block("scale", _is("websockets"), _websockets),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=results.FILE)
    parser.add_argument("--docs", type=Path, default=DOCS, help="where speed.md is")
    arguments = parser.parse_args()
    # The tests read the tables, and have no matplotlib.
    from benchmarks import plots

    measured = results.read(arguments.results)
    plots.draw(measured, arguments.docs / "plots")
    path = arguments.docs / "speed.md"
    path.write_text(page(path.read_text(), measured))


if __name__ == "__main__":
    main()

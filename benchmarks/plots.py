"""The plots of ``docs/speed.md``, for `benchmarks.report`.

The same results give the same bytes, with one version of matplotlib. A white panel
makes them readable in a light and in a dark theme. The colours are two of those
that Okabe and Ito chose for people who are colour-blind, and grey.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.report import (
    BLOCKS,
    OURS,
    by_store,
    cost,
    figure,
    is_drawn,
    kept,
    rank,
    store,
    works,
)
from benchmarks.results import Row

BLUE, LIGHT_BLUE = "#0072b2", "#8cc4e8"
ORANGE = "#d55e00"
GREY, LIGHT_GREY = "#767676", "#bdbdbd"
INK = "#222222"

#: The width of a page, in inches.
WIDTH = 7.6

_STYLE = {
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.titlesize": 9,
    "figure.titleweight": "bold",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "xtick.color": INK,
    "ytick.color": INK,
    "ytick.left": False,
    # Otherwise the names of what is referred to are random.
    "svg.hashsalt": "tornado_sessions",
}


class Pair(NamedTuple):
    """Two bars that belong together."""

    label: str
    upper: float | None
    lower: float | None


def draw(measured: dict[str, Any], folder: Path) -> None:
    """Draws the plots of what was measured; those of what was not are deleted."""
    folder.mkdir(exist_ok=True)
    for name, plot in PLOTS.items():
        block = BLOCKS[name]
        rows = block.rows(measured)
        path = folder / f"{name}.svg"
        path.unlink(missing_ok=True)
        if is_drawn(block, rows):
            with mpl.rc_context(_STYLE):
                plot(works(rows)).savefig(
                    path, metadata={"Creator": None, "Date": None}
                )


def _by_hand(rows: Sequence[Row]) -> Figure:
    return _pairs(
        [
            ("A read adds to a request, µs", _pair(rows, "read")),
            ("A write adds to a request, µs", _pair(rows, "write")),
        ],
        (OURS, "by hand"),
        (BLUE, LIGHT_GREY),
    )


def _one_session(rows: Sequence[Row]) -> Figure:
    return _pairs(
        [
            ("A write adds to a request, µs", _pair(rows, "write hot")),
            ("A transact adds to a request, µs", _pair(rows, "transact hot")),
        ],
        ("all requests have one session", "each has its own"),
        (BLUE, LIGHT_BLUE),
    )


def _pair(rows: Sequence[Row], route: str) -> list[Pair]:
    return [
        Pair(
            name,
            routes.get(route, {}).get("added_us"),
            routes.get(route, {}).get("other_us"),
        )
        for name, routes in by_store(rows).items()
    ]


def _pairs(
    panels: Sequence[tuple[str, Sequence[Pair]]],
    names: tuple[str, str],
    colors: tuple[str, str],
) -> Figure:
    """Draws two bars for each label; the first two say what they are."""
    count = len(panels[0][1])
    plot = Figure((WIDTH, 0.8 + 0.42 * count))
    longest = max(bar or 0 for _, pairs in panels for pair in pairs for bar in pair[1:])
    for axes, (title, pairs) in zip(
        plot.subplots(1, len(panels), sharey=True), panels, strict=True
    ):
        axes.set_title(title)
        for n, bars in enumerate(zip(*(pair[1:] for pair in pairs), strict=True)):
            places = [place - 0.19 + 0.38 * n for place in range(count)]
            axes.barh(places, [bar or 0 for bar in bars], 0.36, color=colors[n])
            for place, bar in zip(places, bars, strict=True):
                name = f"  {names[n]}" if place == places[0] else ""
                axes.text(
                    (bar or 0) + longest * 0.015,
                    place,
                    figure(bar) + name,
                    va="center",
                    color=INK,
                    weight="bold" if n == 0 else "normal",
                    size=8,
                )
        axes.set_xlim(0, longest * 1.12)
        axes.set_xticks([])
        axes.spines.bottom.set_visible(False)
        axes.set_yticks(range(count), [pair.label for pair in pairs])
        axes.set_ylim(count - 0.4, -0.6)
    return plot


def _libraries(rows: Sequence[Row]) -> Figure:
    rows = [row for row in rows if None not in _ends(row)]
    stores: dict[str, list[Row]] = {}
    for row in sorted(rows, key=cost):
        stores.setdefault(row["store"], []).append(row)
    groups = [stores[name] for name in _ordered(rows)]
    heights = [len(group) + 1.0 for group in groups]
    plot = Figure((WIDTH, 1.0 + 0.2 * sum(heights)))
    plot.get_layout_engine().set(hspace=0, h_pad=0.06)
    plot.suptitle("A read ● and a write ○ add to a request, µs", x=0.01, ha="left")
    panels = plot.subplots(
        len(groups),
        1,
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )[:, 0]
    lowest = min(max(min(_ends(row)), 1) for row in rows)
    highest = max(max(_ends(row)) for row in rows)
    for n, (axes, group) in enumerate(zip(panels, groups, strict=True)):
        axes.set_title(store(group[0]), pad=3)
        axes.set_xscale("log")
        axes.set_xlim(lowest * 0.8, highest * 1.25)
        axes.grid(axis="x")
        last = n == len(groups) - 1
        axes.tick_params(axis="x", which="both", bottom=last, labelbottom=last)
        axes.spines.bottom.set_visible(last)
        _dots(axes, group)
    panels[-1].xaxis.set_major_formatter(_count)
    panels[-1].xaxis.set_minor_formatter("")
    panels[-1].set_xlabel("µs, on a logarithmic scale: less is better")
    return plot


def _dots(axes: Axes, rows: Sequence[Row]) -> None:
    """Draws a filled dot for a read, and an open one for a write, in each line."""
    for place, row in enumerate(rows):
        color = BLUE if row["peer"] == OURS else GREY
        read, write = (max(value, 1) for value in _ends(row))
        axes.plot([read, write], [place] * 2, color=color, linewidth=1.2, zorder=2)
        for value, face in ((read, color), (write, "white")):
            axes.plot(
                value, place, "o", color=color, markerfacecolor=face, markersize=5.5
            )
        axes.text(
            1.01,
            place,
            " / ".join(map(figure, _ends(row))),
            transform=axes.get_yaxis_transform(),
            va="center",
            size=8,
            color=color,
        )
    axes.set_yticks(range(len(rows)), [_named(row) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    _emphasise(axes, rows)


def _ends(row: Row) -> tuple[Any, Any]:
    return row.get("read_us"), row.get("write_us")


def _lost_updates(rows: Sequence[Row]) -> Figure:
    ordered = sorted(rows, key=kept)
    labels = [f"{row['peer']}, {store(row)}" for row in ordered]
    plot = Figure((WIDTH, 0.9 + 0.19 * len(rows)))
    plot.suptitle("How many of 50 parallel updates survive", x=0.01, ha="left")
    titles = {
        "kept_counter": "all add to one counter",
        "kept_keys": "each sets its own key",
    }
    panels = plot.subplots(1, 2, sharey=True)
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        axes.set_title(title, weight="normal")
        _bars(axes, ordered, key, labels, longest=50)
    _emphasise(panels[0], ordered)
    return plot


def _memory(rows: Sequence[Row]) -> Figure:
    ordered = sorted(rows, key=lambda row: row["bytes"])
    plot = Figure((WIDTH, 0.6 + 0.24 * len(rows)))
    axes = plot.subplots()
    axes.set_title("Bytes of memory that a session takes in the process")
    _bars(axes, ordered, "bytes", [_named(row) for row in ordered])
    _emphasise(axes, ordered)
    return plot


def _bars(
    axes: Axes,
    rows: Sequence[Row],
    key: str,
    labels: Sequence[str],
    longest: float = 0,
) -> None:
    values = [row.get(key) for row in rows]
    longest = longest or max(value or 0 for value in values)
    axes.barh(
        range(len(rows)),
        [value or 0 for value in values],
        0.72,
        color=[BLUE if row["peer"] == OURS else LIGHT_GREY for row in rows],
    )
    for place, value in enumerate(values):
        axes.text(
            (value or 0) + longest * 0.015, place, figure(value), va="center", size=8
        )
    axes.set_xlim(0, longest * 1.12)
    axes.set_xticks([])
    axes.spines.bottom.set_visible(False)
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.4, -0.6)


def _many_sessions(rows: Sequence[Row]) -> Figure:
    names = _ordered(rows)
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    plot = Figure((WIDTH, 0.8 + 1.7 * lines))
    plot.suptitle("µs for one load and one save", x=0.01, ha="left")
    panels = list(
        plot.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    )
    for n, (axes, name) in enumerate(zip(panels, names, strict=False)):
        own = [row for row in rows if row["store"] == name]
        axes.set_title(store(own[0]))
        _growth(axes, sorted(own, key=lambda row: row["sessions"]), named=n == 0)
        axes.set_xticks(sorted({row["sessions"] for row in rows}))
        lowest = n + columns >= len(names)
        axes.tick_params(axis="x", labelsize=8, bottom=lowest, labelbottom=lowest)
        axes.spines.bottom.set_visible(lowest)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    plot.supxlabel("number of sessions in the store", size=9)
    return plot


def _growth(axes: Axes, rows: Sequence[Row], *, named: bool) -> None:
    """Draws the time of a load and a save by the number of sessions."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_count)
        axis.set_minor_locator(NullLocator())
    for name, color, mark, up in (("load", BLUE, "o", -6), ("save", ORANGE, "s", 6)):
        times = [row[f"{name}_us"] for row in rows]
        sizes = [row["sessions"] for row in rows]
        axes.plot(sizes, times, mark, color=color, linestyle="-", markersize=4)
        if named:
            axes.annotate(
                name,
                (sizes[0], times[0]),
                (0, up),
                textcoords="offset points",
                va="bottom" if up > 0 else "top",
                color=color,
                weight="bold",
            )


def _ordered(rows: Sequence[Row]) -> list[str]:
    """Returns the stores in the order of the tables."""
    return list(dict.fromkeys(row["store"] for row in sorted(rows, key=rank)))


def _named(row: Row) -> str:
    """Returns the library, and its framework if the name does not say it."""
    if row["framework"].lower() in row["peer"].lower():
        return str(row["peer"])
    return f"{row['peer']} ({row['framework']})"


def _emphasise(axes: Axes, rows: Sequence[Row]) -> None:
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        if row["peer"] == OURS:
            label.set(color=BLUE, weight="bold")


def _count(value: float, _: object) -> str:
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if value >= unit:
            return f"{value / unit:,.0f}{name}"
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


PLOTS: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "by-hand": _by_hand,
    "one-session": _one_session,
    "libraries": _libraries,
    "lost-updates": _lost_updates,
    "memory": _memory,
    "many-sessions": _many_sessions,
}

"""Prints what our sessions and those of others add to a request, side by side.

The µs are added to a bare handler of the same framework. "kept" is how many of fifty
parallel updates of one session survive: of a counter, and of a key each. "new" is how
many sessions begin in a second, and "bytes" what one takes in the process.

Measured are the stores whose servers run: ``python -m servers python -m
benchmarks.peers``. The peers are installed into the folder .peers. What a peer serves
is said in ``benchmarks/peers/__init__.py``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.load import BrokenError, Load, Route, server
from benchmarks.peers.browser import begin, check, kept_counts, kept_keys
from benchmarks.peers.table import PEERS, Peer
from servers.programs import ServerUnavailableError

ROOT = Path(__file__).parents[2]

#: As many as wrk has connections, and then as many again.
SESSIONS = 64

# How often it is counted what survives of parallel updates.
_TIMES = 3

# Less would be lost in what the memory of a process grows by in any case.
_SECONDS_OF_NEW_SESSIONS = 2

_FIGURES = ("no_cookie_us", "untouched_us", "read_us", "write_us", "write_4k_us")
_COUNTS = ("kept_counter", "kept_keys", "new_per_s", "bytes")


class Measurement:
    """One peer while it is measured."""

    def __init__(self, peer: Peer, load: Load) -> None:
        self._peer = peer
        self._load = load

    def row(self) -> results.Row:
        """Measures the peer; if that cannot be done, the row says why."""
        row = {
            "peer": self._peer.name,
            "store": self._peer.store,
            "language": self._peer.language,
            "framework": self._peer.framework,
        }
        try:
            return {**row, **self._counts(), **self._times()}
        except (BrokenError, ServerUnavailableError) as error:
            return {**row, "broken": " ".join(str(error).split())[:200]}
        except Exception as error:  # noqa: BLE001
            # Whatever one of them answers, the others are measured.
            return {**row, "broken": repr(error)[:200]}

    def _counts(self) -> dict[str, Any]:
        with self._serve() as ready:
            urls = ready["urls"]
            check(urls)
            kept = {
                "kept_counter": round(_median(kept_counts, urls)),
                "kept_keys": round(_median(kept_keys, urls)),
            }
            return {**kept, **self._new(ready)}

    def _new(self, ready: dict[str, Any]) -> dict[str, Any]:
        """Measures how fast sessions begin, and the memory that each takes."""
        urls = ready["urls"]
        seconds = max(_SECONDS_OF_NEW_SESSIONS, self._load.seconds)
        if "collect" not in urls:
            requests = self._load.run(urls["fill"])
            return {"new_per_s": round(requests.per_second), "bytes": None}
        # What the process takes for its first requests it does not take for sessions.
        self._load.run(urls["fill"])
        before = _memory(ready)
        requests = self._load.run(urls["fill"], seconds=seconds)
        grown = _memory(ready) - before
        return {
            "new_per_s": round(requests.per_second),
            "bytes": round(grown / requests.answered),
        }

    def _times(self) -> dict[str, Any]:
        with self._serve() as ready:
            has_4k = "write_4k" in ready["urls"]
        routes = [
            *(Route(url, "cookies") for url in ("bare", "untouched", "read", "write")),
            *([Route("write_4k", "cookies_4k")] if has_4k else []),
        ]
        # To parse a cookie takes a while by itself, so these two are a pair of their own.
        alone = [Route("bare"), Route("untouched")]
        bare, *times, bare_alone, no_cookie = self._load.medians(
            self._serve, [*routes, *alone]
        )
        added = [
            round(each, 1)
            for each in (no_cookie - bare_alone, *(time - bare for time in times))
        ]
        # The last is None where there is no such route.
        return {
            "bare_us": round(bare, 1),
            **dict.fromkeys(_FIGURES),
            **dict(zip(_FIGURES, added, strict=False)),
        }

    @contextmanager
    def _serve(self) -> Iterator[dict[str, Any]]:
        command = [*self._peer.program.command(), _url(self._peer.store)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (
            tempfile.TemporaryDirectory() as folder,
            server(command, cwd=folder, env=environment) as ready,
        ):
            urls = ready["urls"]
            ready["cookies"] = [begin(urls).cookie for _ in range(SESSIONS)]
            if "fill_4k" in urls:
                ready["cookies_4k"] = [
                    begin(urls, "fill_4k").cookie for _ in range(SESSIONS)
                ]
            yield ready


def _median(count: Callable[[dict[str, str]], int], urls: dict[str, str]) -> float:
    return statistics.median(count(urls) for _ in range(_TIMES))


def _memory(ready: dict[str, Any]) -> int:
    """Returns the bytes of memory of a server, after it has collected garbage."""
    begin(ready["urls"], "collect")
    pages = int(Path(f"/proc/{ready['pid']}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _url(store: str) -> str:
    if store in ("memory", "cookie"):
        return store
    if store == "sqlite":
        return "sqlite:///sessions.db"
    return os.environ.get(f"SESSIONS_TEST_{store.upper()}_URL", "")


def _versions(peers: list[Peer]) -> dict[str, str]:
    """Returns the versions of all that was installed for the peers."""
    ours = results.our_versions()
    versions: dict[str, str] = {}
    for peer in peers:
        # If it cannot be installed, its row says so.
        with suppress(ServerUnavailableError):
            for name, version in peer.program.versions().items():
                # Ours are listed anyway, under the name alone.
                is_other = name in ours and ours[name] != version
                versions[f"{name} of {peer.name}" if is_other else name] = version
    return versions


def _print(row: results.Row) -> None:
    name = f"{row['peer']:<24}{row['store']:<11}"
    if "broken" in row:
        print(f"{name}broken: {row['broken']}", flush=True)
        return
    cells = [row["bare_us"], *(row[figure] for figure in (*_FIGURES, *_COUNTS))]
    print(name + "".join(f"{_cell(cell):>13}" for cell in cells), flush=True)


def _cell(value: float | None) -> str:
    return "-" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    is_quick = results.is_quick()
    parser.add_argument("--rounds", type=int, default=1 if is_quick else 5)
    parser.add_argument("--seconds", type=float, default=0.2 if is_quick else 1)
    parser.add_argument("--only", default="", help="such as redis or Django")
    parser.add_argument("--results", type=Path, help="a file of JSON to write them to")
    arguments = parser.parse_args()
    load = Load(arguments.rounds, arguments.seconds)
    peers = [
        peer
        for peer in PEERS
        if _url(peer.store) and arguments.only in f"{peer.name} {peer.store}"
    ]
    heads = ("bare_us", *_FIGURES, "counter", "keys", "new_per_s", "bytes")
    print(" " * 35 + "".join(f"{head:>13}" for head in heads))
    rows = []
    for peer in peers:
        rows.append(Measurement(peer, load).row())
        _print(rows[-1])
    if arguments.results is not None:
        results.write("peers", rows, arguments.results, **_versions(peers))


if __name__ == "__main__":
    main()

"""Print how minidiff's times stand to its peers', for every goal: ``python benchmarks/ratios.py``.

The times of a shared machine vary by half from one minute to the next, so the contestants take turns: in
every round each is timed once, a few milliseconds long, and a ratio is that of two neighbours. The table
shows the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import machine

if TYPE_CHECKING:
    from workloads import Work


class Measured(NamedTuple):
    """The median time of a contestant in a piece of work, and the median ratio of the first one's to it."""

    work: Work
    peer: str
    seconds: float
    ratio: float


class Goal(NamedTuple):
    """A row of the table: all that was measured towards one goal."""

    title: str
    subject: str
    peer: str
    at_most: float
    measured: list[Measured]

    @property
    def worst(self) -> Measured:
        return max(self.measured, key=lambda m: m.ratio)


def measure(work: Work, seconds: float, rounds: int) -> list[Measured]:
    """Time all contestants in turn, as many rounds as asked for if these fit in so many seconds a round."""
    runs = {name: work.makers[name]().run for name in work.contestants}
    counts = {name: _calibrate(run, seconds) for name, run in runs.items()}
    gc.collect()
    gc.freeze()  # so that a collection costs what it does in a program without all these libraries
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            times[name].append(_time(runs[name], counts[name]))
    gc.unfreeze()
    first = times[names[0]]
    return [
        Measured(
            work,
            name,
            statistics.median(times[name]),
            statistics.median(a / b for a, b in zip(first, times[name], strict=True)),
        )
        for name in names
    ]


def _calibrate(run: Callable[[], Any], seconds: float) -> int:
    """Warm up, and find how many runs take so many seconds."""
    run()
    count = 1
    while (took := _time(run, count) * count) < seconds and count < 10**6:
        count = max(2 * count, int(count * seconds / max(took, 1e-9)))
    return count


def _time(run: Callable[[], Any], count: int) -> float:
    """Return the seconds per run of so many, after one that fills the caches again."""
    run()
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count


def goals(measured: list[Measured]) -> list[Goal]:
    """Gather the measurements by goal, in the order in which they were made."""
    rows: dict[tuple[str, str, float], Goal] = {}
    for m in measured:
        if m.peer in m.work.goals:
            key = m.work.title, m.peer, m.work.goals[m.peer]
            rows.setdefault(key, Goal(m.work.title, m.work.contestants[0], m.peer, key[2], [])).measured.append(m)
    return list(rows.values())


# --- What it prints -------------------------------------------------------------------------------------


def goal_table(rows: list[Goal]) -> list[list[str]]:
    """Give a row per goal, after the header."""
    table = [["work", "peer", "ratio", "goal", "met"]]
    for row in rows:
        low, high = min(m.ratio for m in row.measured), row.worst.ratio
        ratio = f"{high:.2f}" if len(row.measured) == 1 else f"{low:.2f} to {high:.2f} ({row.worst.work.case})"
        table.append([row.title, row.peer, ratio, f"{row.at_most:g}", "yes" if high <= row.at_most else "no"])
    return table


def time_table(measured: list[Measured]) -> list[list[str]]:
    """Give a row per piece of work, after the header: everybody's time, and the ratio in brackets."""
    table = [["work", "minidiff", "peers: time (ratio)"]]
    for work in dict.fromkeys(id(m.work) for m in measured):
        first, *peers = [m for m in measured if id(m.work) == work]
        others = ", ".join(f"{m.peer} {_seconds(m.seconds)} ({m.ratio:.2f})" for m in peers)
        table.append([first.work.name, _seconds(first.seconds), others])
    return table


def _seconds(t: float) -> str:
    return f"{t * 1e6:.3g} µs" if t < 1e-3 else f"{t * 1e3:.3g} ms"


def show(table: list[list[str]], markdown: bool) -> str:
    """Lay a table out, in columns or as Markdown."""
    if markdown:
        lines = [" | ".join(cells) for cells in [table[0], ["---"] * len(table[0]), *table[1:]]]
        return "\n".join(f"| {line} |" for line in lines)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table)


def main() -> None:
    """Measure what the command line asks for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, arrays of up to 10⁶ elements")
    parser.add_argument("--only", metavar="NAME", default="", help="only the work whose name contains this")
    parser.add_argument("--markdown", action="store_true", help="tables for a README")
    options = parser.parse_args()
    machine.limit_threads()
    from workloads import works

    measured = []
    for work in works(10**6 if options.quick else 10**7):
        if options.only.casefold() in work.name.casefold():
            measured += measure(work, *((0.002, 9) if options.quick else (0.01, 31)))
    print(machine.describe(), end="\n\n")
    print(show(goal_table(goals(measured)), options.markdown), end="\n\n")
    print(show(time_table(measured), options.markdown))


if __name__ == "__main__":
    main()

"""Print how minidiff's times stand to its peers', goal by goal: ``python benchmarks/ratios.py``.

The speed of a shared machine changes by half from one minute to the next. So the contestants take turns: in
every round each is timed once, for a few milliseconds, and a ratio is that of two times of one round. The
tables show medians over the rounds in which other programs left the processor alone. Where there were too
few of these they take all rounds, and say "disturbed".
"""

from __future__ import annotations

import argparse
import gc
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import machine

if TYPE_CHECKING:
    from workloads import Work

HERE = Path(__file__).parent

# A round counts if other programs kept less than so many cores busy; so many seconds are spent on a work.
QUIET, PATIENCE = 0.25, 20.0
# After a product OpenBLAS's threads wait busily for the next one, some 30 ms long, on the core that another
# library's threads need. A turn begins when they sleep.
PAUSE = 0.05


class Measured(NamedTuple):
    """A contestant's median time in a piece of work, and the median ratio of the first one's to it."""

    work: Work
    peer: str
    time: float
    ratio: float
    is_quiet: bool


class Goal(NamedTuple):
    """A row of the table of goals, with all that was measured towards it."""

    title: str
    peer: str
    at_most: float
    measured: list[Measured]

    @property
    def worst(self) -> Measured:
        """The measurement that decides."""
        return max(self.measured, key=lambda m: m.ratio)

    @property
    def met(self) -> str:
        """Whether even the worst ratio is low enough; what was disturbed decides nothing."""
        if any(m.is_quiet and m.ratio > self.at_most for m in self.measured):
            return "no"
        return "yes" if all(m.is_quiet for m in self.measured) else "disturbed"


def measure(work: Work, seconds: float, rounds: int) -> list[Measured]:
    """Time all contestants in turn: so many rounds, in each of which everyone takes about so many seconds.

    Rounds in which other programs kept the processor busy are left out, and made up for at the end.
    """
    runs = {name: work.makers[name]().run for name in work.contestants}
    counts = {name: _calibrate(run, seconds) for name, run in runs.items()}
    gc.collect()
    gc.freeze()  # so that a collection costs what it does in a program without all these libraries
    names = list(runs)
    quiet: list[dict[str, float]] = []
    disturbed: list[dict[str, float]] = []
    end = time.perf_counter() + PATIENCE
    while len(quiet) < rounds and (time.perf_counter() < end or len(quiet) + len(disturbed) < 5):
        first = (len(quiet) + len(disturbed)) % len(names)
        others = machine.disturbance()
        times = {}
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE)
            times[name] = _time(runs[name], counts[name])
        (quiet if others() < QUIET else disturbed).append(times)
    gc.unfreeze()
    is_quiet = len(quiet) >= 5
    used = quiet if is_quiet else quiet + disturbed
    median = statistics.median
    return [
        Measured(
            work,
            name,
            median(times[name] for times in used),
            median(times[names[0]] / times[name] for times in used),
            is_quiet,
        )
        for name in names
    ]


def _calibrate(run: Callable[[], Any], seconds: float) -> int:
    """Find how many runs take so many seconds; the first, which may compile, does not count."""
    run()
    count = 1
    while (took := count * _time(run, count)) < seconds:
        count = max(2 * count, int(count * seconds / max(took, 1e-9)))
    return count


def _time(run: Callable[[], Any], count: int) -> float:
    """Return the seconds of one run, the mean of so many, after one more that fills the caches again."""
    run()
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count


def goals(measured: list[Measured]) -> list[Goal]:
    """Gather what was measured by goal, in order."""
    rows: dict[tuple[str, str], Goal] = {}
    for m in measured:
        if m.peer in m.work.goals:
            row = Goal(m.work.title, m.peer, m.work.goals[m.peer], [])
            rows.setdefault((m.work.title, m.peer), row).measured.append(m)
    return list(rows.values())


# --- What is shown --------------------------------------------------------------------------------------

Table = list[list[str]]


def goal_table(rows: list[Goal]) -> Table:
    """Give a row per goal, after the header; where it stands for several cases, the best and the worst."""
    table = [["work", "peer", "ratio", "goal", "met"]]
    for row in rows:
        ratio = f"{row.worst.ratio:.2f}"
        if len(row.measured) > 1:
            ratio = f"{min(m.ratio for m in row.measured):.2f} to {ratio} ({row.worst.work.case})"
        table.append([row.title, row.peer, ratio, f"{row.at_most:g}", row.met])
    return table


def time_table(measured: list[Measured]) -> Table:
    """Give a row per piece of work, after the header: everybody's time and, in brackets, the ratio to it."""
    from growth import seconds

    table = [["work", "minidiff", "peers (ratio)"]]
    for work in {id(m.work): m.work for m in measured}.values():
        ours, *peers = [m for m in measured if m.work is work]
        others = ", ".join(f"{m.peer} {seconds(m.time)} ({m.ratio:.2f})" for m in peers)
        note = f"; {work.differs}" if work.differs else ""
        note += "" if ours.is_quiet else "; disturbed"
        table.append([work.name, seconds(ours.time), others + note])
    return table


def show(table: Table, markdown: bool) -> str:
    """Lay a table out, in columns or as Markdown."""
    if markdown:
        return "\n".join(f"| {' | '.join(row)} |" for row in [table[0], ["---"] * len(table[0]), *table[1:]])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)


def draw(rows: list[Goal], path: Path) -> None:
    """Draw the ratios of every goal as dots (hollow: disturbed) on a logarithmic axis, the goal as a bar."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("the picture needs matplotlib: pip install 'minidiff[bench,plot]'") from None
    figure = Figure(figsize=(8, 0.27 * len(rows) + 0.9), dpi=200, layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        for m in row.measured:
            axes.plot(m.ratio, y, "ko", markersize=4, alpha=0.6, fillstyle="full" if m.is_quiet else "none")
        axes.plot([row.at_most] * 2, [y - 0.35, y + 0.35], "k-", linewidth=2.5)
    axes.axvline(1, color="0.6", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(rows)), [f"{row.title} / {row.peer}" for row in rows], fontsize=8)
    axes.set(xscale="log", ylim=(len(rows) - 0.4, -0.6))
    axes.set_xticks(ticks := [0.05, 0.1, 0.25, 0.5, 1, 2, 4], [f"{tick:g}" for tick in ticks], fontsize=8)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("minidiff's time / the peer's: dots measured, bars the goal", fontsize=8)
    figure.savefig(path)


def report(measured: list[Measured], growths: list[Table], markdown: bool) -> str:
    """Put the machine and all tables together."""
    tables = [goal_table(goals(measured)), time_table(measured), *growths]
    shown = [show(table, markdown) for table in tables if len(table) > 1]
    description = machine.describe()
    return "\n\n".join([f"```text\n{description}\n```" if markdown else description, *shown])


def replace_between(markers: str, page: Path, text: str) -> None:
    """Put text between ``<!-- markers -->`` and ``<!-- end markers -->`` on a page."""
    start, end = f"<!-- {markers} -->", f"<!-- end {markers} -->"
    old = page.read_text(encoding="utf-8")
    new, count = re.subn(
        f"{re.escape(start)}.*?{re.escape(end)}", lambda _: f"{start}\n\n{text}\n\n{end}", old, flags=re.S
    )
    if count != 1:
        raise ValueError(f"{page} must contain {start} … {end} once, not {count} times")
    page.write_text(new, encoding="utf-8")


def main() -> None:
    """Measure what the command line asks for, and show it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="few and short rounds, nothing above 10⁶ elements"
    )
    parser.add_argument("--only", metavar="NAME", default="", help="only the work whose name contains NAME")
    parser.add_argument("--growth", action="store_true", help="also how cost grows with size and length")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown")
    parser.add_argument(
        "--write", action="store_true", help="measure all; renew README.md and ratios.png here"
    )
    options = parser.parse_args()
    if options.write and (options.only or options.quick):
        parser.error("--write measures everything in full: leave --only and --quick away")
    machine.limit_threads()
    # Only now may NumPy and its peers be imported, which read the number of threads as they are.
    import growth
    from workloads import works

    seconds, rounds, largest = (0.002, 9, 10**6) if options.quick else (0.01, 31, 10**7)
    measured = []
    for work in works(largest):
        if options.only.casefold() in work.name.casefold():
            measured += measure(work, seconds, rounds)
    growths = [growth.by_size(), growth.by_length()] if options.growth or options.write else []
    print(report(measured, growths, options.markdown))
    if options.write:
        replace_between("measured", HERE / "README.md", report(measured, growths, markdown=True))
        draw(goals(measured), HERE / "ratios.png")


if __name__ == "__main__":
    main()

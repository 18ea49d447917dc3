"""Side by side with the peers: `python -m benchmarks`."""

import dataclasses
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import clips, costs, growth, matrices, report, starts, steps, windows
from benchmarks.cases import Case, Row, measure

MODULES = (clips, steps, windows, matrices, starts, costs, growth)
FEW = 3  # rounds of a quick run


@dataclasses.dataclass
class Options:
    """Measure clipax beside optax, torch, TensorFlow and others; what is missing is left out."""

    only: tuple[str, ...] = ()
    """Suites, or parts of the names of works, to run; all by default."""
    quick: bool = False
    """Small trees and few rounds: shows that it works, says little of speed."""
    dry_run: bool = False
    """Only name the works."""
    out: Path | None = None
    """Folder for results.json, README.md and a picture of each curve."""


def main() -> int:
    """Run what is asked for; 1 where a program costs more than it may, 2 for a mistake."""
    options = tyro.cli(Options, prog="python -m benchmarks")
    console = Console()
    wanted = list(chosen(options))
    if not wanted:
        known = ", ".join(dict.fromkeys(case.suite for case in cases(quick=options.quick)))
        asked = ", ".join(options.only)
        console.print(f"--only must name suites or parts of works, got {asked}; suites: {known}")
        return 2
    if options.dry_run:
        for case in wanted:
            console.print(f"{case.suite}: {case.work}", highlight=False)
        return 0
    jax.config.update("jax_enable_compilation_cache", False)  # before anything is compiled
    rows = measured(wanted, options, console)
    console.print(table(rows))
    wrong = [row for row in rows if not row.case.timed and not row.reached]
    for row in wrong:
        console.print(f"costs more than it may: {row.case.work}, {row.ours:g}")
    return 1 if wrong else 0


def cases(*, quick: bool) -> Iterator[Case]:
    """All works."""
    for module in MODULES:
        yield from module.cases(quick=quick)


def chosen(options: Options) -> Iterator[Case]:
    """The works that are asked for."""
    every = list(cases(quick=options.quick))
    suites = {case.suite for case in every}

    def named(case: Case) -> bool:
        return any(
            case.suite == name if name in suites else name in case.work for name in options.only
        )

    yield from every if not options.only else filter(named, every)


def measured(wanted: Sequence[Case], options: Options, console: Console) -> list[Row]:
    """The rows of all works, which are written also if a later work fails."""
    rows: list[Row] = []
    about = report.facts(shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]))
    complete = False
    try:
        # Its own thread, which draws it again and again, would run while something is timed.
        with Progress(console=console, transient=True, auto_refresh=False) as progress:
            task = progress.add_task("", total=len(wanted))
            for case in wanted:
                told = f"{case.suite}: {case.work}"
                progress.update(task, description=told, refresh=True)
                rows += measure(case, most=FEW if options.quick else case.rounds)
                progress.advance(task)
        complete = True
    finally:
        if options.out is not None and rows:
            report.write(rows, about | {"complete": complete}, options.out)
    return rows


def table(rows: Sequence[Row]) -> Table:
    """The rows for the terminal."""
    made = Table("suite", "work", "over", "ratio", "quartiles", "goal", "clipax")
    for row in rows:
        low, middle, high = row.ratio
        mark = "" if row.reached else "[bold red]"
        made.add_row(
            row.case.suite, row.case.work, row.against, f"{mark}{middle:.3f}",
            f"{low:.3f} to {high:.3f}" if row.case.timed else "",
            "" if row.goal is None else f"{row.goal:g}", report.amount(row.ours, row.case.unit),
        )  # fmt: skip
    return made


if __name__ == "__main__":
    raise SystemExit(main())

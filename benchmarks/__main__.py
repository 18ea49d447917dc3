"""Side by side with the peers: `python -m benchmarks`."""

import dataclasses
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import clips, costs, growth, matrices, report, starts, steps, windows
from benchmarks.cases import Case, Row, measure

MODULES = (clips, steps, windows, matrices, starts, costs, growth)
MOST, FEW = 40, 3


@dataclasses.dataclass
class Options:
    """Time clipax beside optax, torch, TensorFlow and others; what is missing is left out."""

    only: tuple[str, ...] = ()
    """Suites, or parts of the names of works, to run; all by default."""
    quick: bool = False
    """Small trees and few rounds: shows that it works, says little of speed."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where to write results.json, README.md and a picture of each curve."""
    list: bool = False
    """Only name the works."""


def main() -> int:
    options = tyro.cli(Options, prog="python -m benchmarks")
    console = Console()
    wanted = list(chosen(options))
    if not wanted:
        known = ", ".join(dict.fromkeys(case.suite for case in cases(options.quick)))
        console.print(f"--only must name suites or works, got {options.only}; suites are {known}")
        return 2
    if options.list:
        for case in wanted:
            console.print(f"{case.suite}: {case.work}", highlight=False)
        return 0
    rows = list(measured(wanted, FEW if options.quick else MOST, console))
    console.print(table(rows))
    if options.out is not None:
        command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        report.write(rows, report.facts(command), options.out)
    wrong = [row for row in rows if row.exact and not row.reached]
    for row in wrong:
        console.print(f"costs more than it may: {row.work}, {row.ratio.middle:.3g} of {row.goal}")
    return 1 if wrong else 0


def cases(quick: bool) -> Iterator[Case]:
    for module in MODULES:
        yield from module.cases(quick=quick)


def chosen(options: Options) -> Iterator[Case]:
    for case in cases(options.quick):
        if not options.only or any(
            name == case.suite or name in case.work for name in options.only
        ):
            yield case


def measured(wanted: list[Case], most: int, console: Console) -> Iterator[Row]:
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(wanted))
        for case in wanted:
            progress.update(task, description=f"{case.suite}: {case.work}")
            yield from measure(case, most=most)
            progress.advance(task)


def table(rows: list[Row]) -> Table:
    made = Table("suite", "work", "over", "ratio", "quartiles", "goal", "clipax")
    for row in rows:
        low, middle, high = row.ratio
        mark = "" if row.reached else "[bold red]"
        made.add_row(
            row.suite, row.work, row.against, f"{mark}{middle:.3f}",
            "" if row.exact else f"{low:.3f} to {high:.3f}",
            "" if row.goal is None else f"{row.goal:g}", report.amount(row.ours, row.unit),
        )  # fmt: skip
    return made


if __name__ == "__main__":
    raise SystemExit(main())

"""The command line: what each command does, one-line errors, and what is written where."""

import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from experiments import (
    board,
    clippers,
    cluster,
    compare,
    digest,
    plan,
    report,
    runner,
    suggest,
    task,
)
from experiments import options as opt
from experiments.board import Part
from experiments.config import Group
from experiments.devices import use_cores
from experiments.errors import UserError
from experiments.progress import Progress, clock
from experiments.store import Store, write_parquet

INTERRUPTED = 130
_PAGE_EVERY = 60.0
_PAGE_SHARE = 20  # a page waits this many times as long as the last one took


class Interrupted(Exception):
    """Ctrl-C, with a word on how to go on."""


def main(arguments: list[str]) -> int:
    """Run one command and return the exit code: 2 for a mistake of the user's, 130 for Ctrl-C."""
    command = shlex.join([*opt.PROGRAM.split(), *arguments])
    try:
        options = opt.parse(arguments)
        use_cores()  # before anything computes: to check an argument is enough
        _DO[type(options)](options, command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return INTERRUPTED
    return 0


def _list(options: opt.List, command: str) -> None:
    tasks, methods = Table(title="tasks"), Table(title="methods")
    for name in ("task", "variants", "about"):
        tasks.add_column(name)
    for name in task.NAMES:
        variants = ", ".join(plan.offered(task.find(name), long=True))
        tasks.add_row(name, variants, task.question(name))
    for name in ("method", "main argument", "source"):
        methods.add_column(name)
    for row in clippers.ROWS:
        methods.add_row(row.name, row.argument, row.source)
    console = _console()
    console.print(tasks)
    console.print(methods)


def _run(options: opt.Run, command: str) -> None:
    asked = opt.study(options)
    _execute(board.study(asked, smoke=options.smoke, long=options.long), options, command)


def _leaderboard(options: opt.Leaderboard, command: str) -> None:
    _execute(board.leaderboard(full=options.full, smoke=options.smoke), options, command)


def _execute(parts: list[Part], options: opt.Run | opt.Leaderboard, command: str) -> None:
    groups, console = board.distinct(parts), _console()
    if options.dry_run:
        console.print(plan.table(groups))
        return
    store = Store(options.out / "groups", warn=console.print)
    progress = Progress(groups, console)
    about = {"command": command, "begin": time.time()}
    try:
        with progress.shown():
            train = partial(_trained, groups, store, options, progress)
            table = _interruptible(lambda: board.run(parts, train(), _pages(options.out, about)))
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped: {progress.finished} of {len(groups)} groups are kept in {store.folder}; "
            "the same command goes on from there"
        ) from None
    _finish(options.out, table, about, console)


def _trained(
    groups: list[Group], store: Store, options: opt.Run | opt.Leaderboard, progress: Progress
) -> Iterator[tuple[Group, pa.Table]]:
    if options.scheduler:
        return cluster.run(groups, store, options.cache, progress, options.scheduler)
    return runner.run(groups, store, options.cache, progress)


def _interruptible(work: Callable[[], pa.Table]) -> pa.Table:
    """Do some work in a thread, so that Ctrl-C need not wait for a compiler to come back."""
    done: Future[pa.Table] = Future()

    def target() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=target, daemon=True).start()
    return done.result()


def _pages(out: Path, about: dict[str, Any]) -> Callable[[pa.Table], None]:
    """Write the runs so far and their page, at most once a minute, in a small part of the time."""
    due = time.monotonic() + _PAGE_EVERY

    def on_variant(table: pa.Table) -> None:
        nonlocal due
        begin = time.monotonic()
        if begin > due:
            _write(out, table, about)
            end = time.monotonic()
            due = end + max(_PAGE_EVERY, _PAGE_SHARE * (end - begin))

    return on_variant


def _write(out: Path, table: pa.Table, about: dict[str, Any]) -> Path:
    told = {
        "command": about["command"],
        "seconds": f"{time.time() - about['begin']:.0f}",
        "finished": f"{time.time():.0f}",
    }
    table = table.replace_schema_metadata(told)
    write_parquet(table, out / "runs.parquet")
    return report.write(table, out)


def _finish(out: Path, table: pa.Table, about: dict[str, Any], console: Console) -> None:
    page = _write(out, table, about)
    failed = sum(table["failed"].to_pylist())
    console.print(report.summary(table))
    console.print(
        f"{len(table)} runs in {clock(time.time() - about['begin'])}, {failed} failed, every one "
        f"kept in {out}\nlook at {page}",
        soft_wrap=True,
    )


def _runs(out: Path) -> pa.Table:
    path = out / "runs.parquet"
    if not path.exists():
        raise UserError(f"there is no {path}; run: {opt.PROGRAM} run chorales --out {out}")
    return pq.read_table(path)


def _report(options: opt.Report, command: str) -> None:
    table = _runs(options.out)
    if options.digest:
        print(f"look at {digest.write(table, options.digest)}")
    elif "loss" not in table.column_names:
        raise UserError(f"the runs in {options.out} are without curves, which the page shows")
    else:
        print(f"look at {report.write(table, options.out)}")


def _compare(options: opt.Compare, command: str) -> None:
    _console().print(compare.table(_runs(options.out), options.first, options.second))


def _suggest(options: opt.Suggest, command: str) -> None:
    if not options.run:
        raise UserError(f"no run given; as in {opt.PROGRAM} suggest 0 --out {options.out}")
    title, found, picture = suggest.write(options.run, options.out)
    print(f"{title}\n{found}\n\nlook at {picture}")


def _console() -> Console:
    return Console(highlight=False, markup=False)


_DO: dict[type, Callable[[Any, str], None]] = {
    opt.List: _list,
    opt.Run: _run,
    opt.Leaderboard: _leaderboard,
    opt.Report: _report,
    opt.Compare: _compare,
    opt.Suggest: _suggest,
}

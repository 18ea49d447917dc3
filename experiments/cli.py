"""The command line: options, one-line errors, and what is written where."""

import contextlib
import io
import json
import os
import re
import shlex
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import jax
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from rich.console import Console

from experiments import report, runner, suggest
from experiments.config import SMOKE, Chorales
from experiments.data import cache_folder
from experiments.errors import UserError
from experiments.progress import Progress, clock
from experiments.store import Store, write_parquet
from experiments.tasks import chorales

_MOST_DEVICES = 6
_PROGRAM = "python -m experiments"


_JOB = Chorales()


@dataclass(frozen=True)
class ChoralesOptions:
    """Train recurrent nets on Bach's chorales with each clipper and build the page.

    About three minutes on two cores. Killed and started again, it goes on where it was.
    """

    clippers: tuple[str, ...] = _JOB.clippers
    """Clippers of the study, names separated by spaces."""
    learning_rates: tuple[float, ...] = _JOB.learning_rates
    """Peak learning rates of the study, separated by spaces; each falls to 0."""
    seeds: int = _JOB.seeds
    """Number of seeds of the study, counted from 0."""
    updates: int = _JOB.updates
    """Optimizer steps of each run of the study."""
    out: Path = Path("results")
    """Folder for runs.parquet, report.html and the finished groups."""
    cache: Path = field(default_factory=cache_folder)
    """Folder for parsed data; the default is $CLIPAX_CACHE or the platform's cache folder."""
    smoke: bool = False
    """Tiny models on a tiny grid, in seconds, with defaults of their own: `--smoke --help`."""


@dataclass(frozen=True)
class ReportOptions:
    """Build the page and the figure again from runs.parquet."""

    out: Path = Path("results")
    """Folder that holds runs.parquet and receives report.html."""


@dataclass(frozen=True)
class SuggestOptions:
    """Suggest a threshold from the gradient norms of a recorded run, and draw them."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")] = ""
    """Row of a run in runs.parquet, counted from 0, or a file of norms: .npy, .csv with a column
    `norm`, or text with one norm a line."""
    out: Path = Path("results")
    """Folder that holds runs.parquet and receives the picture."""


class Interrupted(Exception):
    """Ctrl-C, with a word on how to go on."""


Options = ChoralesOptions | ReportOptions | SuggestOptions
COMMANDS: dict[str, type[Options]] = {
    "chorales": ChoralesOptions,
    "report": ReportOptions,
    "suggest": SuggestOptions,
}


def main(arguments: list[str]) -> int:
    """Run one command and return the exit code: 2 for a mistake of the user's, 130 for Ctrl-C."""
    try:
        options = parse(arguments)
        if isinstance(options, ReportOptions):
            _report(options.out)
        elif isinstance(options, SuggestOptions):
            _suggest(options)
        else:
            _chorales(options, shlex.join([*_PROGRAM.split(), *arguments]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        return 130
    return 0


def parse(arguments: list[str]) -> Options:
    """Read the command line.

    Raises:
        UserError: in one line, what is wrong and what exists.
        SystemExit: with code 0, after printing the help that was asked for.
    """
    name = arguments[0] if arguments else None
    if name in ("-h", "--help"):
        return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog=_PROGRAM, args=["--help"])
    if name not in COMMANDS:
        wrong = f"unknown command {name}" if name else "no command given"
        raise UserError(f"{wrong}; there are {', '.join(COMMANDS)}")
    _check_options(name, arguments[1:])
    return _parse_options(name, arguments[1:])


def _check_options(name: str, arguments: list[str]) -> None:
    known = [f"--{field.replace('_', '-')}" for field in COMMANDS[name].__dataclass_fields__]
    given = [part.split("=")[0] for part in arguments if part.startswith("--")]
    for option in given:
        if option.replace("_", "-") not in [*known, "--help"]:
            raise UserError(f"unknown option {option}; {name} has {', '.join(known)}")


def _parse_options(name: str, arguments: list[str]) -> Options:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                COMMANDS[name],
                prog=f"{_PROGRAM} {name}",
                args=arguments,
                default=_defaults(name, "--smoke" in arguments),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as left:
        if not left.code:
            raise
        raise UserError(_one_line(said.getvalue())) from None


def _defaults(name: str, smoke: bool) -> Options:
    if not smoke:
        return COMMANDS[name]()
    return ChoralesOptions(**_shared(SMOKE), out=Path("results/smoke"))


def _one_line(box: str) -> str:
    # The parser draws a box of several lines: a title, the error, rules and a word on --help.
    lines = [re.sub(r"[│─╭╮╰╯┃|]", " ", line).strip() for line in box.splitlines()]
    text = " ".join(line for line in lines[1:] if line.strip("- "))
    return re.split(r"\s*(?:Argument helptext|For full helptext)", text)[0].strip()


def settings(options: ChoralesOptions) -> Chorales:
    """The settings that the options ask for."""
    return replace(SMOKE if options.smoke else _JOB, **_shared(options))


def _shared(settings: ChoralesOptions | Chorales) -> dict[str, Any]:
    names = ("clippers", "learning_rates", "seeds", "updates")
    return {name: getattr(settings, name) for name in names}


def _chorales(options: ChoralesOptions, command: str) -> None:
    out = options.out
    plan = chorales.plan(settings(options))
    _use_cores()
    console = Console(highlight=False, markup=False)
    store = Store(out / "groups", warn=console.print)
    progress = Progress(plan, console)
    begin = time.monotonic()
    material = chorales.load(options.cache)
    try:
        with progress.shown():
            table = runner.run(chorales, plan, material, store, progress)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped: {progress.finished} of {len(plan)} groups are kept in {store.folder}; "
            "the same command goes on from there"
        ) from None
    seconds = time.monotonic() - begin
    about = {
        "command": command,
        "seconds": f"{seconds:.0f}",
        "finished": f"{time.time():.0f}",
        "floors": json.dumps(material.floors),
    }
    _finish(out, table.replace_schema_metadata(about), seconds, console)


def _finish(out: Path, table: pa.Table, seconds: float, console: Console) -> None:
    write_parquet(table, out / "runs.parquet")
    page = _report(out)
    failed = sum(table["failed"].to_pylist())
    console.print(report.summary(table))
    console.print(
        f"{len(table)} runs in {clock(seconds)}, {failed} failed, every one kept in {out}\n"
        f"look at {page}",
        soft_wrap=True,
    )


def _report(out: Path) -> Path:
    path = out / "runs.parquet"
    if not path.exists():
        raise UserError(f"there is no {path}; run: {_PROGRAM} chorales --out {out}")
    return report.write(pq.read_table(path), out)


def _suggest(options: SuggestOptions) -> None:
    if not options.run:
        raise UserError(f"no run given; as in {_PROGRAM} suggest 0 --out {options.out}")
    title, found, picture = suggest.write(options.run, options.out)
    print(f"{title}\n{found}\n\nlook at {picture}")


def _use_cores() -> None:
    # Runs do not talk to each other: one device a core is faster than one device with threads.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # jax runs already, in a test or a notebook
        jax.config.update("jax_num_cpu_devices", min(cores or 1, _MOST_DEVICES))

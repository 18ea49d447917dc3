"""The options of each command, their defaults, and a line that says what is wrong with them."""

import contextlib
import dataclasses
import io
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import config
from experiments.config import Study
from experiments.data import cache_folder
from experiments.errors import UserError

PROGRAM = "python -m experiments"
Word = tyro.conf.Positional[str]


@dataclass(frozen=True)
class List:
    """Show the tasks with their variants, and the methods."""


@dataclass(frozen=True)
class Run:
    """Train every method on a task and build the page.

    Killed and started again, it goes on where it was.
    """

    task: Annotated[Word, tyro.conf.arg(metavar="TASK")] = ""
    """Name of a task, or `TASK/VARIANT`; `list` shows them. A config file may name several."""
    methods: tuple[str, ...] = ()
    """Methods, names separated by spaces; by default those that the task asks for."""
    seeds: int = 3
    """Number of seeds, counted from 0."""
    held_out: int = 0
    """Number of further seeds on which the best setting of each method is tried again."""
    tune: bool = False
    """Try four values of each method's main argument, not the default alone."""
    learning_rates: tuple[float, ...] = ()
    """Peak learning rates, separated by spaces; by default those of each variant."""
    values: tuple[float, ...] = ()
    """Values of each method's main argument, separated by spaces, instead of those of `--tune`."""
    updates: int = 0
    """Optimizer steps of each run; 0 means those of each variant."""
    text: str = ""
    """For `characters`: a text file to learn instead of the folk tunes."""
    config: Path | None = None
    """A TOML file with any of the settings above, `tasks` among them; options come before it."""
    out: Path = Path("results")
    """Folder for runs.parquet, the page and the finished groups."""
    cache: Path = field(default_factory=cache_folder)
    """Folder for parsed data; the default is $CLIPAX_CACHE or the platform's cache folder."""
    scheduler: str = ""
    """Compute on a Dask cluster: the address of its scheduler, or `local:N` for N processes."""
    long: bool = False
    """The variants that take long, too."""
    smoke: bool = False
    """Tiny models on a tiny grid, in seconds, with defaults of their own: `--smoke --help`."""
    dry_run: bool = False
    """Show what would run and how long it would take, and leave."""


@dataclass(frozen=True)
class Leaderboard:
    """Compare the methods people ask about on the cheapest tasks, each with its argument tuned.

    Half an hour on two cores. Killed and started again, it goes on where it was.
    """

    full: bool = False
    """Every method on every task, and the claims of the literature: two hours."""
    out: Path = Path("results/leaderboard")
    """Folder for runs.parquet, the page and the finished groups."""
    cache: Path = field(default_factory=cache_folder)
    """Folder for parsed data; the default is $CLIPAX_CACHE or the platform's cache folder."""
    scheduler: str = ""
    """Compute on a Dask cluster: the address of its scheduler, or `local:N` for N processes."""
    smoke: bool = False
    """Two tasks and three methods with tiny models, in less than a minute."""
    dry_run: bool = False
    """Show what would run and how long it would take, and leave."""


@dataclass(frozen=True)
class Report:
    """Build the page again from runs.parquet."""

    out: Path = Path("results")
    """Folder that holds runs.parquet and receives the page."""
    digest: Path | None = None
    """Folder to keep in a repository, for a leaderboard in Markdown, CSV and SVG, not the page."""


@dataclass(frozen=True)
class Compare:
    """Compare two methods on each task of finished runs: difference, interval, verdict."""

    first: Annotated[Word, tyro.conf.arg(metavar="A")] = ""
    """Name of a method."""
    second: Annotated[Word, tyro.conf.arg(metavar="B")] = ""
    """Name of another."""
    out: Path = Path("results")
    """Folder that holds runs.parquet."""


@dataclass(frozen=True)
class Suggest:
    """Suggest a threshold from the gradient norms of a recorded run, and draw them."""

    run: Annotated[Word, tyro.conf.arg(metavar="RUN")] = ""
    """Row of a run in runs.parquet, counted from 0, or a file of norms: .npy, .csv with a column
    `norm`, or text with one norm a line."""
    out: Path = Path("results")
    """Folder that holds runs.parquet and receives the picture."""


Options = List | Run | Leaderboard | Report | Compare | Suggest
COMMANDS: dict[str, type[Options]] = {
    "list": List,
    "run": Run,
    "leaderboard": Leaderboard,
    "report": Report,
    "compare": Compare,
    "suggest": Suggest,
}
_SMOKE = {"methods": ("none", "global_norm", "adaptive"), "seeds": 2}


def parse(arguments: list[str]) -> Options:
    """Read the command line.

    Raises:
        UserError: in one line, what is wrong and what exists.
        SystemExit: with code 0, after printing the help that was asked for.
    """
    name = arguments[0] if arguments else None
    if name in ("-h", "--help"):
        return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog=PROGRAM, args=["--help"])
    if name not in COMMANDS:
        wrong = f"unknown command {name}" if name else "no command given"
        raise UserError(f"{wrong}; there are {', '.join(COMMANDS)}")
    _check_options(name, arguments[1:])
    return _parse_options(name, arguments[1:])


def _check_options(name: str, arguments: list[str]) -> None:
    known = [f"--{key.replace('_', '-')}" for key in COMMANDS[name].__dataclass_fields__]
    given = [part.split("=")[0] for part in arguments if part.startswith("--")]
    for option in given:
        if option.replace("_", "-") not in [*known, "--help"]:
            raise UserError(f"unknown option {option}; {name} has {', '.join(known) or 'none'}")


def _parse_options(name: str, arguments: list[str]) -> Options:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                COMMANDS[name],
                prog=f"{PROGRAM} {name}",
                args=arguments,
                default=_defaults(name, arguments),
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as left:
        if not left.code:
            raise
        raise UserError(_one_line(said.getvalue())) from None


def _defaults(name: str, arguments: list[str]) -> Options:
    if name != "run":
        smoke = name == "leaderboard" and "--smoke" in arguments
        return Leaderboard(out=Path("results/smoke")) if smoke else COMMANDS[name]()
    found = Run(**_SMOKE, out=Path("results/smoke")) if "--smoke" in arguments else Run()
    return dataclasses.replace(found, **_from_file(arguments))


def _from_file(arguments: list[str]) -> dict[str, Any]:
    words = [word for part in arguments for word in part.split("=", 1)]
    if "--config" not in words[:-1]:
        return {}
    settings = read(Path(words[words.index("--config") + 1]))
    return {key: value for key, value in settings.items() if key != "tasks"}


def read(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, each checked.

    Raises:
        UserError: it cannot be read, or has a key or a value that a study does not have.
    """
    try:
        found = tomllib.loads(path.read_text())
        checked = config.study({"tasks": ["any"], **found})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read the config file {path}: {error}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return {key: getattr(checked, key) for key in found}


def study(options: Run) -> Study:
    """What `run` is asked for.

    Raises:
        UserError: no task is named.
    """
    told = read(options.config) if options.config else {}
    tasks = (options.task,) if options.task else told.get("tasks", ())
    if not tasks:
        raise UserError(f"no task given; as in {PROGRAM} run chorales")
    names = [each.name for each in dataclasses.fields(Study) if each.name != "tasks"]
    return Study(tasks=tasks, **{name: getattr(options, name) for name in names})


def _one_line(box: str) -> str:
    # The parser draws a box of several lines: a title, the error, rules and a word on --help.
    lines = [re.sub(r"[│─╭╮╰╯┃|]", " ", line).strip() for line in box.splitlines()]
    text = " ".join(line for line in lines[1:] if line.strip("- "))
    return re.split(r"\s*(?:Argument helptext|For full helptext)", text)[0].strip()

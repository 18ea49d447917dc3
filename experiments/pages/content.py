"""A table of runs as the pages look at it: by variant of a task, by method, by stage."""

import dataclasses
import json
import shlex
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa

from experiments import board, clippers, options, results, task
from experiments.clippers import Clipper
from experiments.config import Study
from experiments.errors import UserError
from experiments.results import Runs, Square
from experiments.standings import Leaderboard, Standing


class Told(NamedTuple):
    """What a file of a task says, by the parts of its docstring."""

    title: str
    score: str
    unit: str
    failure: str
    question: str
    parts: dict[str, str]


class Content:
    """The runs of a table.

    Args:
        table: the runs, with the command in its metadata.
    """

    def __init__(self, table: pa.Table):
        self.runs = Runs(table)

    @cached_property
    def places(self) -> dict[str, Runs]:
        """Runs of each variant of a task: those of the leaderboard, the study or one claim."""
        return {place: _one_part(self.runs.at(place)) for place in self.runs.places}

    @cached_property
    def tasks(self) -> dict[str, list[str]]:
        """Variants `TASK/VARIANT` of each task."""
        found: dict[str, list[str]] = {}
        for place in self.places:
            found.setdefault(place.partition("/")[0], []).append(place)
        return found

    @cached_property
    def methods(self) -> list[str]:
        """Methods in the order of the legend; those that it does not have come last."""
        there = [name for runs in self.places.values() for name in runs.distinct("method")]
        order = {name: i for i, name in enumerate(clippers.NAMES)}
        return sorted(set(there), key=lambda name: (order.get(name, len(order)), name))

    @cached_property
    def board(self) -> Leaderboard | None:
        """The leaderboard, if some task was finished by all its methods."""
        runs = self.runs.where(part=board.LEADERBOARD)
        found = Leaderboard(runs) if len(runs) else None
        return found if found and found.tasks else None

    @cached_property
    def standings(self) -> list[Standing]:
        """Lines of the leaderboard, the best first; empty where there is none."""
        return self.board.standings() if self.board else []

    @cached_property
    def tried(self) -> dict[str, dict[str, "Tried"]]:
        """What every method did, by variant of a task and then by method."""
        return {place: self._on(runs) for place, runs in self.places.items()}

    def _on(self, runs: Runs) -> dict[str, "Tried"]:
        there = set(runs.distinct("method"))
        return {name: Tried(runs.where(method=name)) for name in self.methods if name in there}

    def command(self, places: Sequence[str], methods: Iterable[str]) -> str:
        """The command that makes the runs of some methods on some variants."""
        first = next(iter(self.places[places[0]]))
        words = ["run", shlex.quote(_common(places)), "--methods", *methods]
        if "--smoke" in self.runs.about.get("command", "").split():
            words.append("--smoke")
        return " ".join([options.PROGRAM, *words, *_settings(first["study"])])

    @cached_property
    def facts(self) -> dict[str, str]:
        """When, where and with what the runs were made."""
        about = self.runs.about
        finished = time.gmtime(int(about.get("finished", 0)))
        return {
            "command": about.get("command", ""),
            "seconds": about.get("seconds", ""),
            "finished": time.strftime("%Y-%m-%d %H:%M UTC", finished),
            "date": time.strftime("%d %B %Y", finished).lstrip("0"),
        }


class Tried:
    """Runs of one method on one variant of a task.

    Args:
        runs: at least one run of the grid.
    """

    def __init__(self, runs: Runs):
        self.runs = runs
        self.grid = runs.where(stage="grid")

    @cached_property
    def best(self) -> Square:
        """The square of the grid with the lowest median validation score."""
        return results.best(self.grid)

    @property
    def chosen(self) -> str:
        """Arguments of that square."""
        return self.best.runs[0]["arguments"]

    @cached_property
    def default(self) -> str:
        """Default arguments."""
        return next(iter(self.grid))["arguments"]

    @property
    def failures(self) -> str:
        """Runs of the grid that failed, in words."""
        return f"{sum(run['failed'] for run in self.grid)} of {len(self.grid)}"

    @cached_property
    def values(self) -> dict[str, float]:
        """Main argument as tuned, by arguments, from the smallest."""
        pairs = sorted(self.grid.distinct("value", "arguments"))
        return {arguments: value for value, arguments in pairs}

    def row(self, arguments: str) -> list[Square]:
        """Squares of the grid with these arguments, by learning rate."""
        runs = self.grid.where(arguments=arguments)
        return [runs.square(learning_rate=rate) for rate in runs.rates]


def _one_part(runs: Runs) -> Runs:
    parts = runs.distinct("part")
    known = (part for part in (board.LEADERBOARD, board.STUDY) if part in parts)
    return runs.where(part=next(known, parts[0]))


def _common(places: Sequence[str]) -> str:
    """The one variant, or the task that several have in common."""
    return places[0] if len(places) == 1 else places[0].partition("/")[0]


def _settings(study: str) -> list[str]:
    """Options that differ from their defaults."""
    asked, words = json.loads(study), []
    for field in dataclasses.fields(Study):
        value = asked.get(field.name, field.default)
        if field.name in ("tasks", "methods") or value in (field.default, []):
            continue
        given = value if isinstance(value, list) else [] if value is True else [value]
        words += [f"--{field.name.replace('_', '-')}", *(shlex.quote(str(x)) for x in given)]
    return words


def told(name: str) -> Told:
    """What the file of a task says; its name alone where there is no such file any more."""
    try:
        found, text = task.find(name), task.module(name).__doc__ or ""
    except UserError:
        return Told(name, "score", "", "", "", {})
    first, _, rest = text.partition("\n")
    return Told(found.title, found.score, found.unit, found.failure, first, _parts(rest))


def _parts(text: str) -> dict[str, str]:
    """Paragraphs of a docstring, by the word and colon that the first of them begins with."""
    parts, name = {}, "Claim"
    for paragraph in text.strip().split("\n\n"):
        for line in paragraph.splitlines():
            head, colon, rest = line.partition(": ")
            if colon and head in ("Claim", "Protocol", "Seeds", "Runtime", "Command"):
                name, line = head, rest
            parts[name] = f"{parts.get(name, '')} {line}".strip()
        parts[name] = parts.get(name, "") + "\n\n"
    return {name: text[:1].upper() + text[1:].strip() for name, text in parts.items()}


def look(method: str) -> Clipper:
    """The row of the legend, or a grey one for a method that it does not have any more."""
    return clippers.LEGEND.get(method) or Clipper(method, "", "none", "circle", "")


def written(method: str, arguments: str) -> str:
    """The call of a method with the arguments of a run."""
    return look(method).written(json.loads(arguments))


def valued(method: str, value: float) -> str:
    """The main argument as tuned, in words."""
    row = look(method)
    if not row.argument:
        return "no argument"
    return f"{row.argument} {value:g}{UNITS[row.unit]}"


UNITS = {"number": "", "norm": " × usual norm", "entry": " × usual entry"}

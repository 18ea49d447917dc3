"""The page of a task: what is claimed, how it is posed, and what every method scores."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from experiments.charts import Figure
from experiments.pages import rates, traces
from experiments.pages.content import Content, Told, told
from experiments.pages.tables import Cell, Column, Table, number, percent, score, words


class Posed(NamedTuple):
    """One variant of a task.

    Attributes:
        place: its name, `TASK/VARIANT`.
        anchor: its address within the page.
        facts: its settings, in words.
        rates: score against learning rate.
        squares: the same as a table.
        traces: three runs.
        command: what makes its runs.
    """

    place: str
    anchor: str
    facts: dict[str, str]
    rates: Figure
    squares: Table
    traces: list[Figure]
    command: str


def variants(content: Content, name: str) -> list[Posed]:
    """All variants of a task."""
    return [_posed(content, place, told(name)) for place in content.tasks[name]]


def _posed(content: Content, place: str, said: Told) -> Posed:
    return Posed(
        place=place,
        anchor=rates.anchor(place),
        facts=_facts(content, place),
        rates=rates.figure(content, place, said),
        squares=rates.squares(content, place),
        traces=traces.figures(content, place),
        command=content.command([place], content.tried[place]),
    )


def _facts(content: Content, place: str) -> dict[str, str]:
    runs = content.places[place]
    first = next(iter(runs))
    settings: dict[str, Any] = json.loads(first["settings"])
    sizes = {name: value for name, value in (settings.get("model") or {}).items() if value != ""}
    model = ", ".join(f"{name} {value}" for name, value in sizes.items())
    if "parameters" in settings:
        model += f"; parameters: {settings['parameters']:,}"
    seeds = runs.where(stage="grid").distinct("seed")
    further = set(runs.distinct("seed")) - set(seeds)
    return {
        "Model": model,
        "Optimizer": f"{settings.get('optimizer', '')}, {settings.get('updates', '')} updates",
        "Usual gradient norm": f"{settings.get('scale', float('nan')):g}",
        "Seeds": f"{len(seeds)} for the grid" + (f", {len(further)} held out" if further else ""),
        "Fails above": score(first["floor"]),
        "Nothing learnt": score(first["trivial"]),
        "Data": f"sha256 {first['data_hash'][:16]}…",
    }


def posed(content: Content, places: Sequence[str]) -> Table:
    """How tasks are posed, a line for each."""
    heads = (
        Column("task", number=False), Column("what it is", number=False),
        Column("model", number=False), Column("optimizer", number=False),
        Column("learning rates", number=False), Column("score", number=False),
        Column("fails above"),
    )  # fmt: skip
    return Table("Tasks", heads, [_posed_row(content, place) for place in places])


def _posed_row(content: Content, place: str) -> list[Cell]:
    facts, said = _facts(content, place), told(place.partition("/")[0])
    rates = content.places[place].where(stage="grid").rates
    return [
        words(place),
        words(said.title),
        words(facts["Model"]),
        words(facts["Optimizer"]),
        words(f"{len(rates)} from {rates[0]:g} to {rates[-1]:g}"),
        words(said.score),
        words(facts["Fails above"]),
    ]


def index(content: Content) -> Table:
    """All tasks that were run."""
    heads = (
        Column("task", number=False), Column("question", number=False), Column("variants"),
        Column("runs"), Column("failed"),
    )  # fmt: skip
    return Table("Tasks", heads, [_index_row(content, name) for name in content.tasks])


def _index_row(content: Content, name: str) -> list[Cell]:
    said, places = told(name), content.tasks[name]
    runs = [run for place in places for run in content.places[place]]
    return [
        words(said.title, note=name, page=f"task-{name}"),
        words(said.question),
        number(len(places), str(len(places))),
        number(len(runs), f"{len(runs):,}"),
        percent(sum(run["failed"] for run in runs) / len(runs)),
    ]

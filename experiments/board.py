"""What the leaderboard and other commands run: named parts, each a study, and one table of all."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from experiments import claims, clippers, config, plan, task
from experiments.config import Group, Study

LEADERBOARD, STUDY = "leaderboard", "study"
_CHEAPEST = 6
_SEEDS, _HELD_OUT = 2, 10


class Part(NamedTuple):
    """Groups that answer one question; two parts may share a group, which then runs once."""

    name: str
    study: Study
    groups: Sequence[Group]


def study(asked: Study, *, smoke: bool = False, long: bool = False) -> list[Part]:
    """The one part that `run` runs."""
    return [Part(STUDY, asked, plan.groups(asked, smoke=smoke, long=long))]


def leaderboard(*, full: bool = False, smoke: bool = False) -> list[Part]:
    """The parts of the leaderboard.

    Args:
        full: every method on every task and the claims of the literature, instead of the methods
            people ask about on the cheapest tasks.
        smoke: tiny twins of two tasks and three methods.
    """
    asked = _smoke() if smoke else _asked(full)
    found = [Part(LEADERBOARD, asked, plan.groups(asked, smoke=smoke))]
    if full and not smoke:
        found += [Part(claim.name, claim.study, plan.groups(claim.study)) for claim in claims.ALL]
    return found


def _asked(full: bool) -> Study:
    names = sorted(task.NAMES, key=_cost)
    return Study(
        tasks=tuple(map(_variant, names if full else names[:_CHEAPEST])),
        methods=clippers.NAMES if full else clippers.ASKED,
        seeds=_SEEDS,
        held_out=_HELD_OUT,
        tune=True,
    )


def _smoke() -> Study:
    return Study(
        tasks=("chorales", "regression"),
        methods=("none", "global_norm", "adaptive"),
        seeds=1,
        held_out=2,
        tune=True,
    )


def _variant(name: str) -> str:
    return f"{name}/{task.find(name).leaderboard}"


def _cost(name: str) -> float:
    found = task.find(name)
    recipe = found.variants[found.leaderboard]
    return recipe.seconds * len(recipe.learning_rates)


def distinct(parts: Sequence[Part]) -> list[Group]:
    """The groups of all parts, each once, in the order in which they run."""
    return list({config.to_json(group): group for part in parts for group in part.groups}.values())


def join(parts: Sequence[Part], tables: Mapping[str, pa.Table]) -> pa.Table:
    """One table of the runs of all parts; `tables` holds those of each group by its JSON.

    Groups that are not there are left out.
    """
    joined = [
        _labelled(part, tables[key])
        for part in parts
        for key in map(config.to_json, part.groups)
        if key in tables
    ]
    return pa.concat_tables(joined)


def _labelled(part: Part, table: pa.Table) -> pa.Table:
    same = {"part": part.name, "study": config.to_json(part.study)}
    columns = {name: pa.array([value] * len(table)) for name, value in same.items()}
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table.replace_schema_metadata(None)


def run(
    parts: Sequence[Part],
    trained: Iterable[tuple[Group, pa.Table]],
    on_variant: Callable[[pa.Table], None],
) -> pa.Table:
    """Join the runs of all parts as they come.

    Args:
        parts: what was asked for.
        trained: each group of `distinct(parts)` with its runs, in any order.
        on_variant: is given all runs so far whenever those of one variant of a task are complete.
    """
    waiting = Counter(map(_place, distinct(parts)))
    tables: dict[str, pa.Table] = {}
    for group, table in trained:
        tables[config.to_json(group)] = table
        waiting[_place(group)] -= 1
        if not waiting[_place(group)]:
            on_variant(join(parts, tables))
    return join(parts, tables)


def _place(group: Group) -> tuple[str, str]:
    return group.task, group.variant

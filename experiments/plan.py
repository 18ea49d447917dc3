"""From what a person asks for to groups of runs, and what they will take."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table

from experiments import clippers, task
from experiments.config import Group, Study, Variant
from experiments.errors import UserError
from experiments.progress import clock, work


def groups(study: Study, *, smoke: bool = False, long: bool = False) -> list[Group]:
    """Groups of a study in the order in which they run: one variant after the other, cheap first.

    Args:
        study: what is asked for.
        smoke: tiny twins of the variants instead.
        long: the variants that take long too.

    Raises:
        UserError: a task, a variant or a method does not exist, or nothing is left to run.
    """
    found = [
        _group(study, name, variant, recipe, row)
        for name, variant, recipe in _variants(study, smoke, long)
        for row in _methods(study, task.find(name), recipe)
    ]
    if not found:
        raise UserError(
            f"none of the methods {', '.join(study.methods)} is tried on {', '.join(study.tasks)}"
        )
    return found


def _variants(study: Study, smoke: bool, long: bool) -> Iterator[tuple[str, str, Variant]]:
    asked = [part for text in study.tasks for part in _named(text, smoke, long)]
    recipes = {(name, variant): _changed(study, recipe) for name, variant, recipe in asked}
    for name, variant in sorted(recipes, key=lambda key: recipes[key].seconds):
        yield name, variant, recipes[name, variant]


def _named(text: str, smoke: bool, long: bool) -> list[tuple[str, str, Variant]]:
    name, _, wanted = text.partition("/")
    found = task.find(name)
    known = found.smoke if smoke else offered(found, long=bool(long or wanted))
    if wanted and wanted not in offered(found, long=True):
        there = ", ".join(offered(found, long=True))
        raise UserError(f"{name} has no variant {wanted}; there are {there}")
    return [(name, key, recipe) for key, recipe in known.items() if wanted in ("", key)]


def offered(found: task.Experiment, *, long: bool) -> Mapping[str, Variant]:
    """Variants of a task by name."""
    return {**found.variants, **(found.long if long else {})}


def _changed(study: Study, recipe: Variant) -> Variant:
    if study.updates:
        seconds = recipe.seconds * study.updates / recipe.updates
        recipe = dataclasses.replace(recipe, updates=study.updates, seconds=seconds)
    if study.text:
        if not hasattr(recipe.model, "text"):
            raise UserError(f"`text` is read by characters, not by {type(recipe.model).__module__}")
        recipe = dataclasses.replace(
            recipe, model=dataclasses.replace(recipe.model, text=study.text)
        )
    return recipe


def _methods(study: Study, found: task.Experiment, recipe: Variant) -> list[clippers.Clipper]:
    wanted = study.methods or recipe.methods or found.methods or clippers.ASKED
    return [row for row in clippers.select(wanted) if row.name in (recipe.methods or wanted)]


def _group(study: Study, name: str, variant: str, recipe: Variant, row: clippers.Clipper) -> Group:
    seeds = tuple(range(study.seeds + study.held_out))
    return Group(
        name,
        variant,
        row.name,
        recipe,
        row.arguments(recipe, study.tune, study.values),
        tuple(map(float, study.learning_rates or recipe.learning_rates)),
        seeds[: study.seeds],
        seeds[study.seeds :],
    )


def table(plan: Sequence[Group]) -> Table:
    """The plan for the terminal: groups, runs and estimated time, variant by variant."""
    methods = ", ".join(dict.fromkeys(group.method for group in plan))
    shown = Table(
        title="plan", title_justify="left", caption=f"methods: {methods}", caption_justify="left"
    )
    for name in ("task", "groups", "runs", "updates", "time on two cores"):
        shown.add_column(name, justify="left" if name == "task" else "right")
    variants = dict.fromkeys((group.task, group.variant) for group in plan)
    for name, variant in variants:
        part = [group for group in plan if (group.task, group.variant) == (name, variant)]
        shown.add_row(
            f"{name}/{variant}",
            str(len(part)),
            str(sum(group.runs for group in part)),
            str(part[0].recipe.updates),
            clock(sum(map(work, part))),
        )
    shown.add_section()
    runs = sum(group.runs for group in plan)
    shown.add_row("all", str(len(plan)), str(runs), "", clock(sum(map(work, plan))))
    return shown

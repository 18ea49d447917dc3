"""What a file under `experiments/tasks/` says of its task, and how it is found by its name."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments import tasks
from experiments.config import Variant
from experiments.errors import UserError
from experiments.train import Material, Task

NAMES = tuple(sorted(module.name for module in pkgutil.iter_modules(tasks.__path__)))


@dataclass(frozen=True)
class Experiment:
    """A task, as its file describes it.

    Attributes:
        title: what pages call it.
        score: what `valid` and `test` are, with their unit; lower is better.
        unit: the unit for the axis of a figure.
        failure: when a run has failed, in words.
        load: `(cache folder, model) -> material`.
        build: `model -> task`; the same model must give the same object, so that jit compiles once.
        variants: the ways to pose it, by name.
        smoke: tiny twins of variants, under the same names.
        leaderboard: name of the variant on the leaderboard.
        methods: methods that `run` tries unless told; empty means those people ask about.
        long: further variants that take long.
    """

    title: str
    score: str
    unit: str
    failure: str
    load: Callable[[Path | None, Any], Material]
    build: Callable[[Any], Task]
    variants: Mapping[str, Variant]
    smoke: Mapping[str, Variant]
    leaderboard: str
    methods: tuple[str, ...] = ()
    long: Mapping[str, Variant] = field(default_factory=dict)


def find(name: str) -> Experiment:
    """The task of this name.

    Raises:
        UserError: there is none.
    """
    return module(name).TASK


def module(name: str) -> Any:
    """The module of a task; its docstring says what is claimed and how it is tried."""
    if name not in NAMES:
        raise UserError(f"unknown task {name}; there are {', '.join(NAMES)}")
    return importlib.import_module(f"{tasks.__name__}.{name}")


def question(name: str) -> str:
    """First line of a task's docstring: the question it answers."""
    return module(name).__doc__.splitlines()[0]

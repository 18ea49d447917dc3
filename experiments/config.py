"""Typed settings: what a person asks for, and what decides the numbers of one group of runs."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from experiments.errors import UserError

Arguments = Mapping[str, float]


@dataclass(frozen=True)
class Variant:
    """One way to pose a task: everything but the method.

    Attributes:
        model: settings of the task's own kind: all that decides shapes.
        optimizer: `sgd`, `momentum` (SGD with momentum 0.9) or `adam`.
        learning_rates: peaks of the schedule, from calm to too large without clipping.
        updates: optimizer steps a run.
        scale: usual L2 norm of the gradient; thresholds are tuned in multiples of it.
        parameters: number of parameters of the model.
        seconds: what a run of a group took on two cores, for the plan.
        schedule: `cosine` (to 0) or `constant`.
        methods: names of the only methods that make sense here; empty means all.
    """

    model: Any
    optimizer: str
    learning_rates: tuple[float, ...]
    updates: int
    scale: float
    parameters: int
    seconds: float
    schedule: str = "cosine"
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Runs that are trained together, in one compilation: one method on one variant of a task.

    First a grid of all arguments, learning rates and seeds; then, on held-out seeds, the best
    setting of the grid and the best one of the default arguments.

    Attributes:
        task: name of the task.
        variant: name of the variant.
        method: name of a row of the legend.
        recipe: the variant itself.
        arguments: what the method is called with, the defaults first.
        learning_rates: peak learning rates of the grid.
        seeds: seeds of the grid.
        held_out: seeds of the chosen and of the default setting; empty means the grid alone.
    """

    task: str
    variant: str
    method: str
    recipe: Variant
    arguments: tuple[Arguments, ...]
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]
    held_out: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The group in words."""
        return f"{self.task}/{self.variant} {self.method}"

    @property
    def grid(self) -> int:
        """Number of runs of the grid."""
        return len(self.arguments) * len(self.learning_rates) * len(self.seeds)

    @property
    def runs(self) -> int:
        """Number of runs."""
        return self.grid + 2 * len(self.held_out)


@dataclass(frozen=True)
class Study:
    """What a person asks for.

    Attributes:
        tasks: names of tasks, each with all its variants, or `TASK/VARIANT`.
        methods: names of the legend; empty means those that the task asks for.
        seeds: seeds 0 to `seeds - 1` for the grid.
        held_out: that many further seeds for the chosen and the default setting.
        tune: whether to try several values of each method's main argument.
        learning_rates: peak learning rates instead of each variant's.
        updates: optimizer steps instead of each variant's; 0 means the variant's.
        values: values of the main argument instead of the legend's.
        text: path of a text to read instead of the folk tunes of `characters`.
    """

    tasks: tuple[str, ...]
    methods: tuple[str, ...] = ()
    seeds: int = 3
    held_out: int = 0
    tune: bool = False
    learning_rates: tuple[float, ...] = ()
    updates: int = 0
    values: tuple[float, ...] = ()
    text: str = ""

    def __post_init__(self):
        if not self.tasks:
            raise UserError("`tasks` must name at least one task, not none")
        if self.seeds < 1:
            raise UserError(f"`seeds` must be at least 1, not {self.seeds}")
        for name in ("held_out", "updates"):
            if getattr(self, name) < 0:
                raise UserError(f"`{name}` must be at least 0, not {getattr(self, name)}")
        wrong = [rate for rate in self.learning_rates if not 0 < rate < math.inf]
        if wrong:
            raise UserError(f"`learning_rates` must be positive numbers, not {wrong[0]:g}")
        if any(not math.isfinite(value) for value in self.values):
            raise UserError(f"`values` must be finite numbers, not {self.values}")


def study(values: Mapping[str, Any]) -> Study:
    """Build a study, refusing keys and types that it does not have.

    Raises:
        UserError: a key is unknown, or a value is of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(Study)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise UserError(f"unknown key {', '.join(unknown)}; there are {', '.join(fields)}")
    return Study(**{key: _checked(fields[key], value) for key, value in values.items()})


def _checked(field: dataclasses.Field, value: Any) -> Any:
    kind: Any = field.type
    if get_origin(kind) is not tuple:
        return _as_kind(field.name, kind, value)
    if not isinstance(value, (list, tuple)):
        raise UserError(f"`{field.name}` must be a list, not {value!r}")
    return tuple(_as_kind(field.name, get_args(kind)[0], item) for item in value)


def _as_kind(name: str, kind: Any, value: Any) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise UserError(f"`{name}` must be of type {kind.__name__}, not {value!r}")


def to_json(config: Any) -> str:
    """A settings object as JSON with sorted keys: the same text for the same settings."""
    return json.dumps(dataclasses.asdict(config), sort_keys=True)


def fingerprint(*parts: str) -> str:
    """A short hash of texts, to name a file by what decides its content."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]

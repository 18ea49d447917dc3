"""The legend: one row for each clipper of the study, and how it is drawn in every figure.

Arguments under `values` are traced: rows that differ in them alone share one compilation, and
`none` is `global_norm` with an infinite threshold. Arguments under `fixed` decide shapes.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from experiments.errors import UserError


@dataclass(frozen=True)
class Clipper:
    """A row of the legend.

    Attributes:
        label: what tables and figures call it.
        name: what `--clippers` calls it.
        constructor: name of the function of clipax that builds it.
        values: its traced arguments.
        fixed: its static arguments.
        color: colour of its marks, for light and dark paper.
        marker: matplotlib's letter for its marks.
    """

    label: str
    name: str
    constructor: str
    values: Mapping[str, float]
    color: str
    marker: str
    fixed: Mapping[str, float] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, float]:
        """Arguments as a reader would write them: an infinite threshold is none."""
        given = {**self.values, **self.fixed}
        return {key: value for key, value in given.items() if math.isfinite(value)}


ROWS = (
    Clipper("none", "none", "global_norm", {"max_norm": math.inf}, "#808890", "o"),
    Clipper("global_norm(1)", "global_norm", "global_norm", {"max_norm": 1.0}, "#0072b2", "s"),
    Clipper("global_norm(0.3)", "global_norm", "global_norm", {"max_norm": 0.3}, "#3a9fdc", "D"),
    Clipper("per_layer", "per_layer", "per_layer", {"max_norm": 0.3}, "#009e73", "^"),
    Clipper("value", "value", "value", {"limit": 0.01}, "#d55e00", "v"),
    Clipper(
        "adaptive",
        "adaptive",
        "adaptive",
        {"multiplier": 1.0, "initial": 1.0},
        "#cc79a7",
        "P",
        {"percentile": 90, "window": 100, "warmup": 20},
    ),
    Clipper("decaying", "decaying", "decaying", {"initial": 2.0, "decay": 0.99}, "#c98a00", "X"),
    Clipper(
        "moving_average",
        "moving_average",
        "moving_average",
        {"multiplier": 1.5, "initial": 1.0},
        "#8f8f2f",
        "h",
        {"window": 50, "warmup": 10},
    ),
)
LEGEND = {row.label: row for row in ROWS}
NAMES = tuple(dict.fromkeys(row.name for row in ROWS))


def select(names: Iterable[str]) -> list[Clipper]:
    """Rows of the legend with these names, in the order of the legend.

    Raises:
        UserError: a name is not in the legend.
    """
    names = list(names)
    unknown = [name for name in names if name not in NAMES]
    if unknown or not names:
        wrong = ", ".join(unknown) or "(nothing)"
        raise UserError(f"unknown clipper {wrong}; there are {', '.join(NAMES)}")
    return [row for row in ROWS if row.name in names]

"""The legend: one row for each method of the library, and how it is drawn in every figure.

Each method has at most one main argument, which is tuned over four values, the default among or
between them, in a unit that fits the task: a threshold is a multiple of the task's usual norm. It
and the arguments under `in_norms` are traced: runs that differ in them alone share one
compilation. Arguments under `fixed` decide shapes or are those of every run.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax

import clipax
from experiments.config import Variant
from experiments.errors import UserError
from experiments.families import FAMILIES, LINKS


@dataclass(frozen=True)
class Clipper:
    """A row of the legend.

    Attributes:
        name: what tables, figures and the command line call it.
        source: short citation, a key of `LINKS` if there is something to read.
        family: key of `FAMILIES`.
        marker: Vega-Lite's name of its marks, one of a kind in its family.
        argument: its main argument; empty if it has none.
        values: what that is tuned over, in its unit.
        default: what it is otherwise.
        unit: `number`, `norm` (multiples of the usual norm) or `entry` (of the usual size of one
            entry of the gradient).
        place: `gradient` (before the optimizer), `update` (behind it) or `optimizer` (around it).
        fixed: arguments that are the same in all runs.
        in_norms: further traced arguments, multiples of the usual norm.
        build: what gives the transformation, if not the function of clipax with this name; takes
            the arguments by their names, after the optimizer if it goes around that.
        text: how a reader would write it, with {} for the arguments; empty means `name({})`.
    """

    name: str
    source: str
    family: str
    marker: str
    argument: str = "max_norm"
    values: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    default: float = 1.0
    unit: str = "number"
    place: str = "gradient"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    in_norms: Mapping[str, float] = field(default_factory=dict)
    build: Callable[..., optax.GradientTransformation] | None = None
    text: str = ""

    @property
    def color(self) -> str:
        """Colour of its marks."""
        return FAMILIES[self.family].color

    @property
    def link(self) -> str:
        """Where to read about it; empty if nowhere."""
        return LINKS.get(self.source, "")

    @property
    def signature(self) -> str:
        """The function of clipax with all its arguments; empty if there is none."""
        function = getattr(clipax, self.name, None)
        if function is None:
            return ""
        found, empty = inspect.signature(function), inspect.Signature.empty
        plain = [each.replace(annotation=empty) for each in found.parameters.values()]
        return f"{self.name}{inspect.Signature(plain)}"

    def arguments(
        self, variant: Variant, tune: bool, values: Sequence[float] = ()
    ) -> tuple[dict[str, float], ...]:
        """Traced arguments to try on a variant of a task, the default first.

        Args:
            variant: whose scale gives the units.
            tune: whether to try the values of the legend.
            values: main arguments to try instead, in the unit of the row, tuned or not.

        Raises:
            UserError: the method does not take one of `values`.
        """
        scaled = {name: times * variant.scale for name, times in self.in_norms.items()}
        if not self.argument:
            return (scaled,)
        tried = dict.fromkeys((self.default, *(values or (self.values if tune else ()))))
        size = self._size(variant)
        found = {value: {self.argument: value * size} | scaled for value in tried}
        for value in values:
            self._check(value, found[value])
        return tuple(found.values())

    def tuned(self, arguments: Mapping[str, float], variant: Variant) -> float:
        """The main argument in the unit of the row, NaN if there is none."""
        if not self.argument:
            return math.nan
        # Back from the unit of each task, equal multiples shall be equal numbers.
        return float(f"{arguments[self.argument] / self._size(variant):.9g}")

    def parts(
        self, arguments: Mapping[str, Any], optimizer: optax.GradientTransformation
    ) -> tuple[optax.GradientTransformation, ...]:
        """The transformations with these traced arguments, applied one after the other."""
        build = self.build or getattr(clipax, self.name)
        if self.place == "optimizer":
            return (build(optimizer, **arguments, **self.fixed),)
        clipper = build(**arguments, **self.fixed)
        return (clipper, optimizer) if self.place == "gradient" else (optimizer, clipper)

    def written(self, arguments: Mapping[str, float]) -> str:
        """The call as a reader would write it, in names of clipax, `optimizer` and `params`."""
        given = {name: f"{value:.4g}" for name, value in arguments.items()}
        given |= {name: repr(value) for name, value in self.fixed.items()}
        inside = ", ".join(f"{name}={value}" for name, value in given.items())
        return (self.text or f"{self.name}({{}})").format(inside)

    def _size(self, variant: Variant) -> float:
        entry = variant.scale / math.sqrt(variant.parameters)
        return {"number": 1.0, "norm": variant.scale, "entry": entry}[self.unit]

    def _check(self, value: float, arguments: Mapping[str, float]) -> None:
        # Traced arguments pass unread, so this is the place to look at them.
        try:
            for part in self.parts(arguments, optax.identity()):
                part.init(jnp.zeros(()))
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.name} does not take the value {value:g}: {error}") from error


def _per_group(max_norm: Any) -> optax.GradientTransformation:
    """`clipax.per_group` with matrices as one group and all other leaves as another."""

    # Labels come from paths or as a tree. Names differ from model to model, and no path tells the
    # rank of a leaf, so this makes the tree where there is one to look at.
    def clipper(tree: Any) -> optax.GradientTransformationExtraArgs:
        return clipax.per_group(max_norm, jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, tree))

    def update_fn(updates, state, params=None):
        return clipper(updates).update(updates, state, params)

    return optax.GradientTransformation(lambda params: clipper(params).init(params), update_fn)


# Warm-ups, windows and what lies between two resets are shorter than the defaults of the library:
# those are meant for runs of many thousands of updates, and here a run has a few hundred.
ROWS = (
    Clipper("none", "", "none", "circle", "", (), math.nan, build=optax.identity, text="none"),
    Clipper("global_norm", "Pascanu et al. 2013", "fixed", "square", unit="norm"),
    Clipper("per_layer", "folklore", "fixed", "triangle-up", unit="norm"),
    Clipper("per_leaf", "Keras", "fixed", "triangle-down", unit="norm"),
    Clipper(
        "per_group",
        "folklore",
        "fixed",
        "diamond",
        unit="norm",
        build=_per_group,
        text="per_group({}, labels=jax.tree.map(lambda leaf: leaf.ndim > 1, params))",
    ),
    # Most entries of a gradient are far below the root of their mean square.
    Clipper("value", "Mikolov 2012", "fixed", "cross", "limit", (0.3, 1, 3, 10), 3, "entry"),
    # What the library chooses on a CPU takes an SVD where a norm is large, and under `vmap` at
    # every step: there it is far slower.
    Clipper(
        "spectral",
        "Yukhimchuk et al. 2026",
        "fixed",
        "triangle-right",
        "max_singular_value",
        unit="norm",
        fixed={"method": "newton_schulz"},
    ),
    Clipper(
        "adaptive",
        "this project",
        "history",
        "square",
        "multiplier",
        (0.5, 1, 2, 4),
        2,
        fixed={"percentile": 90, "window": 100, "warmup": 20},
        in_norms={"initial": 1},
    ),
    Clipper(
        "decaying",
        "this project",
        "fixed",
        "wedge",
        "initial",
        (1, 3, 10, 30),
        3,
        "norm",
        fixed={"decay": 0.99},
    ),
    # With a multiplier of 1 or below the threshold can only fall.
    Clipper(
        "moving_average",
        "this project",
        "history",
        "triangle-up",
        "multiplier",
        (1.1, 1.5, 2, 4),
        2,
        fixed={"window": 50, "warmup": 10},
        in_norms={"initial": 1},
    ),
    Clipper(
        "autoclip",
        "Seetharaman et al. 2020",
        "history",
        "circle",
        "percentile",
        (1, 10, 25, 50),
        10,
    ),
    Clipper(
        "median",
        "Yao et al. 2024",
        "history",
        "triangle-right",
        "multiplier",
        (0.5, 1, 2, 4),
        2,
        fixed={"window": 50},
    ),
    Clipper(
        "history_sigma",
        "Levanter",
        "history",
        "triangle-left",
        "sigmas",
        (1, 2, 3, 6),
        3,
        fixed={"window": 50, "warmup": 20},
    ),
    # `max_norm` is above what the z-score allows: usually that is what acts.
    Clipper(
        "zclip",
        "Kumar et al. 2025",
        "history",
        "diamond",
        "z",
        (1.5, 2, 2.5, 4),
        2.5,
        in_norms={"max_norm": 3},
    ),
    Clipper(
        "quantile", "Andrew et al. 2021", "history", "arrow", "target", (0.1, 0.3, 0.5, 0.9), 0.5
    ),
    Clipper(
        "adagc",
        "Wang et al. 2026",
        "history",
        "cross",
        "ratio",
        (1.01, 1.04, 1.2, 2),
        1.04,
        fixed={"warmup": 20},
        in_norms={"max_norm": 1},
    ),
    Clipper("olmo", "OLMo", "history", "wedge", "ratio", (1.1, 1.5, 2, 4), 2),
    Clipper(
        "agc", "Brock et al. 2021", "relative", "square", "clipping", (0.01, 0.04, 0.16, 0.64), 0.01
    ),
    # With the default for `absolute`, 1e-7, an entry near zero holds its leaf still for longer
    # than a run takes.
    Clipper(
        "clippy",
        "Tang et al. 2023",
        "relative",
        "diamond",
        "relative",
        (0.02, 0.1, 0.5, 2),
        0.5,
        place="update",
        fixed={"absolute": 0.01},
    ),
    # The published threshold, 1, is for updates that are still to be multiplied by the learning
    # rate; these are multiplied already.
    Clipper(
        "block_rms",
        "Shazeer and Stern 2018",
        "fixed",
        "triangle-left",
        "threshold",
        (0.001, 0.003, 0.01, 0.03),
        0.01,
        place="update",
    ),
    # The second moment grows from 0 over a thousand steps: in a short run the default clips little.
    Clipper(
        "spam",
        "Huang et al. 2025",
        "history",
        "triangle-down",
        "ratio",
        (50, 200, 1000, 5000),
        5000,
    ),
    Clipper(
        "stable_spam", "Huang et al. 2025 (Stable-SPAM)", "direction", "cross", "", (), math.nan
    ),
    Clipper("normalize", "Bu et al. 2023", "direction", "square", unit="norm"),
    Clipper("smooth", "Zhang et al. 2020", "direction", "circle", unit="norm"),
    Clipper("delta_clip", "Tucat et al. 2025", "fixed", "arrow", unit="norm"),
    Clipper(
        "auto_s",
        "Bu et al. 2023",
        "direction",
        "diamond",
        unit="norm",
        in_norms={"stability": 0.01},
    ),
    Clipper(
        "skip_spikes",
        "OLMo-core",
        "wrapper",
        "square",
        "sigma",
        (2, 3, 4, 6),
        6,
        place="optimizer",
        fixed={"window": 50, "warmup": 20},
        text="skip_spikes(optimizer, {})",
    ),
    Clipper(
        "momentum_reset",
        "Huang et al. 2025",
        "wrapper",
        "triangle-up",
        "every",
        (25, 50, 100, 200),
        100,
        place="optimizer",
        fixed={"warmup": 10},
        text="momentum_reset(optimizer, {})",
    ),
    Clipper(
        "error_feedback",
        "Elesedy and Hutter 2023",
        "wrapper",
        "circle",
        unit="norm",
        build=lambda max_norm: clipax.error_feedback(clipax.global_norm(max_norm)),
        text="error_feedback(global_norm({}))",
    ),
)
LEGEND = {row.name: row for row in ROWS}
NAMES = tuple(LEGEND)
ASKED = (
    "none",
    "global_norm",
    "per_layer",
    "value",
    "adaptive",
    "decaying",
    "moving_average",
    "autoclip",
    "zclip",
    "adagc",
    "agc",
    "spam",
)


def select(names: Iterable[str]) -> list[Clipper]:
    """Rows of the legend with these names, in the order of the legend.

    Raises:
        UserError: a name is not in the legend or comes twice, or there is none.
    """
    counts = Counter(names)
    unknown = [name for name in counts if name not in LEGEND]
    if unknown or not counts:
        wrong = ", ".join(unknown) or "(nothing)"
        raise UserError(f"unknown method {wrong}; there are {', '.join(NAMES)}")
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise UserError(f"each method may be named once, not twice: {', '.join(twice)}")
    return [row for row in ROWS if row.name in counts]

"""The pages on methods: their tables and code, what their expressions use, gradients to try."""

import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from paths import ROOT

import clipax

PAGES = {
    name: (ROOT / f"docs/{name}.md").read_text()
    for name in ("methods/index", "methods/parts", "methods/unnamed", "choose", "adding-a-method")
}
TEXT = "\n".join(PAGES.values())
BLOCKS = [
    inspect.cleandoc("\n" + code)
    for code in re.findall(r"^ *```python\n(.*?)^ *```", TEXT, re.MULTILINE | re.DOTALL)
]


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a page, each with its head as the first row."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    split = [[re.split(r" *\| *", row.strip("| ")) for row in t.splitlines()] for t in found]
    return [[rows[0], *rows[2:]] for rows in split]


def rows_under(head: str, text: str = TEXT) -> list[list[str]]:
    return [row for rows in tables(text) if rows[0][0] == head for row in rows[1:]]


# What the expressions use.

GIVEN: dict[str, Any] = {
    "max_norm": 0.5,
    "limit": 0.5,
    "initial": 0.5,
    "max_singular_value": 0.5,
    "labels": {"dense": "x", "scalar": "y"},
    "inner": optax.sgd(0.1),
    "schedule": lambda step: 1 / (1 + step),
    "phi": lambda step: 0.3 / jnp.sqrt(1.0 + step),
    "eps": lambda step: 0.2 * (1.0 + step) ** 0.6,
    "steps_per_epoch": 10,
    "k": 3,
}
NAMES: dict[str, Any] = {}
exec(BLOCKS[0], NAMES)
NAMES |= GIVEN


def build(expression: str, **names: Any) -> Any:
    return eval(expression, NAMES | names)


def call_of(cell: str) -> str:
    """The first code span of a cell."""
    return re.findall(r"`([^`]+)`", cell)[0]


CLIPPER_ROWS = {call_of(row[0]): row for row in rows_under("clipper")}
EXACT = {call: row for call, row in CLIPPER_ROWS.items() if row[2].startswith("`clip_by")}
ROUNDED = {call: row for call, row in CLIPPER_ROWS.items() if row[2].startswith("≈")}
OWN = {call: row for call, row in CLIPPER_ROWS.items() if row[2].startswith("its own")}
METHOD_ROWS = {row[0]: call_of(row[1]) for row in rows_under("method")}


def like(scale: float, seed: int = 0) -> dict[str, Any]:
    """A gradient of three leaves."""
    rng = np.random.default_rng(seed)
    shapes = {"dense": {"kernel": (3, 2), "bias": (2,)}, "scalar": ()}
    return jax.tree.map(
        lambda shape: jnp.asarray(scale * rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


STEPS = 130


def series(*, zeros: bool = True) -> Any:
    """Stacked gradients: small ones, spikes, one explosion, zeros."""
    rng = np.random.default_rng(1)
    sizes = 0.1 * np.exp(0.5 * rng.standard_t(3, size=STEPS))
    sizes[10::17] *= 30
    sizes[57] = 5000
    if zeros:
        sizes[[5, 90]] = 0
    trees = [like(float(size), i) for i, size in enumerate(sizes)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


PARAMS = like(3.0, 99)


QUICK: Any = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def run(clipper: Any, gradients: Any) -> tuple[Any, Any]:
    """The updates of all steps, and what can be read of the clipper at each."""

    def step(state, gradient):
        updates, state = clipper.update(gradient, state, PARAMS)
        return state, (updates, clipax.metrics(state))

    return jax.lax.scan(step, clipper.init(PARAMS), gradients)[1]

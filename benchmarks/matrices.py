"""Suite `spectral`: singular values are clipped, at errors that are measured too."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import clipax
from benchmarks.cases import OURS, Case
from benchmarks.timing import Call, Measured

GOALS = {  # rows, columns: of the hard and of the soft rule
    (256, 256): (0.6, 0.6),
    (1024, 1024): (0.6, 0.6),
    (1024, 256): (0.35, 0.3),
}
RATIO, ERROR = 10.0, 1e-5  # largest singular value and spectral error, of the threshold


def cases(*, quick: bool) -> Iterator[Case]:
    for (rows, columns), goals in GOALS.items():
        shape = (rows // 8, columns // 8) if quick else (rows, columns)
        for rule, goal in zip(("hard", "soft"), goals, strict=True):
            yield _timed(shape, rule, goal)
            yield _error(shape, rule)


def _timed(shape: tuple[int, int], rule: str, goal: float) -> Case:
    def make() -> Mapping[str, Measured]:
        x = matrix(*shape)
        clipper = clipax.spectral(1.0, rule=rule)
        state = clipper.init(x)
        theirs = jax.jit(lambda x: by_svd(x, rule))
        return {
            OURS: Call(jax.jit(lambda x, s: clipper.update(x, s)), lambda: (x, state)),
            "jnp.linalg.svd": Call(theirs, lambda: (x,)),
        }

    work = f"spectral, {rule}, {shape[0]:,} x {shape[1]:,}, ratio {RATIO:g}"
    return Case("spectral", work, {"jnp.linalg.svd": goal}, make, rounds=10)


def _error(shape: tuple[int, int], rule: str) -> Case:
    def make() -> Mapping[str, Measured]:
        x = matrix(*shape)
        u, s, v = np.linalg.svd(np.asarray(x, np.float64), full_matrices=False)
        wanted = (u * (np.minimum(s, 1) if rule == "hard" else s / np.sqrt(1 + s**2))) @ v
        found = np.asarray(clipax.clip(x, clipax.spectral(1.0, rule=rule))[0], np.float64)
        error = float(np.linalg.norm(found - wanted, 2))
        return {OURS: lambda: error, "1e-5 of tau": lambda: ERROR}

    work = f"error of spectral, {rule}, {shape[0]:,} x {shape[1]:,}, ratio {RATIO:g}"
    return Case("spectral", work, {"1e-5 of tau": 1.0}, make, unit="of tau")


def by_svd(x: jax.Array, rule: str) -> Any:
    """The same by a decomposition, for a threshold of 1."""
    u, s, v = jnp.linalg.svd(x, full_matrices=False)
    return (u * (jnp.minimum(s, 1) if rule == "hard" else s / jnp.sqrt(1 + s**2))) @ v


def matrix(rows: int, columns: int) -> jax.Array:
    """A gaussian matrix whose largest singular value is `RATIO`."""
    x = np.random.default_rng(0).normal(size=(rows, columns))
    return jnp.asarray(x * RATIO / np.linalg.norm(x, 2), jnp.float32)

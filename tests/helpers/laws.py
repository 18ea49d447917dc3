"""What the laws share: the rows that a law is for, gradients, and updates in a row.

Nearly all the time that laws take is compilation: they share what is compiled for a row.
"""

import functools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import CATALOGUE, plain

every = pytest.mark.parametrize("row", CATALOGUE, ids=[row.name for row in CATALOGUE])


def rows(*rules, fixed=None):
    """The rows with one of these rules, and with (or without) one fixed threshold."""
    found = [r for r in CATALOGUE if r.rule in rules and fixed in (None, r.fixed is not None)]
    return pytest.mark.parametrize("row", found, ids=[row.name for row in found])


def run(clipper, gradients, state=None):
    """Updates in a row under `jit`, in donated buffers; the list of results and the last state."""
    state = clipper.init(gradients[0]) if state is None else jax.tree.map(jnp.copy, state)
    update = jitted(clipper)
    results = []
    for gradient in gradients:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Some donated buffers were not usable")
            result, state = update(jax.tree.map(jnp.copy, gradient), state)
        results.append(result)
    return results, state


@functools.cache
def jitted(clipper):
    return jax.jit(lambda g, s: clipper.update(g, s), donate_argnums=(0, 1))


def steps(optimizer, gradients, params=None):
    """The updates of steps in a row, and the last state."""
    state = optimizer.init(gradients[0] if params is None else params)
    update = jax.jit(optimizer.update)
    found = []
    for gradient in gradients:
        result, state = update(gradient, state, params)
        found.append(result)
    return found, state


def assert_same_bits(a, b):
    chex.assert_trees_all_equal_structs(a, b)
    chex.assert_trees_all_equal_shapes_and_dtypes(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), (x, y)


def series(length=8, seed=0):
    """Float32 gradients of very different sizes."""
    sizes = np.random.default_rng(seed).lognormal(sigma=2.0, size=length)
    return [plain(seed + i, float(size)) for i, size in enumerate(sizes)]

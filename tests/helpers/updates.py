"""Updates by a transformation, compiled once for all tests, and the gradients they are given."""

import functools
import itertools
import warnings

import chex
import jax
import numpy as np
from trees import plain


def run(tx, gradients, state=None):
    """Consecutive updates under `jit`, in donated buffers: the list of results, the last state."""
    state = tx.init(gradients[0]) if state is None else copied(state)
    update = jitted(tx)
    results = []
    for gradient in gradients:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Some donated buffers were not usable")
            result, state = update(copied(gradient), state)
        results.append(result)
    return results, state


def copied(tree):
    """A copy that `jit` may overwrite. `jnp.copy` would be compiled, once for each shape."""
    return jax.device_put(tree, may_alias=False)


@functools.cache
def jitted(tx):
    return jax.jit(lambda g, s: tx.update(g, s), donate_argnums=(0, 1))


def clipped(tx, gradient):
    """The result of the first update, under `jit`, which float0 leaves go around."""
    leaves, structure = jax.tree.flatten(gradient)
    enters = tuple(x.dtype != jax.dtypes.float0 for x in leaves)
    inside = iter(_first_update(tx, structure, enters)(list(itertools.compress(leaves, enters))))
    return structure.unflatten(
        next(inside) if e else x for x, e in zip(leaves, enters, strict=True)
    )


@functools.cache
def _first_update(tx, structure, enters):
    none = np.zeros((), jax.dtypes.float0)

    @jax.jit
    def update(leaves):
        inside = iter(leaves)
        gradient = structure.unflatten(next(inside) if e else none for e in enters)
        result, _ = tx.update(gradient, tx.init(gradient))
        return list(itertools.compress(jax.tree.leaves(result), enters))

    return update


def run_eagerly(tx, gradients, state=None):
    """The same without `jit`."""
    state = tx.init(gradients[0]) if state is None else state
    results = []
    for gradient in gradients:
        result, state = tx.update(gradient, state)
        results.append(result)
    return results, state


def steps(optimizer, gradients, params=None):
    """The updates of consecutive steps, and the last state."""
    state = optimizer.init(gradients[0] if params is None else params)
    update = jax.jit(optimizer.update)
    found = []
    for gradient in gradients:
        result, state = update(gradient, state, params)
        found.append(result)
    return found, state


def policy_of(state):
    """The state of a clipper's threshold policy."""
    return state.policy


def assert_same_bits(a, b):
    chex.assert_trees_all_equal_structs(a, b)
    chex.assert_trees_all_equal_shapes_and_dtypes(a, b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), (x, y)


def series(length=8, seed=0):
    """Float32 gradients of very different sizes."""
    sizes = np.random.default_rng(seed).lognormal(sigma=2.0, size=length)
    return [plain(seed + i, float(size)) for i, size in enumerate(sizes)]


def stacked(trees):
    return jax.tree.map(lambda *xs: np.stack(xs), *trees)

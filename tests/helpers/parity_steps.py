"""Gradients of successive steps, and what it means that two packages clip them alike."""

import jax
import numpy as np

SHAPES = {"hidden": {"kernel": (7, 5), "bias": (5,)}, "output": {"kernel": (5, 3), "bias": (3,)}}
LEAVES, TREE = jax.tree.flatten(SHAPES, is_leaf=lambda node: isinstance(node, tuple))


def heavy_tailed_gradients(*, zero_at: int | None = None, steps: int = 50) -> list:
    random = np.random.default_rng(0)
    scales = np.minimum(np.exp(2 * random.standard_t(3, size=steps)), 1e3)
    if zero_at is not None:
        scales[zero_at] = 0.0
    return [_drawn(random, scale) for scale in scales]


def spiky_gradients(*, steps: int = 150) -> list:
    """Norms around 40 with a few spikes: peers that add 1e-6 to them are right to seven digits."""
    random = np.random.default_rng(1)
    scales = 5 * random.lognormal(sigma=0.3, size=steps)
    scales[random.random(steps) < 0.1] *= 20
    return [_drawn(random, scale) for scale in scales]


def _drawn(random, scale):
    leaves = [(scale * random.normal(size=shape)).astype(np.float32) for shape in LEAVES]
    return jax.tree.unflatten(TREE, leaves)


def assert_same_steps(ours, theirs, gradients, rtol=1e-6, fewest=6):
    assert_both_regimes(ours, gradients, fewest)
    for step, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        for a, b in zip(jax.tree.leaves(our), jax.tree.leaves(their), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=0, err_msg=f"step {step}")


def assert_both_regimes(ours, gradients, fewest):
    """Some steps were clipped and some were not: equality means something."""
    kept = [
        all(map(np.array_equal, jax.tree.leaves(our), jax.tree.leaves(gradient)))
        for our, gradient in zip(ours, gradients, strict=True)
    ]
    assert fewest <= sum(kept) <= len(kept) - fewest

"""Series of norms as training gives them, and the thresholds of a policy over them."""

import jax
import jax.numpy as jnp
import numpy as np
from replays import scan, zeros_like

LENGTH = 500


def heavy_tailed(seed: int, *, zeros: bool = True, length: int = LENGTH) -> np.ndarray:
    """Lognormal norms with spikes of fifty times, a level shift and, if asked for, zeros."""
    random = np.random.default_rng(seed)
    norms = random.lognormal(sigma=0.4, size=length)
    norms[random.random(length) < 0.02] *= 50.0
    norms[length * 3 // 5 :] *= 4.0
    if zeros:
        norms[random.random(length) < 0.03] = 0.0
        norms[length // 2 : length // 2 + 5] = 0.0
    return norms.astype(np.float32)


def calm(seed: int, length: int = LENGTH) -> np.ndarray:
    """Lognormal norms that vary by a fifth."""
    return np.random.default_rng(seed).lognormal(sigma=0.2, size=length).astype(np.float32)


def _follow(policy, norms, state):
    last, (values, _) = scan(policy, norms, state)
    return values, last


_follow_compiled = jax.jit(_follow, static_argnums=0)


def follow(policy, norms, state=None):
    """The thresholds of a policy at all steps, and its last state."""
    norms = jnp.asarray(norms, jnp.float32)
    state = policy.init(zeros_like(norms)) if state is None else state
    values, last = _follow_compiled(policy, norms, state)
    return np.asarray(values), last

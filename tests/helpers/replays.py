"""Long and rough series of norms, policies by name, and the thresholds that they give."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from policy_laws import scan

from clipax import thresholds

LARGEST = float(np.finfo(np.float32).max)
LAST = np.iinfo(np.int32).max
TOLERANCE = 2e-5


LENGTH = 40


def series(seed, length=2500):
    """Norms with spikes, stretches of zeros, level shifts, NaN and infinity."""
    rng = np.random.default_rng(seed)
    levels = np.repeat(10.0 ** rng.uniform(-3, 3, 10), length // 10)
    norms = levels * rng.lognormal(sigma=0.7, size=length)
    norms[rng.random(length) < 0.02] *= 1e4
    for start in rng.integers(0, length, 6):
        norms[start : start + rng.integers(1, 60)] = 0
    norms[seed % 2 * 400 : seed % 2 * 400 + 40] = 0  # some series begin with zeros
    for bad in (np.nan, np.inf):
        norms[rng.random(length) < 0.01] = bad
    norms[1300:1310] = np.nan
    return norms.astype(np.float32)


def zeros_like(norms):
    return jnp.zeros(norms.shape[1:], norms.dtype)


_replay = jax.jit(scan, static_argnums=0)


def replay(policy, norms, state=None):
    """The thresholds at all steps, the states after them and the last state."""
    norms = jnp.asarray(norms)
    state = policy.init(zeros_like(norms)) if state is None else state
    last, (values, states) = _replay(policy, norms, state)
    return np.asarray(values), states, last


POLICIES = {
    "constant": thresholds.constant(2.0),
    "scheduled": thresholds.scheduled(optax.linear_schedule(3.0, -1.0, LENGTH)),
    "window_percentile": thresholds.window_percentile(90.0, multiplier=2.0, window=8, warmup=3),
    "least": thresholds.window_percentile(0.0, multiplier=0.1, window=5, initial=1.0),
    "moving_mean": thresholds.moving_mean(2.0, window=8, warmup=3),
    "moving_mean_shrinking": thresholds.moving_mean(0.1, window=8, initial=2.0),
    "decayed": thresholds.decayed(3.0, 0.1),
    "decayed_rate": thresholds.decayed(3.0, 0.1, clip_rate=0.2, window=6, floor=0.5),
}
EACH = ("window_percentile", "moving_mean", "decayed_rate")  # one for each kind of state

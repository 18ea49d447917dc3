"""Gradient clipping for JAX: every clipper is measure -> norm -> threshold -> rule -> factor.

Example:
    >>> import clipax, jax.numpy as jnp, optax
    >>> optimizer = optax.chain(clipax.adaptive(), optax.adam(1e-3))
    >>> params = {"w": jnp.zeros(2)}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": jnp.array([30.0, 40.0])}, state, params)
    >>> float(clipax.metrics(state)["norm"])
    50.0
"""

from clipax import measures, rules, thresholds
from clipax._clippers import (
    adaptive,
    decaying,
    global_norm,
    moving_average,
    per_group,
    per_layer,
    per_leaf,
)
from clipax._core import clip_by
from clipax._observe import clip, metrics
from clipax._spectral import spectral
from clipax._value import value
from clipax.thresholds import ThresholdPolicy

__version__ = "0.1.0"

__all__ = [
    "ThresholdPolicy",
    "adaptive",
    "clip",
    "clip_by",
    "decaying",
    "global_norm",
    "measures",
    "metrics",
    "moving_average",
    "per_group",
    "per_layer",
    "per_leaf",
    "rules",
    "spectral",
    "thresholds",
    "value",
]

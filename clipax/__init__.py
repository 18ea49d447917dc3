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
from clipax._clippers.fixed import global_norm, per_group, per_layer, per_leaf
from clipax._clippers.relative import agc, auto_s, block_rms, delta_clip, normalize, smooth
from clipax._clippers.running import adagc, decaying, olmo, quantile, zclip
from clipax._clippers.windows import adaptive, autoclip, history_sigma, median, moving_average
from clipax._clippy import clippy
from clipax._core import clip_by
from clipax._cotangent import clip_cotangent
from clipax._error_feedback import error_feedback
from clipax._monitor import monitor
from clipax._observe import clip, metrics
from clipax._per_example import per_example
from clipax._skip_spikes import skip_spikes
from clipax._spam import spam, stable_spam
from clipax._spectral import spectral
from clipax._suggest import Suggestion, suggest_threshold
from clipax._value import value
from clipax._wrappers import momentum_reset
from clipax.thresholds import ThresholdPolicy

__version__ = "0.1.0"

__all__ = [
    "Suggestion",
    "ThresholdPolicy",
    "adagc",
    "adaptive",
    "agc",
    "auto_s",
    "autoclip",
    "block_rms",
    "clip",
    "clip_by",
    "clip_cotangent",
    "clippy",
    "decaying",
    "delta_clip",
    "error_feedback",
    "global_norm",
    "history_sigma",
    "measures",
    "median",
    "metrics",
    "momentum_reset",
    "monitor",
    "moving_average",
    "normalize",
    "olmo",
    "per_example",
    "per_group",
    "per_layer",
    "per_leaf",
    "quantile",
    "rules",
    "skip_spikes",
    "smooth",
    "spam",
    "spectral",
    "stable_spam",
    "suggest_threshold",
    "thresholds",
    "value",
    "zclip",
]

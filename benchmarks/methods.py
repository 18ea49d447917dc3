"""The clippers that are measured, with their arguments, and what optax has in place of some."""

import functools
from collections.abc import Callable

import optax

import clipax
from benchmarks.cases import OURS
from clipax import measures

Make = Callable[..., optax.GradientTransformation]

ONE_NORM: dict[str, Make] = {
    "global_norm": functools.partial(clipax.global_norm, 1.0),
    "adaptive": clipax.adaptive,
    "autoclip": clipax.autoclip,
    "autoclip, window": functools.partial(clipax.autoclip, window=1000),
    "decaying": functools.partial(clipax.decaying, 10.0),
    "history_sigma": clipax.history_sigma,
    "median": clipax.median,
    "moving_average": clipax.moving_average,
    "quantile": clipax.quantile,
    "zclip": clipax.zclip,
    "normalize": clipax.normalize,
    "smooth": clipax.smooth,
    "delta_clip": clipax.delta_clip,
    "auto_s": clipax.auto_s,
}
GROUPED: dict[str, Make] = {
    "per_layer": functools.partial(clipax.per_layer, 1.0),
    "per_group": lambda: clipax.per_group(1.0, lambda path: path.split("/")[0]),
    "per_leaf": functools.partial(clipax.per_leaf, 1.0),
    "moving_average, per leaf": lambda: clipax.moving_average(measure=measures.per_leaf()),
    "adagc": clipax.adagc,
    "olmo": clipax.olmo,
    "block_rms": clipax.block_rms,
    "agc": clipax.agc,
    "zclip, per unit": lambda: clipax.zclip(measure=measures.per_unit()),
}
OTHERS: dict[str, Make] = {
    "value": functools.partial(clipax.value, 0.01),
    "clippy": clipax.clippy,
    "spam": clipax.spam,
    "stable_spam": clipax.stable_spam,
}
METHODS = ONE_NORM | GROUPED | OTHERS
COUNTERPARTS: dict[str, Make] = {
    "value": lambda: optax.clip(0.01),
    "block_rms": lambda: optax.clip_by_block_rms(1.0),
    "agc": lambda: optax.adaptive_grad_clip(0.01),
}


def contestants(name: str) -> dict[str, Make]:
    """A clipper, the global clip of optax, and what optax has in its place, if anything."""
    found = {OURS: METHODS[name], "optax global": lambda: optax.clip_by_global_norm(1.0)}
    return found | ({"optax same": COUNTERPARTS[name]} if name in COUNTERPARTS else {})

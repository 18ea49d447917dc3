"""The clipper of singular values: the one equation, applied to each direction of a matrix."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from clipax import _matrices, _validate, measures
from clipax._core import follow, initial_state
from clipax._matrices import RULES, Spectrum
from clipax._scale import like, scale
from clipax._state import ClipState, Metrics, observe
from clipax._trees import incremented, is_measured
from clipax.measures import Measure, Norms
from clipax.thresholds import Threshold, ThresholdPolicy, as_policy


def spectral(
    max_singular_value: Threshold,
    *,
    method: str = "auto",
    rule: str = "hard",
    nonfinite: str = "propagate",
    name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Clip the singular values of each matrix.

    TODO
    """
    policy = as_policy("max_singular_value", max_singular_value)
    _validate.choice("method", method, ("auto", "svd", "eigh", "newton_schulz"))
    _validate.choice("rule", rule, tuple(RULES))
    _validate.options(nonfinite, name)
    measure = _GROUPS._replace(norms=lambda tree: _norms(_chosen(method), tree)[0])
    scalar = not isinstance(max_singular_value, ThresholdPolicy)

    def init_fn(params: optax.Params) -> ClipState:
        return initial_state(measure, policy, params, name, scalar=scalar)

    def update_fn(updates, state, params=None, **extra_args):
        norms, spectra = _norms(_chosen(method), updates)
        given = measure, norms, state, params, extra_args, name
        thresholds, policy_state = follow(policy, *given)
        options = _Options(rule, _chosen(method), nonfinite)
        updates, metrics = _clip(options, updates, norms, spectra, thresholds, state.metrics)
        return updates, ClipState(incremented(state.step), policy_state, metrics)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Options(NamedTuple):
    rule: str
    method: str
    nonfinite: str


_GROUPS = measures.per_unit(axis=(-2, -1))  # the same groups, with the same shapes of norms


def _chosen(method: str) -> str:
    """What "auto" stands for: on a CPU products are not cheap enough to replace factorisations."""
    if method != "auto":
        return method
    return "eigh" if jax.default_backend() == "cpu" else "newton_schulz"


def _is_matrix(leaf: Any) -> bool:
    """Whether a leaf has groups with more than one singular value."""
    shape = jnp.shape(leaf)
    return is_measured(leaf) and len(shape) > 1 and min(shape[-2:]) > 1 and 0 not in shape


def _norms(method: str, tree: Any) -> tuple[Norms, list[Spectrum | None]]:
    """The largest singular values, and for every leaf what more is known of them."""
    leaves, treedef = jax.tree.flatten(tree)
    matrices = iter(_spectra(method, [x for x in leaves if _is_matrix(x)]))
    vectors = [x for x in leaves if is_measured(x) and not _is_matrix(x)]
    lengths = iter(_GROUPS.norms(vectors).values)
    values, spectra = [], []
    for x in leaves:
        norm, known = jnp.zeros(()), None
        if _is_matrix(x):
            norm, known = next(matrices)
        elif is_measured(x):
            norm = next(lengths)
        values.append(norm)
        spectra.append(known)
    return Norms(jax.tree.unflatten(treedef, values), None), spectra


@functools.partial(jax.jit, static_argnums=0)
def _spectra(method: str, matrices: list[Array]) -> list[tuple[Array, Spectrum]]:
    """The norms, NaN where an entry is not finite, and the spectra without these entries."""

    def measured(x: Array) -> tuple[Array, Spectrum]:
        known = _matrices.spectrum(method, _matrices.as_tall(_finite(_wide(x))))
        finite = jnp.all(jnp.isfinite(x), axis=(-2, -1), keepdims=True)
        return jnp.where(finite, known.norm, jnp.nan), known

    return [measured(x) for x in matrices]


def _clip(options, updates, norms: Norms, spectra, thresholds, metrics) -> tuple[Any, Any]:
    """The clipped updates and the metrics."""
    leaves, treedef = jax.tree.flatten(updates)
    columns = leaves, jax.tree.leaves(norms.values), jax.tree.leaves(thresholds), spectra
    measured = [is_measured(x) for x in leaves]
    columns = [list(itertools.compress(column, measured)) for column in columns]
    clipped, metrics = _clip_arrays(options, *columns, metrics)
    rest = iter(clipped)
    leaves = [next(rest) if m else x for x, m in zip(leaves, measured, strict=True)]
    return jax.tree.unflatten(treedef, leaves), metrics


@functools.partial(jax.jit, static_argnums=0)
def _clip_arrays(options: _Options, leaves, norms, thresholds, spectra, metrics):
    """`_clip` for arrays only. The `jit` makes one dispatch of it for eager callers."""
    if options.nonfinite == "sanitize":
        leaves = [_finite(x) for x in leaves]
    clipped, factors = [], []
    for x, norm, threshold, known in zip(leaves, norms, thresholds, spectra, strict=True):
        threshold = jnp.broadcast_to(threshold, norm.shape)
        if known is None:
            clean = _GROUPS.norms([x]).values[0] if options.nonfinite == "sanitize" else norm
            clipped.append(_clip_vector(options, x, norm, clean, threshold))
        else:
            clean = known.norm
            clipped.append(_clip_matrices(options, x, norm, known, threshold))
        factor = RULES[options.rule](clean, threshold)
        factors.append(_where_lost(options, norm, threshold, factor))
    return clipped, observe(metrics, norms, thresholds, factors)


def _clip_vector(options: _Options, x, norm, clean, threshold) -> Array:
    both = Norms([norm], None), Norms([clean], None)
    unseen = Metrics(None, None, None, None, None, None)
    rule = RULES[options.rule]
    return scale(rule, options.nonfinite, [x], both, [threshold], unseen)[0][0]


def _clip_matrices(options: _Options, x, norm, known: Spectrum, threshold) -> Array:
    tall = _matrices.as_tall(_finite(_wide(x)))
    tall = _matrices.clipped(options.rule, options.method, tall, known, threshold)
    clipped = _matrices.as_before(x, tall).astype(x.dtype)
    within = RULES[options.rule](known.norm, threshold) == 1
    return like(x, _where_lost(options, norm, threshold, jnp.where(within, x, clipped)))


def _where_lost(options: _Options, norm: Array, threshold: Array, usual: Array) -> Array:
    """What becomes of a group whose norm is not finite; NaN where the threshold is NaN."""
    if options.nonfinite != "sanitize":
        lost = jnp.asarray(0 if options.nonfinite == "zero" else jnp.nan, usual.dtype)
        usual = jnp.where(jnp.isfinite(norm), usual, lost)
    return jnp.where(jnp.isnan(threshold), jnp.asarray(jnp.nan, usual.dtype), usual)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _finite(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, 0)

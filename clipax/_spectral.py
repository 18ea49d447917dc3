"""The clipper of singular values: the one equation, applied to each direction of a matrix."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from clipax import _matrices, _validate, measures
from clipax._core import Given, follow, initial_state, without_nonfinite
from clipax._matrices import RULES, Spectrum
from clipax._places import resharded
from clipax._scale import like, scale
from clipax._state import ClipState, Metrics, observe
from clipax._trees import incremented, is_measured, widened
from clipax.measures import Norms
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

    `s_i <- min(s_i, tau)` in `X = U diag(s) V^H`, `n = max_i s_i`, `tau = max_singular_value`; or
    `s_i <- s_i / sqrt(1 + s_i^2 / tau^2)` for the soft rule

    Only the directions in which a gradient is too large are shortened, where a factor would shrink
    all of them. The matrices are the last two axes of a leaf. A leaf with fewer axes is one column:
    its singular value is its l2 norm. Inside `shard_map` and `pmap` each must lie whole on a
    device.

    Parts: per_matrix(s_max) -> number -> rescale, of each singular value. State: none.

    Args:
        max_singular_value: a number >= 0, a schedule or a policy, which sees the largest singular
            value of each matrix.
        method: `"svd"`; `"eigh"`, the eigenvectors of the Gram matrix, and the SVD where
            n > 32 tau; `"newton_schulz"`, matrix products only; or `"auto"`, which is `"eigh"` for
            the hard rule where `jax.default_backend()` is a CPU, and else `"newton_schulz"`: name
            the method when compiling for another machine.
        rule: `"hard"` or `"soft"`.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`, for each matrix.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. It computes in float32, or float64 where a leaf is. A matrix with
        n <= tau is unchanged to the bit, as far as the method knows n: to rounding, but
        `"newton_schulz"` takes the Schatten norm of order 2^14 for it, too large by the factor
        r^(2^-14) if r singular values are as large, so up to 0.05 %. With
        `optax.inject_hyperparams`, `method` and `rule` are `static_args`. The metric `factor` is
        that of the largest singular value.

        Float32 results differ from those of a float64 SVD by at most this much of tau, in the
        spectral norm, over four kinds of spectra with up to 128 columns:

        | n / tau       | 1.5  | 10   | 32     | 100    | 1000   |
        |---------------|------|------|--------|--------|--------|
        | svd           | 2e-6 | 3e-6 | 9e-6   | 2.5e-5 | 2.5e-4 |
        | eigh          | 2e-6 | 8e-6 | 1.3e-4 | 2.5e-5 | 2.5e-4 |
        | newton_schulz | 2e-6 | 2e-5 | 7e-5   | 7e-5   | 1.3e-4 |

        Most of it is a rotation: the largest singular value exceeds tau by at most 6e-5 of it, with
        the SVD by 2e-6. The soft rule is off by at most 6e-5 with `"newton_schulz"`, and by
        1.5e-4 with `"eigh"`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range.

    Example:
        >>> matrix = jnp.array([[3.0, 0.0], [0.0, 0.5]])
        >>> clipax.clip([matrix], clipax.spectral(1.0))[0][0].round(3)
        Array([[1. , 0. ], [0. , 0.5]], dtype=float32)
        >>> clipax.clip([matrix], clipax.spectral(1.0, rule="soft"))[0][0].round(3)
        Array([[0.949, 0.   ], [0.   , 0.447]], dtype=float32)

    References:
        Yukhimchuk, Kolar, Takáč, Choudhury, *Gradient clipping beyond vector norms: a spectral
        approach for matrix-valued parameters*, 2026, https://arxiv.org/abs/2605.11838. The soft
        rule: Jiang, Semenov, Stich, *Enhancing LLM training via spectral clipping*, 2026,
        https://arxiv.org/abs/2603.14315. The matrix products: Amsel, Persson, Musco, Gower, *The
        Polar Express: optimal matrix sign methods and their application to the Muon algorithm*,
        2025, https://arxiv.org/abs/2505.16932

    Deviations: the hard rule's authors find tau by a randomised truncated SVD and a rule of their
    own; here any policy does. The soft rule's authors leave vectors with n <= tau as they are,
    which makes the result jump there, and compute matrices in bfloat16 by ten cubic Newton-Schulz
    iterations.
    """
    policy = as_policy("max_singular_value", max_singular_value)
    _validate.choice("method", method, ("auto", "svd", "eigh", "newton_schulz"))
    _validate.choice("rule", rule, tuple(RULES))
    _validate.options(nonfinite, name)
    measure = _GROUPS._replace(norms=lambda tree: _norms(_chosen(method, rule), tree)[0])
    scalar = not isinstance(max_singular_value, ThresholdPolicy)

    @_validate.naming(name)
    def init_fn(params: optax.Params) -> ClipState:
        return initial_state(measure, policy, params, name, scalar=scalar)

    @_validate.naming(name)
    def update_fn(updates, state, params=None, **extra_args):
        options = _Options(rule, _chosen(method, rule), nonfinite)
        norms, spectra = _norms(options.method, updates)
        given = Given(measure, state.step, params, extra_args)
        thresholds, policy_state = follow(policy, norms, state.policy, given)
        updates, metrics = _clip(options, updates, norms, spectra, thresholds, state.metrics)
        return updates, ClipState(incremented(state.step), policy_state, metrics)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Options(NamedTuple):
    rule: str
    method: str
    nonfinite: str


_GROUPS = measures.per_unit(axis=(-2, -1))  # the same groups, with the same shapes of norms


def _chosen(method: str, rule: str) -> str:
    """What "auto" stands for: the soft rule takes a third of the products of the hard one."""
    if method != "auto":
        return method
    return "eigh" if rule == "hard" and jax.default_backend() == "cpu" else "newton_schulz"


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
        known = _matrices.spectrum(method, _stack(x))
        finite = jnp.all(jnp.isfinite(x), axis=(-2, -1), keepdims=True)
        return jnp.where(finite, known.norm, jnp.nan), known

    return [measured(x) for x in matrices]


def _stack(x: Array) -> Array:
    """What the functions of matrices take: whole, wide, finite, no wider than tall."""
    return _matrices.as_tall(without_nonfinite(widened(_gathered(x))))


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
        leaves = [without_nonfinite(x) for x in leaves]
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
    (result,) = jax.tree.leaves(scale(rule, options.nonfinite, [x], both, [threshold], unseen)[0])
    return result


def _clip_matrices(options: _Options, x, norm, known: Spectrum, threshold) -> Array:
    tall = _matrices.clipped(options.rule, options.method, _stack(x), known, threshold)
    clipped = resharded(_matrices.as_before(x, tall).astype(x.dtype), jax.typeof(x).sharding.spec)
    within = RULES[options.rule](known.norm, threshold) == 1
    return like(x, _where_lost(options, norm, threshold, jnp.where(within, x, clipped)))


def _where_lost(options: _Options, norm: Array, threshold: Array, usual: Array) -> Array:
    """What becomes of a group whose norm is not finite; NaN where the threshold is NaN."""
    if options.nonfinite != "sanitize":
        lost = jnp.asarray(0 if options.nonfinite == "zero" else jnp.nan, usual.dtype)
        usual = jnp.where(jnp.isfinite(norm), usual, lost)
    return jnp.where(jnp.isnan(threshold), jnp.asarray(jnp.nan, usual.dtype), usual)


def _gathered(x: Array) -> Array:
    """The same array with no matrix spread over devices; the leading axes stay where they are."""
    return resharded(x, (*jax.typeof(x).sharding.spec[:-2], None, None))

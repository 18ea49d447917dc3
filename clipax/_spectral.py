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
from clipax._groups import slices_of
from clipax._matrices import RULES, Spectrum
from clipax._places import resharded
from clipax._scale import like, scale
from clipax._state import ClipState, Metrics, observe
from clipax._trees import incremented, is_measured, leaves_where, widened
from clipax.measures import Measure, Norms
from clipax.thresholds import Threshold, ThresholdPolicy, as_policy


def spectral(
    max_singular_value: Threshold,
    *,
    method: str = "auto",
    rule: str = "hard",
    stacked: Any = None,
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
            n > 32 tau; `"newton_schulz"`, matrix products only; or `"auto"`, which is `"eigh"`
            where `jax.default_backend()` is a CPU, and else `"newton_schulz"`: name the method when
            compiling for another machine, and `"newton_schulz"` on CPUs that other programs keep
            busy, which LAPACK bears badly.
        rule: `"hard"` or `"soft"`.
        stacked: which leaves are stacks of layers, see `clipax.measures.per_unit`; each slice then
            counts for a leaf, so that a stack of vectors is not taken for a matrix.
        nonfinite: `"propagate"`, `"zero"` or `"sanitize"`, see `clip_by`, for each matrix.
        name: the prefix of the metrics' keys.

    Returns:
        A gradient transformation. It computes in float32, or float64 where a leaf is. A matrix with
        n <= tau is unchanged to the bit, as far as the method knows n: to rounding, but
        `"newton_schulz"` takes the Schatten norm of order 2^14 for it, too large by the factor
        r^(2^-14) if r singular values are as large, so up to 0.05 %. With
        `optax.inject_hyperparams`, `method`, `rule` and `stacked` are `static_args`. The metric
        `factor` is that of the largest singular value.

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
    groups = _Groups(stacked, measures.per_unit(axis=(-2, -1), stacked=stacked))
    measure = groups.units._replace(norms=lambda tree: groups.norms(_chosen(method), tree)[0])
    scalar = not isinstance(max_singular_value, ThresholdPolicy)

    @_validate.naming(name)
    def init_fn(params: optax.Params) -> ClipState:
        return initial_state(measure, policy, params, name, scalar=scalar)

    @_validate.naming(name)
    def update_fn(updates, state, params=None, **extra_args):
        options = _Options(rule, _chosen(method), nonfinite)
        norms, spectra = groups.norms(options.method, updates)
        given = Given(measure, state.step, params, extra_args)
        thresholds, policy_state = follow(policy, norms, state.policy, given)
        lengths = norms.values
        if nonfinite == "sanitize":
            updates = jax.tree.map(without_nonfinite, updates)
            lengths = groups.lengths(updates, groups.hold_matrices(updates))
        updates, metrics = _clip(
            options, updates, norms, lengths, spectra, thresholds, state.metrics
        )
        return updates, ClipState(incremented(state.step), policy_state, metrics)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Options(NamedTuple):
    rule: str
    method: str
    nonfinite: str


def _chosen(method: str) -> str:
    """What "auto" stands for."""
    if method != "auto":
        return method
    return "eigh" if jax.default_backend() == "cpu" else "newton_schulz"


class _Groups(NamedTuple):
    """The matrices of a tree, and its vectors, which have one singular value.

    Attributes:
        stacked: see `spectral`.
        units: the measure of the same groups by their l2 norms, which have the shape of ours.
    """

    stacked: Any
    units: Measure

    def hold_matrices(self, tree: Any) -> list[bool]:
        """Whether the groups of each leaf have more than one singular value."""

        def held(x: Any, slices: int | None) -> bool:
            shape = jnp.shape(x)
            inner = shape if slices is None else shape[1:]
            return is_measured(x) and len(inner) > 1 and min(inner[-2:]) > 1 and 0 not in shape

        return list(map(held, jax.tree.leaves(tree), slices_of(self.stacked, tree)))

    def lengths(self, tree: Any, matrices: list[bool]) -> Any:
        """The norms of vectors, and something in place of those of matrices."""
        leaves, treedef = jax.tree.flatten(tree)
        pairs = zip(leaves, matrices, strict=True)
        return self.units.norms(treedef.unflatten([0 if m else x for x, m in pairs])).values

    def norms(self, method: str, tree: Any) -> tuple[Norms, Any]:
        """The largest singular values, and in place of each leaf of matrices its `Spectrum`."""
        leaves, treedef = jax.tree.flatten(tree)
        matrices = self.hold_matrices(tree)
        spectra = iter(_spectra(method, list(itertools.compress(leaves, matrices))))
        pairs = zip(jax.tree.leaves(self.lengths(tree, matrices)), matrices, strict=True)
        found = [next(spectra) if m else (length, None) for length, m in pairs]
        values, known = ([one[i] for one in found] for i in (0, 1))
        return Norms(treedef.unflatten(values), None), treedef.unflatten(known)


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


def _clip(options, updates, norms: Norms, lengths, spectra, thresholds, metrics):
    """The clipped updates and the metrics; `lengths`: of vectors, without non-finite entries."""
    taken, put = leaves_where(is_measured, updates)
    columns = map(taken, (updates, norms.values, lengths, spectra, thresholds))
    clipped, metrics = _clip_arrays(options, *columns, metrics)
    return put(clipped), metrics


@functools.partial(jax.jit, static_argnums=0)
def _clip_arrays(options: _Options, leaves, norms, lengths, spectra, thresholds, metrics):
    """`_clip` for arrays only. The `jit` makes one dispatch of it for eager callers."""
    clipped, factors = [], []
    columns = leaves, norms, lengths, spectra, thresholds
    for x, norm, clean, known, threshold in zip(*columns, strict=True):
        threshold = jnp.broadcast_to(threshold, norm.shape)
        if known is None:
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

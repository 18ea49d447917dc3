"""Functions of the singular values of stacks of matrices: the numerics of `spectral`.

A stack is an array of shape `(..., rows, columns)` with `rows >= columns`, in the dtype of the
computation and without non-finite entries. Its norms and thresholds have shape `(..., 1, 1)`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap, sequential_vmap

from clipax import rules
from clipax._bits import exponent_of, times_power


class Spectrum(NamedTuple):
    """What is known of the singular values of a stack.

    Attributes:
        norm: the largest of each matrix.
        factors: of the matrices times a power of two, as the method needs them again.
    """

    norm: Array
    factors: tuple[Array, ...]


RULES = {"hard": rules.rescale, "soft": rules.smooth_root}


def spectrum(method: str, x: Array) -> Spectrum:
    """Returns the largest singular values of a stack, and what `clipped` needs besides.

    Args:
        method: "svd", "eigh" or "newton_schulz".
        x: a stack.
    """
    exponent = _exponent(lax.stop_gradient(x))
    scaled = times_power(lax.stop_gradient(x), -exponent)
    norm, factors = _MEASURED[method](scaled)
    return Spectrum(_with_slope(x, times_power(norm, exponent)), factors)


def clipped(rule: str, method: str, x: Array, known: Spectrum, threshold: Array) -> Array:
    """Returns the stack with every singular value s in place of which is f(s).

    Args:
        rule: "hard" for `f(s) = min(s, tau)`, "soft" for `f(s) = s / sqrt(1 + s^2 / tau^2)`.
        method: that which gave `known`.
        x: the stack.
        known: its spectrum.
        threshold: tau, broadcast to the shape of the norms.
    """
    known = jax.tree.map(lax.stop_gradient, known)
    return _clipped(rule, method, x, threshold, known)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _clipped(rule: str, method: str, x: Array, threshold: Array, known: Spectrum) -> Array:
    result = _clipped_in_batches(rule, method)(x, threshold, known)
    return jnp.where(threshold == 0, 0, result)


@functools.cache
def _clipped_in_batches(rule: str, method: str) -> Callable[..., Array]:
    """With a batching rule that adds to the leading axes: `lax.cond` stays one scalar decision."""

    @custom_vmap
    def batched(x, threshold, known):
        return _CLIPPED[method](rule, x, threshold, known)

    @batched.def_vmap
    def _(axis_size, in_batched, *arguments):
        stacked = jax.tree.map(
            lambda x, given: x if given else jnp.broadcast_to(x, (axis_size, *x.shape)),
            arguments,
            tuple(in_batched),
        )
        return batched(*stacked), True

    return batched


# Decompositions. On CPUs the matrices of a stack are decomposed one after the other: in jaxlib 0.10
# and 0.11 LAPACK shares a stack out to the threads of XLA and blocks the one that it runs on, and
# as soon as all of them are blocked the program hangs. Later versions do not share it out, so the
# loop costs nothing there.


def _decomposed(decompose: Callable[[Array], Any], x: Array) -> Any:
    if jax.default_backend() != "cpu":
        return decompose(x)
    one_by_one = sequential_vmap(lambda matrix: decompose(matrix))  # with no default arguments
    for _ in range(x.ndim - 2):
        one_by_one = jax.vmap(one_by_one)
    return one_by_one(x)


def _svd(x: Array) -> tuple[Array, Array, Array]:
    """The columns of U, the singular values as a row, and the columns of V."""
    u, s, vh = _decomposed(functools.partial(jnp.linalg.svd, full_matrices=False), x)
    return u, s[..., None, :], _adjoint(vh)


def _svd_measured(x: Array) -> tuple[Array, tuple[Array, ...]]:
    u, s, v = _svd(x)
    return s[..., :1], (u, s, v)


def _svd_clipped(rule: str, x: Array, threshold: Array, known: Spectrum) -> Array:
    u, s, v = known.factors
    s = times_power(s, _exponent(x))
    within = jnp.minimum(s, threshold) if rule == "hard" else s * rules.smooth_root(s, threshold)
    return _product(u * within, _adjoint(v))


# Eigenvectors of the Gram matrix. The singular values are the lengths of the columns of X Q: the
# roots of the eigenvalues would be wrong by the square of the largest over the one in question.

_TRUSTED = 32.0  # of the largest singular value over tau; the error grows with its square


def _eigh_measured(x: Array) -> tuple[Array, tuple[Array, ...]]:
    _, q = _decomposed(jnp.linalg.eigh, _product(_adjoint(x), x))
    columns = _product(x, q)
    s = jnp.sqrt(jnp.sum(_square(columns), axis=-2, keepdims=True))
    return jnp.max(s, axis=-1, keepdims=True), (columns, s, q)


def _eigh_clipped(rule: str, x: Array, threshold: Array, known: Spectrum) -> Array:
    def usual() -> Array:
        columns, s, q = known.factors
        exponent = _exponent(x)
        factor = _factor(rule, times_power(s, exponent), threshold)
        return times_power(_product(columns * factor, _adjoint(q)), exponent)

    def exact() -> Array:
        norm, factors = _svd_measured(times_power(x, -_exponent(x)))
        return _svd_clipped(rule, x, threshold, Spectrum(norm, factors))

    far = (known.norm / _TRUSTED > threshold) & (threshold > 0)
    return lax.cond(jnp.any(far), exact, usual)


def _factor(rule: str, s: Array, threshold: Array) -> Array:
    if rule == "soft":
        return rules.smooth_root(s, threshold)
    over = s > threshold
    return jnp.where(over, threshold / jnp.where(over, s, 1), 1)


# Matrix products only. Everything comes from the polar factor U V^H of a matrix, by Newton-Schulz
# iterations Y <- a Y + b Y Y^H Y + c Y (Y^H Y)^2, the coefficients of each being those of the odd
# polynomial of degree five that is nearest to 1 on the interval in which the singular values are by
# then (Amsel et al.): greedy, they are the best of all compositions.

# The first is the one nearest to 1 on [0.04, 1], found by Remez exchange, divided by its maximum
# and by 1.002, so that rounding does not lead out of [0, 1], where it diverges; each next one the
# same on the interval to which the one before maps. The first is repeated until all singular values
# are in [0.04, 1]. The best polynomials for smaller ones are hardly steeper there, but bring others
# down to where rounding changes their sign.
_LOWER = (0.04, 0.16281585653959935, 0.5532325678985426, 0.9679318528025304, 0.9979985935495967)
_QUINTICS = (
    (4.088478246381954, -11.314303684570016, 8.223829430204031),
    (3.604472669567661, -7.933633637773216, 5.327164960221523),
    (2.491243054079822, -2.833322314548226, 1.340083252484372),
    (1.9020292615686478, -1.3098122563827461, 0.4057869868300665),
    (1.8768792574154747, -1.2537613396054699, 0.37688208281819896),
    (1.875, -1.25, 0.375),  # the limit; in float32 the others are enough
)

_SQUARINGS = 12  # the order of the Schatten norm is 2^14: 1.0005 is enough for 3,600 columns


def _newton_schulz_measured(x: Array) -> tuple[Array, tuple[Array, ...]]:
    """The Schatten norm `(sum s^p)^(1/p)` of order p = 2^14, from squares of the Gram matrix."""
    gram = _product(_adjoint(x), x)
    size = _frobenius(gram)

    def square(i, carry):
        power, logarithm = carry
        power = _product(power, power)
        size = _frobenius(power)
        return power / size, logarithm + jnp.log(size) * 0.5 ** jnp.asarray(i + 1, size.dtype)

    _, logarithm = lax.fori_loop(0, _SQUARINGS, square, (gram / size, jnp.log(size)))
    peak = jnp.max(abs(x), axis=(-2, -1), keepdims=True)
    return jnp.where(peak == 0, 0, jnp.exp(logarithm / 2)), ()


def _newton_schulz_clipped(rule: str, x: Array, threshold: Array, known: Spectrum) -> Array:
    norm = jnp.where(known.norm == 0, 1, known.norm)
    if rule == "soft":
        return _soft_by_products(x, norm, threshold)

    def shrink(carry):
        x, norm = carry
        target = jnp.maximum(threshold, norm / _TRUSTED)
        shrunk = norm * _hard_by_products(x / norm, jnp.minimum(target / norm, 1))
        over = norm > threshold
        return jnp.where(over, shrunk, x), jnp.where(over, target, norm)

    def clips(carry):
        norm = carry[1]
        return jnp.any((norm > threshold) & (threshold > 0) & (norm < jnp.inf))

    # In steps of a ratio at which rounding is harmless; most often one. None leads from infinity.
    return lax.while_loop(clips, shrink, (x, norm))[0]


def _hard_by_products(x: Array, threshold: Array) -> Array:
    """`min(s, tau) = (s + tau - |s - tau|) / 2` for singular values in [0, 1]."""
    (unitary,) = _polar((x,), _first(threshold))
    positive = _hermitian(_product(_adjoint(unitary), x))
    distance = positive - threshold * _identity(x)
    largest = jnp.maximum(threshold, 1 - threshold)
    (sign,) = _polar((distance / largest,), _first(jnp.zeros_like(threshold)))
    apart = x - threshold * unitary
    return (x + threshold * unitary - _product(apart, _hermitian(sign))) / 2


def _soft_by_products(x: Array, norm: Array, threshold: Array) -> Array:
    """`s / sqrt(s^2 + tau^2)` is the upper part of the polar factor of X above tau I."""
    ratio = jnp.clip(threshold / norm, 1e-30, 1e6)
    length = jnp.sqrt(1 + ratio * ratio)
    upper, lower = x / norm / length, ratio / length * _identity(x)
    return norm * (ratio * _polar((upper, lower), _first(ratio / length))[0])


def _polar(blocks: tuple[Array, ...], first: Array) -> tuple[Array, ...]:
    """The polar factor of the blocks above each other, from the iteration `first` on."""
    dtype = jnp.finfo(blocks[0].dtype).dtype
    coefficients = jnp.asarray(_QUINTICS[: 5 if dtype == jnp.float32 else 6], dtype)

    def iterate(i, blocks):
        a, b, c = coefficients[jnp.maximum(i, 0)]
        gram = functools.reduce(jnp.add, [_product(_adjoint(y), y) for y in blocks])
        inner = b * gram + c * _product(gram, gram)
        return tuple(a * y + _product(y, inner) for y in blocks)

    return lax.fori_loop(first, len(coefficients), iterate, blocks)


def _first(smallest: Array) -> Array:
    """The iteration to begin with, for the smallest singular value; negative: repeat the first.

    Not for smaller ones than rounding leaves intact: repeated too often, the first is chaotic.
    """
    smallest = jnp.maximum(jnp.min(smallest, initial=1), _resolution(smallest))
    late = jnp.sum(smallest >= jnp.asarray(_LOWER, smallest.dtype)) - 1
    growth = math.log(_LOWER[1] / _LOWER[0])
    early = jnp.floor(jnp.log(smallest / _LOWER[0]) / growth)
    return jnp.where(late < 0, early.astype(jnp.int32), late.astype(jnp.int32))


def _resolution(x: Array) -> float:
    return 8 * float(jnp.finfo(x.dtype).eps)


_MEASURED = {
    "svd": _svd_measured,
    "eigh": _eigh_measured,
    "newton_schulz": _newton_schulz_measured,
}
_CLIPPED = {"svd": _svd_clipped, "eigh": _eigh_clipped, "newton_schulz": _newton_schulz_clipped}


# Derivatives, by divided differences of f: they are finite where singular values coincide. Each
# method has the derivative of the function that it approximates.


@jax.custom_jvp
def _with_slope(x: Array, norm: Array) -> Array:
    """The norm, with the derivative that the largest singular value of x has."""
    del x
    return norm


@_with_slope.defjvp
def _with_slope_jvp(primals, tangents):
    (x, norm), (dx, _) = primals, tangents
    u, _, v = _svd(times_power(x, -_exponent(x)))
    first, second = u[..., :1], v[..., :1]
    return norm, jnp.real(_product(_adjoint(first), _product(dx, second))).astype(norm.dtype)


@_clipped.defjvp
def _clipped_jvp(rule, method, primals, tangents):
    (x, threshold, _), (dx, dthreshold, _) = primals, tangents
    exponent = _exponent(x)
    u, s, v = _svd(times_power(x, -exponent))
    scaled = times_power(threshold, -exponent)
    symmetric, skew, factor, slope = _differences(rule, s, scaled)
    moved = _product(dx, v)
    inner = _product(_adjoint(u), moved)
    inside = symmetric * _hermitian(inner) + skew * _skew(inner)
    outside = (moved - _product(u, inner)) * factor
    slopes = _product(u, inside) + outside + u * (slope * dthreshold)
    return _clipped(rule, method, *primals), _product(slopes, _adjoint(v))


def _differences(rule: str, s: Array, threshold: Array) -> tuple[Array, Array, Array, Array]:
    """`(f(a) - f(b)) / (a - b)`, `(f(a) + f(b)) / (a + b)`, `f(a) / a` and the slope in tau."""
    other = jnp.swapaxes(s, -1, -2)
    factor = _factor(rule, s, threshold)
    f = s * factor if rule == "soft" else jnp.minimum(s, threshold)
    g = jnp.swapaxes(f, -1, -2)
    total = s + other
    skew = jnp.where(total == 0, threshold > 0, (f + g) / jnp.where(total == 0, 1, total))
    if rule == "soft":
        both = factor * jnp.swapaxes(factor, -1, -2)
        symmetric = both * (both / jnp.where(skew == 0, 1, skew))
        return symmetric, skew, factor, jnp.maximum(1 - factor * factor, 0) ** 1.5
    apart = s - other
    same = apart == 0
    symmetric = jnp.where(same, s <= threshold, (f - g) / jnp.where(same, 1, apart))
    return symmetric, skew, factor, (s > threshold).astype(s.dtype)


# Small parts


def _product(a: Array, b: Array) -> Array:
    """In full precision: accelerators round the factors to fewer digits otherwise."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _adjoint(x: Array) -> Array:
    return jnp.conj(jnp.swapaxes(x, -1, -2))


def _hermitian(x: Array) -> Array:
    return (x + _adjoint(x)) / 2


def _skew(x: Array) -> Array:
    return (x - _adjoint(x)) / 2


def _identity(x: Array) -> Array:
    return jnp.expand_dims(jnp.eye(x.shape[-1], dtype=x.dtype), tuple(range(x.ndim - 2)))


def _square(x: Array) -> Array:
    return jnp.real(x * jnp.conj(x))


def _frobenius(x: Array) -> Array:
    """The root of the sum of squares; 1 where that is 0."""
    total = jnp.sum(_square(x), axis=(-2, -1), keepdims=True)
    return jnp.sqrt(jnp.where(total == 0, 1, total))


def _exponent(x: Array) -> Array:
    """The k with which the entries of 2^-k x are at most 1; 0 for a zero matrix."""
    peak = jnp.max(abs(x), axis=(-2, -1), keepdims=True)
    return exponent_of(peak)


def as_tall(x: Any) -> Array:
    """The matrices, or their adjoints if these have more rows."""
    return _adjoint(x) if x.shape[-2] < x.shape[-1] else x


def as_before(x: Array, tall: Array) -> Array:
    """Undoes `as_tall` for a function of its result."""
    return _adjoint(tall) if x.shape[-2] < x.shape[-1] else tall

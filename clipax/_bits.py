"""Numbers put together from their bits and taken apart.

`ldexp` and `frexp` are dozens of operations each, which the compiler would meet once for every
array.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


def powers_of_two(k: Array, dtype) -> tuple[Array, Array]:
    """Two factors of 2^k, which may be out of range itself.

    Entries are multiplied by them and not divided by 2^-k: compilers turn that into a product with
    a reciprocal, which may flush to zero.
    """
    bits, integer = jnp.finfo(dtype), _integer(dtype)
    half = k >> 1

    def power(k: Array) -> Array:
        biased = k.astype(integer) + (1 - int(bits.minexp))
        return lax.bitcast_convert_type(biased << int(bits.nmant), dtype)

    return power(half), power(k - half)


def times_power(x: Array, k: Array) -> Array:
    """`2^k x`, also where 2^k is out of range."""
    first, second = powers_of_two(k, jnp.finfo(x.dtype).dtype)
    return x * first * second


def exponent_of(n: Array) -> Array:
    """The k with 2^(k-1) <= n < 2^k, for a subnormal n that of the smallest normal number less one.

    0 where n is not positive and finite.
    """
    bits = jnp.finfo(n.dtype)
    biased = lax.bitcast_convert_type(n, _integer(n.dtype)) >> int(bits.nmant)
    k = biased.astype(jnp.int32) + int(bits.minexp)
    return jnp.where((n > 0) & (n < jnp.inf), k, 0)


def mantissa(n: Array) -> Array:
    """`n / 2^k`; 1 where n is not positive and finite."""
    return jnp.where((n > 0) & (n < jnp.inf), times_power(n, -exponent_of(n)), 1)


def lowered(x: Array) -> Array:
    """The number before `|x|`: -1 before zero, 0 before the smallest normal one, inf before NaN."""
    integer, smallest = _integer(x.dtype), _smallest(x.dtype)
    bits = lax.bitcast_convert_type(x, integer) & np.iinfo(integer).max
    before = jnp.minimum(bits, np.array(np.inf, x.dtype).view(integer) + 1) - 1
    return jnp.where(bits < smallest.view(integer), -1, lax.bitcast_convert_type(before, x.dtype))


def raised(x: Array) -> Array:
    """What `lowered` made x of."""
    smallest = _smallest(x.dtype)
    after = lax.bitcast_convert_type(lax.bitcast_convert_type(x, _integer(x.dtype)) + 1, x.dtype)
    return jnp.where(x < 0, 0, jnp.where(x < smallest, smallest, after))


def _smallest(dtype) -> np.ndarray:
    """The smallest normal number."""
    return np.array(jnp.finfo(dtype).tiny, dtype)


def _integer(dtype) -> Any:
    return jnp.dtype(f"int{jnp.dtype(dtype).itemsize * 8}")


@jax.custom_jvp
def select(condition: Array, on_true: Array, on_false: Array) -> Array:
    """`lax.select`, for 16-bit arrays of their bits: CPUs would choose between float32 copies."""
    if on_true.dtype.itemsize > 2:
        return lax.select(condition, on_true, on_false)
    bits = jnp.dtype(f"uint{8 * on_true.dtype.itemsize}")
    chosen = lax.select(
        condition,
        lax.bitcast_convert_type(on_true, bits),
        lax.bitcast_convert_type(on_false, bits),
    )
    return lax.bitcast_convert_type(chosen, on_true.dtype)


@select.defjvp
def _select_jvp(primals, tangents):
    condition = primals[0]
    return select(*primals), lax.select(condition, *tangents[1:])

"""Gradients that are clipped example by example."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from clipax import _validate
from clipax._stateless import once
from clipax._trees import widened


def per_example(
    loss_fn: Callable[..., Array],
    clipper: optax.GradientTransformation,
    *,
    microbatch: int | None = None,
) -> Callable[..., tuple[Array, Any]]:
    """Clip the gradient of each example of a batch, and take the mean.

    `g = sum_i w_i clip(grad L(params, x_i)) / sum_i w_i`, with w_i = 1, or 0 where the mask says
    so; the loss is the mean of the `L(params, x_i)` with the same weights.

    One example with a finite gradient cannot move the mean by more than its share of the threshold;
    one without makes it NaN, unless the clipper has `nonfinite="zero"`. This alone is no guarantee
    of privacy: that needs noise, and an account of it, as in JAX Privacy.

    State: none.

    Args:
        loss_fn: `(params, *example) -> loss`, of one example without a batch axis.
        clipper: a clipper without a state, such as `global_norm(1.0)` or `per_layer(1.0)`. A
            schedule stays at its first value.
        microbatch: how many examples are worked on at once, so that no more of their gradients are
            in memory; a Python integer >= 1, which need not divide the batch. `None` for all.

    Returns:
        `fn(params, *batch, mask=None) -> (loss, gradient)`. All arrays of the batch have the
        examples as first axis: what the examples share belongs into `loss_fn` itself. `mask`, one
        truth value an example, is False for padding, which is ignored even if it is NaN. Without
        any example the loss and the gradient are 0. Inside `shard_map` the mean is that of the
        examples of a device.

    Raises:
        TypeError: if an argument is of the wrong kind; by `fn`, if the clipper has a state.
        ValueError: if `microbatch` is below 1; by `fn`, if its arrays do not agree in length.

    Example:
        >>> def loss(w, x):
        ...     return jnp.sum(w * x)
        >>> fn = clipax.per_example(loss, clipax.global_norm(1.0))
        >>> fn(jnp.ones(2), jnp.array([[0.0, 0.5], [30.0, 40.0]]))[1].round(3)
        Array([0.3 , 0.65], dtype=float32)

    References:
        Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang, *Deep learning with differential
        privacy*, 2016, https://arxiv.org/abs/1607.00133

    Deviations: there the sum is divided by the size of the batch, and noise is added.
    """
    if not callable(loss_fn):
        raise TypeError(f"`loss_fn` must be a function, got {_validate.shown(loss_fn)}")
    _validate.transformation("clipper", clipper, "a clipper")
    if microbatch is not None:
        _validate.count("microbatch", microbatch)

    def fn(params, *batch, mask=None):
        size = _length(batch, mask)
        clip = once("clipper", clipper, params)
        weights = jnp.ones(size, bool) if mask is None else jnp.asarray(mask, bool)
        example = functools.partial(_clipped, loss_fn, clip, params)
        rows = jax.tree.map(jnp.asarray, batch), weights
        total = _total(example, size if microbatch is None else microbatch, rows)
        loss, gradient = jax.tree.map(
            lambda x: x / jnp.maximum(jnp.sum(weights), 1).astype(x.dtype), total
        )
        return loss, jax.tree.map(lambda g, p: g.astype(jnp.result_type(p)), gradient, params)

    return fn


def _length(batch: tuple, mask: Any) -> int:
    arrays = jax.tree.leaves((batch, mask))
    lengths = {jnp.shape(x)[:1] for x in arrays}
    if len(lengths) != 1 or lengths == {()}:
        shapes = [jnp.shape(x) for x in arrays]
        raise ValueError(f"all arrays of a batch must have the same first axis, got {shapes}")
    ((length,),) = lengths
    return length


def _clipped(loss_fn, clip, params, example, weight) -> tuple[Array, Any]:
    """The loss and the clipped gradient of one example in at least float32; 0 if left out."""
    loss, gradient = jax.value_and_grad(loss_fn)(params, *example)

    def counted(x):
        return jnp.where(weight, widened(x), 0)

    return counted(loss), jax.tree.map(counted, clip(gradient, params))


def _total(example, count: int, rows: Any) -> Any:
    """The sum of `example` over all rows, `count` of them at a time."""

    def of(rows):
        return jax.tree.map(lambda x: jnp.sum(x, axis=0), jax.vmap(example)(*rows))

    size = len(rows[1])
    if count >= size:
        return of(rows)
    full = size // count
    rest = jax.tree.map(lambda x: x[full * count :], rows)
    whole = jax.tree.map(lambda x: x[: full * count].reshape(full, count, *x.shape[1:]), rows)
    if size % count:
        start = of(rest)
    else:
        sums = jax.eval_shape(of, jax.tree.map(lambda x: x[0], whole))
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums)
    return jax.lax.scan(
        lambda total, rows: (jax.tree.map(jnp.add, total, of(rows)), None), start, whole
    )[0]

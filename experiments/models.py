"""Recurrent models in Flax NNX, as pure functions of their parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

CELLS: dict[str, Callable[..., Any]] = {"tanh": nnx.SimpleCell, "lstm": nnx.OptimizedLSTMCell}


class Recurrent(nnx.Module):
    """One recurrent cell and a linear readout."""

    def __init__(self, cell: str, features: int, width: int, bias: jax.Array, rngs: nnx.Rngs):
        self.cell = CELLS[cell](features, width, rngs=rngs)
        self.readout = nnx.Linear(width, features, bias_init=lambda *_: bias, rngs=rngs)


class _Identity(nnx.Module):
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return inputs


class Model(NamedTuple):
    """Two pure functions: `init(key, bias) -> params`, `apply(params, inputs) -> logits`."""

    init: Callable[[jax.Array, jax.Array], Any]
    apply: Callable[[Any, jax.Array], jax.Array]


def recurrent(cell: str, features: int, width: int) -> Model:
    """A model that reads `[time, batch, features]` and gives logits of the same shape.

    Args:
        cell: `tanh` or `lstm`.
        features: size of each input and output.
        width: hidden units.
    """

    def build(key: jax.Array, bias: jax.Array) -> Recurrent:
        return Recurrent(cell, features, width, bias, nnx.Rngs(key))

    shapes = nnx.eval_shape(lambda: build(jax.random.key(0), jnp.zeros(features)))
    structure, _ = nnx.split(shapes)

    def init(key: jax.Array, bias: jax.Array) -> Any:
        return nnx.split(build(key, bias))[1]

    def apply(params: Any, inputs: jax.Array) -> jax.Array:
        model = nnx.merge(structure, params)
        return model.readout(_unroll(model.cell, inputs, width))

    return Model(init, apply)


def _unroll(cell: Any, inputs: jax.Array, width: int) -> jax.Array:
    # The input projection of all steps is one product before the scan, not one in each step.
    projected = cell.dense_i(inputs)
    cell.dense_i = _Identity()
    structure, state = nnx.split(cell)
    zeros = jnp.zeros((inputs.shape[1], width))
    carry = zeros if isinstance(cell, nnx.SimpleCell) else (zeros, zeros)

    def step(carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        return nnx.merge(structure, state)(carry, x)

    return jax.lax.scan(step, carry, projected)[1]

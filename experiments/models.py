"""Models in Flax NNX, as pure functions of their parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

CELLS: dict[str, Callable[..., Any]] = {
    "tanh": nnx.SimpleCell,
    "gru": nnx.GRUCell,
    "lstm": nnx.OptimizedLSTMCell,
}


class Model(NamedTuple):
    """Two pure functions: `init(key, *settings) -> params`, `apply(params, *inputs) -> outputs`."""

    init: Callable[..., Any]
    apply: Callable[..., Any]


def pure(
    build: Callable[..., Any], *example: Any, apply: Callable[..., Any] | None = None
) -> Model:
    """A module as pure functions.

    Args:
        build: `(key, *settings) -> module`, all of whose state is parameters.
        example: settings, for their shapes alone.
        apply: `(module, *inputs) -> outputs`; `None` calls the module.
    """
    shapes = nnx.eval_shape(lambda: build(jax.random.key(0), *example))
    structure, _ = nnx.split(shapes)

    def init(key: jax.Array, *settings: Any) -> Any:
        return nnx.split(build(key, *settings))[1]

    def call(params: Any, *inputs: Any) -> Any:
        module = nnx.merge(structure, params)
        return apply(module, *inputs) if apply else module(*inputs)

    return Model(init, call)


class Recurrent(nnx.Module):
    """One recurrent cell and a linear readout."""

    def __init__(self, cell: str, inputs: int, width: int, bias: jax.Array, rngs: nnx.Rngs):
        self.cell = CELLS[cell](inputs, width, rngs=rngs)
        self.readout = nnx.Linear(width, len(bias), bias_init=lambda *_: bias, rngs=rngs)


class _Identity(nnx.Module):
    def __call__(self, inputs: jax.Array) -> jax.Array:
        return inputs


def recurrent(cell: str, inputs: int, width: int, outputs: int, *, last: bool = False) -> Model:
    """A model that reads `[time, batch, inputs]` and gives `[time, batch, outputs]`.

    `init` takes a key and the bias of the readout, `[outputs]`.

    Args:
        cell: name in `CELLS`.
        inputs: size of an input.
        width: hidden units.
        outputs: size of an output.
        last: whether to give the output of the last step alone, `[batch, outputs]`.
    """

    def build(key: jax.Array, bias: jax.Array) -> Recurrent:
        return Recurrent(cell, inputs, width, bias, nnx.Rngs(key))

    def apply(module: Recurrent, sequence: jax.Array) -> jax.Array:
        hidden = unroll(module.cell, sequence, width)
        return module.readout(hidden[-1] if last else hidden)

    return pure(build, jnp.zeros(outputs), apply=apply)


def unroll(cell: Any, sequence: jax.Array, width: int) -> jax.Array:
    """Hidden states `[time, batch, width]` of a cell that reads `[time, batch, inputs]`."""
    # The input projection of all steps is one product before the scan, not one in each step.
    projected = cell.dense_i(sequence)
    cell.dense_i = _Identity()
    structure, state = nnx.split(cell)
    zeros = jnp.zeros((sequence.shape[1], width))
    carry = (zeros, zeros) if isinstance(cell, nnx.OptimizedLSTMCell) else zeros

    def step(carry: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        return nnx.merge(structure, state)(carry, x)

    return jax.lax.scan(step, carry, projected)[1]

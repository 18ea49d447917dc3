"""What Pascanu's tasks share: a tanh net that reads a sequence, and two further remedies.

Beside clipping the gradient, a net may clip what comes back through time at every step
(`clip_cotangent`), or be regularised by Omega, which asks that the backward signal keeps its
length from one step to the step before it.

References:
    Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural networks*, 2013,
    https://arxiv.org/abs/1211.5063, and their code, https://github.com/pascanur/trainingRNNs
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import clipax
from experiments import data, models
from experiments.train import Material, Record, Task

CONNECTIONS = 15
RADIUS = 0.95
_SEQUENCES = 1000
_SEEDS = {"valid": 1211, "test": 5063}
_SQUARINGS = 16
_VANISHED = 1e-20


@dataclass(frozen=True)
class Net:
    """A tanh net and the sequences that it reads.

    Attributes:
        length: steps of a sequence.
        width: hidden units.
        batch: sequences an update.
        remedy: `omega` adds the regulariser to the loss, `cotangent` clips what comes back to each
            hidden state, and empty does neither.
        omega: weight of the regulariser.
        cotangent: largest L2 norm of what comes back to the hidden states of a batch.
        spread: standard deviation of the first weights to and from the hidden units.
        solved: largest share of wrong answers of a run that has not failed.
    """

    length: int
    width: int = 50
    batch: int = 20
    remedy: str = ""
    omega: float = 2.0
    cotangent: float = 0.1
    spread: float = 0.1
    solved: float = 0.01


class Problem(NamedTuple):
    """What is read and what is asked at the end.

    Attributes:
        inputs: size of an input.
        outputs: size of the answer.
        chances: uniform numbers that a sequence needs beyond one a step.
        draw: `chances [length + more, batch] -> (inputs [time, batch, inputs], targets)`.
        losses: `(answers [batch, outputs], targets) -> [batch]`.
        wrong: `(answers, targets) -> [batch]`, whether an answer is wrong.
        trivial: share of wrong answers of a net that has learnt nothing.
    """

    inputs: int
    outputs: int
    chances: int
    draw: Callable[[Any], tuple[jax.Array, jax.Array]]
    losses: Callable[[jax.Array, jax.Array], jax.Array]
    wrong: Callable[[jax.Array, jax.Array], jax.Array]
    trivial: float


class Trace(NamedTuple):
    """A pass over a batch: answers, hidden states `[time, batch, unit]`, recurrent matrix."""

    answers: jax.Array
    states: jax.Array
    kernel: jax.Array


class TanhNet(nnx.Module):
    """`x' = tanh(x W_rec + u W_in + b)`, and a linear answer after the last step."""

    def __init__(self, net: Net, inputs: int, outputs: int, rngs: nnx.Rngs):
        normal = nnx.initializers.normal(net.spread)
        linear = partial(nnx.Linear, rngs=rngs)
        self.read = linear(inputs, net.width, kernel_init=normal)
        self.recur = linear(net.width, net.width, use_bias=False, kernel_init=sparse)
        self.answer = linear(net.width, outputs, kernel_init=normal)


def sparse(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
    """A recurrent matrix `[from, to]`: 15 incoming weights a unit, spectral radius 0.95."""
    chosen, size = jax.random.split(key)
    connected = jnp.broadcast_to(jnp.arange(shape[0])[:, None] < CONNECTIONS, shape)
    connected = jax.random.permutation(chosen, connected, axis=0, independent=True)
    matrix = jnp.where(connected, jax.random.normal(size, shape, dtype), 0)
    return matrix * (RADIUS / spectral_radius(matrix))


def spectral_radius(matrix: jax.Array) -> jax.Array:
    """Largest absolute eigenvalue, by Gelfand's formula: the limit of `‖A^k‖^(1/k)`.

    No eigenvalues are computed: LAPACK under `vmap` hangs on CPUs with jaxlib 0.10 and 0.11.
    """

    def square(at: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        power, log_radius = carry
        norm = jnp.linalg.norm(power)
        power = power / norm
        return power @ power, log_radius + jnp.log(norm) / 2.0**at

    start = (matrix, jnp.zeros((), matrix.dtype))
    return jnp.exp(jax.lax.fori_loop(0, _SQUARINGS, square, start)[1])


def task(problem: Problem, net: Net) -> Task:
    """A problem posed to a net."""
    model = _model(problem, net)
    shape = (net.length + problem.chances, net.batch)
    return Task(
        init=lambda key, data: model.init(key),
        batch=lambda key, data: problem.draw(jax.random.uniform(key, shape)),
        loss=partial(_loss, problem, net, model),
        evaluate=partial(_evaluate, problem, model),
    )


def _model(problem: Problem, net: Net) -> models.Model:
    def build(key: jax.Array) -> TanhNet:
        return TanhNet(net, problem.inputs, problem.outputs, nnx.Rngs(key))

    def apply(module: TanhNet, inputs: jax.Array, nudges: jax.Array | None = None) -> Trace:
        kernel = module.recur.kernel[...]
        states = _unroll(net, kernel, module.read(inputs), nudges)
        return Trace(module.answer(states[-1]), states, kernel)

    return models.pure(build, apply=apply)


def _unroll(
    net: Net, kernel: jax.Array, projected: jax.Array, nudges: jax.Array | None
) -> jax.Array:
    def step(state: jax.Array, at: tuple[jax.Array, Any]) -> tuple[jax.Array, jax.Array]:
        read, nudge = at
        if net.remedy == "cotangent":
            state = clipax.clip_cotangent(state, net.cotangent)
        state = jnp.tanh(state @ kernel + read)
        state = state if nudge is None else state + nudge
        return state, state

    return jax.lax.scan(step, jnp.zeros_like(projected[0]), (projected, nudges))[1]


def _loss(
    problem: Problem, net: Net, model: models.Model, params: Any, batch: tuple[jax.Array, jax.Array]
) -> jax.Array:
    inputs, targets = batch
    trace = model.apply(params, inputs)
    loss = problem.losses(trace.answers, targets).mean()
    if net.remedy != "omega":
        return loss

    def nudged(nudges: jax.Array) -> jax.Array:
        # What comes back to a nudge is what comes back to the state that it moves.
        frozen = jax.lax.stop_gradient(params)
        return problem.losses(model.apply(frozen, inputs, nudges).answers, targets).mean()

    deltas = jax.grad(nudged)(jnp.zeros_like(trace.states))
    return loss + net.omega * omega(trace.kernel, jax.lax.stop_gradient(trace.states), deltas)


def omega(kernel: jax.Array, states: jax.Array, deltas: jax.Array) -> jax.Array:
    """The regulariser: mean of `(‖δ dx'/dx‖² / ‖δ‖² - 1)²` over steps and sequences.

    Terms with `‖δ‖² < 1e-20` are left out. The mean over what is left is that of the published
    code, to which the weights 2 and 4 belong; the paper's formula is a sum over steps.

    Args:
        kernel: recurrent matrix, the only thing through which it is differentiated.
        states: hidden states `x'`, `[time, batch, unit]`.
        deltas: derivatives `δ` of the loss with respect to them.
    """
    before = (deltas * (1 - states**2)) @ kernel.T
    squared = (deltas**2).sum(-1)
    counts = squared >= _VANISHED
    ratio = (before**2).sum(-1) / jnp.where(counts, squared, 1)
    return jnp.where(counts, (ratio - 1) ** 2, 0).sum() / jnp.maximum(counts.sum(), 1)


def _evaluate(
    problem: Problem, model: models.Model, params: Any, record: Record, data: Any
) -> dict[str, jax.Array]:
    def share(inputs: jax.Array, targets: jax.Array) -> jax.Array:
        return problem.wrong(model.apply(params, inputs).answers, targets).mean()

    return {split: share(*data[split]) for split in _SEEDS}


def load(problem: Problem, net: Net) -> Material:
    """Sequences to validate and to test on, the same in every run."""
    arrays = {split: _sequences(problem, net.length, seed) for split, seed in _SEEDS.items()}
    digest = data.digest(*arrays["valid"], *arrays["test"])
    return Material(arrays, dict.fromkeys(_SEEDS, net.solved), problem.trivial, digest)


def _sequences(problem: Problem, length: int, seed: int) -> tuple[np.ndarray, ...]:
    shape = (length + problem.chances, _SEQUENCES)
    chances = np.random.default_rng(seed).random(shape, np.float32)
    return tuple(np.asarray(array) for array in problem.draw(chances))

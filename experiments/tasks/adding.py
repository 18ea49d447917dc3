"""The mean of two numbers among many: Hochreiter's adding problem, as Pascanu poses it.

Claim (Pascanu, Mikolov and Bengio 2013, section 4.1): with clipping and the regulariser Omega a
tanh net learns this task too. Asked here: does clipping let it learn at rates at which it is
thrown out otherwise?

Protocol: a step is a mark and a value from U(0, 1). Two values are marked, one at a step from
[0, L/10), one at a step from [L/10, L/2); after the last step a tanh net with 50 units gives their
mean. Sequences are drawn afresh, 20 an update; squared error; SGD at a constant rate. The score is
the share of wrong answers, off by 0.04 or more, to 1,000 sequences that are the same in every run.
Always answering 1/2 is wrong on 0.92^2 = 85 %, knowing one of the two values on 84 %; a run has
failed when it is wrong on more than 75 %. `omega` adds the regulariser, `cotangent` clips what
comes back to the hidden states of a batch at norm 0.1. `quick`, for the leaderboard, has 32 units,
length 10, momentum and a rate that falls along half a cosine.

Deviations: at the printed rate, 0.01, next to nothing is learnt in so few updates, so rates are
10 and 30 times as large and the threshold is 0.25, the usual norm. The paper asks for less than
1 % wrong, where its code calls an answer wrong from a squared error of 0.04, a fifth off. A
sequence has L steps, not up to 1.1 L. The initial weights are those of `temporal_order`, three
times as large in `quick`.

Seeds: a seed fixes the initial parameters and all sequences that are trained on.
Runtime: about five minutes on two cores, a few seconds of it for `quick`.
Command: `python -m experiments run adding`
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments import pascanu
from experiments.config import Variant
from experiments.draws import below
from experiments.pascanu import Net, Problem
from experiments.task import Experiment
from experiments.train import Material, Task

TOLERANCE = 0.04
_SOLVED = 0.75


def draw(chances: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sequences of `(mark, value)`, and the mean of the two marked values.

    Args:
        chances: uniform numbers, `[2 + time, batch]`.
    """
    values = chances[2:]
    length = len(values)
    early = length // 10
    first = below(early, chances[0])
    second = early + below(length // 2 - early, chances[1])
    step = jnp.arange(length)[:, None]
    marks = ((step == first) | (step == second)).astype(values.dtype)
    return jnp.stack([marks, jnp.asarray(values)], axis=-1), (marks * values).sum(0) / 2


def _losses(answers: jax.Array, means: jax.Array) -> jax.Array:
    return (answers[:, 0] - means) ** 2


def _wrong(answers: jax.Array, means: jax.Array) -> jax.Array:
    # Not `>=`: NaN is wrong too.
    return ~(jnp.abs(answers[:, 0] - means) < TOLERANCE)


PROBLEM = Problem(
    inputs=2,
    outputs=1,
    chances=2,
    draw=draw,
    losses=_losses,
    wrong=_wrong,
    trivial=(1 - 2 * TOLERANCE) ** 2,
)


def load(cache: Path | None, net: Net) -> Material:
    """The fixed sequences."""
    return pascanu.load(PROBLEM, net)


@cache
def build(net: Net) -> Task:
    """The task of a net."""
    return pascanu.task(PROBLEM, net)


def _claim(net: Net, updates: int, seconds: float) -> Variant:
    return Variant(
        replace(net, solved=_SOLVED), "sgd", (0.1, 0.3), updates, 0.25, 2701, seconds, "constant"
    )


def _tiny(optimizer: str, schedule: str, remedy: str = "") -> Variant:
    net = Net(10, width=8, batch=8, remedy=remedy, solved=_SOLVED)
    return Variant(net, optimizer, (0.03,), 16, 0.25, 97, 0.001, schedule)


TASK = Experiment(
    title="Adding",
    score="share of answers off by 0.04 or more among 1,000",
    unit="share of wrong answers",
    failure="more than 75 % of the answers are off by 0.04 or more",
    load=load,
    build=build,
    variants={
        "quick": Variant(
            Net(10, width=32, spread=0.3, solved=_SOLVED),
            "momentum",
            (0.01, 0.03, 0.1, 0.3, 1.0),
            800,
            0.25,
            1153,
            0.08,
        ),
        "length 20": _claim(Net(20), 6000, 1.9),
        "length 30": _claim(Net(30), 10000, 4.6),
        "length 20, omega": _claim(Net(20, remedy="omega"), 6000, 3.2),
        "length 20, cotangent": _claim(Net(20, remedy="cotangent"), 6000, 1.9),
    },
    smoke={
        "quick": _tiny("momentum", "cosine"),
        "length 20, omega": _tiny("sgd", "constant", "omega"),
    },
    leaderboard="quick",
    methods=("none", "global_norm"),
    long={"length 50": _claim(Net(50), 15000, 15)},
)

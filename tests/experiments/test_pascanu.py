"""Pascanu's two tasks: what is read, what is asked, and the remedies beside a clipper."""

import dataclasses
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rows import sampled

from experiments import pascanu
from experiments.pascanu import Net
from experiments.tasks import adding, temporal_order

TASKS = {"temporal_order": temporal_order, "adding": adding}
SMALL = Net(10, width=8, batch=4)


def chances(rows, batch=500, seed=0):
    return np.random.default_rng(seed).random((rows, batch), np.float32)


@cache
def start(module):
    task = module.build(SMALL)
    draw = jax.jit(lambda one, two: (task.init(one, None), task.batch(two, None)))
    return draw(jax.random.key(0), jax.random.key(1))


@cache
def loss_and_gradient(module, net):
    return jax.jit(jax.value_and_grad(module.build(net).loss))(*start(module))


@sampled("width", {"8": 8, "32": 32, "50": 50}, ["8"])
def test_recurrent_matrix_has_fifteen_incoming_weights_and_its_spectral_radius(width):
    draw = jax.jit(lambda seed: pascanu.sparse(jax.random.key(seed), (width, width)))
    for seed in range(5):
        matrix = np.asarray(draw(seed))
        assert np.all((matrix != 0).sum(0) == min(width, 15))
        radius = np.abs(np.linalg.eigvals(matrix)).max()
        np.testing.assert_allclose(radius, 0.95, rtol=2e-3)


@pytest.mark.parametrize(
    ("matrix", "radius"),
    [
        ([[0.0, -2.0], [2.0, 0.0]], 2),
        ([[0.5, 100.0], [0.0, 0.4]], 0.5),
        ([[1e-12, 0.0], [0.0, 3e-12]], 3e-12),
        ([[1e12, 0.0], [0.0, -3e12]], 3e12),
    ],
)
def test_spectral_radius_of_matrices_that_rotate_or_shear_or_are_large_or_small(matrix, radius):
    found = pascanu.spectral_radius(jnp.array(matrix))
    np.testing.assert_allclose(found, radius, rtol=1e-3)


def test_omega_asks_that_the_backward_signal_keeps_its_length():
    generator = np.random.default_rng(0)
    kernel, states, deltas = (
        generator.normal(size=shape).astype(np.float32) / 3
        for shape in ((5, 5), (4, 3, 5), (4, 3, 5))
    )
    deltas[1, 2] = 1e-12

    def plain(kernel):
        terms = []
        for state, delta in zip(states.reshape(-1, 5), deltas.reshape(-1, 5), strict=True):
            if delta @ delta >= 1e-20:
                # Derivative of tanh(x W) with respect to x, rows to columns.
                jacobian = (kernel * (1 - state**2)).T
                terms.append((jnp.sum((delta @ jacobian) ** 2) / (delta @ delta) - 1) ** 2)
        assert len(terms) == 11
        return sum(terms) / len(terms)

    found = jax.jit(jax.value_and_grad(pascanu.omega))(kernel, states, deltas)
    expected = jax.jit(jax.value_and_grad(plain))(kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), found, expected)


def test_omega_of_signals_that_have_all_vanished_is_zero():
    zeros = np.zeros((3, 2, 4), np.float32)
    value, gradient = jax.jit(jax.value_and_grad(pascanu.omega))(np.eye(4), zeros, zeros)
    assert value == 0 and not gradient.any()


@sampled("module", TASKS, ["adding"])
def test_omega_changes_the_loss_and_only_the_recurrent_part_of_the_gradient(module):
    params, batch = start(module)
    net = dataclasses.replace(SMALL, remedy="omega", omega=0.5)
    loss, gradient = loss_and_gradient(module, SMALL)
    more, steeper = loss_and_gradient(module, net)
    states_and_deltas = _by_hand(module.PROBLEM, params, *batch)
    omega, slope = jax.jit(jax.value_and_grad(pascanu.omega))(_kernel(params), *states_and_deltas)
    np.testing.assert_allclose(more - loss, 0.5 * omega, rtol=1e-4)
    difference = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), steeper, gradient)
    found = difference["recur"].pop("kernel")[...]
    np.testing.assert_allclose(found, 0.5 * slope, rtol=1e-3, atol=1e-5)
    for leaf in jax.tree.leaves(difference):
        np.testing.assert_allclose(leaf, 0, atol=1e-6)


def _kernel(params):
    return np.asarray(params["recur"]["kernel"][...])


def _by_hand(problem, params, inputs, targets):
    """Hidden states, and the derivatives of the loss with respect to them."""
    kernel = _kernel(params)
    (read, bias), (weights, constant) = (
        [np.asarray(params[part][name][...]) for name in ("kernel", "bias")]
        for part in ("read", "answer")
    )
    states = [np.zeros((inputs.shape[1], len(kernel)), np.float32)]
    for x in np.asarray(inputs):
        states.append(np.tanh(x @ read + bias + states[-1] @ kernel))
    answers = states[-1] @ weights + constant
    slope = jax.jit(jax.grad(lambda answers: problem.losses(answers, targets).mean()))(answers)
    deltas = [np.asarray(slope) @ weights.T]
    for state in states[:1:-1]:
        deltas.append((deltas[-1] * (1 - state**2)) @ kernel.T)
    return np.stack(states[1:]), np.stack(deltas[::-1])


@pytest.mark.exhaustive
def test_cotangents_are_clipped_above_their_threshold_only():
    plain = loss_and_gradient(temporal_order, SMALL)[1]

    def gradient(threshold):
        net = dataclasses.replace(SMALL, remedy="cotangent", cotangent=threshold)
        return loss_and_gradient(temporal_order, net)[1]

    jax.tree.map(np.testing.assert_array_equal, gradient(math.inf), plain)
    clipped = gradient(1e-3)
    jax.tree.map(np.testing.assert_array_equal, clipped["answer"], plain["answer"])
    assert np.linalg.norm(_kernel(clipped)) < np.linalg.norm(_kernel(plain))


@pytest.mark.parametrize(
    ("length", "first", "second"),
    [(10, {1}, {5}), (20, {2, 3}, {10, 11}), (50, set(range(5, 10)), set(range(25, 30)))],
)
def test_temporal_order_shows_two_signals_among_distractors(length, first, second):
    inputs, classes = map(np.asarray, jax.jit(temporal_order.draw)(chances(length + 4)))
    assert inputs.shape == (length, 500, 6) and np.all(inputs.sum(-1) == 1)
    symbols = inputs.argmax(-1).T
    places = np.array([np.flatnonzero(sequence < 2) for sequence in symbols])
    assert set(places[:, 0]) == first and set(places[:, 1]) == second
    shown = np.take_along_axis(symbols, places, axis=1)
    np.testing.assert_array_equal(classes, shown[:, 0] + 2 * shown[:, 1])
    counts = np.bincount(classes, minlength=4)
    assert counts.min() > 90
    assert np.bincount(symbols.ravel(), minlength=6)[2:].min() > 0.22 * length * 500 * 0.8


@pytest.mark.parametrize("length", [10, 20, 50])
def test_adding_marks_two_values_and_asks_for_their_mean(length):
    inputs, means = map(np.asarray, jax.jit(adding.draw)(chances(length + 2)))
    marks, values = inputs.transpose(2, 1, 0)
    assert values.min() >= 0 and values.max() < 1
    places = np.array([np.flatnonzero(sequence) for sequence in marks])
    assert set(places[:, 0]) == set(range(length // 10))
    assert set(places[:, 1]) == set(range(length // 10, length // 2))
    assert set(marks.ravel()) == {0, 1}
    marked = np.take_along_axis(values, places, axis=1)
    np.testing.assert_allclose(means, marked.mean(1), rtol=1e-6)


def test_an_answer_is_wrong_if_another_class_is_likelier_or_it_is_not_a_number():
    logits = jnp.array([[0.0, 1, 2, 3], [3, 1, 2, 0], [jnp.nan] * 4, [jnp.inf, 0, 0, 0]])
    classes = jnp.array([3, 1, 0, 0])
    wrong = temporal_order.PROBLEM.wrong(logits, classes)
    assert wrong.tolist() == [False, True, True, False]


def test_a_sum_is_wrong_from_4_hundredths_off_or_if_it_is_not_a_number():
    answers = jnp.array([[0.5], [0.53], [0.55], [0.45], [jnp.nan]])
    wrong = adding.PROBLEM.wrong(answers, jnp.full(5, 0.5))
    assert wrong.tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("module", TASKS.values(), ids=TASKS)
def test_fixed_sequences_are_the_same_each_time_and_differ_between_splits(module):
    first, second = (module.load(None, SMALL) for _ in range(2))
    assert first.digest == second.digest
    assert first.arrays["valid"][0].shape[:2] == (10, 1000)
    assert not np.array_equal(first.arrays["valid"][0], first.arrays["test"][0])
    assert module.load(None, Net(20)).digest != first.digest


def test_trivial_scores_are_those_of_always_answering_the_same():
    constant = {"temporal_order": jnp.array([0.0, 0, 1, 0]), "adding": jnp.array([0.5])}
    for name, module in TASKS.items():
        material = module.load(None, SMALL)
        targets = material.arrays["test"][1]
        answers = jnp.broadcast_to(constant[name], (len(targets), len(constant[name])))
        share = module.PROBLEM.wrong(answers, targets).mean()
        np.testing.assert_allclose(share, material.trivial, atol=0.03)


def test_knowing_one_of_the_two_values_is_wrong_on_84_percent():
    inputs, means = map(np.asarray, jax.jit(adding.draw)(chances(12, batch=20000)))
    marks, values = inputs[1:].transpose(2, 0, 1)
    answers = ((marks * values).sum(0) + 0.5)[:, None] / 2
    np.testing.assert_allclose(adding.PROBLEM.wrong(answers, means).mean(), 0.84, atol=0.01)


def test_a_run_has_failed_when_it_is_wrong_on_more_than_its_share():
    assert temporal_order.load(None, Net(10)).floors == {"valid": 0.01, "test": 0.01}
    assert adding.load(None, adding.TASK.variants["quick"].model).floors == {
        "valid": 0.75,
        "test": 0.75,
    }
